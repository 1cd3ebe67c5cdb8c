"""`check` finds what a single read can not see: [MS-VHDX] 2.5 and the table of hostile fields."""

import struct
from pathlib import Path
from uuid import UUID

import pytest

from tests.generators import vhdx_bytes as gen
from vmkeep.formats.disk import Disk
from vmkeep.formats.parents import ParentReference, no_parents
from vmkeep.formats.source import BytesSource, FileSource
from vmkeep.formats.vhdx import VhdxDisk, open_vhdx

pytestmark = pytest.mark.quick

A = b"\xaa" * gen.MIB
LOST = "[MS-VHDX] 2.4"
LOCATOR = [("parent_linkage", str(UUID(int=0xDA7A))), ("relative_path", "p")]


def opened(made: gen.Made, parent_size: int | None = None) -> VhdxDisk:
    (own_size,) = struct.unpack_from("<Q", made.data, made.metadata + 65536 + 32)

    def find(reference: ParentReference) -> Disk:
        return opened(gen.make_vhdx(disk_size=parent_size or own_size))

    return open_vhdx(BytesSource(made.data, "disk.vhdx"), find)


def make(count: int = 4, **more: bool) -> gen.Made:
    blocks = {n: gen.Block(gen.FULL, A) for n in range(count)}
    return gen.make_vhdx(disk_size=count * gen.MIB, blocks=blocks, gaps=False, **more)  # type: ignore[arg-type]


def make_child(blocks: dict[int, gen.Block], size: int = 4 * gen.MIB) -> gen.Made:
    return gen.make_vhdx(disk_size=size, blocks=blocks, has_parent=True, locator=LOCATOR, gaps=False)


def findings(made: gen.Made) -> list[tuple[str, int | None]]:
    """All but what belongs to nothing: most damage here leaves such a place."""
    return [(f.severity, f.offset) for f in opened(made).check() if f.rule != LOST]


def warnings(made: gen.Made, parent_size: int | None = None) -> list[tuple[int | None, str]]:
    found = list(opened(made, parent_size).check())
    assert {f.severity for f in found} <= {"warning"}
    return [(f.offset, f.rule.removeprefix("[MS-VHDX] ")) for f in found]


def test_sound_files_give_no_finding() -> None:
    assert warnings(make()) == []
    assert warnings(make(leave_allocated=True)) == []
    partial = {n: gen.Block(gen.PARTIAL, A, frozenset({n % 2048})) for n in (0, 4095, 4096)}
    assert warnings(make_child(partial, size=5000 * gen.MIB)) == []
    former = {n: gen.Block(state, stale=True) for n, state in enumerate((gen.UNDEFINED, gen.UNMAPPED))}
    assert warnings(make_child(former)) == []


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


# --- what damage to a place without a checksum leaves elsewhere


@pytest.mark.parametrize("state", [gen.NOT_PRESENT, gen.ZERO])
def test_a_state_without_contents_that_has_a_place(state: int) -> None:
    """A block that was present, but for a bit or two of its state."""
    made = make()
    made.set_u64(made.entry_at(2), made.places[2] | state)
    assert warnings(made) == [(made.entry_at(2), "2.5.1.1")]
    assert "reads as zeros" in next(opened(made).check()).message
    child = make_child({0: gen.Block(gen.FULL, A), 3: gen.Block(gen.FULL, A)})
    child.set_u64(child.entry_at(3), child.places[3] | state)
    assert warnings(child) == [(child.entry_at(3), "2.5.1.1")]
    below = "its parent's bytes" if state == gen.NOT_PRESENT else "zeros"
    assert f"reads as {below}" in next(opened(child).check()).message


@pytest.mark.parametrize("place", [7 << 20, 1 << 40])
def test_a_state_without_contents_may_have_any_place(place: int) -> None:
    made = make()
    made.set_u64(made.entry_at(1), place | gen.ZERO)
    assert (made.entry_at(1), "2.5.1.1") in warnings(made)


def test_a_block_whose_entry_was_lost() -> None:
    made = make()
    made.set_u64(made.entry_at(1), 0)
    assert warnings(made) == [(made.places[1], "2.4")]
    assert f"{gen.MIB} bytes in the file" in next(opened(made).check()).message
    made.set_u64(made.entry_at(3), 0)
    assert warnings(made) == [(min(made.places[1], made.places[3]), "2.4")]
    assert f"{2 * gen.MIB} bytes in the file" in next(opened(made).check()).message


def test_bytes_behind_the_last_block_belong_to_nothing() -> None:
    made = make()
    end = len(made.data)
    made.put(end, b"x" * 1000)
    assert warnings(made) == [(end, "2.4")]
    assert "1000 bytes" in next(opened(made).check()).message


def test_a_hole_that_belongs_to_nothing_is_free_space(tmp_path: Path) -> None:
    made = make()
    at = made.places[2]
    made.set_u64(made.entry_at(2), 0)
    path = tmp_path / "disk.vhdx"
    with path.open("wb") as file:
        file.write(made.data[:at])
        file.seek(at + gen.MIB)
        file.write(made.data[at + gen.MIB :])
        file.truncate(len(made.data))
    with open_vhdx(FileSource(path), no_parents) as disk:
        assert list(disk.check()) == []


@pytest.mark.parametrize("state", [gen.NOT_PRESENT, gen.UNDEFINED, gen.ZERO, gen.UNMAPPED])
def test_a_fixed_disk_that_lacks_blocks(state: int) -> None:
    blocks = {n: gen.Block(gen.FULL, A) for n in (0, 2)}
    blocks |= {n: gen.Block(state) for n in (1, 3, 4)}
    made = gen.make_vhdx(disk_size=5 * gen.MIB, blocks=blocks, leave_allocated=True, gaps=False)
    assert warnings(made) == [(made.entry_at(1), "2.5.1.1")]
    assert "3 blocks of a fixed disk" in next(opened(made).check()).message


def test_a_fixed_disk_that_lacks_blocks_of_several_chunks() -> None:
    blocks = {0: gen.Block(gen.FULL, A), 9000: gen.Block(gen.FULL, A)}
    made = gen.make_vhdx(disk_size=9001 * gen.MIB, blocks=blocks, leave_allocated=True, gaps=False)
    assert warnings(made) == [(made.entry_at(1), "2.5.1.1")]
    assert "8999 blocks of a fixed disk" in next(opened(made).check()).message


@pytest.mark.parametrize(("parent_size", "what"), [(3, "reads as zeros"), (6, "cut off")])
def test_a_child_of_another_size_than_its_parent(parent_size: int, what: str) -> None:
    made = make_child({1: gen.Block(gen.FULL, A)})
    assert warnings(made, parent_size * gen.MIB) == [(made.metadata, "2.6.2.2")]
    assert what in next(opened(made, parent_size * gen.MIB).check()).message


@pytest.mark.parametrize(
    ("at", "place", "rule"),
    [
        (8, 0, "2.6.1.1"),  # the table's head: reserved
        (9, 0, "2.6.1.1"),
        (12, 0, "2.6.1.1"),
        (31, 0, "2.6.1.1"),
        (32 + 24 + 3, 32, "2.6.1.2"),  # the first entry: flags
        (32 + 28, 32, "2.6.1.2"),  # reserved
        (32 * 5 + 31, 32 * 5, "2.6.1.2"),
        (65536 + 5, 65536, "2.6.2.1"),  # file parameters
        (65536 + 7, 65536, "2.6.2.1"),
    ],
)
@pytest.mark.parametrize("bit", [8, 128])
def test_reserved_bits_of_the_metadata(at: int, place: int, rule: str, bit: int) -> None:
    made = make()
    made.data[made.metadata + at] |= bit
    assert warnings(made) == [(made.metadata + place, rule)]


@pytest.mark.parametrize("older", [0, 1])
def test_two_headers_that_name_different_states(older: int) -> None:
    made = make()
    slots = (64 * gen.KIB, 128 * gen.KIB)
    mine, other = UUID(int=1), UUID(int=2)
    made.put(slots[older], gen.header(5, data_write=mine))
    made.put(slots[1 - older], gen.header(6, data_write=other))
    assert warnings(made) == [(slots[older], "2.2.2 DataWriteGuid")]
    made.put(slots[older], gen.header(5, data_write=other, log_guid=gen.LOG_GUID))
    assert warnings(made) == [(slots[older], "2.2.2 LogGuid")]
    made.put(slots[older], gen.header(5, data_write=other, file_write=UUID(int=9)))
    assert warnings(made) == []
