"""Ask the operating system for what Python's file objects do not offer."""

import errno
import os
import stat
from pathlib import Path
from typing import Final

from vmkeep.clock import Clock, SystemClock

READ_FLAGS: Final = (
    os.O_RDONLY
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a FIFO planted under a name must not make us wait for ever
)
CREATE_FLAGS: Final = (
    os.O_WRONLY
    | os.O_CREAT
    | os.O_EXCL
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
)
# Windows flushes nothing through a descriptor that may not write.
_SYNC_FLAGS: Final = READ_FLAGS | (os.O_RDWR if os.name == "nt" else 0)
NO_HARD_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS})
_NO_DIRECTORY_SYNC: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS})
# Windows refuses to rename what another program has open: scanners look at each new file for a moment.
_PATIENCE_S: Final = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)


def open_to_read(path: str) -> int:
    """Return a descriptor of the file; ELOOP for a link."""
    # Windows has no O_NOFOLLOW, and says of a folder that it is forbidden.
    if os.name == "nt" and not stat.S_ISREG(os.lstat(path).st_mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    return os.open(path, READ_FLAGS)


def add_name(existing: str, new: str, clock: Clock | None = None) -> None:
    """Give a file its final name, never replacing another: FileExistsError then.

    The old name may or may not be left over.
    """
    if os.name != "nt":
        os.link(existing, new)
        return
    clock = clock or SystemClock()
    for pause in _PATIENCE_S:
        try:
            Path(existing).rename(new)  # refuses an existing target there
            return
        except PermissionError:
            clock.sleep(pause)
    Path(existing).rename(new)


def sync_file(path: str) -> None:
    """Make the bytes of a finished file survive a power cut, whoever wrote them."""
    fd = os.open(path, _SYNC_FLAGS)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_directory(folder: str | Path) -> None:
    """Make the names in ``folder`` survive a power cut, where the system can (not Windows)."""
    if os.name == "nt":
        return
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network file systems have no such call for directories; their server keeps the names.
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise
    finally:
        os.close(fd)


def read_some(fd: int, offset: int, length: int) -> bytes:
    """Return up to ``length`` bytes from ``offset``; none only at the end of the file."""
    if hasattr(os, "pread"):
        return os.pread(fd, length, offset)
    os.lseek(fd, offset, os.SEEK_SET)
    return os.read(fd, length)


def read_some_into(fd: int, offset: int, buffer: memoryview) -> int:
    """Fill the front of ``buffer`` and return by how many bytes; 0 only at the end of the file."""
    if hasattr(os, "preadv"):
        return os.preadv(fd, [buffer], offset)
    content = read_some(fd, offset, len(buffer))
    buffer[: len(content)] = content
    return len(content)
