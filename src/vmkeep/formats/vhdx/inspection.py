"""`disk check` for one VHDX file: every rule that a read does not already enforce."""

from collections.abc import Iterator
from typing import Final, Literal

from vmkeep.formats.disk import Finding
from vmkeep.formats.source import read_at
from vmkeep.formats.space import TakenSpace
from vmkeep.formats.vhdx import layout
from vmkeep.formats.vhdx.blocks import (
    BITMAP_BLOCK_SIZE,
    BITMAP_PRESENT,
    OFFSET_MASK,
    RESERVED_MASK,
    STATE_MASK,
    BlockState,
)
from vmkeep.formats.vhdx.headers import parse_header
from vmkeep.formats.vhdx.image import ReplayedImage
from vmkeep.formats.vhdx.log import check_log_place
from vmkeep.formats.vhdx.metadata import reserved_bits
from vmkeep.formats.vhdx.structures import Structures
from vmkeep.ranges import ByteRange

_Severity = Literal["error", "warning"]

_STATES: Final = frozenset(int(state) for state in BlockState)
_WITH_PLACE: Final = (BlockState.FULLY_PRESENT, BlockState.PARTIALLY_PRESENT)
# UNDEFINED and UNMAPPED may still say where the former contents are ([MS-VHDX] 2.5.1.1).
_WITH_FORMER_PLACE: Final = (BlockState.UNDEFINED, BlockState.UNMAPPED)
# Here an offset means nothing ([MS-VHDX] 2.5.1.1): where one stands, the state may have been another.
_WITHOUT_PLACE: Final = (BlockState.NOT_PRESENT, BlockState.ZERO)


def inspect(structures: Structures, parent_size: int | None) -> Iterator[Finding]:
    """Yield what is wrong or unusual; the file was opened, so its headers and metadata are sound.

    ``parent_size`` is that of the parent's disk, None without one.
    """
    section = read_at(structures.image, 0, layout.HEADER_SECTION_USED)
    yield from _header_findings(structures, section)
    yield from _log_findings(structures)
    yield from _region_findings(structures, section)
    yield from _metadata_findings(structures, parent_size)
    yield from _TableInspection(structures).findings()


def _header_findings(structures: Structures, section: bytes) -> Iterator[Finding]:
    file, rule = structures.source.name, "[MS-VHDX] 2.2.2"
    slots = [section[offset : offset + layout.HEADER_SIZE] for offset in layout.HEADER_OFFSETS]
    first, second = headers = [parse_header(slot) for slot in slots]
    for number, header in enumerate(headers, 1):
        if header is None:
            message = f"Header {number} is damaged; the other one is used."
            yield Finding("warning", file, layout.HEADER_OFFSETS[number - 1], rule, message)
    if first is None or second is None:
        return
    older = layout.HEADER_OFFSETS[first.sequence > second.sequence]
    if first.data_write_guid != second.data_write_guid:
        message = "The headers name different states of the data: without the newer one the disk is older."
        yield Finding("warning", file, older, f"{rule} DataWriteGuid", message)
    if first.log_guid != second.log_guid:
        message = "The headers name different logs; without the newer one another log counts, or none."
        yield Finding("warning", file, older, f"{rule} LogGuid", message)


def _log_findings(structures: Structures) -> Iterator[Finding]:
    file = structures.source.name
    header = structures.header
    if isinstance(structures.image, ReplayedImage):
        message = (
            f"The file was not closed cleanly: {structures.image.entries} log entries were applied in memory."
        )
        yield Finding("warning", file, header.log.offset, "[MS-VHDX] 2.3.3", message)
        return
    fault = check_log_place(header, structures.image.size(), file)
    if fault is not None:
        yield Finding(
            "warning", file, header.log.offset, "[MS-VHDX] 2.2.2 LogOffset", f"Unused now, but {fault}"
        )
        return
    for region in structures.regions.all():
        if region.place.offset < header.log.end and header.log.offset < region.place.end:
            message = f"The {region.title} lies on top of the log, which is unused now."
            yield Finding("warning", file, region.place.offset, "[MS-VHDX] 2.2.2 LogOffset", message)


def _region_findings(structures: Structures, section: bytes) -> Iterator[Finding]:
    file = structures.source.name
    for offset, fault in structures.regions.faults:
        message = f"This copy of the region table {fault}; the other one is used."
        yield Finding("warning", file, offset, "[MS-VHDX] 2.2.3", message)
    first, second = (
        section[offset : offset + layout.REGION_TABLE_SIZE] for offset in layout.REGION_TABLE_OFFSETS
    )
    if not structures.regions.faults and first != second:
        message = "The two copies of the region table differ; the first one is used."
        yield Finding("warning", file, layout.REGION_TABLE_OFFSETS[1], "[MS-VHDX] 2.2.3", message)


def _metadata_findings(structures: Structures, parent_size: int | None) -> Iterator[Finding]:
    file, size = structures.source.name, structures.metadata.disk_size
    for offset, rule in reserved_bits(structures.image, structures.regions.metadata):
        message = "Reserved bits are set in the metadata: it is damaged, or of a version nobody knows."
        yield Finding("warning", file, offset, f"[MS-VHDX] {rule}", message)
    if parent_size is not None and parent_size != size:
        what = (
            "beyond its parent's end it reads as zeros"
            if parent_size < size
            else "its parent's end is cut off"
        )
        message = f"The disk has {size} bytes, its parent {parent_size}: {what}."
        yield Finding("warning", file, structures.regions.metadata.offset, "[MS-VHDX] 2.6.2.2", message)


class _TableInspection:
    """One walk through the block table, noting which MiB of the file are taken."""

    def __init__(self, structures: Structures) -> None:
        self._file = structures.source.name
        self._table = structures.table
        self._geometry = structures.table.geometry
        self._image = structures.image
        self._size = structures.image.size()
        self._is_fixed = structures.metadata.leave_allocated and not structures.metadata.has_parent
        self._absent = 0  # blocks of a fixed disk, and the entry of the first
        self._first_absent = 0
        self._used = TakenSpace(layout.MIB)
        # Places that are never read, such as the former place of a block.
        self._unused = TakenSpace(layout.MIB)
        for place, _ in structures.table.structures:
            if place.offset < self._size:
                self._used.take(ByteRange(place.offset, min(place.length, self._size - place.offset)))

    def findings(self) -> Iterator[Finding]:
        """Yield the faults of all entries; of entries no disk uses, too."""
        geometry = self._geometry
        chunk_entries = geometry.chunk_ratio + 1
        partial_chunk = -1
        for index, count, value in self._table.entries(0, geometry.entry_count):
            if value & RESERVED_MASK:
                yield self._finding("warning", index, "2.5.1", "Reserved bits are set.")
            if count == 1 and index % chunk_entries == geometry.chunk_ratio:
                yield from self._bitmap(index, value, needed=partial_chunk == index // chunk_entries)
                continue
            if geometry.has_parent and value & STATE_MASK == BlockState.PARTIALLY_PRESENT:
                partial_chunk = index // chunk_entries
            if count > 1 and partial_chunk >= 0:
                # A run of empty entries may run over the bitmap entry of the chunk before it.
                bitmap_index = geometry.bitmap_index(partial_chunk)
                if index <= bitmap_index < index + count:
                    yield from self._bitmap(bitmap_index, 0, needed=True)
            if value:
                yield from self._payload(index, value)
            if self._is_fixed and value & STATE_MASK != BlockState.FULLY_PRESENT:
                self._count_absent(index, count)
        yield from self._traces()

    def _payload(self, index: int, value: int) -> Iterator[Finding]:
        state, place = value & STATE_MASK, value & OFFSET_MASK
        block = self._geometry.payload_blocks_before(index)
        if block >= self._geometry.payload_count:
            if state in _WITH_PLACE:
                yield self._finding(
                    "warning", index, "2.5", "An entry beyond the end of the disk has a block."
                )
            return
        rule = "2.5.1.1"
        if state not in _STATES:
            yield self._finding("error", index, rule, f"Block {block} has the reserved state {state}.")
        elif state == BlockState.PARTIALLY_PRESENT and not self._geometry.has_parent:
            message = f"Block {block} is partly present, but the disk has no parent."
            yield self._finding("error", index, rule, message)
        if state in _WITH_PLACE:
            needed = self._geometry.bytes_of_block(block)
            yield from self._occupy(index, place, self._geometry.block_size, needed, f"Block {block}", rule)
        elif state in _WITH_FORMER_PLACE and place:
            what = f"The former place of block {block}"
            yield from self._occupy(index, place, self._geometry.block_size, 0, what, rule)
        elif state in _WITHOUT_PLACE and place:
            below = "its parent's bytes" if self._geometry.has_parent and state == 0 else "zeros"
            message = f"Block {block} has a place in the file and reads as {below}: its state may be damaged."
            yield self._finding("warning", index, rule, message)
            if place < self._size:
                self._unused.take(ByteRange(place, min(self._geometry.block_size, self._size - place)))

    def _count_absent(self, index: int, count: int) -> None:
        self._first_absent = self._first_absent if self._absent else index
        blocks = self._geometry.payload_blocks_before
        self._absent += blocks(index + count) - blocks(index)

    def _traces(self) -> Iterator[Finding]:
        """Yield what damage to entries leaves elsewhere: too few blocks, and places nobody names."""
        if self._absent:
            message = f"{self._absent} blocks of a fixed disk are not in the file and read as zeros."
            yield self._finding("warning", self._first_absent, "2.5.1.1", message)
        for place in self._unused.places():
            self._used.take(place)
        lost, first = 0, 0
        for free in self._used.free(self._size):
            for place in self._image.data_ranges(free.offset, free.end):
                first = first if lost else place.offset
                lost += place.length
        if lost:
            message = f"{lost} bytes in the file belong to nothing: free space, or blocks that were lost."
            yield Finding("warning", self._file, first, "[MS-VHDX] 2.4", message)

    def _bitmap(self, index: int, value: int, *, needed: bool) -> Iterator[Finding]:
        state, place = value & STATE_MASK, value & OFFSET_MASK
        chunk = index // (self._geometry.chunk_ratio + 1)
        rule = "2.5.1.2"
        if needed and state != BITMAP_PRESENT:
            message = f"Chunk {chunk} has partly present blocks, but its bitmap is missing."
            yield self._finding("error", index, rule, message)
        elif state not in (0, BITMAP_PRESENT):
            message = f"The unused bitmap of chunk {chunk} has the reserved state {state}."
            yield self._finding("warning", index, rule, message)
        elif state and not self._geometry.has_parent:
            yield self._finding("warning", index, rule, "A disk without a parent has a bitmap block.")
        if state == BITMAP_PRESENT:
            used = BITMAP_BLOCK_SIZE if needed else 0
            what = f"The bitmap of chunk {chunk}"
            yield from self._occupy(index, place, BITMAP_BLOCK_SIZE, used, what, rule)

    def _occupy(
        self, index: int, place: int, length: int, needed: int, what: str, rule: str
    ) -> Iterator[Finding]:
        """Judge one block's place; ``needed`` is how much of it a read can ask for."""
        severity: _Severity = "error" if needed else "warning"
        if place < layout.HEADER_SECTION_SIZE:
            yield self._finding(severity, index, rule, f"{what} lies on the headers.")
            return
        if place + length > self._size:
            beyond: _Severity = "error" if needed and place + needed > self._size else "warning"
            yield self._finding(beyond, index, rule, f"{what} lies beyond the end of the file.")
            length = max(self._size - place, 0)
        where = ByteRange(place, length)
        mine, other = (self._used, self._unused) if needed else (self._unused, self._used)
        on_mine, on_other = mine.take(where), other.meets(where)
        if on_mine or on_other:
            # Two used blocks in one place show one part of the guest's disk as another.
            severity = "error" if needed and on_mine else "warning"
            message = f"{what} lies on top of another block, the log or a table."
            yield self._finding(severity, index, rule, message)

    def _finding(self, severity: _Severity, index: int, rule: str, message: str) -> Finding:
        return Finding(severity, self._file, self._table.entry_offset(index), f"[MS-VHDX] {rule}", message)
