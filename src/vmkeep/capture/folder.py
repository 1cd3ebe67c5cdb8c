"""Hold the files of an exported VM, or loose disk files: they must stand still by themselves.

Nothing can be frozen here, so the *hold check* decides: the identity of every
file at the start must be its identity at the end, else what was read is thrown away.
"""

import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath
from typing import Final
from uuid import UUID

from vmkeep.capture.errors import NothingToHold, SourceMissing, SourceRefused
from vmkeep.capture.source import SourceAddress, percent, readable
from vmkeep.formats.disk import Disk
from vmkeep.formats.errors import FormatError, SourceChanged
from vmkeep.formats.opening import disk_in_disguise, open_paths
from vmkeep.formats.source import FileSource, Source
from vmkeep.model.plan import MOST_DAMAGE, FolderFacts
from vmkeep.ranges import ByteRange, coarsen

DISK_SUFFIXES: Final = frozenset({".vhdx", ".avhdx", ".vhd", ".avhd", ".vhds", ".raw", ".img"})
_LAYER_SUFFIXES: Final = frozenset({".avhdx", ".avhd"})
# Files of a VM besides its disks; those with common endings count only where Hyper-V puts them.
_ROLES: Final = {".vmcx": "configuration", ".vmgs": "guest-state", ".vmrs": "runtime-state", ".vsv": "memory"}
_ROLES_IN_PLACE: Final = {".xml": "configuration", ".bin": "memory"}
_HYPERV_FOLDERS: Final = frozenset({"virtual machines", "snapshots", "planned virtual machines"})
_SPECIAL: Final = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISCHR, "a device"),
)
_UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f%\\\ud800-\udfff]")


@dataclass(frozen=True)
class HeldFile:
    """A file of the VM that is no disk; ``name`` is its path below the source, with ``/``."""

    name: str
    role: str
    source: Source

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if self.source.read_into(offset, buffer) != len(buffer):
            raise SourceChanged(
                f"{self.source.name!r} became shorter while it was read.", file=self.source.name
            )


@dataclass(frozen=True)
class HeldDisk:
    """One disk of the VM, open and expected to stand still; ``file`` is the layer the guest would write."""

    name: str
    file: str
    disk: Disk

    def extents(self, unit: int, most: int) -> list[ByteRange]:
        """Return at most ``most`` ranges of whole units that hold all the disk may hold besides zeros.

        Where there are more, they are joined over what lies between them.
        """
        return coarsen(self.disk.extents(), unit, self.disk.profile.size, most)


class FolderHold:
    """The open files of one source. Leave the ``with`` block and they are closed."""

    method: Final = "folder"

    def __init__(self, disks: Sequence[HeldDisk], files: Sequence[HeldFile], facts: FolderFacts) -> None:
        self.disks = tuple(disks)
        self.files = tuple(files)
        self.facts = facts
        self._start = self._identities()

    def __enter__(self) -> "FolderHold":
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def check(self) -> int:
        """Make sure that nothing moved since the hold began; return how many files were compared.

        Raises SourceChanged naming the file.
        """
        now = self._identities()
        for file, identity in self._start.items():
            if now[file] != identity:
                raise SourceChanged(f"{file!r} was written or replaced while it was read.", file=file)
        return len(now)

    def release(self) -> None:
        """Close all files; safe to repeat."""
        for disk in self.disks:
            disk.disk.close()
        for file in self.files:
            file.source.close()

    def _identities(self) -> dict[str, object]:
        # Each layer by itself: the file that is named is the one that was written.
        found: dict[str, object] = {}
        for held in self.disks:
            layers = (layer.name for layer in held.disk.chain())
            found |= dict(zip(layers, held.disk.identity(), strict=True))
        found |= {file.source.name: file.source.identity() for file in self.files}
        return found


def hold(address: SourceAddress) -> FolderHold:
    """Open everything the source holds; on any error nothing stays open.

    Raises FormatError, NothingToHold or SourceMissing.
    """
    disk_paths, others, root = _find(address)
    disks: list[HeldDisk] = []
    files: list[HeldFile] = []
    try:
        leaves, layers = _open_leaves(disk_paths, root if address.kind == "folder" else None, address)
        disks = [
            HeldDisk(name, readable(path.relative_to(root).as_posix()), disk) for name, path, disk in leaves
        ]
        left_out: list[str] = []
        disguised: list[tuple[str, str]] = []
        for path in others:
            role = _role(path, root)
            relative = path.relative_to(root).as_posix()
            if role is not None and path.is_file() and not path.is_symlink():
                files.append(HeldFile(safe_name(relative), role, FileSource(path)))
            elif (looks := _looks_like_a_disk(path)) is not None:
                disguised.append((readable(relative), looks))
            else:
                special = _special(path)
                left_out.append(readable(relative) + (f" ({special})" if special else ""))
    except BaseException:
        for held in disks:
            held.disk.close()
        for file in files:
            file.source.close()
        raise
    facts = FolderFacts(
        disks=tuple(disk.name for disk in disks),
        left_out=tuple(left_out),
        disguised=tuple(disguised),
        layers=tuple(readable(layer) for layer in layers),
        has_memory=any(file.role == "memory" for file in files),
        damage=_damage([disk.disk for disk in disks]),
    )
    return FolderHold(disks, files, facts)


def _damage(disks: Sequence[Disk]) -> tuple[str, ...]:
    """Return what is wrong in the structures of the disk files; reads give the guest's bytes anyway."""
    layers = {layer.name: layer for disk in disks for layer in disk.chain()}  # branches share some
    found = (
        f"{finding.file}: {finding.message}"
        for layer in layers.values()
        for finding in layer.check()
        if finding.severity == "error"
    )
    # A table of nonsense has an error in each of its millions of entries.
    return tuple(islice(found, MOST_DAMAGE))


def vm_id_of_export(address: SourceAddress) -> UUID | None:
    """Return the VM's own id when the folder is the export of one VM.

    Hyper-V names a VM's configuration file after its id.
    """
    if address.kind != "folder" or not address.path.is_dir():
        return None
    found = set()
    for path in _walk(address.path):
        if path.suffix.lower() in (".vmcx", ".xml") and path.parent.name.lower() == "virtual machines":
            try:
                found.add(UUID(path.stem))
            except ValueError:
                continue  # another file that happens to lie there
    return found.pop() if len(found) == 1 else None


def _find(address: SourceAddress) -> tuple[list[Path], list[Path], Path]:
    """Return disk files, other files, and the folder their names are relative to."""
    path = address.path
    if address.kind == "disk":
        if not path.exists():
            raise SourceMissing(f"the disk file {str(path)!r} does not exist.")
        if path.is_dir():
            raise SourceMissing(f"{str(path)!r} is a folder.", hint="Use folder:PATH for a folder.")
        return [path], [], path.parent
    if not path.is_dir():
        if path.exists():
            raise SourceMissing(f"{str(path)!r} is a file.", hint="Use disk:FILE for one disk.")
        raise SourceMissing(f"the folder {str(path)!r} does not exist.")
    disks: list[Path] = []
    others: list[Path] = []
    for file in _walk(path):
        is_disk = file.suffix.lower() in DISK_SUFFIXES
        if is_disk and file.is_symlink():
            # Left out in silence, the VM would look complete.
            raise SourceRefused(f"{str(file)!r} is a link; a folder's disks have to lie in it.")
        (disks if is_disk and _special(file) is None else others).append(file)
    if not disks:
        text = f"the folder {str(path)!r} holds no virtual disk"
        for file in others:
            looks = _looks_like_a_disk(file)
            if looks is not None:
                text += f" by the names of its files, but {file.relative_to(path).as_posix()!r} is {looks}"
                break
        raise NothingToHold(f"{text}.")
    return disks, others, path


def _walk(root: Path) -> Iterator[Path]:
    """Yield all below a folder that is no folder itself, in a fixed order; links are not followed."""
    try:
        # Paths of Windows would sort in another order, and disks are numbered in this one.
        entries = sorted(root.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise SourceMissing(
            f"cannot list the folder {str(root)!r}: {(error.strerror or '').lower()}."
        ) from error
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            yield from _walk(entry)
        else:
            yield entry


def _special(path: Path) -> str | None:
    """Say what a file is that is neither regular nor a link; reading one might never end."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return None  # gone meanwhile: opening it says so
    return next((title for is_one, title in _SPECIAL if is_one(mode)), None)


def _looks_like_a_disk(path: Path) -> str | None:
    """Say what makes a file look like a disk that is not named like one; None for all others."""
    special = _special(path)
    if special is not None:
        return f"{special} named like one" if path.suffix.lower() in DISK_SUFFIXES else None
    if path.is_symlink():
        return None
    try:
        source = FileSource(path)
        try:
            return disk_in_disguise(source)
        finally:
            source.close()
    except (FormatError, OSError):
        return None  # nobody asked for this file; that it is left out is told in any case


def _open_leaves(
    paths: Sequence[Path], root: Path | None, address: SourceAddress
) -> tuple[list[tuple[str, Path, Disk]], list[str]]:
    """Open every disk nobody uses as a parent; return them named, and the layers below them."""
    siblings = (
        list(paths) if root is not None else sorted(p for p in address.path.parent.iterdir() if p.is_file())
    )
    opened = list(zip(paths, open_paths(paths, siblings=siblings), strict=True))
    below = {layer.name for _, disk in opened for layer in disk.chain()[1:]}
    try:
        named = _named([(path, disk) for path, disk in opened if str(path) not in below])
    except BaseException:
        for _, disk in opened:
            disk.close()
        raise
    for path, disk in opened:
        if str(path) in below:
            disk.close()  # its children keep it open
    return named, sorted(below)


def _named(leaves: Sequence[tuple[Path, Disk]]) -> list[tuple[str, Path, Disk]]:
    """Name disks by their file; a checkpoint's layer carries the name of the disk it belongs to."""
    wanted = []
    for path, disk in leaves:
        base = PurePath(disk.chain()[-1].name) if path.suffix.lower() in _LAYER_SUFFIXES else path
        wanted.append(base.stem)
    names = [
        name if wanted.count(name) == 1 else "_".join(path.parts[-2:])
        for name, (path, _) in zip(wanted, leaves, strict=True)
    ]
    if len(set(names)) < len(names):
        names = [f"{name}-{number}" for number, name in enumerate(names, 1)]
    return [(safe_name(name), path, disk) for name, (path, disk) in zip(names, leaves, strict=True)]


def _role(path: Path, root: Path) -> str | None:
    suffix = path.suffix.lower()
    if suffix in _ROLES:
        return _ROLES[suffix]
    in_place = any(part.lower() in _HYPERV_FOLDERS for part in path.relative_to(root).parts)
    return _ROLES_IN_PLACE.get(suffix) if in_place else None


def safe_name(name: str) -> str:
    """Write characters that no manifest may hold as %XX; ordinary names stay as they are."""
    if name in (".", ".."):
        return name.replace(".", "%2E")  # a disk file may be called "...vhdx"
    return _UNSAFE.sub(lambda match: percent(match[0]), name)
