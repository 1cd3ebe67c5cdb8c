"""Pages of tables and bitmaps in memory: the last ones used, of all open files together."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from itertools import count
from typing import Final

from vmkeep.formats.filling import is_zero

# A folder may hold hundreds of files: a bound for each alone would be none. The tables of a chain
# of 64 files of 1 TiB in the usual blocks of 32 MiB are half of it.
_MOST_BYTES: Final = 32 << 20
# What an entry of the dictionary and a small object take, roughly.
_OVERHEAD: Final = 400


class PagePool:
    """Keeps the pages used last, up to a number of bytes; for any thread."""

    def __init__(self, most_bytes: int) -> None:
        self._left = most_bytes
        self._pages: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[int, int]) -> bytes | None:
        with self._lock:
            page = self._pages.get(key)
            if page is not None:
                self._pages.move_to_end(key)
            return page

    def put(self, key: tuple[int, int], page: bytes) -> None:
        with self._lock:
            if key in self._pages:  # another thread was as quick
                return
            self._pages[key] = page
            self._left -= len(page) + _OVERHEAD
            while self._left < 0:
                _, old = self._pages.popitem(last=False)
                self._left += len(old) + _OVERHEAD


_POOL: Final = PagePool(_MOST_BYTES)
_NUMBERS: Final = count()


class Pages:
    """The pages of one table, or the bitmaps of one file, read when they are asked for."""

    def __init__(self, read: Callable[[int], bytes], pool: PagePool = _POOL) -> None:
        self._read = read
        self._pool = pool
        self._number = next(_NUMBERS)  # never used again, so pages of a closed file are nobody's

    def get(self, at: int) -> bytes:
        """Return what ``read`` gives for ``at``; nothing where that is nothing but zeros.

        Tables of large disks are mostly empty. Two threads may read the same page at once.
        """
        page = self._pool.get((self._number, at))
        # Read outside the lock: a slow read must not stop the other threads.
        return self.keep(at, self._read(at)) if page is None else page

    def knows(self, at: int) -> bool:
        """Tell whether :meth:`get` would read nothing."""
        return self._pool.get((self._number, at)) is not None

    def keep(self, at: int, page: bytes) -> bytes:
        """Keep what was read for ``at`` and return it, as :meth:`get` does from then on."""
        if is_zero(page):
            page = b""
        self._pool.put((self._number, at), page)
        return page
