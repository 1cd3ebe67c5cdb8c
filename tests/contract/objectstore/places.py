"""The stores that must keep the contract: a new back end adds itself to ``PLACES``."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.faults.stores import CountingStore, CrashingStore, FaultyStore
from vmkeep.objectstore.directory import DirectoryStore
from vmkeep.objectstore.memory import MemoryStore
from vmkeep.objectstore.store import Store


@dataclass(frozen=True)
class Place:
    """A fresh store, and a way to open a second connection to the same objects."""

    store: Store
    connect: Callable[[], Store]


def _memory(_: Path) -> Place:
    store = MemoryStore()
    return Place(store, lambda: store)


def _directory(folder: Path) -> Place:
    root = folder / "store"
    return Place(DirectoryStore(root, create=True), lambda: DirectoryStore(root))


def _instruments(_: Path) -> Place:
    """The test instruments with nothing to do must not be told from what they wrap."""
    inner = MemoryStore()
    return Place(CountingStore(FaultyStore(CrashingStore(inner, at=1_000_000))), lambda: inner)


PLACES: Final[dict[str, Callable[[Path], Place]]] = {
    "memory": _memory,
    "directory": _directory,
    "instruments": _instruments,
}
