"""Make the two virtual machines of `vmkeep demo`: disks.zst and truth.json.

    python tools/make_demo_fixture.py [FOLDER]     default: src/vmkeep/cli/demo_fixture

Knows nothing of vmkeep: file systems come from mkntfs, ntfscp, mke2fs and
debugfs, disk files from qemu-img, the differencing layer (which qemu-img cannot
write) from the page of [MS-VHDX]. The checksums in truth.json are those of the
raw bytes the disk files were made from, so vmkeep is not its own judge.

Two runs with the same tools give the same bytes: ids come from names, dates are
fixed, what the tools draw at random is written over.
"""

import hashlib
import json
import os
import random
import re
import struct
import subprocess
import sys
import tempfile
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import google_crc32c
import zstandard

KIB: Final = 1 << 10
MIB: Final = 1 << 20
SECTOR: Final = 512
WEB_SIZE: Final = 256 * MIB
DATABASE_SIZE: Final = 64 * MIB
BLOCK: Final = MIB
PARTITION_START: Final = MIB
# 2026-01-01 00:00 UTC as Unix, Windows and VHD count time.
UNIX_TIME: Final = 1_767_225_600
WINDOWS_TIME: Final = (UNIX_TIME + 11_644_473_600) * 10_000_000
VHD_TIME: Final = UNIX_TIME - 946_684_800
FOLDER: Final = Path(__file__).parents[1] / "src" / "vmkeep" / "cli" / "demo_fixture"
LAYER_NAME: Final = "system_3D0C62B5-9A4E-4C1B-8A57-6F21D0E4B8C9.avhdx"

Ranges = list[tuple[int, int]]


def made_id(name: str) -> uuid.UUID:
    """Return the id that belongs to a name, the same every time."""
    return uuid.uuid5(uuid.UUID("5b7a7f6e-3c55-4f0e-9d8b-0e4f6d2c9a10"), name)


def run(*command: str | Path) -> str:
    """Run a tool, with a fixed time for those that listen; return what it printed."""
    # mkfs lives in sbin, which only root's PATH names.
    path = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"
    environment = {"PATH": path, "LC_ALL": "C", "TZ": "UTC", "E2FSPROGS_FAKE_TIME": str(UNIX_TIME)}
    done = subprocess.run([str(part) for part in command], env=environment, capture_output=True, check=False)
    if done.returncode:
        sys.exit(f"{command[0]} failed: {done.stderr.decode(errors='replace')}")
    return (done.stdout + done.stderr).decode(errors="replace")


# --- what the guests have written ---------------------------------------------------


def web_log(day: int, lines: int) -> bytes:
    """A web server's log, invented: one line a request."""
    chance = random.Random(f"log {day}")
    pages = ["/", "/shop", "/shop/tea", "/shop/cups", "/basket", "/pay", "/about", "/pictures/leaf.png"]
    out, second = [], 0
    for number in range(lines):
        second += chance.choice((0, 0, 1, 1, 2))
        clock = f"{second // 3600 % 24:02}:{second // 60 % 60:02}:{second % 60:02}"
        visitor = f"10.{day}.0.{chance.randrange(1, 9)}"
        out.append(f"2026-01-{day:02} {clock} {visitor} GET {chance.choice(pages)} 200 request={number:07}\n")
    return "".join(out).encode()


def orders(start: int, count: int) -> bytes:
    """A table of orders, invented."""
    chance = random.Random(f"orders {start}")
    goods = ["green tea", "black tea", "white tea", "cup", "pot", "strainer", "tin"]
    return "".join(
        f"order {number:08} | {chance.choice(goods):<10} | {chance.randrange(1, 5)} pieces | paid\n"
        for number in range(start, start + count)
    ).encode()


def recording(pages: int) -> bytes:
    """Sound, invented: a sawtooth whose pitch changes every 2048 samples, no two stretches alike.

    Guests and vmkeep cannot shorten it much; the fixture can, for it counts (see `steps`).
    """
    chance, out = random.Random("recording"), []
    for _ in range(pages):
        start, step = chance.randrange(1 << 16), chance.randrange(1, 1 << 16, 2)
        out.append(struct.pack("<2048H", *((start + n * step) & 0xFFFF for n in range(2048))))
    return b"".join(out)


def page(words: str) -> bytes:
    """The shop's first page."""
    return f"<!doctype html>\n<title>Leaf and Cup</title>\n<h1>{words}</h1>\n".encode()


# --- raw disks ------------------------------------------------------------------------


def write_gpt(disk: Path) -> None:
    """Write both partition tables around the one NTFS partition (UEFI 2.10, 5.3)."""
    last = WEB_SIZE // SECTOR - 1
    first, end = PARTITION_START // SECTOR, last - PARTITION_START // SECTOR
    basic_data = uuid.UUID("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7")
    entry = basic_data.bytes_le + made_id("partition").bytes_le + struct.pack("<QQQ", first, end, 0)
    entries = (entry + "Web".encode("utf-16-le").ljust(72, b"\0")).ljust(128 * 128, b"\0")

    def header(here: int, other: int, table: int) -> bytes:
        ids = struct.pack("<QQQQ", here, other, 34, last - 33) + made_id("disk").bytes_le
        rest = ids + struct.pack("<QIII", table, 128, 128, zlib.crc32(entries))
        blank = struct.pack("<8sIIII", b"EFI PART", 0x10000, 92, 0, 0) + rest
        return (blank[:16] + struct.pack("<I", zlib.crc32(blank)) + blank[20:]).ljust(SECTOR, b"\0")

    protective = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, last)
    with disk.open("r+b") as out:
        out.write(protective.rjust(446 + 16, b"\0").ljust(510, b"\0") + b"\x55\xaa")
        out.write(header(1, last, 2) + entries)
        out.seek((last - 32) * SECTOR)
        out.write(entries + header(last, 1, last - 32))


def put_into_ntfs(partition: Path, files: dict[str, bytes], folder: Path) -> None:
    """Copy files into the partition's root folder and write the fixed date over today's."""
    start = time.time_ns() // 100 + 11_644_473_600 * 10_000_000
    for name, content in files.items():
        source = folder / "content"
        source.write_bytes(content)
        run("ntfscp", "-q", "-f", partition, source, name)
    end = time.time_ns() // 100 + 11_644_473_600 * 10_000_000
    # NTFS keeps times in aligned words, and no other word happens to lie between
    # start and end of this run: what does is a time.
    with partition.open("r+b") as out:
        for offset, length in ranges_with_data(partition):
            data = os.pread(out.fileno(), length, offset)
            for number, (word,) in enumerate(struct.iter_unpack("<Q", data)):
                if start <= word <= end:
                    os.pwrite(out.fileno(), struct.pack("<Q", WINDOWS_TIME), offset + number * 8)


def web_disks(folder: Path) -> list[Path]:
    """Return the web server's raw disk at three moments: checkpoint, first and second run."""
    partition = folder / "partition.raw"
    make_sparse(partition, WEB_SIZE - 2 * PARTITION_START)
    geometry = ["-s", "512", "-p", str(PARTITION_START // SECTOR), "-H", "255", "-S", "63", "-c", "4096"]
    run("mkntfs", "-q", "-Q", "-F", "-T", *geometry, "-L", "Web", partition)
    moments = [
        {"index.html": page("Tea is coming"), "access-01.log": web_log(1, 8000), "rain.pcm": recording(3072)},
        {"index.html": page("Open now"), "access-02.log": web_log(2, 4000)},
        {"index.html": page("Ten percent off"), "access-03.log": web_log(3, 3000)},
    ]
    disks = []
    for number, files in enumerate(moments):
        put_into_ntfs(partition, files, folder)
        disk = folder / f"web-{number}.raw"
        make_sparse(disk, WEB_SIZE)
        write_gpt(disk)
        copy_data(partition, disk, PARTITION_START)
        disks.append(disk)
    return disks


def database_disks(folder: Path) -> list[Path]:
    """Return the database's raw disk at two moments: first and second run."""
    disks = [folder / "database-0.raw", folder / "database-1.raw"]
    make_sparse(disks[0], DATABASE_SIZE)
    choices = f"hash_seed={made_id('hash seed')},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0"
    mke2fs = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-J", "size=4", "-L", "database"]
    run(*mke2fs, "-U", str(made_id("ext4")), "-E", choices, disks[0])
    put_into_ext4(disks[0], {"orders-2025.tbl": orders(1, 16000), "README": b"Orders of the shop.\n"}, folder)
    make_sparse(disks[1], DATABASE_SIZE)
    copy_data(disks[0], disks[1], 0)
    put_into_ext4(disks[1], {"orders-2026.tbl": orders(16001, 4000)}, folder)
    return disks


def put_into_ext4(disk: Path, files: dict[str, bytes], folder: Path) -> None:
    """Copy files into the root folder, owned by root."""
    for name, content in files.items():
        source = folder / "content"
        source.write_bytes(content)
        source.chmod(0o644)
        said = run("debugfs", "-w", "-R", f"write {source} {name}", disk)
        for field in ("uid", "gid"):
            said += run("debugfs", "-w", "-R", f"set_inode_field {name} {field} 0", disk)
        if "Allocated inode" not in said:  # debugfs fails without an exit code
            sys.exit(f"debugfs failed: {said}")
    run("e2fsck", "-f", "-n", disk)


def make_sparse(path: Path, size: int) -> None:
    """Make a new file of zeros."""
    with path.open("xb") as out:
        out.truncate(size)


def copy_data(source: Path, target: Path, offset: int) -> None:
    """Copy what is not zero to ``offset`` in the target."""
    with source.open("rb") as data, target.open("r+b") as out:
        for at, length in ranges_with_data(source):
            out.seek(offset + at)
            out.write(os.pread(data.fileno(), length, at))


# --- disk files -------------------------------------------------------------------------


def crc_at_4(data: bytes) -> bytes:
    """Fill the checksum at offset 4: CRC-32C with that field zero ([MS-VHDX] 2.2.2)."""
    blank = data[:4] + bytes(4) + data[8:]
    return data[:4] + struct.pack("<I", google_crc32c.value(blank)) + data[8:]


def name_vhdx(path: Path) -> None:
    """Replace what qemu-img draws at random in a VHDX file: ids, sequence numbers, an old log."""
    with path.open("r+b") as file:

        def read(offset: int, length: int) -> bytes:
            return os.pread(file.fileno(), length, offset)

        heads = {offset: read(offset, 4 * KIB) for offset in (64 * KIB, 128 * KIB)}
        numbers = {offset: struct.unpack_from("<Q", head, 8)[0] for offset, head in heads.items()}
        ids = made_id("base file").bytes_le + made_id("base data").bytes_le + bytes(16)
        for offset, head in heads.items():
            if head[:4] != b"head" or any(head[48:64]):
                sys.exit("qemu-img left a header out, or a log behind that is still needed.")
            newest = numbers[offset] == max(numbers.values())
            named = head[:8] + struct.pack("<Q", 7 if newest else 6) + ids + head[64:]
            os.pwrite(file.fileno(), crc_at_4(named), offset)
            # What stands in the log was applied long ago.
            log_length, log_offset = struct.unpack_from("<IQ", head, 68)
            os.pwrite(file.fileno(), bytes(log_length), log_offset)
        regions = read(192 * KIB, 64 * KIB)
        found = regions.index(uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e").bytes_le)
        (metadata,) = struct.unpack_from("<Q", regions, found + 16)
        table = read(metadata, 64 * KIB)
        found = table.index(uuid.UUID("beca12ab-b2e6-4523-93ef-c309e000c746").bytes_le)
        (item,) = struct.unpack_from("<I", table, found + 16)
        os.pwrite(file.fileno(), made_id("web disk").bytes_le, metadata + item)


def name_vhd(path: Path) -> None:
    """Replace date and random id in the footer of a fixed VHD that qemu-img made."""
    with path.open("r+b") as file:
        file.seek(-SECTOR, os.SEEK_END)
        footer = bytearray(file.read(SECTOR))
        struct.pack_into(">I", footer, 24, VHD_TIME)
        footer[68:84] = made_id("database disk").bytes
        footer[64:68] = bytes(4)
        struct.pack_into(">I", footer, 64, ~sum(footer) & 0xFFFFFFFF)
        file.seek(-SECTOR, os.SEEK_END)
        file.write(footer)


def differencing_vhdx(
    path: Path, raw: Path, written: Ranges, blocks: Sequence[int], sequence: int, data_id: uuid.UUID
) -> None:
    """Write the layer that turns system.vhdx into ``raw``: ``written`` sectors, in ``blocks`` order."""
    log, bat, metadata, bitmap, payload = (n * MIB for n in (1, 2, 3, 4, 5))
    make_sparse(path, payload + len(blocks) * BLOCK)
    present = bytearray(MIB)
    with path.open("r+b") as out, raw.open("rb") as data:

        def put(offset: int, content: bytes) -> None:
            out.seek(offset)
            out.write(content)

        put(0, b"vhdxfile" + "demo".encode("utf-16-le"))
        for number, offset in ((sequence - 1, 64 * KIB), (sequence, 128 * KIB)):
            ids = made_id("layer file").bytes_le + data_id.bytes_le + bytes(16)
            head = b"head" + struct.pack("<IQ", 0, number) + ids + struct.pack("<HHIQ", 0, 1, MIB, log)
            put(offset, crc_at_4(head.ljust(4 * KIB, b"\0")))
        regions = uuid.UUID("2dc27766-f623-4200-9d64-115e9bfd4a08").bytes_le + struct.pack(
            "<QII", bat, MIB, 1
        )
        regions += uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e").bytes_le
        regions += struct.pack("<QII", metadata, MIB, 1)
        table = crc_at_4((b"regi" + struct.pack("<III", 0, 2, 0) + regions).ljust(64 * KIB, b"\0"))
        put(192 * KIB, table)
        put(256 * KIB, table)
        put(metadata, layer_metadata())
        for offset, length in written:
            for at in range(offset, offset + length, SECTOR):
                present[at // SECTOR // 8] |= 1 << at // SECTOR % 8
                place = payload + blocks.index(at // BLOCK) * BLOCK + at % BLOCK
                put(place, os.pread(data.fileno(), SECTOR, at))
        # Partially present blocks (7), and after each 2^23 sectors their bitmap (6) [MS-VHDX] 2.5.
        for number, block in enumerate(blocks):
            put(bat + block * 8, struct.pack("<Q", payload + number * BLOCK | 7))
        put(bat + (2**23 * SECTOR // BLOCK) * 8, struct.pack("<Q", bitmap | 6))
        put(bitmap, bytes(present))


def layer_metadata() -> bytes:
    """Table and items of the layer; its parent is system.vhdx ([MS-VHDX] 2.6)."""
    pairs = {
        "parent_linkage": "{" + str(made_id("base data")) + "}",
        "relative_path": ".\\system.vhdx",
        "absolute_win32_path": "C:\\VMs\\web-server\\system.vhdx",
    }
    texts, entries, start = b"", b"", 20 + 12 * len(pairs)
    for key, value in ((k.encode("utf-16-le"), v.encode("utf-16-le")) for k, v in pairs.items()):
        at = start + len(texts)
        entries += struct.pack("<IIHH", at, at + len(key), len(key), len(value))
        texts += key + value
    kind = uuid.UUID("b04aefb7-d19e-4a81-b789-25b8e9445913").bytes_le
    items = [  # id, flags (2 virtual disk, 4 required), content
        ("caa16737-fa36-4d43-b3b6-33f0aa44e76b", 4, struct.pack("<II", BLOCK, 2)),
        ("2fa54224-cd1b-4876-b211-5dbed83bf4b8", 6, struct.pack("<Q", WEB_SIZE)),
        ("beca12ab-b2e6-4523-93ef-c309e000c746", 6, made_id("web disk").bytes_le),
        ("8141bf1d-a96f-4709-ba47-f233a8faab5f", 6, struct.pack("<I", SECTOR)),
        ("cda348c7-445d-4471-9cc9-e9885251c556", 6, struct.pack("<I", SECTOR)),
        ("a8d35f2d-b30b-454d-abf7-d3d84834ab0c", 4, kind + struct.pack("<HH", 0, 3) + entries + texts),
    ]
    table, body = b"metadata" + struct.pack("<HH", 0, len(items)) + bytes(20), b""
    for item, flags, content in items:
        place = struct.pack("<IIII", 64 * KIB + len(body), len(content), flags, 0)
        table += uuid.UUID(item).bytes_le + place
        body += content
    return table.ljust(64 * KIB, b"\0") + body


# --- comparing and packing --------------------------------------------------------------------


def differing(left: Path | None, right: Path, unit: int) -> Iterator[int]:
    """Yield the offset of each unit of ``right`` that differs from ``left`` (None: from zeros)."""
    with right.open("rb") as new, (left or Path(os.devnull)).open("rb") as old:
        offset = 0
        while data := new.read(MIB):
            before = old.read(MIB).ljust(len(data), b"\0")
            if data != before:
                for at in range(0, len(data), unit):
                    if data[at : at + unit] != before[at : at + unit]:
                        yield offset + at
            offset += len(data)


def joined(offsets: Iterable[int], unit: int, limit: int, gap: int = 0) -> Ranges:
    """Join units into ranges, also across gaps up to ``gap`` bytes."""
    out: Ranges = []
    for at in offsets:
        end = min(at + unit, limit)
        if out and at - sum(out[-1]) <= gap:
            out[-1] = (out[-1][0], end - out[-1][0])
        else:
            out.append((at, end - at))
    return out


def ranges_with_data(path: Path) -> Ranges:
    """Return where a file holds something else than zeros."""
    return joined(differing(None, path, 4 * KIB), 4 * KIB, path.stat().st_size)


class Packing:
    """The data of all parts, one after the other, and how each is coded."""

    def __init__(self) -> None:
        self.stream = bytearray()

    def add(self, file: Path, ranges: Ranges) -> list[list[Any]]:
        """Append the ranges of a file; return them as [offset, length, coding]."""
        parts: list[list[Any]] = []
        with file.open("rb") as data:
            for offset, length in ranges:
                for at in range(offset, offset + length, 4 * KIB):
                    content = os.pread(data.fileno(), min(4 * KIB, offset + length - at), at)
                    coding = "plain"
                    if len(content) == 4 * KIB and is_counting(content):
                        coding, content = "steps", steps(content)
                    self.stream += content
                    if parts and parts[-1][2] == coding and sum(parts[-1][:2]) == at:
                        parts[-1][1] += len(content)
                    else:
                        parts.append([at, len(content), coding])
        return parts


def steps(content: bytes) -> bytes:
    """Return each 16-bit word as the step from the one before; starts anew every 4 KiB."""
    words = struct.unpack(f"<{len(content) // 2}H", content)
    return struct.pack(
        f"<{len(words)}H", *((b - a) & 0xFFFF for a, b in zip((0, *words), words, strict=False))
    )


def is_counting(content: bytes) -> bool:
    """Tell a page that only its steps make short: NTFS's table of capital letters, the recording."""
    return len(zlib.compress(steps(content))) * 2 < len(zlib.compress(content))


def file_with_parts(packing: Packing, path: str, file: Path, before: Path | None = None) -> dict[str, Any]:
    """Describe a disk file, or what changed in it since ``before``."""
    unit, gap = (4 * KIB, 16 * KIB) if before is None else (SECTOR, 2 * KIB)
    size = file.stat().st_size
    parts = packing.add(file, joined(differing(before, file, unit), unit, size, gap))
    return {"path": path, "size": size, "parts": parts}


def sha256(path: Path) -> str:
    """Return the checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- the two machines ----------------------------------------------------------------------------


def make_web_server(folder: Path, packing: Packing) -> dict[str, Any]:
    """A dynamic VHDX with a checkpoint: system.vhdx and the layer the guest now writes into."""
    checkpoint, first, second = web_disks(folder)
    base, layers = folder / "system.vhdx", [folder / "layer-0.avhdx", folder / "layer-1.avhdx"]
    create = ["qemu-img", "convert", "-f", "raw", "-O", "vhdx", "-S", "4k"]
    run(*create, "-o", f"subformat=dynamic,block_size={BLOCK}", checkpoint, base)
    name_vhdx(base)
    require_same(base, "vhdx", checkpoint, folder)
    before = set(differing(checkpoint, first, SECTOR))
    after = before | set(differing(first, second, SECTOR))
    blocks = sorted({at // BLOCK for at in before})
    later = blocks + sorted({at // BLOCK for at in after} - set(blocks))
    written = [joined(sorted(sectors), SECTOR, WEB_SIZE) for sectors in (before, after)]
    differencing_vhdx(layers[0], first, written[0], blocks, 8, made_id("layer data, first run"))
    differencing_vhdx(layers[1], second, written[1], later, 10, made_id("layer data, second run"))
    files = [
        file_with_parts(packing, "web-server/system.vhdx", base),
        file_with_parts(packing, f"web-server/{LAYER_NAME}", layers[0]),
    ]
    patch = file_with_parts(packing, f"web-server/{LAYER_NAME}", layers[1], layers[0])
    machine = {"name": "web-server", "disk": "system", "format": "VHDX with a checkpoint", "inside": "NTFS"}
    return machine | {
        "size": WEB_SIZE,
        "disk_id": str(made_id("web disk")),
        "files": files,
        "written_later": [patch],
        "changed_ranges": joined(differing(first, second, 4 * KIB), 4 * KIB, WEB_SIZE),
        "sha256": [sha256(first), sha256(second)],
    }


def make_database(folder: Path, packing: Packing) -> dict[str, Any]:
    """A fixed VHD that holds one ext4 file system and no partitions."""
    raws = database_disks(folder)
    disks = [folder / "data-0.vhd", folder / "data-1.vhd"]
    for raw, disk in zip(raws, disks, strict=True):
        run("qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", "subformat=fixed,force_size=on", raw, disk)
        name_vhd(disk)
        require_same(disk, "vpc", raw, folder)
    machine = {"name": "database", "disk": "data", "format": "fixed VHD", "inside": "ext4"}
    return machine | {
        "size": DATABASE_SIZE,
        "disk_id": str(made_id("database disk")),
        "files": [file_with_parts(packing, "database/data.vhd", disks[0])],
        "written_later": [file_with_parts(packing, "database/data.vhd", disks[1], disks[0])],
        "changed_ranges": joined(differing(raws[0], raws[1], 4 * KIB), 4 * KIB, DATABASE_SIZE),
        "sha256": [sha256(raw) for raw in raws],
    }


def require_same(disk: Path, format: str, raw: Path, folder: Path) -> None:
    """Let qemu-img read the disk file back; end if it reads other bytes than went in."""
    back = folder / "back.raw"
    run("qemu-img", "convert", "-f", format, "-O", "raw", disk, back)
    if sha256(back) != sha256(raw):
        sys.exit(f"qemu-img reads {disk.name} differently from what went in.")
    back.unlink()


def versions() -> dict[str, str]:
    """Return the tools that decide the bytes, by version."""
    asked = {"qemu-img": ["--version"], "mkntfs": ["--version"], "mke2fs": ["-V"]}
    found = {tool: re.search(r"\d+(\.\d+)+", run(tool, *options)) for tool, options in asked.items()}
    return {tool: match[0] if match else "unknown" for tool, match in found.items()}


def make(folder: Path) -> None:
    """Write disks.zst and truth.json into ``folder``."""
    packing = Packing()
    with tempfile.TemporaryDirectory(prefix="demo-fixture-") as work:
        machines = [make_web_server(Path(work), packing), make_database(Path(work), packing)]
    stream = bytes(packing.stream)
    level = zstandard.ZstdCompressionParameters.from_level(17, write_checksum=True, window_log=23)
    packed = zstandard.ZstdCompressor(compression_params=level).compress(stream)
    truth = {
        "about": "Two invented virtual machines, made by tools/make_demo_fixture.py without vmkeep. "
        "disks.zst holds the bytes of all parts, in the order they stand here. 'sha256' is that of the raw "
        "virtual disk before and after 'written_later'.",
        "made_with": versions(),
        "stream_size": len(stream),
        "machines": machines,
    }
    text = json.dumps(truth, indent=1)
    # One range a line, not one number.
    text = re.sub(r"\[\s+(\d+),\s+(\d+)(?:,\s+(\"\w+\"))?\s+\]", _one_line, text)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "truth.json").write_text(text + "\n", "utf-8", newline="\n")
    (folder / "disks.zst").write_bytes(packed)


def _one_line(match: re.Match[str]) -> str:
    return "[" + ", ".join(group for group in match.groups() if group) + "]"


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
