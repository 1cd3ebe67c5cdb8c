"""The log of a VHDX file: entries, the ring they lie in, and what is replayed ([MS-VHDX] 2.3).

A writer puts changed pages of metadata into the ring first. Here they reach
their own places only when the ring is full or the file is closed, so a copy of
a file in use is right only for a reader that replays the log.
"""

import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from vmkeep_lab.disks.errors import DiskCorrupt
from vmkeep_lab.disks.vhdx import MIB, PAGE, crc32c

_ENTRY: Final = struct.Struct("<4sIIIQII16sQQ")
_DESCRIPTOR: Final = struct.Struct("<4s4s8sQQ")
_LARGEST_RING: Final = 64 * MIB

# How many pages one entry carries at most: a quarter of the smallest ring.
PAGES_AN_ENTRY: Final = 60


@dataclass(frozen=True)
class Entry:
    """One entry as found in a ring."""

    length: int
    tail: int
    sequence: int
    flushed_size: int
    last_size: int
    zeros: tuple[tuple[int, int], ...]
    pages: tuple[tuple[int, bytes], ...]


def encode_entry(
    guid: UUID,
    sequence: int,
    tail: int,
    file_size: int,
    zeros: Sequence[tuple[int, int]],
    pages: Mapping[int, bytes],
) -> bytes:
    """Return an entry that zeroes ranges and changes pages: file offset to 4 KiB of new content."""
    descriptors = [
        _DESCRIPTOR.pack(b"zero", bytes(4), struct.pack("<Q", length), offset, sequence)
        for offset, length in zeros
    ]
    sectors = []
    low, high = struct.pack("<I", sequence & 0xFFFFFFFF), struct.pack("<I", sequence >> 32)
    for offset, page in pages.items():
        descriptors.append(_DESCRIPTOR.pack(b"desc", page[-4:], page[:8], offset, sequence))
        sectors.append(b"data" + high + page[8:-4] + low)
    head = _ENTRY.size + _DESCRIPTOR.size * len(descriptors)
    length = -(-head // PAGE) * PAGE + PAGE * len(sectors)
    raw = bytearray(
        _ENTRY.pack(
            b"loge",
            0,
            length,
            tail,
            sequence,
            len(descriptors),
            0,
            guid.bytes_le,
            file_size,
            file_size,
        )
    )
    raw += b"".join(descriptors)
    raw += bytes(-len(raw) % PAGE) + b"".join(sectors)
    struct.pack_into("<I", raw, 4, crc32c(raw))
    return bytes(raw)


def decode_entry(ring: bytes, place: int, guid: UUID) -> Entry | None:
    """Return the entry at an offset of the ring, or None where none of this log is valid."""
    raw = _around(ring, place, PAGE)
    signature, crc, length, tail, sequence, count, _, log, flushed, last = _ENTRY.unpack_from(raw)
    fits = PAGE <= length <= len(ring) and length % PAGE == 0 and _ENTRY.size + 32 * count <= length
    if signature != b"loge" or log != guid.bytes_le or sequence == 0 or tail % PAGE or not fits:
        return None
    raw = _around(ring, place, length)
    if crc != crc32c(raw[:4] + bytes(4) + raw[8:]):
        return None
    sector = -(-(_ENTRY.size + 32 * count) // PAGE) * PAGE
    zeros, pages = [], []
    for index in range(count):
        kind, trailing, leading, offset, number = _DESCRIPTOR.unpack_from(raw, _ENTRY.size + 32 * index)
        if number != sequence or offset % PAGE:
            return None
        if kind == b"zero":
            zeros.append((offset, int.from_bytes(leading, "little")))
        elif kind == b"desc":
            data = raw[sector : sector + PAGE]
            if len(data) < PAGE or data[:4] != b"data" or data[4:8] + data[-4:] != _halves(sequence):
                return None
            pages.append((offset, leading + data[8:-4] + trailing))
            sector += PAGE
        else:
            return None
    return Entry(length, tail, sequence, flushed, last, tuple(zeros), tuple(pages))


def _halves(sequence: int) -> bytes:
    return struct.pack("<II", sequence >> 32, sequence & 0xFFFFFFFF)


def _around(ring: bytes, place: int, length: int) -> bytes:
    raw = ring[place : place + length]
    return raw + ring[: length - len(raw)]


def active_sequence(ring: bytes, guid: UUID) -> list[Entry]:
    """Return the entries to replay, oldest first ([MS-VHDX] 2.3.3); DiskCorrupt if there are none."""
    if len(ring) > _LARGEST_RING:
        raise DiskCorrupt(f"log of {len(ring)} bytes")
    entries = {place: decode_entry(ring, place, guid) for place in range(0, len(ring), PAGE)}
    best: list[tuple[int, Entry]] = []
    for start in entries:
        run: list[tuple[int, Entry]] = []
        place, used = start, 0
        while (entry := entries[place]) is not None and used + entry.length <= len(ring):
            if run and entry.sequence != run[-1][1].sequence + 1:
                break
            run.append((place, entry))
            used += entry.length
            place = (place + entry.length) % len(ring)
        if not run or run[-1][1].tail not in {found for found, _ in run}:
            continue
        if not best or run[-1][1].sequence > best[-1][1].sequence:
            best = run
    if not best:
        raise DiskCorrupt("the header names a log, and no sequence of it is valid")
    tail = [place for place, _ in best].index(best[-1][1].tail)
    return [entry for _, entry in best[tail:]]


def replay(fd: int, ring: bytes, guid: UUID) -> None:
    """Bring a file into the state its log describes."""
    entries = active_sequence(ring, guid)
    if os.fstat(fd).st_size < entries[-1].flushed_size:
        raise DiskCorrupt("the file is shorter than its log says it was")
    for entry in entries:
        for offset, length in entry.zeros:
            _write_zeros(fd, offset, length)
        for offset, page in entry.pages:
            os.pwrite(fd, page, offset)
    if os.fstat(fd).st_size < entries[-1].last_size:
        os.ftruncate(fd, entries[-1].last_size)


class Ring:
    """The log of one file in use: takes changes, brings them to their places when it must."""

    def __init__(self, fd: int, offset: int, length: int, guid: UUID) -> None:
        self.guid = guid
        self._fd = fd
        self._offset = offset
        self._length = length
        self._head = 0
        self._tail = 0
        self._used = 0
        self._sequence = 1
        self._zeros: list[tuple[int, int]] = []
        self._pages: dict[int, bytes] = {}

    def append(self, zeros: Sequence[tuple[int, int]], pages: Mapping[int, bytes], file_size: int) -> None:
        """Write one entry; with nothing in it, it only makes the log a valid one."""
        # The tail moves only here, so the entry before stays valid until this one is written. One page
        # stays free: the published search for the sequence does not end on a full ring.
        needed = PAGE * (-(-(64 + 32 * (len(zeros) + len(pages))) // PAGE) + len(pages))
        if self._used + needed > self._length - PAGE:
            self.write_back()
            self._tail, self._used = self._head, 0
        entry = encode_entry(self.guid, self._sequence, self._tail, file_size, zeros, pages)
        before_end = self._length - self._head
        os.pwrite(self._fd, entry[:before_end], self._offset + self._head)
        if len(entry) > before_end:
            os.pwrite(self._fd, entry[before_end:], self._offset)
        self._head = (self._head + len(entry)) % self._length
        self._used += len(entry)
        self._sequence += 1
        self._zeros += zeros
        self._pages.update(pages)

    def write_back(self) -> None:
        """Bring everything logged to its own place in the file."""
        # Only fresh sector bitmap blocks are zeroed, before any page of them is logged: zeros go first.
        for offset, length in self._zeros:
            _write_zeros(self._fd, offset, length)
        for offset, page in self._pages.items():
            os.pwrite(self._fd, page, offset)
        self._zeros.clear()
        self._pages.clear()


def _write_zeros(fd: int, offset: int, length: int) -> None:
    while length > 0:
        piece = min(length, 4 * MIB)
        os.pwrite(fd, bytes(piece), offset)
        offset += piece
        length -= piece
