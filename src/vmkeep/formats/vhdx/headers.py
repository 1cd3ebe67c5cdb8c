"""The two headers: which of them counts, and what an open must refuse."""

from dataclasses import dataclass
from uuid import UUID

from vmkeep.formats.errors import CorruptDisk, UnsupportedDisk
from vmkeep.formats.source import Source, read_at
from vmkeep.formats.vhdx import layout
from vmkeep.ranges import ByteRange


@dataclass(frozen=True)
class Header:
    """One valid header; what it says about the log is not yet checked."""

    sequence: int
    file_write_guid: UUID
    data_write_guid: UUID
    log_guid: UUID
    log_version: int
    version: int
    log: ByteRange

    @property
    def has_log(self) -> bool:
        return self.log_guid != layout.NO_GUID


def parse_header(data: bytes) -> Header | None:
    """Return the header in these 4 KiB, or None when signature or checksum are wrong."""
    if len(data) < layout.HEADER_SIZE or data[:4] != layout.HEADER_SIGNATURE:
        return None
    data = data[: layout.HEADER_SIZE]
    return _unpack(data) if data == layout.with_checksum(data) else None


def _unpack(data: bytes) -> Header:
    _, _, sequence, file_write, data_write, log, log_version, version, length, offset = (
        layout.HEADER.unpack_from(data)
    )
    return Header(
        sequence=sequence,
        file_write_guid=layout.guid(file_write),
        data_write_guid=layout.guid(data_write),
        log_guid=layout.guid(log),
        log_version=log_version,
        version=version,
        log=ByteRange(offset, length),
    )


def pack_header(header: Header) -> bytes:
    """Return the 4 KiB of a header with its checksum."""
    fields = layout.HEADER.pack(
        layout.HEADER_SIGNATURE,
        0,
        header.sequence,
        header.file_write_guid.bytes_le,
        header.data_write_guid.bytes_le,
        header.log_guid.bytes_le,
        header.log_version,
        header.version,
        header.log.length,
        header.log.offset,
    )
    return layout.with_checksum(fields.ljust(layout.HEADER_SIZE, b"\0"))


def choose_header(section: bytes, file: str) -> Header:
    """Return the current header out of the header section, or raise.

    The only valid one, or the valid one with the greater number ([MS-VHDX] 2.2.2).
    """
    found = [parse_header(_slot(section, offset)) for offset in layout.HEADER_OFFSETS]
    valid = [header for header in found if header is not None]
    if not valid:
        raise CorruptDisk(
            f"{file!r} has no valid header: both copies are damaged.",
            file=file,
            offset=layout.HEADER_OFFSETS[0],
            rule="[MS-VHDX] 2.2.2",
        )
    # Equal numbers leave no current header, unless both say the same (our leniency).
    if len(valid) == 2 and valid[0].sequence == valid[1].sequence and valid[0] != valid[1]:
        raise CorruptDisk(
            f"{file!r} has two headers of the same age that disagree.",
            file=file,
            offset=layout.HEADER_OFFSETS[0],
            rule="[MS-VHDX] 2.2.2",
        )
    current = max(valid, key=lambda header: header.sequence)
    _refuse_versions(current, file, layout.HEADER_OFFSETS[found.index(current)])
    return current


def damaged_header(section: bytes) -> Header | None:
    """Return what the one damaged header seems to say, not a word of it proven; None when both are sound."""
    slots = [_slot(section, offset) for offset in layout.HEADER_OFFSETS]
    return next((_unpack(slot) for slot in slots if parse_header(slot) is None), None)


def _refuse_versions(header: Header, file: str, offset: int) -> None:
    if header.version != 1:
        raise UnsupportedDisk(
            f"{file!r} is a VHDX of version {header.version}; only version 1 is known.",
            file=file,
            offset=offset + 66,
            rule="[MS-VHDX] 2.2.2 Version",
        )
    if header.has_log and header.log_version != 0:
        raise UnsupportedDisk(
            f"{file!r} has a log of version {header.log_version}; only version 0 is known.",
            file=file,
            offset=offset + 64,
            rule="[MS-VHDX] 2.2.2 LogVersion",
        )


def refuse_vhdx_remains(source: Source) -> None:
    """Raise :class:`CorruptDisk` for a file whose identifier is damaged and a header is not."""
    for offset in layout.HEADER_OFFSETS:
        if parse_header(read_at(source, offset, layout.HEADER_SIZE)) is not None:
            raise CorruptDisk(
                f"{source.name!r} is a VHDX file whose identifier is damaged.",
                file=source.name,
                offset=layout.IDENTIFIER_OFFSET,
                rule="[MS-VHDX] 2.2.1",
            )


def read_marks(source: Source) -> tuple[object, ...]:
    """Read both headers anew and return what a writer must change before it writes.

    A program that opens the file for writing has to give it a new FileWriteGuid
    before it changes anything ([MS-VHDX] 2.2.2); a header that is not valid
    counts as None.
    """
    first, last = layout.HEADER_OFFSETS
    span = read_at(source, first, last + layout.HEADER_SIZE - first)
    marks: list[object] = []
    for offset in layout.HEADER_OFFSETS:
        header = parse_header(span[offset - first : offset - first + layout.HEADER_SIZE])
        if header is None:
            marks.append(None)
        else:
            marks.append((header.sequence, header.file_write_guid, header.data_write_guid, header.log_guid))
    return tuple(marks)


def _slot(section: bytes, offset: int) -> bytes:
    return section[offset : offset + layout.HEADER_SIZE]
