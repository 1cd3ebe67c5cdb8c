"""Stores that count, crash, lie and fail on demand; each wraps any store, so they compose.

A plan reads as a sentence: ``FaultyStore(inner).lose_reply("put", nth=2, prefix="seals/")``.
``tamper`` changes what a memory or directory store holds behind its back.
"""

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple, NoReturn, TypeAlias, TypeVar

from vmkeep.objectstore.directory import DirectoryStore
from vmkeep.objectstore.errors import StoreFull, StoreReadOnly, StoreUnavailable
from vmkeep.objectstore.memory import MemoryStore
from vmkeep.objectstore.store import ObjectData, ObjectInfo, ObjectWriter, Store

Verb: TypeAlias = Literal[
    "put", "put_if_absent", "create", "write", "commit", "abort",
    "get", "get_range", "read_into", "head", "list", "delete",
]  # fmt: skip
When: TypeAlias = Literal["before", "after"]
# The requests after which somebody else may see a difference; `create` and `write` show nothing.
MUTATING: Final[frozenset[Verb]] = frozenset({"put", "put_if_absent", "commit", "delete"})
_NEEDS_WRITING: Final = MUTATING | {"create", "write"}
_T = TypeVar("_T")


class Request(NamedTuple):
    """One request to a store; ``size`` is the number of bytes sent, or asked for by a range."""

    verb: Verb
    name: str
    size: int = 0


class WrappedStore:
    """Passes every request through :meth:`around`, which a fault overrides."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner

    def around(self, request: Request, call: Callable[[], _T]) -> _T:
        return call()

    @property
    def address(self) -> str:
        return self.inner.address

    @property
    def canonical_address(self) -> str:
        return self.inner.canonical_address

    def put(self, name: str, data: ObjectData) -> None:
        self.around(Request("put", name, _size(data)), lambda: self.inner.put(name, data))

    def put_if_absent(self, name: str, data: ObjectData) -> bool:
        return self.around(
            Request("put_if_absent", name, _size(data)), lambda: self.inner.put_if_absent(name, data)
        )

    def create(self, name: str) -> ObjectWriter:
        writer = self.around(Request("create", name), lambda: self.inner.create(name))
        return _WrappedWriter(self, name, writer)

    def get(self, name: str) -> bytes:
        return self.around(Request("get", name), lambda: self.inner.get(name))

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return self.around(
            Request("get_range", name, length), lambda: self.inner.get_range(name, offset, length)
        )

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        self.around(
            Request("read_into", name, buffer.nbytes), lambda: self.inner.read_into(name, offset, buffer)
        )

    def head(self, name: str) -> ObjectInfo | None:
        return self.around(Request("head", name), lambda: self.inner.head(name))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self.around(Request("list", prefix), lambda: self.inner.list(prefix))

    def delete(self, name: str) -> None:
        self.around(Request("delete", name), lambda: self.inner.delete(name))


class _WrappedWriter:
    def __init__(self, store: WrappedStore, name: str, inner: ObjectWriter) -> None:
        self._store = store
        self._name = name
        self._inner = inner

    def write(self, data: ObjectData) -> None:
        self._around(Request("write", self._name, _size(data)), lambda: self._inner.write(data))

    def commit(self) -> None:
        self._around(Request("commit", self._name), self._inner.commit)

    def abort(self) -> None:
        self._store.around(Request("abort", self._name), self._inner.abort)

    def _around(self, request: Request, call: Callable[[], None]) -> None:
        try:
            self._store.around(request, call)
        except Exception:
            # The promise of ObjectWriter: closed after any failure. A Crashed passes by: the
            # dead clean up nothing.
            self._inner.abort()
            raise


class CountingStore(WrappedStore):
    """Counts requests by verb, and the bytes that went through."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.requests: Counter[Verb] = Counter()
        self.bytes_written = 0
        self.bytes_read = 0
        self.log: list[Request] = []
        self._lock = threading.Lock()

    @property
    def mutations(self) -> int:
        """How many requests changed what others can see: the crash places of a run."""
        return sum(self.requests[verb] for verb in MUTATING)

    def around(self, request: Request, call: Callable[[], _T]) -> _T:
        with self._lock:
            self.requests[request.verb] += 1
            self.log.append(request)
        result = call()
        with self._lock:
            if request.verb in ("put", "put_if_absent", "write"):
                self.bytes_written += request.size
            elif request.verb == "read_into":
                self.bytes_read += request.size
            elif isinstance(result, bytes):
                self.bytes_read += len(result)
        return result


class Crashed(BaseException):
    """Stands for the end of the process; no BaseException handler outlives the real one."""


class CrashingStore(WrappedStore):
    """Dies at the ``at``-th request among ``verbs`` (from 1); then everything raises :class:`Crashed`.

    The n-th request itself is lost (``before``) or done (``after``). Unfinished
    objects of an inner directory store keep their descriptors: use
    :class:`KillingStore` in a child process for many of these.
    """

    def __init__(
        self, inner: Store, at: int, when: When = "before", *, verbs: frozenset[Verb] = MUTATING
    ) -> None:
        super().__init__(inner)
        if at < 1:
            raise ValueError("requests are counted from 1")
        self._at = at
        self._when = when
        self._verbs = verbs
        self._lock = threading.Lock()
        self._count = 0
        self.crashed = False
        """False at the end of a run means: there was no such request."""

    def around(self, request: Request, call: Callable[[], _T]) -> _T:
        with self._lock:
            if self.crashed:
                raise Crashed
            if request.verb in self._verbs:
                self._count += 1
            due = request.verb in self._verbs and self._count == self._at
            if due and self._when == "before":
                self._die()
        result = call()
        if due:
            with self._lock:
                self._die()
        return result

    def _die(self) -> NoReturn:
        self.crashed = True
        raise Crashed


class KillingStore(CrashingStore):
    """As :class:`CrashingStore`, but kills this very process: for use in a child."""

    def _die(self) -> NoReturn:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("SIGKILL was survived")


class LyingStore(WrappedStore):
    """Ignores the condition of put-if-absent: the last writer wins, and everyone is told so."""

    def put_if_absent(self, name: str, data: ObjectData) -> bool:
        def overwrite() -> bool:
            self.inner.delete(name)
            self.inner.put(name, data)
            return True

        return self.around(Request("put_if_absent", name, _size(data)), overwrite)


@dataclass
class _Fault:
    verb: Verb
    nth: int
    times: int
    prefix: str
    error: Exception
    done_first: bool
    seen: int = 0

    def strikes(self, request: Request) -> bool:
        if request.verb != self.verb or not request.name.startswith(self.prefix):
            return False
        self.seen += 1
        return self.nth <= self.seen < self.nth + self.times


class FaultyStore(WrappedStore):
    """Fails as scripted; without a script it does what the inner store does.

    ``nth`` counts, from 1, the requests of this verb whose names begin with
    ``prefix``; ``times`` of them in a row fail.
    """

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self._faults: list[_Fault] = []
        self._capacity: int | None = None
        self._is_read_only = False
        self._lock = threading.Lock()

    def fail(
        self, verb: Verb, nth: int = 1, *, times: int = 1, prefix: str = "", error: Exception | None = None
    ) -> "FaultyStore":
        """Refuse a request without doing it."""
        self._faults.append(_Fault(verb, nth, times, prefix, error or _no_answer(), done_first=False))
        return self

    def lose_reply(
        self, verb: Verb, nth: int = 1, *, times: int = 1, prefix: str = "", error: Exception | None = None
    ) -> "FaultyStore":
        """Do a request and report it as failed."""
        self._faults.append(_Fault(verb, nth, times, prefix, error or _no_answer(), done_first=True))
        return self

    def fill_after(self, size: int) -> "FaultyStore":
        """Have room for this many more bytes; what goes over is refused, smaller things still fit."""
        self._capacity = size
        return self

    def make_read_only(self) -> "FaultyStore":
        """Refuse whatever writes from now on."""
        self._is_read_only = True
        return self

    def around(self, request: Request, call: Callable[[], _T]) -> _T:
        with self._lock:
            if self._is_read_only and request.verb in _NEEDS_WRITING:
                raise StoreReadOnly(f"{self.address!r} is read-only.")
            # Each fault counts on its own, also the requests another one strikes.
            due = [fault for fault in self._faults if fault.strikes(request)]
            if any(not fault.done_first for fault in due):
                raise next(fault.error for fault in due if not fault.done_first)
            if self._capacity is not None and request.verb in ("put", "put_if_absent", "write"):
                if request.size > self._capacity:
                    raise StoreFull(f"{self.address!r} is full.")
                self._capacity -= request.size
        result = call()
        if due:
            raise due[0].error
        return result


@dataclass(frozen=True)
class Flip:
    """Turn one bit over, counted from the first byte's lowest; negative from the end."""

    bit: int


@dataclass(frozen=True)
class Cut:
    """Keep only the first ``length`` bytes."""

    length: int


@dataclass(frozen=True)
class Swap:
    """Exchange the contents of two objects."""

    other: str


@dataclass(frozen=True)
class Remove:
    """Take the object away."""


Damage: TypeAlias = Flip | Cut | Swap | Remove


def tamper(store: Store, name: str, how: Damage) -> None:
    """Change a stored object as a rotten disk or an attacker would; looks through wrappers.

    A change that changes nothing is refused, or a test would pass for no reason.
    """
    base = store
    while isinstance(base, WrappedStore):
        base = base.inner
    if not isinstance(base, MemoryStore | DirectoryStore):
        raise TypeError(f"cannot tamper with a {type(base).__name__}")
    content = base.get(name)
    match how:
        case Remove():
            base.delete(name)
        case Flip(bit):
            changed = bytearray(content)
            place = bit % (8 * len(content))
            changed[place // 8] ^= 1 << place % 8
            _overwrite(base, name, bytes(changed))
        case Cut(length):
            _refuse_same(content, content[:length])
            _overwrite(base, name, content[:length])
        case Swap(other):
            other_content = base.get(other)
            _refuse_same(content, other_content)
            _overwrite(base, name, other_content)
            _overwrite(base, other, content)


def _refuse_same(old: bytes, new: bytes) -> None:
    if new == old:
        raise ValueError("this would leave the object as it is")


def _overwrite(store: MemoryStore | DirectoryStore, name: str, content: bytes) -> None:
    if isinstance(store, MemoryStore):
        store.overwrite(name, content)
    else:
        (Path(store.address) / name).write_bytes(content)


def _no_answer() -> StoreUnavailable:
    return StoreUnavailable("the store gave no answer.")


def _size(data: ObjectData) -> int:
    return memoryview(data).nbytes
