"""Write a new file so that an unfinished one is never taken for a good one."""

import errno
import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

from vmkeep.formats.errors import TargetUnwritable
from vmkeep.formats.target_folder import Place, TargetFolder

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

    def __init__(self, place: Path | Place) -> None:
        self.path = Path(str(place))
        self._settled = False  # published or removed
        self._unflushed = 0
        self._flusher: ThreadPoolExecutor | None = None
        self._flushing: Future[None] | None = None
        try:
            if isinstance(place, Place):
                self._folder, self._name = place.folder.again(), place.name
            else:
                self._folder, self._name = TargetFolder.open(place.parent), place.name or "."
        except OSError as error:
            raise self._refused(error) from error
        try:
            if self._folder.holds(self._name):
                raise self._unwritable(
                    "it exists already", hint="Choose another name, or move the file away."
                )
            self._partial, self._fd = self._folder.begin(self._name)
        except BaseException as error:
            self._folder.close()
            if isinstance(error, OSError):
                raise self._refused(error) from error
            raise
        self._direct = self._folder.open_past_cache(self._partial, self._fd)

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
        if self._direct is None or len(view) < _DIRECT_BYTES or offset % _PAGE:
            return 0
        try:
            return os.pwrite(self._direct, view[: len(view) // _PAGE * _PAGE], offset)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # This memory, or any at all, is not aligned as this file system wants it.
            self._close_direct()
            return 0

    def _close_direct(self) -> None:
        if self._direct is not None:
            fd, self._direct = self._direct, None
            os.close(fd)

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
            _set_size(self._fd, size)
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
        if os.name == "nt":
            self._close()  # an open file cannot be renamed there, and nobody can exchange it
        try:
            self._require_ours(self._partial)
            self._folder.rename(self._partial, self._name)
            self._settled = True
            self._require_ours(self._name)
            self._folder.sync()
        except OSError as error:
            raise self._refused(error) from error
        finally:
            if self._settled:
                self._close()
                self._folder.close()

    def _require_ours(self, name: str) -> None:
        # Whoever may write to the folder can put another file under the name.
        if self._fd >= 0 and not self._folder.is_named(name, self._fd):
            raise self._unwritable(
                "somebody exchanged it while it was being written",
                hint="Choose a folder that only you can write to.",
            )

    def abort(self) -> None:
        """Remove the unfinished file; safe to repeat, and a no-op once published."""
        self._close()
        if not self._settled:
            self._settled = True
            with self._folder:
                self._folder.remove(self._partial)

    def _close(self) -> None:
        if self._flusher is not None:
            self._flusher.shutdown()  # it uses the descriptor
        self._close_direct()
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _refused(self, error: OSError) -> TargetUnwritable:
        if error.errno == errno.ENOSPC:
            return self._unwritable("the disk is full", hint="Free space there or choose another place.")
        return self._unwritable((error.strerror or "write failed").lower())

    def _unwritable(self, reason: str, hint: str | None = None) -> TargetUnwritable:
        return TargetUnwritable(f"cannot write {str(self.path)!r}: {reason}.", file=str(self.path), hint=hint)


if sys.platform == "win32":
    import ctypes
    import msvcrt
    from ctypes import wintypes

    _set_end_of_file = ctypes.WinDLL("kernel32", use_last_error=True).SetEndOfFile
    _set_end_of_file.argtypes = [wintypes.HANDLE]

    def _set_size(fd: int, size: int) -> None:
        # os.ftruncate grows a file by writing zeros there. The file is not made sparse on purpose:
        # Hyper-V refuses sparse disk files.
        os.lseek(fd, size, os.SEEK_SET)
        if not _set_end_of_file(msvcrt.get_osfhandle(fd)):
            code = ctypes.get_last_error()
            raise OSError(0, ctypes.FormatError(code).strip(" .\r\n"), None, code)

else:

    def _set_size(fd: int, size: int) -> None:
        os.ftruncate(fd, size)
