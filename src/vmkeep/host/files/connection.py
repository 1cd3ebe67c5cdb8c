"""Close the gaps of smbprotocol's connection that would hurt a backup.

Each of these was read in the sources of smbprotocol 1.17: an unsigned answer
passes although signing was agreed; several waits have no end; a request that
finds no credits fails instead of waiting; sockets numbered 1024 and above
break ``select``; a dying receiver can leave a waiting thread behind.
"""

import logging
import threading
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from smbprotocol.connection import Connection
from smbprotocol.exceptions import SMBException
from smbprotocol.header import Commands, NtStatus, Smb2Flags
from smbprotocol.transport import Tcp

from vmkeep.host.dialing import dial

# At INFO smbprotocol formats every message it sends; what matters is in our errors.
_log: Final = logging.getLogger("smbprotocol")
_log.setLevel(logging.WARNING)
_log.addHandler(logging.NullHandler())

_CREDIT_BYTES: Final = 64 << 10  # [MS-SMB2] 3.2.4.1.5: one credit pays for 64 KiB either way
_LARGEST_ANSWER: Final = 4 << 20  # we never ask for more than 1 MiB at once
_SLICE_S: Final = 0.25  # so often whoever waits for an answer looks whether it is still wanted
_NOT_A_REPLY: Final = 0xFFFF_FFFF_FFFF_FFFF  # the message id of an oplock break ([MS-SMB2] 3.2.5.1.2)


class Untrusted(Exception):
    """An answer was not protected as agreed."""


class HardenedConnection(Connection):  # type: ignore[misc]
    """A connection that trusts protected answers only, and never waits without end."""

    def __init__(self, address: str, port: int, timeout_s: float, look: Callable[[], None]) -> None:
        """``look`` is called a few times a second, by each thread that waits, and may raise."""
        self._look = look
        self._credits = threading.Condition()
        self._timeout_s = timeout_s
        self.previous_session_id = 0
        super().__init__(uuid.uuid4(), address, port, require_signing=True)
        self.outstanding_requests = _Outstanding()

    @property
    def transport(self) -> "_Transport | None":
        return self._transport

    @transport.setter
    def transport(self, made: Tcp | None) -> None:
        # connect() makes its own and offers no other place to put a better one.
        self._transport = None if made is None else _Transport(made, self._timeout_s, self._look)

    @property
    def is_alive(self) -> bool:
        return self._t_exc is None and self._transport is not None and bool(self._transport.connected)

    def send(self, message: Any, *positional: Any, **options: Any) -> Any:
        """Send when there are credits for it; wait for them if other requests are on their way."""
        if message.COMMAND == Commands.SMB2_SESSION_SETUP:
            # [MS-SMB2] 3.3.5.5.3: the server closes every file of the run of ours that was cut off.
            message["previous_session_id"] = self.previous_session_id
        charge = max(1, self._calculate_credit_charge(message))
        with self._credits:
            if not _in_slices(
                partial(self._credits.wait_for, lambda: self._may_send(charge)), self._timeout_s, self._look
            ):
                raise SMBException(f"the server gave no {charge} credits in {self._timeout_s} s")
            return super().send(message, *positional, **options)

    def send_within_credits(self, message: Any, **options: Any) -> Any:
        """Send now, or return None if there are too few credits at the moment."""
        with self._credits:
            if not self._may_send(max(1, self._calculate_credit_charge(message))):
                return None
            return super().send(message, **options)

    def affordable_bytes(self) -> int:
        """Return how much one request may ask for with the credits at hand; 64 KiB at least."""
        return max(1, self._spare_credits()) * _CREDIT_BYTES

    def receive(self, request: Any, wait: bool = True, timeout: Any = None, **_: Any) -> Any:
        """Wait for one answer, never for ever; a link on the way is an error, not followed."""
        try:
            request.response_event = _LookedEvent(request.response_event, self._look)
            return super().receive(request, wait, timeout or self._timeout_s, resolve_symlinks=False)
        finally:
            with self._credits:
                self._credits.notify_all()

    def verify_signature(self, header: Any, session_id: Any, force: bool = False) -> None:
        """Let pass only what is signed as agreed; what should have been encrypted never comes here."""
        session = self.session_table.get(session_id)
        exempt = (
            header["message_id"].get_value() == _NOT_A_REPLY
            or header["status"].get_value() == NtStatus.STATUS_PENDING
            or header["command"].get_value() == Commands.SMB2_SESSION_SETUP
        )
        if session is not None and not force and not exempt:
            if session.encrypt_data:
                raise Untrusted("an answer is not encrypted")
            if not header["flags"].has_flag(Smb2Flags.SMB2_FLAGS_SIGNED):
                raise Untrusted("an answer is not signed")
        try:
            super().verify_signature(header, session_id, force)
        except SMBException as error:
            raise Untrusted("the signature of an answer is wrong") from error

    def _decrypt(self, message: Any) -> Any:
        try:
            return super()._decrypt(message)
        except InvalidTag as error:
            raise Untrusted("an encrypted answer is damaged or forged") from error

    def _may_send(self, charge: int) -> bool:
        # Without a connection sending fails at once, which is what the caller must see.
        return self._spare_credits() >= charge or not self.is_alive

    def _spare_credits(self) -> int:
        with self.sequence_lock:
            return int(self.sequence_window["high"] - self.sequence_window["low"])


class _LookedEvent:
    """An event that is looked away from a few times a second by whoever waits for it."""

    def __init__(self, event: threading.Event, look: Callable[[], None]) -> None:
        self._event = event
        self._look = look
        self.set, self.clear, self.is_set = event.set, event.clear, event.is_set

    def wait(self, timeout: float) -> bool:
        return _in_slices(self._event.wait, timeout, self._look)


def _in_slices(wait: Callable[[float], bool], limit_s: float, look: Callable[[], None]) -> bool:
    """Wait, and look before each slice of it; tell whether what was waited for came."""
    while True:
        look()
        if wait(min(limit_s, _SLICE_S)):
            return True
        limit_s -= _SLICE_S
        if limit_s <= 0:
            return False


class _Outstanding(dict[int, Any]):
    """The requests without an answer; the receiver walks over them while others add to them."""

    def values(self) -> Any:
        return list(super().values())


class _Transport(Tcp):  # type: ignore[misc]
    """A TCP connection that waits by its own timeout, without ``select``, in both directions."""

    def __init__(self, plain: Tcp, timeout_s: float, look: Callable[[], None]) -> None:
        super().__init__(plain.server, plain.port, timeout_s)
        self._look = look

    def connect(self) -> None:
        with self._sock_lock:
            self._sock = dial(self.server, self.port, self.timeout, self._look)
            self.connected = True

    def _recv(self, length: int, timeout: float) -> tuple[bytes | None, float]:
        """Return ``length`` bytes, None at the end; TimeoutError says that no answer has begun."""
        if not 0 < length <= _LARGEST_ANSWER:
            raise ConnectionAbortedError(f"an answer of {length} bytes")
        data = bytearray(length)
        view = memoryview(data)
        done = 0
        while done < length:
            # The lock is what close() waits for, having shut the socket down.
            with self._close_lock:
                if not self.connected:
                    return None, timeout
                try:
                    got = self._sock.recv_into(view[done:])
                except TimeoutError as error:
                    if done or length != 4:  # 4: the length in front of an answer
                        raise ConnectionAbortedError("the peer stopped within an answer") from error
                    raise
                except OSError as error:
                    _log.debug("the connection broke: %s", error)
                    got = 0
            if not got:
                self.close()
                return None, timeout
            done += got
        return bytes(data), timeout
