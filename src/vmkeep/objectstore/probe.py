"""Find out by trying whether a store keeps the promises that safety rests on."""

import os
from typing import Final, NamedTuple

from vmkeep.objectstore.errors import ObjectMissing, ObjectShort
from vmkeep.objectstore.store import Store

PROBE_PREFIX: Final = "probe/"


class Probe(NamedTuple):
    """What was seen; a True was not refuted, which is all that trying can show."""

    put_if_absent: bool
    read_after_write: bool
    list_after_write: bool


def probe(store: Store) -> Probe:
    """Try the promises on objects of our own below ``probe/``, and remove these.

    Needs the right to delete. Raises ``StoreUnsupported`` where the store knows
    itself that it cannot.
    """
    run = os.urandom(16).hex()
    decided, plain = f"{PROBE_PREFIX}{run}-decided", f"{PROBE_PREFIX}{run}-plain"
    content = os.urandom(64)
    try:
        decides = _try_decision(store, decided)
        store.put(plain, content)
        reads = _reads(store, plain, content)
        lists = {decided, plain} <= _listed(store)
    finally:
        store.delete(decided)
        store.delete(plain)
    reads = reads and all(_is_gone(store, name) for name in (decided, plain))
    lists = lists and not {decided, plain} & _listed(store)
    return Probe(put_if_absent=decides, read_after_write=reads, list_after_write=lists)


def _try_decision(store: Store, name: str) -> bool:
    first, second = b"first", b"second"
    won = store.put_if_absent(name, first)
    # Again with the same bytes too: a store that takes those for a repeated request has two winners.
    lost = not store.put_if_absent(name, second) and not store.put_if_absent(name, first)
    try:
        return won and lost and store.get(name) == first
    except ObjectMissing:
        return False


def _reads(store: Store, name: str, content: bytes) -> bool:
    try:
        info = store.head(name)
        return (
            info is not None
            and info.size == len(content)
            and store.get(name) == content
            and store.get_range(name, 1, len(content) - 2) == content[1:-1]
        )
    except (ObjectMissing, ObjectShort):
        return False


def _is_gone(store: Store, name: str) -> bool:
    try:
        store.get(name)
    except ObjectMissing:
        return store.head(name) is None
    return False


def _listed(store: Store) -> set[str]:
    return {info.name for info in store.list(PROBE_PREFIX)}
