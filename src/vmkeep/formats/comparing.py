"""Compare two disks as their guests see them, whatever formats hold them."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from vmkeep.formats.disk import Disk
from vmkeep.ranges import ByteRange, align_out, join_sorted

_SECTOR: Final = 512
_WINDOW: Final = 1 << 20
_STEP: Final = 16  # each closer look is at a sixteenth


@dataclass(frozen=True)
class Difference:
    """Bytes in which two disks differ.

    ``content``: whole sectors, at least one byte in each differs. ``size``:
    what only the longer disk has, whatever it holds.
    """

    kind: Literal["content", "size"]
    range: ByteRange


def compare(left: Disk, right: Disk) -> Iterator[Difference]:
    """Yield where the disks differ, ascending and joined; nothing when they are equal.

    Reads only what one of them may hold: outside both disks' extents there are zeros.
    """
    common = min(left.profile.size, right.profile.size)
    for found in join_sorted(_differing(left, right, common)):
        yield Difference("content", found)
    longer = max(left.profile.size, right.profile.size)
    if longer > common:
        yield Difference("size", ByteRange(common, longer - common))


def _differing(left: Disk, right: Disk, size: int) -> Iterator[ByteRange]:
    mine, other = bytearray(_WINDOW), bytearray(_WINDOW)
    for window in _windows(left, right, size):
        if window.length != len(mine):
            mine, other = bytearray(window.length), bytearray(window.length)
        left.read_into(window.offset, memoryview(mine))
        right.read_into(window.offset, memoryview(other))
        if mine != other:
            yield from _closer(bytes(mine), bytes(other), window.offset)


def _windows(left: Disk, right: Disk, size: int) -> Iterator[ByteRange]:
    """Yield what must be read, in pieces of at most a window."""
    held = heapq.merge(left.extents(0, size), right.extents(0, size))
    whole_sectors = (whole for extent in held for whole in align_out([extent], _SECTOR, size))
    for extent in join_sorted(whole_sectors):
        for at in range(extent.offset, extent.end, _WINDOW):
            yield ByteRange(at, min(_WINDOW, extent.end - at))


def _closer(mine: bytes, other: bytes, offset: int) -> Iterator[ByteRange]:
    """Narrow a differing piece down to its differing sectors."""
    if len(mine) <= _SECTOR:
        yield ByteRange(offset, len(mine))
        return
    step = max(_SECTOR, len(mine) // _STEP // _SECTOR * _SECTOR)
    for at in range(0, len(mine), step):
        one, two = mine[at : at + step], other[at : at + step]
        if one != two:
            yield from _closer(one, two, offset + at)
