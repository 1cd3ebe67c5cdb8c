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
    """Return all disks, or the one meant by ``wanted``.

    That is its name, its file's path in the source, that file's name, or its
    number counted from 0. Raises NoSuchDisk when that is none, or several.
    """
    if wanted is None:
        return list(point.disks)
    numbered = list(enumerate(point.disks))
    exact = [(n, disk) for n, disk in numbered if wanted in (disk.name, disk.source)]
    named = exact or [(n, disk) for n, disk in numbered if wanted == _file_of(disk)]
    if len(named) > 1:
        raise NoSuchDisk(
            f"{wanted!r} means {len(named)} disks of the restore point.",
            hint="Give the disk's number: " + ", ".join(f"{n} is {disk.source!r}" for n, disk in named) + ".",
        )
    if named:
        return [named[0][1]]
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
    can be restored into one folder. Of several disks that would get one name,
    the disk that had it as a file gets it.
    """
    places = Places()
    planned: dict[int, PlannedFile] = {}
    for number, disk in sorted(enumerate(point.disks), key=lambda numbered: _claim(numbered[1], asked)):
        format = asked or _own_format(disk)
        planned[number] = PlannedFile(disk, places.add_disk(disk.name, _stem(disk), SUFFIXES[format]), format)
    chosen = [planned[number] for number, disk in enumerate(point.disks) if disk in disks]
    return chosen + [PlannedFile(file, places.add_file(file.name)) for file in point.files if with_files]


def _stem(disk: StoredDisk) -> str:
    # Where two files had one name, their endings stand in the names of the disks.
    return disk.name if format_of_name(disk.name) is None else disk.name.rpartition(".")[0]


def _claim(disk: StoredDisk, asked: Format | None) -> int:
    """Return how good a disk's claim is to the file name it would get, best first."""
    wanted = _stem(disk) + SUFFIXES[asked or _own_format(disk)]
    if wanted.casefold() == _file_of(disk).casefold():
        return 0
    return 1 if wanted.casefold() == disk.name.casefold() else 2


def _file_of(disk: StoredDisk) -> str:
    """Return the name that the disk's file had in the source."""
    return disk.source.rpartition("/")[2]


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
