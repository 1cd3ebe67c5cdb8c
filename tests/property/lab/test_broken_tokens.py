"""Whatever a stranger sends before he is known, he stays a stranger."""

import base64

import pytest
import spnego
from hypothesis import given, settings
from hypothesis import strategies as st

from vmkeep_lab.wire import sealing
from vmkeep_lab.wire.acceptor import Acceptor

pytestmark = pytest.mark.quick

USERS = {"Administrator": "Correct-horse 1"}


def client(protocol: str) -> spnego.ContextProxy:
    return spnego.client(
        "Administrator",
        USERS["Administrator"],
        hostname="hv01",
        service="http",
        protocol=protocol,
        options=spnego.NegotiateOptions.wrapping_winrm,
    )


def authenticated(protocol: str = "ntlm") -> tuple[spnego.ContextProxy, Acceptor]:
    """Return both ends of a finished exchange."""
    one, other = client(protocol), Acceptor(USERS, "hv01.example.org")
    token = one.step()
    for _ in range(5):
        if token is None:
            break
        answer = other.step(token)
        assert answer is not None
        if other.user:
            if answer:
                one.step(answer)
            break
        token = one.step(answer)
    assert other.user == "administrator"
    return one, other


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["ntlm", "negotiate"]),
    st.integers(0, 1),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8),
    st.integers(0, 80),
)
def test_broken_tokens_are_refused(
    protocol: str, which: int, changes: list[tuple[float, int]], cut: int
) -> None:
    one, other = client(protocol), Acceptor(USERS, "hv01.example.org")
    token = one.step() or b""
    if which:
        token = one.step(other.step(token) or b"") or b""
    broken = bytearray(token[: len(token) - cut])
    for place, value in changes if broken else []:
        broken[int(place * (len(broken) - 1))] = value
    answer = other.step(bytes(broken))
    # The first token alone makes nobody known; a changed second one changes nobody into somebody else.
    assert other.user in ({"", "administrator"} if which else {""})
    assert answer is not None or not other.user
    if cut and which and protocol == "ntlm":
        assert not other.user


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_noise_is_no_token(noise: bytes) -> None:
    for start in (b"", b"NTLMSSP\x00\x01\x00\x00\x00", b"NTLMSSP\x00\x03\x00\x00\x00", b"\x60\x40\x06\x06"):
        other = Acceptor(USERS, "hv01")
        other.step(start + noise)
        assert other.user == ""


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.floats(0, 1), st.integers(1, 255), st.binary(max_size=40))
def test_a_sealed_body_is_opened_unchanged_or_not_at_all(place: float, change: int, data: bytes) -> None:
    one, other = authenticated()
    wrapped = one.wrap_winrm(data or b"x")
    body = sealing.seal(data or b"x", other)
    head = body.index(b"octet-stream\r\n") + len(b"octet-stream\r\n") + 4
    tail = body.index(b"--Encrypted Boundary--")
    body = body[:head] + wrapped.header + wrapped.data + body[tail:]
    broken = bytearray(body)
    where = head + int(place * (tail - head - 1))
    broken[where] ^= change
    with pytest.raises(sealing.BadSeal):
        sealing.unseal(bytes(broken), other)
    again, other = authenticated("negotiate")
    wrapped = again.wrap_winrm(data or b"x")
    body = body[:head] + wrapped.header + wrapped.data + body[tail:]
    assert sealing.unseal(body, other).data == (data or b"x")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--Encrypted Boundary--",
        b"--Encrypted Boundary\r\nContent-Type: application/HTTP-SPNEGO-session-encrypted\r\n",
        base64.b64decode("LS1FbmNyeXB0ZWQgQm91bmRhcnkNCg=="),
    ],
)
def test_what_is_no_sealed_body_is_refused(body: bytes) -> None:
    with pytest.raises(sealing.BadSeal):
        sealing.unseal(body, authenticated()[1])
