"""Bitmaps against lists of bits, and what looking at them costs."""

import tracemalloc
from itertools import groupby, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmkeep.formats.bitmaps import bit_runs, granules

pytestmark = pytest.mark.quick

patterns = st.lists(
    st.tuples(st.sampled_from([b"\x00", b"\xff", b"\x01", b"\x80", b"\x7f", b"\xfe"]), st.integers(1, 9)),
    min_size=1,
    max_size=8,
).map(lambda parts: b"".join(byte * count for byte, count in parts))


def bits_of(bitmap: bytes) -> list[bool]:
    """The lowest bit of the first byte comes first."""
    return [bool(byte >> n & 1) for byte in bitmap for n in range(8)]


def test_bits_are_taken_least_significant_first() -> None:
    assert list(bit_runs(b"\x01\x80", 0, 16)) == [(0, 1, True), (1, 15, False), (15, 16, True)]
    assert list(bit_runs(b"\x0e", 0, 8)) == [(0, 1, False), (1, 4, True), (4, 8, False)]
    assert list(bit_runs(b"", 0, 0)) == []


@given(patterns, st.data())
def test_runs_are_the_longest_ones(bitmap: bytes, data: st.DataObject) -> None:
    bits = bits_of(bitmap)
    first = data.draw(st.integers(0, len(bits)))
    end = data.draw(st.integers(first, len(bits)))
    expected = []
    for is_set, group in groupby(range(first, end), key=lambda n: bits[n]):
        numbers = list(group)
        expected.append((numbers[0], numbers[-1] + 1, is_set))
    assert list(bit_runs(bitmap, first, end)) == expected


@pytest.mark.parametrize("size", [8, 16, 128])
@given(bitmap=patterns, data=st.data())
def test_granules_tell_whether_some_bit_is_set_and_some_is_not(
    size: int, bitmap: bytes, data: st.DataObject
) -> None:
    bits = bits_of(bitmap)
    first = data.draw(st.integers(0, len(bits)))
    end = data.draw(st.integers(first, len(bits)))
    expected: dict[int, tuple[bool, bool]] = {}
    for start in range(first // size * size, end, size):
        numbers = range(max(start, first), min(start + size, end))
        kinds = {bits[n] for n in numbers}
        if numbers:
            expected |= dict.fromkeys(numbers, (True in kinds, False in kinds))
    found = list(granules(bitmap, first, end, size))
    seen = {n: (some, other) for low, high, some, other in found for n in range(low, high)}
    assert seen == expected
    assert [low for low, *_ in found] == sorted(low for low, *_ in found)
    # Neighbours that are alike are one.
    assert all(one[2:] != other[2:] for one, other in pairwise(found))


def test_a_bitmap_of_scattered_bits_costs_no_more_than_its_granules() -> None:
    bitmap = b"\x55" * (1 << 13)
    tracemalloc.start()
    assert list(granules(bitmap, 0, 1 << 16, 128)) == [(0, 1 << 16, True, True)]
    assert sum(1 for _ in bit_runs(bitmap, 0, 1 << 16)) == 1 << 16
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1 << 19
