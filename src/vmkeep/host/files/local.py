"""Read the host's files through a folder of this machine, never outside of it."""

import errno
import os
import stat as modes
from collections.abc import Iterator
from typing import Final

from vmkeep.host.files.errors import (
    BadHostPath,
    FileDenied,
    FileInUse,
    FileMissing,
    FileTooLarge,
    HostFileError,
    HostReadFailed,
    LinkRefused,
    ShareMissing,
)
from vmkeep.host.files.extents import join_near
from vmkeep.host.files.facts import FileFacts, FileIdentity, FolderEntry, Proof
from vmkeep.host.files.paths import FolderPlace
from vmkeep.ranges import ByteRange, clip

_MOST_ENTRIES: Final = 100_000
_LEAVES: Final[dict[int, type[HostFileError]]] = {
    errno.ENOENT: FileMissing,
    errno.ENOTDIR: FileMissing,
    errno.EACCES: FileDenied,
    errno.EPERM: FileDenied,
    errno.ELOOP: LinkRefused,
    errno.ENAMETOOLONG: BadHostPath,
    errno.EISDIR: BadHostPath,
    # What mount.cifs makes of a sharing violation, by its age.
    errno.EBUSY: FileInUse,
    errno.ETXTBSY: FileInUse,
}
# Enough to walk through a folder or to ask for facts, without a right to read.
_LOOK: Final = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_CLOEXEC", 0)
_READ: Final = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
_FOLDER: Final = getattr(os, "O_DIRECTORY", 0)
_NO_LINK: Final = getattr(os, "O_NOFOLLOW", 0)

IS_POSSIBLE: Final = os.open in os.supports_dir_fd and bool(_FOLDER and _NO_LINK)
"""Whether this system can walk through folders without following links."""


class LocalFile:
    """One open file below a folder of this machine; a :class:`~vmkeep.host.files.facts.HostFile`."""

    def __init__(self, place: FolderPlace, name: str, proof: Proof | None = None) -> None:
        self._place = place
        self._name = name
        self._fd = _open(place, name, _READ)
        try:
            if not modes.S_ISREG(os.fstat(self._fd).st_mode):
                raise BadHostPath(f"{name!r} is not a file.", path=name)
            if proof is not None:  # a descriptor keeps its file: there is nothing to compare with later
                proof(self._read)
        except BaseException:
            self.close()
            raise

    @property
    def name(self) -> str:
        return self._name

    def size(self) -> int:
        return os.fstat(self._open_fd()).st_size

    def read_into(self, offset: int, buffer: memoryview) -> int:
        fd = self._open_fd()
        done = 0
        try:
            while done < len(buffer) and (got := os.preadv(fd, [buffer[done:]], offset + done)):
                done += got
        except OSError as error:
            raise _explain(error, "read", self._name) from error
        return done

    def data_ranges(self, start: int, end: int) -> Iterator[ByteRange]:
        yield from clip(join_near(self._extents(start, end)), start, end)

    def identity(self) -> FileIdentity:
        _watch_mappings(self._open_fd())
        return stat(self._place, self._name).identity

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _open_fd(self) -> int:
        if self._fd < 0:
            raise ValueError(f"{self._name!r} was closed")
        return self._fd

    def _read(self, offset: int, length: int) -> bytes:
        buffer = bytearray(length)
        return bytes(buffer[: self.read_into(offset, memoryview(buffer))])

    def _extents(self, start: int, end: int) -> Iterator[ByteRange]:
        fd = self._open_fd()
        at = start
        while at < end:
            try:
                low = os.lseek(fd, at, os.SEEK_DATA)
                high = os.lseek(fd, low, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole up to the end of the file
                    return
                low, high = at, end  # the file system does not say: everything may be data
            yield ByteRange(low, high - low)
            at = max(high, at + 1)


def stat(place: FolderPlace, name: str) -> FileFacts:
    """Return what the path leads to now, without asking for a right to read it."""
    fd = _open(place, name, _LOOK)
    try:
        found = os.fstat(fd)
    finally:
        os.close(fd)
    if modes.S_ISLNK(found.st_mode):
        raise LinkRefused(f"{name!r} is a link.", path=name)
    identity = FileIdentity(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return FileFacts(
        identity,
        is_folder=modes.S_ISDIR(found.st_mode),
        is_sparse=found.st_blocks * 512 < found.st_size,
    )


def list_folder(place: FolderPlace, name: str) -> list[FolderEntry]:
    """Return what a folder holds, in the file system's order."""
    fd = _open(place, name, _READ | _FOLDER)
    found: list[FolderEntry] = []
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                if len(found) == _MOST_ENTRIES:
                    raise FileTooLarge(f"{name!r} holds more than {_MOST_ENTRIES} names.", path=name)
                facts = entry.stat(follow_symlinks=False)
                found.append(
                    FolderEntry(
                        entry.name, facts.st_size, entry.is_dir(follow_symlinks=False), entry.is_symlink()
                    )
                )
    except OSError as error:
        raise _explain(error, "list", name) from error
    finally:
        os.close(fd)
    return found


def _open(place: FolderPlace, name: str, how: int) -> int:
    """Walk from the root to the path, through folders only, and open what is there."""
    try:
        at = os.open(place.root, (_LOOK if place.parts else how) | _FOLDER)
    except OSError as error:
        raise ShareMissing(
            f"{str(place.root)!r}, where {name!r} is mapped to, is not there.", path=name
        ) from error
    for number, part in enumerate(place.parts, 1):
        flags = (how if number == len(place.parts) else _LOOK | _FOLDER) | _NO_LINK
        try:
            below = os.open(part, flags, dir_fd=at)
        except OSError as error:
            if _is_link(part, at):
                raise LinkRefused(f"{name!r} runs through a link at {part!r}.", path=name) from error
            raise _explain(error, "open", name) from error
        finally:
            os.close(at)
        at = below
    return at


def _is_link(part: str, folder: int) -> bool:
    try:
        return modes.S_ISLNK(os.stat(part, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False  # what opening it said is the better explanation


def _watch_mappings(fd: int) -> None:
    """Have a write through a memory mapping change the file's times: they do when it is written out."""
    try:
        os.fsync(fd)
    except OSError:
        # Read-only mounts and devices that cannot be flushed: nothing waits to be written out.
        return


def _explain(error: OSError, action: str, name: str) -> HostFileError:
    leaf = _LEAVES.get(error.errno or 0, HostReadFailed)
    reason = (error.strerror or type(error).__name__).lower()
    return leaf(f"cannot {action} {name!r}: {reason}.", path=name, errno=error.errno)
