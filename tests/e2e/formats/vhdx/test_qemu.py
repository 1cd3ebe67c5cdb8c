"""qemu as an independent witness: dynamic and fixed disks of 512-byte sectors, and log replay."""

import random
import shutil
import struct
import subprocess
from pathlib import Path
from uuid import UUID

import pytest

from tests.generators import vhdx_bytes as gen
from vmkeep.formats.disk import DiskProfile, Kind
from vmkeep.formats.parents import no_parents
from vmkeep.formats.source import FileSource
from vmkeep.formats.vhdx import create_vhdx, open_vhdx

pytestmark = pytest.mark.qemu

SIZE = 41 * gen.MIB + 3 * 512


def run(*command: str) -> str:
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout


def random_writes(seed: int, size: int, count: int) -> list[str]:
    """qemu-io commands of scattered writes and zeroings."""
    rng = random.Random(seed)
    commands = []
    for _ in range(count):
        offset = rng.randrange(size // 512) * 512
        length = min(rng.choice([512, 4096, 70_144, gen.MIB, 3 * gen.MIB]), size - offset)
        if rng.random() < 0.15:
            commands += ["-c", f"write -z {offset} {length}"]
        else:
            commands += ["-c", f"write -P {rng.randrange(1, 256)} {offset} {length}"]
    return commands


def qemu_disk(path: Path, subformat: str, block_size: str, seed: int) -> None:
    options = f"subformat={subformat},block_size={block_size}"
    run("qemu-img", "create", "-q", "-f", "vhdx", "-o", options, str(path), str(SIZE))
    run("qemu-io", "-f", "vhdx", *random_writes(seed, SIZE, 25), str(path))


def raw_by_qemu(path: Path) -> bytes:
    raw = path.with_suffix(".raw")
    run("qemu-img", "convert", "-f", "vhdx", "-O", "raw", str(path), str(raw))
    return raw.read_bytes()


@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
@pytest.mark.parametrize(("block_size", "seed"), [("1M", 1), ("8M", 2), ("256M", 3)])
def test_we_read_what_qemu_wrote(tmp_path: Path, subformat: str, block_size: str, seed: int) -> None:
    path = tmp_path / "disk.vhdx"
    qemu_disk(path, subformat, block_size, seed)
    raw = raw_by_qemu(path)
    with open_vhdx(FileSource(path), no_parents) as disk:
        assert disk.profile.kind == subformat
        assert disk.read_at(0, disk.profile.size) == raw[: disk.profile.size]
        assert len(raw) == disk.profile.size
        # qemu gives each header a DataWriteGuid of its own, and unwritten blocks of a fixed disk are ZERO.
        odd = {"[MS-VHDX] 2.2.2 DataWriteGuid", *(["[MS-VHDX] 2.5.1.1"] if subformat == "fixed" else [])}
        assert {f.rule for f in disk.check()} <= odd
        assert {f.severity for f in disk.check()} <= {"warning"}
        holes = bytearray(raw)
        for found in disk.extents():
            holes[found.offset : found.end] = bytes(found.length)
        assert not any(holes)


@pytest.mark.parametrize("kind", ["dynamic", "fixed"])
@pytest.mark.parametrize("block_size", [gen.MIB, None, 256 * gen.MIB])
def test_qemu_reads_what_we_wrote(tmp_path: Path, kind: Kind, block_size: int | None) -> None:
    rng = random.Random(f"{kind} {block_size}")
    path, raw = tmp_path / "disk.vhdx", tmp_path / "disk.raw"
    writer = create_vhdx(path, DiskProfile("vhdx", kind, SIZE, block_size=block_size))
    with raw.open("wb") as plain:
        plain.truncate(SIZE)
        for _ in range(12):
            at = rng.randrange(SIZE)
            piece = rng.randbytes(min(rng.randrange(1, 3 * gen.MIB), SIZE - at))
            writer.write_at(at, piece)
            plain.seek(at)
            plain.write(piece)
    writer.finish()
    assert "No errors" in run("qemu-img", "check", "-f", "vhdx", str(path))
    assert "identical" in run("qemu-img", "compare", "-f", "vhdx", "-F", "raw", str(path), str(raw))
    # A program that writes to our file must find it in order, too.
    run("qemu-io", "-f", "vhdx", *random_writes(9, SIZE, 10), str(path))
    assert "No errors" in run("qemu-img", "check", "-f", "vhdx", str(path))
    with open_vhdx(FileSource(path), no_parents) as disk:
        assert disk.read_at(0, SIZE) == raw_by_qemu(path)


def test_a_disk_of_qemu_goes_through_us_and_comes_out_identical(tmp_path: Path) -> None:
    source, copy = tmp_path / "source.vhdx", tmp_path / "copy.vhdx"
    qemu_disk(source, "dynamic", "2M", 11)
    with open_vhdx(FileSource(source), no_parents) as disk:
        writer = create_vhdx(copy, disk.profile)
        for found in disk.extents():
            writer.write_at(found.offset, disk.read_at(found.offset, found.length))
        writer.finish()
        with open_vhdx(FileSource(copy), no_parents) as again:
            assert again.profile == disk.profile
    run("qemu-img", "compare", "-s", "-f", "vhdx", "-F", "vhdx", str(source), str(copy))


def replayed_by_qemu(path: Path) -> bytes:
    """Let qemu repair a copy, and return its contents."""
    copy = path.with_name("repaired.vhdx")
    shutil.copy(path, copy)
    run("qemu-img", "check", "-f", "vhdx", "-r", "all", str(copy))
    return raw_by_qemu(copy)


@pytest.mark.parametrize("start", [0, 0x7000, gen.MIB - 0x2000])
def test_a_log_is_replayed_as_qemu_replays_it(tmp_path: Path, start: int) -> None:
    count = 6
    blocks = {n: gen.Block(gen.FULL, bytes([n + 1]) * gen.MIB) for n in range(count)}
    made = gen.make_vhdx(disk_size=count * gen.MIB, blocks=blocks, physical=512, log_guid=gen.LOG_GUID)
    right = made.page(made.bat)
    for n in range(count):
        made.set_u64(made.entry_at(n), made.places[(n + 1) % count] | gen.FULL)
    target = made.places[3]
    writes: list[gen.Write] = [
        gen.data_write(made.bat, right),
        gen.zero_write(target + 8192, 8192),
        gen.data_write(target + 4096, bytes(range(256)) * 16),
    ]
    size = len(made.data)
    entry = gen.log_entry(1000, start, writes, flushed=size, last=size)
    made.put(made.log, bytes(gen.ring_of({start: entry})))
    path = tmp_path / "dirty.vhdx"
    path.write_bytes(made.data)
    with open_vhdx(FileSource(path), no_parents) as disk:
        seen = disk.read_at(0, disk.profile.size)
    assert path.read_bytes() == made.data
    assert seen == replayed_by_qemu(path)
    assert seen[3 * gen.MIB : 3 * gen.MIB + 4096] == b"\4" * 4096


def test_a_log_that_qemu_wrote_is_replayed(tmp_path: Path) -> None:
    path = tmp_path / "disk.vhdx"
    qemu_disk(path, "dynamic", "1M", 21)
    expected = raw_by_qemu(path)
    # qemu gives each entry a log of its own and closes it behind the entry, but the entry
    # stays. Opening the last one again and wiping the table is the state of a power cut
    # between the log and the table.
    data = bytearray(path.read_bytes())
    entries = [at for at in range(gen.MIB, 2 * gen.MIB, 4096) if data[at : at + 4] == b"loge"]
    assert len(entries) > 5
    last = max(entries, key=lambda at: int.from_bytes(data[at + 16 : at + 24], "little"))
    log_guid = UUID(bytes_le=bytes(data[last + 32 : last + 48]))
    for slot in (64 * gen.KIB, 128 * gen.KIB):
        number, _, data_guid = struct.unpack_from("<Q16s16s", data, slot + 8)
        head = gen.header(number, data_write=UUID(bytes_le=data_guid), log_guid=log_guid)
        data[slot : slot + 4096] = head
    table = struct.unpack_from("<Q", data, last + 64 + 16)[0]
    data[table : table + 4096] = bytes(4096)
    path.write_bytes(data)

    with open_vhdx(FileSource(path), no_parents) as disk:
        findings = [(f.severity, f.rule) for f in disk.check()]
        seen = disk.read_at(0, SIZE)
    # qemu leaves space free in front of the blocks, which is no hole in this copy.
    assert findings == [("warning", f"[MS-VHDX] {rule}") for rule in ("2.2.2 DataWriteGuid", "2.3.3", "2.4")]
    assert path.read_bytes() == data
    assert seen == expected
    assert seen == replayed_by_qemu(path)
    assert any(seen)
