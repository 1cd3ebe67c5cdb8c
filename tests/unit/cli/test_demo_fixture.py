"""The demo's disks are what truth.json says, by the word of qemu, libvhdi, ntfs-3g and e2fsprogs."""

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import pyvhdi
import zstandard

import vmkeep.cli
from tools.make_demo_fixture import differing, joined, make
from vmkeep.cli.demo_fixture import Machine, machines
from vmkeep.cli.demo_story import Taken, judge

FIXTURE: Final = Path(vmkeep.cli.__file__).parent / "demo_fixture"
LARGEST: Final = 200 * 1024
TOOLS: Final = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
WEB, DATABASE = machines()
RawDisks = dict[tuple[str, bool], Path]


def run_tool(*command: str | Path) -> bytes:
    environment = {**os.environ, "PATH": TOOLS, "LC_ALL": "C"}
    return subprocess.run([str(c) for c in command], capture_output=True, env=environment, check=True).stdout


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpacked(machine: Machine, folder: Path, *, later: bool) -> list[Path]:
    machine.unpack(folder)
    if later:
        machine.write_on(folder)
    return [folder / file.path for file in machine.files]


def raw_by_qemu(vhd: Path, target: Path) -> Path:
    run_tool("qemu-img", "convert", "-f", "vpc", "-O", "raw", vhd, target)
    return target


def raw_by_libvhdi(files: list[Path], target: Path) -> Path:
    """qemu-img reads no differencing VHDX; libvhdi does."""
    base, layer = pyvhdi.file(), pyvhdi.file()
    base.open(str(files[0]))
    layer.open(str(files[1]))
    layer.set_parent(base)
    with target.open("wb") as out:
        for at in range(0, layer.get_media_size(), 1 << 20):
            data = layer.read_buffer_at_offset(1 << 20, at)
            if any(data):
                out.seek(at)
                out.write(data)
        out.truncate(layer.get_media_size())
    layer.close()
    base.close()
    return target


@pytest.fixture(scope="module")
def raw_disks(tmp_path_factory: pytest.TempPathFactory) -> RawDisks:
    """Each machine's disk before and after the guest wrote on, as other programs read it."""
    folder = tmp_path_factory.mktemp("raw")
    disks: RawDisks = {}
    for machine in (WEB, DATABASE):
        for later in (False, True):
            files = unpacked(machine, folder / f"files-{later}", later=later)
            target = folder / f"{machine.name}-{later}.raw"
            read = raw_by_libvhdi(files, target) if machine is WEB else raw_by_qemu(files[0], target)
            disks[machine.name, later] = read
    return disks


def test_stays_small() -> None:
    sizes = {path.name: path.stat().st_size for path in FIXTURE.iterdir() if path.is_file()}
    assert {"disks.zst", "truth.json"} < sizes.keys()
    assert sum(sizes.values()) <= LARGEST, sizes


@pytest.mark.qemu
@pytest.mark.parametrize("machine", [WEB, DATABASE], ids=lambda machine: machine.name)
def test_other_programs_read_what_the_truth_says(machine: Machine, raw_disks: RawDisks) -> None:
    before, after = raw_disks[machine.name, False], raw_disks[machine.name, True]
    assert before.stat().st_size == after.stat().st_size == machine.size
    assert (sha256(before), sha256(after)) == machine.sha256
    changed = joined(differing(before, after, 4096), 4096, machine.size)
    assert changed == [tuple(piece) for piece in machine.changed_ranges]


@pytest.mark.qemu
def test_the_base_of_the_chain_is_a_disk_qemu_reads(tmp_path: Path) -> None:
    files = unpacked(WEB, tmp_path, later=False)
    info = json.loads(run_tool("qemu-img", "info", "--output=json", files[0]))
    assert (info["format"], info["virtual-size"]) == ("vhdx", WEB.size)
    run_tool("qemu-img", "check", files[0])


@pytest.mark.qemu
def test_ntfs_holds_real_files(raw_disks: RawDisks, tmp_path: Path) -> None:
    for later, words in ((False, b"Open now"), (True, b"Ten percent off")):
        # One partition, from 1 MiB to 1 MiB before the end; GPT at both ends.
        data = raw_disks[WEB.name, later].read_bytes()
        assert data[512:520] == data[-512:-504] == b"EFI PART"
        partition = tmp_path / "partition"
        partition.write_bytes(data[1 << 20 : -1 << 20])
        assert words in run_tool("ntfscat", "-f", partition, "index.html")
        assert len(run_tool("ntfscat", "-f", partition, "rain.pcm")) == 12 << 20
        listed = run_tool("ntfsls", "-f", partition).decode().split()
        assert ("access-03.log" in listed) is later
        run_tool("ntfsfix", "-n", partition)


@pytest.mark.qemu
def test_ext4_is_sound_and_holds_real_files(raw_disks: RawDisks) -> None:
    for later in (False, True):
        disk = raw_disks[DATABASE.name, later]
        run_tool("e2fsck", "-f", "-n", disk)
        assert run_tool("debugfs", "-R", "cat orders-2025.tbl", disk).startswith(b"order 00000001 |")
        assert (b"order 00016001 |" in run_tool("debugfs", "-R", "cat orders-2026.tbl", disk)) is later


@pytest.mark.qemu
@pytest.mark.slow
def test_the_maker_makes_the_same_again(tmp_path: Path) -> None:
    def made(folder: Path) -> tuple[dict[str, Any], bytes]:
        truth = json.loads((folder / "truth.json").read_text("utf-8"))
        stream = zstandard.ZstdDecompressor().decompress((folder / "disks.zst").read_bytes())
        return truth, stream

    make(tmp_path / "one")
    one = made(tmp_path / "one")
    committed = made(FIXTURE)
    if one[0]["made_with"] == committed[0]["made_with"]:
        assert one == committed
    else:  # other versions of the tools lay a disk out differently, but always in the same way
        make(tmp_path / "two")
        assert one == made(tmp_path / "two")


def taken(expected: bytes) -> Taken:
    return Taken("full", DATABASE, "0" * 32, hashlib.sha256(expected).hexdigest(), 0, 0)


@pytest.mark.quick
def test_the_judge_wants_every_byte(tmp_path: Path, seed: int) -> None:
    right = hashlib.shake_256(b"disk").digest(100_000)
    disk = tmp_path / "data.raw"
    disk.write_bytes(right)
    assert judge(tmp_path, taken(right)).identical
    place = seed % len(right)
    for wrong in (
        right[:place] + bytes([right[place] ^ 1]) + right[place + 1 :],
        right[:-1],
        right + b"\0",
        b"",
    ):
        disk.write_bytes(wrong)
        assert not judge(tmp_path, taken(right)).identical


@pytest.mark.quick
def test_the_judge_wants_the_disk_and_nothing_else(tmp_path: Path) -> None:
    assert not judge(tmp_path, taken(b"")).identical
    (tmp_path / "other.raw").touch()
    assert not judge(tmp_path, taken(b"")).identical
    (tmp_path / "data.raw").touch()
    assert not judge(tmp_path, taken(b"")).identical
    (tmp_path / "other.raw").unlink()
    assert judge(tmp_path, taken(b"")).identical
