"""Keep one server reachable: sign in once, sign in again when the connection is lost, never for ever."""

import logging
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from vmkeep.clock import Clock, sleep_looking
from vmkeep.host.files import login
from vmkeep.host.files.credentials import Credentials
from vmkeep.host.files.errors import AnswerUntrusted, HostFileError, HostUnreachable, LoginRefused
from vmkeep.host.files.wire import Handle, Lost, Wire

_log: Final = logging.getLogger(__name__)

# A minute in all: a service that restarts, a switch that relearns, a cluster that moves a share.
_PAUSES_S: Final = (0.1, 1.0, 4.0, 10.0, 20.0, 25.0)

Result = TypeVar("Result")


class Link:
    """The way to one server, made at the first question; for several threads at once."""

    def __init__(
        self,
        address: str,
        port: int,
        credentials: Credentials,
        *,
        require_encryption: bool,
        clock: Clock,
        timeout_s: float,
        look: Callable[[], None],
    ) -> None:
        """``look`` is called at least once a second by whoever waits, and may raise."""
        self.look = look
        self._address = address
        self._port = port
        self._credentials = credentials
        self._require_encryption = require_encryption
        self._clock = clock
        self._timeout_s = timeout_s
        self._lock = threading.RLock()
        self._wire: Wire | None = None
        self._refused: LoginRefused | None = None
        self._was_connected = False
        self._buried_login = 0  # a lost login that may still hold files open on the server
        self._buried_handles = 0
        self._closed = False

    def open_handles(self) -> int:
        """Count the files that the server may still hold open for us."""
        with self._lock:
            return self._buried_handles + (self._wire.open_handles() if self._wire is not None else 0)

    def run(self, action: Callable[[Wire], Result]) -> Result:
        """Do ``action`` with a live connection; again with a new one when it is lost on the way.

        The action must be repeatable. Raises HostUnreachable or AnswerUntrusted when patience ends.
        """
        for pause in (*_PAUSES_S, None):
            wire = None
            try:
                wire = self._live()
                return action(wire)
            except Lost as error:
                if wire is not None and not error.only_handle:
                    self._bury(wire)
                # Who was never there is not waited for: the address is wrong, or the host is off.
                if pause is None or self._closed or not self._was_connected:
                    raise self._final(error) from error
                sleep_looking(self._clock, pause, self.look)
        raise AssertionError("the last attempt returns or raises")

    def let_go(self, handle: Handle) -> None:
        """Close a handle; where that cannot be, drop the connection, which ends the handle too."""
        try:
            handle.close()
        except Lost:
            self._bury(handle.wire)

    def end_lost_login(self) -> bool:
        """Sign in again where a lost login may hold files open, which ends it; False if that fails now.

        Also where nobody waited for the end of an open: only the end of the login closes such a file.
        To be called when nobody else reads.
        """
        with self._lock:
            if self._wire is not None and self._wire.has_unheard_opens:
                self._bury(self._wire)
            try:
                if self._wire is None and self._buried_handles and not self._closed:
                    self._sign_in()
            except (Lost, HostFileError) as error:
                _log.warning("%s:%d cannot be told to close our files: %s", self._address, self._port, error)
                return False
            return True

    def close(self) -> None:
        """Log off, so that the server closes everything; what it cannot be told stays counted."""
        with self._lock:
            self._closed = True
            try:
                if self._wire is None and self._buried_handles:
                    self._sign_in()  # for nothing else than having the lost login ended
                if self._wire is not None:
                    self._wire.log_off()
            except (Lost, HostFileError):
                # The server is out of reach: open_handles() says what it may still hold.
                if self._wire is not None:
                    self._bury(self._wire)
            if self._wire is not None:
                self._wire.cut()
                self._wire = None

    def _live(self) -> Wire:
        with self._lock:
            if self._closed:
                raise Lost("the files of this host were closed")
            return self._wire or self._sign_in()

    def _sign_in(self) -> Wire:
        if self._refused is not None:
            # failures.md 4.6: an account that is tried again and again gets locked.
            raise self._refused
        try:
            self._wire = login.connect(
                self._address,
                self._port,
                self._credentials,
                require_encryption=self._require_encryption,
                timeout_s=self._timeout_s,
                look=lambda: self.look(),
                previous_login=self._buried_login,
            )
        except LoginRefused as error:
            self._refused = error
            raise
        # [MS-SMB2] 3.3.5.5.3: signing in with the lost login's number has closed its files.
        self._buried_login = self._buried_handles = 0
        self._was_connected = True
        return self._wire

    def _bury(self, wire: Wire) -> None:
        """Drop a connection that is lost, and remember what the server may not have noticed."""
        with self._lock:
            if self._wire is wire:
                self._wire = None
                self._buried_handles = wire.open_handles()
                self._buried_login = wire.login_id if self._buried_handles else 0
        wire.cut()

    def _final(self, error: Lost) -> HostFileError:
        where = f"{self._address}:{self._port}"
        if error.untrusted:
            return AnswerUntrusted(f"an answer of {where} cannot be trusted: {error}.", address=self._address)
        reason = str(error).rpartition(f"{where}': ")[2]  # the library begins by saying where, too
        return HostUnreachable(
            f"{where} cannot be reached: {reason}.", address=self._address, port=self._port
        )
