"""The file as it counts after its log was replayed: the physical bytes under an overlay."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from itertools import pairwise
from typing import Final, Generic, Literal, NamedTuple, TypeVar

from vmkeep.formats.errors import SourceChanged
from vmkeep.formats.source import Source, read_at
from vmkeep.formats.vhdx import layout
from vmkeep.ranges import ByteRange, join_sorted, subtract

What = TypeVar("What")

# A log clears pages of tables: the bitmaps of a block, or a new region.
_ZEROS_COMPARED: Final = 64 * layout.MIB


class Patch(NamedTuple, Generic[What]):
    """What ``[offset, end)`` of the file holds instead: what ``data`` stands for, or zeros for None."""

    offset: int
    end: int
    data: What | None


class LoggedPage(NamedTuple):
    """A page that is left in the log: where in the file its data sector lies, and its checksum.

    The first eight and the last four bytes of the page stand in the descriptor.
    """

    place: int
    checksum: int
    leading: bytes
    trailing: bytes


LoggedWrite = Patch[LoggedPage]


def resolve(writes: Iterable[Patch[What]]) -> list[Patch[What]]:
    """Return the lasting effect of writes made in this order: ascending, not overlapping.

    Data writes are all of one size and aligned to it; the time grows with
    n log n even for zero writes that all overlap.
    """
    pages: dict[int, tuple[int, Patch[What]]] = {}
    zeros: list[tuple[int, int, int]] = []
    for order, write in enumerate(writes):
        if write.data is not None:
            pages[write.offset] = (order, write)
        elif write.offset < write.end:
            zeros.append((write.offset, write.end, order))
    latest = _latest_zeros(zeros)
    starts = [start for start, _, _ in latest]
    kept = []
    for order, write in pages.values():
        i = bisect_right(starts, write.offset) - 1
        wiped = i >= 0 and latest[i][1] > write.offset and latest[i][2] > order
        if not wiped:
            kept.append(write)
    kept.sort()
    cleared = join_sorted(ByteRange(start, end - start) for start, end, _ in latest)
    remaining = subtract(cleared, (ByteRange(w.offset, w.end - w.offset) for w in kept))
    return sorted([*kept, *(Patch(r.offset, r.end, None) for r in remaining)], key=lambda patch: patch.offset)


def _latest_zeros(zeros: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Cut overlapping ``(start, end, order)`` into pieces that carry the greatest order over them."""
    zeros = sorted(zeros)
    edges = sorted({edge for start, end, _ in zeros for edge in (start, end)})
    pieces = []
    active: list[tuple[int, int]] = []
    i = 0
    for low, high in pairwise(edges):
        while i < len(zeros) and zeros[i][0] <= low:
            heappush(active, (-zeros[i][2], zeros[i][1]))
            i += 1
        while active and active[0][1] <= low:
            heappop(active)
        if active:
            pieces.append((low, high, -active[0][0]))
    return pieces


class ReplayedImage:
    """A :class:`Source` that shows the file with its log applied.

    What lies between the physical end and ``grown`` reads as zeros. Pages are
    read from the log each time, so that hundreds of logs take little memory;
    a log that is not the same any more is refused.
    """

    def __init__(
        self, source: Source, writes: Iterable[LoggedWrite], size: int, grown: int, entries: int
    ) -> None:
        self._source = source
        self._physical = size
        self._size = grown
        self._patches = resolve(writes)
        self._ends = [patch.end for patch in self._patches]
        self.entries = entries

    @property
    def name(self) -> str:
        return self._source.name

    def size(self) -> int:
        return max(self._size, self._source.size())

    def read_into(self, offset: int, buffer: memoryview) -> int:
        end = offset + len(buffer)
        got = self._source.read_into(offset, buffer) if offset < self._physical else 0
        # A read that stops short of the size found at the opening means that the file
        # was cut meanwhile: only what lies beyond that size is zero by right.
        if offset + got < end and offset + got >= min(self._physical, end):
            filled = max(min(end, self._size) - offset, got)
            buffer[got:filled] = bytes(filled - got)
            got = filled
        self._apply(offset, offset + got, buffer)
        return got

    def _apply(self, offset: int, end: int, buffer: memoryview) -> None:
        for i in range(bisect_right(self._ends, offset), len(self._patches)):
            patch = self._patches[i]
            if patch.offset >= end:
                return
            low, high = max(patch.offset, offset), min(patch.end, end)
            if patch.data is None:
                buffer[low - offset : high - offset] = bytes(high - low)
            else:
                page = self._page(patch.data)
                buffer[low - offset : high - offset] = page[low - patch.offset : high - patch.offset]

    def _page(self, logged: LoggedPage) -> bytes:
        sector = read_at(self._source, logged.place, layout.LOG_SECTOR)
        if layout.crc32c(sector) != logged.checksum:
            raise SourceChanged(
                f"{self.name!r} was written while it was read: its log is not the same any more.",
                file=self.name,
                offset=logged.place,
            )
        _, _, middle, _ = layout.LOG_DATA_SECTOR.unpack(sector)
        return logged.leading + bytes(middle) + logged.trailing

    def alters(self, other: Source) -> bool:
        """Tell whether the log says something else than ``other`` holds in the same places.

        Of zeros without end only the first are looked at; the rest counts as something else.
        """
        left = _ZEROS_COMPARED
        for offset, end, data in self._patches:
            if data is not None:
                if self._page(data) != read_at(other, offset, end - offset):
                    return True
                continue
            left -= end - offset
            if left < 0 or read_at(other, offset, end - offset).strip(b"\0"):
                return True
        return False

    def holdings(self, start: int, end: int) -> Iterator[tuple[int, int, Literal["file", "log", "nothing"]]]:
        """Cut ``[start, end)`` by what holds its bytes; "nothing": they are zeros, by the log's word."""
        at = start
        for i in range(bisect_right(self._ends, start), len(self._patches)):
            patch = self._patches[i]
            if patch.offset >= end:
                break
            low, high = max(patch.offset, start), min(patch.end, end)
            yield from self._unlogged(at, low)
            yield low, high, "nothing" if patch.data is None else "log"
            at = high
        yield from self._unlogged(at, end)

    def _unlogged(self, start: int, end: int) -> Iterator[tuple[int, int, Literal["file", "nothing"]]]:
        middle = max(start, min(self._physical, end))
        if start < middle:
            yield start, middle, "file"
        if middle < end:
            yield middle, end, "nothing"

    def data_ranges(self, start: int, end: int) -> Iterator[ByteRange]:
        for low, high, holder in self.holdings(start, end):
            if holder == "file":
                yield from self._source.data_ranges(low, high)
            elif holder == "log":
                yield ByteRange(low, high - low)

    def identity(self) -> tuple[int, ...]:
        return self._source.identity()

    def close(self) -> None:
        self._source.close()
