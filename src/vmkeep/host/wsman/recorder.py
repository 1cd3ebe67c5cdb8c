"""Write a trace of the wire that can be shown to others and replayed.

docs/trace.md describes it: JSON lines, each one request and its reply, as opened
XML with names replaced (see :mod:`scrubbing`). Logins, headers and keys never come
near it.
"""

import json
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from vmkeep.clock import Clock
from vmkeep.host.wsman.endpoint import Endpoint
from vmkeep.host.wsman.errors import HostNonsense
from vmkeep.host.wsman.scrubbing import Scrubber

FORMAT: Final = 1
_log: Final = logging.getLogger(__name__)


class Lines(Protocol):
    """Where the lines of a trace go; what cannot be written is an OSError."""

    def write(self, line: str, /) -> object: ...

    def flush(self) -> object: ...


class TraceFile:
    """A new file that only its owner can read; it holds whole lines, whatever happens to its disk."""

    def __init__(self, file: Path) -> None:
        """Make the file. Raises FileExistsError and OSError."""
        self._number = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._number)

    def write(self, line: str) -> None:
        """Append a line; on OSError nothing of it stays."""
        data = memoryview(line.encode("utf-8"))
        try:
            while data:
                data = data[os.write(self._number, data) :]
        except OSError:
            os.ftruncate(self._number, self._size)
            os.lseek(self._number, self._size, os.SEEK_SET)
            raise
        self._size = os.lseek(self._number, 0, os.SEEK_CUR)

    def flush(self) -> None:
        """Nothing is kept back."""


class Recorder:
    """Writes to one stream, for one host or several; safe to share between threads."""

    def __init__(self, stream: Lines, clock: Clock, lost: Callable[[str], None] = _log.warning) -> None:
        """Begin a trace. Raises OSError; from then on a trace that cannot be written is ``lost``, once.

        What is recorded goes on without it: a trace is not worth a restore point, still less a clean-up.
        """
        self._stream = stream
        self._lost = lost
        self._is_lost = False
        self._clock = clock
        self._began = clock.monotonic()
        self._scrubber = Scrubber()
        self._number = 0
        self._lock = threading.Lock()
        self._write({"vmkeep_trace": FORMAT})

    def hide(self, endpoint: Endpoint) -> None:
        """Have placeholders for a host's address and for user and domain."""
        with self._lock:
            self._hide(endpoint)

    def _hide(self, endpoint: Endpoint) -> None:
        self._scrubber.hide("host", endpoint.address)
        short, dot, domain = endpoint.address.partition(".")
        if dot and not short.isdigit():
            self._scrubber.hide("host", short)
            self._scrubber.hide("domain", domain)
        user = endpoint.user or ""
        name, at, realm = user.partition("@")
        if not at:
            realm, _, name = user.rpartition("\\")
        self._scrubber.hide("user", name)
        self._scrubber.hide("domain", realm)

    def record(self, action: str, resource: str, request: bytes, status: int, reply: bytes) -> None:
        """Write one request and its reply."""
        with self._lock:
            if self._is_lost:
                return
            self._number += 1
            line = {
                "n": self._number,
                "at_ms": round((self._clock.monotonic() - self._began) * 1000),
                "action": action,
                "resource": resource,
                "request": self._scrubbed(request),
                "status": status,
                "reply": self._scrubbed(reply),
            }
            try:
                self._write(line)
            except OSError as error:
                self._is_lost = True
                self._tell_loss((error.strerror or str(error)).lower())

    def _tell_loss(self, reason: str) -> None:
        """Say that the trace ends here: in it, if there is room for a word, and to whoever listens."""
        try:
            self._write({"incomplete": reason})
            told = "it says so at its end"
        except OSError:
            told = "it does not say so itself"
        self._lost(f"the trace is incomplete from here on, and {told}: {reason}.")

    def _scrubbed(self, content: bytes) -> str:
        if not content:
            return ""
        try:
            return self._scrubber.xml(content.decode("utf-8", "replace"))
        except HostNonsense:
            return f"({len(content)} bytes that are not XML)"

    def _write(self, line: dict[str, object]) -> None:
        self._stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._stream.flush()
