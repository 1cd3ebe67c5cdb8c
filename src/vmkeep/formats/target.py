"""Write a new file so that an unfinished one is never taken for a good one."""

import errno
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

from vmkeep.formats.errors import TargetUnwritable

PARTIAL_SUFFIX: Final = ".vmkeep-partial"
# Written so much, the system is asked to bring it to the disk, while writing goes on:
# the flush at the end would otherwise begin with all of it.
_FLUSHED_BESIDE: Final = 256 << 20
# Writes of this size and more go past the system's cache: copying into it costs as much processor
# time as decompressing, and what is restored has to reach the disk before it gets its name anyway.
_DIRECT_BYTES: Final = 1 << 20
_PAGE: Final = 4096


class TargetFile:
    """A file in the making beside its final place, named ``*.vmkeep-partial`` until published.

    Created 0600, never over an existing file. Missing parts read as zeros
    (the file is sparse where the file system can). Large writes are fastest
    from memory that begins on a page, to offsets that are multiples of 4096.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._published = False
        if path.exists() or path.is_symlink():
            raise self._unwritable("it exists already", hint="Choose another name, or move the file away.")
        self._partial = path.with_name(f".{path.name}.{os.urandom(4).hex()}{PARTIAL_SUFFIX}")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        flags |= getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
        try:
            self._fd = os.open(self._partial, flags, 0o600)
        except OSError as error:
            raise self._refused(error) from error
        self._direct = self._open_direct()
        self._unflushed = 0
        self._flusher: ThreadPoolExecutor | None = None
        self._flushing: Future[None] | None = None

    def write_at(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of ``data`` at ``offset``."""
        view = memoryview(data)
        self._unflushed += len(view)
        try:
            while view:
                done = self._write_direct(offset, view) or self._write_cached(offset, view)
                view, offset = view[done:], offset + done
            if self._unflushed >= _FLUSHED_BESIDE:
                self._flush_beside()
        except OSError as error:
            raise self._refused(error) from error

    def _write_cached(self, offset: int, view: memoryview) -> int:
        if hasattr(os, "pwrite"):
            return os.pwrite(self._fd, view, offset)
        os.lseek(self._fd, offset, os.SEEK_SET)
        return os.write(self._fd, view)

    def _write_direct(self, offset: int, view: memoryview) -> int:
        """Write the whole pages of ``view`` past the cache; 0 if that is not worthwhile or not possible."""
        if self._direct < 0 or len(view) < _DIRECT_BYTES or offset % _PAGE:
            return 0
        try:
            return os.pwrite(self._direct, view[: len(view) // _PAGE * _PAGE], offset)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # This memory, or any at all, is not aligned as this file system wants it.
            self._close_direct()
            return 0

    def _open_direct(self) -> int:
        """Open the same file for writing past the cache; -1 where that is not possible."""
        flag = getattr(os, "O_DIRECT", 0)
        if not flag:
            return -1
        try:
            fd = os.open(self._partial, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | flag)
        except OSError:
            return -1  # it is only faster
        if not os.path.sameopenfile(fd, self._fd):
            os.close(fd)
            return -1
        return fd

    def _close_direct(self) -> None:
        if self._direct >= 0:
            os.close(self._direct)
            self._direct = -1

    def _flush_beside(self) -> None:
        if self._flushing is not None:
            if not self._flushing.done():
                return  # the disk is slower than we are; the next flush takes more with it
            self._flushing.result()
        if self._flusher is None:
            self._flusher = ThreadPoolExecutor(1, thread_name_prefix="vmkeep-flush")
        self._unflushed = 0
        self._flushing = self._flusher.submit(os.fsync, self._fd)

    def truncate(self, size: int) -> None:
        """Set the size; new space reads as zeros."""
        try:
            os.ftruncate(self._fd, size)
        except OSError as error:
            raise self._refused(error) from error

    def flush(self) -> None:
        """Return when everything written so far survives a power cut."""
        try:
            if self._flushing is not None:
                self._flushing.result()  # the system tells of a write that failed only once
            os.fsync(self._fd)
        except OSError as error:
            raise self._refused(error) from error

    def publish(self) -> None:
        """Flush, then give the file its name; refuses to replace a file that appeared meanwhile."""
        self.flush()
        self._close()
        try:
            self._rename_no_replace()
            self._published = True
            sync_directory(self.path.parent)
        except OSError as error:
            raise self._refused(error) from error

    def _rename_no_replace(self) -> None:
        if os.name == "nt":
            os.rename(self._partial, self.path)  # refuses an existing target there
            return
        try:
            os.link(self._partial, self.path)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            # No hard links here (FAT, some network shares): the check and the
            # rename can be parted, which harms only another restore to this name.
            if self.path.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
            os.rename(self._partial, self.path)
            return
        os.unlink(self._partial)

    def abort(self) -> None:
        """Remove the unfinished file; safe to repeat, and a no-op once published."""
        self._close()
        if not self._published:
            self._partial.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._flusher is not None:
            self._flusher.shutdown()  # it uses the descriptor
        self._close_direct()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _refused(self, error: OSError) -> TargetUnwritable:
        if error.errno == errno.ENOSPC:
            return self._unwritable("the disk is full", hint="Free space there or choose another place.")
        return self._unwritable((error.strerror or "write failed").lower())

    def _unwritable(self, reason: str, hint: str | None = None) -> TargetUnwritable:
        return TargetUnwritable(f"cannot write {str(self.path)!r}: {reason}.", file=str(self.path), hint=hint)


def sync_directory(folder: Path) -> None:
    """Make the names in ``folder`` survive a power cut, where the system can (not Windows)."""
    if os.name == "nt":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
