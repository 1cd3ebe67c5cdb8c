"""The multipart form around a sealed message, byte by byte from [MS-WSMV] 2.2.9.1."""

import pytest

from vmkeep.host.wsman import HostNonsense
from vmkeep.host.wsman.sealing import KERBEROS, SPNEGO, Wrapped, content_type, is_sealed, seal, unseal

pytestmark = pytest.mark.quick


class Reversing:
    """Seals by turning a message round, under a signature of four bytes."""

    def wrap_winrm(self, data: bytes) -> Wrapped:
        return Wrapped(b"SIGN", data[::-1], 0)

    def unwrap_winrm(self, header: bytes, data: bytes) -> bytes:
        assert header == b"SIGN"
        return data[::-1]


FORM = (
    b"--Encrypted Boundary\r\n"
    b"\tContent-Type: application/HTTP-SPNEGO-session-encrypted\r\n"
    b"\tOriginalContent: type=application/soap+xml;charset=UTF-8;Length=%d\r\n"
    b"--Encrypted Boundary\r\n"
    b"\tContent-Type: application/octet-stream\r\n"
    b"%b--Encrypted Boundary--\r\n"
)


def form(message: bytes) -> bytes:
    return FORM % (len(message), b"\x04\0\0\0SIGN" + message[::-1])


def test_the_form_is_the_specifications() -> None:
    assert seal(Reversing(), SPNEGO, b"<a/>") == form(b"<a/>")
    assert content_type(SPNEGO) == (
        'multipart/encrypted;protocol="application/HTTP-SPNEGO-session-encrypted";'
        'boundary="Encrypted Boundary"'
    )
    assert b"HTTP-Kerberos-session-encrypted" in seal(Reversing(), KERBEROS, b"x")
    assert is_sealed(content_type(SPNEGO)) and not is_sealed("application/soap+xml;charset=UTF-8")


@pytest.mark.parametrize(
    "message", [b"", b"<a/>", b"\n\r", b"\r\n", b"x" * 100_000, b"--Encrypted Boundary--\r\n"]
)
def test_every_byte_comes_back(message: bytes) -> None:
    assert unseal(Reversing(), form(message)) == message


def test_a_blank_after_the_dashes_is_allowed() -> None:
    spaced = form(b"<a/>").replace(b"--Encrypted", b"-- Encrypted")
    assert unseal(Reversing(), spaced) == b"<a/>"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<s:Envelope/>",
        form(b"<a/>")[:-10],
        form(b"<a/>").replace(b"Length=4", b"Length=5"),
        form(b"<a/>").replace(b"Length=4", b"Length=x"),
        form(b"<a/>").replace(b"\x04\0\0\0", b"\xff\xff\xff\xff"),
        form(b"<a/>").replace(b"\x04\0\0\0", b"\x40\0\0\0"),
        FORM % (0, b""),
        FORM % (0, b"\x01"),
    ],
)
def test_other_forms_are_nonsense(body: bytes) -> None:
    with pytest.raises(HostNonsense):
        unseal(Reversing(), body)
