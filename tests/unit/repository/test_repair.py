"""After damage a repository becomes quiet again, without ever costing what could still be read."""

from pathlib import Path

import pytest

from tests.clocks import FakeClock
from tests.faults.stores import Crashed, CrashingStore, FaultyStore, Flip, When, tamper
from tests.repositories import (
    CHUNK,
    OTHER_VM,
    VM,
    condemn,
    in_order,
    make_repository,
    names,
    pack_refs,
    random_bytes,
    reopen,
    restore,
    take,
    write,
)
from vmkeep.objectstore.errors import StoreReadOnly
from vmkeep.objectstore.memory import MemoryStore
from vmkeep.objectstore.store import Store
from vmkeep.progress import Silent
from vmkeep.ranges import ByteRange
from vmkeep.repository.examine.keyed import check
from vmkeep.repository.examine.keyless import check_keyless
from vmkeep.repository.examine.report import State
from vmkeep.repository.heads import Heads
from vmkeep.repository.listing import SealedPoint
from vmkeep.repository.repair import Repaired, repair
from vmkeep.repository.repository import Repository

SIZE = 9 * CHUNK + 512
DISK = random_bytes(61, SIZE)
CHANGED = DISK[: 2 * CHUNK] + random_bytes(62, CHUNK) + DISK[3 * CHUNK :]


def _repair(repository: Repository, store: Store | None = None, *, dry_run: bool = False) -> Repaired:
    return repair(reopen(repository, store), FakeClock(), Silent(), dry_run=dry_run)


def _is_quiet(repository: Repository) -> bool:
    keyless = check_keyless(repository.store, repository.parameters, Silent())
    full = check(reopen(repository), 1.0, Silent())
    assert {point.state for point in full.points} <= {State.WHOLE} or not full.ok
    return full.ok and keyless.ok


def _restores(repository: Repository, contents: dict[str, bytes]) -> None:
    fresh = reopen(repository)
    found = {sealed.name: restore(fresh, sealed)["disk"] for sealed in fresh.listing().points}
    assert found == contents


def _rot(store: Store, name: str) -> None:
    """Turn a bit in the first frame."""
    tamper(store, name, Flip(8 * 100))


def _packs(repository: Repository, prefix: str) -> list[str]:
    return in_order(repository.store, prefix)


@pytest.mark.parametrize("prefix", ["packs/", "maps/"])
@pytest.mark.parametrize("how", ["rot", "gone", "gone after it was condemned"])
def test_after_a_later_run_brought_the_content_both_checks_are_quiet(
    fake_clock: FakeClock, prefix: str, how: str
) -> None:
    repository = make_repository(clock=fake_clock)
    first = take(repository, VM, {"disk": DISK}, fake_clock)
    victim = _packs(repository, prefix)[0]
    if how == "gone":
        repository.store.delete(victim)
    else:
        _rot(repository.store, victim)
    repaired = _repair(repository)
    assert (repaired.condemned, repaired.removed, list(repaired.kept)) == ([victim], [], [victim])
    if how == "gone after it was condemned":
        repository.store.delete(victim)
    second = take(reopen(repository), VM, {"disk": DISK}, fake_clock, compare=prefix == "packs/")
    assert not _is_quiet(repository)

    assert _repair(repository, dry_run=True).removed == [victim]
    assert not _is_quiet(repository), "a dry run changes nothing"
    assert _repair(repository).removed == [victim]
    assert repository.store.head(victim) is None
    assert _is_quiet(repository)
    _restores(repository, {first.name: DISK, second.name: DISK})
    before = names(repository.store, "")
    assert (_repair(repository).report.ok, names(repository.store, "")) == (True, before)


def _two_points(repository: Repository, clock: FakeClock) -> tuple[SealedPoint, SealedPoint, str]:
    """Take two points; the chunk in which they differ lies alone in the pack returned."""
    first = take(repository, VM, {"disk": DISK}, clock)
    before = pack_refs(repository.store)
    changes = {"disk": [ByteRange(2 * CHUNK, CHUNK)]}
    second = take(repository, VM, {"disk": CHANGED}, clock, changes=changes)
    [pack] = [ref.name for ref in pack_refs(repository.store) - before if ref.name.startswith("packs/")]
    return first, second, pack


def test_a_pack_that_a_point_still_needs_stays_and_the_point_is_named(fake_clock: FakeClock) -> None:
    repository = make_repository(clock=fake_clock)
    first, second, victim = _two_points(repository, fake_clock)
    repository.store.delete(victim)
    for _ in range(2):
        repaired = _repair(repository)
        assert repaired.removed == [] and victim in repaired.kept
        [problem] = [p for p in repaired.report.problems if p.object == victim]
        assert problem.points == (second.point.id,)
        assert not _is_quiet(repository)
    assert restore(reopen(repository), first) == {"disk": DISK}


def test_what_an_unfinished_point_needs_is_not_deleted(fake_clock: FakeClock) -> None:
    repository = make_repository(clock=fake_clock)
    _, second, victim = _two_points(repository, fake_clock)
    repository.store.delete("seals/" + second.name.removeprefix("points/"))
    content = bytearray(repository.store.get(victim))
    _rot(repository.store, victim)
    repaired = _repair(repository)
    assert victim in repaired.kept and repository.store.head(victim) is not None
    assert len(content) == len(repository.store.get(victim))


def test_a_manifest_nobody_can_read_keeps_every_damaged_pack(fake_clock: FakeClock) -> None:
    repository = make_repository(clock=fake_clock)
    take(repository, VM, {"disk": DISK}, fake_clock)
    victim = _packs(repository, "packs/")[0]
    _rot(repository.store, victim)
    _repair(repository)
    second = take(reopen(repository), VM, {"disk": DISK}, fake_clock, compare=True)
    tamper(repository.store, second.name, Flip(8 * 60))
    repaired = _repair(repository)
    assert repaired.removed == [] and second.point.id[:12] in repaired.kept[victim]
    assert repository.store.head(victim) is not None


@pytest.mark.parametrize("with_seal", [False, True], ids=["manifest lost", "manifest and seal lost"])
@pytest.mark.parametrize("last", [False, True], ids=["the first", "the last"])
def test_what_a_vanished_point_may_need_stays_until_it_is_back(
    fake_clock: FakeClock, with_seal: bool, last: bool
) -> None:
    repository = make_repository(clock=fake_clock)
    store = repository.store
    contents = [DISK, random_bytes(63, SIZE)]
    points = [take(repository, VM, {"disk": content}, fake_clock) for content in contents]
    packs = _packs(repository, "packs/")
    away, victim = points[last].name, packs[-1 if last else 0]
    kept = {away: store.get(away)}
    if with_seal:
        kept |= {name: store.get(name) for name in [f"seals/{away.removeprefix('points/')}"]}
    for name in kept:
        store.delete(name)
    _rot(store, victim)
    for _ in range(2):
        repaired = _repair(repository)
        assert (repaired.removed, list(repaired.kept)) == ([], [victim])
        assert store.head(victim) is not None and not repaired.report.ok
    for name, content in kept.items():
        store.put(name, content)
    report = check(reopen(repository), 1.0, Silent())
    losses = {state.object: sum(loss.bytes for loss in state.losses) for state in report.points}
    assert losses == {points[not last].name: 0, away: CHUNK}


def test_nothing_is_deleted_in_a_store_that_was_rolled_back(fake_clock: FakeClock, tmp_path: Path) -> None:
    repository = make_repository(clock=fake_clock)
    store = repository.store
    assert isinstance(store, MemoryStore)
    take(repository, VM, {"disk": DISK}, fake_clock)
    before = set(names(store, ""))
    second = take(repository, VM, {"disk": random_bytes(63, SIZE)}, fake_clock)
    heads = Heads(tmp_path, repository.parameters.repository, store.canonical_address)
    heads.add(second)
    victim = _packs(repository, "packs/")[-1]
    # The rest of the second run has gone: its pack lies there as one of a run that did not finish.
    for name in set(names(store, "")) - before - {victim}:
        store.delete(name)
    _rot(store, victim)
    seen = Repository(store, repository.parameters, repository.ring, fake_clock, heads, "")
    repaired = repair(seen, fake_clock, Silent(), dry_run=False)
    assert (repaired.removed, list(repaired.kept)) == ([], [victim])
    assert store.head(victim) is not None


def test_frames_that_only_the_damaged_pack_has_are_copied_before_it_goes(fake_clock: FakeClock) -> None:
    # The damaged frame comes back with a later run; the rest of the pack has left the source for good.
    repository = make_repository(clock=fake_clock, pack_size=16 << 20)
    first = take(repository, VM, {"disk": DISK}, fake_clock)
    [victim] = _packs(repository, "packs/")
    _rot(repository.store, victim)  # its first frame: chunk 0
    repaired = _repair(repository)
    assert (repaired.removed, repaired.copied) == ([], 9)
    later = DISK[:CHUNK] + random_bytes(63, SIZE - CHUNK)
    second = take(reopen(repository), VM, {"disk": later}, fake_clock)
    repaired = _repair(repository)
    assert (repaired.removed, repaired.copied) == ([victim], 0)
    assert _is_quiet(repository)
    _restores(repository, {first.name: DISK, second.name: later})
    for name in _packs(repository, "packs/"):
        store = MemoryStore.copy(repository.store)  # type: ignore[arg-type]
        store.delete(name)
        found = check_keyless(store, repository.parameters, Silent())
        assert name in {p.object for p in found.problems if not p.harmless}, "the copies are listed too"


def test_a_copy_in_a_pack_somebody_condemned_does_not_count(fake_clock: FakeClock) -> None:
    repository = make_repository(clock=fake_clock)
    take(repository, VM, {"disk": DISK}, fake_clock)
    old = _packs(repository, "packs/")
    victim = old[0]
    _rot(repository.store, victim)
    _repair(repository)
    take(reopen(repository), VM, {"disk": DISK}, fake_clock, compare=True)
    for ref in pack_refs(repository.store):
        if ref.name.startswith("packs/") and ref.name not in old:
            condemn(repository, ref)
    repaired = _repair(repository)
    # Its intact frames are copied; the damaged one has no copy that is safe to rely on.
    assert victim in repaired.kept and repository.store.head(victim) is not None


def test_a_store_that_refuses_to_delete_is_asked_again_and_told_once(fake_clock: FakeClock) -> None:
    repository = make_repository(clock=fake_clock)
    take(repository, VM, {"disk": DISK}, fake_clock)
    victim = _packs(repository, "packs/")[0]
    _rot(repository.store, victim)
    _repair(repository)
    take(reopen(repository), VM, {"disk": DISK}, fake_clock, compare=True)
    refused = StoreReadOnly("not for you.")
    for _ in range(2):
        guarded = FaultyStore(repository.store).fail("delete", times=99, error=refused)
        repaired = _repair(repository, guarded)
        assert repaired.removed == [] and "not for you" in repaired.kept[victim]
        assert not _is_quiet(repository), "what is damaged and there is told"
    inventories = names(repository.store, "inventory/")
    assert sum(f"\n- {victim}\n".encode() in repository.store.get(name) for name in inventories) == 1
    assert _repair(repository).removed == [victim]
    assert _is_quiet(repository)


def _damaged(clock: FakeClock) -> tuple[Repository, dict[str, bytes], str]:
    """Return a repository whose repair has to condemn, to copy, to strike off and to delete."""
    repository = make_repository(clock=clock, pack_size=16 << 20)
    contents = {take(repository, VM, {"disk": DISK}, clock).name: DISK}
    [victim] = _packs(repository, "packs/")
    old = repository.store.get(victim)
    _rot(repository.store, victim)
    _repair(repository)
    later = DISK[:CHUNK] + random_bytes(63, SIZE - CHUNK)
    contents[take(reopen(repository), VM, {"disk": later}, clock).name] = later
    other = random_bytes(64, SIZE)
    before = pack_refs(repository.store)
    contents[take(reopen(repository), OTHER_VM, {"disk": other}, clock).name] = other
    [lost] = [ref.name for ref in pack_refs(repository.store) - before if ref.name.startswith("packs/")]
    repository.store.delete(lost)
    contents[take(reopen(repository), OTHER_VM, {"disk": other}, clock).name] = other
    assert repository.store.get(victim) != old
    return repository, contents, victim


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_repair_killed_anywhere_is_finished_by_the_next(fake_clock: FakeClock, when: When) -> None:
    repository, contents, victim = _damaged(fake_clock)
    inner = repository.store
    assert isinstance(inner, MemoryStore)
    places = 0
    while True:
        store = CrashingStore(inner.copy(), places + 1, when)
        try:
            _repair(repository, store)
        except Crashed:
            places += 1
        if not store.crashed:
            break
        left = reopen(repository, store.inner)
        _restores(left, contents)
        told = check_keyless(left.store, left.parameters, Silent()).problems
        assert f"the pack {victim} is missing." not in [p.message for p in told], places
        _repair(left)
        assert _is_quiet(left), places
        _restores(left, contents)
    assert places >= 4, "condemned, copied, listed, deleted"


def test_a_run_that_relied_on_a_pack_repaired_away_meanwhile_stores_it_again(fake_clock: FakeClock) -> None:
    repository = make_repository(clock=fake_clock)
    take(repository, VM, {"disk": DISK}, fake_clock)
    late = write(reopen(repository), OTHER_VM, {"disk": DISK}, fake_clock)
    for name in _packs(repository, "packs/"):
        _rot(repository.store, name)
    _repair(repository)
    take(reopen(repository), VM, {"disk": DISK}, fake_clock, compare=True)
    _repair(repository)
    sealed = late.publish()
    assert restore(reopen(repository), sealed) == {"disk": DISK}
    assert _is_quiet(repository)
