"""Join allocated ranges that lie so close that reading the gap is cheaper than asking twice."""

from collections.abc import Iterable, Iterator
from typing import Final

from vmkeep.ranges import ByteRange

_SMALLEST_HOLE: Final = 1 << 20


def join_near(ranges: Iterable[ByteRange]) -> Iterator[ByteRange]:
    """Yield ascending ranges with every gap below 1 MiB filled in; lazy."""
    pending: ByteRange | None = None
    for found in ranges:
        if pending is not None and found.offset - pending.end < _SMALLEST_HOLE:
            pending = ByteRange(pending.offset, max(pending.end, found.end) - pending.offset)
            continue
        if pending is not None:
            yield pending
        pending = found
    if pending is not None:
        yield pending
