"""Whatever is written, however it got there: the same bytes come back, under the same root, stored once.

The model is a plain bytearray (or, for huge disks, a dictionary of pieces); it
knows nothing of chunks, leaves or trees.
"""

import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.repositories import CHUNK, LEAF, from_bytes, from_pieces, make_repository, pack_refs, reopen
from vmkeep.ranges import ByteRange, normalise
from vmkeep.repository.packs import Kind
from vmkeep.repository.reader import DiskMap
from vmkeep.repository.repository import Repository
from vmkeep.repository.writer import WrittenMap

# Sizes around every boundary, and in between; never a multiple of the chunk only.
SIZES = st.one_of(
    st.integers(0, 3 * CHUNK),
    st.sampled_from([CHUNK - 1, CHUNK, CHUNK + 1, LEAF - 1, LEAF, LEAF + 1, 2 * LEAF, 2 * LEAF + 513]),
    st.integers(LEAF, 3 * LEAF),
)
# Seeds, so that equal contents in different places occur.
PIECES = st.lists(
    st.tuples(st.integers(0, 3 * LEAF), st.integers(1, 5 * CHUNK), st.integers(0, 3)), max_size=6
)
Piece = tuple[int, int, int]


def _piece(seed: int, length: int) -> bytes:
    # 0 stands for zeros written on purpose, 1 for what compresses well.
    if seed == 0:
        return bytes(length)
    if seed == 1:
        return (b"text that repeats " * (length // 18 + 1))[:length]
    return random.Random(seed).randbytes(length)


def _fill(content: bytearray, pieces: list[Piece]) -> list[ByteRange]:
    """Write pieces into the model; return what was touched."""
    touched = []
    for offset, length, seed in pieces:
        length = min(length, len(content) - offset)
        if length > 0:
            content[offset : offset + length] = _piece(seed, length)
            touched.append(ByteRange(offset, length))
    return normalise(touched)


def _whole(size: int) -> list[ByteRange]:
    return [ByteRange(0, size)] if size else []


def _write(
    repository: Repository,
    content: bytes,
    ranges: list[ByteRange],
    base: DiskMap | None = None,
    *,
    inherit: bool = False,
) -> WrittenMap:
    with repository.writer(os.urandom(16).hex()) as writer:
        written = writer.write_map(from_bytes(content), len(content), ranges, base=base, inherit=inherit)
        writer.flush()
    return written


def _stored_ids(repository: Repository, kind: Kind) -> list[bytes]:
    return [
        slot.id
        for ref in pack_refs(repository.store)
        if ref.kind is kind
        for slot in repository.reader.pack(ref).slots
    ]


def _check_content(repository: Repository, written: WrittenMap, content: bytes) -> None:
    disk = DiskMap(reopen(repository).reader, written.root, written.size)
    assert disk.read_at(0, len(content)) == content


@settings(max_examples=40)
@given(size=SIZES, pieces=PIECES)
def test_what_goes_in_comes_out(size: int, pieces: list[Piece]) -> None:
    content = bytearray(size)
    touched = _fill(content, pieces)
    repository = make_repository()
    by_extents = _write(repository, bytes(content), touched)
    _check_content(repository, by_extents, bytes(content))
    # Reading everything, in a repository that knows nothing else: the same content, the same root
    # (ids are keyed, so within one repository only).
    assert _write(repository, bytes(content), _whole(size)).root == by_extents.root
    assert by_extents.root is None or any(content)
    assert (by_extents.root is None) == (not any(content))


@settings(max_examples=40)
@given(size=SIZES, before=PIECES, after=PIECES, more=PIECES)
def test_every_way_to_the_same_content_gives_the_same_root(
    size: int, before: list[Piece], after: list[Piece], more: list[Piece]
) -> None:
    content = bytearray(size)
    first_touched = _fill(content, before)
    repository = make_repository()
    first = _write(repository, bytes(content), first_touched)
    changed = _fill(content, after)
    # Declared ranges may be wider than what changed, never narrower.
    declared = normalise([*changed, *_fill(bytearray(size), more)])
    base = DiskMap(repository.reader, first.root, size)
    inherited = _write(repository, bytes(content), declared, base, inherit=True)
    compared = _write(repository, bytes(content), _whole(size), base)
    fresh = _write(reopen(repository), bytes(content), normalise([*first_touched, *changed]))
    assert inherited.root == compared.root == fresh.root
    _check_content(repository, inherited, bytes(content))
    assert inherited.bytes_read <= sum(r.length for r in declared) + 2 * CHUNK * len(declared)


@settings(max_examples=25)
@given(size=SIZES, pieces=PIECES, where=st.integers(0, 3 * LEAF))
def test_nothing_is_stored_twice(size: int, pieces: list[Piece], where: int) -> None:
    content = bytearray(size)
    _fill(content, pieces)
    repository = make_repository()
    written = _write(repository, bytes(content), _whole(size))
    for kind in Kind:
        ids = _stored_ids(repository, kind)
        assert len(ids) == len(set(ids)), "no chunk twice within a run"
    packs = pack_refs(repository.store)
    again = _write(reopen(repository), bytes(content), _whole(size))
    assert again.root == written.root
    assert pack_refs(repository.store) == packs, "nor by the next run"
    chunks = {bytes(content[at : at + CHUNK]) for at in range(0, size, CHUNK)}
    assert len(_stored_ids(repository, Kind.CHUNKS)) == len({chunk for chunk in chunks if any(chunk)})


@settings(max_examples=30)
@given(
    pieces=PIECES,
    reads=st.lists(st.tuples(st.integers(0, 3 * LEAF), st.integers(0, 2 * LEAF)), min_size=1, max_size=8),
)
def test_any_part_can_be_read(pieces: list[Piece], reads: list[tuple[int, int]]) -> None:
    content = bytearray(2 * LEAF + 777)
    _fill(content, pieces)
    repository = make_repository()
    written = _write(repository, bytes(content), _whole(len(content)))
    disk = DiskMap(repository.reader, written.root, written.size)
    for offset, length in reads:
        assert disk.read_at(offset, length) == bytes(content[offset : offset + length])


def test_the_two_zeros_are_one() -> None:
    # Zeros that were read and zeros that were never looked at: one map, and no chunk.
    repository = make_repository()
    for ranges in ([], [ByteRange(0, 2 * LEAF)], [ByteRange(5, 1)]):
        assert _write(repository, bytes(2 * LEAF), ranges).root is None
    assert pack_refs(repository.store) == set()
    assert _write(repository, b"", []).root is None
    assert DiskMap(repository.reader, None, 0).read_at(0, 10) == b""


def test_size_is_part_of_what_a_root_proves() -> None:
    # The last chunk's id is over its own bytes only.
    repository = make_repository()
    short, long = bytes([7]) * (CHUNK + 100), bytes([7]) * (CHUNK + 100) + bytes(50)
    assert (
        _write(repository, short, _whole(len(short))).root != _write(repository, long, _whole(len(long))).root
    )


def test_zeroed_again_is_not_stored_at_all() -> None:
    repository = make_repository()
    content = random.Random(5).randbytes(LEAF + CHUNK)
    first = _write(repository, content, _whole(len(content)))
    base = DiskMap(repository.reader, first.root, first.size)
    emptied = _write(repository, bytes(len(content)), _whole(len(content)), base, inherit=True)
    assert emptied.root is None


# --- trees of several levels: with chunks of 16 KiB, 1024 leaves are 1 GiB -----------------

GIB = 1 << 30
TIB = 1 << 40


def _huge(
    repository: Repository,
    size: int,
    pieces: dict[int, bytes],
    base: DiskMap | None = None,
    changed: list[int] | None = None,
) -> WrittenMap:
    ranges = normalise(ByteRange(at, len(pieces[at])) for at in (pieces if changed is None else changed))
    with repository.writer(os.urandom(16).hex()) as writer:
        written = writer.write_map(from_pieces(pieces), size, ranges, base=base, inherit=base is not None)
        writer.flush()
    return written


def _is_free(at: int, length: int, pieces: dict[int, bytes], size: int) -> bool:
    taken = [(start, start + len(piece)) for start, piece in pieces.items()]
    return at + length <= size and all(at + length <= low or high <= at for low, high in taken)


@pytest.mark.parametrize(
    ("size", "level"),
    [(5 * GIB + 12345, 2), (GIB + 1, 2), (3 * TIB + 7, 3)],
    ids=["5 GiB", "just two levels", "3 TiB"],
)
def test_huge_sparse_disks(seed: int, size: int, level: int) -> None:
    rng = random.Random(seed)
    places = {0, size - 100, GIB - 50, *(rng.randrange(size - CHUNK) for _ in range(12))}
    pieces: dict[int, bytes] = {}
    end = 0
    for place in sorted(places):
        if place >= end:
            # The last one reaches the end.
            length = size - place if place == size - 100 else rng.randrange(1, CHUNK)
            pieces[place] = rng.randbytes(min(length, size - place))
            end = place + 2 * CHUNK
    repository = make_repository()
    first = _huge(repository, size, pieces)
    disk = DiskMap(reopen(repository).reader, first.root, size)
    assert disk.level == level
    for at, piece in pieces.items():
        assert disk.read_at(at, len(piece)) == piece
        assert at == 0 or disk.read_at(at - 1, 1) == b"\0"
    assert disk.read_at(size - 5, 100) == pieces[size - 100][-5:]
    # An increment far away from the rest, and a fresh write of the same content, agree.
    added = next(at for at in (rng.randrange(size) for _ in range(99)) if _is_free(at, 300, pieces, size))
    after = dict(sorted((pieces | {added: b"new" * 100}).items()))
    increment = _huge(repository, size, after, DiskMap(repository.reader, first.root, size), [added])
    assert increment.root == _huge(reopen(repository), size, after).root != first.root
    changed = DiskMap(reopen(repository).reader, increment.root, size)
    assert changed.read_at(added, 300) == b"new" * 100
    for at, piece in after.items():
        assert changed.read_at(at, len(piece)) == piece


def test_increment_of_a_huge_disk_touches_few_nodes(seed: int) -> None:
    rng = random.Random(seed)
    size = 40 * GIB
    pieces = {n * GIB + 5: rng.randbytes(100) for n in range(40)}
    repository = make_repository()
    first = _huge(repository, size, pieces)
    before = len(_stored_ids(repository, Kind.NODES))
    pieces[17 * GIB + 5] = rng.randbytes(100)
    second = _huge(repository, size, pieces, DiskMap(repository.reader, first.root, size), [17 * GIB + 5])
    # One leaf, one node above it, one root.
    assert len(_stored_ids(repository, Kind.NODES)) == before + 3
    assert second.bytes_read == CHUNK


def test_map_of_another_size_is_not_inherited() -> None:
    repository = make_repository()
    first = _write(repository, bytes([1]) * CHUNK, _whole(CHUNK))
    with pytest.raises(ValueError, match="same size"):
        _write(
            repository,
            bytes([1]) * (CHUNK + 1),
            [],
            DiskMap(repository.reader, first.root, CHUNK),
            inherit=True,
        )


def test_error_of_the_source_ends_the_run_and_stores_nothing() -> None:
    repository = make_repository(pack_size=16 << 20)

    def failing(offset: int, view: memoryview) -> None:
        if offset >= LEAF:
            raise OSError("the disk went away")
        view[:] = random.Random(offset).randbytes(len(view))

    writer = repository.writer("ef" * 16)
    with pytest.raises(OSError, match="went away"), writer:
        writer.write_map(failing, 6 * LEAF, _whole(6 * LEAF))
    assert pack_refs(repository.store) == set()
