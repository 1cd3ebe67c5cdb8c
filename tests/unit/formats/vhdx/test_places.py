"""A block is used only from a place that is its own: [MS-VHDX] 2.2.3, 2.4 and 2.5.1.1."""

import random
import tracemalloc
from collections.abc import Iterator
from uuid import UUID

import pytest

from tests.generators import vhdx_bytes as gen
from vmkeep.formats.disk import Disk
from vmkeep.formats.errors import CorruptDisk
from vmkeep.formats.parents import ParentReference
from vmkeep.formats.source import BytesSource
from vmkeep.formats.vhdx import VhdxDisk, open_vhdx
from vmkeep.formats.vhdx.blocks import BlockTable
from vmkeep.formats.vhdx.geometry import Geometry
from vmkeep.ranges import ByteRange

pytestmark = pytest.mark.quick

A, B, C, D = (random.Random(n).randbytes(gen.MIB) for n in range(4))
LOCATOR = [("parent_linkage", str(UUID(int=0xDA7A))), ("relative_path", "p.vhdx")]


def opened(made: gen.Made) -> VhdxDisk:
    def find(reference: ParentReference) -> Disk:
        return opened(gen.make_vhdx(disk_size=gen.MIB))

    return open_vhdx(BytesSource(made.data, "disk.vhdx"), find)


def four_blocks() -> gen.Made:
    blocks = {n: gen.Block(gen.FULL, data) for n, data in enumerate((A, B, C, D))}
    return gen.make_vhdx(disk_size=4 * gen.MIB, blocks=blocks)


def refused(disk: Disk, block: int, size: int = gen.MIB) -> CorruptDisk:
    with pytest.raises(CorruptDisk) as caught:
        disk.read_at(block * size + 512, 512)
    return caught.value


@pytest.mark.parametrize(
    ("what", "named"), [("log", "log"), ("bat", "block table"), ("metadata", "metadata")]
)
def test_a_block_on_a_structure_is_refused(what: str, named: str) -> None:
    made = four_blocks()
    made.set_u64(made.entry_at(3), getattr(made, what) | gen.FULL)
    disk = opened(made)
    error = refused(disk, 3)
    assert named in error.message
    assert (error.file, error.offset) == ("disk.vhdx", made.entry_at(3))
    assert error.rule == "[MS-VHDX] 2.5.1.1 FileOffsetMB"
    assert disk.read_at(0, 3 * gen.MIB) == A + B + C
    with pytest.raises(CorruptDisk):
        list(disk.extents())
    with pytest.raises(CorruptDisk):
        disk.read_at(0, 4 * gen.MIB)


def test_a_block_that_reaches_into_a_structure_is_refused() -> None:
    blocks = {n: gen.Block(gen.FULL, A * 4) for n in range(2)}
    made = gen.make_vhdx(disk_size=8 * gen.MIB, block_size=4 * gen.MIB, blocks=blocks)
    # The table moves behind a gap of one MiB that a block of four cannot fill.
    table = len(made.data)
    made.put(table, bytes(made.data[made.bat : made.bat + gen.MIB]))
    regions = [(gen.BAT_GUID, table, gen.MIB, 1), made.regions[1]]
    for slot in (192 * gen.KIB, 256 * gen.KIB):
        made.put(slot, gen.region_table(regions))
    made.put(table + gen.MIB, bytes(8 * gen.MIB))
    assert opened(made).read_at(4 * gen.MIB, 512) == A[:512]
    made.set_u64(table + 8, (table - gen.MIB) | gen.FULL)
    assert "block table" in refused(opened(made), 1, 4 * gen.MIB).message


def test_a_block_on_a_region_nobody_knows_is_refused() -> None:
    made = four_blocks()
    made.regions.append((str(UUID(int=7)), made.places[2], gen.MIB, 0))
    for slot in (192 * gen.KIB, 256 * gen.KIB):
        made.put(slot, gen.region_table(made.regions))
    disk = opened(made)
    assert str(UUID(int=7)) in refused(disk, 2).message
    assert disk.read_at(0, 2 * gen.MIB) == A + B


def test_of_two_blocks_in_one_place_neither_is_read() -> None:
    made = four_blocks()
    made.set_u64(made.entry_at(2), made.places[0] | gen.FULL)
    disk = opened(made)
    for block in (0, 2):
        error = refused(disk, block)
        assert "another block" in error.message
        assert error.offset == made.entry_at(block)
    assert disk.read_at(gen.MIB, gen.MIB) == B
    assert disk.read_at(3 * gen.MIB, gen.MIB) == D
    with pytest.raises(CorruptDisk):
        list(disk.extents())


def test_blocks_that_overlap_in_part_are_refused() -> None:
    blocks = {n: gen.Block(gen.FULL, A * 2) for n in range(3)}
    made = gen.make_vhdx(disk_size=6 * gen.MIB, block_size=2 * gen.MIB, blocks=blocks)
    made.put(len(made.data), bytes(gen.MIB))
    made.set_u64(made.entry_at(1), (made.places[0] + gen.MIB) | gen.FULL)
    made.set_u64(made.entry_at(2), (len(made.data) - 2 * gen.MIB) | gen.FULL)
    made.put(len(made.data), bytes(2 * gen.MIB))
    made.set_u64(made.entry_at(2), (len(made.data) - 2 * gen.MIB) | gen.FULL)
    disk = opened(made)
    refused(disk, 0, 2 * gen.MIB)
    refused(disk, 1, 2 * gen.MIB)
    assert disk.read_at(4 * gen.MIB, gen.MIB) == bytes(gen.MIB)


def test_one_place_named_in_distant_parts_of_the_table_is_refused() -> None:
    """The entries are 140000 apart, in parts of the table that are not read together."""
    blocks = {0: gen.Block(gen.FULL, A), 140000: gen.Block(gen.FULL, B), 140001: gen.Block(gen.FULL, C)}
    made = gen.make_vhdx(disk_size=150000 * gen.MIB, blocks=blocks)
    made.set_u64(made.entry_at(140000), made.places[0] | gen.FULL)
    with pytest.raises(CorruptDisk):
        list(opened(made).extents())
    disk = opened(made)
    assert disk.read_at(140001 * gen.MIB, gen.MIB) == C
    first = opened(made)
    assert first.read_at(0, gen.MIB) == A  # nothing else was looked at yet
    refused(first, 140000)
    refused(first, 0)


@pytest.mark.parametrize("state", [gen.UNDEFINED, gen.UNMAPPED, gen.ZERO, gen.NOT_PRESENT])
def test_a_former_place_takes_nothing_away(state: int) -> None:
    made = four_blocks()
    made.set_u64(made.entry_at(1), made.places[0] | state)
    made.set_u64(made.entry_at(2), made.bat | state)
    assert opened(made).read_at(0, 4 * gen.MIB) == A + bytes(2 * gen.MIB) + D


def test_entries_beyond_the_end_of_the_disk_take_nothing_away() -> None:
    made = gen.make_vhdx(
        disk_size=2 * gen.MIB,
        blocks={0: gen.Block(gen.FULL, A), 1: gen.Block(gen.FULL, B)},
        has_parent=True,
        locator=LOCATOR,
    )
    made.set_u64(made.entry_at(2), made.places[0] | gen.FULL)
    made.set_u64(made.bat + made.bat_length - 8, made.places[1] | gen.FULL)
    assert opened(made).read_at(0, 2 * gen.MIB) == A + B


def partial_child() -> gen.Made:
    blocks = {n: gen.Block(gen.PARTIAL, A, frozenset({1})) for n in (0, 4096)}
    blocks[1] = gen.Block(gen.FULL, B)
    return gen.make_vhdx(disk_size=5000 * gen.MIB, blocks=blocks, has_parent=True, locator=LOCATOR)


@pytest.mark.parametrize("what", ["log", "bat", "metadata", "block", "bitmap"])
def test_a_bitmap_in_a_place_of_something_else_is_refused(what: str) -> None:
    made = partial_child()
    places = {"block": made.places[1], "bitmap": made.bitmap_places[1]}
    made.set_u64(made.bitmap_entry_at(0), places.get(what, getattr(made, what, 0)) | 6)
    disk = opened(made)
    if what == "bitmap":
        refused(disk, 4096)
    error = refused(disk, 0)
    assert error.offset == made.bitmap_entry_at(0)
    assert error.rule == "[MS-VHDX] 2.5.1.2 FileOffsetMB"
    with pytest.raises(CorruptDisk):
        list(opened(made).extents())
    with pytest.raises(CorruptDisk):
        list(opened(made).layer_extents())


def test_a_block_on_the_bitmap_of_its_chunk_is_refused_before_the_bitmap_was_used() -> None:
    made = partial_child()
    made.set_u64(made.entry_at(1), made.bitmap_places[0] | gen.FULL)
    disk = opened(made)
    error = refused(disk, 1)
    assert "another block" in error.message
    assert error.offset == made.entry_at(1)
    refused(disk, 0)
    assert disk.read_at(4096 * gen.MIB, 1024)[512:] == A[512:1024]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_block_on_a_bitmap_is_refused_where_the_chunk_is_in_two_parts_of_the_table(
    order: tuple[int, int],
) -> None:
    """The table is read by 131072 entries; those of chunk 31 are 127007 to 131103, the bitmap's at last."""
    mixed, full = 31 * 4096, 31 * 4096 + 4095
    blocks = {mixed: gen.Block(gen.PARTIAL, A, frozenset({1})), full: gen.Block(gen.FULL, B)}
    made = gen.make_vhdx(disk_size=33 * 4096 * gen.MIB, blocks=blocks, has_parent=True, locator=LOCATOR)
    assert made.entry_at(mixed) < made.bat + gen.MIB <= made.entry_at(full)
    sound = opened(made)
    assert sound.read_at(full * gen.MIB, gen.MIB) == B
    made.set_u64(made.entry_at(full), made.bitmap_places[31] | gen.FULL)
    disk = opened(made)
    one, other = ((mixed, full)[n] for n in order)
    if one == full:
        disk.read_at(full * gen.MIB, 512)  # the mixed block was not looked at yet
    else:
        refused(disk, mixed)
    refused(disk, other)
    refused(disk, one)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_bitmap_takes_its_place_once_where_its_chunk_is_in_two_parts_of_the_table(
    order: tuple[int, int],
) -> None:
    mixed = (31 * 4096, 31 * 4096 + 4095)
    blocks = {n: gen.Block(gen.PARTIAL, A, frozenset({1})) for n in mixed}
    made = gen.make_vhdx(disk_size=33 * 4096 * gen.MIB, blocks=blocks, has_parent=True, locator=LOCATOR)
    disk = opened(made)
    for n in order:
        assert disk.read_at(mixed[n] * gen.MIB + 512, 512) == A[512:1024]


def test_a_bitmap_that_is_not_used_takes_nothing_away() -> None:
    made = gen.make_vhdx(
        disk_size=2 * gen.MIB, blocks={0: gen.Block(gen.FULL, A)}, has_parent=True, locator=LOCATOR
    )
    made.set_u64(made.bitmap_entry_at(0), made.places[0] | 6)
    assert opened(made).read_at(0, gen.MIB) == A


def far_apart(count: int) -> gen.Made:
    """A file of 66 TiB that says so only in its log, with blocks of 256 MiB all over it."""
    block = 256 * gen.MIB
    ring = gen.ring_of({0: gen.log_entry(7, 0, [], last=66 * gen.TIB)})
    made = gen.make_vhdx(
        disk_size=count * block, block_size=block, log_guid=gen.LOG_GUID, log_ring=bytes(ring)
    )
    for n in range(count):
        made.set_u64(made.entry_at(n), (n + 1) * 64 * gen.GIB | gen.FULL)
    return made


def test_distant_places_take_no_memory_for_what_lies_between_them() -> None:
    made = far_apart(1000)
    tracemalloc.start()
    disk = opened(made)
    assert list(disk.extents()) == []  # all of them lie beyond the bytes there are
    assert list(disk.check()) != []
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 6 * gen.MIB


class Counted(list[tuple[ByteRange, str]]):
    """Counts how often it was walked through."""

    walks = 0

    def __iter__(self) -> Iterator[tuple[ByteRange, str]]:
        self.walks += 1
        return super().__iter__()


def test_the_structures_are_looked_at_once_and_not_for_each_block() -> None:
    """Two thousand regions beyond the blocks, in any order, are allowed: [MS-VHDX] 2.2.3."""
    made = four_blocks()
    image = BytesSource(made.data, "disk.vhdx")
    regions = [(ByteRange((2000 - n) * gen.GIB, gen.MIB), f"region {n}") for n in range(1999)]
    structures = Counted([*regions, (ByteRange(made.bat, gen.MIB), "the table")])
    geometry = Geometry(disk_size=4 * gen.MIB, block_size=gen.MIB, sector=512, has_parent=False)
    table = BlockTable(image, ByteRange(made.bat, gen.MIB), geometry, structures)
    assert len(list(table.spans(0, 4 * gen.MIB))) >= 1
    assert structures.walks == 1
    made.set_u64(made.entry_at(3), made.bat | gen.FULL)
    table = BlockTable(image, ByteRange(made.bat, gen.MIB), geometry, structures)
    with pytest.raises(CorruptDisk, match="on top of the table"):
        list(table.spans(0, 4 * gen.MIB))
