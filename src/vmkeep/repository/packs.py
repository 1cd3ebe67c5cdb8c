"""Packs: immutable objects of many encrypted frames that describe themselves. `docs/format.md` section 6."""

import os
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from mmap import mmap
from typing import Final, NamedTuple

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vmkeep.objectstore.errors import ObjectShort
from vmkeep.objectstore.store import ObjectWriter, Store
from vmkeep.repository.box import decompress
from vmkeep.repository.errors import Tampered
from vmkeep.repository.fetching import reading
from vmkeep.repository.keys import KeyRing
from vmkeep.repository.slots import SLOT_BYTES, TAG_BYTES, ZSTD, Slot, SlotTable, encode_slots

HEADER_BYTES: Final = 32
FOOTER_BYTES: Final = 64
ID_BYTES: Final = 32
MAX_SLOTS: Final = 1_000_000
MAX_NODE_BYTES: Final = 64 << 10
_MAGIC, _END = b"VMKPACK1", b"VMKEND01"
_TRAILER_NONCE: Final = 1 << 32
_FOOTER = struct.Struct("<II16s32s8s")
_ASSOCIATED = struct.Struct("<16s16sQB32s")
# Larger than any frame; the writer hands on what has gathered once half of it is full.
_BUFFER_BYTES: Final = 4 << 20
# Reading over so much that nobody asked for is cheaper than another request.
_GAP_BYTES: Final = 32 << 10
_thread: Final = threading.local()
_CHECKSUM_REGION_END: Final = 40  # checksum and end mark are not part of what is summed


class Kind(IntEnum):
    """What a pack holds; it decides the prefix of the object's name."""

    CHUNKS = 1
    NODES = 2

    @property
    def prefix(self) -> str:
        return "packs/" if self is Kind.CHUNKS else "maps/"


_Frame = tuple[int, Slot]  # which slot, and what the table says of it


class PackRef(NamedTuple):
    """Which pack; enough to name its object."""

    id: bytes
    kind: Kind

    @property
    def name(self) -> str:
        digits = self.id.hex()
        return f"{self.kind.prefix}{digits[:2]}/{digits}"

    @classmethod
    def from_name(cls, name: str) -> "PackRef | None":
        """Return the pack an object name stands for; None when it is no pack's name."""
        for kind in Kind:
            digits = name.rsplit("/", 1)[-1]
            if name == f"{kind.prefix}{digits[:2]}/{digits}" and len(digits) == 32:
                try:
                    ref = cls(bytes.fromhex(digits), kind)
                except ValueError:
                    return None
                return ref if ref.name == name else None  # upper case digits name nothing
        return None


@dataclass(frozen=True)
class FinishedPack:
    """A pack that is stored: what the inventory and the index need to know."""

    ref: PackRef
    size: int
    checksum: bytes
    slots: tuple[Slot, ...]


class PackWriter:
    """Fill one pack, frame by frame; one thread at a time.

    The object exists only after :meth:`finish`; :meth:`abort` leaves nothing.
    A pack is never continued, so no nonce is used twice under its key.
    """

    def __init__(self, store: Store, ring: KeyRing, kind: Kind) -> None:
        self.ref = PackRef(os.urandom(16), kind)
        self._aead = AESGCM(ring.pack_key(self.ref.id))
        self._repository = ring.repository
        self._slots: list[Slot] = []
        self._sum = blake3()
        self._object: ObjectWriter = store.create(self.ref.name)
        self.size = 0
        # Frames are encrypted into this buffer, side by side: one write and one
        # update of the checksum for many of them. Not from the heap, where each
        # thread that ever made a pack would keep as much.
        self._buffer = memoryview(mmap(-1, _BUFFER_BYTES))
        self._filled = 0
        self._put(_MAGIC + self.ref.id + bytes([kind]) + bytes(7))

    @property
    def count(self) -> int:
        return len(self._slots)

    def is_full(self, pack_size: int) -> bool:
        """Tell whether the pack is to be finished: by its size, or because readers take no more slots."""
        return self.size >= pack_size or len(self._slots) >= MAX_SLOTS

    def append(self, content_id: bytes, payload: bytes, codec: int, plain: int) -> int:
        """Encrypt and write ``payload`` (already encoded by ``codec``); return its slot."""
        slot = len(self._slots)
        associated = _ASSOCIATED.pack(self._repository, self.ref.id, slot, self.ref.kind, content_id)
        length = len(payload) + TAG_BYTES
        frame = self._buffer[self._filled : self._filled + length]
        self._aead.encrypt_into(slot.to_bytes(12, "big"), payload, associated, frame)
        self._slots.append(Slot(content_id, self.size, length, plain, codec))
        self._advance(length)
        return slot

    def finish(self) -> FinishedPack:
        """Write the trailer and make the object appear."""
        table = encode_slots(self._slots)
        associated = _ASSOCIATED.pack(
            self._repository, self.ref.id, _TRAILER_NONCE, self.ref.kind, bytes(ID_BYTES)
        )
        trailer = self._aead.encrypt(_TRAILER_NONCE.to_bytes(12, "big"), table, associated)
        self._hand_on()
        end = trailer + struct.pack("<II16x", len(trailer), len(self._slots))
        self._sum.update(end)
        self.size += len(end)
        checksum = self._sum.digest()
        self._object.write(end + checksum + _END)
        self._object.commit()
        return FinishedPack(self.ref, self.size + _CHECKSUM_REGION_END, checksum, tuple(self._slots))

    def abort(self) -> None:
        """Leave nothing behind; safe to repeat."""
        self._object.abort()

    def _put(self, data: bytes) -> None:
        self._buffer[self._filled : self._filled + len(data)] = data
        self._advance(len(data))

    def _advance(self, length: int) -> None:
        self._filled += length
        self.size += length
        if self._filled >= _BUFFER_BYTES // 2:
            self._hand_on()

    def _hand_on(self) -> None:
        part = self._buffer[: self._filled]
        self._filled = 0
        self._sum.update(part)
        self._object.write(part)


class Pack:
    """A stored pack opened for reading: its slot table is known and authenticated."""

    def __init__(self, store: Store, ring: KeyRing, ref: PackRef, max_plain: int) -> None:
        """Read the trailer. Raises ObjectMissing, or Tampered naming the pack."""
        self.ref = ref
        self._store = store
        self._repository = ring.repository
        self._aead = AESGCM(ring.pack_key(ref.id))
        self._max_plain = max_plain if ref.kind is Kind.CHUNKS else MAX_NODE_BYTES
        self.size, self.checksum, self.slots = self._read_trailer()

    def _read_trailer(self) -> tuple[int, bytes, SlotTable]:
        name = self.ref.name
        size, footer = read_footer(self._store, name)
        trailer_at = size - FOOTER_BYTES - footer.trailer
        with reading(name):
            trailer = self._store.get_range(name, trailer_at, footer.trailer)
        associated = _ASSOCIATED.pack(
            self._repository, self.ref.id, _TRAILER_NONCE, self.ref.kind, bytes(ID_BYTES)
        )
        try:
            table = self._aead.decrypt(_TRAILER_NONCE.to_bytes(12, "big"), trailer, associated)
        except InvalidTag as error:
            raise Tampered(
                f"the slot table of {name} is damaged or belongs to another pack.", object=name
            ) from error
        try:
            slots = SlotTable(table)
        except ValueError as error:
            raise Tampered(f"the slot table of {name} is implausible.", object=name) from error
        if len(slots) != footer.slots or not slots.fills(HEADER_BYTES, trailer_at, self._max_plain):
            raise Tampered(f"the slot table of {name} does not describe this pack.", object=name)
        return size, footer.checksum, slots

    def read(self, slots: Sequence[int]) -> list[bytes]:
        """Return the verified content of the given slots, in order; see :meth:`contents`."""
        return [content for _, content in self.contents(slots)]

    def contents(self, slots: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """Yield (slot, verified content) of the given slots, in order, with few requests.

        Neighbours are fetched together, a few megabytes at a time. The caller checks the ids
        (``self.slots[i].id``) against the content: see :class:`~vmkeep.repository.reader.Reader`.
        """
        for frames in _spans([(number, self.slots[number]) for number in slots]):
            start, end = _bounds(frames)
            with _borrowed_buffer(end - start) as span:
                with reading(self.ref.name):
                    self._store.read_into(self.ref.name, start, span)
                for number, _, content in self._decoded(frames, span):
                    yield number, content

    def verify(self, id_key: bytes) -> None:
        """Read the whole pack once and prove its checksum, frames and ids. Raises Tampered or ObjectMissing.

        A few megabytes of it are in memory at a time.
        """
        name = self.ref.name
        with _borrowed_buffer(_BUFFER_BYTES) as buffer:
            pieces = _Pieces(self._store, name, buffer)
            if pieces.size != self.size:
                raise Tampered(f"the pack {name} changed its size while it was examined.", object=name)
            header = bytes(pieces.read(HEADER_BYTES))
            for frames in _spans(list(enumerate(self.slots))):
                start, end = _bounds(frames)
                for _, slot, content in self._decoded(frames, pieces.read(end - start)):
                    if blake3(content, key=id_key).digest() != slot.id:
                        raise Tampered(f"a frame of {name} does not hold what its id says.", object=name)
            pieces.finish(self.ref, header)

    def _decoded(self, frames: Sequence[_Frame], span: memoryview) -> Iterator[tuple[int, Slot, bytes]]:
        """Yield number, slot and verified content of neighbours whose bytes are in ``span``."""
        start, _ = _bounds(frames)
        for number, slot in frames:
            at = slot.offset - start
            yield number, slot, self._decode(number, slot, span[at : at + slot.stored])

    def _decode(self, number: int, slot: Slot, frame: memoryview) -> bytes:
        associated = _ASSOCIATED.pack(self._repository, self.ref.id, number, self.ref.kind, slot.id)
        try:
            payload = self._aead.decrypt(number.to_bytes(12, "big"), frame, associated)
            content = decompress(payload, slot.plain) if slot.codec == ZSTD else payload
        except (InvalidTag, zstandard.ZstdError) as error:
            raise Tampered(
                f"frame {number} of {self.ref.name} is damaged.", object=self.ref.name, slot=number
            ) from error
        if len(content) != slot.plain:
            raise Tampered(
                f"frame {number} of {self.ref.name} has a wrong length.", object=self.ref.name, slot=number
            )
        return content


def _spans(frames: Sequence[_Frame]) -> Iterator[Sequence[_Frame]]:
    """Yield parts of ``frames`` that are best read at once.

    Those of a part ascend, hardly anything lies between them, and they fit into a
    buffer together (or there is one that does not).
    """
    first = 0
    for position in range(1, len(frames)):
        before, this = frames[position - 1][1], frames[position][1]
        gap = this.offset - before.offset - before.stored
        length = this.offset + this.stored - frames[first][1].offset
        if not 0 <= gap <= _GAP_BYTES or length > _BUFFER_BYTES:
            yield frames[first:position]
            first = position
    if frames:
        yield frames[first:]


def _bounds(frames: Sequence[_Frame]) -> tuple[int, int]:
    """Return where the first of these frames begins and the last one ends."""
    last = frames[-1][1]
    return frames[0][1].offset, last.offset + last.stored


class Footer(NamedTuple):
    """The last bytes of a pack; readable without keys."""

    trailer: int
    slots: int
    checksum: bytes


def _size_of(store: Store, name: str) -> int:
    info = store.head(name)
    # A missing object is reported by the store itself, in its own words.
    return info.size if info else len(store.get(name))


def read_footer(store: Store, name: str, size: int | None = None) -> tuple[int, Footer]:
    """Return a pack's size and footer. Raises ObjectMissing or Tampered."""
    if size is None:
        size = _size_of(store, name)
    if size < HEADER_BYTES + TAG_BYTES + FOOTER_BYTES:
        raise Tampered(f"the pack {name} is cut off.", object=name)
    with reading(name):
        stored = store.get_range(name, size - FOOTER_BYTES, FOOTER_BYTES)
    trailer, slots, zeros, checksum, end = _FOOTER.unpack(stored)
    plausible = (
        end == _END and not any(zeros) and slots <= MAX_SLOTS and trailer == slots * SLOT_BYTES + TAG_BYTES
    )
    if not plausible or trailer > size - HEADER_BYTES - FOOTER_BYTES:
        raise Tampered(f"the pack {name} is cut off or damaged at its end.", object=name)
    return size, Footer(trailer, slots, checksum)


def verify_stored(store: Store, name: str) -> bytes:
    """Check a whole pack without keys; return its checksum. Raises Tampered or ObjectMissing.

    Proves that it is as its writer left it as far as chance goes; only the
    keys prove that nobody rewrote it.
    """
    with _borrowed_buffer(_BUFFER_BYTES) as buffer:
        pieces = _Pieces(store, name, buffer)
        header = bytes(pieces.read(min(HEADER_BYTES, pieces.left)))
        while pieces.left:
            pieces.read(min(_BUFFER_BYTES, pieces.left))
        return pieces.finish(PackRef.from_name(name), header)


@contextmanager
def _borrowed_buffer(length: int) -> Iterator[memoryview]:
    """Lend memory of the calling thread; whoever asks meanwhile gets other memory.

    Fresh memory for every few megabytes costs more than reading them.
    """
    if length > _BUFFER_BYTES:
        yield memoryview(bytearray(length))
        return
    buffer = _thread.__dict__.pop("buffer", None) or memoryview(bytearray(_BUFFER_BYTES))
    try:
        yield buffer[:length]
    finally:
        _thread.buffer = buffer


class _Pieces:
    """Reads one pack from first to last byte, piece by piece into one buffer, and sums it."""

    def __init__(self, store: Store, name: str, buffer: memoryview) -> None:
        self._store = store
        self._name = name
        self._buffer = buffer
        self._sum = blake3()
        self._at = 0
        self.size = _size_of(store, name)

    @property
    def left(self) -> int:
        """How many bytes still count for the checksum."""
        return max(0, self.size - _CHECKSUM_REGION_END - self._at)

    def read(self, length: int) -> memoryview:
        """Return the next bytes; valid until the next call."""
        part = self._buffer[:length] if length <= len(self._buffer) else memoryview(bytearray(length))
        try:
            with reading(self._name):
                self._store.read_into(self._name, self._at, part)
        except ObjectShort as error:
            raise self._cut_off() from error
        self._sum.update(part)
        self._at += length
        return part

    def finish(self, ref: PackRef | None, header: bytes) -> bytes:
        """Read the rest, judge the whole, return its checksum."""
        if self.left:
            self.read(self.left)
        name = self._name
        if self.size < HEADER_BYTES + FOOTER_BYTES:
            raise self._cut_off()
        with reading(name):
            end = self._store.get_range(name, self._at, _CHECKSUM_REGION_END)
        if end[-len(_END) :] != _END:
            raise self._cut_off()
        checksum = end[: -len(_END)]
        if self._sum.digest() != checksum:
            raise Tampered(f"the pack {name} is damaged: its checksum is wrong.", object=name)
        if ref is None or header != _MAGIC + ref.id + bytes([ref.kind]) + bytes(7):
            raise Tampered(f"the pack {name} lies under a name that is not its own.", object=name)
        return checksum

    def _cut_off(self) -> Tampered:
        return Tampered(f"the pack {self._name} is cut off or damaged at its end.", object=self._name)
