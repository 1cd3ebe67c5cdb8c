"""Disks made by tools that are not ours, and looks into their bytes that use none of our code."""

import hashlib
import random
import struct
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

MIB: Final = 1 << 20
_GPT_TYPES: Final = {
    "ntfs": "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7",
    "ext4": "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
}
_REGION_METADATA: Final = UUID("8B7CA206-4790-4B9A-B8FE-575F050F886E")
_ITEMS: Final = {
    "parameters": UUID("CAA16737-FA36-4D43-B3B6-33F0AA44E76B"),
    "size": UUID("2FA54224-CD1B-4876-B211-5DBED83BF4B8"),
    "disk_id": UUID("BECA12AB-B2E6-4523-93EF-C309E000C746"),
    "logical_sector": UUID("8141BF1D-A96F-4709-BA47-F233A8FAAB5F"),
    "physical_sector": UUID("CDA348C7-445D-4471-9CC9-E9885251C556"),
}


def run(*arguments: object, stdin: str = "") -> bytes:
    """Run a foreign tool that must succeed; return what it printed."""
    done = subprocess.run(
        [str(a) for a in arguments],
        input=stdin.encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, (arguments, done.stdout)
    return done.stdout


def guest_files(folder: Path, seed: int, count: int = 6) -> Path:
    """Fill a folder with a few files of text and of noise."""
    rng = random.Random(seed)
    folder.mkdir(parents=True)
    for number in range(count):
        noise = rng.randbytes(rng.randrange(2000, 200_000))
        (folder / f"file-{number}.bin").write_bytes(noise if number % 2 else noise[:100] * 900)
    return folder


def ntfs_volume(path: Path, size: int, files: Iterable[Path] = ()) -> Path:
    """Make an NTFS volume with files in it, without mounting anything."""
    path.write_bytes(b"")
    with path.open("r+b") as file:
        file.truncate(size)
    run("mkntfs", "-F", "-Q", "-q", "-L", "system", path)
    for file_path in files:
        run("ntfscp", "-f", path, file_path, file_path.name)
    return path


def ext4_volume(path: Path, size: int, folder: Path) -> Path:
    """Make an ext4 volume that holds a folder's files, without mounting anything."""
    path.write_bytes(b"")
    with path.open("r+b") as file:
        file.truncate(size)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-d", folder, path)
    return path


def gpt_disk(path: Path, size: int, volumes: Sequence[tuple[str, Path]]) -> Path:
    """Make a raw disk with a partition table made by sfdisk and the volumes inside, from 1 MiB on."""
    with path.open("wb") as file:
        file.truncate(size)
    lines, at = ["label: gpt"], MIB
    for kind, volume in volumes:
        length = volume.stat().st_size
        lines.append(f"start={at // 512}, size={length // 512}, type={_GPT_TYPES[kind]}")
        at += length
    run("sfdisk", "--quiet", path, stdin="\n".join(lines) + "\n")
    at = MIB
    with path.open("r+b") as file:
        for _, volume in volumes:
            file.seek(at)
            file.write(volume.read_bytes())
            at += volume.stat().st_size
    return path


def make_sparse(path: Path) -> Path:
    """Give a raw file's zeros back to the file system."""
    run("fallocate", "--dig-holes", path)
    return path


def convert(source: Path, target: Path, driver: str, options: str = "") -> Path:
    """Turn a raw disk into another format with qemu-img."""
    run(
        "qemu-img",
        "convert",
        "-f",
        "raw",
        "-O",
        driver,
        *(["-o", options] if options else []),
        source,
        target,
    )
    return target


def write_at(path: Path, driver: str, pieces: Mapping[int, bytes]) -> None:
    """Write into a disk with qemu-io, as a running guest would."""
    for offset, content in pieces.items():
        piece = path.with_name("piece.tmp")
        piece.write_bytes(content)
        run("qemu-io", "-f", driver, "-c", f"write -s {piece} {offset} {len(content)}", path)
        piece.unlink()


def assert_identical(one: Path, one_driver: str, other: Path, other_driver: str) -> None:
    """Let qemu-img compare two disks; unlike there, a longer one with zeros at its end is not equal."""
    printed = run("qemu-img", "compare", "-f", one_driver, "-F", other_driver, one, other)
    assert printed.decode().strip() == "Images are identical."


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Properties:
    """What a guest or a Hyper-V host can notice of a disk file besides its content."""

    kind: str
    size: int
    logical_sector: int
    physical_sector: int
    block_size: int | None
    disk_id: UUID


def vhdx_properties(path: Path) -> Properties:
    """Read a VHDX file's metadata from its bytes: [MS-VHDX] 2.2.3 and 2.6."""
    data = path.read_bytes()
    assert data[:8] == b"vhdxfile"
    table = data[192 << 10 : 256 << 10]
    count = struct.unpack_from("<I", table, 8)[0]
    regions = {
        UUID(bytes_le=table[at : at + 16]): struct.unpack_from("<QI", table, at + 16)
        for at in range(16, 16 + 32 * count, 32)
    }
    base, _ = regions[_REGION_METADATA]
    assert data[base : base + 8] == b"metadata"
    found = {}
    for number in range(struct.unpack_from("<H", data, base + 10)[0]):
        at = base + 32 + 32 * number
        offset, length = struct.unpack_from("<II", data, at + 16)
        found[UUID(bytes_le=data[at : at + 16])] = data[base + offset : base + offset + length]
    block_size, bits = struct.unpack("<II", found[_ITEMS["parameters"]])
    assert not bits & 2, "a differencing disk"
    return Properties(
        "fixed" if bits & 1 else "dynamic",
        struct.unpack("<Q", found[_ITEMS["size"]])[0],
        struct.unpack("<I", found[_ITEMS["logical_sector"]])[0],
        struct.unpack("<I", found[_ITEMS["physical_sector"]])[0],
        block_size,
        UUID(bytes_le=found[_ITEMS["disk_id"]]),
    )


def vhd_properties(path: Path) -> Properties:
    """Read a VHD file's footer and header from its bytes (Virtual Hard Disk Image Format Specification)."""
    data = path.read_bytes()
    footer = data[-512:]
    assert footer[:8] == b"conectix"
    kind = {2: "fixed", 3: "dynamic"}[struct.unpack_from(">I", footer, 60)[0]]
    block_size = None
    if kind == "dynamic":
        header = struct.unpack_from(">Q", footer, 16)[0]
        assert data[header : header + 8] == b"cxsparse"
        block_size = struct.unpack_from(">I", data, header + 32)[0]
    size = struct.unpack_from(">Q", footer, 48)[0]
    return Properties(kind, size, 512, 512, block_size, UUID(bytes=footer[68:84]))


@dataclass(frozen=True)
class SourceDisks:
    """A folder of disks: file name to qemu's driver, and to the raw file each was made from."""

    folder: Path
    drivers: Mapping[str, str]
    truth: Mapping[str, Path]


def make_source_disks(folder: Path, seed: int) -> SourceDisks:
    """Make one disk of each kind; the raw originals lie beside the folder, for comparison."""
    disks, made = folder / "disks", folder / "made"
    disks.mkdir()
    made.mkdir()
    files = guest_files(made / "files", seed)
    ntfs = ntfs_volume(made / "ntfs", 10 * MIB, sorted(files.iterdir()))
    ext4 = ext4_volume(made / "ext4", 9 * MIB, files)
    both = make_sparse(gpt_disk(made / "both.raw", 22 * MIB, [("ntfs", ntfs), ("ext4", ext4)]))
    convert(both, disks / "system.vhdx", "vhdx", "subformat=dynamic,block_size=2M")
    convert(ntfs, disks / "data fixed.vhdx", "vhdx", "subformat=fixed")
    convert(both, disks / "old.vhd", "vpc", "subformat=dynamic,force_size=on")
    convert(ext4, disks / "old-fixed.vhd", "vpc", "subformat=fixed,force_size=on")
    (disks / "plain.img").write_bytes(both.read_bytes())
    make_sparse(disks / "plain.img")
    drivers = {
        "system.vhdx": "vhdx",
        "data fixed.vhdx": "vhdx",
        "old.vhd": "vpc",
        "old-fixed.vhd": "vpc",
        "plain.img": "raw",
    }
    truth = {
        "system.vhdx": both,
        "data fixed.vhdx": ntfs,
        "old.vhd": both,
        "old-fixed.vhd": ext4,
        "plain.img": both,
    }
    return SourceDisks(disks, drivers, truth)
