"""Read files in the shares of a host, across lost connections, always the same file."""

import threading
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from vmkeep.clock import Clock, sleep_looking
from vmkeep.host.files import statuses
from vmkeep.host.files.errors import AnotherFile, FileTooLarge
from vmkeep.host.files.extents import join_near
from vmkeep.host.files.facts import FileFacts, FileIdentity, FolderEntry, Proof
from vmkeep.host.files.link import Link
from vmkeep.host.files.paths import SharePlace
from vmkeep.host.files.wire import Handle, Lost, Refused, Wire
from vmkeep.ranges import ByteRange, clip

# A virus scanner, or the host's own look at a file, passes within moments.
_SHARING_PAUSES_S: Final = (0.2, 0.5, 1.0, 2.0, 4.0)
_MOST_ENTRIES: Final = 100_000

Result = TypeVar("Result")


class RemoteFile:
    """One open file of a share; a :class:`~vmkeep.host.files.facts.HostFile`."""

    def __init__(self, link: Link, place: SharePlace, name: str, proof: Proof | None, clock: Clock) -> None:
        self._link = link
        self._place = place
        self._name = name
        self._proof = proof
        self._clock = clock
        self._lock = threading.Lock()
        self._handle: Handle | None = None
        self._known: tuple[FileIdentity, object] | None = None
        self._closed = False
        self._ask(lambda handle: None)

    @property
    def name(self) -> str:
        return self._name

    def size(self) -> int:
        return self._ask(Handle.facts).size

    def read_into(self, offset: int, buffer: memoryview) -> int:
        return self._ask(lambda handle: handle.read_into(offset, buffer))

    def data_ranges(self, start: int, end: int) -> Iterator[ByteRange]:
        if start < end:
            found = self._ask(lambda handle: _allocated(handle, start, end))
            yield from clip(join_near(found), start, end)

    def identity(self) -> FileIdentity:
        return stat(self._link, self._place, self._name).identity

    def close(self) -> None:
        with self._lock:
            self._closed = True
            handle, self._handle = self._handle, None
        if handle is not None:
            self._link.let_go(handle)

    def _ask(self, action: Callable[[Handle], Result]) -> Result:
        def attempt(wire: Wire) -> Result:
            handle = self._handle_on(wire)
            try:
                return action(handle)
            except Lost as error:
                if error.only_handle:
                    self._forget(handle)
                raise

        return _explained(self._link, attempt, self._place, self._name)

    def _handle_on(self, wire: Wire) -> Handle:
        with self._lock:
            if self._closed:
                raise ValueError(f"{self._name!r} was closed")
            if self._handle is None or self._handle.wire is not wire:
                self._handle = self._open_on(wire)
            return self._handle

    def _forget(self, handle: Handle) -> None:
        with self._lock:
            if self._handle is handle:
                self._handle = None
        self._link.let_go(handle)

    def _open_on(self, wire: Wire) -> Handle:
        """Open the file, and if that is not the first time, prove that it is the one it was."""
        handle = self._open_patiently(wire)
        try:
            seen = handle.facts().identity
            known = (seen, self._prove(handle))
            if self._known is None:
                self._known = known
            elif not self._known[0].is_same_file(seen) or self._known[1] != known[1]:
                raise AnotherFile(
                    f"{self._name!r} is not the file any more that was opened.", path=self._name
                )
            elif not seen.number and self._proof is None:
                raise AnotherFile(
                    f"nothing proves that {self._name!r} is still the file that was opened.", path=self._name
                )
        except Lost:
            raise
        except BaseException:
            self._link.let_go(handle)
            raise
        return handle

    def _open_patiently(self, wire: Wire) -> Handle:
        for pause in _SHARING_PAUSES_S:
            try:
                return wire.open(self._place.share, self._place.path)
            except Refused as error:
                if error.status not in statuses.IN_USE:
                    raise
            sleep_looking(self._clock, pause, self._link.look)
        return wire.open(self._place.share, self._place.path)

    def _prove(self, handle: Handle) -> object:
        def read(offset: int, length: int) -> bytes:
            buffer = bytearray(length)
            return bytes(buffer[: handle.read_into(offset, memoryview(buffer))])

        return None if self._proof is None else self._proof(read)


def stat(link: Link, place: SharePlace, name: str) -> FileFacts:
    """Return what the path leads to now, without asking for a right to read it."""

    def attempt(wire: Wire) -> FileFacts:
        return _visit(link, wire.open(place.share, place.path, data=False), Handle.facts)

    return _explained(link, attempt, place, name)


def list_folder(link: Link, place: SharePlace, name: str) -> list[FolderEntry]:
    """Return what a folder holds, in the server's order."""

    def entries(handle: Handle) -> list[FolderEntry]:
        found = []
        for entry in handle.entries():
            found.append(entry)
            if len(found) > _MOST_ENTRIES:
                raise FileTooLarge(f"{name!r} holds more than {_MOST_ENTRIES} names.", path=name)
        return found

    def attempt(wire: Wire) -> list[FolderEntry]:
        return _visit(link, wire.open(place.share, place.path, folder=True), entries)

    return _explained(link, attempt, place, name)


def _visit(link: Link, handle: Handle, action: Callable[[Handle], Result]) -> Result:
    """Ask something of a handle and close it, unless its connection is gone."""
    try:
        result = action(handle)
    except Lost as error:
        if error.only_handle:
            link.let_go(handle)
        raise
    except BaseException:
        link.let_go(handle)
        raise
    link.let_go(handle)
    return result


def _explained(link: Link, attempt: Callable[[Wire], Result], place: SharePlace, name: str) -> Result:
    try:
        return link.run(attempt)
    except Refused as error:
        raise statuses.explain_status(error.status, error.step, name, place.share) from error


def _allocated(handle: Handle, start: int, end: int) -> list[ByteRange]:
    """Return the allocated ranges; the whole where the file is not sparse or nobody knows."""
    if handle.facts().is_sparse:
        try:
            return list(handle.allocated(start, end))
        except Refused as error:
            if error.status not in statuses.UNANSWERED:
                raise
    return [ByteRange(start, end - start)]
