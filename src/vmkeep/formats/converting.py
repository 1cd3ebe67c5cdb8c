"""Copy a disk, with its whole chain, into a new file of any format that can be written."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vmkeep.formats.creating import create_disk, profile_in
from vmkeep.formats.disk import Disk, DiskProfile, DiskWriter, Format
from vmkeep.formats.errors import SourceChanged

_COPY_UNIT: Final = 4 << 20


@dataclass(frozen=True)
class Converted:
    """What came out: the new disk's profile, the bytes copied, and what the format has no place for."""

    profile: DiskProfile
    bytes_copied: int
    lost: tuple[str, ...]


def convert(disk: Disk, target: Path, format: Format) -> Converted:
    """Copy ``disk`` into the new file ``target``; on any error there is no such file.

    Size, sector sizes and disk id are kept where the format can hold them.
    Raises SourceChanged when the source was written meanwhile.
    """
    before = disk.identity()
    profile = profile_in(disk.profile, format)
    writer = create_disk(target, profile)
    try:
        copied = _copy(disk, writer)
        if disk.identity() != before:
            raise SourceChanged(f"{disk.name!r} was written while it was being read.", file=disk.name)
        writer.finish()
    except BaseException:
        writer.abort()
        raise
    return Converted(profile, copied, lost_in(disk.profile, profile))


def _copy(disk: Disk, writer: DiskWriter) -> int:
    buffer = bytearray(_COPY_UNIT)
    copied = 0
    for extent in disk.extents():
        for at in range(extent.offset, extent.end, _COPY_UNIT):
            view = memoryview(buffer)[: min(_COPY_UNIT, extent.end - at)]
            disk.read_into(at, view)
            writer.write_at(at, view)
            copied += len(view)
    return copied


def lost_in(source: DiskProfile, target: DiskProfile) -> tuple[str, ...]:
    """Name what a guest or Hyper-V could notice of ``source`` and ``target`` has no place for."""
    lost = [
        name
        for name in ("logical_sector", "physical_sector")
        if getattr(source, name) != getattr(target, name)
    ]
    return (*lost, *(["disk_id"] if source.disk_id and not target.disk_id else []))
