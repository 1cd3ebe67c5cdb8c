"""VHDX chains opened from a folder: names only, the identity decides, formats are not mixed."""

import os
import struct
from pathlib import Path
from uuid import UUID

import pytest

from tests.generators.vhd_bytes import fixed
from tests.generators.vhdx_bytes import (
    FULL,
    LOG_GUID,
    MIB,
    PARTIAL,
    TIB,
    Block,
    crc_at_4,
    log_entry,
    make_vhdx,
)
from vmkeep.formats.errors import CorruptDisk, NotADisk, ParentMismatch, ParentMissing, UnsupportedDisk
from vmkeep.formats.opening import open_path, open_paths

pytestmark = pytest.mark.quick

SIZE = 4 * MIB


def base(guid: int = 1, fill: bytes = b"\1") -> bytes:
    blocks = {n: Block(FULL, fill * MIB) for n in range(4)}
    return bytes(make_vhdx(disk_size=SIZE, blocks=blocks, write_guid=UUID(int=guid)).data)


def child(number: int, parent: int, path: str) -> bytes:
    """A child that holds one sector of its own, in the block of its number."""
    block = Block(PARTIAL, bytes([number]) * MIB, frozenset([number]))
    locator = [("parent_linkage", f"{{{UUID(int=parent)}}}"), ("absolute_win32_path", path)]
    made = make_vhdx(
        disk_size=SIZE,
        blocks={number % 4: block},
        has_parent=True,
        locator=locator,
        write_guid=UUID(int=number),
    )
    return bytes(made.data)


def test_a_vhdx_chain_is_opened_by_base_names(tmp_path: Path) -> None:
    (tmp_path / "base.vhdx").write_bytes(base())
    (tmp_path / "mid.avhdx").write_bytes(child(2, 1, "\\\\?\\C:\\VMs\\base.vhdx"))
    (tmp_path / "top.avhdx").write_bytes(child(3, 2, "\\\\?\\C:\\VMs\\Snap\\MID.AVHDX"))
    with open_path(tmp_path / "top.avhdx", siblings=sorted(tmp_path.iterdir())) as disk:
        assert [Path(layer.name).name for layer in disk.chain()] == ["top.avhdx", "mid.avhdx", "base.vhdx"]
        expected = bytearray(b"\1" * SIZE)
        for number in (2, 3):
            at = number * MIB + number * 512
            expected[at : at + 512] = bytes([number]) * 512
        assert disk.read_at(0, SIZE) == expected


def test_the_vhdx_parent_with_the_right_guid_is_taken_among_equal_names(tmp_path: Path) -> None:
    for folder, guid, fill in (("a", 9, b"\x09"), ("b", 1, b"\1")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "base.vhdx").write_bytes(base(guid, fill))
    top = tmp_path / "top.avhdx"
    top.write_bytes(child(2, 1, "\\\\?\\C:\\VMs\\base.vhdx"))
    given = [tmp_path / "a" / "base.vhdx", tmp_path / "b" / "base.vhdx"]
    with open_path(top, siblings=given) as disk:
        assert disk.read_at(0, 1) == b"\1"
    with pytest.raises(ParentMismatch):
        open_path(top, siblings=given[:1])
    with pytest.raises(ParentMissing):
        open_path(top)


def test_a_vhd_or_raw_parent_of_a_vhdx_is_refused(tmp_path: Path) -> None:
    top = tmp_path / "top.avhdx"
    for name, data, error in (
        ("base.vhd", fixed(b"\1" * SIZE, UUID(int=1)), UnsupportedDisk),
        ("base.raw", b"\1" * SIZE, NotADisk),
        ("base", b"\1" * SIZE, NotADisk),
    ):
        top.write_bytes(child(2, 1, f"\\\\?\\C:\\VMs\\{name}"))
        (tmp_path / name).write_bytes(data)
        with pytest.raises(error):
            open_path(top, siblings=[tmp_path / name])


def test_a_vhdx_that_is_its_own_parent_is_refused(tmp_path: Path) -> None:
    loop = tmp_path / "loop.avhdx"
    loop.write_bytes(child(2, 2, "\\\\?\\C:\\VMs\\loop.avhdx"))
    with pytest.raises(CorruptDisk):
        open_path(loop, siblings=[loop])
    link = tmp_path / "link.avhdx"
    link.symlink_to(loop)
    loop.write_bytes(child(2, 2, "\\\\?\\C:\\VMs\\link.avhdx"))
    with pytest.raises(CorruptDisk):
        open_path(loop, siblings=[link])


def test_a_chain_of_64_vhdx_files_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "0.vhdx").write_bytes(base(100))
    for depth in range(1, 64):
        name = f"{depth - 1}.{'avhdx' if depth > 1 else 'vhdx'}"
        block = Block(PARTIAL, bytes([depth]) * MIB, frozenset([depth]))
        made = make_vhdx(
            disk_size=SIZE,
            blocks={depth % 4: block},
            has_parent=True,
            locator=[("parent_linkage", f"{{{UUID(int=99 + depth)}}}"), ("relative_path", f".\\{name}")],
            write_guid=UUID(int=100 + depth),
        )
        (tmp_path / f"{depth}.avhdx").write_bytes(bytes(made.data))
    with open_path(tmp_path / "63.avhdx", siblings=sorted(tmp_path.iterdir())) as disk:
        assert len(disk.chain()) == 64
        for depth in range(1, 64):
            assert disk.read_at(depth % 4 * MIB + depth * 512, 512) == bytes([depth]) * 512
        assert sum(extent.length for extent in disk.extents()) == SIZE
        assert len(disk.identity()) == 64


@pytest.mark.slow
def test_the_logs_of_files_opened_together_are_counted_together(tmp_path: Path) -> None:
    # One entry of 65 537 writes of zeros: twice that is more than 2^17.
    count = (1 << 16) + 1
    entry = log_entry(1, 0, [], last=4 * MIB)
    body = b"".join(struct.pack("<4s4xQQQ", b"zero", 4096, TIB + n * 4096, 1) for n in range(count))
    size = -(-(64 + len(body)) // 4096) * 4096
    head = entry[:8] + struct.pack("<IIQII", size, 0, 1, count, 0) + entry[32:64]
    ring = crc_at_4((head + body).ljust(size, b"\0")).ljust(4 * MIB, b"\0")
    paths = [tmp_path / "a.vhdx", tmp_path / "b.vhdx"]
    for path in paths:
        path.write_bytes(bytes(make_vhdx(disk_size=MIB, log_guid=LOG_GUID, log_ring=ring).data))
        open_path(path).close()
    before = open_descriptors()
    with pytest.raises(UnsupportedDisk, match=r"b\.vhdx.*131072 writes in their logs"):
        open_paths(paths, siblings=paths)
    assert open_descriptors() == before


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def tree(folder: Path) -> list[Path]:
    """A chain of 60 files, and a branch of five more from its middle and another from its end."""
    (folder / "0.vhdx").write_bytes(base(100))
    parents = {number: number - 1 for number in range(1, 60)}
    parents |= {60: 30, **{number: number - 1 for number in range(61, 65)}, 65: 58}
    for number, parent in parents.items():
        name = "0.vhdx" if parent == 0 else f"{parent}.avhdx"
        block = Block(PARTIAL, bytes([number]) * MIB, frozenset([number]))
        made = make_vhdx(
            disk_size=SIZE,
            blocks={number % 4: block},
            has_parent=True,
            locator=[("parent_linkage", f"{{{UUID(int=100 + parent)}}}"), ("relative_path", f".\\{name}")],
            write_guid=UUID(int=100 + number),
        )
        (folder / f"{number}.avhdx").write_bytes(bytes(made.data))
    return sorted(folder.iterdir())


@pytest.mark.parametrize("backwards", [False, True])
def test_layers_that_several_chains_share_are_open_once(tmp_path: Path, backwards: bool) -> None:
    files = tree(tmp_path)
    files.sort(key=lambda path: int(path.stem), reverse=backwards)
    before = open_descriptors()
    disks = dict(zip(files, open_paths(files, siblings=files), strict=True))
    assert open_descriptors() == before + len(files)
    leaves = {int(path.stem): disk for path, disk in disks.items() if path.stem in ("59", "64", "65")}
    for path, disk in disks.items():
        if int(path.stem) not in leaves:
            disk.close()
    assert open_descriptors() == before + len(files), "the leaves still need every layer"
    leaves[59].close()
    leaves[59].close()
    assert open_descriptors() == before + len(files) - 1, "58 and what lies below belongs to others too"
    assert leaves[65].read_at(65 % 4 * MIB + 65 * 512, 512) == bytes([65]) * 512
    assert leaves[65].read_at(58 % 4 * MIB + 58 * 512, 512) == bytes([58]) * 512
    assert leaves[65].read_at(59 % 4 * MIB + 59 * 512, 512) == b"\1" * 512
    leaves[65].close()
    assert open_descriptors() == before + 31 + 5
    assert leaves[64].read_at(30 % 4 * MIB + 30 * 512, 512) == bytes([30]) * 512
    leaves[64].close()
    assert open_descriptors() == before


def test_no_file_stays_open_when_the_last_of_many_is_refused(tmp_path: Path) -> None:
    files = tree(tmp_path)
    orphan = tmp_path / "zz.avhdx"
    orphan.write_bytes(child(7, 9999, "0.vhdx"))
    before = open_descriptors()
    with pytest.raises(ParentMismatch):
        open_paths([*files, orphan], siblings=[*files, orphan])
    assert open_descriptors() == before


@pytest.mark.parametrize("backwards", [False, True])
def test_the_depth_of_a_chain_is_counted_over_files_opened_before(tmp_path: Path, backwards: bool) -> None:
    (tmp_path / "0.vhdx").write_bytes(base(100))
    for number in range(1, 65):
        name = "0.vhdx" if number == 1 else f"{number - 1}.avhdx"
        made = make_vhdx(
            disk_size=SIZE,
            has_parent=True,
            locator=[("parent_linkage", f"{{{UUID(int=99 + number)}}}"), ("relative_path", name)],
            write_guid=UUID(int=100 + number),
        )
        (tmp_path / f"{number}.avhdx").write_bytes(bytes(made.data))
    files = sorted(tmp_path.iterdir(), key=lambda path: int(path.stem), reverse=backwards)
    with pytest.raises(UnsupportedDisk, match="longer than 64"):
        open_paths(files, siblings=files)
    for disk in open_paths(files[backwards : len(files) - (not backwards)], siblings=files):
        disk.close()
