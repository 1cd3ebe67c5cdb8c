"""Carry messages over one HTTP connection that is logged in, and sealed where TLS does not do it.

Why not a ready client: what is repeated after a failure depends on whether the
host can have acted on a request, and only whoever owns the connection knows
(docs/decisions). The rules of the transport: never a proxy, never a redirect,
never an answer in clear text on a sealed connection, nothing without a bound.
"""

import http.client
import selectors
import ssl
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple, Protocol

from vmkeep.clock import Clock, unwatched
from vmkeep.host.dialing import dial
from vmkeep.host.wsman.endpoint import Endpoint
from vmkeep.host.wsman.envelope import MAX_ENVELOPE
from vmkeep.host.wsman.errors import (
    ClocksDisagree,
    ConnectionLost,
    EndpointUnusable,
    HostError,
    HostNonsense,
    HostNotTrusted,
    HostTimedOut,
    HostUnreachable,
    LoginImpossible,
    LoginRefused,
)
from vmkeep.host.wsman.login import Login, offers
from vmkeep.host.wsman.patience import PatientSocket
from vmkeep.host.wsman.sealing import content_type, is_sealed, seal, unseal

_SOAP: Final = "application/soap+xml;charset=UTF-8"
_LONGEST_ANSWER: Final = 4 * MAX_ENVELOPE  # sealed or not; the host was asked for a quarter of it
_READ_AT_ONCE: Final = 64 * 1024
_MOST_LEGS: Final = 6  # of one login; NTLM has three, Kerberos one or two
_SKEW_S: Final = 300  # what Kerberos tolerates
_MOST_STATUS_LINES: Final = 100  # of one reply: interim ones may come first (RFC 9110, section 15.2)
_NOT_YET_VALID: Final = 9  # X509_V_ERR_CERT_NOT_YET_VALID

_CERTIFICATE_FAULTS: Final = {
    _NOT_YET_VALID: "it is not valid yet",
    10: "its time is over",
    18: "it is signed by itself",
    19: "its chain ends at an authority that this machine does not trust",
    20: "its issuer is not among the trusted authorities",
    21: "its signature cannot be checked",
    23: "it was revoked",
    62: "it was issued for another name",
    64: "it was issued for another IP address",
}


class HttpReply(NamedTuple):
    """An HTTP status and the opened content; empty where the content cannot be trusted."""

    status: int
    content: bytes


class Transport(Protocol):
    """What carries an envelope to a host and its answer back."""

    def send(self, content: bytes, wait_s: float) -> HttpReply:
        """Send an envelope and return the answer, which may take ``wait_s``, and a login as long again.

        Raises ConnectionLost or HostTimedOut if the host may have acted on it, and
        other errors if it cannot have.
        """

    def be_watched(self, look: Callable[[], None]) -> None:
        """Call ``look`` a few times a second while an answer is awaited; what it raises ends the wait."""

    def close(self) -> None:
        """Let the connection go; a later ``send`` opens a new one."""


class _Raw(NamedTuple):
    """One HTTP reply as it came."""

    status: int
    content_type: str
    offers: dict[str, bytes]
    date: str
    content: bytes


class _Response(http.client.HTTPResponse):
    """A reply in front of which there is an end to "100 Continue"; http.client reads on for ever."""

    _status_lines = 0

    def _read_status(self) -> tuple[str, int, str]:
        self._status_lines += 1
        if self._status_lines > _MOST_STATUS_LINES:
            raise http.client.HTTPException("interim replies without an end")
        line: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]
        return line


class Connection:
    """The connection to one host: opened, logged in and renewed when it is needed."""

    def __init__(self, endpoint: Endpoint, clock: Clock) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._http: http.client.HTTPConnection | None = None
        self._socket: PatientSocket | None = None
        self._login: Login | None = None
        self._look: Callable[[], None] = unwatched

    def send(self, content: bytes, wait_s: float) -> HttpReply:
        """Send an envelope and return the answer; see :class:`Transport`.

        A connection that the host let go while it was idle is replaced first. One
        that it let go unnoticed shows by 401 or 400: the host could not open the
        message, so it is sent once more on a new connection (protocols.md 1.3).
        """
        try:
            reply = self._send_once(content, wait_s, reused=self._is_alive())
            if reply is None:
                reply = self._send_once(content, wait_s, reused=False)
            if reply is None:
                raise HostNonsense(f"{self._endpoint.url} forgets logins at once.", host=self._endpoint.url)
        except BaseException:  # also a signal's: whoever cleans up then must not read the answer of before
            self.close()  # nobody knows what is still to come on it
            raise
        return reply

    def be_watched(self, look: Callable[[], None]) -> None:
        """Call ``look`` a few times a second; see :class:`Transport`."""
        self._look = look

    def close(self) -> None:
        """Let the connection and the keys of its login go."""
        if self._http is not None:
            self._http.close()
        self._http = self._socket = self._login = None

    def _is_alive(self) -> bool:
        if self._http is None or self._http.sock is None:
            return False
        # Nothing is under way, so what can be read is the end, or nothing that was asked for.
        with selectors.DefaultSelector() as selector:
            selector.register(self._http.sock, selectors.EVENT_READ)
            return not selector.select(0)

    def _send_once(self, content: bytes, wait_s: float, *, reused: bool) -> HttpReply | None:
        """Send on the open connection or a new one; None if this login is not known any more."""
        sealing = self._endpoint.transport == "http"
        if not reused:
            self.close()
            self._open()
            early = self._log_in(b"" if sealing else content, wait_s)
            if early is not None:
                if sealing:
                    self.close()  # it is not logged in, and must not be taken for it
                return early
        if not sealing:
            raw = self._exchange(content, _SOAP, wait_s)
            if raw.status != 401:
                return HttpReply(raw.status, raw.content)
            if self._http is None or self._http.sock is None:
                return None
            return self._log_in(content, wait_s, raw)
        assert self._login is not None, "a sealed connection is logged in"
        announced = content_type(self._login.protocol)
        raw = self._exchange(seal(self._login, self._login.protocol, content), announced, wait_s)
        if is_sealed(raw.content_type):
            return HttpReply(raw.status, unseal(self._login, raw.content))
        if raw.status == 401 or (raw.status == 400 and reused):
            return None
        if raw.status == 200:
            raise HostNonsense(
                f"{self._endpoint.url} answers a sealed message in clear text.", host=self._endpoint.url
            )
        return HttpReply(raw.status, b"")  # anybody on the way can have written it: only a refusal

    def _log_in(self, content: bytes, wait_s: float, first: _Raw | None = None) -> HttpReply | None:
        """Log in, sending ``content`` with each token; return the reply, None if that is only the login.

        Over TLS the message travels with the login, because a host may ask for one
        with each message; to be sealed it has to wait for the keys.
        """
        # However many legs it has. Over TLS the last of them carries the question, too.
        latest = self._clock.monotonic() + (2 if content else 1) * wait_s
        raw = first or self._exchange(b"", None, wait_s)
        if raw.status != 401:
            if raw.status == 200:
                raise HostNonsense(
                    f"{self._endpoint.url} does not ask who is there.", host=self._endpoint.url
                )
            return HttpReply(raw.status, b"")
        if self._http is None or self._http.sock is None:
            self._open()  # the host ended the connection with its first "who are you?"
        login = Login(self._endpoint, raw.offers, self._certificate())
        token = login.step(None)
        for _ in range(_MOST_LEGS):
            if token is None or self._http is None or self._http.sock is None:
                break
            left_s = max(0.0, min(wait_s, latest - self._clock.monotonic()))
            raw = self._exchange(content, _SOAP if content else None, left_s, token)
            given = raw.offers.get(token.partition(" ")[0].lower(), b"")
            if raw.status == 401 and (not given or login.is_complete):
                raise self._refused(raw.date)
            token = login.step(given) if given and not login.is_complete else None
            if raw.status != 401:
                return self._logged_in(login, raw, is_message=bool(content))
        raise LoginImpossible(
            f"{self._endpoint.url} broke off the login; something between may take connections apart.",
            host=self._endpoint.url,
        )

    def _logged_in(self, login: Login, raw: _Raw, *, is_message: bool) -> HttpReply | None:
        if is_message:
            return HttpReply(raw.status, raw.content)
        if raw.status == 503:
            return HttpReply(raw.status, b"")
        if not login.is_complete:
            raise LoginImpossible(
                f"{self._endpoint.url} lets {self._endpoint.user!r} in without proving that it knows the "
                "password; nothing is sent to it.",
                host=self._endpoint.url,
            )
        self._login = login
        return None

    def _refused(self, date: str) -> HostError:
        """Return the refusal of a login, or the clocks if they are the likelier reason."""
        url, user = self._endpoint.url, self._endpoint.user
        try:
            skew_s = (parsedate_to_datetime(date) - self._clock.now()).total_seconds()
        except (TypeError, ValueError):
            skew_s = 0.0  # no date, or none that can be read: nothing is known about its clock
        if abs(skew_s) > _SKEW_S:
            return ClocksDisagree(
                f"{url} refuses the user {user!r}, and its clock is {abs(skew_s) / 60:.0f} minutes "
                f"{'ahead' if skew_s > 0 else 'behind'}.",
                host=url,
                skew_s=skew_s,
            )
        if self._endpoint.password is None:
            whose = "" if user is None else f" of {user!r}"
            return LoginRefused(f"{url} refuses the ticket{whose}.", host=url, user=user)
        return LoginRefused(f"{url} refuses the user {user!r} and the password given.", host=url, user=user)

    # --- one connection, one exchange ---------------------------------------------

    def _open(self) -> None:
        endpoint = self._endpoint
        connection: http.client.HTTPConnection
        if endpoint.transport == "https":
            trust = self._trust()
            connection = http.client.HTTPSConnection(endpoint.address, endpoint.tcp_port, context=trust)
        else:
            trust = None
            connection = http.client.HTTPConnection(endpoint.address, endpoint.tcp_port)
        connection.response_class = _Response
        connection.auto_open = 0  # a connection that opened itself would not be logged in
        try:
            sock = self._dialled(connection.host, connection.port, trust)
        except ssl.SSLCertVerificationError as error:
            raise self._not_trusted(error) from error
        except ssl.SSLError as error:
            raise HostNonsense(
                f"{endpoint.url} does not speak TLS as it should ({error.reason}).", host=endpoint.url
            ) from error
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise HostUnreachable(
                f"{endpoint.url} cannot be reached: {reason}.", host=endpoint.url
            ) from error
        connection.sock = sock
        self._http, self._socket = connection, sock

    def _dialled(self, name: str, port: int, trust: ssl.SSLContext | None) -> PatientSocket:
        """Return a new connection to the host, with TLS where there is ``trust``."""
        limit_s = self._endpoint.connect_timeout_s
        sock = PatientSocket(dial(name, port, limit_s, self._look), self._clock)
        try:
            if trust is not None:
                sock.until(self._clock.monotonic() + limit_s, self._look)
                sock.encrypt(trust, name)
        except BaseException:
            sock.close()
            raise
        return sock

    def _trust(self) -> ssl.SSLContext:
        """Return what certificates are checked by: TLS 1.2 or later, name and chain."""
        file = self._endpoint.ca_file
        try:
            return ssl.create_default_context(cafile=None if file is None else str(file))
        except (OSError, ssl.SSLError) as error:
            raise EndpointUnusable(f"ca_file {str(file)!r} holds no certificate that can be read.") from error

    def _not_trusted(self, error: ssl.SSLCertVerificationError) -> HostError:
        url = self._endpoint.url
        reason = _CERTIFICATE_FAULTS.get(
            error.verify_code, f"verification ends with code {error.verify_code}"
        )
        kind = ClocksDisagree if error.verify_code == _NOT_YET_VALID else HostNotTrusted
        return kind(
            f"the certificate of {url} is not trusted: {reason}.", host=url, verify_code=error.verify_code
        )

    def _certificate(self) -> bytes | None:
        return None if self._socket is None else self._socket.certificate

    def _exchange(self, content: bytes, kind: str | None, wait_s: float, token: str | None = None) -> _Raw:
        """Send one HTTP request and read its reply.

        Without content nothing can have run, whatever happens: the host is unreachable.
        """
        assert self._http is not None, "the connection is open"
        url = self._endpoint.url
        try:
            return self._exchanged(self._http, content, kind, wait_s, token)
        except TimeoutError as error:
            late = HostTimedOut if content else HostUnreachable
            raise late(f"{url} did not answer in {wait_s:.0f} s.", host=url) from error
        except (http.client.IncompleteRead, OSError) as error:  # RemoteDisconnected is one of these
            broken = ConnectionLost if content else HostUnreachable
            raise broken(f"the connection to {url} broke.", host=url) from error
        except (http.client.HTTPException, ValueError) as error:
            raise HostNonsense(f"{url} does not speak HTTP as it should.", host=url) from error

    def _exchanged(
        self,
        connection: http.client.HTTPConnection,
        content: bytes,
        kind: str | None,
        wait_s: float,
        token: str | None,
    ) -> _Raw:
        assert self._socket is not None, "the connection is open"
        self._socket.until(self._clock.monotonic() + wait_s, self._look)
        connection.putrequest("POST", "/wsman", skip_accept_encoding=True)
        for name, value in (
            ("User-Agent", "vmkeep"),
            ("Connection", "Keep-Alive"),
            ("Content-Type", kind),
            ("Content-Length", str(len(content))),
            ("Authorization", token),
        ):
            if value is not None:
                connection.putheader(name, value)
        connection.endheaders(content)
        with connection.getresponse() as response:
            announced = response.headers.get_all("WWW-Authenticate", [])
            expected = response.length
            if (expected or 0) > _LONGEST_ANSWER:
                raise HostNonsense(
                    f"{self._endpoint.url} announces {expected} bytes.", host=self._endpoint.url
                )
            body = bytearray()
            while expected is None or len(body) < expected:
                wanted = _READ_AT_ONCE if expected is None else min(_READ_AT_ONCE, expected - len(body))
                part = response.read1(wanted)
                if not part:
                    break
                body += part
                if len(body) > _LONGEST_ANSWER:
                    raise HostNonsense(
                        f"{self._endpoint.url} answers without an end.", host=self._endpoint.url
                    )
            if expected is not None and len(body) < expected:
                raise http.client.IncompleteRead(b"", expected - len(body))
            return _Raw(
                response.status,
                response.headers.get("Content-Type", ""),
                offers(announced),
                response.headers.get("Date", ""),
                bytes(body),
            )
