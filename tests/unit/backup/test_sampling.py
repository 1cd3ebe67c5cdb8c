"""What is examined is drawn fairly, and what a clean sample proves is counted, not guessed."""

import math
import random
from collections import Counter
from fractions import Fraction

import pytest

from vmkeep.backup.sampling import choose, most_that_can_differ, sample_size

pytestmark = pytest.mark.quick


def _missed(examined: int, population: int, differing: int) -> Fraction:
    """The chance that a sample holds none of what differs, by counting the samples."""
    return Fraction(math.comb(population - differing, examined), math.comb(population, examined))


@pytest.mark.parametrize("population", [1, 2, 7, 40, 163])
def test_the_bound_is_the_largest_share_that_a_sample_may_well_miss(population: int) -> None:
    for examined in range(1, population + 1):
        could_be = [d for d in range(population + 1) if _missed(examined, population, d) > Fraction(1, 20)]
        assert most_that_can_differ(examined, population) == max(could_be) / population


def test_three_hundred_of_very_many_leave_one_per_cent() -> None:
    # Drawn with repetition: (1 - x)^300 = 0.05.
    known = 1 - 0.05 ** (1 / 300)
    assert 0.0099 < known < 0.01
    assert most_that_can_differ(300, 10**9) == pytest.approx(known, rel=1e-5)
    assert most_that_can_differ(300, 5000) < known


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
