"""Sealed bodies: the MIME parts around an encrypted envelope ([MS-WSMV] 2.2.9.1, 4.5)."""

import re
import struct
from dataclasses import dataclass
from typing import Final

from vmkeep_lab.wire.acceptor import Acceptor

_PROTOCOLS: Final = {
    "Negotiate": "application/HTTP-SPNEGO-session-encrypted",
    "Kerberos": "application/HTTP-Kerberos-session-encrypted",
}
_PLAIN_TYPE: Final = "application/soap+xml;charset=UTF-8"

# The printed example of the specification writes "-- Encrypted Boundary": a blank is allowed. The tabs are
# not optional, and the names are compared to the letter.
_HEAD: Final = re.compile(
    rb"--\s*Encrypted Boundary\r\n"
    rb"\tContent-Type:\s*(?P<protocol>[^\r\n]+)\r\n"
    rb"\tOriginalContent:\s*type=(?P<type>[^\r\n]+?);\s*Length=(?P<length>\d{1,9})\r\n"
    rb"--\s*Encrypted Boundary\r\n"
    rb"\tContent-Type:\s*application/octet-stream\r\n"
)
_TAIL: Final = re.compile(rb"--\s?Encrypted Boundary--(?:\r\n)?\Z")
_TAIL_BYTES: Final = 32


class BadSeal(Exception):
    """A sealed body that is not well-formed, or was not sealed with this connection's key."""


@dataclass(frozen=True)
class Opened:
    """The envelope of a sealed body, and the type it says it has."""

    data: bytes
    content_type: str


def content_type(acceptor: Acceptor) -> str:
    """Return the header that announces a sealed body."""
    return f'multipart/encrypted;protocol="{_PROTOCOLS[acceptor.scheme]}";boundary="Encrypted Boundary"'


def unseal(body: bytes, acceptor: Acceptor) -> Opened:
    """Return the envelope inside; BadSeal where there is none to be had."""
    found = _HEAD.match(body)
    # No line ends before the last boundary: what stands there belongs to the sealed data.
    end = _TAIL.search(body, max(0, len(body) - _TAIL_BYTES))
    if not found or not end or found["protocol"].strip() != _PROTOCOLS[acceptor.scheme].encode():
        raise BadSeal("the parts of the body are not as they should be")
    sealed = body[found.end() : end.start()]
    size = struct.unpack_from("<I", sealed)[0] if len(sealed) >= 4 else 0
    if not 0 < size <= len(sealed) - 4:
        raise BadSeal("the header of the sealed data has no length")
    data = acceptor.unseal(sealed[4 : 4 + size], sealed[4 + size :])
    if data is None:
        raise BadSeal("the body was sealed with another key, or changed on its way")
    if len(data) != int(found["length"]):
        raise BadSeal("the body has another length than it says")
    return Opened(data, found["type"].decode("latin-1"))


def seal(data: bytes, acceptor: Acceptor) -> bytes:
    """Return a body with the envelope sealed inside."""
    header, sealed = acceptor.seal(data)
    protocol = _PROTOCOLS[acceptor.scheme]
    return b"".join(
        (
            b"--Encrypted Boundary\r\n",
            f"\tContent-Type: {protocol}\r\n".encode(),
            f"\tOriginalContent: type={_PLAIN_TYPE};Length={len(data)}\r\n".encode(),
            b"--Encrypted Boundary\r\n",
            b"\tContent-Type: application/octet-stream\r\n",
            struct.pack("<I", len(header)),
            header,
            sealed,
            b"--Encrypted Boundary--\r\n",
        )
    )
