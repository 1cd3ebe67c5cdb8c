"""A check beside running backups and repairs alarms nobody, whatever happens between its requests."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from tests.clocks import FakeClock
from tests.faults.stores import Flip, Request, WrappedStore, tamper
from tests.repositories import (
    CHUNK,
    OTHER_VM,
    VM,
    in_order,
    make_repository,
    names,
    random_bytes,
    reopen,
    take,
    write,
)
from vmkeep.objectstore.memory import MemoryStore
from vmkeep.objectstore.store import ObjectInfo, Store
from vmkeep.progress import Silent
from vmkeep.ranges import ByteRange
from vmkeep.repository.examine.keyed import check
from vmkeep.repository.examine.keyless import check_keyless
from vmkeep.repository.examine.report import Report
from vmkeep.repository.heads import Heads
from vmkeep.repository.repair import repair
from vmkeep.repository.repository import Repository

_T = TypeVar("_T")
Act = Callable[[Repository, FakeClock], None]
Look = Callable[[Repository], Report]
SIZE = 5 * CHUNK + 512
DISK = random_bytes(81, SIZE)


class _Beside(WrappedStore):
    """Lets ``act`` happen right before the ``at``-th request, from 1."""

    def __init__(self, inner: MemoryStore, at: int, act: Callable[[], None]) -> None:
        super().__init__(inner)
        self._left = at
        self._act = act

    @property
    def acted(self) -> bool:
        return self._left <= 0

    def around(self, request: Request, call: Callable[[], _T]) -> _T:
        self._left -= 1
        if self._left == 0:
            self._act()
        return call()


def _with_keys(repository: Repository) -> Report:
    return check(repository, 1.0, Silent())


def _without_keys(repository: Repository) -> Report:
    return check_keyless(repository.store, repository.parameters, Silent())


def _two_runs(repository: Repository, clock: FakeClock) -> None:
    changed = random_bytes(82, CHUNK) + DISK[CHUNK:]
    for vm in (VM, OTHER_VM):
        sealed = take(repository, vm, {"disk": changed}, clock, changes={"disk": [ByteRange(0, CHUNK)]})
        repository.points.attach("evidence", sealed.name, {"time": str(clock.now())})
        repository.remember(sealed)


def _half_a_run(repository: Repository, clock: FakeClock) -> None:
    """Store packs and an inventory, and the manifest, but no seal."""
    run = write(repository, VM, {"disk": random_bytes(83, SIZE)}, clock)
    with run.writer:
        repository.points.put(run.manifest("ab" * 16))


def _repair(repository: Repository, clock: FakeClock) -> None:
    repair(repository, clock, Silent(), dry_run=False)


def _at_every_request(
    repository: Repository, clock: FakeClock, act: Act, look: Look, heads: Path | None = None
) -> list[Report]:
    """Let ``act`` happen at each place of an examination in turn; return what each of these found."""
    inner = repository.store
    assert isinstance(inner, MemoryStore)
    reports = []
    at = 0
    while True:
        at += 1
        twin = inner.copy()
        memory = (
            Heads(heads / str(at), repository.parameters.repository, "memory:") if heads is not None else None
        )
        beside = Repository(twin, repository.parameters, repository.ring, clock, memory, "")
        if memory is not None:
            beside.listing()
        store = _Beside(twin, at, lambda beside=beside: act(beside, clock))  # type: ignore[misc]
        reports.append(look(Repository(store, repository.parameters, repository.ring, clock, memory, "")))
        if not store.acted:
            return reports


@pytest.mark.parametrize("look", [_with_keys, _without_keys])
@pytest.mark.parametrize("act", [_two_runs, _half_a_run])
def test_runs_beside_a_check_are_no_damage(
    fake_clock: FakeClock, tmp_path: Path, act: Act, look: Look
) -> None:
    repository = make_repository(clock=fake_clock)
    for vm in (VM, OTHER_VM):
        sealed = take(repository, vm, {"disk": DISK}, fake_clock)
        repository.points.attach("evidence", sealed.name, {"time": str(fake_clock.now())})
    reports = _at_every_request(repository, fake_clock, act, look, tmp_path)
    assert len(reports) > 20
    alarms = [problem for report in reports for problem in report.problems if not problem.harmless]
    assert alarms == []


class _LeavesOut(WrappedStore):
    """Leaves one object out of every listing, as a folder may that changes while it is read."""

    def __init__(self, inner: Store, name: str) -> None:
        super().__init__(inner)
        self.left_out = name

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return (info for info in super().list(prefix) if info.name != self.left_out)


def test_a_pack_that_no_listing_shows_is_asked_for_by_its_name(fake_clock: FakeClock) -> None:
    repository = make_repository(clock=fake_clock)
    take(repository, VM, {"disk": DISK}, fake_clock)
    name = in_order(repository.store, "packs/")[0]
    store = _LeavesOut(repository.store, name)
    assert name not in names(store, "packs/")
    assert check_keyless(store, repository.parameters, Silent()).ok
    repository.store.delete(name)
    [problem] = [p for p in check_keyless(store, repository.parameters, Silent()).problems if not p.harmless]
    assert (problem.object, problem.message) == (name, f"the pack {name} is missing.")


@pytest.mark.parametrize("look", [_with_keys, _without_keys])
def test_packs_that_a_repair_removes_beside_a_check_are_not_missed(fake_clock: FakeClock, look: Look) -> None:
    repository = make_repository(clock=fake_clock)
    take(repository, VM, {"disk": DISK}, fake_clock)
    victim = in_order(repository.store, "packs/")[0]
    tamper(repository.store, victim, Flip(8 * 100))
    _repair(reopen(repository), fake_clock)
    take(reopen(repository), VM, {"disk": DISK}, fake_clock, compare=True)
    assert victim in names(repository.store, "packs/")
    reports = _at_every_request(repository, fake_clock, _repair, look)
    assert reports[0].ok and not reports[-1].ok
    for report in reports:
        assert {p.object for p in report.problems if not p.harmless} <= {victim}
        told = " ".join(p.message for p in report.problems if not p.harmless)
        assert "missing" not in told and "vanished" not in told
        assert {point.state.value for point in report.points} <= {"whole", "not examined"}
