"""What is examined is drawn fairly, and what a clean sample proves is counted, not guessed."""

import math
import random
from collections import Counter
from fractions import Fraction

import pytest

from vmkeep.backup.sampling import (
    attempts,
    choose,
    most_that_can_be_damaged,
    most_that_can_differ,
    sample_size,
)

pytestmark = pytest.mark.quick


def _missed(examined: int, population: int, differing: int) -> Fraction:
    """The chance that a sample holds none of what differs, by counting the samples."""
    return Fraction(math.comb(population - differing, examined), math.comb(population, examined))


@pytest.mark.parametrize("population", [1, 2, 7, 40, 163])
def test_the_bound_is_the_largest_share_that_a_sample_may_well_miss(population: int) -> None:
    for examined in range(1, population + 1):
        could_be = [d for d in range(population + 1) if _missed(examined, population, d) > Fraction(1, 20)]
        # Of what was not looked at one chunk can always differ, however likely it would have been met.
        least = int(examined < population)
        assert most_that_can_differ(examined, population) == max(*could_be, least) / population


def test_what_was_not_looked_at_is_never_called_equal() -> None:
    # One of 309 is missed by 300 with a probability of 9/309, below 5 %: the sample alone would say 0.
    assert _missed(300, 309, 1) < Fraction(1, 20)
    assert most_that_can_differ(300, 309) == 1 / 309


def test_three_hundred_of_very_many_leave_one_per_cent() -> None:
    # Drawn with repetition: (1 - x)^300 = 0.05.
    known = 1 - 0.05 ** (1 / 300)
    assert 0.0099 < known < 0.01
    assert most_that_can_differ(300, 10**9) == pytest.approx(known, rel=1e-5)
    assert most_that_can_differ(300, 5000) < known


@pytest.mark.slow
def test_a_large_sample_of_a_huge_population_is_counted_too() -> None:
    # A tenth was examined: 28 differing chunks are missed with probability 0.9^28 = 0.052, 29 with 0.047.
    assert most_that_can_differ(10**7, 10**8) == 28 / 10**8


@pytest.mark.parametrize("population", [0, 1, 300, 10**12])
def test_nothing_can_differ_where_everything_was_examined(population: int) -> None:
    assert most_that_can_differ(population, population) == 0


@pytest.mark.parametrize(
    ("population", "share", "expected"),
    [(0, 0, 0), (5, 0, 5), (300, 0, 300), (10_000, 0, 300), (10_000, 0.01, 300), (10_000, 0.5, 5000)]
    + [(10_001, 0.5, 5001), (10_000, 1, 10_000), (299, 0.01, 299)],
)
def test_the_sample_is_the_share_asked_for_but_no_smaller_than_usual(
    population: int, share: float, expected: int
) -> None:
    assert sample_size(population, share) == expected


@pytest.mark.parametrize(("population", "count"), [(0, 0), (1, 1), (9, 0), (9, 9), (1000, 300)])
def test_so_many_different_numbers_are_chosen_in_order(population: int, count: int, seed: int) -> None:
    secret = random.Random(seed).randbytes(16)
    chosen = list(choose(population, count, secret))
    assert chosen == sorted(set(chosen)) == list(choose(population, count, secret))
    assert len(chosen) == count
    assert all(0 <= number < population for number in chosen)


def test_every_set_is_as_likely_as_any_other() -> None:
    draws = 10_000
    seen = Counter(tuple(choose(5, 2, number.to_bytes(16, "big"))) for number in range(draws))
    assert len(seen) == math.comb(5, 2)
    # 1000 expected, standard deviation 30: six of them. The seeds are fixed, so is the outcome.
    assert all(abs(times - draws / 10) < 180 for times in seen.values()), seen


@pytest.mark.parametrize("there", [1, 2, 9, 40, 163])
def test_no_sample_of_unknown_supply_hides_more_than_it_says(there: int) -> None:
    for found in range(1, there + 1):
        bound = most_that_can_be_damaged(found, tried=found, population=10**6)
        more = [d for d in range(there + 1) if Fraction(d, there) > bound]
        assert all(_missed(found, there, d) <= Fraction(1, 20) for d in more)
    # Of very much, a hair less would not be true: the bound is not just large.
    huge = 10**7
    bound = most_that_can_be_damaged(300, tried=5000, population=huge)
    assert _missed(300, huge, int(bound * huge * 0.99)) > Fraction(1, 20)


def test_what_was_looked_at_everywhere_or_nowhere_is_plain() -> None:
    assert most_that_can_be_damaged(0, tried=0, population=0) == 0
    assert most_that_can_be_damaged(7, tried=20, population=20) == 0
    assert most_that_can_be_damaged(0, tried=19, population=20) == 1


@pytest.mark.parametrize(
    ("population", "share", "sizes"),
    [
        (0, 0, []),
        (1, 0, [1]),
        (300, 0, [300]),
        (1000, 0, [300, 300, 400]),
        (1000, 0.5, [500, 500]),
        (1000, 1, [1000]),
        (10**12, 0, [300, 300, 600, 1200, 2400, 4800, 9600]),
        (30_000, 0.9, [27_000]),
    ],
)
def test_places_are_tried_in_sets_that_grow_and_end(
    population: int, share: float, sizes: list[int], seed: int
) -> None:
    secret = random.Random(seed).randbytes(16)
    sets = [list(numbers) for numbers in attempts(population, share, secret)]
    assert [len(numbers) for numbers in sets] == sizes
    assert all(numbers == sorted(numbers) for numbers in sets)
    seen = [number for numbers in sets for number in numbers]
    assert len(set(seen)) == len(seen) and all(0 <= number < population for number in seen)
    assert sets == [list(numbers) for numbers in attempts(population, share, secret)]


def test_what_is_found_is_found_fairly_wherever_it_lies() -> None:
    # Ten places, four of them hold something, side by side; the search stops when it has two.
    draws = 6000
    seen: Counter[int] = Counter()
    total = 0
    for number in range(draws):
        found: list[int] = []
        for numbers in attempts(10, 0, number.to_bytes(16, "big"), least=2):
            found += [place for place in numbers if place in (2, 3, 4, 5)]
            if len(found) >= 2:
                break
        seen.update(found)
        total += len(found)
    # Each as often as any other: a standard deviation is below 40, six of them. The seeds are fixed.
    assert all(abs(seen[place] - total / 4) < 240 for place in (2, 3, 4, 5)), seen
