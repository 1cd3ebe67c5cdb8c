"""Two hosts with a VM of one id, as Hyper-V Replica has it: each builds on its own points only."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.host_runs import SCENARIO, Host, HostState, host_of
from tests.lab_process import running_lab
from vmkeep.backup.outcome import Outcome
from vmkeep.errors import ExitCode
from vmkeep.model.consistency import Consistency

OTHER = SCENARIO.replace("stranger_reference_points = 1", "stranger_reference_points = 2")


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    """Two hosts with the same VMs, the second with replicas of them, and one repository for both."""
    with (
        running_lab(SCENARIO, tmp_path / "one") as one,
        # One thing more at its beginning: what is made later gets other ids than on the first host.
        running_lab(OTHER, tmp_path / "two") as two,
        host_of(one) as primary,
        host_of(two, primary.clock) as replica,
    ):
        assert primary.state("web")["id"] == replica.state("web")["id"]
        one.control.ask("replicate", vm="web", mode=1, state=3)
        two.control.ask("replicate", vm="web", mode=2, state=3)
        replica.doors = replace(replica.doors, name="second")
        replica.repository = primary.repository
        yield primary, replica


def parent_of(outcome: Outcome) -> str | None:
    return outcome.sealed.point.parent


def test_a_replica_does_not_stand_between_the_points_of_its_primary(hosts: tuple[Host, Host]) -> None:
    primary, replica = hosts
    last: dict[str, str] = {}
    number = 0
    for turn in range(3):
        for host in (primary, replica, replica):
            host.step("web")
            outcome = host.take("web")
            number += 1
            point = outcome.sealed.point
            assert (outcome.exit_code, point.number) == (ExitCode.OK, number)
            name = host.doors.name
            if name in last:
                assert (outcome.plan.increment, point.parent) == ("rct", last[name]), outcome.plan.reasons[
                    -1
                ].fact
            elif turn == 0:
                # The other host's point is there to compare with; its tracking is not this host's.
                assert (outcome.plan.increment, point.parent) == (
                    ("full", None) if host is primary else ("compare", last["lab"])
                )
            last[name] = point.id
            level = Consistency.APPLICATION if host is primary else Consistency.CRASH
            assert outcome.consistency is level
            host.holds(outcome.sealed)
            for each in hosts:
                HostState.is_clean(each, *(["web"] if each.doors.name in last else []))


def test_a_vm_that_moved_takes_its_tracking_along(hosts: tuple[Host, Host]) -> None:
    """The host lists what the last point's tracking rests on, under whatever name it is configured."""
    primary, _ = hosts
    first = primary.take("web")
    primary.doors = replace(primary.doors, name="node-2")
    primary.step("web")
    outcome = primary.take("web")
    assert (outcome.plan.increment, parent_of(outcome)) == ("rct", first.sealed.point.id)
    primary.holds(outcome.sealed)
    primary.is_clean("web")
