"""Long rows of bits, least significant first, without a step of Python for each bit.

[MS-VHDX] 2.4 keeps sector bitmaps in this order: bit 0 of byte 0 is the first sector.
"""

import re
from collections.abc import Iterator
from typing import Final

_RUNS: Final = re.compile("0+|1+")
_ROUND: Final = 8


def set_range(bits: bytearray, start: int, count: int, value: bool) -> None:
    """Give ``count`` bits from ``start`` one value."""
    if count <= 0:
        return
    stop = start + count
    first, last = start // _ROUND, (stop - 1) // _ROUND
    head = (0xFF << (start % _ROUND)) & 0xFF
    tail = 0xFF >> (_ROUND - 1 - (stop - 1) % _ROUND)
    if first == last:
        _set_masked(bits, first, head & tail, value)
        return
    _set_masked(bits, first, head, value)
    bits[first + 1 : last] = (b"\xff" if value else b"\x00") * (last - first - 1)
    _set_masked(bits, last, tail, value)


def _set_masked(bits: bytearray, index: int, mask: int, value: bool) -> None:
    if value:
        bits[index] |= mask
    else:
        bits[index] &= ~mask & 0xFF


def runs(bits: bytes | bytearray, start: int, count: int) -> Iterator[tuple[int, int, bool]]:
    """Yield (first bit, length, value) of each run of equal bits within a range, in order."""
    if count <= 0:
        return
    first = start // _ROUND
    covering = bytes(bits[first : (start + count - 1) // _ROUND + 1])
    for value, pattern in ((False, b"\x00"), (True, b"\xff")):
        if covering == pattern * len(covering):
            yield start, count, value
            return
    # One digit a bit; the added highest bit keeps leading zeros and is cut off with "0b".
    number = int.from_bytes(covering, "little") | 1 << (_ROUND * len(covering))
    digits = bin(number)[3:][::-1]
    skipped = start - first * _ROUND
    for run in _RUNS.finditer(digits, skipped, skipped + count):
        yield start + run.start() - skipped, run.end() - run.start(), digits[run.start()] == "1"


def is_full(bits: bytes | bytearray, start: int, count: int) -> bool:
    """Tell whether every bit of a range is set."""
    if start % _ROUND == count % _ROUND == 0:
        return bits[start // _ROUND : (start + count) // _ROUND] == b"\xff" * (count // _ROUND)
    return all(value for _, _, value in runs(bits, start, count))


def union(left: bytes | bytearray, right: bytes | bytearray) -> bytearray:
    """Return the bits set in either of two rows of equal length."""
    both = int.from_bytes(left, "little") | int.from_bytes(right, "little")
    return bytearray(both.to_bytes(len(left), "little"))


def new_row(count: int) -> bytearray:
    """Return ``count`` bits, none of them set."""
    return bytearray(-(-count // _ROUND))
