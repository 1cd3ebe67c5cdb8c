"""Nodes of a disk map: which chunk lies where. `docs/format.md` section 7."""

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Final

from vmkeep.repository.errors import Tampered
from vmkeep.repository.parameters import FANOUT, LEAF_CHUNKS

_HEADER = struct.Struct("<BBHI")
_ID_BYTES: Final = 32


class Child(IntEnum):
    """What a node says of a child that it has no id for; both read as zeros."""

    ZERO = 0
    EXCLUDED = 2


_STORED: Final = 1
# Looked up for each child of each node: calling the enum would be most of the work.
_WITHOUT_ID: Final = {int(child): child for child in Child}
Entry = bytes | Child


def fanout(level: int) -> int:
    """Return how many children a node of ``level`` has room for."""
    return FANOUT if level else LEAF_CHUNKS


def encode_node(level: int, children: Sequence[Entry]) -> bytes | None:
    """Return a node's bytes; None when all children are zeros (such a node is not stored)."""
    width = fanout(level)
    states = bytearray(width // 4)
    ids = []
    for i, child in enumerate(children):
        if isinstance(child, Child):
            state = int(child)
        else:
            state = _STORED
            ids.append(child)
        states[i >> 2] |= state << (i & 3) * 2
    if not any(states):
        return None
    return _HEADER.pack(level, 0, width, len(ids)) + bytes(states) + b"".join(ids)


def decode_node(level: int, node: bytes, name: str = "a map node") -> list[Entry]:
    """Return all children of a node, as many as its level has room for."""
    width = fanout(level)
    at = _HEADER.size + width // 4
    if len(node) < at or _HEADER.unpack_from(node)[:3] != (level, 0, width):
        raise Tampered(f"{name} is not a node of level {level}.")
    count = _HEADER.unpack_from(node)[3]
    if len(node) != at + count * _ID_BYTES:
        raise Tampered(f"{name} has a wrong length.")
    children: list[Entry] = []
    for states in node[_HEADER.size : at]:
        for shift in (0, 2, 4, 6):
            state = states >> shift & 3
            if state == _STORED:
                children.append(node[at : at + _ID_BYTES])
                at += _ID_BYTES
            elif state == 3 or (state == Child.EXCLUDED and level):
                raise Tampered(f"{name} holds a child of unknown state.")
            else:
                children.append(_WITHOUT_ID[state])
    if not any(node[_HEADER.size : _HEADER.size + width // 4]):
        raise Tampered(f"{name} is empty; such a node is never stored.")
    if at != len(node):
        raise Tampered(f"{name} has another number of children than it says.")
    return children


def root_level(size: int, leaf_size: int) -> int:
    """Return the level of the root of a map over ``size`` bytes; at least 1."""
    leaves = max(1, -(-size // leaf_size))
    level = 1
    while FANOUT**level < leaves:
        level += 1
    return level


def leaves_below(level: int) -> int:
    """Return how many leaves a full node of ``level`` covers."""
    return int(FANOUT**level)
