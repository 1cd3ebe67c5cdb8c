"""The host reboots under a run: the checkpoint outlives that, and is gone in the end."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.samba import Samba
from tests.host_runs import SCENARIO, Host, Meeting, host_of, says, shared_by
from tests.lab_machine import Machine, running_machine
from vmkeep.errors import ExitCode, VmkeepError


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    slow = re.sub(r"(checkpoint|convert|merge)_s = 0.05", r"\1_s = 1.0", SCENARIO)
    with running_machine(tmp_path, slow) as machine:
        yield machine


@pytest.fixture
def host(machine: Machine) -> Iterator[Host]:
    with host_of(machine.lab) as host:
        yield host


def ours(host: Host, name: str) -> list[str]:
    return [c["name"] for c in host.state(name)["checkpoints"] if c["name"].startswith("vmkeep ")]


@pytest.mark.parametrize("stage", ["reading large", "reading again"])
def test_a_run_goes_on_when_the_host_comes_back(machine: Machine, host: Host, stage: str) -> None:
    before = host.take("web")

    def reboot() -> None:
        machine.reboot()
        assert len(ours(host, "large")) == 1

    meeting = Meeting(stage, 2, reboot)
    outcome = host.take("large", progress=meeting)
    assert meeting.met
    assert outcome.exit_code is ExitCode.OK
    host.is_clean("web", "large")
    host.step("large", 10)
    assert host.take("large").plan.increment == "rct"
    host.all_hold(3)
    host.holds(before.sealed)
    host.is_clean("web", "large")


def test_a_run_waits_for_a_host_that_is_down_for_a_while(machine: Machine, host: Host) -> None:
    def lose_power() -> None:
        machine.power_off()
        host.clock.after(60.0, machine.power_on)

    meeting = Meeting("reading again", 1, lose_power)
    outcome = host.take("large", progress=meeting)
    assert meeting.met
    assert outcome.exit_code is ExitCode.OK
    host.is_clean("large")
    host.all_hold(1)


@pytest.mark.parametrize(
    "what",
    [
        "web: create the checkpoint (",
        "web: convert the checkpoint to a reference point (",
        "web: merge the disks",
    ],
)
def test_work_of_the_host_that_a_reboot_cut_short_is_looked_after(
    machine: Machine, host: Host, what: str
) -> None:
    older = host.take("off")
    meeting = Meeting(what, 0, machine.reboot)
    try:
        outcome = host.take("web", progress=meeting)
    except VmkeepError as error:
        assert "create the checkpoint" in what
        assert error.exit_code is ExitCode.FAILED
        says(error)
        taken = 0
    else:
        # What the host cannot confirm any more is not claimed.
        assert outcome.exit_code in (ExitCode.OK, ExitCode.PARTIAL)
        assert bool(outcome.warnings) == (outcome.exit_code is ExitCode.PARTIAL)
        taken = 1
    assert meeting.met
    assert ours(host, "web") == []
    host.clock.later(hours=1)
    after = host.take("web")
    assert after.exit_code is ExitCode.OK
    assert host.all_closed("web")
    host.is_clean("off", "web")
    host.all_hold(taken + 2)
    host.holds(older.sealed)


def test_over_smb_the_files_are_opened_again_and_proven_to_be_the_same(tmp_path: Path) -> None:
    with (
        Samba(tmp_path / "samba") as samba,
        running_machine(samba.content) as machine,
        host_of(machine.lab) as host,
        shared_by(samba, machine.lab, host.clock) as files,
    ):

        def reboot() -> None:
            with host.clock.stopped():  # another thread reads on: in a minute of this clock no host starts
                samba.kill()
                machine.reboot()
                samba.start()
            assert len(ours(host, "large")) == 1

        meeting = Meeting("reading large", 2, reboot)
        outcome = host.take("large", progress=meeting, files=files)
        assert meeting.met
        assert outcome.exit_code is ExitCode.OK
        assert outcome.sealed.point.evidence["hold_check"]["identical"] is True
        assert (files.open_handles, samba.open_files()) == (0, [])
        host.is_clean("large")
        host.step("large", 10)
        assert host.take("large", files=files).plan.increment == "rct"
        host.all_hold(2)
