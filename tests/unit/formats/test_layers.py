"""Where a chain may hold data is found without doing the work of one file for each of the others."""

import random
import sys
import tracemalloc
from types import FrameType
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.generators import vhd_bytes as vhd
from tests.generators import vhdx_bytes as gen
from vmkeep.formats.disk import Disk
from vmkeep.formats.errors import ParentMissing
from vmkeep.formats.layers import Remaining
from vmkeep.formats.parents import FindParent, ParentReference
from vmkeep.formats.source import BytesSource
from vmkeep.formats.vhd import open_vhd
from vmkeep.formats.vhdx import open_vhdx
from vmkeep.ranges import ByteRange, clip, normalise

pytestmark = pytest.mark.quick

K64 = 64 * gen.KIB


def over(disk: Disk | None) -> FindParent:
    def find(reference: ParentReference) -> Disk | None:
        return disk

    return find


def vhdx(disk: Disk | None, number: int, size: int, blocks: dict[int, gen.Block], sector: int = 512) -> Disk:
    """A layer over ``disk``, or a disk of its own."""
    locator = [("parent_linkage", f"{{{UUID(int=number - 1)}}}"), ("relative_path", "p.vhdx")]
    made = gen.make_vhdx(
        disk_size=size,
        blocks=blocks,
        write_guid=UUID(int=number),
        has_parent=disk is not None,
        locator=locator if disk is not None else None,
        sector=sector,
    )
    return open_vhdx(BytesSource(made.data, f"{number}.vhdx"), over(disk))


def calls_of(disk: Disk) -> int:
    """Count the functions called to map the disk."""
    count = 0

    def note(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(note)
    try:
        list(disk.extents())
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("states", [(gen.ZERO, gen.NOT_PRESENT), (gen.ZERO, gen.ZERO, gen.NOT_PRESENT)])
def test_a_long_chain_costs_what_its_files_hold_together(states: tuple[int, ...]) -> None:
    """A thousand gaps of the last file fall through files that have an entry each."""
    count = 2048
    size = count * gen.MIB
    gaps = {n: gen.Block(states[n % len(states)]) for n in range(count) if states[n % len(states)]}
    alone = vhdx(vhdx(None, 1, size, {}), 2, size, gaps)
    below = vhdx(None, 1, size, {})
    for number in range(2, 33):
        below = vhdx(below, number, size, {count - 1: gen.Block(gen.ZERO)})
    assert calls_of(vhdx(below, 33, size, gaps)) < 2 * calls_of(alone)


def test_scattered_sectors_of_a_vhdx_are_found_together() -> None:
    """65536 sectors, one from each file in turn."""
    size = 32 * gen.MIB
    parent = gen.make_vhdx(disk_size=size, block_size=size, write_guid=UUID(int=1))
    parent.put(len(parent.data), bytes(size))
    parent.set_u64(parent.entry_at(0), len(parent.data) - size | gen.FULL)
    child = gen.make_vhdx(
        disk_size=size,
        block_size=size,
        has_parent=True,
        locator=[("parent_linkage", str(UUID(int=1))), ("relative_path", "p.vhdx")],
    )
    child.put(len(child.data), b"\x55" * (8 * gen.KIB) + bytes(gen.MIB - 8 * gen.KIB))
    child.set_u64(child.bitmap_entry_at(0), len(child.data) - gen.MIB | 6)
    child.put(len(child.data), bytes(size))
    child.set_u64(child.entry_at(0), len(child.data) - size | gen.PARTIAL)
    base = open_vhdx(BytesSource(parent.data, "p.vhdx"), over(None))
    tracemalloc.start()
    disk = open_vhdx(BytesSource(child.data, "c.avhdx"), over(base))
    found = list(disk.extents())
    own = sum(part.length for part in disk.layer_extents())
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == [ByteRange(0, size)]
    assert own == size // 2
    assert most < 4 * gen.MIB


@pytest.mark.parametrize("sector", [512, 4096])
def test_extents_of_mixed_blocks_come_in_whole_granules(sector: int) -> None:
    rng = random.Random(sector)
    count = gen.MIB // sector
    per = K64 // sector
    here = frozenset([0, 5 * per + 1, *range(8 * per, 9 * per), *range(9 * per, 10 * per - 1)])
    data = rng.randbytes(gen.MIB)
    empty = vhdx(None, 1, gen.MIB, {}, sector=sector)
    disk = vhdx(empty, 2, gen.MIB, {0: gen.Block(gen.PARTIAL, data, here)}, sector=sector)
    assert list(disk.extents()) == [ByteRange(0, K64), ByteRange(5 * K64, K64), ByteRange(8 * K64, 2 * K64)]
    assert list(disk.extents(5 * K64 + 7, 9 * K64)) == [
        ByteRange(5 * K64 + 7, K64 - 7),
        ByteRange(8 * K64, K64),
    ]
    # The parent counts where one sector of it shows, and nowhere else.
    full = vhdx(None, 1, gen.MIB, {0: gen.Block(gen.FULL, data)}, sector=sector)
    most = frozenset(range(count)) - {3 * per, 7 * per - 1}
    incomplete = open_vhdx(
        BytesSource(
            gen.make_vhdx(
                disk_size=gen.MIB,
                sector=sector,
                blocks={0: gen.Block(gen.PARTIAL, data, most)},
                has_parent=True,
                locator=[("parent_linkage", str(UUID(int=1))), ("relative_path", "p.vhdx")],
            ).data,
            "c.avhdx",
        ),
        over(None),
        complete=False,
    )
    assert list(incomplete.extents(0, 3 * K64)) == [ByteRange(0, 3 * K64)]
    with pytest.raises(ParentMissing):
        list(incomplete.extents(3 * K64, 4 * K64))
    assert list(incomplete.extents(4 * K64, 6 * K64)) == [ByteRange(4 * K64, 2 * K64)]
    assert list(full.extents()) == [ByteRange(0, gen.MIB)]


def test_scattered_sectors_of_a_vhd_are_found_together() -> None:
    block = 32 << 20
    bits = [sector % 2 == 0 for sector in range(block // 512)]
    base = vhd.fixed(bytes(block), UUID(int=1))
    layer = vhd.Sparse(
        block, block, {0: vhd.Block(bits, bytes(block))}, UUID(int=2), vhd.DIFFERENCING, UUID(int=1)
    )
    layer.parent_name = "base.vhd"
    data = layer.build()
    parent = open_vhd(BytesSource(base, "base.vhd"), over(None))
    tracemalloc.start()
    disk = open_vhd(BytesSource(data, "child.avhd"), over(parent))
    assert list(disk.extents()) == [ByteRange(0, block)]
    assert sum(part.length for part in disk.layer_extents()) == block // 2
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2 << 20


def test_a_vhd_block_that_holds_all_its_sectors_needs_no_parent() -> None:
    """The last block is cut within its first byte of bits; what stands behind them means nothing."""
    size = 4096 + 3 * 512
    layer = vhd.Sparse(
        size,
        4096,
        {0: vhd.Block([True] * 8, b"\1" * 4096), 1: vhd.Block([True] * 3 + [False] * 5, b"\2" * 4096)},
        UUID(int=2),
        vhd.DIFFERENCING,
        UUID(int=1),
        parent_name="base.vhd",
    )
    disk = open_vhd(BytesSource(layer.build(), "child.avhd"), over(None), complete=False)
    assert list(disk.extents()) == [ByteRange(0, size)]
    layer.blocks = {0: vhd.Block([True] * 7 + [False], b"\1" * 4096)}
    disk = open_vhd(BytesSource(layer.build(), "child.avhd"), over(None), complete=False)
    with pytest.raises(ParentMissing):
        list(disk.extents(0, 4096))


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 6)), max_size=8),
    st.lists(st.integers(0, 50), max_size=8),
)
def test_ranges_are_taken_from_the_front(ranges: list[tuple[int, int]], ends: list[int]) -> None:
    given_ranges = normalise(ByteRange(*one) for one in ranges)
    rest = Remaining(list(given_ranges))
    at = 0
    for end in sorted(ends):
        assert rest.until(end) == clip(given_ranges, at, end)
        at = end


def test_a_layer_is_asked_for_nothing_behind_its_end() -> None:
    """The child holds what its parent is long enough for."""
    layer = vhd.Sparse(
        8192, 4096, {0: vhd.Block([True] * 8, b"\1" * 4096)}, UUID(int=2), vhd.DIFFERENCING, UUID(int=1)
    )
    layer.parent_name = "base.vhd"
    for base in (
        vhd.fixed(b"\1" * 4096, UUID(int=1)),
        vhd.Sparse(4096, 4096, {0: vhd.Block([True] * 8, b"\1" * 4096)}, UUID(int=1)).build(),
    ):
        parent = open_vhd(BytesSource(base, "base.vhd"), over(None))
        disk = open_vhd(BytesSource(layer.build(), "child.avhd"), over(parent))
        assert list(disk.extents()) == [ByteRange(0, 4096)]
