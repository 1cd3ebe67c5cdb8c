"""The connection to the host is cut: for a minute a run goes on, for longer it ends and says what is left."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.fakes.proxy import Proxy
from tests.fakes.samba import Samba
from tests.host_runs import SCENARIO, Host, Meeting, RunClock, host_of, says, shared_by
from tests.lab_process import Lab, running_lab
from vmkeep.errors import ExitCode, VmkeepError
from vmkeep.host.files.host_files import HostFiles
from vmkeep.host.wsman import HostFault
from vmkeep.model.consistency import Consistency

# The patience with a server of files is a minute (host/files/link.py).
MINUTE = 59.0


@pytest.fixture
def samba(tmp_path: Path) -> Iterator[Samba]:
    with Samba(tmp_path / "samba") as samba:
        yield samba


@pytest.fixture
def lab(samba: Samba) -> Iterator[Lab]:
    scenario = SCENARIO.replace("merge_s = 0.05", "merge_s = 0.5")
    with running_lab(scenario, samba.content / "lab") as lab:
        yield lab


class Network:
    """Both ways to a host, which can be cut at once."""

    def __init__(self, *ways: Proxy) -> None:
        self._ways = ways

    def cut(self) -> None:
        for way in self._ways:
            way.refuses = True
            way.cut()

    def mend(self) -> None:
        for way in self._ways:
            way.refuses = False


@pytest.fixture
def place(samba: Samba, lab: Lab) -> Iterator[tuple[Host, HostFiles, Network]]:
    clock = RunClock(speed=200.0)
    with (
        Proxy(int(lab.facts["port"]), in_frames=False) as wire,
        Proxy(samba.port) as shares,
        host_of(lab, clock, port=wire.port) as host,
        shared_by(samba, lab, clock, shares.port) as files,
    ):
        yield host, files, Network(wire, shares)


@pytest.mark.parametrize(
    "stage",
    ["reading large", "reading again", "large: create the checkpoint (", "releasing large", "large: merge"],
)
def test_a_minute_without_a_network_costs_a_minute(
    place: tuple[Host, HostFiles, Network], stage: str
) -> None:
    host, files, network = place

    def cut() -> None:
        network.cut()
        host.clock.after(MINUTE, network.mend)

    meeting = Meeting(stage, int(stage.startswith("reading")), cut)
    outcome = host.take("large", progress=meeting, files=files)
    assert meeting.met
    assert outcome.exit_code is ExitCode.OK, outcome.warnings
    assert outcome.consistency is Consistency.APPLICATION
    assert files.open_handles == 0
    assert host.all_closed("large")
    host.is_clean("large")
    host.all_hold(1)


@pytest.mark.parametrize("stage", ["reading large", "reading again"])
def test_a_network_that_stays_away_ends_the_run_and_tells_what_is_left(
    place: tuple[Host, HostFiles, Network], samba: Samba, stage: str
) -> None:
    host, files, network = place
    older = host.take("off", files=files)
    meeting = Meeting(stage, 1, network.cut)
    with pytest.raises(VmkeepError) as told:
        host.take("large", progress=meeting, files=files)
    assert meeting.met
    assert told.value.exit_code is ExitCode.HOST_UNREACHABLE
    says(told.value)
    left = told.value.context["left_behind"]
    assert isinstance(left, tuple)
    assert any("the checkpoint 'vmkeep " in each for each in left)
    assert not host.all_closed("large")
    network.mend()
    host.clock.later(hours=1)
    outcome = host.take("large", files=files)
    assert outcome.exit_code is ExitCode.OK
    assert any("this one removed: checkpoint" in note for note in outcome.notes)
    assert host.all_closed("large")
    samba.wait_until_nothing_is_open()
    host.is_clean("off", "large")
    host.all_hold(2)
    host.holds(older.sealed)


@pytest.mark.parametrize("action", ["CreateSnapshot", "ConvertToReferencePoint", "DestroyReferencePoint"])
def test_an_answer_that_is_lost_is_looked_for_and_nothing_is_made_twice(
    lab: Lab, place: tuple[Host, HostFiles, Network], action: str
) -> None:
    host, _, _ = place
    host.take("web")
    host.step("web", 5)
    lab.control.ask("disturb", effect="close after", action=action)
    outcome = host.take("web")
    lab.control.ask("calm")
    assert outcome.exit_code is ExitCode.OK, outcome.warnings
    assert outcome.plan.increment == "rct"
    host.is_clean("web")
    host.all_hold(2)


@pytest.mark.parametrize("code", [0x800706BE, 0x80041001], ids=["the call failed", "WBEM_E_FAILED"])
@pytest.mark.parametrize("action", ["CreateSnapshot", "ConvertToReferencePoint"])
def test_a_host_that_answers_with_a_fault_when_it_has_begun_keeps_nothing_of_ours(
    lab: Lab, place: tuple[Host, HostFiles, Network], action: str, code: int
) -> None:
    host, _, _ = place
    before = host.state("web")["checkpoints"]
    lab.control.ask("disturb", effect="fault after", action=action, code=code)
    with pytest.raises(HostFault) if action == "CreateSnapshot" else nullcontext():
        host.take("web")
    lab.control.ask("calm")
    ours = [c for c in host.state("web")["checkpoints"] if c not in before]
    assert ours == [], "it was looked for at once"
    host.clock.later(hours=1)
    assert host.take("web").exit_code is ExitCode.OK
    host.is_clean("web")
    assert host.all_closed("web")
