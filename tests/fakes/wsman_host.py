"""A host that follows a script: WS-Management over HTTP with NTLM and sealing, or over TLS.

It stands at the outermost border, on a socket of 127.0.0.1. What it does on the
wire is written here from [MS-WSMV] and wsman-wire.md, apart from the code under
test; only NTLM itself is pyspnego's on both sides.
"""

import base64
import hashlib
import re
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from xml.etree import ElementTree

import spnego
from spnego.channel_bindings import GssChannelBindings
from spnego.exceptions import SpnegoError

NS: Final = {
    "s": "http://www.w3.org/2003/05/soap-envelope",
    "a": "http://schemas.xmlsoap.org/ws/2004/08/addressing",
    "n": "http://schemas.xmlsoap.org/ws/2004/09/enumeration",
    "x": "http://schemas.xmlsoap.org/ws/2004/09/transfer",
    "w": "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd",
    "p": "http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd",
    "f": "http://schemas.microsoft.com/wbem/wsman/1/wsmanfault",
    "rsp": "http://schemas.microsoft.com/wbem/wsman/1/windows/shell",
    "xsi": "http://www.w3.org/2001/XMLSchema-instance",
    "cim": "http://schemas.dmtf.org/wbem/wscim/1/common",
}
_DECLARED: Final = " ".join(f'xmlns:{prefix}="{uri}"' for prefix, uri in NS.items())
_SEALED: Final = (
    'multipart/encrypted;protocol="application/HTTP-SPNEGO-session-encrypted";boundary="Encrypted Boundary"'
)

USER: Final = "LAB\\tester"


@dataclass(frozen=True)
class Question:
    """One envelope that the host could open."""

    text: str

    @property
    def root(self) -> ElementTree.Element:
        return ElementTree.fromstring(self.text)

    def header(self, name: str) -> str:
        return self.root.findtext(f"s:Header/{name}", "", NS)

    @property
    def action(self) -> str:
        return self.header("a:Action")


@dataclass
class Reply:
    """What the host does with one question, in the order of the fields."""

    body: str = ""  # the inside of s:Body
    status: int = 200
    content: bytes | None = None  # instead of an envelope
    action: str | None = None
    relates_to: str | None = None
    in_clear: bool = False  # unsealed on a sealed connection
    chunked: bool = False
    cut: bool = False  # half of the content only, then the end
    content_type: str | None = None
    raw: bytes | None = None  # written as it is instead of an HTTP reply, then the end
    wait_for: threading.Event | None = None  # before answering
    then_close: bool = False  # without having said so
    drop: bool = False  # the end, without a reply
    headers: dict[str, str] = field(default_factory=dict)

    def envelope(self, question: Question) -> bytes:
        """Return the whole answer; addressing comes from the question unless told otherwise."""
        if self.content is not None:
            return self.content
        action = question.action + "Response" if self.action is None else self.action
        relates = question.header("a:MessageID") if self.relates_to is None else self.relates_to
        return (
            f'<s:Envelope xml:lang="de-DE" {_DECLARED}><s:Header><a:Action>{action}</a:Action>'
            f"<a:MessageID>uuid:11111111-2222-3333-4444-555555555555</a:MessageID>"
            f"<a:To>{NS['a']}/role/anonymous</a:To><a:RelatesTo>{relates}</a:RelatesTo></s:Header>"
            f"<s:Body>{self.body}</s:Body></s:Envelope>"
        ).encode()


def fault(code: int, subcode: str = "w:InternalError", text: str = "Unzulässig.", inside: str = "") -> Reply:
    """Return a fault as Windows sends it: HTTP 500, WSManFault with the number, a translated text."""
    return Reply(
        status=500,
        action="http://schemas.dmtf.org/wbem/wsman/1/wsman/fault",
        body=(
            f"<s:Fault><s:Code><s:Value>s:Sender</s:Value><s:Subcode><s:Value>{subcode}</s:Value></s:Subcode>"
            f'</s:Code><s:Reason><s:Text xml:lang="de-DE">{text}</s:Text></s:Reason><s:Detail>'
            f'<f:WSManFault Code="{code}" Machine="HV01.lab.example"><f:Message>{text}{inside}</f:Message>'
            "</f:WSManFault></s:Detail></s:Fault>"
        ),
    )


def binding_of(certificate: Path) -> GssChannelBindings:
    """Return the channel binding of a certificate signed with SHA-256 (RFC 5929, section 4.1)."""
    pem = re.findall(r"-+BEGIN CERT.*", certificate.read_text(), re.DOTALL)[0]
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).digest()
    return GssChannelBindings(application_data=b"tls-server-end-point:" + digest)


Step = Reply | Callable[[Question], Reply]


class WsmanHost:
    """The host; ``script`` holds what it does next, ``asked`` what it was asked.

    A context manager. ``password_file`` is what pyspnego's server side reads
    (NTLM_USER_FILE). With ``certificate`` it speaks TLS and seals nothing.
    """

    def __init__(self, certificate: Path | None = None) -> None:
        self.script: deque[Step] = deque()
        self.asked: list[Question] = []
        self.logins = 0
        self.connections = 0
        self.forgotten = 0  # connections up to this number are not known any more
        self.status_of_forgotten = 401
        self.offers = ["Negotiate", 'Basic realm="WSMAN"']
        self.date: str | None = None
        self.proves_itself = True  # sends the last token of a login
        self.seen: list[bytes] = []  # every byte of every request
        host = self

        class Talk(_Talk):
            lab = host

        class Server(ThreadingHTTPServer):
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Talk)
        self.is_tls = certificate is not None
        self.binding: GssChannelBindings | None = None
        if certificate is not None:
            self.binding = binding_of(certificate)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def forget_logins(self, status: int = 401) -> None:
        """Answer the next message on each connection there is as one that cannot be opened."""
        self.forgotten, self.status_of_forgotten = self.connections, status

    def answer(self, question: Question) -> Reply:
        self.asked.append(question)
        step = self.script.popleft() if self.script else fault(1359, text="Das Drehbuch ist zu Ende.")
        return step(question) if callable(step) else step


class _Talk(BaseHTTPRequestHandler):
    """One connection: its login, its keys, its requests."""

    lab: WsmanHost
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # header and body in one segment, else each answer waits for a delayed ACK
    disable_nagle_algorithm = True
    timeout = 60

    def setup(self) -> None:
        super().setup()
        self.lab.connections += 1
        self._number = self.lab.connections
        self._context: Any = None
        self._knows_nobody_since = 0

    def handle(self) -> None:
        try:
            super().handle()
        except (OSError, ValueError):
            return  # the other side has gone; some tests do that

    def log_message(self, format: str, *args: object) -> None:
        return

    def date_time_string(self, timestamp: float | None = None) -> str:
        return self.lab.date or super().date_time_string(timestamp)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.lab.seen.append(str(self.headers).encode() + body)
        if self._number <= self.lab.forgotten and self._knows_nobody_since != self.lab.forgotten:
            self._context = None
            if self.lab.status_of_forgotten != 401:
                return self._send(self.lab.status_of_forgotten, b"")
            self._knows_nobody_since = self.lab.forgotten
        offered = self.headers.get("Authorization", "")
        token = offered.removeprefix("Negotiate ") if offered.startswith("Negotiate ") else ""
        if token or self._context is None or not self._context.complete:
            if not self._log_in(token):
                return None
            if not body:
                return self._send(200, b"", token=self._answer_token if self.lab.proves_itself else "")
        self._message(body)
        return None

    def _log_in(self, token: str) -> bool:
        if not token:
            self._send(401, b"")
            return False
        if self._context is None or self._context.complete:
            options = spnego.NegotiateOptions.wrapping_winrm
            self._context = spnego.server(
                protocol="negotiate", options=options, channel_bindings=self.lab.binding
            )
        try:
            answer = self._context.step(base64.b64decode(token))
        except SpnegoError:
            self._context = None
            self._send(401, b"")
            return False
        self._answer_token = base64.b64encode(answer or b"").decode()
        if not self._context.complete:
            self._send(401, b"", token=self._answer_token)
            return False
        self.lab.logins += 1
        return True

    def _message(self, body: bytes) -> None:
        if not self.lab.is_tls:
            try:
                body = self._opened(body)
            except (SpnegoError, ValueError, struct.error):
                return self._send(400, b"")  # protocols.md 1.3: the message cannot be opened
        question = Question(body.decode())
        reply = self.lab.answer(question)
        if reply.wait_for is not None:
            reply.wait_for.wait(30)
        if reply.drop:
            self.close_connection = True
            return None
        if reply.raw is not None:
            self.wfile.write(reply.raw)
            self.close_connection = True
            return None
        content = reply.envelope(question)
        kind = reply.content_type or "application/soap+xml;charset=UTF-8"
        if content and not self.lab.is_tls and not reply.in_clear:
            content, kind = self._sealed(content), _SEALED
        self._send(reply.status, content, kind=kind, reply=reply)
        self.close_connection = self.close_connection or reply.then_close or reply.cut
        return None

    def _opened(self, body: bytes) -> bytes:
        head, _, rest = body.partition(b"\tContent-Type: application/octet-stream\r\n")
        length = int(re.findall(rb"\tOriginalContent: [^\r]*;Length=(\d+)\r\n", head)[0])
        sealed = rest.removesuffix(b"--Encrypted Boundary--\r\n")
        (size,) = struct.unpack("<i", sealed[:4])
        opened = bytes(self._context.unwrap_winrm(sealed[4 : 4 + size], sealed[4 + size :]))
        if len(opened) != length:
            raise ValueError("the length announced is another one")
        return opened

    def _sealed(self, content: bytes) -> bytes:
        header, data, padding = self._context.wrap_winrm(content)
        head = (
            b"--Encrypted Boundary\r\n"
            b"\tContent-Type: application/HTTP-SPNEGO-session-encrypted\r\n"
            b"\tOriginalContent: type=application/soap+xml;charset=UTF-8;Length=%d\r\n"
            b"--Encrypted Boundary\r\n"
            b"\tContent-Type: application/octet-stream\r\n" % (len(content) + padding)
        )
        return bytes(head + struct.pack("<i", len(header)) + header + data + b"--Encrypted Boundary--\r\n")

    def _send(
        self,
        status: int,
        content: bytes,
        *,
        kind: str = "application/soap+xml;charset=UTF-8",
        token: str = "",
        reply: Reply | None = None,
    ) -> None:
        self.send_response(status, "")
        if status == 401 or token:
            for offer in [f"Negotiate {token}"] if token else self.lab.offers:
                self.send_header("WWW-Authenticate", offer)
        for name, value in (reply.headers if reply else {}).items():
            self.send_header(name, value)
        if content:
            self.send_header("Content-Type", kind)
        if reply is not None and reply.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            size = max(7, len(content) // 50)
            pieces = [content[i : i + size] for i in range(0, len(content), size)]
            framed = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        else:
            self.send_header("Content-Length", str(len(content)))
            framed = content[: len(content) // 2] if reply is not None and reply.cut else content
        self.end_headers()
        self.wfile.write(framed)
        self.wfile.flush()
