"""Recognise a file that an earlier restore of the same point completed, by all of its bytes."""

from collections.abc import Iterable, Iterator
from typing import Final

from vmkeep.formats.disk import Disk, DiskProfile
from vmkeep.formats.errors import FormatError
from vmkeep.formats.filling import is_zero
from vmkeep.formats.opening import open_disk
from vmkeep.formats.raw import RawDisk
from vmkeep.formats.source import FileSource
from vmkeep.ranges import ByteRange

Pieces = Iterable[tuple[int, memoryview]]
_WINDOW: Final = 4 << 20


def is_this_disk(source: FileSource, profile: DiskProfile, pieces: Pieces) -> bool:
    """Tell whether the file is what a restore would write: the same disk, undamaged, with the same bytes.

    ``pieces`` is what the restore point stores of it (offset, bytes), ascending;
    everything else has to be zeros. Closes ``source``.
    """
    try:
        # A raw disk is what it is asked to be: its guest may have written the signature of another format.
        disk = RawDisk(source, source.size()) if profile.format == "raw" else open_disk(source)
        return (
            _is_like(disk.profile, profile) and not any(True for _ in disk.check()) and _holds(disk, pieces)
        )
    except FormatError:
        return False  # damaged, of another format, or cut meanwhile: not ours to judge further
    finally:
        source.close()


def is_this_file(source: FileSource, size: int, pieces: Pieces) -> bool:
    """Tell whether a file of the VM has just these bytes; see :func:`is_this_disk`."""
    return is_this_disk(source, DiskProfile("raw", "fixed", size), pieces)


def _is_like(found: DiskProfile, wanted: DiskProfile) -> bool:
    """Compare what a guest or Hyper-V could notice; None in ``wanted`` leaves the choice to the writer."""
    return (
        (found.format, found.kind, found.size) == (wanted.format, wanted.kind, wanted.size)
        and found.logical_sector == wanted.logical_sector
        and found.physical_sector == wanted.physical_sector
        and wanted.block_size in (None, found.block_size)
        and wanted.disk_id in (None, found.disk_id)
    )


def _holds(disk: Disk, pieces: Pieces) -> bool:
    at = 0
    for offset, data in pieces:
        if not _is_zero_between(disk, at, offset):
            return False
        at = offset + len(data)
        # bytes() makes the comparison one memcmp; a memoryview is compared element by element.
        if disk.read_at(offset, len(data)) != bytes(data):
            return False
    return _is_zero_between(disk, at, disk.profile.size)


def _is_zero_between(disk: Disk, start: int, end: int) -> bool:
    if start >= end:
        return True
    return all(
        is_zero(disk.read_at(part.offset, part.length))
        for extent in disk.extents(start, end)
        for part in _windows(extent)
    )


def _windows(extent: ByteRange) -> Iterator[ByteRange]:
    for at in range(extent.offset, extent.end, _WINDOW):
        yield ByteRange(at, min(_WINDOW, extent.end - at))
