"""`check` finds what a single read can not see: [MS-VHDX] 2.5 and the table of hostile fields."""

from uuid import UUID

import pytest

from tests.generators import vhdx_bytes as gen
from vmkeep.formats.disk import Disk
from vmkeep.formats.parents import ParentReference
from vmkeep.formats.source import BytesSource
from vmkeep.formats.vhdx import VhdxDisk, open_vhdx

pytestmark = pytest.mark.quick

A = b"\xaa" * gen.MIB
LOCATOR = [("parent_linkage", str(UUID(int=0xDA7A))), ("relative_path", "p")]


def opened(made: gen.Made) -> VhdxDisk:
    def find(reference: ParentReference) -> Disk:
        return opened(gen.make_vhdx(disk_size=gen.MIB))

    return open_vhdx(BytesSource(made.data, "disk.vhdx"), find)


def make(count: int = 4) -> gen.Made:
    return gen.make_vhdx(disk_size=count * gen.MIB, blocks={n: gen.Block(gen.FULL, A) for n in range(count)})


def make_child(blocks: dict[int, gen.Block], size: int = 4 * gen.MIB) -> gen.Made:
    return gen.make_vhdx(disk_size=size, blocks=blocks, has_parent=True, locator=LOCATOR)


def findings(made: gen.Made) -> list[tuple[str, int | None]]:
    return [(f.severity, f.offset) for f in opened(made).check()]


def test_sound_files_give_no_finding() -> None:
    assert findings(make()) == []
    partial = {n: gen.Block(gen.PARTIAL, A, frozenset({n % 2048})) for n in (0, 4095, 4096)}
    assert findings(make_child(partial, size=5000 * gen.MIB)) == []


def test_two_blocks_in_one_place() -> None:
    made = make()
    made.set_u64(made.entry_at(2), made.places[0] | gen.FULL)
    assert findings(made) == [("error", made.entry_at(2))]


def test_blocks_that_overlap_in_part() -> None:
    blocks = {n: gen.Block(gen.FULL, A * 2) for n in range(2)}
    made = gen.make_vhdx(disk_size=4 * gen.MIB, block_size=2 * gen.MIB, blocks=blocks)
    made.set_u64(made.entry_at(1), (made.places[0] + gen.MIB) | gen.FULL)
    assert findings(made) == [("error", made.entry_at(1))]


@pytest.mark.parametrize("what", ["log", "bat", "metadata"])
def test_a_block_on_a_structure(what: str) -> None:
    made = make()
    made.set_u64(made.entry_at(3), getattr(made, what) | gen.FULL)
    assert findings(made) == [("error", made.entry_at(3))]


def test_a_block_on_the_headers_or_beyond_the_end() -> None:
    made = make()
    made.set_u64(made.entry_at(0), gen.FULL)
    made.set_u64(made.entry_at(1), len(made.data) | gen.FULL)
    assert findings(made) == [("error", made.entry_at(0)), ("error", made.entry_at(1))]


def test_a_last_block_cut_behind_the_disk_is_only_a_warning() -> None:
    made = gen.make_vhdx(disk_size=gen.MIB // 2, blocks={0: gen.Block(gen.FULL, A)})
    del made.data[made.places[0] + gen.MIB // 2 :]
    assert findings(made) == [("warning", made.entry_at(0))]


@pytest.mark.parametrize("state", [gen.UNDEFINED, gen.UNMAPPED])
def test_a_former_place_that_is_used_again_is_a_warning(state: int) -> None:
    for owner, former in ((0, 1), (1, 0)):
        made = make(2)
        made.set_u64(made.entry_at(former), made.places[owner] | state)
        assert findings(made) == [("warning", made.entry_at(1))]


def test_reserved_states_and_bits() -> None:
    made = make()
    made.set_u64(made.entry_at(0), made.places[0] | 5)
    made.set_u64(made.entry_at(1), made.places[1] | 8 | gen.FULL)
    made.set_u64(made.entry_at(2), made.places[2] | gen.PARTIAL)
    assert findings(made) == [
        ("error", made.entry_at(0)),
        ("warning", made.entry_at(1)),
        ("error", made.entry_at(2)),
    ]


@pytest.mark.parametrize("state", [0, 3])
@pytest.mark.parametrize("last", [0, 4095])
def test_a_missing_bitmap(state: int, last: int) -> None:
    made = make_child({last: gen.Block(gen.PARTIAL, A, frozenset({1}))}, size=5000 * gen.MIB)
    made.set_u64(made.bitmap_entry_at(0), state)
    assert findings(made) == [("error", made.bitmap_entry_at(0))]


def test_a_missing_bitmap_of_a_later_chunk() -> None:
    blocks = {n: gen.Block(gen.PARTIAL, A, frozenset({1})) for n in (0, 4096)}
    made = make_child(blocks, size=9000 * gen.MIB)
    made.set_u64(made.bitmap_entry_at(1), 0)
    assert findings(made) == [("error", made.bitmap_entry_at(1))]


def test_a_bitmap_nobody_needs() -> None:
    made = make_child({0: gen.Block(gen.FULL, A)})
    made.set_u64(made.bitmap_entry_at(0), 2)
    assert findings(made) == [("warning", made.bitmap_entry_at(0))]
    plain = gen.make_vhdx(disk_size=4097 * gen.MIB, blocks={0: gen.Block(gen.FULL, A)})
    plain.put(len(plain.data), bytes(gen.MIB))
    plain.set_u64(plain.bitmap_entry_at(0), (len(plain.data) - gen.MIB) | 6)
    assert findings(plain) == [("warning", plain.bitmap_entry_at(0))]


def test_a_reserved_bitmap_state_among_zero_blocks_is_noticed() -> None:
    # The neighbours have the same raw value.
    zeros = {n: gen.Block(gen.ZERO) for n in (*range(4090, 4100), 4200)}
    made = gen.make_vhdx(disk_size=5000 * gen.MIB, blocks=zeros)
    made.set_u64(made.bitmap_entry_at(0), gen.ZERO)
    assert findings(made) == [("warning", made.bitmap_entry_at(0))]


def test_two_bitmaps_in_one_place() -> None:
    blocks = {n: gen.Block(gen.PARTIAL, A, frozenset({1})) for n in (0, 4096)}
    made = make_child(blocks, size=5000 * gen.MIB)
    made.set_u64(made.bitmap_entry_at(1), made.bitmap_places[0] | 6)
    assert findings(made) == [("error", made.bitmap_entry_at(1))]
