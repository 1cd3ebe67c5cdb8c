"""Ranges against a model that is a set of byte numbers."""

import tracemalloc
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vmkeep.ranges import (
    ByteRange,
    align_out,
    clip,
    coarsen,
    complement,
    intersect,
    join_sorted,
    normalise,
    subtract,
    total,
)

pytestmark = pytest.mark.quick

SIZE = 48
any_ranges = st.lists(
    st.builds(ByteRange, st.integers(0, SIZE), st.integers(0, 12)), max_size=8
)  # overlapping, touching, empty, unsorted


def numbers(ranges: Iterable[ByteRange]) -> set[int]:
    return {n for r in ranges for n in range(r.offset, r.offset + r.length)}


def is_range_list(ranges: list[ByteRange]) -> bool:
    """Ascending, not overlapping, not touching, nothing empty."""
    return all(r.length > 0 for r in ranges) and all(
        one.offset + one.length < two.offset for one, two in pairwise(ranges)
    )


def of(members: set[int]) -> list[ByteRange]:
    """The one range list that holds these bytes."""
    out: list[ByteRange] = []
    for n in sorted(members):
        if out and out[-1].end == n:
            out[-1] = ByteRange(out[-1].offset, out[-1].length + 1)
        else:
            out.append(ByteRange(n, 1))
    return out


@given(any_ranges)
def test_normalise_keeps_the_bytes_and_gives_a_range_list(ranges: list[ByteRange]) -> None:
    result = normalise(ranges)
    assert is_range_list(result)
    assert numbers(result) == numbers(ranges)
    assert total(result) == len(numbers(ranges))
    assert list(join_sorted(sorted(ranges))) == result
    assert normalise(result) == result


@given(any_ranges, any_ranges)
def test_two_lists_meet_as_sets_do(one: list[ByteRange], two: list[ByteRange]) -> None:
    left, right = normalise(one), normalise(two)
    assert intersect(left, right) == of(numbers(left) & numbers(right))
    assert subtract(left, right) == of(numbers(left) - numbers(right))


@given(any_ranges, st.integers(0, SIZE), st.integers(0, SIZE))
def test_clip_and_complement(one: list[ByteRange], start: int, end: int) -> None:
    ranges = normalise(one)
    assert clip(ranges, start, end) == of(numbers(ranges) & set(range(start, end)))
    assert complement(ranges, end) == of(set(range(end)) - numbers(ranges))


@given(any_ranges, st.integers(1, 9), st.integers(0, SIZE))
def test_align_out_covers_every_unit_that_is_touched(one: list[ByteRange], unit: int, limit: int) -> None:
    ranges = normalise(one)
    touched = {n // unit for n in numbers(ranges)}
    expected = {n for n in range(limit) if n // unit in touched}
    result = align_out(ranges, unit, limit)
    assert is_range_list(result)
    assert numbers(result) == expected


@given(any_ranges, st.integers(1, 9), st.integers(1, SIZE), st.integers(1, 6))
# The last range lies beyond the limit, and so in no unit of 1, but in the unit of 4 that the limit cuts.
@example([ByteRange(0, 1), ByteRange(2, 1), ByteRange(5, 1)], 1, 5, 1)
def test_coarsen_takes_the_smallest_unit_that_leaves_few_ranges(
    one: list[ByteRange], unit: int, limit: int, most: int
) -> None:
    ranges = normalise(one)
    allowed = (unit * 4**n for n in range(8))
    expected = next(found for u in allowed if len(found := align_out(ranges, u, limit)) <= most)
    assert coarsen(iter(ranges), unit, limit, most) == expected


@pytest.mark.slow
def test_coarsen_holds_few_ranges_of_a_long_stream() -> None:
    stream = (ByteRange(2 * n, 1) for n in range(200_000))
    tracemalloc.start()
    found = coarsen(stream, 1, 1 << 20, 1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == [ByteRange(0, 400_000)]
    assert peak < 1 << 20


def test_numbers_as_large_as_disks_get() -> None:
    far = 1 << 62
    assert normalise([ByteRange(far, 5), ByteRange(far + 5, 1)]) == [ByteRange(far, 6)]
    assert ByteRange(far, 6).end == far + 6
