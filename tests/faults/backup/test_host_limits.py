"""Space and time run out while a VM is held, here or on the host: it is let go, and nothing counts."""

from collections.abc import Callable, Iterator

import pytest

from tests.faults.stores import FaultyStore
from tests.host_runs import SCENARIO, Host, Meeting, host_of, says
from tests.lab_process import Lab, running_lab
from vmkeep.backup.host_run import choose, run_host, worst
from vmkeep.backup.vm_run import HostWish
from vmkeep.capture.errors import HoldLimitReached
from vmkeep.capture.limits import HoldLimits
from vmkeep.errors import ExitCode
from vmkeep.host.hyperv import take_inventory
from vmkeep.objectstore.errors import StoreFull
from vmkeep.repository.errors import RunAlive


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    with running_lab(SCENARIO, folder / "state") as lab:
        yield lab


@pytest.fixture
def host(lab: Lab) -> Iterator[Host]:
    with host_of(lab) as host:
        yield host
        lab.control.ask("heal")
        lab.control.ask("free", bytes=None)
        host.tidy()


def late(host: Host) -> None:
    host.clock.push(3600.0)


def full(host: Host) -> None:
    host.lab.control.ask("free", bytes=1000)
    host.clock.push(61.0)


@pytest.mark.parametrize("stage", ["reading large", "reading again"])
@pytest.mark.parametrize(
    ("worsen", "limit", "named"), [(late, "deadline", "held for"), (full, "free space", "free")]
)
def test_a_limit_that_is_reached_ends_the_run_with_3_and_nothing_left(
    lab: Lab, host: Host, stage: str, worsen: Callable[[Host], None], limit: str, named: str
) -> None:
    meeting = Meeting(stage, 1, lambda: worsen(host))
    limits = HoldLimits(max_hold_s=1800.0, free_floor=2000)
    with pytest.raises(HoldLimitReached, match=named) as told:
        host.take("large", progress=meeting, limits=limits)
    assert meeting.met
    assert (told.value.exit_code, told.value.context["limit"]) == (ExitCode.PARTIAL, limit)
    assert "'large'" in told.value.message
    says(told.value)
    assert host.opened().listing().points == ()
    assert host.all_closed("large")
    host.is_clean()
    lab.control.ask("free", bytes=None)
    assert host.take("large", limits=limits).exit_code is ExitCode.OK
    host.all_hold(1)
    host.is_clean("large")


def test_the_deadline_holds_while_what_was_taken_over_is_compared(host: Host) -> None:
    host.take("off")
    # By then what was read is compared: a few files in one piece. The rest is what was not read.
    meeting = Meeting("reading again", 3, lambda: late(host))
    limits = HoldLimits(max_hold_s=1800.0, free_floor=0)
    with pytest.raises(HoldLimitReached):
        host.take("off", progress=meeting, limits=limits, reread=1.0)
    assert meeting.met
    host.is_clean("off")
    outcome = host.take("off", limits=limits, reread=1.0)
    assert (outcome.exit_code, outcome.plan.increment) == (ExitCode.OK, "rct")
    host.all_hold(2)


@pytest.mark.parametrize("room", [20_000, 3_000_000])
def test_a_repository_that_fills_up_leaves_nothing_on_the_host(host: Host, room: int) -> None:
    first = host.take("web")
    host.step("web")
    store = FaultyStore(host.repository.store).fill_after(room)
    with pytest.raises(StoreFull) as told:
        host.take("large", store=store)
    says(told.value)
    host.is_clean("web")
    host.clock.later(hours=1)  # the journal could not be closed either
    outcome = host.take("large")
    assert outcome.exit_code is ExitCode.OK
    assert host.all_closed("large")
    host.all_hold(2)
    host.holds(first.sealed)
    host.is_clean("web", "large")


def test_a_second_run_of_a_vm_gives_way_while_the_first_reads(lab: Lab, host: Host) -> None:
    refused: list[RunAlive] = []

    def second() -> None:
        with host_of(lab, host.clock) as other:  # a connection is for one run
            other.repository = host.repository
            with pytest.raises(RunAlive) as told:
                other.take("large")
            refused.append(told.value)
            other.take("off")

    meeting = Meeting("reading large", 1, second)
    outcome = host.take("large", progress=meeting)
    (error,) = refused
    assert error.exit_code is ExitCode.BUSY
    says(error)
    assert outcome.exit_code is ExitCode.OK
    host.all_hold(2)
    host.is_clean("large", "off")


def test_one_vm_that_reaches_its_limit_never_stops_the_others(lab: Lab, host: Host) -> None:
    chosen = choose(take_inventory(host.doors.host), ["web", "large", "off"], every=False)
    meeting = Meeting("reading large", 1, lambda: late(host))
    wish = HostWish(limits=HoldLimits(max_hold_s=1800.0, free_floor=0))
    told: list[str] = []
    with host.opened() as repository:
        results = run_host(
            host.doors, chosen, wish, repository, host.clock, meeting, lambda each: told.append(each.vm.name)
        )
    assert told == ["web", "large", "off"]
    assert [result.exit_code for result in results] == [ExitCode.OK, ExitCode.PARTIAL, ExitCode.OK]
    assert worst(results) is ExitCode.PARTIAL
    host.all_hold(2)
    host.is_clean("web", "off")
