"""The images are what they say, by the word of ntfs-3g; and a guest that writes one leaves it sound."""

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import zstandard

from tools.make_lab_image import DATABASE, FOLDER, make
from vmkeep_lab.disks import Area, BadRequest, GuestWriter, VirtualDisk, fill, image, image_names, load_image

MIB: Final = 1 << 20
TOOLS: Final = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
LARGEST: Final = 200 * 1024


def run_tool(*command: str | Path) -> bytes:
    environment = {**os.environ, "PATH": TOOLS, "LC_ALL": "C"}
    return subprocess.run([str(c) for c in command], capture_output=True, env=environment, check=True).stdout


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[VirtualDisk]:
    known = image("web-server")
    made = VirtualDisk.create(tmp_path / "disk.vhdx", known.size)
    with known.opened() as content:
        load_image(made, content)
    yield made
    made.close()


def partition_of(disk: VirtualDisk, folder: Path) -> Path:
    """The one partition: from 1 MiB to 1 MiB before the end, GPT at both ends."""
    assert disk.read(512, 8) == disk.read(disk.size - 512, 8) == b"EFI PART"
    partition = folder / "partition"
    with partition.open("wb") as out:
        for offset in range(MIB, disk.size - MIB, MIB):
            out.write(disk.read(offset, MIB))
    return partition


@pytest.mark.quick
def test_images_stay_small() -> None:
    assert image_names() == ["web-server"]
    assert sum(path.stat().st_size for path in FOLDER.glob("web-server.*")) <= LARGEST


def test_a_guest_that_works_leaves_a_sound_file_system(disk: VirtualDisk, tmp_path: Path, seed: int) -> None:
    known = image("web-server")
    area = Area(disk, known.work_start, known.work_size)
    fill(area, seed, 40 * MIB)
    GuestWriter(area, seed).step(200)
    partition = partition_of(disk, tmp_path)
    run_tool("ntfsfix", "-n", partition)
    assert b"Open now" in run_tool("ntfscat", "-f", partition, "index.html")
    database = run_tool("ntfscat", "-f", partition, DATABASE)
    assert len(database) == known.work_size
    written = disk.read(known.work_start, known.work_size)
    assert hashlib.sha256(database).digest() == hashlib.sha256(written).digest()
    assert any(written)


@pytest.mark.quick
def test_an_area_is_all_that_is_written(tmp_path: Path, seed: int) -> None:
    disk = VirtualDisk.create(tmp_path / "d.vhdx", 20 * MIB, block_size=MIB)
    disk.write(0, b"\x5a" * (20 * MIB))
    start, size = 5 * MIB + 512, 9 * MIB
    area = Area(disk, start, size)
    GuestWriter(area, seed).step(300)
    assert disk.read(0, start) == b"\x5a" * start
    rest = 20 * MIB - start - size
    assert disk.read(start + size, rest) == b"\x5a" * rest
    assert disk.read(start, size) != b"\x5a" * size
    for offset, length in ((-512, 512), (size, 512), (size - 512, 1024)):
        for change in (area.zero, area.unmap):
            with pytest.raises(BadRequest):
                change(offset, length)
        with pytest.raises(BadRequest):
            area.write(offset, bytes(length))
    with pytest.raises(BadRequest):
        Area(disk, 512, 20 * MIB)
    disk.close()


@pytest.mark.slow
def test_the_maker_makes_the_same_again(tmp_path: Path) -> None:
    def made(folder: Path) -> tuple[dict[str, object], bytes]:
        about = json.loads((folder / "web-server.json").read_text("utf-8"))
        stream = zstandard.ZstdDecompressor().decompress((folder / "web-server.zst").read_bytes())
        return about, hashlib.sha256(stream).digest()

    make(tmp_path / "one")
    one, committed = made(tmp_path / "one"), made(FOLDER)
    if one[0]["made_with"] == committed[0]["made_with"]:
        assert one == committed
    else:  # another mkntfs lays a volume out differently, but always in the same way
        make(tmp_path / "two")
        assert one == made(tmp_path / "two")
