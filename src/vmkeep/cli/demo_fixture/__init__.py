"""The two virtual machines of the demo as packed data, with the truth about their bytes.

Nouns: Machine (one VM: its disk files, what its guest writes later, the checksums
its disk must have), Fixture (both, unpacked into a folder). The data were made
without vmkeep by `tools/make_demo_fixture.py`; nothing here reads a disk format.
"""

import io
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

import zstandard

from vmkeep.ranges import ByteRange

_PAGE: Final = 4096


@dataclass(frozen=True)
class Part:
    """Bytes that belong at one place of a disk file."""

    offset: int
    data: bytes


@dataclass(frozen=True)
class FileContent:
    """A disk file, or what changes in one; what no part covers stays as it is, in a new file zeros."""

    path: PurePosixPath
    size: int
    parts: tuple[Part, ...]

    def write_below(self, folder: Path) -> None:
        """Write the parts into the file, which is made if it is missing."""
        target = folder / self.path
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("r+b" if target.exists() else "xb") as out:
            out.truncate(self.size)
            for part in self.parts:
                out.seek(part.offset)
                out.write(part.data)


@dataclass(frozen=True)
class Machine:
    """One virtual machine with one disk of ``size`` bytes.

    ``sha256`` holds the checksum of the disk's bytes, as the guest sees them,
    before and after ``written_later``; ``changed_ranges`` says where they differ.
    """

    name: str
    disk: str
    format: str
    inside: str
    size: int
    disk_id: str
    files: tuple[FileContent, ...]
    written_later: tuple[FileContent, ...]
    changed_ranges: tuple[ByteRange, ...]
    sha256: tuple[str, str]

    def unpack(self, folder: Path) -> None:
        """Write the disk files below ``folder``, in a folder of the machine's name."""
        for file in self.files:
            file.write_below(folder)

    def write_on(self, folder: Path) -> None:
        """Do to the disk files what the running guest did between the two checksums."""
        for file in self.written_later:
            file.write_below(folder)


def machines() -> tuple[Machine, ...]:
    """Return the virtual machines that come with vmkeep."""
    place = resources.files(__package__)
    truth = json.loads((place / "truth.json").read_text("utf-8"))
    packed = (place / "disks.zst").read_bytes()
    stream = zstandard.ZstdDecompressor().decompress(packed, max_output_size=truth["stream_size"])
    data = io.BytesIO(stream)
    # In the order of the file: the parts' bytes follow one another in the stream.
    return tuple(_machine(fields, data) for fields in truth["machines"])


def _machine(fields: dict[str, Any], data: IO[bytes]) -> Machine:
    return Machine(
        name=fields["name"],
        disk=fields["disk"],
        format=fields["format"],
        inside=fields["inside"],
        size=fields["size"],
        disk_id=fields["disk_id"],
        files=tuple(_content(file, data) for file in fields["files"]),
        written_later=tuple(_content(file, data) for file in fields["written_later"]),
        changed_ranges=tuple(ByteRange(*pair) for pair in fields["changed_ranges"]),
        sha256=(fields["sha256"][0], fields["sha256"][1]),
    )


def _content(fields: dict[str, Any], data: IO[bytes]) -> FileContent:
    parts = []
    for offset, length, coding in fields["parts"]:
        stored = data.read(length)
        parts.append(Part(offset, b"".join(_summed(stored)) if coding == "steps" else stored))
    return FileContent(PurePosixPath(fields["path"]), fields["size"], tuple(parts))


def _summed(steps: bytes) -> Iterator[bytes]:
    """Undo the coding of tables that count: 16-bit words, each the step from the one before, page by page."""
    for at in range(0, len(steps), _PAGE):
        page = steps[at : at + _PAGE]
        words = [total & 0xFFFF for total in accumulate(struct.unpack(f"<{len(page) // 2}H", page))]
        yield struct.pack(f"<{len(words)}H", *words)
