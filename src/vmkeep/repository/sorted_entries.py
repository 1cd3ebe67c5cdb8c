"""Entries of an index in ascending files of this machine: searched there, merged in bulk.

A *record* is one entry as `docs/format.md` section 12 writes it: 16 bytes of an
id, then pack number and slot. Records are compared, joined and merged as they
are; taking each apart in Python would take hours for a large repository.
"""

import operator
import struct
import tempfile
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import suppress
from itertools import islice, pairwise
from pathlib import Path
from typing import IO, Final, Protocol

from vmkeep.objectstore.files import read_some

KEY_BYTES: Final = 16
RECORD_BYTES: Final = 24
_PACK: Final = slice(KEY_BYTES, KEY_BYTES + 4)
_RECORD = struct.Struct("24s")
PAGE_RECORDS: Final = 170  # 170 * 24 = 4080 bytes, one page of the file system
PAGE_BYTES: Final = PAGE_RECORDS * RECORD_BYTES
_MERGED_AT_ONCE: Final = 64 << 10  # about 15 MB of Python objects
_PREFIXES: Final = 1 << 16


class SortedEntries:
    """One file of ascending records and, in memory, the first 8 bytes of each page."""

    def __init__(self, file: IO[bytes], fences: "array[int]", count: int) -> None:
        self._file = file
        self._fences = fences
        self._count = count

    def __len__(self) -> int:
        return self._count

    @classmethod
    def write(cls, parts: Iterable[bytes], folder: Path | None) -> "SortedEntries":
        """Store records that ascend within and across ``parts``."""
        # A file without a name: a killed process leaves nothing behind.
        file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by remove()
        fences: array[int] = array("Q")
        size = 0
        try:
            for part in parts:
                for at in range(-size % PAGE_BYTES, len(part), PAGE_BYTES):
                    fences.append(int.from_bytes(part[at : at + 8], "big"))
                file.write(part)
                size += len(part)
            file.flush()
        except BaseException:
            with suppress(OSError):  # what a full disk did not take is tried again, in vain
                file.close()
            raise
        return cls(file, fences, size // RECORD_BYTES)

    def find(self, key: bytes) -> bytes | None:
        """Return a record of this key."""
        return next(self.find_all(key), None)

    def find_all(self, key: bytes) -> Iterator[bytes]:
        """Yield every record of this key."""
        # Several pages can start with the same 8 bytes, by chance or with many records
        # of one key; then the key may also lie in the page before the last of them.
        start = int.from_bytes(key[:8], "big")
        page = bisect_right(self._fences, start) - 1
        while page >= 0:
            records = self._read(page * PAGE_RECORDS, PAGE_RECORDS)
            at = records.find(key)
            while at >= 0:
                if at % RECORD_BYTES == 0:  # and not a key's bytes across two records
                    yield records[at : at + RECORD_BYTES]
                at = records.find(key, at + 1)
            if self._fences[page] != start:
                return
            page -= 1

    def between(self, low: int, high: int) -> bytes:
        """Return the records whose first two bytes are in ``[low, high)``."""
        first, last = self._position(low), self._position(high)
        return self._read(first, last - first)

    def _position(self, prefix: int) -> int:
        """Return how many records lie before all that begin with ``prefix`` or more."""
        if prefix == _PREFIXES:
            return self._count
        page = bisect_left(self._fences, prefix << 48)
        if page == 0:
            return 0
        before = (page - 1) * PAGE_RECORDS
        records = self._read(before, PAGE_RECORDS)
        starts = range(0, len(records), RECORD_BYTES)
        return before + bisect_left(starts, prefix.to_bytes(2, "big"), key=lambda at: records[at : at + 2])

    def _read(self, record: int, count: int) -> bytes:
        offset, length = record * RECORD_BYTES, min(count, self._count - record) * RECORD_BYTES
        records = read_some(self._file.fileno(), offset, length)
        while len(records) < length:
            more = read_some(self._file.fileno(), offset + len(records), length - len(records))
            if not more:
                raise OSError("a temporary file of the index became shorter")
            records += more
        return records

    def remove(self) -> None:
        """Let the file go; safe to repeat."""
        self._file.close()


class Ascending(Protocol):
    """Records that can be taken in ranges of their first two bytes."""

    def __len__(self) -> int: ...
    def between(self, low: int, high: int) -> bytes: ...


Join = Callable[[Iterable[bytes]], bytes]


def merge(files: Sequence[SortedEntries], dropped: Set[int], folder: Path | None) -> SortedEntries:
    """Make one file of several, oldest first: of equal keys the newest stays, of dropped packs none."""
    return SortedEntries.write(joined_parts(files, lambda parts: join_records(parts, dropped)), folder)


def joined_parts(files: Sequence[Ascending], join: Join) -> Iterator[bytes]:
    """Yield the records of all files, ascending, as ``join`` makes one of several, some at a time."""
    steps = max(1, min(_PREFIXES, -(-sum(map(len, files)) // _MERGED_AT_ONCE)))
    for low, high in pairwise(step * _PREFIXES // steps for step in range(steps + 1)):
        yield join(file.between(low, high) for file in files)


def first_to_merge(sizes: Sequence[int], limit: int, ratio: int = 1) -> int:
    """Choose which files, oldest first, become one with the newest so that at most ``limit`` remain.

    Returns the first of them. Those before the newest are taken as long as they are no larger
    than ``ratio`` times what has come together: nothing is rewritten again and again.
    """
    first = len(sizes) - 1
    together = sizes[first]
    while first > 0 and (first >= limit or sizes[first - 1] <= ratio * together):
        first -= 1
        together += sizes[first]
    return first


def join_records(parts: Iterable[bytes], dropped: Set[int] = frozenset()) -> bytes:
    """Return the records of all ``parts``, ascending: of equal keys the last stays, of dropped packs none."""
    records = split_records(parts)
    if dropped:
        records = [record for record in records if int.from_bytes(record[_PACK], "little") not in dropped]
    ascending = sorted(records)  # cheap: the parts ascend already
    keys = [record[:KEY_BYTES] for record in ascending]
    if any(map(operator.eq, keys, islice(keys, 1, None))):
        ascending = sorted({record[:KEY_BYTES]: record for record in records}.values())
    return b"".join(ascending)


def join_all_records(parts: Iterable[bytes]) -> bytes:
    """Return the records of all ``parts``, ascending, none twice; those of equal keys stay."""
    ascending = sorted(split_records(parts))
    if any(map(operator.eq, ascending, islice(ascending, 1, None))):
        ascending = sorted(set(ascending))
    return b"".join(ascending)


def split_records(parts: Iterable[bytes]) -> list[bytes]:
    """Return the records of all ``parts``, one by one, in order."""
    records: list[bytes] = []
    for part in parts:
        records += [record for (record,) in _RECORD.iter_unpack(part)]
    return records
