"""One TCP connection: who is at the other end, what is sealed, request after request."""

import base64
import binascii
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import BinaryIO, Final, Protocol

from vmkeep_lab.wire import sealing
from vmkeep_lab.wire.acceptor import Acceptor
from vmkeep_lab.wire.disturbances import Effect
from vmkeep_lab.wire.messages import BadRequest, HttpRequest, read_body, read_head, written
from vmkeep_lab.wire.service import Answer
from vmkeep_lab.wire.settings import Settings

# What sealing adds to an envelope, with room to spare.
_SEAL_BYTES: Final = 4_096
_PLAIN_TYPE: Final = "application/soap+xml;charset=UTF-8"
_CHARSET: Final = re.compile(r'charset="?([\w-]{1,20})"?', re.IGNORECASE)
_UNAUTHENTICATED: Final = "unauthenticated"


class Output(Protocol):
    """What a connection writes to."""

    def sendall(self, data: bytes, /) -> None:
        """Send all of it."""


class Answers(Protocol):
    """What stands behind a door: it gets one SOAP request and gives one answer. Used by several threads."""

    stopping: Event

    def answer(self, data: bytes, encoding: str | None, user: str, client: str) -> Answer:
        """Answer a request; ``user`` is empty for one who has not logged in."""


@dataclass(frozen=True)
class Door:
    """What all connections of one listener share."""

    service: Answers
    settings: Settings
    host_name: str
    is_tls: bool
    users: Mapping[str, str] = field(repr=False)  # with their passwords
    keytab: Path | None = None  # of a host that is in a domain
    binding: bytes | None = None  # the certificate's, for the channel


class Connection:
    """Serves one connection until one side closes it."""

    def __init__(self, door: Door, client: str) -> None:
        self._door = door
        self._client = client
        self._acceptor: Acceptor | None = None
        self._basic_user = ""

    def serve(self, stream: BinaryIO, output: Output) -> None:
        """Answer requests until the connection ends."""
        while True:
            try:
                request = read_head(stream)
                if request is None:
                    return
                if request.headers.get("expect", "").lower() == "100-continue":
                    output.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                body = read_body(stream, request, self._door.settings.max_envelope_bytes + _SEAL_BYTES)
            except BadRequest as error:
                output.sendall(written(error.status, b"", [("Connection", "close")]))
                return
            data = self._answer(request, body)
            if data is None:
                return
            output.sendall(data)
            if not request.keep_alive:
                return

    def _answer(self, request: HttpRequest, body: bytes) -> bytes | None:
        """Return the reply to one request, or None where the connection closes instead."""
        if request.path.partition("?")[0].rstrip("/").lower() != "/wsman":
            return written(404, b"")
        if request.method != "POST":
            return written(405, b"", [("Allow", "POST")])
        token, refused = self._authenticate(request.headers.get("authorization", ""))
        if refused:
            return self._unauthorized(token)
        extra = [("WWW-Authenticate", f"{self._scheme} {token}")] if token else []
        if not body and self._user:
            return written(200, b"", extra)
        return self._served(request, body, extra)

    @property
    def _user(self) -> str:
        return self._basic_user or (self._acceptor.user if self._acceptor else "")

    @property
    def _scheme(self) -> str:
        return self._acceptor.scheme if self._acceptor else "Negotiate"

    # --- authentication -----------------------------------------------------------------

    def _authenticate(self, header: str) -> tuple[str, bool]:
        """Take an Authorization header; return the next token, and whether the answer is 401."""
        scheme, _, rest = header.partition(" ")
        settings = self._door.settings
        if not scheme:
            return "", False
        try:
            given = base64.b64decode(rest.strip(), validate=True)
        except (binascii.Error, ValueError):
            return "", True
        if scheme.lower() == "basic" and settings.auth_basic:
            self._basic_user = self._basic(given)
            return "", not self._basic_user
        if scheme.lower() not in self._schemes:
            return "", True
        if self._acceptor is None or self._user:
            # A new exchange on a known connection replaces who it was.
            door = self._door
            named = "Kerberos" if scheme.lower() == "kerberos" else "Negotiate"
            self._acceptor = Acceptor(
                door.users, door.host_name, scheme=named, keytab=door.keytab, binding=door.binding
            )
            self._basic_user = ""
        token = self._acceptor.step(given)
        if token is None:
            self._acceptor = None
            return "", True
        return base64.b64encode(token).decode(), not self._acceptor.user

    @property
    def _schemes(self) -> set[str]:
        """The schemes whose tokens are looked at; Kerberos is offered by every host, in a domain or not."""
        settings = self._door.settings
        found = {"negotiate", "ntlm"} if settings.auth_negotiate else set()
        return found | ({"kerberos"} if settings.auth_kerberos and self._door.keytab else set())

    def _basic(self, given: bytes) -> str:
        """Return the user whose password Basic gave, or nothing."""
        name, _, password = given.decode("utf-8", "replace").partition(":")
        known = {user.lower(): secret for user, secret in self._door.users.items()}
        name = name.rpartition("\\")[2].lower()
        secret = known.get(name)
        if secret is None or not hmac.compare_digest(secret.encode(), password.encode()):
            return ""
        return name

    def _unauthorized(self, token: str = "") -> bytes:
        settings = self._door.settings
        if token:
            return written(401, b"", [("WWW-Authenticate", f"{self._scheme} {token}")])
        offered = [
            (settings.auth_negotiate, "Negotiate"),
            (settings.auth_kerberos, "Kerberos"),
            (settings.auth_basic, 'Basic realm="WSMAN"'),
        ]
        return written(401, b"", [("WWW-Authenticate", name) for on, name in offered if on])

    # --- bodies -----------------------------------------------------------------------------

    def _served(self, request: HttpRequest, body: bytes, extra: list[tuple[str, str]]) -> bytes | None:
        said = request.headers.get("content-type", "")
        is_sealed = said.lower().startswith("multipart/encrypted")
        user = self._user
        if is_sealed:
            if not user or self._acceptor is None:
                return self._unauthorized()
            try:
                opened = sealing.unseal(body, self._acceptor)
            except sealing.BadSeal:
                return written(400, b"", extra)
            body, said = opened.data, opened.content_type
        elif not self._may_be_plain(request, user):
            return self._unauthorized() if not user else written(500, b"", extra)
        if said.partition(";")[0].strip().lower() != "application/soap+xml":
            return written(400, b"", extra)
        charset = _CHARSET.search(said)
        answer = self._door.service.answer(body, charset[1] if charset else None, user, self._client)
        return self._sent(answer, is_sealed, extra)

    def _may_be_plain(self, request: HttpRequest, user: str) -> bool:
        """Tell whether a body that is not sealed is read at all."""
        if request.headers.get("wsmanidentify", "").lower() == _UNAUTHENTICATED:
            return True
        return bool(user) and (self._door.is_tls or self._door.settings.allow_unencrypted)

    def _sent(self, answer: Answer, is_sealed: bool, extra: list[tuple[str, str]]) -> bytes | None:
        effect = answer.disturbance.effect if answer.disturbance else None
        if effect in {Effect.CLOSE_BEFORE, Effect.CLOSE_AFTER}:
            return None
        if answer.status == 401:
            return self._unauthorized()
        body = answer.body
        if not body:
            return written(answer.status, b"", extra)
        kind = _PLAIN_TYPE
        if is_sealed and self._acceptor is not None:
            body, kind = sealing.seal(body, self._acceptor), sealing.content_type(self._acceptor)
        if effect is Effect.FLIP:
            place = len(body) * 2 // 3
            body = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
        data = written(answer.status, body, [("Content-Type", kind), *extra])
        return data[: len(data) - len(body) // 2] if effect is Effect.CUT else data
