"""A box opens only where it was closed, unchanged, by somebody with the keys."""

import os
import struct

import pytest
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vmkeep.repository.box import MAX_PLAIN_BYTES, close_box, decompress, open_box, verify_box
from vmkeep.repository.errors import Tampered
from vmkeep.repository.keys import KeyRing

pytestmark = pytest.mark.quick

RING = KeyRing(bytes(range(32)), bytes(16))
NAME = "points/aa/20260329T003000Z-bb"
CONTENT = b"content that compresses " * 8
# docs/format.md section 8: where each field of a box begins.
REGIONS = {"magic": 0, "codec": 8, "zeros": 9, "salt": 16, "ciphertext": 32, "tag": -48, "checksum": -32}


def _with_checksum(stored: bytes) -> bytes:
    return stored[:-32] + blake3(stored[:-32]).digest()


def _close_by_hand(start: bytes, plain: bytes, ring: KeyRing = RING, name: str = NAME) -> bytes:
    """Close a box as the specification says, without the code under test."""
    salt = os.urandom(16)
    associated = ring.repository + start + name.encode()
    body = start + salt + AESGCM(ring.box_key(salt)).encrypt(bytes(12), plain, associated)
    return body + blake3(body).digest()


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("content", [b"", b"x", CONTENT])
def test_what_goes_in_comes_out(content: bytes, compress: bool) -> None:
    stored = close_box(RING, NAME, content, compress=compress)
    verify_box(NAME, stored)
    assert open_box(RING, NAME, stored) == content


def test_box_closed_by_hand_opens() -> None:
    assert open_box(RING, NAME, _close_by_hand(b"VMKBOX01" + bytes(8), CONTENT)) == CONTENT


def test_two_boxes_of_one_content_differ() -> None:
    assert close_box(RING, NAME, CONTENT) != close_box(RING, NAME, CONTENT)


@pytest.mark.parametrize("other", ["points/aa/20260329T003000Z-bc", "seals/aa/20260329T003000Z-bb", ""])
def test_box_under_another_name_is_refused(other: str) -> None:
    with pytest.raises(Tampered) as caught:
        open_box(RING, other, close_box(RING, NAME, CONTENT))
    assert other in caught.value.message


@pytest.mark.parametrize(
    "other", [KeyRing(bytes(range(32)), b"\1" * 16), KeyRing(b"\7" * 32, bytes(16))], ids=["id", "key"]
)
def test_box_of_another_repository_is_refused(other: KeyRing) -> None:
    with pytest.raises(Tampered, match=NAME):
        open_box(other, NAME, close_box(RING, NAME, CONTENT))


@pytest.mark.parametrize("region", list(REGIONS))
@pytest.mark.parametrize("mended", [True, False], ids=["checksum mended", "checksum stale"])
def test_flip_anywhere_is_refused(region: str, mended: bool) -> None:
    stored = bytearray(close_box(RING, NAME, CONTENT))
    stored[REGIONS[region]] ^= 0x01
    damaged = _with_checksum(bytes(stored)) if mended and region != "checksum" else bytes(stored)
    with pytest.raises(Tampered, match=NAME):
        open_box(RING, NAME, damaged)
    if not mended:
        with pytest.raises(Tampered, match=NAME):
            verify_box(NAME, damaged)


def test_every_bit_counts() -> None:
    stored = close_box(RING, NAME, b"short")
    for bit in range(len(stored) * 8):
        damaged = bytearray(stored)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Tampered):
            open_box(RING, NAME, bytes(damaged))


def test_every_cut_is_refused() -> None:
    stored = close_box(RING, NAME, b"short")
    for length in range(len(stored)):
        with pytest.raises(Tampered):
            open_box(RING, NAME, stored[:length])
        mended = _with_checksum(stored[:length] + bytes(32))
        with pytest.raises(Tampered):
            open_box(RING, NAME, mended if mended != stored else mended[:-1])
    with pytest.raises(Tampered):
        open_box(RING, NAME, stored + b"\0")


def _frame_that_announces(size: int) -> bytes:
    # RFC 8878 3.1.1: magic, descriptor (8-byte content size, single segment), size, one raw last block of 0.
    return struct.pack("<IBQ", 0xFD2FB528, 0b11100000, size) + b"\x01\0\0"


@pytest.mark.parametrize(
    "payload",
    [
        _frame_that_announces(MAX_PLAIN_BYTES + 1),
        _frame_that_announces(1 << 62),
        zstandard.ZstdCompressor(write_content_size=False).compress(CONTENT),
        b"no frame",
        b"",
        zstandard.ZstdCompressor().compress(CONTENT)[:-3],
    ],
    ids=["above the limit", "absurd", "no size", "no frame", "empty", "cut"],
)
def test_payload_of_a_hostile_writer_is_refused(payload: bytes) -> None:
    with pytest.raises(Tampered, match=NAME):
        open_box(RING, NAME, _close_by_hand(b"VMKBOX01\x01" + bytes(7), payload))


def test_unknown_codec_and_reserved_bytes_are_refused() -> None:
    for start in (b"VMKBOX01\x02" + bytes(7), b"VMKBOX01\x00" + bytes(6) + b"\1", b"VMKBOX02" + bytes(8)):
        with pytest.raises(Tampered):
            open_box(RING, NAME, _close_by_hand(start, CONTENT))


def test_decompression_stops_at_the_limit() -> None:
    frame = zstandard.ZstdCompressor().compress(bytes(1000))
    assert decompress(frame, 1000) == bytes(1000)
    with pytest.raises(zstandard.ZstdError):
        decompress(frame, 999)


def test_more_behind_the_frame_is_refused() -> None:
    # docs/format.md section 6: one frame, nothing behind it.
    frame = zstandard.ZstdCompressor().compress(b"content")
    with pytest.raises(zstandard.ZstdError):
        decompress(frame + b"more", 1000)
