"""A pack gives back what was put into a slot, or names itself in an error."""

import os
import struct
from dataclasses import replace

import pytest
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.repositories import CHUNK, random_bytes
from vmkeep.objectstore.errors import ObjectMissing, ObjectShort
from vmkeep.objectstore.memory import MemoryStore
from vmkeep.repository import packs
from vmkeep.repository.errors import Tampered
from vmkeep.repository.keys import KeyRing
from vmkeep.repository.packs import (
    FinishedPack,
    Kind,
    Pack,
    PackRef,
    PackWriter,
    read_footer,
    verify_stored,
)
from vmkeep.repository.slots import STORED, ZSTD, Slot

pytestmark = pytest.mark.quick

RING = KeyRing(bytes(range(32)), b"\5" * 16)
CONTENTS = [random_bytes(n, 500 + n) for n in range(4)] + [b"a" * CHUNK]
IDS = [blake3(c, key=RING.chunk_id_key).digest() for c in CONTENTS]


def _write(store: MemoryStore, kind: Kind = Kind.CHUNKS) -> FinishedPack:
    writer = PackWriter(store, RING, kind)
    for content_id, content in zip(IDS, CONTENTS, strict=True):
        packed = zstandard.ZstdCompressor().compress(content)
        codec = ZSTD if len(packed) < len(content) else STORED
        writer.append(content_id, packed if codec else content, codec, len(content))
    return writer.finish()


def _forge(
    store: MemoryStore,
    frames: list[tuple[bytes, bytes, int]],
    *,
    slots: list[Slot] | None = None,
    count: int | None = None,
    zeros: bytes = bytes(3),
    kind: Kind = Kind.CHUNKS,
    written_kind: int | None = None,
) -> PackRef:
    """Write a pack as docs/format.md section 6 says, with whatever table and frames a hostile writer likes.

    ``frames``: (id, payload, plain length announced); every frame is validly encrypted.
    """
    ref = PackRef(os.urandom(16), kind)
    aead = AESGCM(RING.pack_key(ref.id))
    body = b"VMKPACK1" + ref.id + bytes([kind if written_kind is None else written_kind]) + bytes(7)
    own = []
    for number, (content_id, payload, plain) in enumerate(frames):
        aad = struct.pack("<16s16sQB32s", RING.repository, ref.id, number, kind, content_id)
        frame = aead.encrypt(number.to_bytes(12, "big"), payload, aad)
        own.append(Slot(content_id, len(body), len(frame), plain, STORED))
        body += frame
    table = b"".join(struct.pack("<32sIIIB", *slot) + zeros for slot in (own if slots is None else slots))
    aad = struct.pack("<16s16sQB32s", RING.repository, ref.id, 1 << 32, kind, bytes(32))
    trailer = aead.encrypt((1 << 32).to_bytes(12, "big"), table, aad)
    body += trailer + struct.pack("<II16x", len(trailer), len(table) // 48 if count is None else count)
    store.put(ref.name, body + blake3(body).digest() + b"VMKEND01")
    return ref


def _open(store: MemoryStore, ref: PackRef, max_plain: int = CHUNK) -> Pack:
    return Pack(store, RING, ref, max_plain)


def test_what_goes_in_comes_out() -> None:
    store = MemoryStore()
    finished = _write(store)
    pack = _open(store, finished.ref)
    assert tuple(pack.slots) == finished.slots
    assert [pack.slots[n] for n in range(5)] == pack.slots[:] == list(finished.slots)
    assert (pack.size, pack.checksum) == (finished.size, finished.checksum)
    assert pack.size == len(store.get(finished.ref.name))
    assert pack.read(range(5)) == CONTENTS
    assert pack.read([4, 0, 2, 3]) == [CONTENTS[n] for n in (4, 0, 2, 3)]
    assert pack.read([]) == []
    pack.verify(RING.chunk_id_key)
    assert verify_stored(store, finished.ref.name) == finished.checksum


@pytest.mark.parametrize("buffer", [2100, 3000, 8000])
def test_frames_gathered_in_the_writers_buffer_come_out(buffer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "_BUFFER_BYTES", buffer)
    store = MemoryStore()
    contents = [random_bytes(length, length) for length in (1, 1000, 17, 999, 1034, 1, 512, 1000, 3)]
    ids = [blake3(content, key=RING.chunk_id_key).digest() for content in contents]
    writer = PackWriter(store, RING, Kind.CHUNKS)
    for content_id, content in zip(ids, contents, strict=True):
        writer.append(content_id, content, STORED, len(content))
    finished = writer.finish()
    assert finished.size == len(store.get(finished.ref.name))
    pack = _open(store, finished.ref)
    assert pack.read(range(len(contents))) == contents
    pack.verify(RING.chunk_id_key)


def test_frames_of_two_packs_are_read_in_turns() -> None:
    # Each holds memory of the thread while it waits for its next frame to be asked for.
    store = MemoryStore()
    first, second = _open(store, _write(store).ref), _open(store, _write(store).ref)
    pairs = zip(first.contents(range(5)), second.contents([4, 3, 2, 1, 0]), strict=True)
    assert [(a, b) for (_, a), (_, b) in pairs] == list(zip(CONTENTS, reversed(CONTENTS), strict=True))


def test_neighbours_are_fetched_with_one_request() -> None:
    class Counting(MemoryStore):
        requests = 0

        def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
            self.requests += 1
            super().read_into(name, offset, buffer)

    store = Counting()
    pack = _open(store, _write(store).ref)
    assert pack.read([0, 1, 2]) == CONTENTS[:3]
    assert store.requests == 1
    assert pack.read([4, 3]) == [CONTENTS[4], CONTENTS[3]]
    assert store.requests == 3


def test_pack_forged_without_a_flaw_is_read() -> None:
    # Otherwise the refusals below could have any reason.
    store = MemoryStore()
    ref = _forge(store, [(IDS[n], CONTENTS[n], len(CONTENTS[n])) for n in range(3)])
    assert _open(store, ref).read([0, 1, 2]) == CONTENTS[:3]


def test_pack_exists_only_when_finished() -> None:
    store = MemoryStore()
    writer = PackWriter(store, RING, Kind.CHUNKS)
    writer.append(IDS[0], CONTENTS[0], STORED, len(CONTENTS[0]))
    assert list(store.list("")) == []
    writer.abort()
    assert list(store.list("")) == []
    with pytest.raises(ObjectMissing):
        _open(store, writer.ref)


def test_aborting_a_finished_pack_leaves_it() -> None:
    store = MemoryStore()
    writer = PackWriter(store, RING, Kind.CHUNKS)
    writer.append(IDS[0], CONTENTS[0], STORED, len(CONTENTS[0]))
    finished = writer.finish()
    writer.abort()
    assert _open(store, finished.ref).read([0]) == CONTENTS[:1]


def test_packs_swapped_are_refused() -> None:
    store = MemoryStore()
    one, two = _write(store).ref, _write(store).ref
    first, second = store.get(one.name), store.get(two.name)
    store.overwrite(one.name, second)
    store.overwrite(two.name, first)
    for ref in (one, two):
        with pytest.raises(Tampered, match=ref.name):
            _open(store, ref)
        with pytest.raises(Tampered, match=ref.name):
            verify_stored(store, ref.name)


def test_pack_of_chunks_among_the_maps_is_refused() -> None:
    store = MemoryStore()
    ref = _write(store).ref
    moved = PackRef(ref.id, Kind.NODES)
    store.put(moved.name, store.get(ref.name))
    with pytest.raises(Tampered, match=moved.name):
        _open(store, moved)
    with pytest.raises(Tampered, match=moved.name):
        verify_stored(store, moved.name)


def test_frame_moved_to_another_slot_is_refused() -> None:
    store = MemoryStore()
    same = [(IDS[0], b"x" * 64, 64), (IDS[1], b"y" * 64, 64)]
    ref = _forge(store, same)
    stored = bytearray(store.get(ref.name))
    stored[32:112], stored[112:192] = stored[112:192], stored[32:112]
    stored[-40:-8] = blake3(stored[:-40]).digest()
    store.overwrite(ref.name, bytes(stored))
    pack = _open(store, ref)
    for slot in (0, 1):
        with pytest.raises(Tampered, match=ref.name):
            pack.read([slot])


@pytest.mark.parametrize("mended", [True, False], ids=["checksum mended", "checksum stale"])
def test_flip_anywhere_is_refused_or_changes_nothing(mended: bool) -> None:
    store = MemoryStore()
    ref = _forge(store, [(IDS[n], CONTENTS[n][:40], 40) for n in range(3)])
    good = store.get(ref.name)
    right = [CONTENTS[n][:40] for n in range(3)]
    for byte in range(len(good)):
        damaged = bytearray(good)
        damaged[byte] ^= 1 << byte % 8
        if mended and byte < len(good) - 40:
            damaged[-40:-8] = blake3(damaged[:-40]).digest()
        store.overwrite(ref.name, bytes(damaged))
        if not mended:
            with pytest.raises(Tampered, match=ref.name):
                verify_stored(store, ref.name)
            with pytest.raises(Tampered, match=ref.name):
                _open(store, ref).verify(RING.chunk_id_key)
        try:
            contents = _open(store, ref).read([0, 1, 2])
        except Tampered as error:
            assert ref.name in error.message
        else:
            # Header and checksum are for those without keys; the content is proven all the same.
            assert contents == right
            assert byte < 32 or byte >= len(good) - 56


def test_every_cut_is_refused() -> None:
    store = MemoryStore()
    ref = _forge(store, [(IDS[0], b"x" * 20, 20)])
    good = store.get(ref.name)
    for length in range(len(good)):
        store.overwrite(ref.name, good[:length])
        with pytest.raises(Tampered, match=ref.name):
            _open(store, ref)
        with pytest.raises(Tampered, match=ref.name):
            verify_stored(store, ref.name)


@pytest.mark.parametrize("buffer", [1, 40, 100, 1 << 20])
def test_verification_in_pieces_finds_every_flip(buffer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    ref = _forge(store, [(IDS[n], CONTENTS[n][:40], 40) for n in range(3)])
    good = store.get(ref.name)
    pack = _open(store, ref)
    monkeypatch.setattr(packs, "_BUFFER_BYTES", buffer)
    with pytest.raises(Tampered, match="does not hold what its id says"):
        pack.verify(RING.chunk_id_key)  # the ids are those of other contents
    ids = [blake3(CONTENTS[n][:40], key=RING.chunk_id_key).digest() for n in range(3)]
    ref = _forge(store, [(ids[n], CONTENTS[n][:40], 40) for n in range(3)])
    good = store.get(ref.name)
    pack = _open(store, ref)
    pack.verify(RING.chunk_id_key)
    assert verify_stored(store, ref.name) == pack.checksum
    for byte in range(len(good)):
        damaged = bytearray(good)
        damaged[byte] ^= 1 << byte % 8
        store.overwrite(ref.name, bytes(damaged))
        with pytest.raises(Tampered, match=ref.name):
            pack.verify(RING.chunk_id_key)
    for other in (good[:-1], good + b"x", good[:40]):
        store.overwrite(ref.name, other)
        for verify in (lambda: pack.verify(RING.chunk_id_key), lambda: verify_stored(store, ref.name)):
            with pytest.raises(Tampered, match=ref.name):
                verify()


def test_pack_cut_after_it_was_opened() -> None:
    store = MemoryStore()
    ref = _write(store).ref
    pack = _open(store, ref)
    store.overwrite(ref.name, store.get(ref.name)[:600])
    assert pack.read([0]) == CONTENTS[:1]
    with pytest.raises(ObjectShort, match=ref.name):
        pack.read([1])


_GOOD = [(IDS[0], b"x" * 50, 50), (IDS[1], b"y" * 50, 50)]
_FIRST, _SECOND = Slot(IDS[0], 32, 66, 50, STORED), Slot(IDS[1], 98, 66, 50, STORED)


@pytest.mark.parametrize(
    "slots",
    [
        [_FIRST],
        [_FIRST, _SECOND, _SECOND],
        [_SECOND, _FIRST],
        [_FIRST._replace(offset=33), _SECOND],
        [_FIRST._replace(offset=0, stored=98), _SECOND],
        [_FIRST, _FIRST],
        [_FIRST, _SECOND._replace(stored=65)],
        [_FIRST, _SECOND._replace(stored=0xFFFFFFFF)],
        [_FIRST._replace(stored=0), _SECOND._replace(offset=32, stored=132)],
        [_FIRST._replace(stored=16), _SECOND._replace(offset=48, stored=116)],
        [_FIRST._replace(plain=CHUNK + 1), _SECOND],
        [_FIRST._replace(plain=0), _SECOND],
        [_FIRST._replace(plain=0xFFFFFFFF), _SECOND],
        [_FIRST._replace(codec=2), _SECOND],
        [_FIRST._replace(codec=255), _SECOND],
        [],
    ],
)
def test_hostile_slot_table_is_refused(slots: list[Slot]) -> None:
    store = MemoryStore()
    ref = _forge(store, _GOOD, slots=slots)
    with pytest.raises(Tampered, match=ref.name):
        _open(store, ref)


def test_slot_count_that_contradicts_the_trailer_is_refused() -> None:
    for count in (0, 1, 3, 1_000_001, 0xFFFFFFFF):
        store = MemoryStore()
        ref = _forge(store, _GOOD, count=count)
        with pytest.raises(Tampered, match=ref.name):
            _open(store, ref)


def test_reserved_bytes_of_a_slot_must_be_zeros() -> None:
    store = MemoryStore()
    ref = _forge(store, _GOOD, zeros=b"\0\1\0")
    with pytest.raises(Tampered, match=ref.name):
        _open(store, ref)


@pytest.mark.parametrize(
    ("payload", "codec", "plain"),
    [
        (zstandard.ZstdCompressor().compress(bytes(CHUNK)), ZSTD, CHUNK - 1),
        (zstandard.ZstdCompressor().compress(bytes(CHUNK)), ZSTD, 10),
        (zstandard.ZstdCompressor().compress(bytes(10)), ZSTD, CHUNK),
        (zstandard.ZstdCompressor().compress(bytes(64 << 20)), ZSTD, CHUNK),
        (zstandard.ZstdCompressor(write_content_size=False).compress(bytes(100)), ZSTD, 100),
        (zstandard.ZstdCompressor().compress(b"content") + b"more", ZSTD, 7),
        (b"no frame", ZSTD, 8),
        (b"five!", STORED, 4),
        (b"five!", STORED, 6),
    ],
    ids=["one less", "less", "more", "bomb", "no size", "more behind", "no frame", "stored -", "stored +"],
)
def test_frame_that_is_not_as_its_slot_says_is_refused(payload: bytes, codec: int, plain: int) -> None:
    store = MemoryStore()
    slot = Slot(IDS[0], 32, len(payload) + 16, plain, codec)
    ref = _forge(store, [(IDS[0], payload, plain)], slots=[slot])
    pack = _open(store, ref)
    with pytest.raises(Tampered, match=ref.name):
        pack.read([0])


def test_node_may_be_larger_than_a_chunk_but_not_than_64_kib() -> None:
    store = MemoryStore()
    ref = _forge(store, [(IDS[0], bytes(65536), 65536)], kind=Kind.NODES)
    assert _open(store, ref, max_plain=16 << 10).read([0]) == [bytes(65536)]
    ref = _forge(store, [(IDS[0], bytes(65537), 65537)], kind=Kind.NODES)
    with pytest.raises(Tampered, match=ref.name):
        _open(store, ref, max_plain=1 << 20)


def test_pack_that_became_another_one_while_it_was_open_is_refused() -> None:
    # Longer by bytes no slot owns, with a right checksum: anybody can compute that one.
    store = MemoryStore()
    ref = _write(store).ref
    opened = _open(store, ref)
    stored = store.get(ref.name)
    trailer = int.from_bytes(stored[-64:-60], "little")
    body = stored[: -64 - trailer] + b"junk" + stored[-64 - trailer : -40]
    store.overwrite(ref.name, body + blake3(body).digest() + b"VMKEND01")
    with pytest.raises(Tampered, match=ref.name):
        opened.verify(RING.chunk_id_key)


def test_other_repository_and_other_key_are_refused() -> None:
    store = MemoryStore()
    ref = _write(store).ref
    for ring in (KeyRing(b"\1" * 32, RING.repository), KeyRing(bytes(range(32)), b"\6" * 16)):
        with pytest.raises(Tampered, match=ref.name):
            Pack(store, ring, ref, CHUNK)


def test_footer_needs_no_keys() -> None:
    store = MemoryStore()
    finished = _write(store)
    size, footer = read_footer(store, finished.ref.name)
    assert (size, footer.slots, footer.trailer) == (finished.size, 5, 5 * 48 + 16)
    assert footer.checksum == finished.checksum
    with pytest.raises(ObjectMissing):
        read_footer(store, "packs/00/" + "0" * 32)


def test_names() -> None:
    ref = PackRef(bytes(range(16)), Kind.NODES)
    assert ref.name == "maps/00/000102030405060708090a0b0c0d0e0f"
    assert PackRef.from_name(ref.name) == ref
    for name in (
        "maps/01/000102030405060708090a0b0c0d0e0f",
        "maps/00/000102030405060708090A0B0C0D0E0F",
        "maps/00/000102030405060708090a0b0c0d0e",
        "maps/00/000102030405060708090a0b0c0d0e0g",
        "points/00/000102030405060708090a0b0c0d0e0f",
        "maps/000102030405060708090a0b0c0d0e0f",
        "",
    ):
        assert PackRef.from_name(name) is None, name


def test_writer_never_fills_a_pack_that_no_reader_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "MAX_SLOTS", 3)
    writer = PackWriter(MemoryStore(), RING, Kind.CHUNKS)
    for _ in range(3):
        assert not writer.is_full(1 << 30)
        writer.append(IDS[0], CONTENTS[0], STORED, len(CONTENTS[0]))
    assert writer.is_full(1 << 30)


def test_pack_is_full_at_its_size() -> None:
    writer = PackWriter(MemoryStore(), RING, Kind.CHUNKS)
    writer.append(IDS[0], CONTENTS[0], STORED, len(CONTENTS[0]))
    assert not writer.is_full(writer.size + 1)
    assert writer.is_full(writer.size)


def test_finished_pack_tells_what_is_stored() -> None:
    store = MemoryStore()
    finished = _write(store)
    assert replace(finished).slots[4].codec == ZSTD
    assert [slot.id for slot in finished.slots] == IDS
