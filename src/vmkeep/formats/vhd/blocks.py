"""Find a sparse VHD's blocks and sectors: the block table read by pages, the bitmaps on demand."""

import sys
import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import pairwise
from typing import Final, Generic, NamedTuple, TypeVar

from vmkeep.formats.errors import CorruptDisk, TruncatedDisk
from vmkeep.formats.filling import fill_from
from vmkeep.formats.source import Source
from vmkeep.formats.vhd.footer import SECTOR, Footers
from vmkeep.formats.vhd.header import ABSENT, HEADER_SIZE, DynamicHeader

_PAGE_ENTRIES: Final = 1 << 14
_PAGES_KEPT: Final = 64
_BITMAP_BYTES_KEPT: Final = 4 << 20
# 2040 GiB in blocks of 2 MiB need fewer.
_MOST_COMPARED: Final = 1 << 20

K = TypeVar("K")
V = TypeVar("V")


class RecentlyUsed(Generic[K, V]):
    """Keeps the values used last, up to a number of them; safe to ask from several threads."""

    def __init__(self, capacity: int, load: Callable[[K], V]) -> None:
        self._capacity = max(1, capacity)
        self._load = load
        self._kept: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K) -> V:
        """Return the kept value, or load it; two threads may load the same one twice."""
        with self._lock:
            value = self._kept.get(key)
            if value is not None:
                self._kept.move_to_end(key)
                return value
        value = self._load(key)  # outside the lock: a slow read must not stop the other threads
        with self._lock:
            self._kept[key] = value
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
        return value


class BlockTable:
    """The block table (BAT): for each block the sector of its bitmap, or ABSENT."""

    def __init__(self, source: Source, offset: int, count: int) -> None:
        self._source = source
        self._offset = offset
        self.count = count
        self._pages: RecentlyUsed[int, array[int]] = RecentlyUsed(_PAGES_KEPT, self._load)

    def __getitem__(self, block: int) -> int:
        return self._pages.get(block // _PAGE_ENTRIES)[block % _PAGE_ENTRIES]

    def pages(self) -> Iterator[tuple[int, "array[int]"]]:
        """Yield the whole table in pages, each with the number of its first block; keeps none."""
        for page in range(-(-self.count // _PAGE_ENTRIES)):
            yield page * _PAGE_ENTRIES, self._load(page)

    def _load(self, page: int) -> "array[int]":
        first = page * _PAGE_ENTRIES
        entries = array("I", bytes(4 * min(_PAGE_ENTRIES, self.count - first)))
        fill_from(self._source, self._offset + 4 * first, memoryview(entries).cast("B"))
        if sys.byteorder == "little":
            entries.byteswap()
        return entries


class Bitmaps:
    """The sector bitmaps in front of the blocks: bit 7 of byte 0 is the block's first sector.

    1: this file holds the sector. 0: its parent does, or it is zero.
    """

    def __init__(self, source: Source, size: int) -> None:
        self._source = source
        self._size = size
        self._kept: RecentlyUsed[int, bytes] = RecentlyUsed(_BITMAP_BYTES_KEPT // size, self._load)

    def runs(self, offset: int, first: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the runs of 1 bits in ``[first, end)`` of the bitmap stored at ``offset``."""
        return runs_of_ones(self._kept.get(offset), first, end)

    def _load(self, offset: int) -> bytes:
        bitmap = bytearray(self._size)
        fill_from(self._source, offset, memoryview(bitmap))
        return bytes(bitmap)


# One byte of the bitmap as eight bytes of 0 or 1, so that runs can be found by a search for a byte.
_SPREAD: Final = [bytes(byte >> (7 - bit) & 1 for bit in range(8)) for byte in range(256)]


def runs_of_ones(bitmap: bytes, first: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield ``(low, high)`` for each run of 1 bits in ``[first, end)``, most significant bit first."""
    if first >= end:
        return
    base = first // 8 * 8
    part = bitmap[base // 8 : -(-end // 8)]
    if not part.strip(b"\xff"):
        yield first, end
        return
    if not part.strip(b"\0"):
        return
    flags = b"".join(map(_SPREAD.__getitem__, part))
    at, stop = first - base, end - base
    while (low := flags.find(1, at, stop)) >= 0:
        at = flags.find(0, low, stop)
        if at < 0:
            at = stop
        yield base + low, base + at


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
    whole table; a table of more entries than any usual writer makes is
    compared by `disk check` only.
    """

    def __init__(self, source: Source, footers: Footers, header: DynamicHeader) -> None:
        footer = footers.footer
        self._name = source.name
        self._size = footer.current_size
        self.block_size = header.block_size
        self.bitmap_size = header.bitmap_size
        count = -(-self._size // self.block_size)
        self.table = BlockTable(source, header.table_offset, count)
        self._bitmaps = Bitmaps(source, header.bitmap_size)
        # Blocks end where the footer begins; without one at the end, where the file ends.
        self._data_end = footers.end.offset if footers.end.footer is not None else source.size()
        self._structures = (
            (0, SECTOR, "the footer copy"),
            (footer.data_offset, footer.data_offset + HEADER_SIZE, "the dynamic header"),
            (header.table_offset, header.table_offset + 4 * count, "the block table"),
        )

    def entries(self) -> Iterator[tuple[int, int]]:
        """Yield the number of each block that the table says is here, with its entry, judged by nobody."""
        for first, page in self.table.pages():
            for number, entry in enumerate(page, first):
                if entry != ABSENT:
                    yield number, entry

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
        if entry in self._disputed:
            raise CorruptDisk(
                f"block {number} of {self._name!r} lies on another block.",
                file=self._name, offset=offset, rule="VHD block allocation table",
            )  # fmt: skip
        return offset

    @cached_property
    def _disputed(self) -> frozenset[int]:
        """The entries of blocks that overlap."""
        if self.table.count > _MOST_COMPARED:
            return frozenset()
        used: list[int] = []
        last = ABSENT
        for _, page in self.table.pages():
            used += [entry for entry in page if entry != ABSENT]
            last = page[-1]
        used.sort()
        sectors = (self.bitmap_size + self.block_size) // SECTOR
        # The last block may be cut where the disk ends.
        short = -(-(self.bitmap_size + self.length(self.table.count - 1)) // SECTOR)
        found: set[int] = set()
        for one, other in pairwise(used):
            if other - one < sectors and (one != last or other - one < short):
                found |= {one, other}
        return frozenset(found)

    def present(self, start: int, end: int) -> Iterator[Present]:
        """Yield the blocks of ``[start, end)`` that the file holds."""
        for number in range(start // self.block_size, -(-end // self.block_size) if start < end else 0):
            entry = self.table[number]
            if entry != ABSENT:
                low = number * self.block_size
                high = min(low + self.block_size, end)
                yield Present(number, max(low, start), high, self.place_alone(number, entry))

    def held(self, block: Present) -> Iterator[tuple[int, int, int]]:
        """Yield ``(low, high, offset in the file)`` for each run of bytes the block's bitmap claims."""
        start = block.number * self.block_size
        shift = block.place + self.bitmap_size - start
        first, end = (block.low - start) // SECTOR, -(-(block.high - start) // SECTOR)
        for one, other in self._bitmaps.runs(block.place, first, end):
            low, high = max(block.low, start + one * SECTOR), min(block.high, start + other * SECTOR)
            yield low, high, low + shift

    def pieces(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield ``(low, high, offset in the file)`` for what the file holds of ``[start, end)``."""
        for block in self.present(start, end):
            yield from self.held(block)
