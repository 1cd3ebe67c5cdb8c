"""Raw disks: the guest's bytes and nothing else."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from vmkeep.formats.disk import Disk, DiskProfile, DiskWriter, Finding, OwnSpan
from vmkeep.formats.errors import NotADisk, UnsupportedDisk
from vmkeep.formats.filling import fill_from, nonzero_parts
from vmkeep.formats.source import Source
from vmkeep.formats.target import TargetFile
from vmkeep.formats.target_folder import Place
from vmkeep.ranges import ByteRange, join_sorted

SECTOR: Final = 512


def open_raw(source: Source) -> Disk:
    """Open any file of whole sectors as a disk; the disk then owns ``source``.

    Nothing in the file can prove that it is a disk: that is the caller's to know.
    """
    size = source.size()
    if size == 0:
        raise NotADisk(f"{source.name!r} is empty.", file=source.name)
    if size % SECTOR:
        raise NotADisk(
            f"{source.name!r} is no raw disk: its size of {size} bytes is not a multiple of {SECTOR}.",
            file=source.name,
            offset=size // SECTOR * SECTOR,
        )
    return RawDisk(source, size)


class FlatDisk(Disk):
    """A disk whose bytes lie at the start of its file as the guest sees them."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        require_inside(self.profile.size, offset, len(buffer))
        fill_from(self._source, offset, buffer)

    def extents(self, start: int = 0, end: int | None = None) -> Iterator[ByteRange]:
        stop = self.profile.size if end is None else min(end, self.profile.size)
        return join_sorted(self._source.data_ranges(start, stop) if start < stop else ())

    def layer_extents(self, start: int = 0, end: int | None = None) -> Iterator[ByteRange]:
        stop = self.profile.size if end is None else min(end, self.profile.size)
        return iter([ByteRange(start, stop - start)] if start < stop else [])

    def own_spans(self, wanted: list[ByteRange]) -> Iterator[OwnSpan]:
        return (OwnSpan(part.offset, part.end, "data", part.offset) for part in wanted)


class RawDisk(FlatDisk):
    """A file whose bytes are the disk; its size is fixed when it is opened."""

    def __init__(self, source: Source, size: int) -> None:
        self._source = source
        self.profile = DiskProfile("raw", "fixed", size)

    def identity(self) -> tuple[object, ...]:
        return (self._source.identity(),)

    def check(self) -> Iterator[Finding]:
        return iter(())  # no structures, nothing to examine


def require_inside(size: int, offset: int, length: int) -> None:
    """Raise ``ValueError`` for a request that leaves the disk: a mistake of the caller."""
    if offset < 0 or offset + length > size:
        raise ValueError(f"[{offset}, {offset + length}) is not inside a disk of {size} bytes")


def create_raw(path: Path | Place, profile: DiskProfile) -> DiskWriter:
    """Begin a raw disk; what is never written, and zeros never written over, takes no space."""
    if profile.size <= 0 or profile.size % SECTOR:
        raise UnsupportedDisk(
            f"a raw disk of {profile.size} bytes cannot be made: the size must be a multiple of {SECTOR}.",
            file=str(path),
            hint="Give a size of whole sectors.",
        )
    return FlatWriter(TargetFile(path), profile.size)


class FlatWriter:
    """Writes a disk whose bytes lie in the file as the guest sees them, then a trailer."""

    def __init__(self, target: TargetFile, size: int, trailer: bytes = b"") -> None:
        self._target = target
        self._size = size
        self._trailer = trailer
        self._fresh_from = 0  # nothing was written at or behind this offset

    def write_at(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        require_inside(self._size, offset, len(data))
        # Zeros are left out where the file is still a hole; elsewhere they must erase what lies there.
        parts = nonzero_parts(data) if offset >= self._fresh_from else [(0, memoryview(data))]
        for at, part in parts:
            self._target.write_at(offset + at, part)
        self._fresh_from = max(self._fresh_from, offset + len(data))

    def finish(self) -> None:
        self._target.truncate(self._size)
        if self._trailer:
            self._target.flush()  # the trailer makes the file a disk: the bytes must be there before
            self._target.write_at(self._size, self._trailer)
        self._target.publish()

    def abort(self) -> None:
        self._target.abort()
