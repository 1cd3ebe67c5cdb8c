"""Which parts of a disk file are taken, so that two claims to one place are seen."""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

from vmkeep.ranges import ByteRange

# All edges in a page, also its end, fit into 16 bits.
_PAGE: Final = (1 << 16) - 1


class TakenSpace:
    """A set of places in a file, counted in whole ``unit`` bytes.

    Neighbours are kept as one place, in four bytes: no more than the table
    entries that name them have. Each stretch of 65535 units in which something
    is taken costs some 200 bytes besides. For one thread at a time.
    """

    def __init__(self, unit: int) -> None:
        self._unit = unit
        # For each page the edges of what is taken, ascending: a place begins, it ends, the next one begins.
        self._pages: dict[int, array[int]] = {}

    def __bool__(self) -> bool:
        return bool(self._pages)

    def take(self, place: ByteRange) -> bool:
        """Add the place; tell whether any of it was taken before."""
        met = False
        for page, low, high in self._parts(place):
            edges = self._pages.get(page)
            if edges is None:
                self._pages[page] = array("H", (low, high))
                continue
            met = met or _meets(edges, low, high)
            first, last = bisect_left(edges, low), bisect_right(edges, high)
            # An edge inside of a place, or where two places touch, is none.
            new = [edge for edge, at in ((low, first), (high, last)) if at % 2 == 0]
            edges[first:last] = array("H", new)
        return met

    def meets(self, place: ByteRange) -> bool:
        """Tell whether any of the place is taken."""
        return any(
            _meets(edges, low, high)
            for page, low, high in self._parts(place)
            if (edges := self._pages.get(page)) is not None
        )

    def places(self) -> Iterator[ByteRange]:
        """Yield what is taken, ascending; neighbours may come in two pieces."""
        for page, edges in sorted(self._pages.items()):
            for low, high in zip(edges[::2], edges[1::2], strict=True):
                yield ByteRange((page * _PAGE + low) * self._unit, (high - low) * self._unit)

    def free(self, end: int) -> Iterator[ByteRange]:
        """Yield what is not taken of ``[0, end)``, ascending."""
        at = 0
        for place in self.places():
            if at < min(place.offset, end):
                yield ByteRange(at, min(place.offset, end) - at)
            at = place.end
        if at < end:
            yield ByteRange(at, end - at)

    def _parts(self, place: ByteRange) -> Sequence[tuple[int, int, int]]:
        """Return the pages of the place, each with the edges it has there."""
        offset, length = place
        at, end = offset // self._unit, -(-(offset + length) // self._unit)
        parts = []
        while at < end:
            page, low = divmod(at, _PAGE)
            high = min(low + end - at, _PAGE)
            parts.append((page, low, high))
            at += high - low
        return parts


class BlockSpace:
    """The places of a file's structures and blocks, and which of them are claimed twice.

    ``end`` is where blocks end: one beyond is not noted, for whoever uses it refuses it.
    """

    def __init__(self, unit: int, end: int) -> None:
        self._end = end
        self._taken = TakenSpace(unit)
        self.disputed = TakenSpace(unit)

    def take_structure(self, place: ByteRange) -> None:
        """Note where something lies on which no block may lie."""
        if place.offset < self._end:
            self._taken.take(ByteRange(place.offset, min(place.length, self._end - place.offset)))

    def take_block(self, place: ByteRange) -> None:
        """Note where one block lies."""
        if place.end <= self._end and self._taken.take(place):
            self.disputed.take(place)

    def take_blocks(self, places: list[int], size: int) -> None:
        """Note where blocks of one size lie, given in any order."""
        ordered = sorted(places)
        places = sorted(set(places))
        if len(places) < len(ordered):
            for place in {one for one, other in pairwise(ordered) if one == other}:
                if place + size <= self._end:
                    self.disputed.take(ByteRange(place, size))
        at = 0
        while at < len(places):
            # Neighbours are taken in one step; one by one where something else lies among them.
            end = at + 1
            while end < len(places) and places[end] - places[end - 1] == size:
                end += 1
            run = ByteRange(places[at], places[end - 1] + size - places[at])
            if run.end > self._end or self._taken.meets(run):
                for place in places[at:end]:
                    self.take_block(ByteRange(place, size))
            else:
                self._taken.take(run)
            at = end


def _meets(edges: "array[int]", low: int, high: int) -> bool:
    before = bisect_right(edges, low)
    return before % 2 == 1 or (before < len(edges) and edges[before] < high)
