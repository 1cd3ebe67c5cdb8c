"""Taken places against a model that is a set of numbers, and what they cost."""

import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmkeep.formats.space import TakenSpace
from vmkeep.ranges import ByteRange

pytestmark = pytest.mark.quick

UNIT = 512
PAGE = 65535  # how many units are kept together: what happens around its multiples must not differ

places = st.builds(
    lambda page, at, length: (page * PAGE + at, length),
    st.integers(0, 2),
    st.integers(0, 12) | st.integers(PAGE - 12, PAGE - 1),
    st.integers(1, 9) | st.integers(PAGE - 3, PAGE + 3),
)


@pytest.mark.slow
@given(st.lists(places, max_size=14), places)
def test_a_place_is_taken_when_any_of_it_was(taken: list[tuple[int, int]], asked: tuple[int, int]) -> None:
    space = TakenSpace(UNIT)
    model: set[int] = set()
    for first, count in taken:
        own = set(range(first, first + count))
        place = ByteRange(first * UNIT, count * UNIT)
        assert space.meets(place) is bool(own & model)
        assert space.take(place) is bool(own & model)
        model |= own
        assert bool(space)
    first, count = asked
    own = set(range(first, first + count))
    assert space.meets(ByteRange(first * UNIT, count * UNIT)) is bool(own & model)
    end = first + count
    free = [
        unit for low, length in space.free(end * UNIT) for unit in range(low // UNIT, (low + length) // UNIT)
    ]
    assert free == [unit for unit in range(end) if unit not in model]


def test_what_is_free_ends_with_the_file() -> None:
    space = TakenSpace(UNIT)
    assert list(space.free(700)) == [ByteRange(0, 700)]
    space.take(ByteRange(UNIT, UNIT))
    assert list(space.free(3 * UNIT - 1)) == [ByteRange(0, UNIT), ByteRange(2 * UNIT, UNIT - 1)]
    assert list(space.free(UNIT)) == [ByteRange(0, UNIT)]


def test_the_last_unit_of_a_place_may_be_begun_only() -> None:
    space = TakenSpace(UNIT)
    assert not space
    assert not space.take(ByteRange(UNIT, UNIT + 1))
    assert space.meets(ByteRange(2 * UNIT, 1))
    assert not space.meets(ByteRange(3 * UNIT, UNIT))


@pytest.mark.slow
@pytest.mark.parametrize("order", ["ascending", "shuffled"])
def test_neighbours_are_one_place(order: str, seed: int) -> None:
    numbers = list(range(100_000))
    if order == "shuffled":
        random.Random(seed).shuffle(numbers)
    tracemalloc.start()
    space = TakenSpace(UNIT)
    for number in numbers:
        assert not space.take(ByteRange(number * 8 * UNIT, 8 * UNIT))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert space.meets(ByteRange(5 * UNIT, UNIT))
    assert kept < 2 * len(numbers)


@pytest.mark.slow
def test_places_apart_take_four_bytes_each(seed: int) -> None:
    """A table entry, which names one place, has four bytes (VHD) or eight (VHDX)."""
    count = 100_000
    numbers = random.Random(seed).sample(range(2 * count), count)
    numbers = [2 * number for number in numbers]
    tracemalloc.start()
    space = TakenSpace(UNIT)
    for number in numbers:
        space.take(ByteRange(number * UNIT, UNIT))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 5 * count


def test_distant_places_take_little_each() -> None:
    count = 1000
    tracemalloc.start()
    space = TakenSpace(UNIT)
    for number in range(count):
        space.take(ByteRange(number * PAGE * UNIT, UNIT))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 256 * count
