"""The log: find what a writer left half done, and apply it in memory only.

A VHDX copied from a running machine often has a log that was never replayed;
its tables on disk are then stale or torn. [MS-VHDX] 2.3.3 forbids any other
reading before the replay, and a reader must replay without writing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from vmkeep.formats.errors import CorruptDisk, TruncatedDisk, UnsupportedDisk
from vmkeep.formats.source import Source
from vmkeep.formats.vhdx import layout
from vmkeep.formats.vhdx.headers import Header
from vmkeep.formats.vhdx.image import LoggedPage, LoggedWrite, Patch, ReplayedImage

# Writers make 1 MiB logs. All of it is in memory during the replay, and no longer.
LOG_LENGTH_MAX: Final = 64 * layout.MIB
# The checksums of a sound log cover it once, and stale entries once more.
_CHECKSUM_BUDGET: Final = 4
_CHECKSUM_STEP: Final = layout.MIB
# Four 1 MiB logs of nothing but the shortest writes, or five hundred full of pages.
LOGGED_WRITES_MAX: Final = 1 << 17


class LogAllowance:
    """How many writes the logs of files opened together may hold, for each stays in memory.

    A chain has 64 files and a folder hundreds of disks: a bound for each alone
    would be none. Only one thread opens, so there is no lock.
    """

    def __init__(self) -> None:
        self._left = LOGGED_WRITES_MAX

    def take(self, writes: int, file: str) -> None:
        """Count ``writes`` that are about to be looked at; raises when they are too many."""
        self._left -= writes
        if self._left < 0:
            raise UnsupportedDisk(
                f"{file!r} and the files opened before it have more than {LOGGED_WRITES_MAX} writes "
                "in their logs, more than any writer leaves there.",
                file=file,
                rule="[MS-VHDX] 2.3",
                hint="Mount the disk once on a Hyper-V host, which empties its log, or give fewer disks.",
            )


@dataclass(frozen=True)
class LogEntry:
    """The header of one entry; ``offset`` and ``tail`` count from the start of the log."""

    offset: int
    checksum: int
    length: int
    tail: int
    sequence: int
    descriptors: int
    flushed_size: int
    last_size: int


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


def replay_log(source: Source, header: Header, allowance: LogAllowance | None = None) -> ReplayedImage:
    """Return the file as it counts once its log is applied; ``source`` stays as it is.

    Raises :class:`CorruptDisk` when the log promises changes but holds no
    sound sequence of entries, or one that writes where no log may write, and
    :class:`UnsupportedDisk` when the ``allowance`` of the opening is used up.
    """
    file = source.name
    size = source.size()
    fault = check_log_place(header, size, file)
    if fault is not None:
        raise CorruptDisk(fault, file=file, offset=header.log.offset, rule="[MS-VHDX] 2.2.2 LogOffset")
    writes, head, entries = _read_log(source, header, size, allowance or LogAllowance())
    # Writes beyond the end extend the file; at last it holds LastFileOffset bytes.
    grown = max([size, head.last_size, *(write.end for write in writes)])
    return ReplayedImage(source, writes, size, grown, entries)


def _read_log(
    source: Source, header: Header, size: int, allowance: LogAllowance
) -> tuple[list[LoggedWrite], LogEntry, int]:
    """Return what the log writes, its last entry, and how many entries there are to replay."""
    file = source.name
    ring = bytearray(header.log.length)
    if source.read_into(header.log.offset, memoryview(ring)) < len(ring):
        raise TruncatedDisk(
            f"{file!r} ends inside its log.", file=file, offset=header.log.offset, rule="[MS-VHDX] 2.3"
        )
    sequence = find_active_sequence(ring, header.log_guid, file, allowance)
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
    return _collect_writes(ring, sequence, header, file), head, len(sequence)


def _collect_writes(
    ring: bytearray, sequence: list[LogEntry], header: Header, file: str
) -> list[LoggedWrite]:
    """Return all writes in order; raise when one touches what never goes through the log.

    The identifier never changes, the headers are written directly, and a log
    does not describe itself. Such an entry is whole and was meant: leaving it
    out would show the state before it, so the file is refused.
    """
    writes: list[LoggedWrite] = []
    for entry in sequence:
        if entry.last_size > layout.FILE_SIZE_MAX:
            raise _bad_write(entry, header, file, "grows the file beyond any disk")
        for write in _decode_writes(ring, entry, header.log.offset):
            assert write is not None  # else the entry were not in the sequence
            if write.offset < layout.REGION_TABLE_OFFSETS[0]:
                raise _bad_write(entry, header, file, "overwrites the file's headers")
            if write.offset < header.log.end and header.log.offset < write.end:
                raise _bad_write(entry, header, file, "overwrites the log itself")
            if write.end > layout.FILE_SIZE_MAX:
                raise _bad_write(entry, header, file, "writes beyond any disk")
            writes.append(write)
    return writes


def _bad_write(entry: LogEntry, header: Header, file: str, what: str) -> CorruptDisk:
    return CorruptDisk(
        f"{file!r} has a log entry that {what}.",
        file=file,
        offset=header.log.offset + entry.offset,
        rule="[MS-VHDX] 2.3.1.2, 2.3.1.3 FileOffset",
    )


def find_active_sequence(
    ring: bytes | bytearray, log_guid: UUID, file: str = "log", allowance: LogAllowance | None = None
) -> list[LogEntry]:
    """Return the entries to replay, oldest first, or nothing when the log holds no valid sequence.

    The procedure of [MS-VHDX] 2.3.3 walks runs of entries from each position of
    the ring and never ends when one run fills it. The same answer, always
    ending: an entry is followed by the one right behind it with the next
    number; a run ends at a *head* nothing follows; it is valid when the head's
    Tail is an entry from which the head is reached; the greatest head wins.
    Replay starts at Tail, so entries before it are left out: the places they
    describe may hold payload by now.
    """
    entries = _parse_entries(ring, log_guid, file, allowance or LogAllowance())
    follower: dict[int, LogEntry] = {}
    head_of: dict[int, LogEntry] = {}
    heads: list[LogEntry] = []
    # From the greatest number down, so that what follows an entry is known before it.
    for entry in sorted(entries.values(), key=lambda entry: entry.sequence, reverse=True):
        behind = entries.get((entry.offset + entry.length) % len(ring))
        if behind is not None and behind.sequence == entry.sequence + 1:
            follower[entry.offset] = behind
            head_of[entry.offset] = head_of[behind.offset]
        else:
            head_of[entry.offset] = entry
            heads.append(entry)
    # Heads come with falling numbers: the first valid one is the answer. No entry is in two runs.
    for head in heads:
        if head_of.get(head.tail) is head:
            run = [entries[head.tail]]
            while run[-1] is not head:
                run.append(follower[run[-1].offset])
            if sum(entry.length for entry in run) <= len(ring):
                return run
    return []


def owners_of(ring: bytes) -> set[UUID]:
    """Return the LogGuid of everything in the ring that begins as an entry does."""
    owners = set()
    for at in range(0, len(ring), layout.LOG_SECTOR):
        if ring[at : at + len(layout.ENTRY_SIGNATURE)] == layout.ENTRY_SIGNATURE:
            owners.add(layout.guid(layout.LOG_ENTRY.unpack_from(ring, at)[7]))
    return owners


def _parse_entries(
    ring: bytes | bytearray, log_guid: UUID, file: str, allowance: LogAllowance
) -> dict[int, LogEntry]:
    """Return every valid entry by its offset; what is torn or stale is left out."""
    budget = _CHECKSUM_BUDGET * len(ring)
    entries: dict[int, LogEntry] = {}
    for at in range(0, len(ring), layout.LOG_SECTOR):
        entry = _plausible_entry(ring, at, log_guid)
        if entry is None:
            continue
        budget -= entry.length
        if budget < 0:
            raise CorruptDisk(
                f"{file!r} has a log of overlapping entries, as no writer makes it.",
                file=file,
                rule="[MS-VHDX] 2.3.1",
            )
        if entry.checksum == _checksum(ring, entry):
            allowance.take(entry.descriptors, file)
            if None not in _decode_writes(ring, entry, 0):
                entries[at] = entry
    return entries


def _plausible_entry(ring: bytes | bytearray, at: int, log_guid: UUID) -> LogEntry | None:
    """Return the entry at this place as its header describes it, or None when it is none of this log."""
    if ring[at : at + len(layout.ENTRY_SIGNATURE)] != layout.ENTRY_SIGNATURE:
        return None
    fields = layout.LOG_ENTRY.unpack_from(ring, at)
    _, checksum, length, tail, sequence, count, _, owner, flushed, last = fields
    good = (
        length % layout.LOG_SECTOR == 0
        and layout.LOG_SECTOR <= length <= len(ring)
        and tail % layout.LOG_SECTOR == 0
        and tail < len(ring)
        and sequence > 0
        and layout.LOG_ENTRY.size + count * layout.LOG_DESCRIPTOR.size <= length
        and owner == log_guid.bytes_le
    )
    return LogEntry(at, checksum, length, tail, sequence, count, flushed, last) if good else None


def _cut(ring: bytes | bytearray, at: int, length: int) -> bytes:
    """Return ``length`` bytes of the ring; what runs over its end goes on at its start."""
    at %= len(ring)
    with memoryview(ring) as view:
        part = bytes(view[at : at + length])
        return part + view[: length - len(part)] if len(part) < length else part


def _checksum(ring: bytes | bytearray, entry: LogEntry) -> int:
    crc = layout.checksum(_cut(ring, entry.offset, layout.LOG_SECTOR))
    for at in range(layout.LOG_SECTOR, entry.length, _CHECKSUM_STEP):
        crc = layout.crc32c(_cut(ring, entry.offset + at, min(_CHECKSUM_STEP, entry.length - at)), crc)
    return crc


def _decode_writes(ring: bytes | bytearray, entry: LogEntry, log_offset: int) -> Iterator[LoggedWrite | None]:
    """Yield the writes of an entry in order; None, and no more, where a rule of [MS-VHDX] 2.3.1 is broken."""
    descriptors_end = layout.LOG_ENTRY.size + entry.descriptors * layout.LOG_DESCRIPTOR.size
    sector_at = -(-descriptors_end // layout.LOG_SECTOR) * layout.LOG_SECTOR
    descriptors = _cut(
        ring, entry.offset + layout.LOG_ENTRY.size, entry.descriptors * layout.LOG_DESCRIPTOR.size
    )
    for signature, trailing, leading, place, number in layout.LOG_DESCRIPTOR.iter_unpack(descriptors):
        write: LoggedWrite | None = None
        if number == entry.sequence and place % layout.LOG_SECTOR == 0:
            if signature == layout.ZERO_DESCRIPTOR_SIGNATURE:
                zeros = int.from_bytes(leading, "little")
                write = Patch(place, place + zeros, None) if zeros % layout.LOG_SECTOR == 0 else None
            elif signature == layout.DATA_DESCRIPTOR_SIGNATURE and sector_at < entry.length:
                at = (entry.offset + sector_at) % len(ring)
                sector = _cut(ring, at, layout.LOG_SECTOR)
                sector_at += layout.LOG_SECTOR
                if _is_data_sector(sector, entry.sequence):
                    page = LoggedPage(log_offset + at, layout.crc32c(sector), leading, trailing)
                    write = Patch(place, place + layout.LOG_SECTOR, page)
        yield write
        if write is None:
            return


def _is_data_sector(sector: bytes, sequence: int) -> bool:
    """Tell whether the sector is one of the entry with this number and not torn."""
    signature, high, _, low = layout.LOG_DATA_SECTOR.unpack(sector)
    return bool(signature == layout.DATA_SECTOR_SIGNATURE and (high << 32 | low) == sequence)
