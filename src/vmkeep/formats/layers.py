"""Where a disk of several files may hold data, found for all its files together."""

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Iterator
from itertools import chain
from typing import Final

from vmkeep.formats.disk import Disk
from vmkeep.formats.parents import parent_missing
from vmkeep.ranges import ByteRange, join_sorted, normalise

# Where sectors of several files are mixed, they are told apart in pieces of this size only:
# whoever reads a sector reads as much, and a bitmap has a bit for each 512 bytes.
GRANULE: Final = 64 << 10
# As many pieces of a disk are asked for at once: 16 GiB, or less where blocks are smaller than granules.
_MOST_PIECES: Final = 1 << 18


class LayeredDisk(Disk):
    """A disk file that may leave some of its bytes to a parent."""

    @abstractmethod
    def share_out(self, wanted: list[ByteRange]) -> tuple[list[ByteRange], list[ByteRange]]:
        """Return where in ``wanted`` this file may hold data, in any order, and what it leaves to its parent.

        ``wanted`` is a range list that is not empty; what is left ascends, and may be in both.
        """

    def extents(self, start: int = 0, end: int | None = None) -> Iterator[ByteRange]:
        stop = self.profile.size if end is None else min(end, self.profile.size)
        blocks = (layer.profile.block_size for layer in self.chain())
        length = _MOST_PIECES * min(GRANULE, *(size for size in blocks if size is not None))
        stretches = (self._data(at, min(at + length, stop)) for at in range(start, stop, length))
        return join_sorted(chain.from_iterable(stretches))

    def _data(self, start: int, end: int) -> list[ByteRange]:
        """Return where ``[start, end)`` may hold data.

        Each file is asked once, for all that its children leave to it: a chain
        costs what its files hold, not that times its length.
        """
        found: list[ByteRange] = []
        wanted = [ByteRange(start, end - start)]
        layer: Disk | None = self
        while wanted and layer is not None:
            if not isinstance(layer, LayeredDisk):
                found += chain.from_iterable(layer.extents(part.offset, part.end) for part in wanted)
                break
            data, wanted = layer.share_out(wanted)
            found += data
            if wanted and layer.parent is None and layer.parent_reference is not None:
                raise parent_missing(layer.parent_reference)
            layer = layer.parent
            if layer is not None:  # nothing demands a parent as long as its child
                wanted = Remaining(wanted).until(layer.profile.size)
        return normalise(found)


class Remaining:
    """A range list of which the front is taken away piece by piece."""

    def __init__(self, ranges: list[ByteRange]) -> None:
        self._ranges = ranges
        self._turn(0)

    def _turn(self, first: int) -> None:
        self._first = first
        self._low, self._high = (
            (self._ranges[first].offset, self._ranges[first].end) if first < len(self._ranges) else (0, 0)
        )

    def until(self, end: int) -> list[ByteRange]:
        """Take what lies in front of ``end``, in slices, however many ranges it is."""
        low = self._low
        if self._high > end:
            if low >= end:
                return []
            self._low = end
            return [ByteRange(low, end - low)]
        stop = bisect_left(self._ranges, (end,), self._first)
        parts = self._ranges[self._first : stop]
        if parts:
            parts[0] = ByteRange(low, self._high - low)
            self._turn(stop)
            if parts[-1].end > end:
                self._turn(stop - 1)
                self._low = end
                parts[-1] = ByteRange(parts[-1].offset, end - parts[-1].offset)
        return parts
