"""What is opened, what is refused, and by which name."""

import os
import struct
from pathlib import Path
from uuid import UUID

import pytest

from tests.generators.vhd_bytes import DIFFERENCING, Block, Sparse, apply, fixed, full_block
from tests.generators.vhdx_bytes import MIB, make_vhdx
from vmkeep.formats.creating import create_disk
from vmkeep.formats.disk import DiskProfile, Format
from vmkeep.formats.errors import (
    CorruptDisk,
    FormatError,
    NotADisk,
    ParentMismatch,
    ParentMissing,
    SourceUnreadable,
    UnsupportedDisk,
)
from vmkeep.formats.opening import format_of_name, open_disk, open_path
from vmkeep.formats.source import BytesSource

pytestmark = pytest.mark.quick

ID = UUID("12345678-9abc-def0-1122-334455667788")


def iso() -> bytes:
    data = bytearray(40 * 1024)
    data[0x8000:0x8006] = b"\x01CD001"
    return bytes(data)


def vdi() -> bytes:
    data = bytearray(1024)
    data[:39] = b"<<< Oracle VM VirtualBox Disk Image >>>"
    data[0x40:0x44] = struct.pack("<I", 0xBEDA107F)
    return bytes(data)


def sector(start: bytes) -> bytes:
    return start.ljust(1024, b"\0")


FOREIGN = {
    "qcow": sector(b"QFI\xfb\0\0\0\3"),
    "QED": sector(b"QED\0"),
    "VMDK": sector(b"KDMV\1\0\0\0"),
    "descriptor of a VMDK": sector(b"# Disk DescriptorFile\nversion=1\n"),
    "VDI": vdi(),
    "Parallels": sector(b"WithoutFreeSpace"),
}
NO_DISK = {
    "ISO 9660": iso(),
    "gzip": sector(b"\x1f\x8b\x08"),
    "zip": sector(b"PK\x03\x04"),
    "xz": sector(b"\xfd7zXZ\0"),
}


@pytest.mark.parametrize("title", [*FOREIGN, *NO_DISK])
@pytest.mark.parametrize("name", ["disk", "disk.bin", "disk.qcow2"])
def test_a_foreign_format_is_refused_by_its_name(title: str, name: str) -> None:
    with pytest.raises(UnsupportedDisk, match=title):
        open_disk(BytesSource({**FOREIGN, **NO_DISK}[title], name))


@pytest.mark.parametrize("title", FOREIGN)
@pytest.mark.parametrize("name", ["disk.raw", "disk.img", "DISK.DD"])
def test_a_raw_name_does_not_make_a_container_raw(title: str, name: str) -> None:
    with pytest.raises(UnsupportedDisk, match=title):
        open_disk(BytesSource(FOREIGN[title], name))


def test_a_raw_disk_may_hold_a_hybrid_iso_if_its_name_says_raw() -> None:
    assert open_disk(BytesSource(iso(), "stick.img")).read_at(0x8001, 5) == b"CD001"


@pytest.mark.parametrize("name", ["disk.vhd", "disk.VHDX", "c:\\vm\\disk.avhd", "a/b/disk.avhdx"])
@pytest.mark.parametrize("content", [bytes(4096), FOREIGN["qcow"], b"x" * 512])
def test_a_damaged_vhd_or_vhdx_never_passes_for_raw(name: str, content: bytes) -> None:
    with pytest.raises(NotADisk, match="signature"):
        open_disk(BytesSource(content, name))


@pytest.mark.parametrize("at", range(8))
@pytest.mark.parametrize("has_first_header", [True, False])
def test_a_vhdx_with_a_damaged_identifier_is_damaged_and_no_other_file(
    at: int, has_first_header: bool
) -> None:
    made = make_vhdx(disk_size=MIB)
    made.data[at] ^= 1 << at
    made.data[65536] ^= not has_first_header
    with pytest.raises(CorruptDisk, match="identifier") as caught:
        open_disk(BytesSource(made.data, "disk.avhdx"))
    assert (caught.value.offset, caught.value.rule) == (0, "[MS-VHDX] 2.2.1")


@pytest.mark.parametrize("end", [512, 511])
@pytest.mark.parametrize("at", range(8))
def test_a_fixed_vhd_with_a_damaged_cookie_is_damaged_and_no_other_file(at: int, end: int) -> None:
    data = bytearray(fixed(b"\1" * 4096, ID))[: 4096 + end]
    data[4096 + at] ^= 1 << at
    with pytest.raises(CorruptDisk, match="footer") as caught:
        open_disk(BytesSource(data, "disk.vhd"))
    assert (caught.value.offset, caught.value.rule) == (4096, "VHD footer: Cookie")


@pytest.mark.parametrize("damage", [b"connectx", bytes(8), bytes(512)])
def test_a_dynamic_vhd_with_two_damaged_cookies_is_damaged_and_no_other_file(damage: bytes) -> None:
    data = Sparse(8192, 4096, {1: full_block(b"\7" * 4096)}, ID).build()
    data[: len(damage)] = data[-512 : len(data) - 512 + len(damage)] = damage
    with pytest.raises(CorruptDisk, match="footer"):
        open_disk(BytesSource(data, "disk.vhd"))


def test_what_only_resembles_a_damaged_disk_is_no_disk() -> None:
    unlike = bytearray(fixed(b"\1" * 4096, ID))
    unlike[4096:4099] = b"xyz"
    made = make_vhdx(disk_size=MIB)
    made.data[0] ^= 1
    made.data[65536] ^= 1
    made.data[131072] ^= 1
    for content, name in ((unlike, "disk.vhd"), (made.data, "disk.vhdx"), (made.data, "disk.vhd")):
        with pytest.raises(NotADisk, match="signature"):
            open_disk(BytesSource(content, name))


@pytest.mark.parametrize(
    "name", ["disk.rct", "DISK.MRT", "x.vhdx.rct", "vm.vmcx", "vm.vmrs", "vm.vmgs", "vm.vsv"]
)
def test_files_of_the_host_that_are_no_disks_are_refused(name: str) -> None:
    with pytest.raises(NotADisk, match="not a disk"):
        open_disk(BytesSource(bytes(4096), name))


def test_a_vhd_set_is_refused_with_the_reason() -> None:
    with pytest.raises(UnsupportedDisk, match="VHD Set"):
        open_disk(BytesSource(bytes(4096), "shared.vhds"))


@pytest.mark.parametrize("name", ["disk.vhd", "disk.vhdx", "disk.raw", "disk", "disk.qcow2"])
def test_an_empty_file_is_refused(name: str) -> None:
    with pytest.raises(NotADisk, match="empty"):
        open_disk(BytesSource(b"", name))


@pytest.mark.parametrize("name", ["disk.vmdk", "disk.vdi", "disk.qcow2", "disk.hdd"])
def test_a_foreign_name_without_its_signature_is_refused(name: str) -> None:
    with pytest.raises(NotADisk, match="named like"):
        open_disk(BytesSource(bytes(4096), name))


@pytest.mark.parametrize("name", ["disk", "disk.raw", "disk.img", ".vhd", "vhd"])
def test_anything_else_of_whole_sectors_is_raw(name: str) -> None:
    disk = open_disk(BytesSource(b"\1" * 1024, name))
    assert (disk.profile.format, disk.profile.size) == ("raw", 1024)


def test_raw_can_be_forbidden() -> None:
    with pytest.raises(NotADisk, match="neither VHD nor VHDX"):
        open_disk(BytesSource(bytes(1024), "disk"), raw_allowed=False)


def test_a_raw_disk_with_a_broken_sector_is_refused() -> None:
    with pytest.raises(NotADisk, match="1023"):
        open_disk(BytesSource(bytes(1023), "disk.raw"))


def test_a_vhd_without_extension_is_recognised() -> None:
    layer = Sparse(8192, 4096, {1: full_block(b"\7" * 4096)}, ID)
    data = layer.build()
    assert open_disk(BytesSource(bytes(data), "disk")).profile.kind == "dynamic"
    assert open_disk(BytesSource(bytes(data[:-512]), "disk")).profile.kind == "dynamic"
    assert open_disk(BytesSource(fixed(bytes(1024), ID), "disk")).profile.kind == "fixed"
    assert open_disk(BytesSource(fixed(bytes(1024), ID)[:-1], "disk")).profile.kind == "fixed"


def test_a_vhdx_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "disk.vhdx"
    create_disk(path, DiskProfile("vhdx", "dynamic", 1 << 20)).finish()
    with open_path(path) as disk:
        assert disk.profile.format == "vhdx"
    named_wrongly = path.rename(tmp_path / "disk.vhd")
    with pytest.raises(NotADisk, match="looks like VHDX"):
        open_path(named_wrongly)


@pytest.mark.parametrize("inner", [b"QFI\xfb", b"vhdxfile", b"KDMV"])
def test_what_the_guest_writes_into_a_fixed_vhd_does_not_matter(inner: bytes) -> None:
    data = fixed(sector(inner), ID)
    disk = open_disk(BytesSource(data, "disk.vhd"))
    assert disk.read_at(0, 1024) == sector(inner)


def test_a_file_that_looks_like_two_formats_is_not_guessed() -> None:
    with pytest.raises(UnsupportedDisk, match="at once"):
        open_disk(BytesSource(fixed(sector(b"vhdxfile"), ID), "disk"))


@pytest.mark.parametrize("data", [fixed(bytes(1024), ID), b"vhdxfile".ljust(1024, b"\0")])
def test_a_raw_disk_whose_guest_imitates_a_format_is_not_opened_as_it(data: bytes) -> None:
    with pytest.raises(UnsupportedDisk, match="named like a raw disk"):
        open_disk(BytesSource(data, "disk.raw"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.VHD", "vhd"),
        ("a.avhd", "vhd"),
        ("a.vhdx", "vhdx"),
        ("a.avhdx", "vhdx"),
        ("a.img", "raw"),
        ("a", None),
    ],
)
def test_the_format_promised_by_a_name(name: str, expected: Format | None) -> None:
    assert format_of_name(name) == expected


def test_no_file_a_folder_and_a_pipe_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.vhd")
    for name in ("none.vhd", "pipe.vhd", "."):
        with pytest.raises(SourceUnreadable):
            open_path(tmp_path / name)


# --- parents


def layer(number: int, parent: int, name: str, size: int = 4 * 4096) -> Sparse:
    """A child with one sector of its own, in the block of its number."""
    block = Block([True] + [False] * 7, bytes([number]) * 4096)
    return Sparse(
        size, 4096, {number % 4: block}, UUID(int=number), DIFFERENCING, UUID(int=parent),
        locators=[(b"W2ku", f"C:\\Virtual Machines\\{name}".encode("utf-16-le"), 512)],
    )  # fmt: skip


BASE = bytes(range(1, 129)) * 128


def chain_in(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "base.vhd").write_bytes(fixed(BASE, UUID(int=10)))
    (folder / "mid.avhd").write_bytes(layer(1, 10, "base.vhd").build())
    (folder / "top.avhd").write_bytes(layer(2, 1, "mid.avhd").build())
    return folder / "top.avhd"


def test_a_chain_is_opened_from_the_files_given(tmp_path: Path) -> None:
    top = chain_in(tmp_path)
    with open_path(top, siblings=sorted(tmp_path.iterdir())) as disk:
        assert [Path(part.name).name for part in disk.chain()] == ["top.avhd", "mid.avhd", "base.vhd"]
        seen = apply(apply(BASE, layer(1, 10, "")), layer(2, 1, ""))
        assert disk.read_at(0, len(seen)) == seen


def test_a_parent_that_is_not_given_is_missing_even_if_it_lies_beside(tmp_path: Path) -> None:
    top = chain_in(tmp_path)
    with pytest.raises(ParentMissing, match=r"mid\.avhd"):
        open_path(top)
    with pytest.raises(ParentMissing, match=r"base\.vhd"):
        open_path(top, siblings=[tmp_path / "mid.avhd"])


def test_an_incomplete_vhd_chain_shows_its_own_bytes_and_nothing_of_the_parent(tmp_path: Path) -> None:
    top = chain_in(tmp_path)
    (tmp_path / "base.vhd").unlink()
    with open_path(top, siblings=sorted(tmp_path.iterdir()), complete=False) as disk:
        assert [(Path(part.name).name, part.profile.kind) for part in disk.chain()] == [
            ("top.avhd", "differencing"),
            ("mid.avhd", "differencing"),
        ]
        own = list(disk.layer_extents())
        assert 0 < sum(extent.length for extent in own) < disk.profile.size
        seen = apply(bytes(len(BASE)), layer(2, 1, ""))
        for extent in own:
            assert disk.read_at(extent.offset, extent.length) == seen[extent.offset : extent.end]
        with pytest.raises(ParentMissing, match=r"mid\.avhd' needs its parent 'base\.vhd'"):
            disk.read_at(0, disk.profile.size)
        with pytest.raises(ParentMissing):
            list(disk.extents())
        missing = disk.missing_parent()
        assert missing is not None and missing.locators == (("W2ku", "C:\\Virtual Machines\\base.vhd"),)
        assert list(disk.check()) == []


def test_a_path_in_the_file_is_never_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "base.vhd").write_bytes(fixed(BASE, UUID(int=10)))
    child = layer(1, 10, "base.vhd")
    child.locators = [(b"W2ku", str(outside / "base.vhd").encode("utf-16-le"), 512)]
    path = tmp_path / "child.avhd"
    path.write_bytes(child.build())
    with pytest.raises(ParentMissing):
        open_path(path, siblings=[path])


def test_a_name_in_other_case_counts_only_if_it_is_the_only_one(tmp_path: Path) -> None:
    top = chain_in(tmp_path)
    (tmp_path / "mid.avhd").rename(tmp_path / "MID.avhd")
    with open_path(top, siblings=sorted(tmp_path.iterdir())) as disk:
        assert len(disk.chain()) == 3
    (tmp_path / "Mid.avhd").write_bytes((tmp_path / "MID.avhd").read_bytes())
    with pytest.raises(ParentMissing):
        open_path(top, siblings=sorted(tmp_path.iterdir()))


def test_of_several_candidates_the_one_with_the_right_id_is_taken(tmp_path: Path) -> None:
    top = chain_in(tmp_path)
    wrong, broken = tmp_path / "wrong", tmp_path / "broken"
    for folder in (wrong, broken):
        folder.mkdir()
    (wrong / "mid.avhd").write_bytes(fixed(BASE, UUID(int=77)))
    (broken / "mid.avhd").write_bytes(bytes(4096))
    given = [broken / "mid.avhd", wrong / "mid.avhd", tmp_path / "mid.avhd", tmp_path / "base.vhd"]
    with open_path(top, siblings=given) as disk:
        assert disk.chain()[1].name == str(tmp_path / "mid.avhd")
    with pytest.raises(ParentMismatch):
        open_path(top, siblings=given[:2])
    with pytest.raises(NotADisk):
        open_path(top, siblings=given[:1])


def two_copies(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders with one VM each; the second was copied, and its base rewritten under the same identity."""
    for name, fill in (("a", BASE), ("b", bytes(byte ^ 0xFF for byte in BASE))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "base.vhd").write_bytes(fixed(fill, UUID(int=10)))
        (tmp_path / name / "top.avhd").write_bytes(layer(1, 10, "base.vhd").build())
    return tmp_path / "a", tmp_path / "b"


def below_top(path: Path, siblings: list[Path]) -> str:
    with open_path(path, siblings=siblings) as disk:
        return Path(disk.chain()[1].name).parent.name


def test_of_two_files_with_the_parents_identity_the_one_beside_the_child_is_taken(tmp_path: Path) -> None:
    files = sorted(file for folder in two_copies(tmp_path) for file in folder.iterdir())
    for given in (files, files[::-1]):
        assert below_top(tmp_path / "a" / "top.avhd", given) == "a"
        assert below_top(tmp_path / "b" / "top.avhd", given) == "b"


def test_a_relative_path_chooses_among_files_with_the_parents_identity(tmp_path: Path) -> None:
    a, b = two_copies(tmp_path)
    moved = tmp_path / "snapshots" / "top.avhd"
    moved.parent.mkdir()
    given = [a / "base.vhd", b / "base.vhd", moved]
    for folder in ("a", "b"):
        top = layer(1, 10, "base.vhd")
        top.locators = [(b"W2ru", f"..\\{folder}\\base.vhd".encode("utf-16-le"), 512)]
        moved.write_bytes(top.build())
        assert below_top(moved, given) == folder
        assert below_top(moved, given[::-1]) == folder


def test_a_copy_elsewhere_does_not_replace_a_damaged_parent(tmp_path: Path) -> None:
    files = sorted(file for folder in two_copies(tmp_path) for file in folder.iterdir())
    (tmp_path / "b" / "base.vhd").write_bytes(bytes(4096))
    with pytest.raises(NotADisk, match=r"b/base\.vhd"):
        open_path(tmp_path / "b" / "top.avhd", siblings=files)
    assert below_top(tmp_path / "a" / "top.avhd", files) == "a"


def test_files_with_one_identity_that_nothing_tells_apart_are_refused(tmp_path: Path) -> None:
    a, b = two_copies(tmp_path)
    moved = tmp_path / "top.avhd"
    (a / "top.avhd").rename(moved)
    before = open_files()
    with pytest.raises(UnsupportedDisk, match=r"'.*/a/base\.vhd' and '.*/b/base\.vhd'") as caught:
        open_path(moved, siblings=[a / "base.vhd", b / "base.vhd", moved])
    assert str(moved) in caught.value.message
    assert open_files() == before


def test_files_that_name_each_other_as_parent_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.avhd").write_bytes(layer(1, 2, "b.avhd").build())
    (tmp_path / "b.avhd").write_bytes(layer(2, 1, "a.avhd").build())
    with pytest.raises(CorruptDisk, match="child already"):
        open_path(tmp_path / "a.avhd", siblings=sorted(tmp_path.iterdir()))
    (tmp_path / "self.avhd").write_bytes(layer(3, 3, "self.avhd").build())
    with pytest.raises(CorruptDisk, match="child already"):
        open_path(tmp_path / "self.avhd", siblings=sorted(tmp_path.iterdir()))


def test_a_chain_of_64_files_is_opened_and_one_of_65_refused(tmp_path: Path) -> None:
    (tmp_path / "0.vhd").write_bytes(fixed(BASE, UUID(int=1000)))
    for depth in range(1, 65):
        parent = f"{depth - 1}.vhd" if depth == 1 else f"{depth - 1}.avhd"
        child = layer(depth, 999 + depth, parent)
        child.disk_id = UUID(int=1000 + depth)
        (tmp_path / f"{depth}.avhd").write_bytes(child.build())
    files = sorted(tmp_path.iterdir())
    with open_path(tmp_path / "63.avhd", siblings=files) as disk:
        assert len(disk.chain()) == 64
        assert sum(extent.length for extent in disk.extents()) == len(BASE)
        assert disk.read_at(0, 512) == bytes([60]) * 512
    with pytest.raises(FormatError, match="longer than 64"):
        open_path(tmp_path / "64.avhd", siblings=files)


def test_files_that_name_many_parents_do_not_cost_a_search_in_every_order(tmp_path: Path) -> None:
    names = [f"{n}.avhd" for n in range(12)]
    for number, name in enumerate(names):
        knot = layer(1, 500, name)
        knot.disk_id = UUID(int=number + 1)
        others = [other for other in names if other != name][number % 3 :][:8]
        knot.locators = [(b"W2ku", other.encode("utf-16-le"), 512) for other in others]
        (tmp_path / name).write_bytes(knot.build())
    with pytest.raises(FormatError):
        open_path(tmp_path / "0.avhd", siblings=sorted(tmp_path.iterdir()))


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_failed_opening_leaves_no_file_open(tmp_path: Path) -> None:
    top = chain_in(tmp_path)
    (tmp_path / "base.vhd").write_bytes(fixed(BASE, UUID(int=11)))
    before = open_files()
    for _ in range(3):
        with pytest.raises(ParentMismatch):
            open_path(top, siblings=sorted(tmp_path.iterdir()))
    assert open_files() == before
