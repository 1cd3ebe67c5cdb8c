"""Choose what is read a second time, and say what it proves when nothing differs. Pure: no I/O, no clock."""

import math
import random
from collections.abc import Iterator
from typing import Final

SMALLEST_SAMPLE: Final = 300
CONFIDENCE: Final = 0.95


def sample_size(population: int, share: float) -> int:
    """Return how many of ``population`` to examine: this share of them (1 is all), but at least 300."""
    return min(population, max(SMALLEST_SAMPLE, math.ceil(population * share)))


def choose(population: int, count: int, seed: bytes) -> Iterator[int]:
    """Yield ``count`` numbers below ``population``, ascending, every set of them equally likely.

    The same seed gives the same numbers. Nothing is kept in memory: selection
    sampling (Knuth, The Art of Computer Programming 2, 3.4.2, algorithm S).
    """
    draw = random.Random(seed).random
    left = count
    for number in range(population):
        if not left:
            return
        if (population - number) * draw() < left:
            left -= 1
            yield number


def most_that_can_differ(examined: int, population: int) -> float:
    """Return the largest share of ``population`` that can differ although ``examined`` of it did not.

    One-sided, at CONFIDENCE, exact for a sample without repetition
    (hypergeometric): any larger share would have shown itself with at least
    that probability. 0 when everything was examined.
    """
    possible, impossible = 0, population - examined + 1
    while impossible - possible > 1:
        differing = (possible + impossible) // 2
        if _log_missed(examined, population, differing) > math.log(1 - CONFIDENCE):
            possible = differing
        else:
            impossible = differing
    return possible / population if population else 0.0


def _log_missed(examined: int, population: int, differing: int) -> float:
    """Return the logarithm of the probability that a sample holds none of what differs."""
    # C(population - differing, examined) / C(population, examined); symmetric in the two.
    few, many = sorted((examined, differing))
    return math.fsum(math.log1p(-many / (population - i)) for i in range(few))
