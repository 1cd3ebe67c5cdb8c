"""The block table and the sector bitmaps: where each byte of the disk is."""

import re
import struct
import threading
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Final, NamedTuple

from vmkeep.formats.bitmaps import bit_runs, granules
from vmkeep.formats.errors import CorruptDisk, TruncatedDisk
from vmkeep.formats.layers import GRANULE, Remaining
from vmkeep.formats.pages import Pages
from vmkeep.formats.source import Source, read_at
from vmkeep.formats.space import BlockSpace
from vmkeep.formats.vhdx import layout
from vmkeep.formats.vhdx.geometry import Geometry
from vmkeep.ranges import ByteRange

STATE_MASK: Final = 0x7
# Bits 20 to 63 count MiB, so the entry without its low bits is the offset in bytes.
OFFSET_MASK: Final = 0xFFFF_FFFF_FFF0_0000
RESERVED_MASK: Final = 0xF_FFF8

BITMAP_PRESENT: Final = 6
BITMAP_BLOCK_SIZE: Final = layout.MIB

# As much as SMB reads at once: the table of a 4 TiB disk with 32 MiB blocks is two pages.
_TABLE_PAGE: Final = layout.MIB
# No block needs more bits than one page: 256 MiB of 512-byte sectors.
_BITMAP_PAGE: Final = 64 * layout.KIB

_STATE_OF: Final = bytes(byte & STATE_MASK for byte in range(256))
_SOMETHING: Final = re.compile(rb"[^\x00]")
_ZERO_ENTRIES: Final = re.compile(rb"(?:\x02\x00{7})+")


class BlockState(IntEnum):
    """State of a payload block: [MS-VHDX] 2.5.1.1. 4 and 5 are reserved."""

    NOT_PRESENT = 0
    UNDEFINED = 1
    ZERO = 2
    UNMAPPED = 3
    FULLY_PRESENT = 6
    PARTIALLY_PRESENT = 7


class Holder(IntEnum):
    """Who holds the bytes of a span."""

    PARENT = 0
    NOBODY = 1  # they read as zeros
    FILE = 2
    MIXED = 3  # the bitmap says it sector by sector


class Span(NamedTuple):
    """Neighbouring bytes of the disk with one holder; ``place`` is where in the file they start."""

    start: int
    end: int
    holder: Holder
    place: int

    def joined(self, right: "Span") -> "Span | None":
        """Return both as one span, or None when they must stay apart."""
        if self.end != right.start or self.holder is not right.holder or self.holder is Holder.MIXED:
            return None
        if self.holder is Holder.FILE and self.place + self.end - self.start != right.place:
            return None
        return self._replace(end=right.end)


class BlockTable:
    """The BAT of one file, read as far as it is asked; every entry is checked when it is used.

    A block is refused when it lies beyond the end of the file, on one of the
    ``structures`` (each with its name), or on another used block or bitmap of
    which the table's part was read by then. Whoever maps the whole disk has read the
    whole table; a reader of single places is not made to read it for them.
    """

    def __init__(
        self,
        image: Source,
        region: ByteRange,
        geometry: Geometry,
        structures: Iterable[tuple[ByteRange, str]],
    ) -> None:
        self.geometry = geometry
        self.region = region
        self.structures = structures
        self._placed_pages: set[int] = set()
        # Chunks with a mixed block, and the entries of bitmaps of which none was seen yet.
        self._mixed_chunks: set[int] = set()
        self._bitmap_entries: dict[int, int] = {}
        self._placing = threading.Lock()
        self._image = image
        self._file = image.name
        self._size = image.size()
        self._ratio = geometry.chunk_ratio
        self._space = BlockSpace(layout.MIB, self._size)
        for place, _ in structures:
            self._space.take_structure(place)
        self._pages = Pages(self._read_table)
        self._bitmaps = Pages(lambda place: self._read(place, _BITMAP_PAGE))
        needed = geometry.table_bytes()
        if needed > region.length:
            raise CorruptDisk(
                f"{self._file!r} has a block table that is too short for its disk: "
                f"{region.length} bytes instead of {needed}.",
                file=self._file,
                offset=region.offset,
                rule="[MS-VHDX] 2.5",
            )

    def _read_table(self, number: int) -> bytes:
        start = number * _TABLE_PAGE
        return self._read(self.region.offset + start, min(_TABLE_PAGE, self.geometry.table_bytes() - start))

    def _read(self, offset: int, length: int) -> bytes:
        data = read_at(self._image, offset, length)
        if len(data) < length:
            raise TruncatedDisk(
                f"{self._file!r} ends inside its tables.",
                file=self._file,
                offset=offset + len(data),
                rule="[MS-VHDX] 2.4, 2.5",
            )
        return data

    def entry(self, index: int) -> int:
        """Return one raw entry by its index in the table."""
        page_number, at = divmod(index * layout.BAT_ENTRY.size, _TABLE_PAGE)
        page = self._page(page_number)
        value: int = layout.BAT_ENTRY.unpack_from(page, at)[0] if page else 0
        return value

    def entry_offset(self, index: int) -> int:
        """Return where in the file an entry stands."""
        return self.region.offset + index * layout.BAT_ENTRY.size

    def _page(self, number: int) -> bytes:
        """Return a page of the table, or nothing where all its entries are zero."""
        page = self._pages.get(number)
        if number not in self._placed_pages:
            self._take_places(number, page)
        return page

    def _take_places(self, number: int, page: bytes) -> None:
        """Note where the used blocks of a page lie, once for each page."""
        with self._placing:
            if number in self._placed_pages:
                return
            first = number * (_TABLE_PAGE // layout.BAT_ENTRY.size)
            self._take_payload(first, page)
            if self.geometry.has_parent:
                self._take_bitmaps(first, page)
            self._placed_pages.add(number)

    def _take_payload(self, first: int, page: bytes) -> None:
        geometry, size = self.geometry, self.geometry.block_size
        last = geometry.payload_index(geometry.payload_count - 1)
        count = min(len(page) // layout.BAT_ENTRY.size, last + 1 - first)
        if count <= 0:
            return
        values = list(struct.unpack_from(f"<{count}Q", page))
        if first + count == last + 1:
            value = values.pop()
            if value & STATE_MASK >= BlockState.FULLY_PRESENT:
                used = geometry.bytes_of_block(geometry.payload_count - 1)
                self._space.take_block(ByteRange(value & OFFSET_MASK, used))
        del values[(self._ratio - first) % (self._ratio + 1) :: self._ratio + 1]  # the entries of bitmaps
        self._space.take_blocks([value & OFFSET_MASK for value in values if value & STATE_MASK >= 6], size)

    def _take_bitmaps(self, first: int, page: bytes) -> None:
        """Note where the bitmaps of mixed blocks lie, each once it is known to be needed and its entry is."""
        states = page[:: layout.BAT_ENTRY.size].translate(_STATE_OF)  # of the lowest bytes of all entries
        width, stop = self._ratio + 1, first + len(states)
        end = self.geometry.payload_index(self.geometry.payload_count - 1) + 1
        for chunk in range(first // width, -(-stop // width)):
            low, bitmap = max(chunk * width, first), self.geometry.bitmap_index(chunk)
            if states.find(BlockState.PARTIALLY_PRESENT, low - first, max(min(bitmap, end) - first, 0)) >= 0:
                self._mixed_chunks.add(chunk)
            if first <= bitmap < stop:
                at = (bitmap - first) * layout.BAT_ENTRY.size
                self._bitmap_entries[chunk] = layout.BAT_ENTRY.unpack_from(page, at)[0]
            # A chunk in two pages is complete with either, if not before.
            value = self._bitmap_entries.pop(chunk, 0) if chunk in self._mixed_chunks else 0
            if value & STATE_MASK == BITMAP_PRESENT:
                self._space.take_block(ByteRange(value & OFFSET_MASK, BITMAP_BLOCK_SIZE))

    def entries(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Yield ``(index, count, value)`` for the raw entries of ``[start, stop)``.

        Only empty entries and neighbouring ZERO entries of payload blocks come
        in runs; a run of empty ones may run over entries of bitmaps.
        """
        per_page = _TABLE_PAGE // layout.BAT_ENTRY.size
        while start < stop:
            number = start // per_page
            base = number * per_page
            page = self._page(number)
            low, high = start - base, min(per_page, stop - base)
            if page:
                yield from self._page_entries(page, base, low, high)
            else:
                yield start, high - low, 0
            start = base + high

    def _page_entries(self, page: bytes, base: int, low: int, high: int) -> Iterator[tuple[int, int, int]]:
        width = layout.BAT_ENTRY.size
        unpack = layout.BAT_ENTRY.unpack_from
        until_bitmap = self._ratio + 1
        while low < high:
            value = unpack(page, low * width)[0]
            stop = low + 1
            if value == 0:
                found = _SOMETHING.search(page, low * width, high * width)
                stop = found.start() // width if found else high
            elif value == BlockState.ZERO and (position := (base + low) % until_bitmap) < self._ratio:
                same = _ZERO_ENTRIES.match(page, low * width, high * width)
                assert same is not None
                stop = min(same.end() // width, low + self._ratio - position)
            yield base + low, stop - low, value
            low = stop

    def walk(self, wanted: list[ByteRange]) -> Iterator[tuple[Holder, int, list[ByteRange]]]:
        """Yield who holds the parts of a range list, with their place in the file less that in the disk.

        Ascending; parts of blocks that one entry, or a run of them, speaks for
        come together. Raises when an entry of a wanted block cannot be right.
        """
        if not wanted:
            return
        geometry, size = self.geometry, self.geometry.block_size
        rest = Remaining(wanted)
        first, last = wanted[0].offset // size, (wanted[-1].end - 1) // size
        low_index, high_index = geometry.payload_index(first), geometry.payload_index(last) + 1
        for index, count, value in self.entries(low_index, high_index):
            block = geometry.payload_blocks_before(index)
            parts = rest.until(geometry.payload_blocks_before(index + count) * size)
            if parts:  # else the entry of a bitmap, or nobody asked for the block
                holder, place = self._judge(index, block, value)
                yield holder, place - block * size, parts

    def spans(self, start: int, end: int) -> Iterator[Span]:
        """Yield who holds ``[start, end)``, ascending, without gaps, neighbours joined.

        Raises when an entry is reached that cannot be right.
        """
        pending: Span | None = None
        for holder, shift, parts in self.walk([ByteRange(start, end - start)] if start < end else []):
            for part in parts:
                span = Span(part.offset, part.end, holder, part.offset + shift)
                joined = pending.joined(span) if pending is not None else span
                if joined is None:
                    assert pending is not None
                    yield pending
                pending = joined or span
        if pending is not None:
            yield pending

    def single_place(self, start: int, end: int) -> int | None:
        """Return where ``[start, end)`` lies when one present block holds it all; the short way of a read."""
        block, within = divmod(start, self.geometry.block_size)
        if within + end - start > self.geometry.block_size:
            return None
        index = block + block // self._ratio
        value = self.entry(index)
        if value & STATE_MASK != BlockState.FULLY_PRESENT:
            return None
        return self._place(index, value, self.geometry.bytes_of_block(block)) + within

    def _judge(self, index: int, block: int, value: int) -> tuple[Holder, int]:
        """Return who holds a payload block, and where: the read rules of [MS-VHDX] 2.5.1.1."""
        state = value & STATE_MASK
        if state == BlockState.FULLY_PRESENT:
            return Holder.FILE, self._place(index, value, self.geometry.bytes_of_block(block))
        if state == BlockState.NOT_PRESENT:
            # Without a parent the contents are undefined; zeros are allowed and always the same.
            return (Holder.PARENT if self.geometry.has_parent else Holder.NOBODY), 0
        if state in (BlockState.ZERO, BlockState.UNDEFINED, BlockState.UNMAPPED):
            # Never the parent's bytes. Former contents would be allowed for two of the
            # states, but they may be another file's secrets (note 11).
            return Holder.NOBODY, 0
        if state == BlockState.PARTIALLY_PRESENT and self.geometry.has_parent:
            return Holder.MIXED, self._place(index, value, self.geometry.bytes_of_block(block))
        what = (
            "is partly present, but the disk has no parent"
            if state == BlockState.PARTIALLY_PRESENT
            else f"has the reserved state {state}"
        )
        raise self._corrupt(index, f"block {block} {what}", "2.5.1.1")

    def _place(self, index: int, value: int, needed: int, rule: str = "2.5.1.1 FileOffsetMB") -> int:
        """Return where a block lies, or raise when ``needed`` bytes from there on are not its own."""
        place = value & OFFSET_MASK
        if place + needed > self._size:
            raise TruncatedDisk(
                f"{self._file!r} is cut: a block at {place} lies beyond its end at {self._size}.",
                file=self._file,
                offset=self.entry_offset(index),
                rule=f"[MS-VHDX] {rule}",
            )
        if self._space.disputed and self._is_disputed(ByteRange(place, needed)):
            raise self._corrupt(index, f"a block lies on top of {self._what_lies(place, needed)}", rule)
        return place

    def _is_disputed(self, place: ByteRange) -> bool:
        with self._placing:
            return self._space.disputed.meets(place)

    def _what_lies(self, place: int, length: int) -> str:
        titles = (title for at, title in self.structures if place < at.end and at.offset < place + length)
        return next(titles, "another block")

    def _corrupt(self, index: int, what: str, rule: str) -> CorruptDisk:
        return CorruptDisk(
            f"{self._file!r} has a broken block table: {what}.",
            file=self._file,
            offset=self.entry_offset(index),
            rule=f"[MS-VHDX] {rule}",
        )

    def bitmap_place(self, chunk: int) -> int:
        """Return where the bitmap block of a chunk lies; raises when there is none."""
        index = self.geometry.bitmap_index(chunk)
        value = self.entry(index)
        if value & STATE_MASK != BITMAP_PRESENT:
            raise self._corrupt(index, "a block is partly present, but its bitmap is missing", "2.5.1.2")
        return self._place(index, value, BITMAP_BLOCK_SIZE, "2.5.1.2 FileOffsetMB")

    def sector_runs(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """Cut ``[start, end)`` of one mixed block into ``(start, end, whether this file holds it)``."""
        bits, base = self._bitmap(start)
        sector = self.geometry.sector
        for low, high, is_set in bit_runs(bits, (start - base) // sector, -(-(end - base) // sector)):
            yield max(base + low * sector, start), min(base + high * sector, end), is_set

    def shares(self, start: int, end: int) -> tuple[list[ByteRange], list[ByteRange]]:
        """Return where in ``[start, end)`` of one mixed block this file holds sectors, and where its parent.

        Both in whole granules, so that the time does not depend on the sectors.
        """
        bits, base = self._bitmap(start)
        sector = self.geometry.sector
        first, last = (start - base) // sector, -(-(end - base) // sector)
        here, there = [], []
        for low, high, some_here, some_there in granules(bits, first, last, GRANULE // sector):
            low, high = max(base + low * sector, start), min(base + high * sector, end)
            if some_here:
                here.append(ByteRange(low, high - low))
            if some_there:
                there.append(ByteRange(low, high - low))
        return here, there

    def _bitmap(self, at: int) -> tuple[bytes, int]:
        """Return the bits of the mixed block around ``at``, and where the block starts."""
        block = at // self.geometry.block_size
        chunk, position = divmod(block, self._ratio)
        size = self.geometry.bitmap_bytes_per_block
        page_at, within = divmod(position * size, _BITMAP_PAGE)
        page = self._bitmaps.get(self.bitmap_place(chunk) + page_at * _BITMAP_PAGE)
        return page[within : within + size] or bytes(size), block * self.geometry.block_size
