"""Find a sparse VHD's blocks and sectors: the block table read by pages, the bitmaps on demand."""

import sys
from array import array
from collections.abc import Iterator
from functools import cached_property
from typing import Final, NamedTuple

from vmkeep.formats.bitmaps import bit_runs, granules
from vmkeep.formats.errors import CorruptDisk, TruncatedDisk
from vmkeep.formats.filling import fill_from
from vmkeep.formats.layers import GRANULE
from vmkeep.formats.pages import Pages
from vmkeep.formats.source import Source
from vmkeep.formats.space import BlockSpace, TakenSpace
from vmkeep.formats.vhd.footer import KINDS, SECTOR, Footers
from vmkeep.formats.vhd.header import ABSENT, HEADER_SIZE, DynamicHeader, locator_fits
from vmkeep.ranges import ByteRange

_PAGE: Final = 4096  # of the host's disk
# 1 MiB, as much as SMB reads at once: the table of a 1 TiB disk with 2 MiB blocks is two pages.
_PAGE_ENTRIES: Final = 1 << 18
# As many are looked at in one go: numbers take ten times the room of the entries.
_STEP_ENTRIES: Final = 1 << 14
# The greatest disk with blocks of 1 MiB has as many pages. They are read once, for all who ask.
_MOST_KEPT: Final = 8
# A block's bitmap and its bytes are read in one request where no more than this lies between...
_LITTLE: Final = 64 << 10
# ... and that is no longer than this; it is read into memory of its own.
_MUCH: Final = 4 << 20
# The first sector of a block has the highest bit of its byte, where everything else counts from the lowest.
_TURNED: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class BlockTable:
    """The block table (BAT): for each block the sector of its bitmap, or ABSENT."""

    def __init__(self, source: Source, offset: int, count: int) -> None:
        self._source = source
        self._offset = offset
        self.count = count
        self._pages = Pages(self._read)

    def used(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield each block of ``[first, stop)`` that is not absent, with its entry."""
        while first < stop:
            page, low = divmod(first, _PAGE_ENTRIES)
            high = min(low + stop - first, _PAGE_ENTRIES)
            for at, entries in _steps(self._pages.get(page), first, low, high):
                yield from _used(at, entries)
            first += high - low

    def pages(self) -> Iterator[tuple[int, "array[int]"]]:
        """Yield the whole table in parts, each with the number of its first block; keeps no large one."""
        pages = -(-self.count // _PAGE_ENTRIES)
        for page in range(pages):
            first = page * _PAGE_ENTRIES
            stored = self._pages.get(page) if pages <= _MOST_KEPT else self._read(page)
            yield from _steps(stored, first, 0, min(_PAGE_ENTRIES, self.count - first))

    def _read(self, page: int) -> bytes:
        first = page * _PAGE_ENTRIES
        stored = bytearray(4 * min(_PAGE_ENTRIES, self.count - first))
        fill_from(self._source, self._offset + 4 * first, memoryview(stored))
        return bytes(stored)


def _steps(page: bytes, number: int, low: int, high: int) -> Iterator[tuple[int, "array[int]"]]:
    """Yield the entries ``[low, high)`` of a page, of which the first is that of block ``number``."""
    for at in range(low, high, _STEP_ENTRIES):
        end = min(at + _STEP_ENTRIES, high)
        entries = array("I", page[4 * at : 4 * end] or bytes(4 * (end - at)))
        if sys.byteorder == "little":
            entries.byteswap()
        yield number + at - low, entries


def _used(first: int, entries: "array[int]") -> list[tuple[int, int]]:
    return [(number, entry) for number, entry in enumerate(entries, first) if entry != ABSENT]


class Present(NamedTuple):
    """A block stored in the file: its number, the guest's range asked of it, where its bitmap is."""

    number: int
    low: int
    high: int
    place: int


class BlockMap:
    """Which of the guest's bytes a sparse VHD holds itself, and where.

    Raises :class:`CorruptDisk` for a block that is not where a block can be:
    its bytes would be wrong, and zeros in their place as well. That includes
    blocks that overlap, for which the first block used costs a look at the
    whole table.
    """

    def __init__(self, source: Source, footers: Footers, header: DynamicHeader) -> None:
        footer = footers.footer
        self._source = source
        self._name = source.name
        self._size = footer.current_size
        self.block_size = header.block_size
        self.bitmap_size = header.bitmap_size
        count = -(-self._size // self.block_size)
        self.table = BlockTable(source, header.table_offset, count)
        self._bitmaps = Pages(self._read_bitmap)
        self._data_end = footers.data_end
        self._structures = [
            (0, SECTOR, "the footer copy"),
            (footer.data_offset, footer.data_offset + HEADER_SIZE, "the dynamic header"),
            (header.table_offset, header.table_offset + 4 * count, "the block table"),
        ]
        if KINDS[footer.kind_code] == "differencing":  # else nobody asks for the texts
            self._structures += [
                (text.offset, text.offset + text.length, "the text of a parent locator")
                for text in header.locators
                if text.length and locator_fits(text, source.size())
            ]

    def _read_bitmap(self, place: int) -> bytes:
        bitmap = bytearray(self.bitmap_size)
        fill_from(self._source, place, memoryview(bitmap))
        return bytes(bitmap.translate(_TURNED))

    def read_with_bitmap(self, block: Present) -> memoryview | None:
        """Return the file from a block's bitmap to the end of the range asked, in one request.

        Keeps the bitmap. None where two requests are better: the bitmap is known,
        or much lies between, or so much is asked that one more is nothing.
        """
        length = block.high + self.shift(block) - block.place
        between = block.low - block.number * self.block_size
        if between > _LITTLE or length > _MUCH or self._bitmaps.knows(block.place):
            return None
        stored = memoryview(bytearray(length))
        fill_from(self._source, block.place, stored)
        self._bitmaps.keep(block.place, bytes(stored[: self.bitmap_size]).translate(_TURNED))
        return stored

    def entries(self) -> Iterator[tuple[int, int]]:
        """Yield the number of each block that the table says is here, with its entry, judged by nobody."""
        for first, page in self.table.pages():
            yield from _used(first, page)

    def ends_like_a_disk(self) -> bool:
        """Tell whether the file ends with the last thing in it, or the next block; looks at the whole table.

        A writer puts a new block over the footer and a new footer behind it: what
        was torn then ends at most one block later. Data may begin on a page.
        """
        block = self.bitmap_size + self.block_size
        ends = [stop for _, stop, _ in self._structures]
        for _, page in self.table.pages():
            ends.append(max((entry * SECTOR + block for entry in page if entry != ABSENT), default=0))
        return max(ends) >= self._data_end - block - _PAGE - SECTOR

    def length(self, number: int) -> int:
        """Return how many of the guest's bytes block ``number`` covers; the last one may be short."""
        return min(self.block_size, self._size - number * self.block_size)

    def place(self, number: int, entry: int) -> int:
        """Return where the table's ``entry`` puts the bitmap of a block, or raise."""
        offset = entry * SECTOR
        end = offset + self.bitmap_size + self.length(number)
        if end > self._data_end:
            raise TruncatedDisk(
                f"block {number} of {self._name!r} runs past the end of the file.",
                file=self._name, offset=offset, rule="VHD block allocation table",
            )  # fmt: skip
        for begin, stop, what in self._structures:
            if offset < stop and begin < end:
                raise CorruptDisk(
                    f"block {number} of {self._name!r} lies on {what}.",
                    file=self._name, offset=offset, rule="VHD block allocation table",
                )  # fmt: skip
        return offset

    def place_alone(self, number: int, entry: int) -> int:
        """Return :meth:`place`, or raise when another block lies there, too."""
        offset = self.place(number, entry)
        if self.is_shared(number, entry):
            raise CorruptDisk(
                f"block {number} of {self._name!r} lies on another block.",
                file=self._name, offset=offset, rule="VHD block allocation table",
            )  # fmt: skip
        return offset

    def is_shared(self, number: int, entry: int) -> bool:
        """Tell whether two blocks claim what this entry does."""
        return bool(self._disputed) and self._disputed.meets(self._extent(number, entry))

    def _extent(self, number: int, entry: int) -> ByteRange:
        return ByteRange(entry * SECTOR, self.bitmap_size + self.length(number))

    @cached_property
    def _disputed(self) -> TakenSpace:
        """The places that several blocks claim."""
        space = BlockSpace(SECTOR, self._data_end)
        size = self.bitmap_size + self.block_size
        last = self.table.count - 1  # it may be cut where the disk ends
        for first, page in self.table.pages():
            if first + len(page) > last:
                entry = page.pop()
                if entry != ABSENT:
                    space.take_block(self._extent(last, entry))
            space.take_blocks([entry * SECTOR for entry in page if entry != ABSENT], size)
        return space.disputed

    def used(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield each block of ``[start, end)`` that the table says is here, with its entry."""
        return self.table.used(start // self.block_size, -(-end // self.block_size))

    def present(self, start: int, end: int) -> Iterator[Present]:
        """Yield the blocks of ``[start, end)`` that the file holds."""
        for number, entry in self.used(start, end) if start < end else ():
            low = number * self.block_size
            high = min(low + self.block_size, end)
            yield Present(number, max(low, start), high, self.place_alone(number, entry))

    def sectors(self, block: Present) -> Iterator[tuple[int, int, bool]]:
        """Cut the guest's range of a block into ``(low, high, whether this file holds it)``.

        1: it does. 0: its parent does, or it is zero.
        """
        bits, start, first, end = self._bits(block)
        if not bits:
            yield block.low, block.high, False
            return
        for low, high, is_set in bit_runs(bits, first, end):
            yield max(block.low, start + low * SECTOR), min(block.high, start + high * SECTOR), is_set

    def shares(self, block: Present) -> tuple[list[ByteRange], list[ByteRange]]:
        """Return where in a block's range this file holds sectors and where not, in whole granules."""
        bits, start, first, end = self._bits(block)
        if not bits:
            return [], [ByteRange(block.low, block.high - block.low)]
        here, there = [], []
        for low, high, some_here, some_there in granules(bits, first, end, GRANULE // SECTOR):
            low, high = max(block.low, start + low * SECTOR), min(block.high, start + high * SECTOR)
            if some_here:
                here.append(ByteRange(low, high - low))
            if some_there:
                there.append(ByteRange(low, high - low))
        return here, there

    def _bits(self, block: Present) -> tuple[bytes, int, int, int]:
        """Return a block's bitmap (empty: all clear), where the block starts, and its range in bits."""
        bits = self._bitmaps.get(block.place)
        start = block.number * self.block_size
        return bits, start, (block.low - start) // SECTOR, -(-(block.high - start) // SECTOR)

    def shift(self, block: Present) -> int:
        """Return the place of a block's bytes in the file less that in the disk."""
        return block.place + self.bitmap_size - block.number * self.block_size

    def held(self, block: Present) -> Iterator[tuple[int, int, int]]:
        """Yield ``(low, high, offset in the file)`` for each run of bytes the block's bitmap claims."""
        shift = self.shift(block)
        for low, high, is_here in self.sectors(block):
            if is_here:
                yield low, high, low + shift

    def pieces(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield ``(low, high, offset in the file)`` for what the file holds of ``[start, end)``."""
        for block in self.present(start, end):
            yield from self.held(block)
