"""Make files and folders in a folder that somebody else may be writing to, and nowhere else."""

import errno
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from vmkeep.formats.source import FileSource

PARTIAL_SUFFIX: Final = ".vmkeep-partial"

# Windows opens nothing relative to an open folder.
_BY_DESCRIPTOR: Final = {os.open, os.mkdir, os.stat, os.link, os.rename, os.unlink} <= os.supports_dir_fd
_ALWAYS: Final = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_LINK: Final = getattr(os, "O_NOFOLLOW", 0)
_FOLDER: Final = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | _ALWAYS
_NEW_FILE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINK | _ALWAYS
# A FIFO put under a name must not make us wait for ever.
_OLD_FILE: Final = _NO_LINK | getattr(os, "O_NONBLOCK", 0) | _ALWAYS
_NO_HARD_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS})
_NO_FOLDER_SYNC: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS})
_ATTEMPTS: Final = 9
_PARTIAL: Final = re.compile(r"\..+\.[0-9a-f]{8}" + re.escape(PARTIAL_SUFFIX), re.DOTALL)


class TargetFolder:
    """A folder held open, so that exchanging names on the way to it or in it leads nothing astray.

    The path it is opened by may hold links: that is the user's will. Below it
    none is followed, and no file is ever replaced. Names are single components.
    All methods raise OSError; the caller knows what that means.

    Where the system cannot work relative to an open folder (Windows), names are joined to
    the path and links are looked for first: that refuses links which are
    there already, not one put there in between.
    """

    def __init__(self, path: Path, fd: int | None = None) -> None:
        self.path = path
        self._fd = fd

    @classmethod
    def open(cls, path: Path) -> "TargetFolder":
        """Open an existing folder; links on the way are followed."""
        return cls(path, os.open(path, _FOLDER) if _BY_DESCRIPTOR else None)

    def __enter__(self) -> "TargetFolder":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the folder go; safe to repeat."""
        if self._fd is not None and self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def again(self) -> "TargetFolder":
        """Return the same folder, to be closed on its own."""
        return TargetFolder(self.path, None if self._fd is None else os.dup(self._fd))

    def below(self, *names: str, make: bool = False) -> "TargetFolder":
        """Open the folder reached by ``names``, step by step, making those that are missing if told to."""
        at = self.again()
        for name in names:
            with at:
                at = at._child(name, make)
        return at

    def _child(self, name: str, make: bool) -> "TargetFolder":
        path = self.path / name
        with self._naming(name):
            if make:
                self._make(name)
            if self._fd is not None:
                return TargetFolder(path, os.open(name, _FOLDER | _NO_LINK, dir_fd=self._fd))
            if not stat.S_ISDIR(self._status(name).st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return TargetFolder(path)

    def _make(self, name: str) -> None:
        try:
            os.mkdir(self._at(name), 0o700, dir_fd=self._fd)
        except FileExistsError:
            return
        self.sync()

    def holds(self, name: str) -> bool:
        """Tell whether the name is taken, by whatever it may be."""
        with self._naming(name):
            try:
                self._status(name)
            except FileNotFoundError:
                return False
            return True

    def open_file(self, name: str) -> FileSource | None:
        """Open a regular file for reading; None for anything else."""
        with self._naming(name):
            if not stat.S_ISREG(self._status(name).st_mode):
                return None
            fd = os.open(self._at(name), os.O_RDONLY | _OLD_FILE, dir_fd=self._fd)
            return FileSource(self.path / name, fd)

    def begin(self, name: str) -> tuple[str, int]:
        """Make the file that will be called ``name`` when it is complete; return its name until then, and it.

        It is its owner's only, and locked as long as it is open: nobody takes
        it for abandoned.
        """
        for _ in range(_ATTEMPTS):
            partial = f".{name}.{os.urandom(4).hex()}{PARTIAL_SUFFIX}"
            fd = os.open(self._at(partial), _NEW_FILE, 0o600, dir_fd=self._fd)
            if self._claim(partial, fd):
                return partial, fd
            os.close(fd)  # another restore swept it between these two lines
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    def _claim(self, name: str, fd: int) -> bool:
        try:
            return _lock(fd) and (sys.platform == "win32" or self.is_named(name, fd))
        except OSError:
            return True  # no locks on this file system, so nobody sweeps either

    def open_past_cache(self, name: str, fd: int) -> int | None:
        """Open the file ``fd`` once more, for writing past the system's cache; None where that cannot be."""
        flag = getattr(os, "O_DIRECT", 0)
        if not flag:
            return None
        try:
            direct = os.open(self._at(name), os.O_WRONLY | _OLD_FILE | flag, dir_fd=self._fd)
        except OSError:
            return None  # it is only faster
        if os.path.sameopenfile(direct, fd):
            return direct
        os.close(direct)
        return None

    def is_named(self, name: str, fd: int) -> bool:
        """Tell whether ``name`` still is the open file, and nothing that was put in its place."""
        try:
            return os.path.samestat(self._status(name), os.fstat(fd))
        except FileNotFoundError:
            return False

    def rename(self, old: str, new: str) -> None:
        """Give a file another name. Raises FileExistsError for one that is taken."""
        if os.name == "nt":
            Path(self._at(old)).rename(self._at(new))  # refuses an existing target there
            return
        fd, source, target = self._fd, self._at(old), self._at(new)
        try:
            os.link(source, target, src_dir_fd=fd, dst_dir_fd=fd, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            # No hard links here (FAT, some network shares): the check and the
            # rename can be parted, which harms only another restore to this name.
            if self.holds(new):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
            os.rename(source, target, src_dir_fd=fd, dst_dir_fd=fd)
            return
        self.remove(old)

    def remove(self, name: str) -> None:
        """Take a file's name away, if it is there."""
        try:
            os.unlink(self._at(name), dir_fd=self._fd)
        except FileNotFoundError:
            pass  # somebody else did

    def remove_abandoned(self) -> None:
        """Remove the unfinished files of this user whose writers are dead for certain: nobody locks them."""
        for name in os.listdir(self.path if self._fd is None else self._fd):
            if _PARTIAL.fullmatch(name):
                try:
                    self._remove_unless_written(name)
                except OSError:
                    continue  # being written, not ours, or no locks here: nothing is proven

    def _remove_unless_written(self, name: str) -> None:
        if sys.platform == "win32":
            self.remove(name)  # refused there while somebody has the file open
            return
        status = self._status(name)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            return
        # Some network file systems lock for writing only what is open for writing.
        fd = os.open(self._at(name), os.O_RDWR | _OLD_FILE, dir_fd=self._fd)
        try:
            if _lock(fd):
                self.remove(name)
        finally:
            os.close(fd)

    def sync(self) -> None:
        """Make the names in this folder survive a power cut, where the system can (not Windows)."""
        if self._fd is None:
            return
        try:
            os.fsync(self._fd)
        except OSError as error:
            # Some network file systems have no such call for folders; their server keeps the names.
            if error.errno not in _NO_FOLDER_SYNC:
                raise

    @contextmanager
    def _naming(self, name: str) -> Iterator[None]:
        """Let errors say which file is meant, not only its bare name."""
        try:
            yield
        except OSError as error:
            error.filename = str(self.path / name)
            raise

    def _status(self, name: str) -> os.stat_result:
        return os.stat(self._at(name), dir_fd=self._fd, follow_symlinks=False)

    def _at(self, name: str) -> str:
        """Return what to give to the system: the bare name beside a descriptor, else the whole path."""
        return str(self.path / name) if self._fd is None else name


class Place(NamedTuple):
    """Where a new file shall be; as text the path the user knows it by."""

    folder: TargetFolder
    name: str

    def __str__(self) -> str:
        return str(self.folder.path / self.name)


if sys.platform == "win32":

    def _lock(fd: int) -> bool:
        return True  # an open file cannot be deleted there

else:
    import fcntl

    def _lock(fd: int) -> bool:
        """Tell whether the file is locked by us now; False when somebody else holds it."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
