"""Which parts of a VHDX file are taken, so that two claims to one place are seen."""

from collections.abc import Iterator
from typing import Final

from vmkeep.formats.vhdx import layout
from vmkeep.ranges import ByteRange

# Marks of a taken MiB, the stronger one greater. Unused places are never read, such as the
# former place of a block; in a disputed one lie bytes that two used blocks call theirs.
UNUSED: Final = 1
USED: Final = 2
DISPUTED: Final = 3

_AT_LEAST: Final = {mark: bytes(max(mark, old) for old in range(256)) for mark in (UNUSED, USED, DISPUTED)}
_PAGE: Final = 1 << 16


class TakenSpace:
    """A mark for each MiB of the file: all places are multiples of 1 MiB, so this is exact.

    Takes 64 KiB of memory for each 64 GiB of the file in which something is
    marked. Marks come from one thread at a time; any may ask meanwhile.
    """

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}

    def take(self, place: ByteRange, mark: int = USED) -> int:
        """Mark the place; return the strongest mark any of it had before, or 0."""
        strongest = 0
        for page, low, high in self._parts(place):
            before = page[low:high]
            strongest = max(strongest, max(before))
            page[low:high] = before.translate(_AT_LEAST[mark])
        return strongest

    def strongest(self, place: ByteRange) -> int:
        """Return the strongest mark in the place, or 0."""
        return max(max(page[low:high]) for page, low, high in self._parts(place))

    def _parts(self, place: ByteRange) -> Iterator[tuple[bytearray, int, int]]:
        at, end = place.offset // layout.MIB, -(-place.end // layout.MIB)
        while at < end:
            number, low = divmod(at, _PAGE)
            high = min(low + end - at, _PAGE)
            yield self._pages.setdefault(number, bytearray(_PAGE)), low, high
            at += high - low
