"""A process that dies at any change of the store takes no restore point with it.

Every mutating request of a full run, an increment and a second VM's run is
once lost and once the last thing that was done. Then a process that knows
nothing opens the store, restores every point, and runs the same VM again.
"""

from collections.abc import Callable

import pytest

from tests.clocks import FakeClock
from tests.faults.stores import MUTATING, CountingStore, Crashed, CrashingStore, Request, When
from tests.repositories import (
    BEYOND_LEASE,
    CHUNK,
    LEAF,
    OTHER_VM,
    VM,
    make_repository,
    names,
    random_bytes,
    reopen,
    restore,
    take,
)
from vmkeep.model.plan import VmRef
from vmkeep.objectstore.memory import MemoryStore
from vmkeep.objectstore.store import Store
from vmkeep.ranges import ByteRange
from vmkeep.repository.errors import RunAlive
from vmkeep.repository.journal import FINISHED, read_runs
from vmkeep.repository.listing import SealedPoint
from vmkeep.repository.repository import Repository

# Two leaves, one of them mostly zeros, a last chunk that is short: a few packs of each kind.
FULL = random_bytes(21, 9 * CHUNK) + bytes(LEAF - 9 * CHUNK) + random_bytes(22, 2 * CHUNK + 512)
CHANGED = FULL[: 2 * CHUNK] + random_bytes(23, 5 * CHUNK) + FULL[7 * CHUNK :]
SECOND_VM = FULL[: 4 * CHUNK] + random_bytes(24, 3 * CHUNK)

Do = Callable[[Repository, FakeClock], SealedPoint]


def _full(repository: Repository, clock: FakeClock) -> SealedPoint:
    return take(repository, VM, {"disk": FULL, "empty": bytes(3 * CHUNK)}, clock)


def _increment(repository: Repository, clock: FakeClock) -> SealedPoint:
    changes = {"disk": [ByteRange(2 * CHUNK, 5 * CHUNK)]}
    return take(repository, VM, {"disk": CHANGED, "empty": bytes(3 * CHUNK)}, clock, changes=changes)


def _second_vm(repository: Repository, clock: FakeClock) -> SealedPoint:
    return take(repository, OTHER_VM, {"disk": SECOND_VM}, clock)


STEPS: dict[str, tuple[list[Do], VmRef, dict[str, bytes]]] = {
    "full": ([_full], VM, {"disk": FULL, "empty": bytes(3 * CHUNK)}),
    "increment": ([_full, _increment], VM, {"disk": CHANGED, "empty": bytes(3 * CHUNK)}),
    "second VM": ([_full, _increment, _second_vm], OTHER_VM, {"disk": SECOND_VM}),
}
CONTENTS = [STEPS[step][2] for step in STEPS]


def _prepared(step: str) -> tuple[Repository, FakeClock, Do]:
    """Return a repository with everything before ``step`` taken, and the step itself."""
    clock = FakeClock()
    repository = make_repository(MemoryStore(clock), clock)
    *earlier, last = STEPS[step][0]
    for do in earlier:
        do(repository, clock)
    return repository, clock, last


def _copy(repository: Repository) -> MemoryStore:
    assert isinstance(repository.store, MemoryStore)
    return repository.store.copy()


def _check_crash(repository: Repository, clock: FakeClock, step: str, where: str) -> bool:
    """Assert all that must hold in a new process; tell whether the run's point exists."""
    vm, content = STEPS[step][1:]
    fresh = reopen(repository, clock=clock)
    listing = fresh.listing()
    assert listing.problems == (), where
    before = len(STEPS[step][0]) - 1
    assert len(listing.points) in (before, before + 1), where
    for sealed, expected in zip(listing.points, CONTENTS, strict=False):
        assert restore(fresh, sealed) == expected, where
    # The same VM again: this very process still lives, so only the lease tells that the run died.
    clock.advance(BEYOND_LEASE.total_seconds())
    again = take(fresh, vm, content, clock)
    final = reopen(repository, clock=clock)
    assert restore(final, again) == content, where
    assert [point.name for point in final.listing().points][-1] == again.name, where
    return len(listing.points) == before + 1


def _crash(store: Store, repository: Repository, clock: FakeClock, do: Do) -> None:
    doomed = reopen(repository, store, clock)
    with pytest.raises(Crashed):
        do(doomed, clock)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", list(STEPS))
def test_death_at_every_change_of_the_store(step: str, when: When) -> None:
    repository, clock, do = _prepared(step)
    counted = CountingStore(_copy(repository))
    do(reopen(repository, counted, FakeClock()), FakeClock())
    existed = []
    for n in range(1, counted.mutations + 1):
        repository, clock, do = _prepared(step)
        _crash(CrashingStore(repository.store, n, when), repository, clock, do)
        existed.append(_check_crash(repository, clock, step, f"{step}: {when} change {n}"))
    # The point exists from one request on, the seal, and not a request earlier.
    changes = [_prefix(request) for request in counted.log if request.verb in MUTATING]
    seal = 1 + changes.index("seals")
    first = seal + 1 if when == "before" else seal
    assert existed == [n >= first for n in range(1, counted.mutations + 1)]


def _prefix(request: Request) -> str:
    return request.name.split("/")[0]


def test_threads_do_not_hide_a_death(fake_clock: FakeClock) -> None:
    # A pack is made durable in another thread; its death must end the run, not stay in that thread.
    repository = make_repository(MemoryStore(fake_clock), fake_clock)
    log = CountingStore(_copy(repository))
    _full(reopen(repository, log), FakeClock())
    commits = [r for r in log.log if r.verb == "commit"]
    assert len(commits) >= 3
    for n in range(1, len(commits) + 1):
        store = CrashingStore(_copy(repository), n, verbs=frozenset({"commit"}))
        _crash(store, repository, FakeClock(), _full)


def test_dead_run_is_handed_over_and_can_be_closed(fake_clock: FakeClock) -> None:
    repository = make_repository(MemoryStore(fake_clock), fake_clock)
    _crash(CrashingStore(repository.store, 5), repository, fake_clock, _full)
    fake_clock.advance(1)
    with pytest.raises(RunAlive):
        repository.journal(VM, "11" * 16).begin({})
    fake_clock.advance(BEYOND_LEASE.total_seconds())
    journal = repository.journal(VM, "22" * 16)
    dead = journal.begin({})
    assert [records[0].step for records in dead] == ["begun"]
    for records in dead:
        journal.bury(records)
    journal.finish({})
    runs = read_runs(repository.store, repository.ring, VM.id)
    assert {records[-1].step for records in runs} == {FINISHED}
    assert repository.journal(VM, "33" * 16).begin({}) == []


def test_unfinished_pack_is_never_visible(fake_clock: FakeClock) -> None:
    repository = make_repository(MemoryStore(fake_clock), fake_clock, pack_size=16 << 20)
    _crash(CrashingStore(repository.store, 1, verbs=frozenset({"commit"})), repository, fake_clock, _full)
    assert names(repository.store, "packs/") == names(repository.store, "maps/") == []
