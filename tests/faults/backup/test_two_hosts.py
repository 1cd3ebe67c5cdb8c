"""Two hosts with a VM of one id, as Hyper-V Replica has it: each builds on its own points only."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.host_runs import SCENARIO, Host, HostState, host_of
from tests.lab_process import running_lab
from vmkeep.backup.host_sweep import VmSwept, sweep_host
from vmkeep.backup.outcome import Outcome
from vmkeep.capture.checkpoint import CheckpointHold
from vmkeep.capture.sweep import NOTHING_SAID, Said
from vmkeep.errors import ExitCode, UsageError
from vmkeep.model.consistency import Consistency
from vmkeep.repository.journal import PREFIX, Record
from vmkeep.repository.points import Points

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


def swept_on(host: Host, said: Said = NOTHING_SAID) -> VmSwept:
    """Sweep a host on which one VM has dead runs, and return what became of it."""
    (swept,) = sweep_host(host.doors, host.opened(), None, dry_run=False, ended=lambda _: None, said=said)
    return swept


class Dead(BaseException):
    """Stands for the end of the process."""


def die_before_the_tracking(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run end, as by kill -9, when its checkpoint is a reference point that nothing names yet."""

    def attach(points: Points, kind: str, *rest: object) -> str:
        if kind == "tracking":
            raise Dead
        return real(points, kind, *rest)  # type: ignore[arg-type]

    def nothing(*_: object) -> None:
        return

    real = Points.attach
    with monkeypatch.context() as patched:
        patched.setattr(Points, "attach", attach)
        patched.setattr(CheckpointHold, "_abandon", nothing)
        with pytest.raises(Dead):
            host.take("web")


def damage(host: Host, record: Record) -> None:
    """Let a record of a run rot in its store."""
    store = host.repository.store
    name = next(
        info.name for info in store.list(PREFIX) if info.name.endswith(f"/{record.run}/{record.number:06}")
    )
    store.delete(name)
    store.put(name, b"rotten")


@pytest.mark.parametrize("has_name", [True, False], ids=["of its own name", "of the same name"])
@pytest.mark.parametrize("has_vm", [True, False], ids=["of a VM of that id", "of no such VM"])
def test_a_run_that_died_after_the_release_is_not_buried_by_another_host(
    hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch, has_vm: bool, has_name: bool
) -> None:
    primary, other = hosts
    if has_name:
        other.doors = replace(other.doors, computer="HV-OTHER")
    if not has_vm:
        other.lab.control.ask("power", vm="web", to="off")
        other.lab.control.ask("delete", vm="web")
    die_before_the_tracking(primary, monkeypatch)
    (left,) = primary.points_left()["web"]
    primary.clock.later(hours=1)
    there = swept_on(other)
    assert not there.is_clean
    assert "sweep that host" in there.cleared[0].why
    assert not primary.all_closed("web")
    here = swept_on(primary)
    assert here.is_clean
    removed = [each.id for each in here.cleared[0].swept if each.what == "reference point"]
    assert removed == [f"Microsoft:{left}"]
    assert primary.points_left().get("web", []) == []
    assert primary.all_closed("web")


def test_a_run_of_a_host_that_exists_no_more_is_closed_by_a_persons_word(
    hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    primary, other = hosts
    other.doors = replace(other.doors, computer="HV-OTHER")
    die_before_the_tracking(primary, monkeypatch)
    primary.clock.later(hours=1)
    run = primary.runs("web")[-1][0].run
    assert run in swept_on(other).cleared[0].why
    with pytest.raises(UsageError, match="no unfinished run of another host"):
        swept_on(primary, Said.of([], [], [run]))
    with pytest.raises(UsageError):
        swept_on(other, Said.of([], [], ["0" * len(run)]))
    assert not primary.all_closed("web")
    there = swept_on(other, Said.of([], [], [run.upper()]))
    assert there.is_clean
    assert primary.all_closed("web")
    other.is_clean()


def test_a_run_whose_vm_came_here_with_its_points_is_swept_here(
    hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    host, _ = hosts
    die_before_the_tracking(host, monkeypatch)
    host.clock.later(hours=1)
    host.doors = replace(host.doors, computer="HV-NEW-HOME")  # all that tells hosts apart
    swept = swept_on(host)
    assert swept.is_clean, swept
    assert host.points_left().get("web", []) == []


def keep_its_name(host: Host) -> None:
    """Let a host keep its own name to itself, as to an account that may not read root/cimv2."""
    host.doors = replace(host.doors, computer=None)
    for resource in ("Win32_OperatingSystem", "root/cimv2"):
        fault = {"effect": "fault", "action": "Enumerate", "resource": resource, "code": 0x80041003}
        host.lab.control.ask("disturb", times=0, **fault)


@pytest.mark.parametrize("silent", ["the host of the run", "the host of the sweep"])
def test_hosts_that_do_not_tell_their_names_are_told_apart_by_the_configured_ones(
    hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    primary, other = hosts
    if silent == "the host of the run":
        primary.doors = replace(primary.doors, computer=None)
        other.doors = replace(other.doors, computer="HV-OTHER")
    else:
        keep_its_name(other)
    die_before_the_tracking(primary, monkeypatch)
    primary.clock.later(hours=1)
    there = swept_on(other)
    assert "'lab'" in there.cleared[0].why, there
    assert not primary.all_closed("web")
    here = swept_on(primary)
    assert here.is_clean
    assert primary.points_left().get("web", []) == []


@pytest.mark.parametrize("alike", ["in all but the configured name", "as far as can be read", "in no way"])
def test_a_host_without_the_vm_buries_only_its_own_runs(
    hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch, alike: str
) -> None:
    """Two sites may each have a host called HV; and the record that names the host may be lost."""
    primary, other = hosts
    other.lab.control.ask("power", vm="web", to="off")
    other.lab.control.ask("delete", vm="web")
    die_before_the_tracking(primary, monkeypatch)
    (left,) = primary.points_left()["web"]
    first = primary.runs("web")[-1][0]
    if alike != "in all but the configured name":
        damage(primary, first)
    if alike == "in no way":
        other.doors = replace(other.doors, computer="HV-OTHER")
    else:
        assert primary.doors.computer == other.doors.computer
    primary.clock.later(hours=1)
    for _ in range(2):
        (cleared,) = swept_on(other).cleared
        assert not cleared.buried
        assert f"--host-gone {first.run}" in cleared.why
        assert not primary.all_closed("web")
    here = swept_on(primary)
    assert any(left in each.id for each in here.cleared[0].swept if each.outcome == "removed"), here
    for _ in range(3):  # what a lost record may have named is asked about
        asked = [each.id for one in here.cleared for each in one.swept if each.is_asked]
        if not asked:
            break
        here = swept_on(primary, Said.of([], asked))
    assert here.is_clean, here
    assert primary.all_closed("web")
    primary.is_clean()


@pytest.mark.parametrize("lost", [True, False], ids=["with its first record lost", "of a host of that name"])
def test_a_run_that_may_be_of_another_host_is_closed_by_a_persons_word(
    hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    primary, other = hosts
    die_before_the_tracking(primary, monkeypatch)
    first = primary.runs("web")[-1][0]
    if lost:
        damage(primary, first)
    other.lab.control.ask("power", vm="web", to="off")
    other.lab.control.ask("delete", vm="web")
    primary.clock.later(hours=1)
    assert not swept_on(other).is_clean
    assert swept_on(other, Said.of([], [], [first.run])).is_clean
    assert primary.all_closed("web")


def test_one_answer_that_there_is_no_such_vm_buries_no_run(
    hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    host, _ = hosts
    die_before_the_tracking(host, monkeypatch)
    host.clock.later(hours=1)
    missing = {"action": "Get", "resource": "Msvm_ComputerSystem", "code": 0x80041002}
    host.lab.control.ask("disturb", effect="fault", times=1, **missing)
    swept = swept_on(host)
    host.lab.control.ask("calm")
    assert swept.is_clean, swept
    assert any(each.outcome == "removed" for each in swept.cleared[0].swept)
    host.is_clean()
