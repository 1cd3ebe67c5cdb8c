"""Whatever the layers and their bitmaps: a chain reads as the plain model says."""

import random
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.generators.vhd_bytes import DIFFERENCING, DYNAMIC, Block, Sparse, apply, fixed
from vmkeep.formats.disk import Disk
from vmkeep.formats.errors import CorruptDisk
from vmkeep.formats.mapping import map_disk
from vmkeep.formats.parents import FindParent, ParentReference
from vmkeep.formats.source import BytesSource
from vmkeep.formats.vhd import open_vhd
from vmkeep.ranges import ByteRange, complement, join_sorted

pytestmark = pytest.mark.quick


def over(parent: Disk | None) -> FindParent:
    def find(reference: ParentReference) -> Disk | None:
        return parent

    return find


def bits_of(draw: st.DrawFn, sectors: int) -> list[bool]:
    """All, none, stripes, runs or noise: a bitmap a real or hostile writer could leave."""
    shape = draw(st.sampled_from(["all", "none", "odd", "runs", "noise"]))
    if shape == "all":
        return [True] * sectors
    if shape == "none":
        return [False] * sectors
    if shape == "odd":
        return [bool(sector % 2) for sector in range(sectors)]
    seed = draw(st.integers(0, 1 << 16))
    rng = random.Random(seed)
    if shape == "noise":
        return [rng.random() < 0.5 for _ in range(sectors)]
    bits: list[bool] = []
    while len(bits) < sectors:
        bits += [rng.random() < 0.5] * rng.randint(1, 40)
    return bits[:sectors]


@st.composite
def layers(draw: st.DrawFn) -> tuple[bytes, list[Sparse | bytes]]:
    """A chain, base first: (what the guest sees, layers)."""
    sectors = draw(st.integers(1, 160))
    chain: list[Sparse | bytes] = []
    rng = random.Random(draw(st.integers(0, 1 << 16)))
    seen = b""
    if draw(st.booleans()):
        seen = rng.randbytes(sectors * 512)
        chain.append(seen)
    for depth in range(draw(st.integers(0 if chain else 1, 4))):
        if depth and draw(st.booleans()):
            sectors = max(1, sectors + draw(st.integers(-20, 20)))
        block_size = 512 << draw(st.integers(0, 7))
        count = -(-sectors * 512 // block_size)
        numbers = draw(st.lists(st.integers(0, count - 1), unique=True, max_size=count))
        blocks = {
            number: Block(bits_of(draw, block_size // 512), rng.randbytes(block_size)) for number in numbers
        }
        layer = Sparse(
            size=sectors * 512,
            block_size=block_size,
            blocks=blocks,
            disk_id=UUID(int=100 + len(chain)),
            kind=DIFFERENCING if chain else DYNAMIC,
            parent_id=UUID(int=99 + len(chain)),
            parent_name="C:\\parent.vhd",
            spare_entries=draw(st.integers(0, 3)),
            gap=draw(st.sampled_from([0, 512, 3584])),
        )
        seen = apply(seen, layer)
        chain.append(layer)
    return seen, chain


def file_of(layer: Sparse | bytes) -> bytes:
    return fixed(layer, UUID(int=100)) if isinstance(layer, bytes) else bytes(layer.build())


def open_chain(chain: list[Sparse | bytes]) -> Disk:
    disk: Disk | None = None
    for depth, layer in enumerate(chain):
        disk = open_vhd(BytesSource(file_of(layer), f"layer{depth}.vhd"), over(disk))
    assert disk is not None
    return disk


@given(made=layers(), data=st.data())
@settings(max_examples=250, deadline=None)
def test_a_chain_reads_as_the_model(made: tuple[bytes, list[Sparse | bytes]], data: st.DataObject) -> None:
    seen, chain = made
    with open_chain(chain) as disk:
        assert disk.profile.size == len(seen)
        assert disk.read_at(0, len(seen)) == seen
        for _ in range(8):
            low = data.draw(st.integers(0, len(seen)))
            high = data.draw(st.integers(low, len(seen)))
            buffer = bytearray(b"\xaa" * (high - low))  # not zeros: all of it must be filled
            disk.read_into(low, memoryview(buffer))
            assert buffer == seen[low:high]


@given(made=layers(), data=st.data())
@settings(max_examples=150, deadline=None)
def test_outside_the_extents_are_only_zeros(
    made: tuple[bytes, list[Sparse | bytes]], data: st.DataObject
) -> None:
    seen, chain = made
    low = data.draw(st.integers(0, len(seen)))
    high = data.draw(st.integers(low, len(seen)))
    with open_chain(chain) as disk:
        everything = list(disk.extents())
        part = list(disk.extents(low, high))
    assert all(not any(seen[hole.offset : hole.end]) for hole in complement(everything, len(seen)))
    require_range_list(everything, 0, len(seen))
    require_range_list(part, low, high)
    holes = [ByteRange(low + r.offset, r.length) for r in complement(shifted(part, -low), high - low)]
    assert all(not any(seen[hole.offset : hole.end]) for hole in holes)


@given(made=layers())
@settings(max_examples=100, deadline=None)
def test_a_layer_claims_exactly_its_own_sectors(made: tuple[bytes, list[Sparse | bytes]]) -> None:
    seen, chain = made
    top = chain[-1]
    with open_chain(chain) as disk:
        claimed = list(disk.layer_extents())
    require_range_list(claimed, 0, len(seen))
    if isinstance(top, bytes) or top.kind == DYNAMIC:
        assert claimed == [ByteRange(0, len(seen))]
        return
    own = bytearray(top.size // 512)
    for number, block in top.blocks.items():
        for sector, bit in enumerate(block.bits):
            at = number * (top.block_size // 512) + sector
            if bit and at < len(own):
                own[at] = 1
    marked = bytearray(len(own))
    for piece in claimed:
        assert piece.offset % 512 == 0 and piece.length % 512 == 0
        marked[piece.offset // 512 : piece.end // 512] = b"\1" * (piece.length // 512)
    assert marked == own


@given(made=layers(), data=st.data())
@settings(max_examples=150, deadline=None)
def test_each_byte_lies_where_the_map_says(
    made: tuple[bytes, list[Sparse | bytes]], data: st.DataObject
) -> None:
    seen, chain = made
    low = data.draw(st.integers(0, len(seen) - 1))
    high = data.draw(st.integers(low + 1, len(seen)))
    for start, end in ((0, len(seen)), (low, high)):
        with open_chain(chain) as disk:
            pieces = list(map_disk(disk, start, end))
        assert (pieces[0].start, pieces[-1].end) == (start, end)
        for piece, right in pairwise(pieces):
            assert piece.end == right.start and piece.joined(right) is None
        for piece in pieces:
            expected = seen[piece.start : piece.end]
            layer = len(chain) - 1 - piece.depth
            assert piece.file == f"layer{layer}.vhd"
            if piece.kind == "zero":
                assert piece.place is None and not any(expected)
                continue
            assert piece.kind == "data" and piece.place is not None
            stored = file_of(chain[layer])
            assert stored[piece.place : piece.place + len(expected)] == expected


@given(made=layers())
@settings(max_examples=100, deadline=None)
def test_the_map_of_a_layer_alone_tells_exactly_its_own_sectors(
    made: tuple[bytes, list[Sparse | bytes]],
) -> None:
    seen, chain = made
    with open_chain(chain) as disk:
        pieces = list(map_disk(disk, layer_only=True))
        claimed = list(disk.layer_extents())
    assert (pieces[0].start, pieces[-1].end) == (0, len(seen))
    assert all(piece.end == right.start for piece, right in pairwise(pieces))
    assert {(piece.depth, piece.file) for piece in pieces} == {(0, f"layer{len(chain) - 1}.vhd")}
    own = [ByteRange(piece.start, piece.end - piece.start) for piece in pieces if piece.kind != "parent"]
    assert list(join_sorted(own)) == claimed


def shifted(ranges: list[ByteRange], by: int) -> list[ByteRange]:
    return [ByteRange(r.offset + by, r.length) for r in ranges]


def require_range_list(ranges: list[ByteRange], low: int, high: int) -> None:
    """Ascending, not touching, not empty, inside."""
    at = low - 1
    for piece in ranges:
        assert piece.offset > at and piece.length > 0 and piece.end <= high
        at = piece.end


@given(flip=st.integers(0, 1024 * 8 - 1), where=st.sampled_from(["end", "start", "header"]))
@settings(max_examples=200, deadline=None)
def test_a_flipped_bit_in_a_footer_or_header_never_changes_a_byte(flip: int, where: str) -> None:
    rng = random.Random(flip)
    layer = Sparse(16 * 512, 2048, {2: Block([True, False, True, True], rng.randbytes(2048))}, UUID(int=7))
    data = layer.build()
    if where == "header":
        data[512 + flip // 8] ^= 1 << flip % 8
        with pytest.raises(CorruptDisk):
            open_vhd(BytesSource(bytes(data)), over(None))
        return
    data[(0 if where == "start" else len(data) - 512) + flip // 16] ^= 1 << flip % 8
    assert open_vhd(BytesSource(bytes(data)), over(None)).read_at(0, layer.size) == apply(b"", layer)
