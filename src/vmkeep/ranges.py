"""Algebra of byte ranges: the arithmetic behind extents and changed ranges.

A *range list* is what every function here returns and what the other rooms
pass around: ascending, not overlapping, not touching, without empty ranges.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import NamedTuple


class ByteRange(NamedTuple):
    """``length`` bytes from ``offset`` on; both in bytes, never negative."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        return self.offset + self.length


def normalise(ranges: Iterable[ByteRange]) -> list[ByteRange]:
    """Sort, drop empty ranges, and join what overlaps or touches."""
    return list(join_sorted(sorted(ranges)))


def join_sorted(ranges: Iterable[ByteRange]) -> Iterator[ByteRange]:
    """Join neighbours of a stream already ascending by offset; lazy."""
    start = end = 0
    for offset, length in ranges:
        if length <= 0:
            continue
        if offset > end or start == end:
            if end > start:
                yield ByteRange(start, end - start)
            start, end = offset, offset + length
        elif offset + length > end:
            end = offset + length
    if end > start:
        yield ByteRange(start, end - start)


def total(ranges: Iterable[ByteRange]) -> int:
    """Count the bytes of a range list."""
    return sum(r.length for r in ranges)


def clip(ranges: Iterable[ByteRange], start: int, end: int) -> list[ByteRange]:
    """Keep what lies in ``[start, end)``."""
    out = []
    for r in ranges:
        low, high = max(r.offset, start), min(r.end, end)
        if low < high:
            out.append(ByteRange(low, high - low))
    return out


def align_out(ranges: Iterable[ByteRange], unit: int, limit: int) -> list[ByteRange]:
    """Grow each range to multiples of ``unit``, but not beyond ``limit``.

    The input is a range list. Needed wherever a change inside a unit means
    that the whole unit is read again.
    """
    return clip(_aligned(ranges, unit), 0, limit)


def coarsen(ranges: Iterable[ByteRange], unit: int, limit: int, most: int) -> list[ByteRange]:
    """Grow each range as :func:`align_out` does, by four times the unit, and so on, until ``most`` are left.

    The input is a range list, and may be a stream of any length: no more than
    ``most`` of it are in memory at once.
    """
    rest = _aligned(ranges, unit)
    while True:
        found = list(islice(rest, most + 1))
        # Only now: what lies beyond the limit may touch a larger unit that begins before it.
        within = clip(found, 0, limit)
        if len(within) <= most:
            return within
        unit *= 4
        rest = _aligned(chain(found, rest), unit)


def _aligned(ranges: Iterable[ByteRange], unit: int) -> Iterator[ByteRange]:
    grown = (ByteRange(low := r.offset // unit * unit, -(-r.end // unit) * unit - low) for r in ranges)
    return join_sorted(grown)


def intersect(left: Iterable[ByteRange], right: Iterable[ByteRange]) -> list[ByteRange]:
    """Keep the bytes that lie in both range lists."""
    out: list[ByteRange] = []
    others = iter(right)
    other = next(others, None)
    for r in left:
        while other is not None and other.end <= r.offset:
            other = next(others, None)
        while other is not None and other.offset < r.end:
            low, high = max(r.offset, other.offset), min(r.end, other.end)
            out.append(ByteRange(low, high - low))
            if other.end > r.end:
                break
            other = next(others, None)
    return out


def subtract(left: Iterable[ByteRange], right: Iterable[ByteRange]) -> list[ByteRange]:
    """Keep the bytes of ``left`` that do not lie in ``right``; both are range lists."""
    out: list[ByteRange] = []
    holes = list(right)
    i = 0
    for r in left:
        at = r.offset
        while i < len(holes) and holes[i].end <= at:
            i += 1
        j = i
        while j < len(holes) and holes[j].offset < r.end:
            if holes[j].offset > at:
                out.append(ByteRange(at, holes[j].offset - at))
            at = max(at, holes[j].end)
            j += 1
        if at < r.end:
            out.append(ByteRange(at, r.end - at))
    return out


def complement(ranges: Iterable[ByteRange], size: int) -> list[ByteRange]:
    """Return the bytes of ``[0, size)`` that the range list leaves out."""
    return subtract([ByteRange(0, size)] if size else [], ranges)
