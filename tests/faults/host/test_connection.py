"""The connection to a host under every failure we know: logins, seals, ends, garbage, certificates.

The host is `tests/fakes/wsman_host.py`: real sockets, real HTTP, real NTLM and
real TLS; what it does comes from a script.
"""

import base64
import contextlib
import io
import json
import logging
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest
import spnego

from tests.clocks import FakeClock
from tests.fakes.certificates import Authority
from tests.fakes.wsman_host import USER, Reply, WsmanHost, binding_of, fault
from vmkeep.clock import SystemClock
from vmkeep.errors import VmkeepError
from vmkeep.host.wsman import (
    Client,
    ClocksDisagree,
    ConnectionLost,
    Endpoint,
    EndpointUnusable,
    EnvelopeTooLarge,
    HostBusy,
    HostError,
    HostNonsense,
    HostNotTrusted,
    HostTimedOut,
    HostUnreachable,
    LoginImpossible,
    LoginRefused,
    Method,
    OutcomeUnknown,
    Recorder,
    Ref,
)
from vmkeep.host.wsman.connection import Connection
from vmkeep.host.wsman.login import Login
from vmkeep.secrets import Secret

PASSWORD: Final = "canary-pa55-word"
URI: Final = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/cimv2/Win32_X"
REF: Final = Ref("root/cimv2", "Win32_X", {"Id": "1"})
MADE: Final[list[Client]] = []
DO: Final = Method("Do", (("Text", "string"),))
INSTANCE: Final = Reply(f'<q:Win32_X xmlns:q="{URI}"><q:Id>1</q:Id></q:Win32_X>')
DONE: Final = Reply(f'<q:Do_OUTPUT xmlns:q="{URI}"><q:ReturnValue>0</q:ReturnValue></q:Do_OUTPUT>')


@pytest.fixture(autouse=True)
def accounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The accounts of the host, where pyspnego's server side looks for them; closes what was opened."""
    file = tmp_path / "accounts"
    file.write_text(f"LAB:tester:{PASSWORD}\n")
    monkeypatch.setenv("NTLM_USER_FILE", str(file))
    yield
    while MADE:
        MADE.pop().close()


@pytest.fixture
def host() -> Iterator[WsmanHost]:
    with WsmanHost() as host:
        yield host


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def tls_host(authority: Authority) -> Iterator[WsmanHost]:
    with WsmanHost(authority.issue()) as host:
        yield host


def now() -> FakeClock:
    """A clock that stands at the real time, as the host's does."""
    return FakeClock(datetime.now(UTC))


@contextlib.contextmanager
def anybody(answer: bytes, times: int = 1) -> Iterator[int]:
    """Something that is no host: it answers each connection with the same bytes; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    talk, _ = listener.accept()
                except OSError:
                    return  # the test is over
                with talk, contextlib.suppress(OSError):
                    talk.settimeout(5)
                    for _ in range(times):
                        talk.recv(65536)
                        talk.sendall(answer)
                    talk.shutdown(socket.SHUT_WR)
                    talk.recv(65536)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def endpoint_at(port: int, **given: object) -> Endpoint:
    values: dict[str, object] = {
        "address": "127.0.0.1",
        "port": port,
        "transport": "http",
        "user": USER,
        "password": Secret(PASSWORD),
        "connect_timeout_s": 5,
        "operation_timeout_s": 10,
    }
    return Endpoint(**(values | given))  # type: ignore[arg-type]


def endpoint(host: WsmanHost, **given: object) -> Endpoint:
    return endpoint_at(host.port, **({"transport": "https" if host.is_tls else "http"} | given))


def client_at(port: int, **given: object) -> Client:
    MADE.append(Client(endpoint_at(port, **given), now()))
    return MADE[-1]


def client(host: WsmanHost, clock: FakeClock | None = None, **given: object) -> Client:
    MADE.append(Client(endpoint(host, **given), clock or now()))
    return MADE[-1]


# --- logging in ---------------------------------------------------------------------


@pytest.mark.parametrize("auth", ["ntlm", "negotiate"])
def test_messages_over_http_are_sealed(host: WsmanHost, auth: str) -> None:
    host.script.extend([INSTANCE, INSTANCE, DONE])
    with client(host, auth=auth) as asking:
        assert asking.get(REF).integer("Id") == 1
        assert asking.get(REF).integer("Id") == 1
        assert asking.invoke(REF, DO, {"Text": "Ü"}).return_value == 0
        assert asking.requests == 3
    assert (host.logins, host.connections) == (1, 1)
    wire = b"".join(host.seen)
    assert b"Win32_X" not in wire and b"Envelope" not in wire
    assert PASSWORD.encode() not in wire and PASSWORD.encode("utf-16-le") not in wire


@pytest.mark.parametrize("auth", ["ntlm", "negotiate"])
def test_over_tls_one_login_serves_many_messages(
    tls_host: WsmanHost, authority: Authority, auth: str
) -> None:
    tls_host.script.extend([INSTANCE, INSTANCE, DONE])
    with client(tls_host, auth=auth, ca_file=authority.file) as asking:
        assert asking.get(REF).integer("Id") == 1
        assert asking.get(REF).integer("Id") == 1
        assert asking.invoke(REF, DO).return_value == 0
    assert (tls_host.logins, tls_host.connections) == (1, 1)
    assert len(tls_host.asked) == 3


def test_a_login_is_bound_to_its_tls_channel(
    tls_host: WsmanHost, authority: Authority, tmp_path: Path
) -> None:
    """The host compares the binding; one of another certificate is a login somebody passes on."""
    tls_host.binding = binding_of(Authority(tmp_path).issue())
    with pytest.raises(LoginRefused):
        client(tls_host, ca_file=authority.file).get(REF)


@pytest.mark.parametrize("auth", ["ntlm", "negotiate"])
def test_a_wrong_password_is_tried_once(host: WsmanHost, auth: str) -> None:
    asking = client(host, auth=auth, password=Secret("another"))
    with pytest.raises(LoginRefused) as raised:
        asking.get(REF)
    assert "'LAB\\\\tester'" in raised.value.message
    assert host.logins == 0
    assert host.asked == []
    assert len(host.seen) == 3  # who are you, a challenge, its answer


def test_a_refusal_between_two_clocks_names_the_clocks(host: WsmanHost) -> None:
    clock = now()
    host.date = format_datetime(clock.now() + timedelta(minutes=14), usegmt=True)
    with pytest.raises(ClocksDisagree, match="14 minutes ahead"):
        client(host, clock, password=Secret("another")).get(REF)


def test_a_host_that_offers_basic_alone_gets_no_password(host: WsmanHost) -> None:
    host.offers = ['Basic realm="WSMAN"', "CredSSP"]
    with pytest.raises(LoginImpossible, match=r"'basic'.*'credssp'"):
        client(host).get(REF)
    assert len(host.seen) == 1


def test_a_host_that_does_not_prove_itself_gets_no_message(host: WsmanHost) -> None:
    host.proves_itself = False
    host.script.append(DONE)
    with pytest.raises(LoginImpossible, match="without proving"):
        client(host, auth="negotiate").invoke(REF, DO)
    assert host.asked == []


def test_a_host_that_does_not_ask_who_is_there_is_told_nothing() -> None:
    open_door = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    with anybody(open_door) as port, pytest.raises(HostNonsense, match="does not ask who is there"):
        client_at(port).invoke(REF, DO, {"Text": "secret"})


@pytest.mark.parametrize("token", ["////", "TlRMTVNTUAACAAAA", "oYIBAA==", "=", "YQ"])
def test_a_login_token_that_is_none(token: str) -> None:
    answer = f"HTTP/1.1 401 \r\nWWW-Authenticate: Negotiate {token}\r\nContent-Length: 0\r\n\r\n".encode()
    for auth in ("ntlm", "negotiate"):
        with anybody(answer, 3) as port, pytest.raises((HostNonsense, LoginRefused, LoginImpossible)):
            client_at(port, auth=auth).get(REF)


@pytest.mark.parametrize("auth", ["ntlm", "negotiate"])
def test_damaged_login_tokens_are_refused_by_name(host: WsmanHost, auth: str, seed: int) -> None:
    """Real challenges with random damage: whatever the parser makes of them, it is an error of ours."""
    choose = random.Random(seed)
    challenge = _challenge(host, auth)
    for _ in range(60):
        damaged = bytearray(challenge)
        for _ in range(choose.randint(1, 8)):
            damaged[choose.randrange(len(damaged))] = choose.randrange(256)
        login = Login(endpoint(host, auth=auth), {"negotiate"}, None)
        login.step(None)
        try:
            login.step(bytes(damaged[: choose.randint(1, len(damaged))]))
        except HostError:
            continue
        assert login.is_complete or auth == "negotiate"


def _challenge(host: WsmanHost, auth: str) -> bytes:
    """Return the token that a host answers the first one with."""
    login = Login(endpoint(host, auth=auth), {"negotiate"}, None)
    first = login.step(None)
    assert first is not None
    server = spnego.server(protocol="negotiate", options=spnego.NegotiateOptions.wrapping_winrm)
    answer = server.step(base64.b64decode(first.removeprefix("Negotiate ")))
    assert answer is not None
    return answer


# --- the end of an idle connection (protocols.md 1.3) --------------------------------


def test_an_idle_connection_that_ended_is_replaced(host: WsmanHost) -> None:
    host.script.extend([Reply(INSTANCE.body, then_close=True), DONE])
    connection = Connection(endpoint(host), now())
    with Client(endpoint(host), now(), transport=connection) as asking:
        asking.get(REF)
        assert connection._http is not None
        assert select.select([connection._http.sock], [], [], 30)[0]  # the end has arrived
        assert asking.invoke(REF, DO).return_value == 0
        assert asking.requests == 2
    assert (host.logins, host.connections) == (2, 2)


@pytest.mark.parametrize("status", [401, 400])
def test_a_login_that_was_forgotten_is_renewed_even_for_a_method(host: WsmanHost, status: int) -> None:
    host.script.extend([INSTANCE, DONE, DONE])
    with client(host) as asking:
        asking.get(REF)
        host.forget_logins(status)
        assert asking.invoke(REF, DO).return_value == 0
        assert asking.invoke(REF, DO).return_value == 0
    assert [question.action.rpartition("/")[2] for question in host.asked] == ["Get", "Do", "Do"]
    assert host.logins == 2


def test_a_login_over_tls_is_renewed(tls_host: WsmanHost, authority: Authority) -> None:
    tls_host.script.extend([INSTANCE, DONE, DONE])
    with client(tls_host, ca_file=authority.file) as asking:
        asking.get(REF)
        tls_host.forget_logins()
        asking.invoke(REF, DO)
        asking.invoke(REF, DO)
    assert [question.action.rpartition("/")[2] for question in tls_host.asked] == ["Get", "Do", "Do"]


def test_a_host_that_forgets_at_once_is_not_asked_for_ever(host: WsmanHost) -> None:
    host.script.extend([Reply(content=b"", status=401)] * 20)
    with pytest.raises(HostNonsense, match="forgets logins"):
        client(host).get(REF)
    assert len(host.asked) == 2


# --- answers that are lost -------------------------------------------------------------


def test_reading_survives_one_lost_answer(host: WsmanHost) -> None:
    host.script.extend([Reply(drop=True), INSTANCE])
    with client(host) as asking:
        assert asking.get(REF).integer("Id") == 1
        assert asking.requests == 2
    assert len(host.asked) == 2


@pytest.mark.parametrize("lost", [Reply(drop=True), Reply(DONE.body, cut=True)], ids=["dropped", "cut"])
def test_a_method_whose_answer_was_lost_is_not_sent_again(host: WsmanHost, lost: Reply) -> None:
    host.script.extend([lost, DONE])
    with client(host) as asking:
        with pytest.raises(OutcomeUnknown):
            asking.invoke(REF, DO)
        assert len(host.asked) == 1
        assert asking.invoke(REF, DO).return_value == 0  # the next one works


def test_two_lost_answers_end_it(host: WsmanHost) -> None:
    host.script.extend([Reply(drop=True), Reply(drop=True), INSTANCE])
    with pytest.raises(ConnectionLost):
        client(host).get(REF)
    assert len(host.asked) == 2


def test_a_host_that_says_nothing_is_left(host: WsmanHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmkeep.host.wsman.exchange._NETWORK_DELAY_S", 0.0)
    never = threading.Event()
    silent = Reply(wait_for=never, drop=True)
    host.script.extend([silent, silent])
    with client(host, operation_timeout_s=0.3) as asking:
        with pytest.raises(HostTimedOut):
            asking.get(REF)
        with pytest.raises(OutcomeUnknown):
            asking.invoke(REF, DO)
    never.set()
    host.script.append(DONE)
    assert client(host).invoke(REF, DO).return_value == 0


def test_an_answer_in_pieces_is_one_answer(host: WsmanHost) -> None:
    host.script.append(Reply(INSTANCE.body, chunked=True))
    assert client(host).get(REF).integer("Id") == 1


def test_a_large_answer_arrives_whole(host: WsmanHost) -> None:
    text = "Größe & <tag> " * 20_000
    inside = text.replace("&", "&amp;").replace("<", "&lt;")
    host.script.append(Reply(f'<q:Win32_X xmlns:q="{URI}"><q:T>{inside}</q:T></q:Win32_X>'))
    assert client(host).get(REF).text("T") == text


@pytest.mark.parametrize("chunked", [False, True])
def test_an_answer_without_an_end_is_cut_off(host: WsmanHost, chunked: bool) -> None:
    host.script.append(Reply(content=b" " * 3_000_000, in_clear=True, chunked=chunked))
    with pytest.raises(HostNonsense):
        client(host).get(REF)


def test_faults_are_sealed_too(host: WsmanHost) -> None:
    host.script.extend([fault(2150859174), INSTANCE])
    clock = now()
    assert client(host, clock).get(REF).integer("Id") == 1
    assert clock.slept == [1.0]


# --- what is not from the host ---------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
def test_an_answer_in_clear_text_is_not_believed(host: WsmanHost, chunked: bool) -> None:
    forged = Reply(DONE.body, in_clear=True, chunked=chunked)
    host.script.append(forged)
    with pytest.raises(HostNonsense, match="in clear text"):
        client(host).get(REF)


def test_a_fault_in_clear_text_is_only_a_status(host: WsmanHost) -> None:
    forged = fault(2150858752)
    forged.in_clear = True
    host.script.append(forged)
    with pytest.raises(HostNonsense, match="HTTP status 500"):
        client(host).get(REF)


def test_a_seal_that_was_changed_is_seen(host: WsmanHost) -> None:
    def forge(_: object) -> Reply:
        return Reply(
            content=b"--Encrypted Boundary\r\n\tContent-Type: application/HTTP-SPNEGO-session-encrypted\r\n"
            b"\tOriginalContent: type=application/soap+xml;charset=UTF-8;Length=4\r\n--Encrypted Boundary\r\n"
            b"\tContent-Type: application/octet-stream\r\n\x10\0\0\0"
            + bytes(16)
            + b"abcd--Encrypted Boundary--\r\n",
            content_type='multipart/encrypted;protocol="x";boundary="Encrypted Boundary"',
            in_clear=True,
        )

    host.script.append(forge)
    with pytest.raises(HostNonsense, match="seal is wrong"):
        client(host).get(REF)


def test_statuses_of_the_listener(host: WsmanHost) -> None:
    clock = now()
    host.script.extend([Reply(content=b"", status=503), INSTANCE, Reply(content=b"", status=413)])
    with client(host, clock) as asking:
        assert asking.get(REF).integer("Id") == 1
        assert clock.slept == [1.0]
        with pytest.raises(EnvelopeTooLarge):
            asking.invoke(REF, DO)


def test_a_listener_that_is_down_is_waited_for() -> None:
    clock = now()
    down = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
    with anybody(down) as port, pytest.raises(HostBusy):
        Client(endpoint_at(port), clock).get(REF)
    assert clock.slept == [1.0, 2.0, 4.0, 8.0, 16.0]


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 407 Proxy\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<html></html>",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<html></html>",
        b"HTTP/1.1 401 \r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 401 \r\nX: " + b"x" * 100_000,
        b"\x00" * 1000,
    ],
)
@pytest.mark.parametrize("act", [False, True])
def test_something_else_answers(answer: bytes, act: bool) -> None:
    with anybody(answer) as port, pytest.raises((HostNonsense, HostUnreachable, LoginImpossible)):
        asking = client_at(port)
        if act:
            asking.invoke(REF, DO)
        else:
            asking.get(REF)


def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        with pytest.raises(HostUnreachable, match=rf"http://127\.0\.0\.1:{port}/wsman cannot be reached"):
            client_at(port).invoke(REF, DO)


def test_a_name_that_does_not_exist() -> None:
    unknown = Endpoint(address="no-such-host.invalid", user=USER, password=Secret(PASSWORD))
    with pytest.raises(HostUnreachable):
        Client(unknown, now()).get(REF)


# --- TLS ---------------------------------------------------------------------------------


def test_a_certificate_of_an_unknown_authority(tls_host: WsmanHost) -> None:
    with pytest.raises(HostNotTrusted) as raised:
        client(tls_host).get(REF)
    assert f"127.0.0.1:{tls_host.port}" in raised.value.message
    assert "issuer is not among the trusted" in raised.value.message
    assert "ca_file" in raised.value.hint
    assert tls_host.seen == []


@pytest.mark.parametrize(
    ("issued", "error", "reason"),
    [
        ({"address": "127.0.0.2"}, HostNotTrusted, "another IP address"),
        ({"end": datetime(2021, 1, 1, tzinfo=UTC)}, HostNotTrusted, "its time is over"),
        ({"begin": datetime(2089, 1, 1, tzinfo=UTC)}, ClocksDisagree, "not valid yet"),
    ],
)
def test_certificates_that_do_not_prove_the_host(
    authority: Authority, issued: dict[str, object], error: type[VmkeepError], reason: str
) -> None:
    with WsmanHost(authority.issue(**issued)) as host:  # type: ignore[arg-type]
        with pytest.raises(error, match=reason):
            client(host, ca_file=authority.file).get(REF)
        assert host.seen == []


def test_another_authority_of_the_same_name_is_not_it(tls_host: WsmanHost, tmp_path: Path) -> None:
    with pytest.raises(HostNotTrusted):
        client(tls_host, ca_file=Authority(tmp_path).file).get(REF)


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_a_ca_file_that_is_none(tls_host: WsmanHost, tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(EndpointUnusable, match=r"ca\.pem"):
        client(tls_host, ca_file=file).get(REF)


def test_tls_spoken_to_a_port_without_it(host: WsmanHost, authority: Authority) -> None:
    with pytest.raises(HostNonsense, match="TLS"):
        client(host, transport="https", ca_file=authority.file).get(REF)


def test_no_proxy_of_the_environment_is_asked(host: WsmanHost, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    host.script.append(INSTANCE)
    assert client(host).get(REF).integer("Id") == 1


def test_what_stops_a_question_leaves_no_answer_behind_for_the_next(host: WsmanHost) -> None:
    """A signal's exception comes in the middle of a reply; cleaning up asks the same host at once."""

    class Stopped(BaseException):
        pass

    def stop(number: int, frame: object) -> None:
        raise Stopped

    go_on = threading.Event()

    def interrupt(_: object) -> Reply:
        os.kill(os.getpid(), signal.SIGUSR1)
        return Reply(DONE.body, wait_for=go_on)

    host.script.extend([interrupt, INSTANCE])
    before = signal.signal(signal.SIGUSR1, stop)
    try:
        with client(host) as asking:
            with pytest.raises(Stopped):
                asking.invoke(REF, DO)
            go_on.set()
            assert asking.get(REF).integer("Id") == 1
    finally:
        signal.signal(signal.SIGUSR1, before)


# --- a host that drips ----------------------------------------------------------------------


@contextlib.contextmanager
def dripping(*beginnings: bytes, drop: bytes = b"a") -> Iterator[int]:
    """A host that answers the nth request with the nth beginning, the last one dripping on for ever."""
    over = threading.Event()

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            talk, _ = listener.accept()
            with talk:
                for beginning in beginnings:
                    talk.recv(1 << 20)
                    talk.sendall(beginning)
                while not over.wait(0.05):
                    talk.sendall(drop)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            over.set()
            listener.close()
            thread.join(30)


_WHO: Final = b"HTTP/1.1 401 No\r\nWWW-Authenticate: Negotiate\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    "beginnings",
    [
        pytest.param((b"HTTP/1.1 401 No\r\nX-Slow: ",), id="a header"),
        pytest.param((b"HTTP/1.1 401 No\r\nContent-Length: 400000\r\n\r\n",), id="a body"),
        pytest.param((_WHO, b"HTTP/1.1 401 No\r\nWWW-Authenticate: Negotiate "), id="a leg of the login"),
        pytest.param((b"HTTP/1.1 100 On\r\n\r\n",), id="words that mean nothing"),
    ],
)
def test_a_host_that_drips_is_not_waited_for_beyond_the_limit(beginnings: tuple[bytes, ...]) -> None:
    drop = b"HTTP/1.1 100 On\r\n\r\n" if b"100" in beginnings[0] else b"a"
    with dripping(*beginnings, drop=drop) as port:
        asked = Endpoint(
            address="127.0.0.1", port=port, user=USER, password=Secret(PASSWORD), transport="http"
        )
        connection = Connection(asked, SystemClock())
        started = time.monotonic()
        with pytest.raises(HostUnreachable, match="did not answer"):
            connection.send(b"<x/>", 1.0)
        assert time.monotonic() - started < 10.0  # a second each for the login and for each of its legs


def test_interim_replies_without_an_end_are_soon_too_many() -> None:
    """They come as fast as they are read: only their number ends this (RFC 9110 allows any, section 15.2)."""
    with dripping(b"HTTP/1.1 100 On\r\n\r\n" * 1000) as port:
        asked = Endpoint(
            address="127.0.0.1", port=port, user=USER, password=Secret(PASSWORD), transport="http"
        )
        with pytest.raises(HostNonsense):
            Connection(asked, SystemClock()).send(b"<x/>", 60.0)


def test_some_interim_replies_are_passed_over() -> None:
    found = b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n" * 3 + b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n"
    with anybody(found) as port, pytest.raises(HostNonsense, match="302"):
        client_at(port).get(REF)


def test_a_handshake_that_drips_is_not_waited_for_beyond_the_limit(authority: Authority) -> None:
    # The head of a TLS record of 16 KiB, which comes a byte at a time (RFC 8446, section 5.1).
    with dripping(b"\x16\x03\x03\x40\x00", drop=b"\x02") as port:
        asked = Endpoint(
            address="127.0.0.1", port=port, user=USER, password=Secret(PASSWORD), ca_file=authority.file,
            connect_timeout_s=1.0,
        )  # fmt: skip
        started = time.monotonic()
        with pytest.raises(HostUnreachable):
            Connection(asked, SystemClock()).send(b"<x/>", 1.0)
        assert time.monotonic() - started < 10.0


class SeenEnough(Exception):
    """What whoever watches a wait ends it with."""


def test_whoever_waits_for_an_answer_looks_and_may_stop(host: WsmanHost) -> None:
    go_on = threading.Event()
    host.script.extend([Reply(INSTANCE.body, wait_for=go_on), INSTANCE])
    looks: list[float] = []

    def look() -> None:
        looks.append(time.monotonic())
        if host.asked and len(looks) > 20:
            raise SeenEnough

    with client(host) as asking:
        with asking.looking(look), pytest.raises(SeenEnough):
            asking.get(REF)
        assert all(later - before < 2.0 for before, later in pairwise(looks))
        go_on.set()
        assert asking.get(REF).integer("Id") == 1  # on a new connection, and nobody looks any more


# --- threads, secrets, imports --------------------------------------------------------------


def test_two_threads_in_one_client_are_told_so(host: WsmanHost) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def hold(_: object) -> Reply:
        asked.set()
        return Reply(INSTANCE.body, wait_for=go_on)

    host.script.append(hold)
    with client(host) as asking:
        first = threading.Thread(target=asking.get, args=(REF,))
        first.start()
        assert asked.wait(30)
        with pytest.raises(RuntimeError, match="two threads"):
            asking.get(REF)
        go_on.set()
        first.join()
    assert len(host.asked) == 1


def test_the_password_is_in_nothing_that_can_be_seen(
    host: WsmanHost, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    host.script.extend([INSTANCE, fault(5, "w:AccessDenied"), Reply(drop=True)])
    trace = io.StringIO()
    seen: list[str] = []
    with Client(endpoint(host), now(), Recorder(trace, now())) as asking:
        seen.append(repr(asking.get(REF)))
        for call in (asking.get, lambda ref: asking.invoke(ref, DO)):
            with pytest.raises(VmkeepError) as raised:
                call(REF)
            seen += traceback.format_exception(raised.value)
            seen += [repr(raised.value.context), raised.value.hint]
        seen += [repr(vars(asking)), repr(asking.endpoint)]
    with pytest.raises(LoginRefused) as refused:
        client(host, user="LAB\\nobody").get(REF)
    seen += traceback.format_exception(refused.value)
    everything = "\n".join([*seen, trace.getvalue(), caplog.text])
    assert PASSWORD not in everything
    assert "step input" not in caplog.text  # tokens, from which a password can be guessed
    assert "Authorization" not in trace.getvalue()
    assert len(trace.getvalue().splitlines()) == 1 + 2  # the format, and what was answered
    assert json.loads(trace.getvalue().splitlines()[1])["status"] == 200


def test_nothing_of_the_network_is_imported_before_it_is_needed() -> None:
    script = (
        "import sys, vmkeep.host.wsman\n"
        "print([name for name in ('spnego', 'pypsrp', 'requests', 'cryptography') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
