"""Wait for a socket until a deadline, however the bytes drip, and look meanwhile whether it may go on.

A socket's own time limit begins anew with each byte: whoever sends one a second is waited for
without an end. Here one deadline counts for all that is read and written until the next is set.
"""

import io
import socket
import ssl
from collections.abc import Callable
from typing import Final, TypeVar

from vmkeep.clock import Clock, unwatched

_SLICE_S: Final = 0.25
T = TypeVar("T")


class PatientSocket:
    """A connected socket as :mod:`http.client` uses one; raises TimeoutError when the deadline has come."""

    def __init__(self, sock: socket.socket, clock: Clock) -> None:
        self._sock = sock
        self._clock = clock
        self._deadline = 0.0
        self._idle_s = 0.0
        self._look: Callable[[], None] = unwatched
        self._readers = 0
        self._is_closed = False

    def until(self, deadline: float, look: Callable[[], None]) -> None:
        """Wait no longer than this moment of the clock from here on; ``look`` may raise before."""
        self._deadline = deadline
        # Should the clock stand still, what was waited in vain counts.
        self._idle_s = deadline - self._clock.monotonic()
        self._look = look

    def encrypt(self, trust: ssl.SSLContext, name: str) -> None:
        """Speak TLS from here on. Raises ssl.SSLError, TimeoutError and OSError."""
        secure = trust.wrap_socket(self._sock, server_hostname=name, do_handshake_on_connect=False)
        self._sock = secure
        self._patiently(secure.do_handshake)

    @property
    def certificate(self) -> bytes | None:
        """The peer's certificate in DER; None without TLS."""
        return self._sock.getpeercert(True) if isinstance(self._sock, ssl.SSLSocket) else None

    def fileno(self) -> int:
        return self._sock.fileno()

    def sendall(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            part = left
            left = left[self._patiently(lambda: self._sock.send(part)) :]  # noqa: B023 - called at once

    def recv_into(self, buffer: memoryview) -> int:
        """Read what is there, at least a byte; 0 at the end."""
        return self._patiently(lambda: self._sock.recv_into(buffer))

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return a stream over this socket, which stays open until that is closed, too."""
        self._readers += 1
        return io.BufferedReader(_Stream(self))

    def close(self) -> None:
        self._is_closed = True
        if not self._readers:
            self._sock.close()

    def let_go(self) -> None:
        """Take notice that a stream was closed."""
        self._readers -= 1
        if self._is_closed and not self._readers:
            self._sock.close()

    def _patiently(self, attempt: Callable[[], T]) -> T:
        """Try until it works; a try that waited in vain has read and written nothing, also with TLS."""
        while True:
            self._look()
            left_s = min(self._deadline - self._clock.monotonic(), self._idle_s)
            if left_s <= 0:
                raise TimeoutError("timed out")
            slice_s = min(left_s, _SLICE_S)
            self._sock.settimeout(slice_s)
            try:
                return attempt()
            except TimeoutError:
                self._idle_s -= slice_s


class _Stream(io.RawIOBase):
    """What is read of a socket, as a stream."""

    def __init__(self, sock: PatientSocket) -> None:
        super().__init__()
        self._sock = sock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        return self._sock.recv_into(buffer)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._sock.let_go()
