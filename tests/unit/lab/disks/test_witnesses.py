"""What qemu and libvhdi, who never saw our code, make of the lab's files.

Each is asked only where it is right (protocols.md 4.2): qemu for 512-byte
sectors without parents, and logs on a copy; libvhdi for 4 KiB sectors and,
in requests of whole 4 KiB, for chains without ZERO or UNMAPPED over data.
"""

import itertools
import random
import shutil
import subprocess
from pathlib import Path
from typing import Literal

import pytest
import pyvhdi

from vmkeep_lab.disks import GuestWriter, VirtualDisk, fill

MIB = 1 << 20


def qemu_img(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["qemu-img", *map(str, words)], capture_output=True, text=True, check=False)


def assert_qemu_agrees(path: Path, expected: bytes) -> None:
    checked = qemu_img("check", "-f", "vhdx", path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    raw = path.with_suffix(".raw")
    raw.write_bytes(expected)
    compared = qemu_img("compare", "-f", "vhdx", "-F", "raw", path, raw)
    assert compared.returncode == 0, compared.stdout + compared.stderr


@pytest.mark.qemu
@pytest.mark.parametrize("kind", ["dynamic", "fixed"])
@pytest.mark.parametrize("block_size", [MIB, 2 * MIB, 32 * MIB])
def test_qemu_reads_what_a_guest_wrote(
    tmp_path: Path, seed: int, kind: Literal["dynamic", "fixed"], block_size: int
) -> None:
    path = tmp_path / "d.vhdx"
    size = 70 * MIB + 512 * 3
    disk = VirtualDisk.create(path, size, kind=kind, block_size=block_size, seed=seed)
    fill(disk, seed, 20 * MIB)
    GuestWriter(disk, seed).step(150)
    expected = disk.read(0, size)
    disk.close()
    assert_qemu_agrees(path, expected)


@pytest.mark.qemu
def test_qemu_repairs_a_copy_taken_while_the_guest_writes(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "d.vhdx"
    disk = VirtualDisk.create(path, 40 * MIB, block_size=MIB, seed=seed)
    guest = GuestWriter(disk, seed)
    for number in range(4):
        guest.step(40)
        copy = tmp_path / f"copy{number}.vhdx"
        shutil.copyfile(path, copy)
        assert "log" in qemu_img("check", "-f", "vhdx", copy).stderr
        repaired = qemu_img("check", "-f", "vhdx", "-r", "all", copy)
        assert repaired.returncode == 0, repaired.stdout + repaired.stderr
        assert_qemu_agrees(copy, disk.read(0, disk.size))
    disk.close()


@pytest.mark.qemu
def test_qemu_repairs_a_fixed_disk_whose_log_is_empty(tmp_path: Path) -> None:
    path, copy = tmp_path / "d.vhdx", tmp_path / "copy.vhdx"
    disk = VirtualDisk.create(path, 5 * MIB, kind="fixed", block_size=MIB)
    disk.write(MIB, b"fixed" * 512)
    shutil.copyfile(path, copy)
    repaired = qemu_img("check", "-f", "vhdx", "-r", "all", copy)
    assert repaired.returncode == 0, repaired.stdout + repaired.stderr
    assert_qemu_agrees(copy, disk.read(0, disk.size))
    disk.close()


@pytest.mark.qemu
def test_a_base_that_layers_were_merged_into_is_one_disk_to_qemu(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "d.vhdx"
    size = 24 * MIB + 1024
    disk = VirtualDisk.create(path, size, block_size=2 * MIB, seed=seed)
    guest = GuestWriter(disk, seed)
    for number in range(3):
        guest.step(30)
        disk.checkpoint(tmp_path / f"{number}.avhdx", host_path=f"C:\\{disk.leaf.name}", block_size=MIB)
    guest.step(30)
    expected = disk.read(0, size)
    for layer in disk.files[:-1]:
        disk.merge(layer)
    disk.close()
    assert_qemu_agrees(path, expected)


@pytest.mark.qemu
def test_a_file_that_qemu_made_becomes_a_disk(tmp_path: Path, seed: int) -> None:
    """The other way round: the lab goes on with another writer's file, as after an import."""
    path, raw = tmp_path / "d.vhdx", tmp_path / "d.raw"
    chooser = random.Random(seed)
    model = bytearray(12 * MIB)
    for _ in range(8):
        offset = chooser.randrange(len(model) // 512) * 512
        model[offset : offset + 512] = chooser.randbytes(512)
    raw.write_bytes(model)
    made = qemu_img("convert", "-O", "vhdx", "-o", "subformat=dynamic,block_size=1M", raw, path)
    assert made.returncode == 0, made.stderr
    disk = VirtualDisk.open(path)
    assert disk.read(0, disk.size) == model
    GuestWriter(disk, seed).step(40)
    disk.checkpoint(tmp_path / "d1.avhdx", host_path="C:\\d.vhdx")
    GuestWriter(disk, seed, position=40).step(40)
    expected = disk.read(0, disk.size)
    disk.merge(disk.leaf)
    disk.close()
    assert_qemu_agrees(path, expected)


def test_libvhdi_reads_disks_of_large_sectors(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "d.vhdx"
    disk = VirtualDisk.create(path, 10 * MIB + 4096, block_size=MIB, logical_sector=4096, seed=seed)
    GuestWriter(disk, seed).step(60)
    expected = disk.read(0, disk.size)
    disk.close()
    file = pyvhdi.file()
    file.open(str(path))
    assert file.get_media_size() == len(expected)
    assert file.read_buffer_at_offset(len(expected), 0) == expected
    file.close()


def test_libvhdi_reads_chains(tmp_path: Path, seed: int) -> None:
    """Every block of a child is written to, in whole 4 KiB: libvhdi takes absent bitmaps for present ones."""
    size = 6 * MIB
    disk = VirtualDisk.create(tmp_path / "d.vhdx", size, block_size=MIB, seed=seed)
    chooser = random.Random(seed)
    for number in range(3):
        for block in range(6):
            for _ in range(4):
                offset = block * MIB + chooser.randrange(MIB // 4096) * 4096
                disk.write(offset, chooser.randbytes(4096))
        if number < 2:
            disk.checkpoint(tmp_path / f"{number}.avhdx", host_path=f"C:\\{disk.leaf.name}", block_size=MIB)
    expected = disk.read(0, size)
    disk.close()
    files = [pyvhdi.file() for _ in disk.files]
    for file, path in zip(files, disk.files, strict=True):
        file.open(str(path))
    for child, parent in itertools.pairwise(files):
        child.set_parent(parent)
    seen = b"".join(files[0].read_buffer_at_offset(4096, offset) for offset in range(0, size, 4096))
    assert seen == expected
    for file in files:
        file.close()
