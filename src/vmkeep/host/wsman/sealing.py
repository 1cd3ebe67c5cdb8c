"""Wrap messages in the multipart body that a sealed connection carries ([MS-WSMV] 2.2.9.1)."""

import re
import struct
from typing import Final, NamedTuple, Protocol

from vmkeep.host.wsman.errors import HostNonsense

SPNEGO: Final = "application/HTTP-SPNEGO-session-encrypted"
KERBEROS: Final = "application/HTTP-Kerberos-session-encrypted"

_BOUNDARY: Final = "Encrypted Boundary"
_SOAP: Final = "application/soap+xml;charset=UTF-8"
# The specification prints a blank after the dashes, Exchange sends one.
_HEAD: Final = re.compile(
    rb"\A--\s*Encrypted Boundary\r\n"
    rb"\s*Content-Type:\s*[\w/.+-]+\r\n"
    rb"\s*OriginalContent:\s*type=[^\r\n]{0,200}?;\s*Length=(\d{1,9})\r\n"
    rb"--\s*Encrypted Boundary\r\n"
    rb"\s*Content-Type:\s*application/octet-stream\r\n",
    re.IGNORECASE,
)
# No line break before it: that would be two bytes of sealed data.
_TAIL: Final = re.compile(rb"--\s*Encrypted Boundary--(?:\r\n)?\Z", re.IGNORECASE)
_LONGEST_SIGNATURE: Final = 4096


class Wrapped(NamedTuple):
    """What a security context makes of a message."""

    header: bytes
    data: bytes
    padding_length: int


class Sealer(Protocol):
    """The part of a security context that seals; pyspnego's contexts are such."""

    def wrap_winrm(self, data: bytes) -> Wrapped:
        """Seal a message."""

    def unwrap_winrm(self, header: bytes, data: bytes) -> bytes:
        """Open a sealed message."""


def content_type(protocol: str) -> str:
    """Return the header that announces a sealed body."""
    return f'multipart/encrypted;protocol="{protocol}";boundary="{_BOUNDARY}"'


def is_sealed(announced: str) -> bool:
    """Tell whether a Content-Type announces a sealed body."""
    return announced.strip().lower().startswith("multipart/encrypted")


def seal(sealer: Sealer, protocol: str, message: bytes) -> bytes:
    """Return the multipart body for a message. The tabs are part of the format."""
    wrapped = sealer.wrap_winrm(message)
    head = (
        f"--{_BOUNDARY}\r\n\tContent-Type: {protocol}\r\n"
        f"\tOriginalContent: type={_SOAP};Length={len(message) + wrapped.padding_length}\r\n"
        f"--{_BOUNDARY}\r\n\tContent-Type: application/octet-stream\r\n"
    )
    signature = struct.pack("<I", len(wrapped.header)) + wrapped.header
    return head.encode("ascii") + signature + wrapped.data + f"--{_BOUNDARY}--\r\n".encode("ascii")


def unseal(sealer: Sealer, body: bytes) -> bytes:
    """Return the message inside a multipart body. Raises HostNonsense for a body of another form.

    Whatever the context raises for a wrong signature comes through.
    """
    head, tail = _HEAD.match(body), _TAIL.search(body, max(0, len(body) - 64))
    if head is None or tail is None or tail.start() < head.end() + 4:
        raise HostNonsense("the answer announces a sealed body and has another form.")
    sealed = body[head.end() : tail.start()]
    (length,) = struct.unpack("<I", sealed[:4])
    if length > min(_LONGEST_SIGNATURE, len(sealed) - 4):
        raise HostNonsense("the signature of a sealed answer is longer than the answer.")
    message = sealer.unwrap_winrm(sealed[4 : 4 + length], sealed[4 + length :])
    if len(message) != int(head[1]):
        raise HostNonsense(f"a sealed answer holds {len(message)} bytes and announces {int(head[1])}.")
    return message
