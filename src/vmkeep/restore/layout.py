"""Decide which files a restore makes, before its first byte: names, places and formats."""

from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final
from uuid import UUID

from vmkeep.formats.creating import profile_in
from vmkeep.formats.disk import DiskProfile, Format, Kind
from vmkeep.formats.opening import contradicted, format_of_name
from vmkeep.model.point import RestorePoint, StoredDisk, StoredFile
from vmkeep.restore.errors import MisleadingName, NoSuchDisk, OneDiskNeeded
from vmkeep.restore.names import Places

SUFFIXES: Final[dict[Format, str]] = {"vhdx": ".vhdx", "vhd": ".vhd", "raw": ".raw"}


@dataclass(frozen=True)
class PlannedFile:
    """One file to be: its path below the target folder, and the format of a disk (None for other files)."""

    stored: StoredDisk | StoredFile
    path: PurePath
    format: Format | None = None

    def profiles(self) -> tuple[DiskProfile, DiskProfile]:
        """Return what the disk was when it was stored, and what it will be."""
        assert isinstance(self.stored, StoredDisk) and self.format is not None
        stored = stored_profile(self.stored)
        return stored, profile_in(stored, self.format)


def choose_disks(point: RestorePoint, wanted: str | None) -> list[StoredDisk]:
    """Return all disks, or the one meant by ``wanted``: its name, or its number counted from 0."""
    if wanted is None:
        return list(point.disks)
    named = [disk for disk in point.disks if disk.name == wanted]
    if named:
        return named
    if wanted.isascii() and wanted.isdigit() and int(wanted) < len(point.disks):
        return [point.disks[int(wanted)]]
    raise NoSuchDisk(f"the restore point holds no disk {wanted!r}; it has {len(point.disks)}.")


def plan_one(disks: list[StoredDisk], target: Path, asked: Format | None) -> PlannedFile:
    """Plan the one file ``target``. Raises OneDiskNeeded, or MisleadingName for a format it does not say."""
    if len(disks) != 1:
        hint = f"Choose one disk with --disk N, or give {str(target) + '/'!r} for a folder."
        raise OneDiskNeeded(
            f"{str(target)!r} is one file, but the restore point has {len(disks)} disks.", hint=hint
        )
    format = asked or format_of_name(target.name) or _own_format(disks[0])
    misnamed = contradicted(target.name, format)
    if misnamed is not None:
        raise MisleadingName(f"{str(target)!r} would be a {format} disk, but is named like {misnamed}.")
    return PlannedFile(disks[0], PurePath(target.name), format)


def plan_all(
    point: RestorePoint, disks: list[StoredDisk], asked: Format | None, *, with_files: bool
) -> list[PlannedFile]:
    """Plan all files in a folder; ``disks`` are the ones chosen.

    A name is the same whichever disks are chosen, so that one after the other
    can be restored into one folder.
    """
    places = Places()
    planned = []
    for disk in point.disks:
        format = asked or _own_format(disk)
        # Where two files had one name, their endings stand in the names of the disks.
        stem = disk.name if format_of_name(disk.name) is None else disk.name.rpartition(".")[0]
        path = places.add_disk(disk.name, stem, SUFFIXES[format])
        if disk in disks:
            planned.append(PlannedFile(disk, path, format))
    return planned + [PlannedFile(file, places.add_file(file.name)) for file in point.files if with_files]


def stored_profile(disk: StoredDisk) -> DiskProfile:
    """Return what the disk was when it was stored, in the words of the formats room."""
    kinds: dict[str, Kind] = {"fixed": "fixed", "differencing": "differencing"}
    return DiskProfile(
        format=_own_format(disk),
        kind=kinds.get(disk.kind, "dynamic"),
        size=disk.size,
        logical_sector=disk.logical_sector,
        physical_sector=disk.physical_sector,
        block_size=disk.block_size,
        disk_id=UUID(disk.disk_id) if disk.disk_id else None,
    )


def _own_format(disk: StoredDisk) -> Format:
    # A format this version cannot write comes back as raw.
    return next((format for format in SUFFIXES if format == disk.format), "raw")
