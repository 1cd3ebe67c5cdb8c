"""The guest that writes and the content it starts from: repeatable, and of the kinds promised."""

import itertools
import zlib
from pathlib import Path

import pytest

from vmkeep_lab.disks import BadRequest, GuestWriter, VirtualDisk, fill, load_image

KIB, MIB = 1 << 10, 1 << 20

pytestmark = pytest.mark.quick


def disk_of(folder: Path, name: str, size: int = 40 * MIB + 512) -> VirtualDisk:
    return VirtualDisk.create(folder / name, size, block_size=MIB)


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path, seed: int) -> None:
    disks = [disk_of(tmp_path, f"{number}.vhdx") for number in range(3)]
    for disk, its_seed in zip(disks, (seed, seed, seed + 1), strict=True):
        GuestWriter(disk, its_seed).step(60)
    assert disks[0].sha256() == disks[1].sha256() != disks[2].sha256()
    for disk in disks:
        disk.close()


def test_a_writer_goes_on_where_another_stopped(tmp_path: Path, seed: int) -> None:
    one, two = disk_of(tmp_path, "1.vhdx"), disk_of(tmp_path, "2.vhdx")
    actions = GuestWriter(one, seed).step(60)
    first = GuestWriter(two, seed)
    resumed = first.step(25)
    assert first.position == 25
    resumed += GuestWriter(two, seed, position=first.position).step(35)
    assert resumed == actions
    assert one.sha256() == two.sha256()
    one.close()
    two.close()


def test_a_guest_does_all_that_is_awkward(tmp_path: Path, seed: int) -> None:
    disk = disk_of(tmp_path, "d.vhdx")
    actions = GuestWriter(disk, seed).step(500)
    assert {action.kind for action in actions} == {"write", "zero", "unmap"}
    assert any(action.offset == 0 for action in actions)
    assert any(action.offset + action.length == disk.size for action in actions)
    assert any(action.offset % 4096 or action.length % 4096 for action in actions)
    assert all(action.offset % 512 == action.length % 512 == 0 < action.length for action in actions)
    records = [action.offset for action in actions[3::7]]
    assert all(later - earlier == 64 * KIB for earlier, later in itertools.pairwise(records))
    scattered = {action.length for action in actions if action.kind == "write"}
    assert min(scattered) <= 4096
    assert 48 * KIB < max(scattered) <= 64 * KIB
    disk.close()


@pytest.mark.parametrize("sectors", [1, 3, 2048])
def test_small_disks_can_be_written_too(tmp_path: Path, seed: int, sectors: int) -> None:
    disk = disk_of(tmp_path, "d.vhdx", sectors * 512)
    assert len(GuestWriter(disk, seed).step(50)) == 50
    disk.close()


def test_fill_is_a_mixture_of_the_size_asked_for(tmp_path: Path, seed: int) -> None:
    disk, again = disk_of(tmp_path, "d.vhdx", 60 * MIB), disk_of(tmp_path, "e.vhdx", 60 * MIB)
    extents = fill(disk, seed, 12 * MIB)
    assert fill(again, seed, 12 * MIB) == extents
    assert disk.sha256() == again.sha256()
    assert sum(length for _, length in extents) == 12 * MIB
    assert all(a + n <= b for (a, n), (b, _) in itertools.pairwise(extents))
    content = b"".join(disk.read(offset, length) for offset, length in extents)
    units = [content[at : at + 64 * KIB] for at in range(0, len(content), 64 * KIB)]
    assert len(zlib.compress(content, 1)) < 0.75 * len(content)
    assert sum(len(zlib.compress(unit, 1)) > 60 * KIB for unit in units) > len(units) // 4
    assert 0.03 < 1 - len(set(units)) / len(units) < 0.25
    disk.close()
    again.close()


def test_a_full_disk_has_no_gaps(tmp_path: Path, seed: int) -> None:
    disk = disk_of(tmp_path, "d.vhdx", 3 * MIB)
    assert sum(length for _, length in fill(disk, seed, 1 << 40)) == 3 * MIB
    disk.close()


def test_an_image_is_copied_without_its_zeros(tmp_path: Path) -> None:
    image = tmp_path / "ntfs.img"
    with image.open("wb") as file:
        file.write(b"boot" * 128)
        file.seek(20 * MIB)
        file.write(bytes(MIB) + b"data" * 1000 + bytes(MIB))
        file.seek(30 * MIB)
        file.write(b"last, and no whole sector")
    disk = disk_of(tmp_path, "d.vhdx")
    with image.open("rb") as content:
        load_image(disk, content)
    raw = image.read_bytes()
    assert disk.read(0, len(raw)) == raw
    assert disk.read(len(raw), disk.size - len(raw)) == bytes(disk.size - len(raw))
    assert disk.leaf.stat().st_size == 4 * MIB + 3 * MIB
    with pytest.raises(BadRequest), image.open("rb") as content:
        load_image(disk_of(tmp_path, "small.vhdx", MIB), content)
    disk.close()
