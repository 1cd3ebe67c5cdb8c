"""The search for the active sequence against the published procedure, word by word."""

import random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.generators import vhdx_bytes as gen
from vmkeep.formats.vhdx.image import Patch, resolve
from vmkeep.formats.vhdx.log import find_active_sequence

pytestmark = pytest.mark.quick

K4 = 4096
RING = 1 << 20


def published(valid: dict[int, tuple[int, int, int]], length: int) -> list[int]:
    """[MS-VHDX] 2.3.3 on ``{offset: (entry length, tail, number)}``; ended where the text would not end.

    Returns the numbers of the entries from Tail to the last.
    """
    candidate: list[int] = []
    tail = old_tail = 0
    travelled = 0
    while True:
        run: list[int] = []
        position = tail
        while position in valid and (not run or valid[position][2] == valid[run[-1]][2] + 1):
            if sum(valid[offset][0] for offset in run) + valid[position][0] > length:
                break
            run.append(position)
            position = (position + valid[position][0]) % length
        sound = bool(run) and valid[run[-1]][1] in run
        if sound and (not candidate or valid[run[-1]][2] > valid[candidate[-1]][2]):
            candidate = run
        step = sum(valid[offset][0] for offset in run) if sound else K4
        travelled += step
        tail = (tail + step) % length
        if tail < old_tail or travelled >= length:
            break
        old_tail = tail
    if not candidate:
        return []
    start = candidate.index(valid[candidate[-1]][1])
    return [valid[offset][2] for offset in candidate[start:]]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12), st.booleans())
def test_the_search_agrees_with_the_published_procedure(seed: int, pieces: int, wrapped: bool) -> None:
    rng = random.Random(seed)
    entries: dict[int, bytes] = {}
    at = RING - K4 * rng.randrange(1, 6) if wrapped else K4 * rng.randrange(8)
    limit = at + RING
    number = rng.randrange(1, 1000)
    offsets = [at % RING]
    for _ in range(pieces):
        padding = K4 * rng.choice([0, 0, 1, 5])
        tail = rng.choice([offsets[0], offsets[-1], rng.choice(offsets), K4 * rng.randrange(RING // K4)])
        entry = gen.log_entry(number, tail, [], padding=padding)
        if at + len(entry) > limit:
            break
        entries[at % RING] = entry
        at += len(entry)
        fate = rng.random()
        if fate < 0.2:
            at += K4 * rng.randrange(1, 4)
        elif fate < 0.35:
            number += rng.choice([-3, 2, 50])
            number = max(number, 1)
            offsets = []
        number += 1
        offsets.append(at % RING)
    valid = {}
    for offset, entry in entries.items():
        valid[offset] = (
            int.from_bytes(entry[8:12], "little"),
            int.from_bytes(entry[12:16], "little"),
            int.from_bytes(entry[16:24], "little"),
        )
    # One log never gives a number twice; which of two equal ones counts is nowhere said.
    assume(len({number for _, _, number in valid.values()}) == len(valid))
    found = find_active_sequence(bytes(gen.ring_of(entries, RING)), gen.LOG_GUID)
    assert [entry.sequence for entry in found] == published(valid, RING)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 15), st.one_of(st.none(), st.integers(0, 6))), max_size=25))
def test_the_lasting_effect_of_writes_is_that_of_making_them_in_order(
    steps: list[tuple[int, int | None]],
) -> None:
    model: list[int | None] = [None] * 24
    writes = []
    for n, (page, zeros) in enumerate(steps):
        if zeros is None:
            writes.append(Patch(page * K4, (page + 1) * K4, bytes([n + 1]) * K4))
            model[page] = n + 1
        else:
            writes.append(Patch(page * K4, (page + zeros) * K4, None))
            model[page : page + zeros] = [0] * zeros
    seen: list[int | None] = [None] * 24
    patches = resolve(writes)
    for patch in patches:
        for page in range(patch.offset // K4, patch.end // K4):
            assert seen[page] is None
            seen[page] = patch.data[0] if patch.data is not None else 0
    assert seen == model
    assert patches == sorted(patches, key=lambda patch: patch.offset)
