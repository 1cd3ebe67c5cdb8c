"""A reader proves every byte, also against a writer who has the keys and lies."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
from blake3 import blake3

from tests.clocks import FakeClock
from tests.faults.stores import FaultyStore
from tests.repositories import (
    CHUNK,
    VM,
    make_repository,
    pack_refs,
    random_bytes,
    reopen,
    restore,
    stored_disk,
    take,
)
from vmkeep.objectstore.errors import ObjectMissing
from vmkeep.objectstore.memory import MemoryStore
from vmkeep.ranges import ByteRange
from vmkeep.repository.errors import ObjectLost, Tampered
from vmkeep.repository.nodes import Child, Entry, encode_node
from vmkeep.repository.packs import Kind, PackWriter
from vmkeep.repository.reader import DiskMap, map_of
from vmkeep.repository.repository import Repository
from vmkeep.repository.slots import STORED

pytestmark = pytest.mark.quick


def _store(repository: Repository, kind: Kind, content: bytes, content_id: bytes | None = None) -> bytes:
    """Store one frame in a pack of its own, under any id; return the id."""
    key = repository.ring.chunk_id_key if kind is Kind.CHUNKS else repository.ring.node_id_key
    content_id = blake3(content, key=key).digest() if content_id is None else content_id
    writer = PackWriter(repository.store, repository.ring, kind)
    writer.append(content_id, content, STORED, len(content))
    finished = writer.finish()
    repository.index.add_pack(finished.ref, finished.slots)
    return content_id


def _node(repository: Repository, level: int, children: list[Entry]) -> bytes:
    node = encode_node(level, children)
    assert node is not None
    return _store(repository, Kind.NODES, node)


def test_map_written_by_hand_is_read() -> None:
    repository = make_repository()
    chunk = _store(repository, Kind.CHUNKS, b"\1" * CHUNK)
    root = _node(repository, 1, [_node(repository, 0, [chunk])])
    assert DiskMap(repository.reader, root, CHUNK).read_at(0, CHUNK) == b"\1" * CHUNK


def test_frame_under_the_id_of_something_else_is_refused() -> None:
    repository = make_repository()
    right = blake3(b"what was asked for", key=repository.ring.chunk_id_key).digest()
    _store(repository, Kind.CHUNKS, b"something else", right)
    with pytest.raises(Tampered, match="packs/"):
        repository.reader.chunks([right])


@pytest.mark.parametrize("length", [1, CHUNK - 1])
def test_chunk_of_a_wrong_length_is_refused(length: int) -> None:
    repository = make_repository()
    chunk = _store(repository, Kind.CHUNKS, b"\1" * length)
    root = _node(repository, 1, [_node(repository, 0, [chunk])])
    with pytest.raises(Tampered):
        DiskMap(repository.reader, root, CHUNK).read_at(0, CHUNK)


@pytest.mark.parametrize("size", [CHUNK, 2 * CHUNK - 1])
def test_last_chunk_that_is_too_long_is_refused(size: int) -> None:
    repository = make_repository()
    chunks: list[Entry] = [_store(repository, Kind.CHUNKS, bytes([n]) * CHUNK) for n in (1, 2)]
    root = _node(repository, 1, [_node(repository, 0, chunks)])
    with pytest.raises(Tampered):
        DiskMap(repository.reader, root, size).pieces(0)


@pytest.mark.parametrize(
    ("listed", "right"),
    [
        ([(CHUNK, CHUNK)], True),
        ([(CHUNK, 100), (CHUNK + 100, CHUNK - 100)], True),
        ([(0, 9 * CHUNK)], True),
        ([], False),
        ([(CHUNK, CHUNK - 1)], False),
        ([(CHUNK + 1, CHUNK)], False),
        ([(CHUNK, 100), (CHUNK + 101, CHUNK - 101)], False),
        ([(0, CHUNK), (2 * CHUNK, CHUNK)], False),
    ],
)
def test_what_is_left_out_lies_wholly_in_the_ranges_listed(
    listed: list[tuple[int, int]], right: bool
) -> None:
    # Section 7: the ranges of the manifest cover every excluded chunk wholly.
    repository = make_repository()
    chunk = _store(repository, Kind.CHUNKS, b"\1" * CHUNK)
    root = _node(repository, 1, [_node(repository, 0, [chunk, Child.EXCLUDED, chunk])])
    excluded = tuple((offset, length, "pagefile") for offset, length in listed)
    stored = replace(stored_disk("disk", 3 * CHUNK, root), excluded=excluded)
    disk = map_of(repository.reader, stored)
    if right:
        assert disk.read_at(0, 3 * CHUNK) == b"\1" * CHUNK + bytes(CHUNK) + b"\1" * CHUNK
        disk.refuse_unlisted_exclusions()
        return
    for read in (lambda: disk.read_at(0, 3 * CHUNK), disk.refuse_unlisted_exclusions):
        with pytest.raises(Tampered) as caught:
            read()
        assert caught.value.context["offset"] == CHUNK


@pytest.mark.parametrize(("length", "right"), [(777, True), (776, False)])
def test_the_last_chunk_is_left_out_up_to_the_end_of_the_disk(length: int, right: bool) -> None:
    repository = make_repository()
    chunk = _store(repository, Kind.CHUNKS, b"\1" * CHUNK)
    root = _node(repository, 1, [_node(repository, 0, [chunk, Child.EXCLUDED])])
    disk = DiskMap(repository.reader, root, CHUNK + 777, (ByteRange(CHUNK, length),))
    with nullcontext() if right else pytest.raises(Tampered):
        assert disk.read_at(0, disk.size) == b"\1" * CHUNK + bytes(777)


def test_leaf_in_the_place_of_an_inner_node_is_refused() -> None:
    repository = make_repository()
    leaf = _node(repository, 0, [_store(repository, Kind.CHUNKS, b"\1" * CHUNK)])
    with pytest.raises(Tampered):
        DiskMap(repository.reader, leaf, CHUNK).read_at(0, CHUNK)


def test_chunk_in_the_place_of_a_node_is_not_found() -> None:
    repository = make_repository()
    chunk = _store(repository, Kind.CHUNKS, b"\1" * CHUNK)
    with pytest.raises(ObjectLost):
        repository.reader.node(chunk, 1)


def test_pack_that_is_listed_but_not_there_ends_in_an_error(fake_clock: FakeClock) -> None:
    # A store that contradicts itself must not keep a reader busy for ever.
    repository = make_repository(clock=fake_clock)
    sealed = take(repository, VM, {"disk": random_bytes(1, CHUNK)}, fake_clock)
    (chunks,) = (ref for ref in pack_refs(repository.store) if ref.kind is Kind.CHUNKS)
    gone = ObjectMissing("it is not there.", name=chunks.name)
    store = FaultyStore(repository.store).fail("get_range", prefix=chunks.name, times=999, error=gone)
    with pytest.raises(ObjectLost):
        restore(reopen(repository, store), sealed)


def test_damaged_pack_is_named_where_its_chunks_are_missed(fake_clock: FakeClock) -> None:
    repository = make_repository(clock=fake_clock)
    sealed = take(repository, VM, {"disk": random_bytes(1, CHUNK)}, fake_clock)
    assert isinstance(repository.store, MemoryStore)
    for info in list(repository.store.list("index/")):
        repository.store.delete(info.name)
    (chunks,) = (ref for ref in pack_refs(repository.store) if ref.kind is Kind.CHUNKS)
    repository.store.overwrite(chunks.name, repository.store.get(chunks.name)[:-1])
    with pytest.raises(ObjectLost, match=chunks.name):
        restore(reopen(repository), sealed)


def test_good_copy_is_found_beside_a_damaged_pack(fake_clock: FakeClock) -> None:
    repository = make_repository(clock=fake_clock)
    content = random_bytes(1, CHUNK)
    sealed = take(repository, VM, {"disk": content}, fake_clock)
    (chunks,) = (ref for ref in pack_refs(repository.store) if ref.kind is Kind.CHUNKS)
    _store(repository, Kind.CHUNKS, content)
    assert isinstance(repository.store, MemoryStore)
    repository.store.overwrite(chunks.name, repository.store.get(chunks.name)[:-1])
    for info in list(repository.store.list("index/")):
        repository.store.delete(info.name)
    assert restore(reopen(repository), sealed) == {"disk": content}


@pytest.mark.parametrize("times", [1, 2])
def test_lost_chunk_is_searched_for_once(fake_clock: FakeClock, times: int) -> None:
    repository = make_repository(clock=fake_clock)
    take(repository, VM, {"disk": random_bytes(1, CHUNK)}, fake_clock)
    store = FaultyStore(repository.store)
    fresh = reopen(repository, store)
    for _ in range(times):
        with pytest.raises(ObjectLost, match="07070707"):
            fresh.reader.chunks([b"\7" * 32])
    store.fail("list", times=999)  # nothing more is asked
    with pytest.raises(ObjectLost):
        fresh.reader.chunks([b"\7" * 32])


def test_what_moved_after_every_pack_was_asked_is_asked_for_again(fake_clock: FakeClock) -> None:
    repository = make_repository(clock=fake_clock)
    content = random_bytes(1, CHUNK)
    take(repository, VM, {"disk": content}, fake_clock)
    (old,) = (ref for ref in pack_refs(repository.store) if ref.kind is Kind.CHUNKS)
    long_open = reopen(repository)
    with pytest.raises(ObjectLost):
        long_open.reader.chunks([b"\7" * 32])  # every pack was asked, to no avail
    chunk = _store(repository, Kind.CHUNKS, content)
    repository.store.delete(old.name)
    assert long_open.reader.chunks([chunk]) == [content]


def test_damaged_frame_comes_from_a_copy_its_neighbours_from_beside_it(
    fake_clock: FakeClock,
) -> None:
    repository = make_repository(clock=fake_clock)
    content = random_bytes(1, 3 * CHUNK)
    sealed = take(repository, VM, {"disk": content}, fake_clock)
    (chunks,) = (ref for ref in pack_refs(repository.store) if ref.kind is Kind.CHUNKS)
    stored = bytearray(repository.store.get(chunks.name))
    stored[32 + CHUNK + 1000] ^= 1  # the second of three frames, none of which compresses
    assert isinstance(repository.store, MemoryStore)
    repository.store.overwrite(chunks.name, bytes(stored))
    with pytest.raises(Tampered, match=chunks.name):
        restore(reopen(repository), sealed)
    _store(repository, Kind.CHUNKS, content[CHUNK : 2 * CHUNK])
    assert restore(reopen(repository), sealed) == {"disk": content}
