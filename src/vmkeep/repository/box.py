"""Small encrypted objects, each bound to its name and repository.

`docs/format.md` section 8. A box that does not open is damaged, forged, or was
moved; the caller says which object it is, so nothing is ever opened by guess.
"""

import os
import threading
from typing import Final

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vmkeep.repository.errors import Tampered
from vmkeep.repository.keys import KeyRing

_MAGIC: Final = b"VMKBOX01"
_HEADER_BYTES: Final = 32
_CHECKSUM_BYTES: Final = 32
_STORED, _ZSTD = 0, 1
_NONCE: Final = bytes(12)  # the key is used once: each box has a salt of its own
MAX_PLAIN_BYTES: Final = 256 << 20
_thread: Final = threading.local()


def close_box(ring: KeyRing, name: str, content: bytes, *, compress: bool = True) -> bytes:
    """Encrypt ``content`` for storage under ``name``; every call gives other bytes."""
    codec = _ZSTD if compress else _STORED
    plain = zstandard.ZstdCompressor(level=3).compress(content) if compress else content
    salt = os.urandom(16)
    start = _MAGIC + bytes([codec]) + bytes(7)
    sealed = AESGCM(ring.box_key(salt)).encrypt(_NONCE, plain, _associated(ring, start, name))
    stored = start + salt + sealed
    return stored + blake3(stored).digest()


def open_box(ring: KeyRing, name: str, stored: bytes) -> bytes:
    """Return the content of the box stored under ``name``, or raise :class:`Tampered`."""
    verify_box(name, stored)
    start, salt, sealed = stored[:16], stored[16:_HEADER_BYTES], stored[_HEADER_BYTES:-_CHECKSUM_BYTES]
    codec = start[8]
    try:
        plain = AESGCM(ring.box_key(salt)).decrypt(_NONCE, sealed, _associated(ring, start, name))
    except InvalidTag as error:
        raise Tampered(
            f"the object {name} is damaged, forged, or lies under a wrong name.", object=name
        ) from error
    if codec == _STORED:
        return plain
    try:
        return decompress(plain, MAX_PLAIN_BYTES)
    except zstandard.ZstdError as error:
        raise Tampered(f"the object {name} does not decompress.", object=name) from error


def verify_box(name: str, stored: bytes) -> None:
    """Check a box without keys; Tampered when it is not as its writer left it, as far as chance goes."""
    intact = (
        len(stored) > _HEADER_BYTES + _CHECKSUM_BYTES
        and stored[:8] == _MAGIC
        and stored[8] in (_STORED, _ZSTD)
        and not any(stored[9:16])
        and blake3(stored[:-_CHECKSUM_BYTES]).digest() == stored[-_CHECKSUM_BYTES:]
    )
    if not intact:
        raise Tampered(f"the object {name} is damaged.", object=name)


def decompress(frame: bytes, limit: int) -> bytes:
    """Decompress exactly one zstd frame of at most ``limit`` bytes; ZstdError otherwise."""
    announced = zstandard.frame_content_size(frame)
    if not 0 <= announced <= limit:
        raise zstandard.ZstdError("the frame announces no size or one above the limit")
    # Making a context costs as much as decompressing a small frame; one serves a thread for good.
    decompressor = getattr(_thread, "decompressor", None)
    if decompressor is None:
        decompressor = _thread.decompressor = zstandard.ZstdDecompressor()
    content: bytes = decompressor.decompress(frame, max_output_size=limit, allow_extra_data=False)
    return content


def _associated(ring: KeyRing, start: bytes, name: str) -> bytes:
    return ring.repository + start + name.encode()
