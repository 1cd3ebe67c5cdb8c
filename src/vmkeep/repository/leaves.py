"""Turn 4 MiB of a disk into chunk ids and the payloads nobody has stored yet.

This is the hot path of every backup: it runs in several threads at once, in C
libraries that release the interpreter lock, on buffers that are used again.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import zstandard
from blake3 import blake3

from vmkeep.ranges import ByteRange
from vmkeep.repository.index import Index
from vmkeep.repository.nodes import Child, Entry
from vmkeep.repository.packs import PackRef
from vmkeep.repository.parameters import LEAF_CHUNKS
from vmkeep.repository.slots import STORED, ZSTD

ReadInto = Callable[[int, memoryview], None]

_ZSTD_LEVEL: Final = 1


class Payload(NamedTuple):
    """A chunk to be stored: its place in the leaf, its id, and its bytes as they go into a pack."""

    position: int
    id: bytes
    data: bytes
    codec: int
    plain: int


class Leaf(NamedTuple):
    """One finished leaf: 64 entries, what is new, which packs the rest was found in, bytes read."""

    number: int
    entries: list[Entry]
    payloads: list[Payload]
    found_in: set[PackRef]
    read: int


class LeafReader:
    """Read, recognise and compress leaves of any disk; :meth:`process` may run in many threads."""

    def __init__(self, chunk_size: int, id_key: bytes, index: Index) -> None:
        self._chunk = chunk_size
        self._key = id_key
        self._index = index
        self._local = threading.local()

    def process(
        self,
        read_into: ReadInto,
        number: int,
        wanted: Sequence[ByteRange],
        base: Sequence[Entry],
        *,
        trust_base: bool = True,
    ) -> Leaf:
        """Read the chunks that ``wanted`` touches and say what has to be stored.

        ``wanted`` are ranges of the disk, aligned to chunks, inside this leaf.
        ``base`` is what the chunks not wanted become; the parent protects it, so
        a wanted chunk equal to it is stored already (unless ``trust_base`` is off).
        """
        buffer, view, compressor = self._thread_state()
        start = number * LEAF_CHUNKS * self._chunk
        entries = list(base)
        payloads: list[Payload] = []
        found_in: set[PackRef] = set()
        read = 0
        for offset, length in wanted:
            at = offset - start
            read_into(offset, view[at : at + length])
            read += length
            for position in range(at // self._chunk, -(-(at + length) // self._chunk)):
                low = position * self._chunk
                high = min(low + self._chunk, at + length)
                # startswith compares memory without a copy; comparing a memoryview goes byte by byte.
                if buffer.startswith(self._zeros(high - low), low):
                    entries[position] = Child.ZERO
                    continue
                content = view[low:high]
                content_id = blake3(content, key=self._key).digest()
                entries[position] = content_id
                if base[position] == content_id and trust_base:
                    continue
                location = self._index.find_reusable(content_id)
                if location is not None:
                    found_in.add(location.pack)
                    continue
                packed = compressor.compress(content)
                if len(packed) < high - low:
                    payloads.append(Payload(position, content_id, packed, ZSTD, high - low))
                else:
                    payloads.append(Payload(position, content_id, bytes(content), STORED, high - low))
        return Leaf(number, entries, payloads, found_in, read)

    def _zeros(self, length: int) -> bytes:
        cache: dict[int, bytes] = self._local.zeros
        found = cache.get(length)
        if found is None:
            found = cache[length] = bytes(length)
        return found

    def _thread_state(self) -> tuple[bytearray, memoryview, zstandard.ZstdCompressor]:
        local = self._local
        if not hasattr(local, "buffer"):
            local.buffer = bytearray(LEAF_CHUNKS * self._chunk)
            local.view = memoryview(local.buffer)
            local.compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=False)
            local.zeros = {}
        return local.buffer, local.view, local.compressor


def split_by_leaf(ranges: Iterable[ByteRange], leaf_size: int) -> Iterator[tuple[int, list[ByteRange]]]:
    """Yield (leaf number, its part of the ranges), ascending; the input is a range list."""
    number = -1
    parts: list[ByteRange] = []
    for offset, length in ranges:
        end = offset + length
        while offset < end:
            if offset // leaf_size != number:
                if parts:
                    yield number, parts
                number, parts = offset // leaf_size, []
            stop = min(end, (number + 1) * leaf_size)
            parts.append(ByteRange(offset, stop - offset))
            offset = stop
    if parts:
        yield number, parts
