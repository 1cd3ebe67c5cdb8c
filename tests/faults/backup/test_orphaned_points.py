"""A reference point that no run rests on any more goes with the next run, or is told until it goes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.faults.backup.test_lost_records import VM
from tests.faults.backup.test_points_that_stay import BROKEN, disturb
from tests.faults.capture.test_strangers import Stranger
from tests.faults.stores import FaultyStore, Flip, Remove, tamper
from tests.host_runs import SCENARIO, Host, HostState, host_of
from tests.lab_captures import MANY
from tests.lab_process import running_lab
from tests.repositories import names
from vmkeep.errors import ExitCode
from vmkeep.repository.journal import PREFIX

ROTTEN: Final = Flip(99)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with running_lab(SCENARIO, tmp_path / "state") as lab, host_of(lab) as host:
        yield host


def damage(host: Host, *prefixes: str, of: str = "", how: Flip | Remove = ROTTEN) -> None:
    """Damage what lies below some prefixes, all of it or that of one point."""
    for prefix in prefixes:
        found = [name for name in names(host.repository.store, prefix) if of in name]
        assert found, prefix
        for name in found:
            tamper(host.repository.store, name, how)


def left(host: Host) -> set[str]:
    """The reference points of ours."""
    return set(host.points_left().get(VM, []))


@pytest.mark.parametrize("beside", [(), ("tracking/",), ("evidence/",)], ids=["", "tracking", "evidence"])
@pytest.mark.parametrize("how", [ROTTEN, Remove()], ids=["rots", "vanishes"])
def test_the_point_of_a_manifest_that_cannot_be_read_goes(
    host: Host, how: Flip | Remove, beside: tuple[str, ...]
) -> None:
    host.take(VM)
    host.step(VM)
    newest = host.take(VM).sealed.name.removeprefix("points/")
    (old,) = left(host)
    damage(host, "points/", *beside, of=newest, how=how)
    outcome = host.take(VM)
    assert old not in left(host)
    assert any(old in note for note in outcome.notes), outcome.notes
    HostState.is_clean(host, VM)
    host.holds(outcome.sealed)


def test_an_orphan_whose_removal_fails_is_told_and_found_again(host: Host) -> None:
    host.take(VM)
    (old,) = left(host)
    damage(host, "tracking/")
    disturb(host, BROKEN, times=MANY)
    outcome = host.take(VM)
    assert outcome.exit_code is ExitCode.PARTIAL
    assert any(old in warning for warning in outcome.warnings), outcome.warnings
    assert any(old in what for what in outcome.left), outcome.left
    assert old in left(host)
    host.lab.control.ask("calm")
    after = host.take(VM)
    assert (after.exit_code, after.left) == (ExitCode.OK, ())
    assert old not in left(host)
    HostState.is_clean(host, VM)


def test_what_a_run_could_not_drop_goes_though_its_journal_is_lost(host: Host) -> None:
    host.take(VM)
    (old,) = left(host)
    disturb(host, BROKEN, times=MANY)
    assert host.take(VM).exit_code is ExitCode.PARTIAL
    host.lab.control.ask("calm")
    assert old in left(host)
    damage(host, PREFIX, how=Remove())
    host.clock.later(hours=1)
    outcome = host.take(VM)
    assert (outcome.exit_code, outcome.plan.increment) == (ExitCode.OK, "rct")
    host.is_clean(VM)


def test_whoever_cannot_look_for_orphans_says_so(host: Host) -> None:
    host.take(VM)
    (old,) = left(host)
    damage(host, "tracking/")
    store = FaultyStore(host.repository.store).fail("list", prefix="evidence/")
    outcome = host.take(VM, store=store)
    assert outcome.exit_code is ExitCode.PARTIAL
    assert any("not known" in warning for warning in outcome.warnings), outcome.warnings
    assert old in left(host)
    assert host.take(VM).exit_code is ExitCode.OK
    HostState.is_clean(host, VM)


def test_a_strangers_point_stays_beside_an_orphan_of_ours(host: Host) -> None:
    host.take(VM)
    (old,) = left(host)
    foreign = Stranger(host.lab, host.state(VM)["id"]).mark()
    damage(host, "tracking/")
    outcome = host.take(VM)
    assert outcome.exit_code is ExitCode.OK
    assert old not in left(host)
    assert foreign in left(host)
    assert len(left(host)) == 2
    assert not any(foreign in note for note in outcome.notes)
