"""Make the disk that stands in the lab's web server: web-server.zst and web-server.json.

    python tools/make_lab_image.py [FOLDER]     default: src/vmkeep_lab/disks/images

A GPT disk with one NTFS volume, made by mkntfs and ntfscp, as one raw image. Its guest's only work is to
write into one of the files, a database whose bytes lie in one piece: so the file system stays sound
whatever the guest writes. The place of that file stands in the .json; in the image it holds zeros.

Two runs with the same tools give the same bytes: ids come from names, dates are fixed, what the tools
draw at random is written over.
"""

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
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import zstandard

KIB: Final = 1 << 10
MIB: Final = 1 << 20
SECTOR: Final = 512
PAGE: Final = 4 * KIB
SIZE: Final = 128 * MIB
PARTITION_START: Final = MIB
DATABASE: Final = "orders.db"
DATABASE_SIZE: Final = 48 * MIB
# 2026-01-01 00:00 UTC as Windows counts time.
WINDOWS_TIME: Final = (1_767_225_600 + 11_644_473_600) * 10_000_000
NAME: Final = "web-server"
FOLDER: Final = Path(__file__).parents[1] / "src" / "vmkeep_lab" / "disks" / "images"


def made_id(name: str) -> uuid.UUID:
    """Return the id that belongs to a name, the same every time."""
    return uuid.uuid5(uuid.UUID("5b7a7f6e-3c55-4f0e-9d8b-0e4f6d2c9a10"), name)


def run(*command: str | Path) -> str:
    """Run a tool; return what it printed."""
    # mkfs lives in sbin, which only root's PATH names.
    path = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"
    environment = {"PATH": path, "LC_ALL": "C", "TZ": "UTC"}
    done = subprocess.run([str(part) for part in command], env=environment, capture_output=True, check=False)
    if done.returncode:
        sys.exit(f"{command[0]} failed: {done.stderr.decode(errors='replace')}")
    return (done.stdout + done.stderr).decode(errors="replace")


# --- what the guest has written -----------------------------------------------------------------


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


def files() -> dict[str, bytes]:
    """Return the files of the volume, by name."""
    page = b"<!doctype html>\n<title>Leaf and Cup</title>\n<h1>Open now</h1>\n"
    return {"index.html": page, "access-01.log": web_log(1, 3000), "access-02.log": web_log(2, 1000)}


def marked(number: int) -> bytes:
    """Return a page that tells where in the database it belongs."""
    return struct.pack("<8sQ", b"orders\0\0", number) * (PAGE // 16)


# --- the raw disk -------------------------------------------------------------------------------


def write_gpt(disk: Path) -> None:
    """Write both partition tables around the one NTFS partition (UEFI 2.10, 5.3)."""
    last = SIZE // SECTOR - 1
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


def make_partition(partition: Path, folder: Path) -> int:
    """Make the NTFS volume and its files; return where in it the database lies, in one piece of zeros."""
    start = windows_time()
    with partition.open("xb") as out:
        out.truncate(SIZE - 2 * PARTITION_START)
    geometry = ["-s", "512", "-p", str(PARTITION_START // SECTOR), "-H", "255", "-S", "63", "-c", "4096"]
    run("mkntfs", "-q", "-Q", "-F", "-T", *geometry, "-L", "Web", partition)
    database = b"".join(marked(number) for number in range(DATABASE_SIZE // PAGE))
    for name, content in {**files(), DATABASE: database}.items():
        source = folder / "content"
        source.write_bytes(content)
        run("ntfscp", "-q", "-f", partition, source, name)
    place = take_out_database(partition)
    fix_times(partition, start, windows_time())
    return place


def take_out_database(partition: Path) -> int:
    """Find the marked pages, make them zeros, and return where they begin; end if they lie in pieces."""
    data = partition.read_bytes()
    place = data.index(marked(0))
    for number in range(DATABASE_SIZE // PAGE):
        at = place + number * PAGE
        if data[at : at + PAGE] != marked(number):
            sys.exit(f"{DATABASE} lies in pieces; choose another size.")
    with partition.open("r+b") as out:
        out.seek(place)
        out.write(bytes(DATABASE_SIZE))
    return place


def windows_time() -> int:
    """Return the time as NTFS writes it: steps of 100 ns since 1601."""
    return time.time_ns() // 100 + 11_644_473_600 * 10_000_000


def fix_times(partition: Path, start: int, end: int) -> None:
    """Write the fixed date over today's.

    NTFS keeps times in aligned words, and no other word happens to lie between
    start and end of this run: what does is a time.
    """
    with partition.open("r+b") as out:
        for offset, page in pages_with_data(partition):
            for number, (word,) in enumerate(struct.iter_unpack("<Q", page)):
                if start <= word <= end:
                    os.pwrite(out.fileno(), struct.pack("<Q", WINDOWS_TIME), offset + number * 8)


def pages_with_data(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the pages of a file that hold something else than zeros, with their offsets."""
    with path.open("rb") as data:
        offset = 0
        while page := data.read(PAGE):
            if any(page):
                yield offset, page
            offset += len(page)


# --- packing ------------------------------------------------------------------------------------


def make(folder: Path) -> None:
    """Write web-server.zst, the whole raw disk, and web-server.json into ``folder``."""
    with tempfile.TemporaryDirectory(prefix="lab-image-") as work:
        partition, disk = Path(work, "partition.raw"), Path(work, "disk.raw")
        place = make_partition(partition, Path(work))
        with disk.open("xb") as out:
            out.truncate(SIZE)
        write_gpt(disk)
        with disk.open("r+b") as out:
            for offset, page in pages_with_data(partition):
                out.seek(PARTITION_START + offset)
                out.write(page)
        level = zstandard.ZstdCompressionParameters.from_level(19, write_checksum=True, window_log=23)
        packed = zstandard.ZstdCompressor(compression_params=level).compress(disk.read_bytes())
    version = re.search(r"\d+(\.\d+)+", run("mkntfs", "--version"))
    about = {
        "about": f"A raw disk, GPT with one NTFS volume, made by tools/make_lab_image.py. Its guest writes "
        f"into {DATABASE} only, which lies in one piece at 'work' (offset, length).",
        "made_with": {"mkntfs": version[0] if version else "unknown"},
        "size": SIZE,
        "work": [PARTITION_START + place, DATABASE_SIZE],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{NAME}.json").write_text(json.dumps(about, indent=1) + "\n", "utf-8", newline="\n")
    (folder / f"{NAME}.zst").write_bytes(packed)


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
