"""Nodes of a map: exactly the bytes of docs/format.md section 7, and nothing else is taken."""

import random
import struct

import pytest

from vmkeep.repository.errors import Tampered
from vmkeep.repository.nodes import Child, Entry, decode_node, encode_node, fanout, leaves_below, root_level

pytestmark = pytest.mark.quick

ONE, TWO = b"\1" * 32, b"\2" * 32


def _children(level: int, seed: int) -> list[Entry]:
    rng = random.Random(seed)
    # Only chunks can be excluded (section 7: "at level 0 only").
    kinds: list[Entry] = [Child.ZERO, b""]
    if level == 0:
        kinds.append(Child.EXCLUDED)
    picked: list[Entry] = [rng.choice(kinds) for _ in range(fanout(level))]
    return [child if isinstance(child, Child) else rng.randbytes(32) for child in picked]


@pytest.mark.parametrize("level", [0, 1, 2, 5])
def test_what_goes_in_comes_out(level: int) -> None:
    for seed in range(20):
        children = _children(level, seed)
        node = encode_node(level, children)
        assert node is not None
        assert decode_node(level, node) == children


def test_bytes_of_a_leaf() -> None:
    children: list[Entry] = [ONE, Child.ZERO, Child.EXCLUDED, TWO, *[Child.ZERO] * 60]
    states = bytes([0b01_10_00_01]) + bytes(15)
    assert encode_node(0, children) == struct.pack("<BBHI", 0, 0, 64, 2) + states + ONE + TWO


def test_bytes_of_an_inner_node() -> None:
    children: list[Entry] = [Child.ZERO] * 1023 + [ONE]
    states = bytes(255) + bytes([0b01_00_00_00])
    assert encode_node(1, children) == struct.pack("<BBHI", 1, 0, 1024, 1) + states + ONE


def test_node_of_zeros_is_not_stored() -> None:
    assert encode_node(0, [Child.ZERO] * 64) is None
    assert encode_node(1, [Child.ZERO] * 1024) is None
    assert encode_node(0, [Child.EXCLUDED] + [Child.ZERO] * 63) is not None


def test_short_list_of_children_is_filled_with_zeros() -> None:
    assert encode_node(0, [ONE]) == encode_node(0, [ONE] + [Child.ZERO] * 63)


GOOD = struct.pack("<BBHI", 0, 0, 64, 2) + bytes([0b01_00_00_01]) + bytes(15) + ONE + TWO


@pytest.mark.parametrize(
    "node",
    [
        b"",
        GOOD[:7],
        GOOD[:23],
        GOOD[:-1],
        GOOD + b"\0",
        GOOD + ONE,
        GOOD[:-32],
        struct.pack("<BBHI", 1, 0, 64, 2) + GOOD[8:],
        struct.pack("<BBHI", 0, 0, 1024, 2) + GOOD[8:],
        struct.pack("<BBHI", 0, 1, 64, 2) + GOOD[8:],
        struct.pack("<BBHI", 0, 0, 64, 1) + GOOD[8:],
        struct.pack("<BBHI", 0, 0, 64, 3) + GOOD[8:],
        struct.pack("<BBHI", 0, 0, 64, 3) + GOOD[8:] + ONE,
        struct.pack("<BBHI", 0, 0, 64, 1) + GOOD[8:-32],
        struct.pack("<BBHI", 0, 0, 64, 0xFFFFFFFF) + GOOD[8:],
        GOOD[:8] + bytes([0b11_00_00_01]) + GOOD[9:],
        struct.pack("<BBHI", 0, 0, 64, 0) + bytes(16),
    ],
    ids=[
        "empty", "half a header", "half a table", "cut", "trailing byte", "trailing id", "missing id",
        "level", "fanout", "reserved byte", "count too small", "count too large", "one more id",
        "one less id", "absurd count", "state 3", "nothing stored",
    ],
)  # fmt: skip
def test_anything_else_is_refused(node: bytes) -> None:
    with pytest.raises(Tampered):
        decode_node(0, node)


def test_node_of_another_level_is_refused() -> None:
    inner = encode_node(1, [ONE])
    assert inner is not None
    assert decode_node(1, inner)[0] == ONE
    for level in (0, 2):
        with pytest.raises(Tampered):
            decode_node(level, inner)


def test_only_chunks_are_excluded() -> None:
    inner = struct.pack("<BBHI", 1, 0, 1024, 0) + bytes([2]) + bytes(255)
    with pytest.raises(Tampered):
        decode_node(1, inner)


@pytest.mark.parametrize(
    ("size", "level"),
    [(0, 1), (1, 1), (1024 << 20, 1), ((1024 << 20) + 1, 2), (1 << 40, 2), ((1 << 40) + 1, 3), (1 << 50, 3)],
)
def test_level_of_the_root(size: int, level: int) -> None:
    # Leaves of 1 MiB: the smallest L >= 1 with leaves <= 1024^L.
    assert root_level(size, 1 << 20) == level


def test_leaves_below() -> None:
    assert [leaves_below(level) for level in (0, 1, 2)] == [1, 1024, 1024 * 1024]
