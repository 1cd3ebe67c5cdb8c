"""Give every format the same view of the file that holds it: positioned reads."""

import errno
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from vmkeep.formats.errors import SourceUnreadable
from vmkeep.ranges import ByteRange

# A file of many tiny extents is read faster through its holes than around them.
_SMALLEST_HOLE: Final = 1 << 20


@runtime_checkable
class Source(Protocol):
    """Bytes that can be read at any offset, from several threads at once."""

    @property
    def name(self) -> str:
        """How the user knows the file; appears in messages."""

    def size(self) -> int:
        """Return the current size in bytes, asked anew at each call."""

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill ``buffer`` from ``offset`` on; return the bytes read, short only at the end.

        Raises :class:`SourceUnreadable`.
        """

    def data_ranges(self, start: int, end: int) -> Iterator[ByteRange]:
        """Yield the ranges of ``[start, end)`` that may hold something else than zeros.

        Ascending; a source that does not know yields the whole range.
        """

    def identity(self) -> tuple[int, ...]:
        """Return numbers that differ when the file was replaced, resized or written."""

    def close(self) -> None:
        """Release the file; safe to repeat."""


def read_at(source: Source, offset: int, length: int) -> bytes:
    """Return up to ``length`` bytes from ``offset``; fewer only at the end of the source."""
    buffer = bytearray(length)
    got = source.read_into(offset, memoryview(buffer))
    return bytes(buffer[:got]) if got < length else bytes(buffer)


class FileSource:
    """One local file, opened for reading only, or given open as ``fd``, which it then owns."""

    def __init__(self, path: str | os.PathLike[str], fd: int | None = None) -> None:
        self._path = Path(path)
        try:
            self._fd = _open(self._path) if fd is None else fd
        except OSError as error:
            raise self._unreadable(error) from error
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return str(self._path)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def read_into(self, offset: int, buffer: memoryview) -> int:
        done = 0
        try:
            while done < len(buffer):
                got = self._read_once(offset + done, buffer[done:])
                if not got:
                    break
                done += got
        except OSError as error:
            raise self._unreadable(error, offset + done) from error
        return done

    def _read_once(self, offset: int, buffer: memoryview) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._fd, [buffer], offset)
        with self._lock:  # Windows has no positioned read: seek and read must not be parted
            os.lseek(self._fd, offset, os.SEEK_SET)
            data = os.read(self._fd, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def data_ranges(self, start: int, end: int) -> Iterator[ByteRange]:
        if not hasattr(os, "SEEK_DATA"):
            yield ByteRange(start, end - start)
            return
        at = start
        pending: ByteRange | None = None
        while at < end:
            try:
                low = os.lseek(self._fd, at, os.SEEK_DATA)
                high = os.lseek(self._fd, low, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole up to the end of the file
                    break
                low, high = at, end  # the file system does not say: everything may be data
            low, high = min(low, end), min(high, end)
            if low < high:
                if pending is not None and low - pending.end < _SMALLEST_HOLE:
                    pending = ByteRange(pending.offset, high - pending.offset)
                else:
                    if pending is not None:
                        yield pending
                    pending = ByteRange(low, high - low)
            at = max(high, low, at + 1)
        if pending is not None:
            yield pending

    def identity(self) -> tuple[int, ...]:
        _watch_mappings(self._fd)
        # Asked by path, so that a file renamed over ours is noticed.
        try:
            stat = self._path.stat()
        except OSError as error:
            raise self._unreadable(error) from error
        # The time of the last change of the file's own record cannot be set back by a user.
        return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _unreadable(self, error: OSError, offset: int | None = None) -> SourceUnreadable:
        reason = (error.strerror or "read failed").lower()
        return SourceUnreadable(
            f"cannot read {str(self._path)!r}: {reason}.", file=str(self._path), offset=offset
        )


if sys.platform == "win32":
    import ctypes
    import msvcrt
    from ctypes import wintypes

    _create_file = ctypes.WinDLL("kernel32", use_last_error=True).CreateFileW
    _create_file.restype = wintypes.HANDLE
    _create_file.argtypes = [wintypes.LPCWSTR, *[wintypes.DWORD] * 2, wintypes.LPVOID,
                             *[wintypes.DWORD] * 2, wintypes.HANDLE]  # fmt: skip
    _GENERIC_READ: Final = 0x80000000
    _FILE_SHARE_READ: Final = 1
    _OPEN_EXISTING: Final = 3
    _FILE_ATTRIBUTE_NORMAL: Final = 0x80

    def _open(path: Path) -> int:
        # Nobody may write while we read, and we do not read what somebody writes: the time of the
        # last write, which the hold check looks at, may stand still there until the writer closes.
        how = (_GENERIC_READ, _FILE_SHARE_READ, None, _OPEN_EXISTING, _FILE_ATTRIBUTE_NORMAL, None)
        handle = _create_file(str(path), *how)
        if handle == wintypes.HANDLE(-1).value:
            code = ctypes.get_last_error()
            raise OSError(0, ctypes.FormatError(code).strip(" .\r\n"), str(path), code)
        return msvcrt.open_osfhandle(handle, os.O_RDONLY | os.O_BINARY | os.O_NOINHERIT)

    def _watch_mappings(fd: int) -> None:
        """Do nothing: nobody else has the file open for writing."""

else:

    def _watch_mappings(fd: int) -> None:
        """Have a write through a memory mapping change the file's times.

        The kernel notes only the first write to a page, until it has written the page out.
        """
        try:
            os.fsync(fd)
        except OSError:
            # Read-only mounts and devices that cannot be flushed: nothing waits to be written out.
            return

    def _open(path: Path) -> int:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


class BytesSource:
    """Bytes in memory: for overlays, small structures and tests."""

    def __init__(self, data: bytes | bytearray, name: str = "memory") -> None:
        self._data = data
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    def size(self) -> int:
        return len(self._data)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        part = memoryview(self._data)[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        return len(part)

    def data_ranges(self, start: int, end: int) -> Iterator[ByteRange]:
        if start < end:
            yield ByteRange(start, end - start)

    def identity(self) -> tuple[int, ...]:
        return (id(self._data), len(self._data))

    def close(self) -> None:
        return
