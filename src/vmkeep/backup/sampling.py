"""Choose what is read a second time, and say what it proves when nothing differs. Pure: no I/O, no clock."""

import math
import random
from collections.abc import Iterable, Iterator
from typing import Final

SMALLEST_SAMPLE: Final = 300
CONFIDENCE: Final = 0.95
# Of a disk that is nearly empty, most places hold nothing; after so many the search ends.
MOST_TRIES: Final = 64 * SMALLEST_SAMPLE


def sample_size(population: int, share: float, least: int = SMALLEST_SAMPLE) -> int:
    """Return how many of ``population`` to examine: this share of them (1 is all), but at least 300."""
    return min(population, max(least, math.ceil(population * share)))


def attempts(
    population: int, share: float, seed: bytes, least: int = SMALLEST_SAMPLE
) -> Iterator[Iterable[int]]:
    """Yield sets of numbers below ``population``, each ascending, none twice: places to look for something.

    For when nobody knows which places hold anything without looking. The first
    set has the size of a sample, each later one is as large as all before it;
    all together are at most MOST_TRIES, or the first one alone. Whoever stops
    between two sets, for how much was found, has looked at a random part of the
    places, and what was found is a random part of what there is.
    """
    first = sample_size(population, share, least)
    if first >= MOST_TRIES:
        # Time and nothing else grows with the population here: so much was asked for.
        yield choose(population, first, seed)
        return
    order = random.Random(seed).sample(range(population), min(population, MOST_TRIES))
    start, end = 0, first
    while start < len(order):
        yield sorted(order[start:end])
        start, end = end, 2 * end


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
    that probability. 0 when everything was examined, and only then: where so little
    was left out that nothing more need differ, one of it still can.
    """
    if examined == population:
        return 0.0
    possible, impossible = 1, population - examined + 1
    while impossible - possible > 1:
        differing = (possible + impossible) // 2
        if _log_missed(examined, population, differing) > math.log(1 - CONFIDENCE):
            possible = differing
        else:
            impossible = differing
    return possible / population


def most_that_can_be_damaged(found: int, tried: int, population: int) -> float:
    """Return the largest share that can be damaged of what lies in ``population`` places.

    ``found`` is what was there at ``tried`` of them, all of it whole. How much
    there is in all is not known, so the bound is that of an endless supply,
    1 - 0.05^(1/found): never less than the exact one, at CONFIDENCE. 0 when all
    places were looked at, 1 when nothing was found.
    """
    if tried == population:
        return 0.0
    return 1 - math.pow(1 - CONFIDENCE, 1 / found) if found else 1.0


def _log_missed(examined: int, population: int, differing: int) -> float:
    """Return the logarithm of the probability that a sample holds none of what differs."""
    # C(population - differing, examined) / C(population, examined); symmetric in the two.
    few, many = sorted((examined, differing))
    return math.fsum(math.log1p(-many / (population - i)) for i in range(few))
