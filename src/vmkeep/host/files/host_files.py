"""Open the files of one host by the names the host gives them, wherever they lead."""

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, Self

from vmkeep.clock import Clock, SystemClock, unwatched
from vmkeep.host.files import local, remote
from vmkeep.host.files.credentials import Credentials
from vmkeep.host.files.errors import BadPathMap, FileMissing, FileTooLarge, LoginRefused
from vmkeep.host.files.facts import FileFacts, FolderEntry, HostFile, Proof
from vmkeep.host.files.link import Link
from vmkeep.host.files.paths import FolderPlace, PathMap, SharePlace

_TIMEOUT_S: Final = 60.0  # as long as a disk behind a busy controller may take for one answer


class HostFiles:
    """All files of one host; connects when the first is asked for. Safe for several threads."""

    def __init__(
        self,
        address: str,
        port: int,
        credentials: Credentials | None,
        paths: PathMap,
        *,
        require_encryption: bool = False,
        clock: Clock | None = None,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        """Take the host's address; without ``credentials`` only mapped folders can be read."""
        self._address = address
        self._port = port
        self._credentials = credentials
        self._paths = paths
        self._require_encryption = require_encryption
        self._clock = clock or SystemClock()
        self._timeout_s = timeout_s
        self._look: Callable[[], None] = unwatched
        self._lock = threading.Lock()
        self._links: dict[tuple[str, int], Link] = {}
        self._local_files: weakref.WeakSet[local.LocalFile] = weakref.WeakSet()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def looking(self, look: Callable[[], None]) -> Iterator[None]:
        """Have ``look`` called at least once a second by each thread that waits for the host.

        What it raises ends the wait. A mapped folder is the operating system's, which waits alone.
        """
        before = self._look
        self._have_look(look)
        try:
            yield
        finally:
            self._have_look(before)

    def _have_look(self, look: Callable[[], None]) -> None:
        with self._lock:
            self._look = look
            for link in self._links.values():
                link.look = look

    def open(self, path: str, *, proof: Proof | None = None) -> HostFile:
        """Open a file for reading, in nobody's way; the caller closes it, or :meth:`close` does.

        Raises what ``errors.py`` lists.
        """
        place = self._place(path)
        if isinstance(place, SharePlace):
            return remote.RemoteFile(self._link_to(place), place, path, proof, self._clock)
        file = local.LocalFile(place, path, proof)
        self._local_files.add(file)
        return file

    def stat(self, path: str) -> FileFacts:
        """Return size, kind and identity of what is at ``path`` now."""
        place = self._place(path)
        if isinstance(place, SharePlace):
            return remote.stat(self._link_to(place), place, path)
        return local.stat(place, path)

    def exists(self, path: str) -> bool:
        """Tell whether there is a file or folder; a share or mapped folder that is missing is an error."""
        try:
            self.stat(path)
        except FileMissing:
            return False
        return True

    def list_folder(self, path: str) -> list[FolderEntry]:
        """Return what a folder holds, by name."""
        place = self._place(path)
        if isinstance(place, SharePlace):
            found = remote.list_folder(self._link_to(place), place, path)
        else:
            found = local.list_folder(place, path)
        return sorted(found, key=lambda entry: entry.name)

    def read(self, path: str, limit: int) -> bytes:
        """Return the bytes of a file of at most ``limit`` bytes; raises FileTooLarge for a larger one."""
        with contextlib.closing(self.open(path)) as file:
            # One byte more than allowed: the file may grow after it was asked for its size.
            buffer = bytearray(min(file.size(), limit) + 1)
            got = file.read_into(0, memoryview(buffer))
        if got > limit:
            raise FileTooLarge(f"{path!r} is larger than {limit} bytes.", path=path)
        return bytes(buffer[:got])

    @property
    def open_handles(self) -> int:
        """How many files the host may still hold open for us; it merges no checkpoint before this is 0."""
        with self._lock:
            links = list(self._links.values())
        return sum(link.open_handles() for link in links)

    def end_lost_logins(self) -> bool:
        """Have the host close what it may hold open for connections that were lost.

        False if it is out of reach now; :attr:`open_handles` says what is left.
        """
        with self._lock:
            links = list(self._links.values())
        ended = [link.end_lost_login() for link in links]
        return all(ended)

    def protection(self, path: str) -> str:
        """Name what protects the answers from where ``path`` leads, as ``AES-GMAC``; empty for a folder."""
        place = self._place(path)
        if not isinstance(place, SharePlace):
            return ""
        return self._link_to(place).run(lambda wire: wire.protection)

    def close(self) -> None:
        """Close every file and log off; safe to repeat.

        A host that is out of reach is no error: :attr:`open_handles` says what it may still hold.
        """
        with self._lock:
            links = list(self._links.values())
        for link in links:
            link.close()
        for file in list(self._local_files):
            file.close()

    def _place(self, path: str) -> SharePlace | FolderPlace:
        place = self._paths.place(path)
        if isinstance(place, FolderPlace) and not local.IS_POSSIBLE:
            raise BadPathMap(
                f"{path!r} is mapped to a folder, which this system cannot keep links out of.",
                hint="Share the folder and write 'smb://localhost/SHARE' instead.",
                path=path,
            )
        return place

    def _link_to(self, place: SharePlace) -> Link:
        if self._credentials is None:
            raise LoginRefused(f"no account is given for {self._address!r}.", address=self._address)
        address, port = place.server or self._address, place.port or self._port
        with self._lock:
            key = (address.lower(), port)
            if key not in self._links:
                self._links[key] = Link(
                    address,
                    port,
                    self._credentials,
                    require_encryption=self._require_encryption,
                    clock=self._clock,
                    timeout_s=self._timeout_s,
                    look=self._look,
                )
            return self._links[key]
