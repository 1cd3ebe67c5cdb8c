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
from collections.abc import Iterable, Iterator, Sequence, Set
from itertools import islice, pairwise
from pathlib import Path
from typing import IO, Final

from vmkeep.objectstore.files import read_some

KEY_BYTES: Final = 16
RECORD_BYTES: Final = 24
_PACK: Final = slice(KEY_BYTES, KEY_BYTES + 4)
_RECORD = struct.Struct("24s")
_PAGE_RECORDS: Final = 170  # 170 * 24 = 4080 bytes, one page of the file system
_PAGE_BYTES: Final = _PAGE_RECORDS * RECORD_BYTES
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
        for part in parts:
            for at in range(-size % _PAGE_BYTES, len(part), _PAGE_BYTES):
                fences.append(int.from_bytes(part[at : at + 8], "big"))
            file.write(part)
            size += len(part)
        file.flush()
        return cls(file, fences, size // RECORD_BYTES)

    def find(self, key: bytes) -> bytes | None:
        """Return the record of this key."""
        # Several pages can start with the same 8 bytes only by chance; then the
        # key may lie in the page before the last of them.
        start = int.from_bytes(key[:8], "big")
        page = bisect_right(self._fences, start) - 1
        while page >= 0:
            records = self._read(page * _PAGE_RECORDS, _PAGE_RECORDS)
            at = records.find(key)
            while at >= 0 and at % RECORD_BYTES:  # a key's bytes across two records
                at = records.find(key, at + 1)
            if at >= 0:
                return records[at : at + RECORD_BYTES]
            if self._fences[page] != start:
                return None
            page -= 1
        return None

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
        before = (page - 1) * _PAGE_RECORDS
        records = self._read(before, _PAGE_RECORDS)
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


def merge(files: Sequence[SortedEntries], dropped: Set[int], folder: Path | None) -> SortedEntries:
    """Make one file of several, oldest first: of equal keys the newest stays, of dropped packs none."""
    steps = max(1, min(_PREFIXES, -(-sum(map(len, files)) // _MERGED_AT_ONCE)))
    bounds = [step * _PREFIXES // steps for step in range(steps + 1)]

    def parts() -> Iterator[bytes]:
        for low, high in pairwise(bounds):
            yield join_records((file.between(low, high) for file in files), dropped)

    return SortedEntries.write(parts(), folder)


def join_records(parts: Iterable[bytes], dropped: Set[int] = frozenset()) -> bytes:
    """Return the records of all ``parts``, ascending: of equal keys the last stays, of dropped packs none."""
    records: list[bytes] = []
    for part in parts:
        records += [record for (record,) in _RECORD.iter_unpack(part)]
    if dropped:
        records = [record for record in records if int.from_bytes(record[_PACK], "little") not in dropped]
    ascending = sorted(records)  # cheap: the parts ascend already
    keys = [record[:KEY_BYTES] for record in ascending]
    if any(map(operator.eq, keys, islice(keys, 1, None))):
        ascending = sorted({record[:KEY_BYTES]: record for record in records}.values())
    return b"".join(ascending)
