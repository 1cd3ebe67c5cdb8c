"""Write the disks and files of a restore point into new local files, or one disk to a stream."""

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vmkeep.formats.converting import lost_in
from vmkeep.formats.creating import create_disk
from vmkeep.formats.disk import DiskProfile, DiskWriter, Format
from vmkeep.formats.target import TargetFile
from vmkeep.formats.target_folder import Place, TargetFolder
from vmkeep.model.point import RestorePoint, StoredDisk
from vmkeep.progress import Progress, Silent
from vmkeep.repository.reader import DiskMap
from vmkeep.repository.repository import Repository
from vmkeep.restore.errors import TargetRefused
from vmkeep.restore.kept import is_this_disk, is_this_file
from vmkeep.restore.layout import PlannedFile, choose_disks, plan_all, plan_one
from vmkeep.restore.pieces import pieces, write_zeros


@dataclass(frozen=True)
class RestoredFile:
    """One file of a restore: where, what it is, its bytes, and what its format has no place for.

    ``kept``: it was there already, proven identical, and was not written.
    """

    path: str
    disk: str | None
    format: str
    size: int
    lost: tuple[str, ...] = ()
    kept: bool = False


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
    """Write a restore point into ``target`` and return its files.

    A target with an ending that does not exist as a folder is one file
    (unless ``as_folder``); everything else is a folder (made if missing), into which the VM's other
    files go too, unless one disk was chosen. Nothing is overwritten, and no
    file has its name before it is complete. A file that is there already is
    kept if it is proven to be this point's, so that an interrupted restore can be repeated; any
    other is refused before the first byte is written.
    """
    disks = choose_disks(point, wanted)
    progress.begin("restoring", sum(_stored_bytes(repository, disk) for disk in disks))
    if target.suffix and not target.is_dir() and not as_folder:
        planned = [plan_one(disks, target, format)]
        folder = _open_folder(target.parent)
    else:
        planned = plan_all(point, disks, format, with_files=wanted is None)
        _make_folder(target)
        folder = _open_folder(target)
    with folder:
        there = [_is_there(repository, folder, plan, progress) for plan in planned]
        _remove_abandoned(folder, planned)
        written = [
            _restore(repository, folder, plan, is_there, progress)
            for plan, is_there in zip(planned, there, strict=True)
        ]
    progress.end()
    return written


def _is_there(repository: Repository, folder: TargetFolder, plan: PlannedFile, progress: Progress) -> bool:
    """Tell whether an earlier restore completed this file; TargetRefused for anything else in its place."""
    path = folder.path / plan.path
    try:
        with folder.below(*plan.path.parent.parts) as parent:
            if not parent.holds(plan.path.name):
                return False
            source = parent.open_file(plan.path.name)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _refused(path, error) from error
    content = pieces(repository.disk_map(plan.stored), progress if plan.format else Silent())
    if source is not None and (
        is_this_file(source, plan.stored.size, content)
        if plan.format is None
        else is_this_disk(source, plan.profiles()[1], content)
    ):
        return True
    raise TargetRefused(f"{str(path)!r} exists already and is something else; nothing was restored.")


def _remove_abandoned(folder: TargetFolder, planned: list[PlannedFile]) -> None:
    """Remove what restores into these folders left unfinished when they were killed."""
    for parts in {plan.path.parent.parts for plan in planned}:
        try:
            with folder.below(*parts) as below:
                below.remove_abandoned()
        except FileNotFoundError:
            continue


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


def _restore(
    repository: Repository, folder: TargetFolder, plan: PlannedFile, is_there: bool, progress: Progress
) -> RestoredFile:
    path, stored = folder.path / plan.path, plan.stored
    if isinstance(stored, StoredDisk):
        was, shall_be = plan.profiles()
        told = RestoredFile(
            str(path), stored.name, shall_be.format, stored.size, lost_in(was, shall_be), is_there
        )
    else:
        told = RestoredFile(str(path), None, stored.role, stored.size, kept=is_there)
    if is_there:
        return told
    try:
        parent = folder.below(*plan.path.parent.parts, make=True)
    except OSError as error:
        raise _refused(path, error) from error
    with parent:
        place = Place(parent, plan.path.name)
        if plan.format is None:
            _write_file(repository.disk_map(stored), place)
        else:
            _write_disk(repository.disk_map(stored), place, shall_be, progress)
    return told


def _write_disk(stored: DiskMap, place: Place, profile: DiskProfile, progress: Progress) -> None:
    writer = create_disk(place, profile)
    try:
        _fill(writer, stored, progress)
        writer.finish()
    except BaseException:
        writer.abort()
        raise


def _write_file(stored: DiskMap, place: Place) -> None:
    target = TargetFile(place)
    try:
        target.truncate(stored.size)
        _fill(target, stored, Silent())
        target.publish()
    except BaseException:
        target.abort()
        raise


def _fill(writer: "DiskWriter | TargetFile", disk: DiskMap, progress: Progress) -> None:
    for offset, data in pieces(disk, progress):
        writer.write_at(offset, data)


def _stored_bytes(repository: Repository, disk: StoredDisk) -> int:
    leaf = repository.parameters.leaf_size
    return sum(min(leaf, disk.size - n * leaf) for n, _ in repository.disk_map(disk).leaf_ids())


def _open_folder(folder: Path) -> TargetFolder:
    if not folder.is_dir():
        raise TargetRefused(f"the folder {str(folder)!r} does not exist.", hint="Create it first.")
    try:
        return TargetFolder.open(folder)
    except OSError as error:
        raise _refused(folder, error) from error


def _make_folder(folder: Path) -> None:
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for made in missing:
            with TargetFolder.open(made.parent) as above:
                above.sync()
    except OSError as error:
        reason = (error.strerror or "refused").lower()
        raise TargetRefused(f"cannot make the folder {str(folder)!r}: {reason}.") from error


def _refused(path: Path, error: OSError) -> TargetRefused:
    where = str(error.filename or path)
    if isinstance(error, NotADirectoryError) or error.errno == errno.ELOOP:
        return TargetRefused(f"{where!r} is a link or a file, where a folder has to be.")
    return TargetRefused(f"cannot restore to {where!r}: {(error.strerror or 'refused').lower()}.")
