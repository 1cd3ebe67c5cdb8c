"""The listener below SOAP: statuses, headers, bounds, connections, sealed bodies that are wrong."""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.toy_host import ToyHost
from vmkeep_lab.wire.certificate import make_certificate
from vmkeep_lab.wire.connection import Door
from vmkeep_lab.wire.disturbances import Disturbances
from vmkeep_lab.wire.server import Server
from vmkeep_lab.wire.service import Service
from vmkeep_lab.wire.settings import Settings

pytestmark = pytest.mark.quick

USERS = {"Administrator": "Correct-horse 1"}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(ToyHost(), USERS, host_name="HV01") as server:
        yield server


class Peer:
    """A TCP connection spoken by hand."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.stream = self.socket.makefile("rb")

    def send(self, *lines: str, body: bytes = b"") -> None:
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode() + body)

    def reply(self) -> tuple[str, list[tuple[str, str]], bytes]:
        """Return status line, headers and body."""
        status = self.stream.readline().decode().removesuffix("\r\n")
        headers: list[tuple[str, str]] = []
        while line := self.stream.readline().decode().rstrip("\r\n"):
            name, _, value = line.partition(": ")
            headers.append((name, value))
        length = int(dict(headers).get("Content-Length", "0"))
        return status, headers, self.stream.read(length)

    def is_closed(self) -> bool:
        return self.stream.read(1) == b""


@contextmanager
def peer(port: int) -> Iterator[Peer]:
    one = Peer(port)
    try:
        yield one
    finally:
        one.stream.close()
        one.socket.close()


def post(*headers: str, length: int = 0) -> tuple[str, ...]:
    return "POST /wsman HTTP/1.1", "Host: hv01", f"Content-Length: {length}", *headers


def test_a_stranger_is_told_how_to_authenticate_and_the_connection_lives_on(server: Server) -> None:
    with peer(server.http_port) as one:
        for _ in range(2):
            one.send(*post("Content-Type: application/soap+xml;charset=UTF-8"))
            status, headers, body = one.reply()
            assert status == "HTTP/1.1 401 "  # recorded: the reason phrase is empty
            assert ("Server", "Microsoft-HTTPAPI/2.0") in headers
            offered = [value for name, value in headers if name == "WWW-Authenticate"]
            assert offered == ["Negotiate", "Kerberos"]
            assert body == b""


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (("POST /other HTTP/1.1", "Content-Length: 0"), "404"),
        (("GET /wsman HTTP/1.1",), "405"),
        (("POST /wsman HTTP/1.1", "Content-Length: 999999999"), "413"),
        (("POST /wsman HTTP/1.1", "Content-Length: abc"), "400"),
        (("POST /wsman HTTP/1.1",), "411"),
        (("nonsense",), "400"),
        (("POST /wsman HTTP/1.1", "no colon"), "400"),
        (post("Authorization: Negotiate ###"), "401"),
        (post("Authorization: Negotiate AAAA"), "401"),
        (post("Authorization: Negotiate TlRMTVNTUAADAAAA"), "401"),
        (post("Authorization: Basic QWRtaW5pc3RyYXRvcjp4"), "401"),
        (post("Authorization: Odd x"), "401"),
        (post("Authorization: Negotiate " + "A" * 15_000), "401"),
        (post(*(f"X-{number}: 1" for number in range(100))), "400"),
        (post("X-Long: " + "x" * 20_000), "400"),
    ],
)
def test_requests_that_are_refused(server: Server, lines: tuple[str, ...], status: str) -> None:
    with peer(server.http_port) as one:
        one.send(*lines)
        assert one.reply()[0] == f"HTTP/1.1 {status} "


def test_a_sealed_body_without_authentication_is_refused(server: Server) -> None:
    kind = (
        'Content-Type: multipart/encrypted;protocol="application/HTTP-SPNEGO-session-encrypted";'
        'boundary="Encrypted Boundary"'
    )
    with peer(server.http_port) as one:
        one.send(*post(kind, length=4), body=b"body")
        assert one.reply()[0] == "HTTP/1.1 401 "


IDENTIFY = (
    b'<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope"><s:Header/><s:Body><i:Identify '
    b'xmlns:i="http://schemas.dmtf.org/wbem/wsman/identity/1/wsmanidentity.xsd"/></s:Body></s:Envelope>'
)


def test_identify_without_authentication_needs_its_header(server: Server) -> None:
    kind = "Content-Type: application/soap+xml;charset=UTF-8"
    with peer(server.http_port) as one:
        one.send(*post(kind, length=len(IDENTIFY)), body=IDENTIFY)
        assert one.reply()[0] == "HTTP/1.1 401 "
        one.send(*post(kind, "WSMANIDENTIFY: unauthenticated", length=len(IDENTIFY)), body=IDENTIFY)
        status, headers, body = one.reply()
        assert status == "HTTP/1.1 200 "
        assert ("Content-Type", "application/soap+xml;charset=UTF-8") in headers
        assert b"IdentifyResponse" in body
        one.send(
            *post("Content-Type: text/xml", "WSMANIDENTIFY: unauthenticated", length=len(IDENTIFY)),
            body=IDENTIFY,
        )
        assert one.reply()[0] == "HTTP/1.1 400 "
        # Other requests stay closed to strangers.
        other = IDENTIFY.replace(b"Identify ", b"Other ")
        one.send(*post(kind, "WSMANIDENTIFY: unauthenticated", length=len(other)), body=other)
        assert one.reply()[0] == "HTTP/1.1 401 "


def test_a_chunked_body_and_100_continue(server: Server) -> None:
    with peer(server.http_port) as one:
        one.send(
            "POST /wsman HTTP/1.1",
            "Transfer-Encoding: chunked",
            "Expect: 100-continue",
            "WSMANIDENTIFY: unauthenticated",
            "Content-Type: application/soap+xml",
            body=b"10\r\n"
            + IDENTIFY[:16]
            + b"\r\n%x\r\n" % len(IDENTIFY[16:])
            + IDENTIFY[16:]
            + b"\r\n0\r\n\r\n",
        )
        assert one.reply()[0] == "HTTP/1.1 100 Continue"
        assert one.reply()[0] == "HTTP/1.1 200 "


def test_a_connection_is_closed_when_asked_when_idle_and_when_too_many() -> None:
    settings = Settings(idle_connection_s=0.2, max_connections=1)
    with Server(ToyHost(), USERS, host_name="HV01", settings=settings) as server:
        with peer(server.http_port) as one:
            one.send(*post("Connection: close"))
            assert one.reply()[0] == "HTTP/1.1 401 "
            assert one.is_closed()
        with peer(server.http_port) as one:
            one.send(*post())
            one.reply()
            with peer(server.http_port) as two:
                assert two.is_closed()
            assert one.is_closed()


def test_a_body_that_does_not_arrive_in_time_is_a_bare_500() -> None:
    settings = Settings(max_packet_retrieval_time_s=0.2)
    with (
        Server(ToyHost(), USERS, host_name="HV01", settings=settings) as server,
        peer(server.http_port) as one,
    ):
        one.send(*post(length=10), body=b"half")
        assert one.reply()[0] == "HTTP/1.1 500 "
        assert one.is_closed()


def test_passwords_do_not_show() -> None:
    service = Service(ToyHost(), "HV01", Settings(), Disturbances())
    assert USERS["Administrator"] not in repr(Door(service, Settings(), "HV01", False, USERS))


def test_stopping_closes_connections_and_ends_threads() -> None:
    before = threading.active_count()
    server = Server(ToyHost(), USERS, host_name="HV01")
    server.start()
    with peer(server.http_port) as one:
        one.send(*post())
        one.reply()
        server.stop()
        assert one.is_closed()
    assert threading.active_count() == before
    with pytest.raises(OSError, match=r"."):
        Peer(server.http_port if server.http_port > 0 else 1)


def test_the_key_of_the_certificate_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path / "state", "hv01.example.org")
    assert key.stat().st_mode & 0o777 == 0o600
    assert re.search(rb"BEGIN CERTIFICATE", certificate.read_bytes())
    assert make_certificate(tmp_path / "state", "other") == (certificate, key)
