"""Write the disks and files of a restore point into new local files, or one disk to a stream."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final
from uuid import UUID

from vmkeep.formats.converting import lost_in
from vmkeep.formats.creating import create_disk, profile_in
from vmkeep.formats.disk import DiskProfile, DiskWriter, Format, Kind
from vmkeep.formats.target import TargetFile
from vmkeep.model.point import RestorePoint, StoredDisk
from vmkeep.progress import Progress, Silent
from vmkeep.repository.reader import DiskMap
from vmkeep.repository.repository import Repository
from vmkeep.restore.errors import NoSuchDisk, OneDiskNeeded, TargetRefused
from vmkeep.restore.names import safe_file_name, safe_relative_path
from vmkeep.restore.pieces import pieces, write_zeros

SUFFIXES: Final[dict[Format, str]] = {"vhdx": ".vhdx", "vhd": ".vhd", "raw": ".raw"}


@dataclass(frozen=True)
class RestoredFile:
    """One file that was written: where, what it is, its bytes, and what its format has no place for."""

    path: str
    disk: str | None
    format: str
    size: int
    lost: tuple[str, ...] = ()


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


def restore_point(
    repository: Repository,
    point: RestorePoint,
    target: Path,
    format: Format | None,
    wanted: str | None,
    progress: Progress,
    *,
    as_folder: bool = False,
) -> list[RestoredFile]:
    """Write a restore point into ``target`` and return what was written.

    A target with an ending that does not exist as a folder is one file
    (unless ``as_folder``); everything else is a folder (made if missing), into which the VM's other
    files go too, unless one disk was chosen. Nothing is overwritten, and no
    file has its name before it is complete.
    """
    disks = choose_disks(point, wanted)
    progress.begin("restoring", sum(_stored_bytes(repository, disk) for disk in disks))
    if target.suffix and not target.is_dir() and not as_folder:
        if len(disks) != 1:
            hint = f"Choose one disk with --disk N, or give {str(target) + '/'!r} for a folder."
            raise OneDiskNeeded(
                f"{str(target)!r} is one file, but the restore point has {len(disks)} disks.", hint=hint
            )
        _require_folder(target.parent)
        written = [_restore_disk(repository, disks[0], target, _format(format, target, disks[0]), progress)]
    else:
        _make_folder(target)
        names = _file_names(disks, format)
        others = [safe_relative_path(file.name) for file in point.files] if wanted is None else []
        for path in [target / name for name, _ in names] + [target / other for other in others]:
            # Before the first byte: a name taken later would leave a part of the VM behind.
            if os.path.lexists(path):
                raise TargetRefused(f"{str(path)!r} exists already; nothing was restored.")
        written = [
            _restore_disk(repository, disk, target / name, chosen, progress)
            for disk, (name, chosen) in zip(disks, names, strict=True)
        ]
        if wanted is None:
            written += _restore_files(repository, point, target)
    progress.end()
    return written


def stream_disk(repository: Repository, disk: StoredDisk, out: BinaryIO, progress: Progress) -> None:
    """Write a disk's bytes from first to last; the form every other tool can read."""
    progress.begin("restoring", _stored_bytes(repository, disk))
    at = 0
    for offset, data in pieces(repository.disk_map(disk), progress):
        write_zeros(out, offset - at)
        out.write(data)
        at = offset + len(data)
    write_zeros(out, disk.size - at)
    out.flush()
    progress.end()


def _restore_disk(
    repository: Repository, disk: StoredDisk, path: Path, format: Format, progress: Progress
) -> RestoredFile:
    stored = stored_profile(disk)
    profile = profile_in(stored, format)
    writer = create_disk(path, profile)
    try:
        _fill(writer, repository.disk_map(disk), progress)
        writer.finish()
    except BaseException:
        writer.abort()
        raise
    return RestoredFile(str(path), disk.name, format, disk.size, lost_in(stored, profile))


def _fill(writer: "DiskWriter | TargetFile", disk: DiskMap, progress: Progress) -> None:
    for offset, data in pieces(disk, progress):
        writer.write_at(offset, data)


def _restore_files(repository: Repository, point: RestorePoint, target: Path) -> list[RestoredFile]:
    written = []
    for file in point.files:
        path = target / safe_relative_path(file.name)
        _make_folder(path.parent, below=target)
        writer = TargetFile(path)
        try:
            writer.truncate(file.size)
            _fill(writer, repository.disk_map(file), Silent())
            writer.publish()
        except BaseException:
            writer.abort()
            raise
        written.append(RestoredFile(str(path), None, file.role, file.size))
    return written


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


def _format(asked: Format | None, target: Path, disk: StoredDisk) -> Format:
    by_suffix: dict[str, Format] = {suffix: format for format, suffix in SUFFIXES.items()}
    return asked or by_suffix.get(target.suffix.lower()) or _own_format(disk)


def _own_format(disk: StoredDisk) -> Format:
    # A format this version cannot write comes back as raw.
    return next((format for format in SUFFIXES if format == disk.format), "raw")


def _file_names(disks: Sequence[StoredDisk], format: Format | None) -> list[tuple[str, Format]]:
    names: list[tuple[str, Format]] = []
    taken: set[str] = set()
    for number, disk in enumerate(disks):
        chosen = format or _own_format(disk)
        name = safe_file_name(disk.name) + SUFFIXES[chosen]
        if name.lower() in taken:  # two names that only some file systems tell apart
            name = f"{safe_file_name(disk.name)}-{number}{SUFFIXES[chosen]}"
        taken.add(name.lower())
        names.append((name, chosen))
    return names


def _stored_bytes(repository: Repository, disk: StoredDisk) -> int:
    leaf = repository.parameters.leaf_size
    return sum(min(leaf, disk.size - n * leaf) for n, _ in repository.disk_map(disk).leaf_ids())


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise TargetRefused(f"the folder {str(folder)!r} does not exist.", hint="Create it first.")


def _make_folder(folder: Path, below: Path | None = None) -> None:
    try:
        if below is None:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return
        # Step by step, so that a link planted in between leads nowhere else.
        at = below
        for part in folder.relative_to(below).parts:
            at = at / part
            if at.is_symlink():
                raise TargetRefused(f"{str(at)!r} is a link.")
            at.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or "refused").lower()
        raise TargetRefused(f"cannot make the folder {str(folder)!r}: {reason}.") from error
