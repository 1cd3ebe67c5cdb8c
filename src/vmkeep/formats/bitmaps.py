"""Bitmaps that say for each sector which file of a chain holds it; the lowest bit of a byte comes first."""

import re
from collections.abc import Iterator
from functools import cache


def bit_runs(bits: bytes, first: int, end: int) -> Iterator[tuple[int, int, bool]]:
    """Cut ``[first, end)`` of the bitmap into runs: ``(low, high, whether set)``.

    The bits become text, in which the interpreter's own search finds the
    edges: the time grows with the edges, not with the sectors.
    """
    if first >= end:
        return
    base = first // 8 * 8
    part = bits[base // 8 : -(-end // 8)]
    # The leading 1 keeps the zeros at the top from being dropped.
    text = format(int.from_bytes(part, "little") | 1 << len(part) * 8, "b")[:0:-1]
    at, stop = first - base, end - base
    is_set = text[at] == "1"
    while at < stop:
        edge = text.find("0" if is_set else "1", at, stop)
        edge = stop if edge < 0 else edge
        yield base + at, base + edge, is_set
        at, is_set = edge, not is_set


def granules(bits: bytes, first: int, end: int, size: int) -> Iterator[tuple[int, int, bool, bool]]:
    """Cut ``[first, end)`` at multiples of ``size`` bits, a multiple of 8, and join what is alike.

    Yields ``(low, high, whether some bit is set, whether some is clear)``, both
    of them in each granule. Costs time for each granule, whatever its bits are.
    """
    if first >= end:
        return
    base = first // size * size
    stop = -(-end // size) * size
    value = int.from_bytes(bits[base // 8 : stop // 8], "little")
    # Bits outside count for nothing: they become like their neighbours inside.
    head, tail = first - base, end - base
    value = value >> head << head | ((1 << head) - 1 if value >> head & 1 else 0)
    value &= (1 << tail) - 1
    value |= (1 << stop - base) - (1 << tail) if value >> tail - 1 & 1 else 0
    for found in _granules_of(size // 8).finditer(value.to_bytes((stop - base) // 8, "little")):
        low, high = base + found.start() * 8, base + found.end() * 8
        yield max(low, first), min(high, end), found.lastgroup != "clear", found.lastgroup != "set"


@cache
def _granules_of(size: int) -> "re.Pattern[bytes]":
    """Return what matches neighbouring granules of ``size`` bytes that are alike."""
    clear, all_set = rb"\x00{%d}" % size, rb"\xff{%d}" % size
    return re.compile(
        rb"(?P<clear>(?:%b)++)|(?P<set>(?:%b)++)|(?:(?!%b|%b).{%d})++"
        % (clear, all_set, clear, all_set, size),
        re.DOTALL,
    )
