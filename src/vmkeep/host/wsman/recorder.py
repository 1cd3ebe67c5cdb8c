"""Write a trace of the wire that can be shown to others and replayed.

docs/trace.md describes it: JSON lines, each one request and its reply, as opened
XML with names replaced (see :mod:`scrubbing`). Logins, headers and keys never come
near it.
"""

import json
import threading
from typing import Final, TextIO

from vmkeep.clock import Clock
from vmkeep.host.wsman.endpoint import Endpoint
from vmkeep.host.wsman.errors import HostNonsense
from vmkeep.host.wsman.scrubbing import Scrubber

FORMAT: Final = 1


class Recorder:
    """Writes to one stream, for one host or several; safe to share between threads."""

    def __init__(self, stream: TextIO, clock: Clock) -> None:
        self._stream = stream
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
            self._number += 1
            self._write(
                {
                    "n": self._number,
                    "at_ms": round((self._clock.monotonic() - self._began) * 1000),
                    "action": action,
                    "resource": resource,
                    "request": self._scrubbed(request),
                    "status": status,
                    "reply": self._scrubbed(reply),
                }
            )

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
