"""Which file of a chain holds each byte, and where: places known from how the files were laid out."""

import random
import tracemalloc
from uuid import UUID

import pytest

from tests.generators import vhd_bytes as vhd
from tests.generators import vhdx_bytes as gen
from vmkeep.formats.disk import Disk
from vmkeep.formats.errors import CorruptDisk, ParentMissing, TruncatedDisk
from vmkeep.formats.mapping import Piece, map_disk
from vmkeep.formats.parents import FindParent, ParentReference, no_parents
from vmkeep.formats.raw import open_raw
from vmkeep.formats.source import BytesSource
from vmkeep.formats.vhd import open_vhd
from vmkeep.formats.vhdx import VhdxDisk, open_vhdx

pytestmark = pytest.mark.quick

BLOCK = gen.MIB
DATA = random.Random(1).randbytes(BLOCK)
LINK = UUID(int=7)


def over(disk: Disk | None) -> FindParent:
    def find(reference: ParentReference) -> Disk | None:
        return disk

    return find


def opened(made: gen.Made, name: str, parent: Disk | None = None) -> VhdxDisk:
    return open_vhdx(BytesSource(made.data, name), over(parent), complete=False)


def base(size: int = 4 * BLOCK) -> gen.Made:
    """Blocks 0 and 1 are there, in neighbouring places; the others were never written."""
    blocks = {n: gen.Block(gen.FULL, DATA) for n in (0, 1)}
    return gen.make_vhdx(disk_size=size, blocks=blocks, write_guid=LINK)


def child(blocks: dict[int, gen.Block], size: int = 4 * BLOCK) -> gen.Made:
    locator = [("parent_linkage", str(LINK)), ("relative_path", "base.vhdx")]
    return gen.make_vhdx(disk_size=size, blocks=blocks, has_parent=True, locator=locator)


def test_a_raw_disk_is_one_piece_of_its_file() -> None:
    disk = open_raw(BytesSource(bytes(1024), "disk.raw"))
    assert list(map_disk(disk)) == [Piece(0, 1024, "data", 0, "disk.raw", 0)]
    assert list(map_disk(disk, 512, 2048)) == [Piece(512, 1024, "data", 0, "disk.raw", 512)]
    assert list(map_disk(disk, 1024)) == []


def test_neighbouring_blocks_are_one_piece_only_where_their_places_are_neighbours_too() -> None:
    made = base()
    end = len(made.data)
    made.put(end, DATA + DATA)
    for block, place in ((0, end), (1, end + BLOCK)):
        made.set_u64(made.entry_at(block), place | gen.FULL)
    zeros = Piece(2 * BLOCK, 4 * BLOCK, "zero", 0, "base.vhdx", None)
    whole = Piece(0, 2 * BLOCK, "data", 0, "base.vhdx", end)
    assert list(map_disk(opened(made, "base.vhdx"))) == [whole, zeros]
    for block, place in ((1, end), (0, end + BLOCK)):
        made.set_u64(made.entry_at(block), place | gen.FULL)
    halves = [
        Piece(0, BLOCK, "data", 0, "base.vhdx", end + BLOCK),
        Piece(BLOCK, 2 * BLOCK, "data", 0, "base.vhdx", end),
    ]
    assert list(map_disk(opened(made, "base.vhdx"))) == [*halves, zeros]


def test_a_child_holds_its_sectors_and_leaves_the_others_to_its_parent() -> None:
    below = base()
    blocks = {0: gen.Block(gen.PARTIAL, DATA, frozenset({3, 4})), 1: gen.Block(gen.ZERO)}
    above = child(blocks)
    disk = opened(above, "child.avhdx", opened(below, "base.vhdx"))
    place = below.places[0]
    assert list(map_disk(disk)) == [
        Piece(0, 1536, "data", 1, "base.vhdx", place),
        Piece(1536, 2560, "data", 0, "child.avhdx", above.places[0] + 1536),
        Piece(2560, BLOCK, "data", 1, "base.vhdx", place + 2560),
        Piece(BLOCK, 2 * BLOCK, "zero", 0, "child.avhdx", None),
        Piece(2 * BLOCK, 4 * BLOCK, "zero", 1, "base.vhdx", None),
    ]
    assert list(map_disk(disk, 2000, 3000)) == [
        Piece(2000, 2560, "data", 0, "child.avhdx", above.places[0] + 2000),
        Piece(2560, 3000, "data", 1, "base.vhdx", place + 2560),
    ]


def test_what_a_child_has_beyond_its_parent_is_zero_by_the_childs_word() -> None:
    disk = opened(child({}, 6 * BLOCK), "child.avhdx", opened(base(2 * BLOCK), "base.vhdx"))
    pieces = list(map_disk(disk, BLOCK))
    assert [(piece.start, piece.end, piece.kind, piece.depth) for piece in pieces] == [
        (BLOCK, 2 * BLOCK, "data", 1),
        (2 * BLOCK, 6 * BLOCK, "zero", 0),
    ]


def test_a_layer_alone_is_told_without_its_parent_and_the_chain_is_not() -> None:
    blocks = {1: gen.Block(gen.FULL, DATA), 2: gen.Block(gen.UNMAPPED)}
    made = child(blocks)
    disk = opened(made, "child.avhdx")
    assert list(map_disk(disk, layer_only=True)) == [
        Piece(0, BLOCK, "parent", 0, "child.avhdx", None),
        Piece(BLOCK, 2 * BLOCK, "data", 0, "child.avhdx", made.places[1]),
        Piece(2 * BLOCK, 3 * BLOCK, "zero", 0, "child.avhdx", None),
        Piece(3 * BLOCK, 4 * BLOCK, "parent", 0, "child.avhdx", None),
    ]
    with pytest.raises(ParentMissing, match=r"base\.vhdx"):
        list(map_disk(disk))
    assert [piece.kind for piece in map_disk(disk, BLOCK, 3 * BLOCK)] == ["data", "zero"]


def test_bytes_that_only_the_log_has_are_at_no_place_of_the_file() -> None:
    made = gen.make_vhdx(disk_size=BLOCK, blocks={0: gen.Block(gen.FULL, DATA)}, log_guid=gen.LOG_GUID)
    place = made.places[0]
    page = bytes(range(256)) * 16
    writes: list[gen.Write] = [gen.data_write(place + 8192, page), gen.zero_write(place + 16384, 8192)]
    size = len(made.data)
    made.put(made.log, bytes(gen.ring_of({0: gen.log_entry(5, 0, writes, flushed=size, last=size)})))
    disk = opened(made, "dirty.vhdx")
    assert disk.read_at(8192, 4096) == page
    told = [(piece.start, piece.end, piece.kind, piece.place) for piece in map_disk(disk)]
    assert told == [
        (0, 8192, "data", place),
        (8192, 12288, "data", None),
        (12288, 16384, "data", place + 12288),
        (16384, 24576, "zero", None),
        (24576, BLOCK, "data", place + 24576),
    ]


def test_a_block_beyond_the_end_that_a_log_grew_is_zero() -> None:
    """The file was cut at its stable size; the log says how long it is by right."""
    made = gen.make_vhdx(disk_size=BLOCK, blocks={0: gen.Block(gen.FULL, DATA)}, log_guid=gen.LOG_GUID)
    size, place = len(made.data), made.places[0]
    assert place + BLOCK == size
    entry = gen.log_entry(5, 0, [gen.data_write(made.bat, made.page(made.bat))], flushed=place, last=size)
    made.put(made.log, bytes(gen.ring_of({0: entry})))
    del made.data[place + 4096 :]
    told = [(piece.start, piece.end, piece.kind, piece.place) for piece in map_disk(opened(made, "cut.vhdx"))]
    assert told == [(0, 4096, "data", place), (4096, BLOCK, "zero", None)]


def test_unused_sectors_of_a_dynamic_vhd_are_zero_and_those_of_a_child_its_parents() -> None:
    layer = vhd.Sparse(8192, 4096, {1: vhd.Block([True, False] * 4, DATA[:4096])}, UUID(int=1))
    below = open_vhd(BytesSource(bytes(layer.build()), "base.vhd"), no_parents)
    place = layer.places[1] + 512
    assert list(map_disk(below, 4096, 6144)) == [
        Piece(4096, 4608, "data", 0, "base.vhd", place),
        Piece(4608, 5120, "zero", 0, "base.vhd", None),
        Piece(5120, 5632, "data", 0, "base.vhd", place + 1024),
        Piece(5632, 6144, "zero", 0, "base.vhd", None),
    ]
    top = vhd.Sparse(
        8192, 4096, {1: vhd.Block([False, True] + [False] * 6, DATA[:4096])}, UUID(int=2), vhd.DIFFERENCING,
        UUID(int=1), parent_name="base.vhd",
    )  # fmt: skip
    disk = open_vhd(BytesSource(bytes(top.build()), "top.avhd"), over(below))
    assert list(map_disk(disk, 4096, 5632)) == [
        Piece(4096, 4608, "data", 1, "base.vhd", place),
        Piece(4608, 5120, "data", 0, "top.avhd", top.places[1] + 512 + 512),
        Piece(5120, 5632, "data", 1, "base.vhd", place + 1024),
    ]


def test_damage_is_told_where_it_is_reached_and_what_lies_before_it_first() -> None:
    made = gen.make_vhdx(disk_size=4 * BLOCK, blocks={3: gen.Block(gen.FULL, DATA)})
    made.set_u64(made.entry_at(2), 5)
    pieces = map_disk(opened(made, "disk.vhdx"), 0, 2 * BLOCK)
    assert [piece.kind for piece in pieces] == ["zero"]
    with pytest.raises(CorruptDisk, match="reserved state"):
        list(map_disk(opened(made, "disk.vhdx")))
    made.set_u64(made.entry_at(2), 1 << 50 | gen.FULL)
    with pytest.raises(TruncatedDisk):
        list(map_disk(opened(made, "disk.vhdx")))


def comb(layers: int, blocks: int) -> Disk:
    """A chain in which each file holds every second of the sectors left to it: the most pieces there are."""
    disk: Disk | None = None
    for number in range(layers):
        step = 2 ** (layers - number)
        here = frozenset(range(step // 2 - 1, 2048, step))
        stored = {n: gen.Block(gen.PARTIAL if number else gen.FULL, DATA, here) for n in range(blocks)}
        locator = [("parent_linkage", str(UUID(int=number))), ("relative_path", "p.vhdx")]
        made = gen.make_vhdx(
            disk_size=blocks * BLOCK, blocks=stored, has_parent=number > 0,
            locator=locator if number else None, write_guid=UUID(int=number + 1),
        )  # fmt: skip
        disk = opened(made, f"{number}.vhdx", disk)
    assert disk is not None
    return disk


def test_memory_does_not_grow_with_the_pieces() -> None:
    disk = comb(3, 6)
    list(map_disk(disk))  # tables and bitmaps are remembered from here on
    peaks = []
    for blocks in (2, 6):
        tracemalloc.start()
        count = sum(1 for _ in map_disk(disk, 0, blocks * BLOCK))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert count == blocks * 2048
    assert peaks[1] < gen.MIB
    assert peaks[1] < peaks[0] * 1.2


def test_a_huge_empty_disk_is_one_piece_and_costs_nothing() -> None:
    layer = vhd.Sparse(1 << 40, 1 << 21, {}, UUID(int=1))
    disk = open_vhd(BytesSource(bytes(layer.build()), "empty.vhd"), no_parents)
    assert list(map_disk(disk)) == [Piece(0, 1 << 40, "zero", 0, "empty.vhd", None)]
