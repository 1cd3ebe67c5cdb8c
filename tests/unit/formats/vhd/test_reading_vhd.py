"""VHDs as torn, hostile or old writers leave them."""

import os
import threading
import tracemalloc
from pathlib import Path
from uuid import UUID

import pytest

from tests.generators.vhd_bytes import (
    ABSENT,
    DIFFERENCING,
    Block,
    Sparse,
    apply,
    fixed,
    footer,
    full_block,
    resum,
)
from vmkeep.formats.disk import Disk, Finding
from vmkeep.formats.errors import (
    CorruptDisk,
    FormatError,
    ParentMismatch,
    ParentMissing,
    SourceChanged,
    TruncatedDisk,
    UnsupportedDisk,
)
from vmkeep.formats.parents import FindParent, ParentReference, no_parents
from vmkeep.formats.source import BytesSource, FileSource
from vmkeep.formats.vhd import open_vhd
from vmkeep.ranges import ByteRange

pytestmark = pytest.mark.quick

ID = UUID("12345678-9abc-def0-1122-334455667788")
BASE_ID = UUID("00112233-4455-6677-8899-aabbccddeeff")


def pattern(length: int, seed: int = 1) -> bytes:
    """Bytes that are never zero, so that nothing passes for a hole."""
    return bytes(1 + (at * 7 + at // 512 * 13 + seed) % 255 for at in range(length))


def small() -> Sparse:
    """Five blocks of 4 KiB, the last one half; blocks 4 and 1 stored, in this order."""
    return Sparse(
        size=4 * 4096 + 2048,
        block_size=4096,
        blocks={4: full_block(pattern(4096, 4)), 1: full_block(pattern(4096, 9))},
        disk_id=ID,
    )


def open_bytes(data: bytes | bytearray, find: FindParent = no_parents) -> Disk:
    return open_vhd(BytesSource(bytes(data), "disk.vhd"), find)


def content(disk: Disk) -> bytes:
    return disk.read_at(0, disk.profile.size)


def find_in(**disks: bytes | bytearray) -> FindParent:
    """A finder over files in memory, by base name without extension."""

    def find(reference: ParentReference) -> Disk | None:
        for base in reference.base_names():
            data = disks.get(base.partition(".")[0])
            if data is not None:
                return open_vhd(BytesSource(bytes(data), base), find)
        return None

    return find


# --- fixed


def test_a_fixed_disk_is_its_bytes_without_the_footer() -> None:
    data = pattern(5 * 512)
    disk = open_bytes(fixed(data, ID))
    assert (disk.profile.kind, disk.profile.size, disk.profile.disk_id) == ("fixed", 2560, ID)
    assert disk.profile.block_size is None
    assert content(disk) == data
    assert list(disk.extents()) == [ByteRange(0, 2560)]
    assert list(disk.extents(512, 1024)) == [ByteRange(512, 512)]
    assert list(disk.check()) == []


def test_a_footer_of_511_bytes_is_read() -> None:
    data = pattern(5 * 512)
    disk = open_bytes(fixed(data, ID)[:-1])
    assert content(disk) == data


def test_the_size_is_current_size_and_never_the_geometry() -> None:
    size = 3 * 4 * 17 * 512 + 512  # one sector more than the geometry in the generated footer
    disk = open_bytes(fixed(bytes(size), ID))
    assert disk.profile.size == size


@pytest.mark.parametrize("cut", [2, 511, 512, 513, 1024])
def test_a_cut_fixed_disk_is_refused(cut: int) -> None:
    with pytest.raises(CorruptDisk):
        open_bytes(fixed(pattern(2048), ID)[:-cut])


def test_a_fixed_disk_that_lost_one_byte_is_refused() -> None:
    with pytest.raises(TruncatedDisk, match="2047 bytes of a disk of 2048"):
        open_bytes(fixed(pattern(2048), ID)[1:])


def test_a_fixed_disk_shorter_than_its_footer_says_is_refused() -> None:
    with pytest.raises(TruncatedDisk, match="1536 bytes of a disk of 2048"):
        open_bytes(pattern(1536) + footer(2, 2048, ID))


def test_bytes_between_a_fixed_disk_and_its_footer_are_reported() -> None:
    disk = open_bytes(pattern(2048) + footer(2, 1536, ID))
    assert content(disk) == pattern(2048)[:1536]
    assert [(f.severity, f.offset) for f in disk.check()] == [("warning", 1536)]


# --- dynamic


def test_a_dynamic_disk_is_read_in_any_block_order() -> None:
    layer = small()
    disk = open_bytes(layer.build())
    assert (disk.profile.kind, disk.profile.block_size) == ("dynamic", 4096)
    assert content(disk) == apply(b"", layer)
    assert list(disk.extents()) == [ByteRange(4096, 4096), ByteRange(16384, 2048)]
    assert list(disk.layer_extents()) == [ByteRange(0, 4 * 4096 + 2048)]
    assert list(disk.check()) == []


def test_bits_of_zero_in_a_dynamic_disk_read_as_zeros_and_are_reported() -> None:
    layer = small()
    layer.blocks = {1: Block([True] * 3 + [False] + [True] * 4, pattern(4096))}
    disk = open_bytes(layer.build())
    assert content(disk)[4096 + 3 * 512 : 4096 + 4 * 512] == bytes(512)
    assert content(disk) == apply(b"", layer)
    found = list(disk.check())
    assert [(f.severity, f.offset, f.rule) for f in found] == [
        ("warning", layer.places[1] + 512 + 3 * 512, "VHD sector bitmap")
    ]
    assert "1 sectors" in found[0].message


@pytest.mark.parametrize("at", [48, 16])
def test_two_whole_footers_that_disagree_are_refused(at: int) -> None:
    data = small().build()
    data[at + 7] ^= 0x80
    data[at + 6] ^= 2
    resum(data, 0, 512, 64)
    with pytest.raises(CorruptDisk, match="different disks"):
        open_bytes(data)


@pytest.mark.parametrize("kind", [0, 1, 5, 6, 7])
def test_other_disk_types_are_refused(kind: int) -> None:
    with pytest.raises(UnsupportedDisk, match=f"type {kind}"):
        open_bytes(bytes(1024) + footer(kind, 1024, ID))


@pytest.mark.parametrize("size", [0, 511, 2040 * 2**30 + 512])
def test_an_impossible_size_is_refused(size: int) -> None:
    with pytest.raises(CorruptDisk):
        open_bytes(bytes(1024) + footer(2, size, ID))


def test_a_version_from_the_future_is_refused() -> None:
    with pytest.raises(UnsupportedDisk, match="version 2"):
        open_bytes(bytes(1024) + footer(2, 1024, ID, version=0x00020000))


@pytest.mark.parametrize(
    ("at", "value", "error"),
    [
        (32, 3 << 20, CorruptDisk),  # block size no power of two
        (32, 256, CorruptDisk),  # smaller than a sector
        (32, 0, CorruptDisk),
        (28, 4, CorruptDisk),  # fewer entries than blocks
        (24, 2 << 16, UnsupportedDisk),
        (20, 0, CorruptDisk),  # table on the footer copy
        (20, 1 << 30, TruncatedDisk),  # table behind the end
    ],
)
def test_a_header_that_cannot_be_is_refused(at: int, value: int, error: type[FormatError]) -> None:
    data = small().build()
    data[512 + at : 512 + at + 4] = value.to_bytes(4, "big")
    resum(data, 512, 1024, 36)
    with pytest.raises(error):
        open_bytes(data)


def test_a_header_offset_behind_the_end_is_refused() -> None:
    layer = small()
    layer.header_at = 1 << 40
    with pytest.raises(TruncatedDisk):
        open_bytes(layer.build())


def test_saved_state_and_temporary_marks_are_warnings() -> None:
    layer = small()
    layer.saved_state, layer.features = 1, 3
    found = list(open_bytes(layer.build()).check())
    assert [f.severity for f in found] == ["warning", "warning"]
    assert "saved state" in found[0].message
    assert "temporary" in found[1].message


def boundaries() -> list[int]:
    layer = small()
    size = len(layer.build())
    edges = {0, 512, 1536, 1556, 2048, size - 512, size}
    for place in layer.places.values():
        edges |= {place, place + 512, place + 512 + 4096}
    return sorted({edge + step for edge in edges for step in (-1, 0, 1) if 0 < edge + step < size})


@pytest.mark.parametrize("length", boundaries())
def test_a_cut_dynamic_disk_gives_an_error_or_every_byte(length: int) -> None:
    layer = small()
    data = layer.build()
    last_data = max(layer.places.values()) + 512 + 4096
    if length >= last_data:  # only the footer suffered, and there is a copy
        assert content(open_bytes(data[:length])) == apply(b"", layer)
    else:
        with pytest.raises(FormatError):
            content(open_bytes(data[:length]))


def test_a_block_past_the_end_is_an_error_even_where_its_first_sectors_exist() -> None:
    layer = small()
    data = layer.build()[: layer.places[1] + 512 + 1024]
    disk = open_bytes(data)
    with pytest.raises(TruncatedDisk, match="block 1"):
        disk.read_at(4096, 512)
    assert disk.read_at(4 * 4096, 2048) == pattern(4096, 4)[:2048]
    assert [f.offset for f in disk.check() if f.severity == "error"] == [layer.places[1]]


def test_the_last_block_needs_only_the_sectors_of_the_disk() -> None:
    layer = Sparse(4096 + 1024, 4096, {1: full_block(pattern(4096))}, ID)
    data = layer.build()
    cut = data[: layer.places[1] + 512 + 1024] + data[-512:]
    assert content(open_bytes(cut)) == apply(b"", layer)


def test_a_buffer_is_filled_even_where_nothing_is_stored() -> None:
    """The caller's buffer holds older bytes: each of them must be replaced."""
    base = open_bytes(small().build())
    short_parent = open_bytes(child().build(), find_in(base=fixed(pattern(4096), BASE_ID)))
    for disk in (base, short_parent):
        buffer = bytearray(b"\xaa" * disk.profile.size)
        disk.read_into(0, memoryview(buffer))
        assert buffer == content(disk)
        assert b"\xaa" * 8 not in buffer


def set_entry(data: bytearray, number: int, entry: int) -> None:
    data[1536 + 4 * number : 1540 + 4 * number] = entry.to_bytes(4, "big")


@pytest.mark.parametrize("sector", [0, 1, 2, 3])
def test_a_block_on_a_structure_is_an_error(sector: int) -> None:
    data = small().build()
    set_entry(data, 2, sector)
    disk = open_bytes(data)
    with pytest.raises(CorruptDisk, match="block 2"):
        content(disk)
    with pytest.raises(CorruptDisk):
        list(disk.extents())
    assert [f.severity for f in disk.check()] == ["error"]


def test_a_block_on_the_end_footer_is_an_error() -> None:
    layer = small()
    data = layer.build()
    set_entry(data, 2, (len(data) - 4096 - 512) // 512)
    with pytest.raises(TruncatedDisk):
        open_bytes(data).read_at(2 * 4096, 1)


@pytest.mark.parametrize("table", [512 + 1020, 512, 100])
def test_a_table_on_the_dynamic_header_or_before_it_is_refused(table: int) -> None:
    data = small().build()
    data[512 + 16 : 512 + 24] = table.to_bytes(8, "big")
    resum(data, 512, 1024, 36)
    with pytest.raises(CorruptDisk) as caught:
        open_bytes(data)
    assert caught.value.rule == "VHD dynamic header: Table Offset"


@pytest.mark.parametrize("has_footer", [True, False])
def test_a_table_on_the_end_footer_is_refused(has_footer: bool) -> None:
    layer = small()
    layer.blocks = {}
    data = layer.build()
    if not has_footer:
        data[-512:] = b"\xff" * 512  # so these bytes may be the table's
    data[512 + 16 : 512 + 24] = (len(data) - 512).to_bytes(8, "big")
    resum(data, 512, 1024, 36)
    if has_footer:
        with pytest.raises(TruncatedDisk):
            open_bytes(data)
    else:
        assert content(open_bytes(data)) == bytes(layer.size)


@pytest.mark.parametrize("shift", [0, 1, 4])
def test_overlapping_blocks_are_found_by_check(shift: int) -> None:
    layer = small()
    data = layer.build()
    set_entry(data, 2, layer.places[4] // 512 + shift)
    errors = [f for f in open_bytes(data).check() if f.severity == "error"]
    assert errors and all("overlap" in f.message for f in errors)
    assert any(f.message.startswith(("blocks 4 and 2", "blocks 2 and 4")) for f in errors)


def test_a_hostile_table_gives_a_bounded_number_of_findings() -> None:
    layer = Sparse(4096 * 1000, 4096, {}, ID)
    data = layer.build()
    for number in range(1000):
        set_entry(data, number, 0)
    found = list(open_bytes(data).check())
    assert len(found) == 101
    assert found[-1].severity == "error" and "more blocks are misplaced" in found[-1].message


class Counted(FileSource):
    """A file that counts the bytes read of it."""

    bytes_read = 0

    def read_into(self, offset: int, buffer: memoryview) -> int:
        self.bytes_read += len(buffer)
        return super().read_into(offset, buffer)


def test_a_table_in_a_hole_is_left_after_its_first_entries(tmp_path: Path) -> None:
    """A few KiB on the medium: half a million entries of zero, each of them on the footer copy."""
    layer = Sparse(1 << 28, 512, {}, ID)
    path = tmp_path / "hole.vhd"
    with path.open("wb") as file:
        file.write(layer.footer() + layer.header(1 << 19, b""))
        file.truncate(layer.table_at + (4 << 19))
        file.seek(0, os.SEEK_END)
        file.write(layer.footer())
    source = Counted(path)
    with open_vhd(source, no_parents) as disk:
        found = list(disk.check())
    assert len(found) == 101 and all(finding.severity == "error" for finding in found)
    assert source.bytes_read < 4 << 19  # not even the table was read whole


def test_entries_without_end_that_share_a_block_cost_no_more_than_the_file(tmp_path: Path) -> None:
    layer = Sparse(64 << 20, 1 << 20, {0: Block([False] * 2048, pattern(1 << 20))}, ID)
    data = layer.build()
    for number in range(64):
        set_entry(data, number, layer.places[0] // 512)
    path = tmp_path / "shared.vhd"
    path.write_bytes(data)
    source = Counted(path)
    with open_vhd(source, no_parents) as disk:
        found = list(disk.check())
    assert any("overlap" in finding.message and finding.severity == "error" for finding in found)
    assert source.bytes_read < 2 * len(data)


def test_sectors_marked_unused_in_holes_are_not_read(tmp_path: Path) -> None:
    """Four GiB of holes behind one entry: only where something may be is looked."""
    layer = Sparse(1 << 32, 1 << 31, {}, ID)
    data = layer.build()
    place, bitmap = len(data) - 512, (1 << 31) // 512 // 8
    set_entry(data, 0, place // 512)
    stray = place + bitmap + (1 << 30)
    path = tmp_path / "holes.vhd"
    with path.open("wb") as file:
        file.write(data[:-512])
        file.seek(stray)
        file.write(pattern(512))
        file.seek(place + bitmap + (1 << 31))
        file.write(layer.footer())
    source = Counted(path)
    with open_vhd(source, no_parents) as disk:
        (found,) = disk.check()
    assert (found.severity, found.offset) == ("warning", stray)
    assert found.message.startswith("1 sectors hold data")
    assert source.bytes_read < 8 << 20


def test_a_small_file_that_claims_the_greatest_disk_needs_little_memory() -> None:
    layer = Sparse(2040 << 30, 1 << 31, {}, ID)
    data = bytes(layer.build().ljust(1 << 20, b"\0"))
    tracemalloc.start()
    try:
        disk = open_bytes(data)
        assert list(disk.extents()) == []
        assert disk.read_at((2040 << 30) - 4096, 4096) == bytes(4096)
        assert list(disk.check())  # no footer at the end
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def test_a_table_longer_than_the_file_is_refused_before_it_is_read() -> None:
    layer = Sparse(4096, 4096, {}, ID)
    data = layer.build()
    for start in (0, len(data) - 512):
        data[start + 48 : start + 56] = (2040 << 30).to_bytes(8, "big")
        resum(data, start, 512, 64)
    data[512 + 28 : 512 + 32] = b"\xff\xff\xff\xff"
    resum(data, 512, 1024, 36)
    with pytest.raises(TruncatedDisk):
        open_bytes(data)


def test_a_block_is_read_with_a_bitmap_of_several_sectors() -> None:
    """Blocks of 4 MiB: 8192 bits, 1024 bytes; the upper half of the bits in the second sector."""
    bits = [sector % 3 == 0 for sector in range(8192)]
    layer = Sparse(4 << 20, 4 << 20, {0: Block(bits, pattern(4096) * 1024)}, ID)
    assert content(open_bytes(layer.build())) == apply(b"", layer)


def test_several_threads_read_the_same_disk() -> None:
    layer = Sparse(
        64 * 4096,
        4096,
        {n: Block([s % 3 > 0 for s in range(8)], pattern(4096, n)) for n in range(0, 64, 2)},
        ID,
    )
    disk, expected = open_bytes(layer.build()), apply(b"", layer)
    wrong: list[int] = []

    def read(seed: int) -> None:
        for turn in range(200):
            at = (seed * 7919 + turn * 104729) % (layer.size - 9000)
            if disk.read_at(at, 9000) != expected[at : at + 9000]:
                wrong.append(at)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_read_outside_the_disk_is_the_callers_mistake() -> None:
    disk = open_bytes(small().build())
    for offset, length in ((-1, 1), (disk.profile.size, 1), (0, disk.profile.size + 1)):
        with pytest.raises(ValueError):
            disk.read_at(offset, length)
    assert disk.read_at(disk.profile.size, 0) == b""


def test_holes_of_the_file_are_left_out_of_the_extents(tmp_path: Path) -> None:
    layer = Sparse(4 << 20, 2 << 20, {1: full_block(bytes(2 << 20))}, ID)
    data = layer.build()
    at = layer.places[1] + 512
    data[at + (1 << 20) : at + (1 << 20) + 4096] = pattern(4096)
    path = tmp_path / "holes.vhd"
    with path.open("wb") as file:  # everything that is zero becomes a hole
        for offset in range(0, len(data), 4096):
            if any(data[offset : offset + 4096]):
                file.seek(offset)
                file.write(data[offset : offset + 4096])
    with open_vhd(FileSource(path), no_parents) as disk:
        extents = list(disk.extents())
        assert content(disk)[3 << 20 : (3 << 20) + 4096] == pattern(4096)
    assert any(r.offset <= 3 << 20 and r.end >= (3 << 20) + 4096 for r in extents)
    assert all(r.offset >= 2 << 20 for r in extents)


# --- a file that changes


def test_identity_changes_with_the_footer_the_header_and_the_file(tmp_path: Path) -> None:
    path = tmp_path / "disk.vhd"
    data = small().build()
    path.write_bytes(data)
    with open_vhd(FileSource(path), no_parents) as disk:
        before = disk.identity()
        assert disk.identity() == before
        stat = path.stat()
        # Below the file's own marks (whose change time nobody can set back) the content's.

        def content() -> tuple[object, ...]:
            (layer,) = disk.identity()
            assert isinstance(layer, tuple)
            return layer[1:]

        marks = content()
        assert marks
        for at in (len(data) - 1, 511, 512 + 1000):
            changed = bytearray(data)
            changed[at] ^= 1
            with path.open("r+b") as file:
                file.write(changed)
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
            assert disk.identity() != before
            assert content() != marks
            with path.open("r+b") as file:
                file.write(data)
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert content() == marks
        assert disk.identity() != before, "rewritten with its old times, the file is still not untouched"


def test_a_file_cut_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "disk.vhd"
    path.write_bytes(fixed(pattern(4096), ID))
    with open_vhd(FileSource(path), no_parents) as disk:
        os.truncate(path, 2048)
        assert disk.read_at(0, 2048) == pattern(4096)[:2048]
        with pytest.raises(SourceChanged):
            disk.read_at(1024, 2048)


# --- differencing


def child(**changes: object) -> Sparse:
    layer = Sparse(
        size=4 * 4096,
        block_size=4096,
        blocks={2: Block([True, False] * 4, pattern(4096, 77))},
        disk_id=ID,
        kind=DIFFERENCING,
        parent_id=BASE_ID,
        parent_name="base.vhd",
    )
    for name, value in changes.items():
        setattr(layer, name, value)
    return layer


def test_a_child_takes_what_it_does_not_hold_from_its_parent() -> None:
    base = pattern(4 * 4096, 3)
    disk = open_bytes(child().build(), find_in(base=fixed(base, BASE_ID)))
    assert disk.profile.kind == "differencing"
    assert content(disk) == apply(base, child())
    assert [layer.name for layer in disk.chain()] == ["disk.vhd", "base.vhd"]
    assert len(disk.identity()) == 2


def test_a_missing_parent_is_named() -> None:
    with pytest.raises(ParentMissing, match=r"base\.vhd"):
        open_bytes(child().build())


def test_a_parent_with_another_id_is_refused_and_closed() -> None:
    closed: list[str] = []

    class Watched(BytesSource):
        def close(self) -> None:
            closed.append(self.name)

    def find(reference: ParentReference) -> Disk | None:
        return open_vhd(Watched(fixed(pattern(4 * 4096), ID), "base.vhd"), no_parents)

    with pytest.raises(ParentMismatch):
        open_bytes(child().build(), find)
    assert closed == ["base.vhd"]


def test_a_longer_or_shorter_parent_is_cut_or_filled_with_zeros_and_reported() -> None:
    for sectors in (8, 20, 28, 40):
        base = pattern(sectors * 512, 3)
        disk = open_bytes(child().build(), find_in(base=fixed(base, BASE_ID)))
        assert content(disk) == apply(base, child())
        assert ["Current Size" in f.rule for f in disk.check()] == [True]


def test_another_time_stamp_of_the_parent_is_only_a_warning() -> None:
    base = fixed(pattern(4 * 4096), BASE_ID, time_stamp=5)
    same = open_bytes(child(parent_time=5).build(), find_in(base=base))
    other = open_bytes(child(parent_time=6).build(), find_in(base=base))
    assert list(same.check()) == []
    assert [(f.severity, f.rule) for f in other.check()] == [
        ("warning", "VHD dynamic header: Parent Time Stamp")
    ]


def asked(layer: Sparse) -> ParentReference:
    references: list[ParentReference] = []

    def find(reference: ParentReference) -> Disk | None:
        references.append(reference)
        return None

    with pytest.raises(ParentMissing):
        open_bytes(layer.build(), find)
    return references[0]


def test_parent_paths_come_from_locators_and_name_relative_first() -> None:
    reference = asked(
        child(
            parent_name="D:\\vm\\naïve.vhd",
            locators=[
                (b"MacX", b"file://localhost/vm/mac%20base.vhd", 512),
                (b"W2ku", "C:\\vm\\base.vhd".encode("utf-16-le"), 512),
                (b"W2ru", ".\\old\\base.vhd".encode("utf-16-le"), 1),
                (b"Mac ", b"alias", 512),
            ],
        )
    )
    assert reference.candidates == (
        ".\\old\\base.vhd",
        "C:\\vm\\base.vhd",
        "/vm/mac base.vhd",
        "D:\\vm\\naïve.vhd",
    )
    assert reference.identities == (BASE_ID,)
    assert reference.required_format == "vhd"
    assert reference.child == "disk.vhd"


@pytest.mark.parametrize(("length", "offset"), [(1 << 31, 4096), (10, 1 << 60), (10, 0)])
def test_a_locator_outside_the_file_is_left_out_and_reported(length: int, offset: int) -> None:
    data = child(locators=[(b"W2ru", b"x\0", 512)]).build()
    data[512 + 576 + 8 : 512 + 576 + 12] = length.to_bytes(4, "big")
    data[512 + 576 + 16 : 512 + 576 + 24] = offset.to_bytes(8, "big")
    resum(data, 512, 1024, 36)
    base = fixed(pattern(4 * 4096), BASE_ID)
    disk = open_bytes(data, find_in(base=base))
    assert [(f.severity, f.rule) for f in disk.check()] == [("warning", "VHD dynamic header: Parent Locator")]


@pytest.mark.parametrize("back", [0, 1])
def test_a_block_on_the_text_of_a_parent_locator_is_an_error(back: int) -> None:
    """The second of two texts ends in its second sector; the blocks lie behind it."""
    texts = [(b"W2ku", "C:\\base.vhd".encode("utf-16-le"), 512), (b"W2ru", b"b\0" * 300, 1024)]
    made = child(locators=texts)
    made.gap = 9 * 512
    data = made.build()
    text_at = int.from_bytes(data[512 + 576 + 24 + 16 : 512 + 576 + 24 + 24], "big")
    base = fixed(pattern(4 * 4096), BASE_ID)
    set_entry(data, 1, text_at // 512 + 2)
    sound = open_bytes(data, find_in(base=base))
    assert sound.read_at(4096, 512) != b"" and list(sound.check()) == []
    set_entry(data, 1, text_at // 512 + 1 - back)
    disk = open_bytes(data, find_in(base=base))
    with pytest.raises(CorruptDisk, match=r"block 1 .* lies on the text of a parent locator"):
        disk.read_at(4096, 512)
    with pytest.raises(CorruptDisk):
        list(disk.extents())
    assert [f.severity for f in disk.check()] == ["error"]
    assert disk.read_at(2 * 4096, 4096) == apply(pattern(4 * 4096), made)[2 * 4096 : 3 * 4096]


def test_locators_without_a_text_or_a_parent_keep_no_block_away() -> None:
    made = child(locators=[(b"W2ru", b"x\0", 512), (b"W2ku", b"", 512)])
    data = made.build()
    place = made.places[2]
    # The empty text lies inside of the block.
    data[512 + 576 + 24 + 16 : 512 + 576 + 24 + 24] = (place + 1024).to_bytes(8, "big")
    resum(data, 512, 1024, 36)
    base = fixed(pattern(4 * 4096, 3), BASE_ID)
    assert content(open_bytes(data, find_in(base=base))) == apply(pattern(4 * 4096, 3), made)
    alone = small()
    data = alone.build()
    data[512 + 576 : 512 + 600] = (
        b"W2ru" + bytes(4) + (512).to_bytes(4, "big") + bytes(4) + (alone.places[1].to_bytes(8, "big"))
    )
    resum(data, 512, 1024, 36)
    assert content(open_bytes(data)) == apply(b"", alone)


def test_data_under_zero_bits_of_a_child_is_the_parents_business() -> None:
    """Unlike in a dynamic disk, such sectors are normal here: nothing is reported."""
    disk = open_bytes(child().build(), find_in(base=fixed(bytes(4 * 4096), BASE_ID)))
    found: list[Finding] = list(disk.check())
    assert found == []


def test_the_generator_marks_absent_blocks_as_the_format_says() -> None:
    data = small().build()
    assert data[1536:1540] == ABSENT.to_bytes(4, "big") and data[:8] == b"conectix"


# --- blocks in one place


@pytest.mark.parametrize("shift", [0, 1, -1])
def test_of_two_blocks_that_overlap_neither_is_read(shift: int) -> None:
    made = Sparse(
        size=6 * 4096,
        block_size=4096,
        blocks={n: full_block(pattern(4096, n + 1)) for n in (3, 1, 0, 5)},
        disk_id=ID,
    )
    data = made.build()
    at = made.table_at + 4 * 5
    data[at : at + 4] = (made.places[1] // 512 + shift).to_bytes(4, "big")
    disk = open_bytes(data)
    for block in (1, 5):
        with pytest.raises(CorruptDisk, match=f"block {block} .* lies on another block") as caught:
            disk.read_at(block * 4096, 512)
        assert caught.value.rule == "VHD block allocation table"
    with pytest.raises(CorruptDisk):
        list(disk.extents())
    intact = {0: 3, 1: 3, -1: 0}[shift]
    assert disk.read_at(intact * 4096, 4096) == pattern(4096, intact + 1)
    assert disk.read_at(2 * 4096, 4096) == bytes(4096)
    assert [finding.severity for finding in disk.check()].count("error") >= 1


def test_a_short_last_block_directly_before_another_is_no_overlap() -> None:
    made = small()
    data = made.build()
    # The last block covers half: block 1 begins where its bytes end.
    new = made.places[4] + 512 + 2048
    stored = bytes(data[made.places[1] : made.places[1] + 512 + 4096])
    data[new : new + len(stored)] = stored
    data[made.table_at + 4 : made.table_at + 8] = (new // 512).to_bytes(4, "big")
    disk = open_bytes(data)
    assert disk.read_at(4096, 4096) == pattern(4096, 9)
    assert disk.read_at(4 * 4096, 2048) == pattern(4096, 4)[:2048]


@pytest.mark.slow
def test_overlaps_are_seen_in_a_table_of_two_million_entries() -> None:
    """Every other block of 512 bytes is absent, all others are one."""
    count = 1 << 21
    layer = Sparse(count * 512, 512, {}, ID)
    layer.build()
    head = layer.footer() + layer.header(count, b"")
    place = (layer.table_at + 4 * count) // 512
    table = (place.to_bytes(4, "big") + b"\xff" * 4) * (count // 2)
    disk = open_bytes(
        head
        + table.ljust((place + 1) * 512 - layer.table_at - 512, b"\0")
        + b"\xff" * 512
        + pattern(512)
        + layer.footer()
    )
    with pytest.raises(CorruptDisk, match=r"block 0 .* lies on another block"):
        list(disk.extents())
    findings = list(disk.check())
    assert len(findings) == 101
    assert findings[-1].severity == "error" and findings[-1].message == "more blocks overlap"


def test_more_blocks_than_any_writer_makes_are_refused() -> None:
    count = (1 << 22) + 1
    layer = Sparse(count * 512, 512, {}, ID)
    head = layer.footer() + layer.header(count, b"")
    with pytest.raises(UnsupportedDisk, match="4194305 blocks"):
        open_bytes(head + b"\xff" * (4 * count // 512 * 512 + 512) + layer.footer())
