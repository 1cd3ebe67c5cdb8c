"""Free space of a disk file: where the next block goes."""

from bisect import insort
from collections.abc import Iterable


class FreeSpace:
    """The gaps between what a file holds, and its end; takes the first gap that fits.

    So blocks freed early are used again early, and blocks of a file that has
    lived for a while lie in no order.
    """

    def __init__(self, used: Iterable[tuple[int, int]], end: int) -> None:
        self._gaps: list[tuple[int, int]] = []
        reached = 0
        for offset, length in sorted(used):
            if offset > reached:
                self._gaps.append((reached, offset - reached))
            reached = max(reached, offset + length)
        if end > reached:
            self._gaps.append((reached, end - reached))
        self.end = max(end, reached)

    def take(self, length: int) -> tuple[int, bool]:
        """Return a place, and whether it is new at the file's end: bytes there are zero."""
        for index, (offset, free) in enumerate(self._gaps):
            if free >= length:
                if free == length:
                    del self._gaps[index]
                else:
                    self._gaps[index] = (offset + length, free - length)
                return offset, False
        offset, self.end = self.end, self.end + length
        return offset, True

    def give(self, offset: int, length: int) -> None:
        """Take a place back, and join it with the gaps beside it."""
        insort(self._gaps, (offset, length))
        joined: list[tuple[int, int]] = []
        for start, free in self._gaps:
            if joined and sum(joined[-1]) == start:
                joined[-1] = (joined[-1][0], joined[-1][1] + free)
            else:
                joined.append((start, free))
        self._gaps = joined
