"""Keep objects in this process's memory: for tests and demonstrations."""

import os
import threading
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from datetime import datetime

from vmkeep.clock import Clock, SystemClock
from vmkeep.objectstore.errors import ObjectExists, ObjectMissing, ObjectShort
from vmkeep.objectstore.names import folder_conflict, validate_name, validate_prefix
from vmkeep.objectstore.store import ObjectData, ObjectInfo, ObjectWriter


class MemoryStore:
    """A :class:`~vmkeep.objectstore.store.Store` that ends with its process."""

    address = "memory:"

    def __init__(self, clock: Clock | None = None) -> None:
        self.canonical_address = f"{self.address}{os.urandom(16).hex()}"
        self._clock = SystemClock() if clock is None else clock
        self._lock = threading.Lock()
        self._objects: dict[str, tuple[bytes, datetime]] = {}
        self._names: list[str] = []  # ascending, the keys of _objects

    def copy(self) -> "MemoryStore":
        """Return a store with the same objects that goes its own way from here on."""
        twin = MemoryStore(self._clock)
        with self._lock:
            twin._objects = dict(self._objects)
            twin._names = self._names[:]
        return twin

    def overwrite(self, name: str, data: ObjectData) -> None:
        """Damage a stored object, as a rotten disk or an attacker would; only tests have a use for it."""
        with self._lock:
            _, modified = self._objects[name]
            self._objects[name] = (bytes(data), modified)

    def put(self, name: str, data: ObjectData) -> None:
        content = bytes(data)
        if self.put_if_absent(name, content):
            return
        if self.get(name) != content:
            raise ObjectExists(
                f"{name!r} exists already in {self.address!r} with other content.",
                name=name,
                address=self.address,
            )

    def put_if_absent(self, name: str, data: ObjectData) -> bool:
        validate_name(name)
        content = bytes(data)
        now = self._clock.now()
        with self._lock:
            if name in self._objects:
                return False
            self._refuse_folder_conflict(name)
            self._objects[name] = (content, now)
            insort(self._names, name)
            return True

    def _refuse_folder_conflict(self, name: str) -> None:
        below = bisect_left(self._names, name + "/")
        is_folder = below < len(self._names) and self._names[below].startswith(name + "/")
        parts = name.split("/")
        if is_folder or any("/".join(parts[:depth]) in self._objects for depth in range(1, len(parts))):
            raise folder_conflict(name, self.address)

    def create(self, name: str) -> ObjectWriter:
        validate_name(name)
        return _MemoryWriter(self, name)

    def get(self, name: str) -> bytes:
        validate_name(name)
        with self._lock:
            held = self._objects.get(name)
        if held is None:
            raise ObjectMissing(
                f"no object {name!r} is in {self.address!r}.", name=name, address=self.address
            )
        return held[0]

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0:
            raise ValueError("offset and length must not be negative")
        content = self.get(name)
        if offset + length > len(content):
            raise ObjectShort(
                f"{name!r} in {self.address!r} ends at byte {len(content)}, before {offset + length}.",
                name=name,
                address=self.address,
                size=len(content),
            )
        return content[offset : offset + length]

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        target = buffer.cast("B")
        target[:] = self.get_range(name, offset, len(target))

    def head(self, name: str) -> ObjectInfo | None:
        validate_name(name)
        with self._lock:
            held = self._objects.get(name)
        return None if held is None else ObjectInfo(name, len(held[0]), held[1])

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        validate_prefix(prefix)
        with self._lock:
            names = self._names[bisect_left(self._names, prefix) :]
        return self._walk(prefix, names)

    def _walk(self, prefix: str, names: Iterable[str]) -> Iterator[ObjectInfo]:
        for name in names:
            if not name.startswith(prefix):
                return
            info = self.head(name)
            if info is not None:
                yield info

    def delete(self, name: str) -> None:
        validate_name(name)
        with self._lock:
            if self._objects.pop(name, None) is not None:
                del self._names[bisect_left(self._names, name)]


class _MemoryWriter:
    def __init__(self, store: MemoryStore, name: str) -> None:
        self._store = store
        self._name = name
        self._parts: list[bytes] | None = []

    def write(self, data: ObjectData) -> None:
        self._open_parts().append(bytes(data))

    def commit(self) -> None:
        content = b"".join(self._open_parts())
        self._parts = None
        self._store.put(self._name, content)

    def abort(self) -> None:
        self._parts = None

    def _open_parts(self) -> list[bytes]:
        if self._parts is None:
            raise ValueError("the writer is closed")
        return self._parts
