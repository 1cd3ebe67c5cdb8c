"""The log: find what a writer left half done, and apply it in memory only.

A VHDX copied from a running machine often has a log that was never replayed;
its tables on disk are then stale or torn. [MS-VHDX] 2.3.3 forbids any other
reading before the replay, and a reader must replay without writing.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final
from uuid import UUID

from vmkeep.formats.errors import CorruptDisk, TruncatedDisk
from vmkeep.formats.source import Source, read_at
from vmkeep.formats.vhdx import layout
from vmkeep.formats.vhdx.headers import Header
from vmkeep.formats.vhdx.image import Patch, ReplayedImage

# Writers make 1 MiB logs. Every step below is linear in the log, but it must fit into memory.
LOG_LENGTH_MAX: Final = 64 * layout.MIB
# The checksums of a sound log cover it once, and stale entries once more.
_CHECKSUM_BUDGET: Final = 4
# A 1 MiB log holds 32 thousand descriptors at most.
_WRITES_MAX: Final = 1 << 18


@dataclass(frozen=True)
class LogEntry:
    """One valid entry; ``offset`` and ``tail`` count from the start of the log."""

    offset: int
    length: int
    tail: int
    sequence: int
    flushed_size: int
    last_size: int
    data: bytes = field(repr=False)

    def writes(self) -> Iterator[Patch]:
        """Yield what this entry writes, in order."""
        return (write for write in _decode_writes(self.data) if write is not None)


def check_log_place(header: Header, size: int, file: str) -> str | None:
    """Return what is wrong with the place of the log, or None: [MS-VHDX] 2.2.2 LogOffset, LogLength."""
    log = header.log
    if log.offset % layout.MIB or log.length % layout.MIB or not log.length:
        return f"the log of {file!r} does not lie on 1 MiB boundaries."
    if log.offset < layout.HEADER_SECTION_SIZE:
        return f"the log of {file!r} lies on top of its headers."
    if log.end > size:
        return f"the log of {file!r} lies beyond the end of the file."
    if log.length > LOG_LENGTH_MAX:
        return f"the log of {file!r} claims {log.length} bytes, more than any writer uses."
    return None


def replay_log(source: Source, header: Header) -> ReplayedImage:
    """Return the file as it counts once its log is applied; ``source`` stays as it is.

    Raises :class:`CorruptDisk` when the log promises changes but holds no
    sound sequence of entries, or one that writes where no log may write.
    """
    file = source.name
    size = source.size()
    fault = check_log_place(header, size, file)
    if fault is not None:
        raise CorruptDisk(fault, file=file, offset=header.log.offset, rule="[MS-VHDX] 2.2.2 LogOffset")
    ring = read_at(source, header.log.offset, header.log.length)
    if len(ring) < header.log.length:
        raise TruncatedDisk(
            f"{file!r} ends inside its log.", file=file, offset=header.log.offset, rule="[MS-VHDX] 2.3"
        )
    sequence = find_active_sequence(ring, header.log_guid, file)
    if not sequence:
        raise CorruptDisk(
            f"{file!r} has changes in its log, but the log is damaged: the disk's tables cannot be trusted.",
            file=file,
            offset=header.log.offset,
            rule="[MS-VHDX] 2.3.3",
        )
    head = sequence[-1]
    if size < head.flushed_size:
        raise TruncatedDisk(
            f"{file!r} has {size} bytes, but had {head.flushed_size} when its log was written.",
            file=file,
            offset=header.log.offset + head.offset,
            rule="[MS-VHDX] 2.3.3 FlushedFileOffset",
        )
    writes = _collect_writes(sequence, header, file)
    # Writes beyond the end extend the file; at last it holds LastFileOffset bytes.
    grown = max([size, head.last_size, *(write.end for write in writes)])
    return ReplayedImage(source, writes, size, grown, len(sequence))


def _collect_writes(sequence: list[LogEntry], header: Header, file: str) -> list[Patch]:
    """Return all writes in order; raise when one touches what never goes through the log.

    The identifier never changes, the headers are written directly, and a log
    does not describe itself. Such an entry is whole and was meant: leaving it
    out would show the state before it, so the file is refused.
    """
    writes: list[Patch] = []
    for entry in sequence:
        if entry.last_size > layout.FILE_SIZE_MAX:
            raise _bad_write(entry, header, file, "grows the file beyond any disk")
        for write in islice(entry.writes(), _WRITES_MAX + 1 - len(writes)):
            if write.offset < layout.REGION_TABLE_OFFSETS[0]:
                raise _bad_write(entry, header, file, "overwrites the file's headers")
            if write.offset < header.log.end and header.log.offset < write.end:
                raise _bad_write(entry, header, file, "overwrites the log itself")
            if write.end > layout.FILE_SIZE_MAX:
                raise _bad_write(entry, header, file, "writes beyond any disk")
            writes.append(write)
        if len(writes) > _WRITES_MAX:
            raise _bad_write(entry, header, file, "makes the log write more often than any writer does")
    return writes


def _bad_write(entry: LogEntry, header: Header, file: str, what: str) -> CorruptDisk:
    return CorruptDisk(
        f"{file!r} has a log entry that {what}.",
        file=file,
        offset=header.log.offset + entry.offset,
        rule="[MS-VHDX] 2.3.1.2, 2.3.1.3 FileOffset",
    )


def find_active_sequence(ring: bytes, log_guid: UUID, file: str = "log") -> list[LogEntry]:
    """Return the entries to replay, oldest first, or nothing when the log holds no valid sequence.

    The procedure of [MS-VHDX] 2.3.3 walks runs of entries from each position of
    the ring and never ends when one run fills it. The same answer, always
    ending: an entry is followed by the one right behind it with the next
    number; a run ends at a *head* nothing follows; it is valid when the head's
    Tail is an entry from which the head is reached; the greatest head wins.
    Replay starts at Tail, so entries before it are left out: the places they
    describe may hold payload by now.
    """
    entries = _parse_entries(ring, log_guid, file)
    follower: dict[int, LogEntry] = {}
    head_of: dict[int, LogEntry] = {}
    # From the greatest number down, so that what follows an entry is known before it.
    for entry in sorted(entries.values(), key=lambda entry: entry.sequence, reverse=True):
        behind = entries.get((entry.offset + entry.length) % len(ring))
        if behind is not None and behind.sequence == entry.sequence + 1:
            follower[entry.offset] = behind
            head_of[entry.offset] = head_of[behind.offset]
        else:
            head_of[entry.offset] = entry
    for head in head_of.values():
        # Heads come with falling numbers: the first valid one is the answer.
        if head.offset not in follower and head_of.get(head.tail) is head:
            run = [entries[head.tail]]
            while run[-1] is not head:
                run.append(follower[run[-1].offset])
            if sum(entry.length for entry in run) <= len(ring):
                return run
    return []


def _parse_entries(ring: bytes, log_guid: UUID, file: str) -> dict[int, LogEntry]:
    """Return every valid entry by its offset; what is torn or stale is left out."""
    budget = _CHECKSUM_BUDGET * len(ring)
    entries: dict[int, LogEntry] = {}
    at = ring.find(layout.ENTRY_SIGNATURE)
    while at >= 0:
        if at % layout.LOG_SECTOR == 0:
            length = _plausible_length(ring, at, log_guid)
            budget -= length
            if budget < 0:
                raise CorruptDisk(
                    f"{file!r} has a log of overlapping entries, as no writer makes it.",
                    file=file,
                    rule="[MS-VHDX] 2.3.1",
                )
            entry = _parse_entry(_cut(ring, at, length), at) if length else None
            if entry is not None:
                entries[at] = entry
        at = ring.find(layout.ENTRY_SIGNATURE, at + 1)
    return entries


def _plausible_length(ring: bytes, at: int, log_guid: UUID) -> int:
    """Return the length of the entry at this place, or 0 when its header is not one of this log."""
    _, _, length, tail, sequence, count, _, owner, _, _ = layout.LOG_ENTRY.unpack_from(ring, at)
    good = (
        length % layout.LOG_SECTOR == 0
        and layout.LOG_SECTOR <= length <= len(ring)
        and tail % layout.LOG_SECTOR == 0
        and tail < len(ring)
        and sequence > 0
        and layout.LOG_ENTRY.size + count * layout.LOG_DESCRIPTOR.size <= length
        and owner == log_guid.bytes_le
    )
    return length if good else 0


def _cut(ring: bytes, at: int, length: int) -> bytes:
    """Return ``length`` bytes of the ring; an entry may run over its end and go on at its start."""
    part = ring[at : at + length]
    return part + ring[: length - len(part)]


def _parse_entry(data: bytes, offset: int) -> LogEntry | None:
    """Return the entry, or None when any rule of [MS-VHDX] 2.3.1 is broken."""
    _, crc, length, tail, sequence, _, _, _, flushed, last = layout.LOG_ENTRY.unpack_from(data)
    if crc != layout.checksum(data) or None in _decode_writes(data):
        return None
    return LogEntry(offset, length, tail, sequence, flushed, last, data)


def _decode_writes(data: bytes) -> Iterator[Patch | None]:
    """Yield the writes of an entry in order; None, and no more, where a rule is broken."""
    _, _, _, _, sequence, count, _, _, _, _ = layout.LOG_ENTRY.unpack_from(data)
    descriptors_end = layout.LOG_ENTRY.size + count * layout.LOG_DESCRIPTOR.size
    sector_at = -(-descriptors_end // layout.LOG_SECTOR) * layout.LOG_SECTOR
    descriptors = data[layout.LOG_ENTRY.size : descriptors_end]
    for signature, trailing, leading, place, number in layout.LOG_DESCRIPTOR.iter_unpack(descriptors):
        patch = None
        if number == sequence and place % layout.LOG_SECTOR == 0:
            if signature == layout.ZERO_DESCRIPTOR_SIGNATURE:
                zeros = int.from_bytes(leading, "little")
                patch = Patch(place, place + zeros, None) if zeros % layout.LOG_SECTOR == 0 else None
            elif signature == layout.DATA_DESCRIPTOR_SIGNATURE:
                middle = _data_sector(data, sector_at, sequence)
                sector_at += layout.LOG_SECTOR
                if middle is not None:
                    patch = Patch(place, place + layout.LOG_SECTOR, leading + middle + trailing)
        yield patch
        if patch is None:
            return


def _data_sector(data: bytes, at: int, sequence: int) -> bytes | None:
    """Return the 4084 bytes of a data sector, or None when it is torn or missing."""
    if at + layout.LOG_SECTOR > len(data):
        return None
    signature, high, middle, low = layout.LOG_DATA_SECTOR.unpack_from(data, at)
    if signature != layout.DATA_SECTOR_SIGNATURE or (high << 32 | low) != sequence:
        return None
    assert isinstance(middle, bytes)
    return middle
