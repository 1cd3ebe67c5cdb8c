"""What a writer owes the deletion protocol: whatever is deleted beside it, a sealed point is whole.

Each test takes one guard of the protocol's list that concerns the writer and
arranges the very schedule in which the point would lose a chunk without it.
The judge is a fresh process that restores every point and compares bytes.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

import pytest

from tests.clocks import FakeClock
from tests.faults.stores import CountingStore, FaultyStore, Request
from tests.repositories import (
    CHUNK,
    LEAF,
    OTHER_VM,
    VM,
    collect,
    condemn,
    forget,
    from_bytes,
    in_order,
    make_repository,
    manifest_of,
    names,
    pack_refs,
    packs_of,
    random_bytes,
    reopen,
    restore,
    stored_disk,
    take,
    write,
)
from vmkeep.objectstore.errors import StoreUnavailable
from vmkeep.objectstore.memory import MemoryStore
from vmkeep.ranges import ByteRange
from vmkeep.repository.box import close_box, open_box
from vmkeep.repository.errors import ObjectLost, PublishRefused
from vmkeep.repository.index import decode_index, encode_index
from vmkeep.repository.leaves import Leaf, Payload
from vmkeep.repository.listing import POINTS, SealedPoint
from vmkeep.repository.nodes import Child
from vmkeep.repository.packs import Kind, PackRef
from vmkeep.repository.points import seal_name
from vmkeep.repository.publish import publish
from vmkeep.repository.reader import DiskMap
from vmkeep.repository.repository import Repository
from vmkeep.repository.slots import ZSTD, Slot

_T = TypeVar("_T")
Tables = list[tuple[PackRef, list[Slot]]]
Forge = Callable[[Tables], Tables]
Decide = Callable[[Repository, str], None]
SIZE = 20 * CHUNK + 1024
DISK = random_bytes(1, SIZE)
OTHER = random_bytes(2, SIZE)


def _changed(content: bytes, chunk: int, seed: int) -> bytes:
    at = chunk * CHUNK
    return content[:at] + random_bytes(seed, CHUNK) + content[at + CHUNK :]


def _restores(repository: Repository, sealed: SealedPoint, expected: bytes) -> None:
    """Assert that a process that knows nothing finds the point and its bytes."""
    fresh = reopen(repository)
    listing = fresh.listing()
    assert sealed.name in [point.name for point in listing.points]
    assert restore(fresh, sealed) == {"disk": expected}


def _without_index(repository: Repository) -> None:
    for name in names(repository.store, "index/"):
        repository.store.delete(name)


def _never(request: Request) -> bool:
    return False


class _Interfering(FaultyStore):
    """Runs ``act`` once, right before the first request that ``on`` chooses."""

    def __init__(self, inner: MemoryStore) -> None:
        super().__init__(inner)
        self.on: Callable[[Request], bool] = _never
        self.act: Callable[[], None] = lambda: None

    def around(self, request: Request, call: Callable[[], _T]) -> _T:
        if self.on(request):
            self.on = _never
            self.act()
        return super().around(request, call)


# --- packs that go away between writing and sealing ----------------------------------------


@pytest.mark.parametrize("reason", ["garbage", "sparse", "damaged"])
@pytest.mark.parametrize("prefix", ["packs/", "maps/"])
def test_pack_of_another_point_condemned_before_the_manifest_is_not_relied_on(
    fake_clock: FakeClock, reason: str, prefix: str
) -> None:
    repository = make_repository(clock=fake_clock)
    take(repository, OTHER_VM, {"disk": DISK}, fake_clock)
    old = {ref for ref in pack_refs(repository.store) if ref.name.startswith(prefix)}
    run = write(repository, VM, {"disk": DISK}, fake_clock)
    for ref in old:
        condemn(repository, ref, reason)
    sealed = run.publish()
    for ref in old:
        repository.store.delete(ref.name)
    _restores(repository, sealed, DISK)


def test_pack_condemned_before_the_run_is_not_reused(fake_clock: FakeClock) -> None:
    repository = make_repository(clock=fake_clock)
    take(repository, OTHER_VM, {"disk": DISK}, fake_clock)
    old = pack_refs(repository.store)
    for ref in old:
        condemn(repository, ref)
    fresh = reopen(repository)
    sealed = take(fresh, VM, {"disk": DISK}, fake_clock)
    assert not packs_of(fresh, sealed) & old
    for ref in old:
        repository.store.delete(ref.name)
    _restores(repository, sealed, DISK)


@pytest.mark.parametrize("prefix", ["packs/", "maps/"])
def test_pack_of_another_point_deleted_before_the_manifest_is_replaced(
    fake_clock: FakeClock, prefix: str
) -> None:
    repository = make_repository(clock=fake_clock)
    first = take(repository, OTHER_VM, {"disk": DISK}, fake_clock)
    run = write(repository, VM, {"disk": DISK}, fake_clock)
    forget(repository, first)
    for ref in pack_refs(repository.store):
        if ref.name.startswith(prefix):
            repository.store.delete(ref.name)
    sealed = run.publish()
    _restores(repository, sealed, DISK)


def test_own_packs_collected_while_the_writer_slept_are_written_again(fake_clock: FakeClock) -> None:
    repository = make_repository(clock=fake_clock)
    run = write(repository, VM, {"disk": DISK}, fake_clock)
    assert collect(repository)
    sealed = run.publish()
    _restores(repository, sealed, DISK)


def test_condemnations_are_read_after_the_manifest_is_visible(fake_clock: FakeClock) -> None:
    store = _Interfering(MemoryStore(fake_clock))
    repository = make_repository(store, fake_clock)
    first = take(repository, OTHER_VM, {"disk": DISK}, fake_clock)
    run = write(repository, VM, {"disk": DISK}, fake_clock)

    def collector() -> None:
        # Everything up to here happened before the manifest: the collector saw nobody.
        forget(reopen(repository, store.inner), first)
        collect(reopen(repository, store.inner))

    store.on = lambda request: request.verb == "put" and request.name.startswith(POINTS)
    store.act = collector
    sealed = run.publish()
    _restores(reopen(repository, store.inner), sealed, DISK)


def test_record_withdrawn_with_its_pack_between_the_two_looks_is_noticed(fake_clock: FakeClock) -> None:
    # Records first, existence second: a collector that finishes between the looks
    # has deleted the pack, so the second look misses it.
    store = _Interfering(MemoryStore(fake_clock))
    repository = make_repository(store, fake_clock)
    first = take(repository, OTHER_VM, {"disk": DISK}, fake_clock)
    old = pack_refs(store)
    run = write(repository, VM, {"disk": DISK}, fake_clock)
    forget(repository, first)
    for ref in old:
        condemn(repository, ref)

    def finish_collection() -> None:
        for ref in old:
            store.inner.delete(ref.name)
            store.inner.delete(f"condemned/{ref.id.hex()}")

    # Whichever look comes second, the collection ends right before it.
    looks: list[str] = []

    def second_look(request: Request) -> bool:
        kind = "condemned" if request.name.startswith("condemned/") else "packs"
        if request.verb not in ("list", "head") or not request.name.startswith(
            ("condemned/", "packs/", "maps/")
        ):
            return False
        looks.append(kind)
        return kind != looks[0]

    store.on, store.act = second_look, finish_collection
    sealed = run.publish()
    _restores(reopen(repository, store.inner), sealed, DISK)


def test_more_packs_than_are_asked_for_one_by_one_are_verified_by_listing(
    fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmkeep.repository.publish._ASK_EACH", 2)
    repository = make_repository(clock=fake_clock)
    first = take(repository, OTHER_VM, {"disk": DISK}, fake_clock)
    run = write(repository, VM, {"disk": DISK}, fake_clock)
    forget(repository, first)
    repository.store.delete(in_order(repository.store, "packs/")[0])
    sealed = run.publish()
    _restores(repository, sealed, DISK)


def test_chunk_found_elsewhere_while_storing_again_is_verified_too(fake_clock: FakeClock) -> None:
    # Two packs hold the same chunks. The one relied on goes; the other, known only from a
    # stale index object, went long ago. Storing again must not lean on it unseen.
    repository = make_repository(clock=fake_clock)
    take(repository, OTHER_VM, {"disk": DISK}, fake_clock)
    stale = {ref: repository.reader.pack(ref).slots for ref in pack_refs(repository.store)}
    for ref in stale:
        condemn(repository, ref)
    second = reopen(repository)
    take(second, OTHER_VM, {"disk": DISK}, fake_clock)
    for ref in stale:
        repository.store.delete(ref.name)
        repository.store.delete(f"condemned/{ref.id.hex()}")
    third = reopen(repository)
    run = write(third, VM, {"disk": DISK}, fake_clock)
    for ref in pack_refs(third.store) & packs_of(third, third.points.listing().points[0]):
        condemn(third, ref)
    # A look-up that found the good pack before finds the stale one from now on.
    avoid = third.index.avoid

    def avoid_and_learn_stale(pack_ids: Iterable[bytes]) -> None:
        avoid(pack_ids)
        for old, slots in stale.items():
            third.index.add_pack(old, slots)

    third.index.avoid = avoid_and_learn_stale  # type: ignore[method-assign]
    sealed = run.publish()
    for name in names(third.store, "condemned/"):
        digits = name.removeprefix("condemned/")
        third.store.delete(f"packs/{digits[:2]}/{digits}")
        third.store.delete(f"maps/{digits[:2]}/{digits}")
    _restores(third, sealed, DISK)


def test_packs_that_go_away_for_ever_end_the_run(fake_clock: FakeClock) -> None:
    store = _Interfering(MemoryStore(fake_clock))
    repository = make_repository(store, fake_clock)
    run = write(repository, VM, {"disk": DISK}, fake_clock)
    outside = reopen(repository, store.inner)
    condemned: set[PackRef] = set()

    def condemn_all() -> None:
        for ref in pack_refs(store.inner) - condemned:
            condemned.add(ref)
            condemn(outside, ref)
        store.on = condemnations_are_read

    def condemnations_are_read(request: Request) -> bool:
        return request == ("list", "condemned/", 0)

    store.on, store.act = condemnations_are_read, condemn_all
    with pytest.raises(ObjectLost):
        run.publish()
    assert outside.listing().points == ()


def test_source_that_changed_meanwhile_cannot_replace_what_went(fake_clock: FakeClock) -> None:
    repository = make_repository(clock=fake_clock)
    take(repository, OTHER_VM, {"disk": DISK}, fake_clock)
    content = bytearray(DISK)
    with repository.writer("ab" * 16) as writer:
        written = writer.write_map(
            lambda offset, view: from_bytes(bytes(content))(offset, view), SIZE, [ByteRange(0, SIZE)]
        )
        writer.flush()
        content[5] ^= 1
        for ref in pack_refs(repository.store):
            condemn(repository, ref)
        manifest = manifest_of(VM, [stored_disk("disk", SIZE, written.root)], fake_clock)
        with pytest.raises(ObjectLost):
            publish(
                repository.store, repository.points, repository.reader, writer, fake_clock, manifest, None
            )
    assert [point.point.vm for point in reopen(repository).listing().points] == [OTHER_VM]


# --- the parent ----------------------------------------------------------------------------


@pytest.mark.parametrize("with_index", [True, False], ids=["index", "no index"])
@pytest.mark.parametrize("how", ["deleted", "condemned"])
@pytest.mark.parametrize("prefixes", [("packs/",), ("maps/",), ("packs/", "maps/")], ids=" and ".join)
def test_parent_forgotten_and_collected_during_an_increment(
    fake_clock: FakeClock, prefixes: tuple[str, ...], how: str, with_index: bool
) -> None:
    # The untouched second leaf is a subtree nobody looks at during the increment. The
    # collector spares the packs of the run itself: they are young.
    disk = random_bytes(7, LEAF + 9 * CHUNK)
    repository = make_repository(clock=fake_clock)
    first = take(repository, VM, {"disk": disk}, fake_clock)
    old = {ref for ref in pack_refs(repository.store) if ref.name.startswith(prefixes)}
    if not with_index:
        _without_index(repository)
    changed = _changed(disk, 3, 33)
    fresh = reopen(repository)
    run = write(fresh, VM, {"disk": changed}, fake_clock, changes={"disk": [ByteRange(3 * CHUNK, CHUNK)]})
    forget(repository, first)
    for ref in old:
        if how == "condemned":
            condemn(repository, ref)
        else:
            repository.store.delete(ref.name)
    sealed = run.publish()
    for ref in old:
        repository.store.delete(ref.name)
    _restores(repository, sealed, changed)


def test_parent_forgotten_and_collected_while_everything_is_compared(fake_clock: FakeClock) -> None:
    repository = make_repository(clock=fake_clock)
    first = take(repository, VM, {"disk": DISK}, fake_clock)
    changed = _changed(DISK, 3, 33)
    old = pack_refs(repository.store)
    run = write(reopen(repository), VM, {"disk": changed}, fake_clock, compare=True)
    assert run.inherited_from is None
    forget(repository, first)
    for ref in old:
        repository.store.delete(ref.name)
    sealed = run.publish()
    _restores(repository, sealed, changed)


def test_parent_forgotten_but_not_collected_costs_nothing(fake_clock: FakeClock) -> None:
    repository = make_repository(clock=fake_clock)
    first = take(repository, VM, {"disk": DISK}, fake_clock)
    changed = _changed(DISK, 3, 33)
    run = write(
        repository, VM, {"disk": changed}, fake_clock, changes={"disk": [ByteRange(3 * CHUNK, CHUNK)]}
    )
    forget(repository, first)
    before = pack_refs(repository.store)
    sealed = run.publish()
    assert pack_refs(repository.store) == before
    _restores(repository, sealed, changed)


def test_unsealed_point_is_no_parent(fake_clock: FakeClock) -> None:
    repository = make_repository(clock=fake_clock)
    first = take(repository, VM, {"disk": DISK}, fake_clock)
    repository.store.delete(seal_name(first.name))
    assert reopen(repository).points.listing(VM.id).newest(VM.id) is None


def test_increment_does_not_inherit_from_a_damaged_pack(fake_clock: FakeClock) -> None:
    repository = make_repository(clock=fake_clock)
    take(repository, VM, {"disk": DISK}, fake_clock)
    rotten = {ref for ref in pack_refs(repository.store) if ref.kind is Kind.CHUNKS}
    for ref in rotten:
        condemn(repository, ref, "damaged")
    changed = _changed(DISK, 3, 33)
    declared = {"disk": [ByteRange(3 * CHUNK, CHUNK)]}
    sealed = take(reopen(repository), VM, {"disk": changed}, fake_clock, changes=declared)
    for ref in rotten:
        repository.store.delete(ref.name)
    _restores(repository, sealed, changed)


# --- the decision --------------------------------------------------------------------------


def _void(repository: Repository, name: str) -> None:
    seal = seal_name(name)
    content = f'{{"version": 1, "state": "void", "point": "{name}"}}'.encode()
    assert repository.store.put_if_absent(seal, close_box(repository.ring, seal, content))


def _before_each_seal(store: _Interfering, repository: Repository, times: int, act: Decide) -> None:
    left = times

    def on(request: Request) -> bool:
        return request.verb == "put_if_absent" and request.name.startswith("seals/")

    def once() -> None:
        nonlocal left
        left -= 1
        taken = {name.removeprefix("seals/") for name in names(store.inner, "seals/")}
        for name in names(store.inner, POINTS):
            if name.removeprefix(POINTS) not in taken:
                act(repository, name)
        if left:
            store.on = on

    store.on, store.act = on, once


def _junk(repository: Repository, name: str) -> None:
    assert repository.store.put_if_absent(seal_name(name), b"junk of somebody without keys")


@pytest.mark.parametrize("decide", [_void, _junk])
def test_point_voided_before_its_seal_is_tried_again_under_another_id(
    fake_clock: FakeClock, decide: Decide
) -> None:
    store = _Interfering(MemoryStore(fake_clock))
    repository = make_repository(store, fake_clock)
    run = write(repository, VM, {"disk": DISK}, fake_clock)
    outside = reopen(repository, store.inner)
    _before_each_seal(store, outside, 2, decide)
    packs = pack_refs(store)
    sealed = run.publish()
    assert len(names(store, POINTS)) == 3
    assert pack_refs(store) == packs, "a new attempt uploads nothing again"
    assert [point.name for point in outside.listing().points] == [sealed.name]
    _restores(outside, sealed, DISK)


@pytest.mark.parametrize("decide", [_void, _junk])
def test_point_voided_again_and_again_ends_in_an_alarm(fake_clock: FakeClock, decide: Decide) -> None:
    store = _Interfering(MemoryStore(fake_clock))
    repository = make_repository(store, fake_clock)
    run = write(repository, VM, {"disk": DISK}, fake_clock)
    outside = reopen(repository, store.inner)
    _before_each_seal(store, outside, 99, decide)
    with pytest.raises(PublishRefused):
        run.publish()
    assert outside.listing().points == ()


def test_packs_deleted_before_a_second_attempt_are_noticed(fake_clock: FakeClock) -> None:
    store = _Interfering(MemoryStore(fake_clock))
    repository = make_repository(store, fake_clock)
    run = write(repository, VM, {"disk": DISK}, fake_clock)
    outside = reopen(repository, store.inner)

    def void_and_collect(repository: Repository, name: str) -> None:
        _void(repository, name)
        repository.store.delete(name)
        collect(repository)

    _before_each_seal(store, outside, 1, void_and_collect)
    sealed = run.publish()
    _restores(outside, sealed, DISK)


def test_lost_reply_of_the_seal_is_read_back(fake_clock: FakeClock) -> None:
    store = FaultyStore(MemoryStore(fake_clock)).lose_reply("put_if_absent", prefix="seals/")
    repository = make_repository(store, fake_clock)
    sealed = write(repository, VM, {"disk": DISK}, fake_clock).publish()
    assert len(names(store, POINTS)) == 1
    _restores(repository, sealed, DISK)


def test_refused_seal_is_a_failure_and_no_point(fake_clock: FakeClock) -> None:
    store = FaultyStore(MemoryStore(fake_clock)).fail("put_if_absent", prefix="seals/", times=99)
    repository = make_repository(store, fake_clock)
    with pytest.raises(StoreUnavailable):
        write(repository, VM, {"disk": DISK}, fake_clock).publish()
    assert reopen(repository).listing().points == ()


def test_nothing_is_sealed_before_it_was_verified(fake_clock: FakeClock) -> None:
    store = CountingStore(MemoryStore(fake_clock))
    repository = make_repository(store, fake_clock)
    first = take(repository, VM, {"disk": DISK}, fake_clock)
    run = write(
        repository,
        VM,
        {"disk": _changed(DISK, 1, 9)},
        fake_clock,
        changes={"disk": [ByteRange(CHUNK, CHUNK)]},
    )
    relied = {ref.name for ref in run.writer.relied_on}
    store.log.clear()
    sealed = run.publish()
    order = [(request.verb, request.name) for request in store.log]
    visible = order.index(("put", sealed.name))
    condemned = order.index(("list", "condemned/"))
    checked = [order.index(("head", name)) for name in relied]
    parent = order.index(("head", first.name))
    decided = order.index(("put_if_absent", seal_name(sealed.name)))
    assert visible < condemned < min(checked)
    assert max(checked) < decided
    assert condemned < parent < decided


# --- the index is only a hint --------------------------------------------------------------


def test_stale_index_that_names_deleted_packs(fake_clock: FakeClock) -> None:
    repository = make_repository(clock=fake_clock)
    first = take(repository, OTHER_VM, {"disk": DISK}, fake_clock)
    forget(repository, first)
    assert collect(repository) and names(repository.store, "index/")
    fresh = reopen(repository)
    sealed = take(fresh, VM, {"disk": DISK}, fake_clock)
    _restores(repository, sealed, DISK)


def test_deleted_index_costs_no_second_copy(fake_clock: FakeClock) -> None:
    repository = make_repository(clock=fake_clock)
    take(repository, VM, {"disk": DISK}, fake_clock)
    _without_index(repository)
    before = pack_refs(repository.store)
    sealed = take(reopen(repository), OTHER_VM, {"disk": DISK}, fake_clock)
    assert pack_refs(repository.store) == before
    _restores(repository, sealed, DISK)


def test_damaged_index_object_is_passed_over(fake_clock: FakeClock) -> None:
    repository = make_repository(clock=fake_clock)
    sealed = take(repository, VM, {"disk": DISK}, fake_clock)
    assert isinstance(repository.store, MemoryStore)
    for name in names(repository.store, "index/"):
        repository.store.overwrite(name, b"nonsense")
    _restores(repository, sealed, DISK)


def _rewrite_index(repository: Repository, forge: Forge) -> None:
    """Replace the index by one valid box whose content is what ``forge`` makes of the slot tables."""
    _without_index(repository)
    tables = [(ref, list(repository.reader.pack(ref).slots)) for ref in sorted(pack_refs(repository.store))]
    name = "index/" + "0" * 32
    repository.store.put(name, close_box(repository.ring, name, encode_index(forge(tables)), compress=False))
    packs, entries = decode_index(open_box(repository.ring, name, repository.store.get(name)), name)
    assert packs and len(entries)


def _shifted(tables: Tables) -> Tables:
    return [(ref, slots[1:] + slots[:1]) for ref, slots in tables]


def _packs_swapped(tables: Tables) -> Tables:
    chunks = [t for t in tables if t[0].kind is Kind.CHUNKS]
    refs, slots = [ref for ref, _ in chunks], [s for _, s in chunks]
    return list(zip(refs, slots[1:] + slots[:1], strict=True)) + [t for t in tables if t not in chunks]


def _half(tables: Tables) -> Tables:
    return [(ref, slots[: len(slots) // 2]) for ref, slots in tables]


@pytest.mark.parametrize("forge", [_shifted, _packs_swapped, _half])
def test_wrong_index_does_not_keep_a_point_from_being_restored(fake_clock: FakeClock, forge: Forge) -> None:
    repository = make_repository(clock=fake_clock)
    sealed = take(repository, VM, {"disk": DISK}, fake_clock)
    _rewrite_index(repository, forge)
    _restores(repository, sealed, DISK)


def test_condemned_packs_of_the_parent_do_not_cost_a_second_reading(fake_clock: FakeClock) -> None:
    # Reading the parent's map learns the condemned pack again; nothing may be deduplicated
    # against it then, or the whole disk is read a second time at the end.
    disk = random_bytes(8, 2 * LEAF)
    repository = make_repository(clock=fake_clock)
    first = take(repository, VM, {"disk": disk}, fake_clock)
    for ref in packs_of(repository, first):
        condemn(repository, ref, "sparse")
    fresh = reopen(repository)
    reads = 0

    def counted(offset: int, view: memoryview) -> None:
        nonlocal reads
        reads += len(view)
        from_bytes(disk)(offset, view)

    old = first.point.disks[0]
    with fresh.writer("cd" * 16) as writer:
        written = writer.write_map(
            counted,
            len(disk),
            [ByteRange(0, 2 * CHUNK)],
            base=DiskMap(fresh.reader, old.root, old.size),
            inherit=True,
        )
        writer.flush()
        manifest = manifest_of(VM, [stored_disk("disk", len(disk), written.root)], fake_clock)
        sealed = publish(fresh.store, fresh.points, fresh.reader, writer, fake_clock, manifest, first)
    assert reads == 2 * CHUNK
    _restores(repository, sealed, disk)


@pytest.mark.parametrize("prefix", ["packs/", "maps/"])
def test_pack_lost_by_the_storage_is_stored_again_by_the_next_full_comparison(
    fake_clock: FakeClock, prefix: str
) -> None:
    repository = make_repository(clock=fake_clock)
    first = take(repository, VM, {"disk": DISK}, fake_clock)
    for ref in pack_refs(repository.store):
        if ref.name.startswith(prefix):
            repository.store.delete(ref.name)
    sealed = take(reopen(repository), VM, {"disk": DISK}, fake_clock, compare=prefix == "packs/")
    _restores(repository, sealed, DISK)
    assert restore(reopen(repository), first) == {"disk": DISK}, "the older point is whole again too"


def test_repository_that_was_open_before_a_pack_was_condemned(fake_clock: FakeClock) -> None:
    repository = make_repository(clock=fake_clock)
    take(repository, OTHER_VM, {"disk": DISK}, fake_clock)
    old = pack_refs(repository.store)
    assert set(repository.index.packs) >= old
    for ref in old:
        condemn(repository, ref)
    run = write(repository, VM, {"disk": DISK}, fake_clock)
    assert not run.writer.relied_on & old
    _restores(repository, run.publish(), DISK)


def test_condemned_pack_does_not_hide_the_good_copy(fake_clock: FakeClock) -> None:
    # After a collector has copied live chunks, both copies are there for days.
    repository = make_repository(clock=fake_clock)
    take(repository, OTHER_VM, {"disk": DISK}, fake_clock)
    old = pack_refs(repository.store)
    for ref in old:
        condemn(repository, ref, "sparse")
    take(reopen(repository), OTHER_VM, {"disk": DISK}, fake_clock)
    copies = pack_refs(repository.store) - old
    _without_index(repository)
    for name, refs in (("index/" + "0" * 32, copies), ("index/" + "f" * 32, old)):
        content = encode_index([(ref, repository.reader.pack(ref).slots) for ref in sorted(refs)])
        repository.store.put(name, close_box(repository.ring, name, content, compress=False))
    run = write(reopen(repository), VM, {"disk": DISK}, fake_clock)
    assert run.writer.relied_on <= copies
    assert pack_refs(repository.store) == old | copies, "nothing was stored a third time"
    _restores(repository, run.publish(), DISK)


def test_chunk_learned_while_its_leaf_was_on_the_way_is_relied_on(fake_clock: FakeClock) -> None:
    repository = make_repository(clock=fake_clock)
    first = take(repository, OTHER_VM, {"disk": DISK}, fake_clock)
    disk = first.point.disks[0]
    with repository.writer("ab" * 16) as writer:
        # What a worker thread brings that did not know the chunk when it asked.
        chunk = next(
            e for e in DiskMap(repository.reader, disk.root, disk.size).leaf(0) if not isinstance(e, Child)
        )
        writer._store_leaf(Leaf(0, [], [Payload(0, chunk, b"packed", ZSTD, CHUNK)], set(), CHUNK))
        assert writer.relied_on == {repository.reader.locate(chunk, Kind.CHUNKS).pack}
        assert writer.bytes_stored == 0


def test_aborted_packs_are_not_taken_for_stored(fake_clock: FakeClock) -> None:
    repository = make_repository(clock=fake_clock, pack_size=16 << 20)
    with repository.writer("ab" * 16) as writer:
        writer.write_map(from_bytes(DISK), SIZE, [ByteRange(0, SIZE)])
        assert repository.index.packs
    assert repository.index.packs == []
    assert pack_refs(repository.store) == set()


def test_run_that_failed_leaves_nothing_for_the_next_one_to_lean_on(fake_clock: FakeClock) -> None:
    # The same process, the same index: what the failed run put into packs never became one.
    store = FaultyStore(MemoryStore(fake_clock))
    repository = make_repository(store, fake_clock, pack_size=16 << 20)
    store.fail("commit", prefix="packs/")
    with pytest.raises(StoreUnavailable):
        write(repository, VM, {"disk": DISK}, fake_clock)
    counted = CountingStore(store)
    again = Repository(counted, repository.parameters, repository.ring, fake_clock, None, "")
    again._index = repository.index
    run = write(again, OTHER_VM, {"disk": DISK}, fake_clock)
    assert all(store.head(ref.name) for ref in run.writer.relied_on)
    sealed = run.publish()
    _restores(repository, sealed, DISK)
