"""Say what every back end promises: named bytes, whole or absent, never changed."""

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple, Protocol, TypeAlias

ObjectData: TypeAlias = bytes | bytearray | memoryview


class ObjectInfo(NamedTuple):
    """What a listing tells about one object."""

    name: str
    size: int
    modified: datetime | None  # UTC, by the store's own clock; None where the store does not tell


class ObjectWriter(Protocol):
    """An object in the making, invisible until committed; used by one thread at a time.

    After any failure nothing is visible and the writer is closed; ``write`` and
    ``commit`` of a closed writer raise ValueError.
    """

    def write(self, data: ObjectData) -> None:
        """Append all of ``data``; the caller may use its memory again afterwards."""

    def commit(self) -> None:
        """Make the object visible under its name; whole and durable on return.

        As with ``put``, identical content under the name is success, other
        content raises ``ObjectExists``.
        """

    def abort(self) -> None:
        """Forget the object, nothing remains; safe to repeat, and a no-op once committed."""


class Store(Protocol):
    """Named immutable bytes, safe to use from many threads and processes.

    What one caller has put or deleted, every later ``get``, ``head`` and
    ``list`` of any caller sees. All names pass ``names.validate_name``. Besides the
    errors named here, each request may raise ``StoreUnavailable`` (the request may
    have been done all the same), ``StoreForbidden``, ``StoreMissing``, the reading
    ones ``ObjectUnreadable`` where only this object fails, and the writing ones
    ``StoreFull`` and ``StoreReadOnly``.
    """

    @property
    def address(self) -> str:
        """Where the store is, in the words a user would give."""

    @property
    def canonical_address(self) -> str:
        """Where the store is, in the one way of saying it: equal for whatever leads to the same place."""

    def put(self, name: str, data: ObjectData) -> None:
        """Store ``data`` under ``name``, whole or not at all; durable on return.

        Identical content under the name is success (a retry after a lost
        reply); other content raises ``ObjectExists`` where the store can tell.
        """

    def put_if_absent(self, name: str, data: ObjectData) -> bool:
        """Decide a name once: of all callers ever, exactly one is told True.

        The others are told False, whatever their data. False promises that the
        object under the name is durable, whoever put it and whatever error they
        were given: a store that cannot make sure of that raises. After an error
        read the name back, and ask once more before you rely on what is there.
        """

    def create(self, name: str) -> ObjectWriter:
        """Begin an object whose bytes come piece by piece."""

    def get(self, name: str) -> bytes:
        """Return the whole object; raises ``ObjectMissing``."""

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes; raises ``ObjectMissing`` or ``ObjectShort``."""

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` (writable bytes); raises ``ObjectMissing`` or ``ObjectShort``."""

    def head(self, name: str) -> ObjectInfo | None:
        """Return what a listing would tell, or None if there is no such object."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects whose names begin with ``prefix``, ascending by name.

        ``prefix`` is empty or ends in ``/``. Every object that existed throughout
        the listing is in it; one put or deleted meanwhile may be.
        """

    def delete(self, name: str) -> None:
        """Remove the object for good; its absence is fine."""
