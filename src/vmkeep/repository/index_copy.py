"""One file of this machine that says what some index objects say, authenticated page by page.

Whoever can write to this machine's files must not make a run rely on chunks
that are not stored: every page carries a tag under a key of the repository, and
is checked each time it is read. So nothing has to be checked as a whole before
it is used, and nothing that was checked can be exchanged afterwards. Layout,
integers little endian::

    pages     4096 each: 170 records (the last padded with zeros), tag 16
    objects   16 each: ids of the index objects
    packs     28 each: id 16, kind u8, zeros 3, slots u32, number of its index object u32
    fences    8 each: the first 8 bytes of each page, as a u64
    footer    64: "VMKICPY1", salt 16, records u64, objects u32, packs u32, zeros 24
    tag 32

A tag is BLAKE3 keyed for this one file (`KeyRing.index_copy_key` of its salt) over
what stands before it, then the page's number as a u64; the last tag covers
everything behind the pages and has the number 2^64-1. A record's pack number
counts the packs of this file, where a pack that is in two index objects comes twice.
"""

import os
import stat
import struct
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from blake3 import blake3

from vmkeep.objectstore.files import READ_FLAGS, read_some
from vmkeep.objectstore.temporary import TemporaryFile
from vmkeep.repository.keys import KeyRing
from vmkeep.repository.packs import Kind, PackRef
from vmkeep.repository.sorted_entries import PAGE_BYTES, PAGE_RECORDS, RECORD_BYTES, SortedEntries

_MAGIC: Final = b"VMKICPY1"
_PACK = struct.Struct("<16sBxxxII")
_FOOTER = struct.Struct("<8s16sQII24s")
_PAGE_TAG: Final = 16
_STORED_PAGE: Final = PAGE_BYTES + _PAGE_TAG
_TABLE_TAG: Final = 32
_OBJECT: Final = 16
_TABLE: Final = (1 << 64) - 1


class CopyDamaged(Exception):
    """A copy, or a page of it, is not as vmkeep wrote it, or cannot be read."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path


class CopiedPack(NamedTuple):
    """A pack as one index object lists it; ``object`` counts the copy's objects."""

    ref: PackRef
    slots: int
    object: int


class IndexCopy(SortedEntries):
    """An opened copy: searched like any sorted file, by any number of threads."""

    def __init__(self, path: Path, ring: KeyRing) -> None:
        """Raises CopyDamaged, or OSError when it cannot be opened: removed meanwhile, perhaps."""
        self.path = path
        file = os.fdopen(os.open(path, READ_FLAGS), "rb", buffering=0)
        super().__init__(file, array("Q"), 0)
        try:
            self._read_table(ring)
        except BaseException:
            file.close()
            raise

    def _read_table(self, ring: KeyRing) -> None:
        found = os.fstat(self._file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_size < _FOOTER.size + _TABLE_TAG:
            raise CopyDamaged(self.path)
        end = found.st_size - _TABLE_TAG
        footer = self._stored(end - _FOOTER.size, _FOOTER.size)
        magic, salt, count, objects, packs, _ = _FOOTER.unpack(footer)
        pages = -(-count // PAGE_RECORDS)
        at = pages * _STORED_PAGE
        ends = at, at + objects * _OBJECT, at + objects * _OBJECT + packs * _PACK.size
        if magic != _MAGIC or ends[2] + pages * 8 + _FOOTER.size != end:
            raise CopyDamaged(self.path)
        table = self._stored(at, end - at)
        self._key = ring.index_copy_key(salt)
        if _tag(self._key, table, _TABLE, _TABLE_TAG) != self._stored(end, _TABLE_TAG):
            raise CopyDamaged(self.path)
        ids = table[: ends[1] - at]
        self.objects = [ids[n : n + _OBJECT].hex() for n in range(0, len(ids), _OBJECT)]
        self._packs = table[ends[1] - at : ends[2] - at]
        self._fences.frombytes(table[ends[2] - at : -_FOOTER.size])
        if sys.byteorder == "big":
            self._fences.byteswap()
        self._count = count

    def packs(self) -> Iterator[CopiedPack]:
        """Yield the packs in the order in which records count them."""
        for pack_id, kind, slots, number in _PACK.iter_unpack(self._packs):
            yield CopiedPack(PackRef(pack_id, Kind(kind)), slots, number)

    def _read(self, record: int, count: int) -> bytes:
        stop = min(record + count, self._count)
        first, last = record // PAGE_RECORDS, -(-stop // PAGE_RECORDS)
        stored = self._stored(first * _STORED_PAGE, (last - first) * _STORED_PAGE)
        contents = []
        for number in range(first, last):
            at = (number - first) * _STORED_PAGE
            content = stored[at : at + PAGE_BYTES]
            tag = stored[at + PAGE_BYTES : at + _STORED_PAGE]
            if _tag(self._key, content, number, _PAGE_TAG) != tag:
                raise CopyDamaged(self.path)
            contents.append(content)
        skipped = first * PAGE_RECORDS
        return b"".join(contents)[(record - skipped) * RECORD_BYTES : (stop - skipped) * RECORD_BYTES]

    def _stored(self, offset: int, length: int) -> bytes:
        """Return exactly these bytes of the file. Raises CopyDamaged."""
        try:
            content = read_some(self._file.fileno(), offset, length)
            while len(content) < length:
                more = read_some(self._file.fileno(), offset + len(content), length - len(content))
                if not more:
                    raise CopyDamaged(self.path)
                content += more
        except OSError as error:
            raise CopyDamaged(self.path) from error
        return content

    def delete(self) -> None:
        """Close the file and take its name away; best effort, safe to repeat."""
        self.remove()
        discard(self.path)


def write_copy(
    file: TemporaryFile,
    ring: KeyRing,
    objects: Sequence[str],
    packs: Iterable[CopiedPack],
    parts: Iterable[bytes],
) -> None:
    """Write a copy of the records in ``parts``, which ascend. Raises OSError."""
    salt = os.urandom(16)
    key = ring.index_copy_key(salt)
    fences: array[int] = array("Q")
    rest, count = b"", 0
    for part in parts:
        count += len(part) // RECORD_BYTES
        rest += part
        whole = len(rest) - len(rest) % PAGE_BYTES
        _write_pages(file, key, fences, rest[:whole])
        rest = rest[whole:]
    if rest:
        _write_pages(file, key, fences, rest.ljust(PAGE_BYTES, b"\0"))
    rows = b"".join(_PACK.pack(pack.ref.id, pack.ref.kind, pack.slots, pack.object) for pack in packs)
    if sys.byteorder == "big":
        fences.byteswap()
    footer = _FOOTER.pack(_MAGIC, salt, count, len(objects), len(rows) // _PACK.size, bytes(24))
    table = bytes.fromhex("".join(objects)) + rows + fences.tobytes() + footer
    file.write(table + _tag(key, table, _TABLE, _TABLE_TAG))


def _write_pages(file: TemporaryFile, key: bytes, fences: "array[int]", records: bytes) -> None:
    stored = []
    for at in range(0, len(records), PAGE_BYTES):
        page = records[at : at + PAGE_BYTES]
        stored += [page, _tag(key, page, len(fences), _PAGE_TAG)]
        fences.append(int.from_bytes(page[:8], "big"))
    file.write(b"".join(stored))


def _tag(key: bytes, content: bytes, number: int, length: int) -> bytes:
    return blake3(content, key=key).update(number.to_bytes(8, "little")).digest(length)


def discard(path: Path) -> None:
    """Remove a copy's file; one that stays (open elsewhere, on Windows) is looked at again next time."""
    try:
        path.unlink()
    except OSError:
        pass  # gone already, or in use
