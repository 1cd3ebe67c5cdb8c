"""How often a slow source is asked for the parts of a VHD."""

import tracemalloc
from array import array
from collections.abc import Iterator
from uuid import UUID

import pytest

from tests.generators.vhd_bytes import DIFFERENCING, Block, Sparse, apply, fixed, full_block
from vmkeep.formats.errors import SourceUnreadable
from vmkeep.formats.opening import open_disk
from vmkeep.formats.parents import no_parents
from vmkeep.formats.source import BytesSource
from vmkeep.formats.vhd import open_vhd
from vmkeep.ranges import ByteRange

pytestmark = pytest.mark.quick

ID = UUID("12345678-9abc-def0-1122-334455667788")
MIB = 1 << 20
TIB = 1 << 40
BLOCK = 2 * MIB
STORED = BLOCK + 512  # a bitmap of 4096 bits and the block


class Full:
    """A dynamic VHD of which every block is stored, one behind the other; counts requests.

    Block ``n`` is filled with the byte ``1 + n % 251``.
    """

    name = "full.vhd"

    def __init__(self, size: int) -> None:
        layer = Sparse(size, BLOCK, {}, ID)
        count = size // BLOCK
        self._first = layer.table_at + -(-4 * count // 512) * 512
        table = array("I", (self._first // 512 + n * (STORED // 512) for n in range(count)))
        table.byteswap()
        assert table.itemsize == 4
        head = layer.footer() + layer.header(count, b"") + table.tobytes()
        self._head = head.ljust(self._first, b"\0")
        self._end = self._first + count * STORED
        self._footer = layer.footer()
        self.requests: list[int] = []

    def size(self) -> int:
        return self._end + len(self._footer)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        self.requests.append(len(buffer))
        length = max(min(len(buffer), self.size() - offset), 0)
        at = offset
        while at < offset + length:
            piece = self._piece(at)[: offset + length - at]
            buffer[at - offset : at - offset + len(piece)] = piece
            at += len(piece)
        return length

    def _piece(self, at: int) -> bytes:
        """Return some bytes from ``at`` on."""
        if at < self._first:
            return self._head[at:]
        if at >= self._end:
            return self._footer[at - self._end :]
        number, within = divmod(at - self._first, STORED)
        if within < 512:
            return b"\xff" * (512 - within)
        return bytes([1 + number % 251]) * (STORED - within)

    def data_ranges(self, start: int, end: int) -> Iterator[ByteRange]:
        if start < end:
            yield ByteRange(start, end - start)

    def identity(self) -> tuple[int, ...]:
        return (self._end,)

    def close(self) -> None:
        return


@pytest.mark.slow
def test_a_full_dynamic_disk_of_one_tib_is_opened_and_mapped_in_eight_requests() -> None:
    source = Full(TIB)
    with open_disk(source) as disk:
        assert list(disk.extents()) == [ByteRange(0, TIB)]
        assert len(source.requests) <= 8
        assert max(source.requests) <= MIB


def test_a_second_look_at_the_map_asks_for_nothing() -> None:
    source = Full(TIB // 16)
    with open_disk(source) as disk:
        list(disk.extents())
        source.requests.clear()
        assert list(disk.extents(TIB // 32, TIB // 32 + 512)) == [ByteRange(TIB // 32, 512)]
        assert source.requests == []


@pytest.mark.slow
def test_the_table_of_a_full_disk_of_one_tib_takes_little_memory() -> None:
    source = Full(TIB)
    with open_disk(source) as disk:
        tracemalloc.start()
        try:
            disk.read_at(TIB // 2, 512)  # the first block used costs a look at the whole table
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 16 * MIB


def test_each_sequential_read_asks_once_for_each_block_it_touches() -> None:
    source = Full(TIB)
    with open_disk(source) as disk:
        disk.read_at(TIB - 512, 512)  # the block table is read by now
        source.requests.clear()
        buffer = bytearray(MIB)
        for at in range(0, 64 * MIB, MIB):
            disk.read_into(at, memoryview(buffer))
            assert buffer == bytes([1 + at // BLOCK % 251]) * MIB
        assert len(source.requests) == 64
        source.requests.clear()
        assert disk.read_at(64 * MIB, 8 * MIB) == b"".join(bytes([33 + n]) * BLOCK for n in range(4))
        assert len(source.requests) == 4


def test_a_small_read_far_inside_a_block_does_not_read_the_block() -> None:
    source = Full(64 * MIB)
    with open_disk(source) as disk:
        disk.read_at(0, 1)
        source.requests.clear()
        assert disk.read_at(3 * BLOCK + MIB, 4096) == b"\4" * 4096
        assert source.requests == [512, 4096]  # the bitmap, the bytes
        assert disk.read_at(3 * BLOCK, 4096) == b"\4" * 4096
        assert source.requests[2:] == [4096]  # the bitmap is known


class Bad(BytesSource):
    """A file on a medium with one bad place; counts requests."""

    def __init__(self, data: bytes, bad: ByteRange) -> None:
        super().__init__(data, "bad.vhd")
        self._bad = bad
        self.requests: list[int] = []

    def read_into(self, offset: int, buffer: memoryview) -> int:
        self.requests.append(len(buffer))
        if offset < self._bad.end and self._bad.offset < offset + len(buffer):
            raise SourceUnreadable("bad", file=self.name, offset=self._bad.offset)
        return super().read_into(offset, buffer)


def test_a_bad_place_under_an_unused_sector_keeps_nobody_from_reading_the_others() -> None:
    layer = Sparse(8192, 8192, {0: Block([True] * 7 + [False] + [True] * 8, b"\5" * 8192)}, ID)
    data = bytes(layer.build())
    bad = layer.places[0] + 512 + 7 * 512
    with open_vhd(Bad(data, ByteRange(bad, 512)), no_parents) as disk:
        assert disk.read_at(0, 8192) == apply(b"", layer)
    with open_vhd(Bad(data, ByteRange(bad + 512, 512)), no_parents) as disk:
        assert disk.read_at(0, 4096) == apply(b"", layer)[:4096]
        with pytest.raises(SourceUnreadable):
            disk.read_at(0, 8192)


def test_a_child_that_holds_little_of_a_block_is_asked_for_no_more() -> None:
    parent = open_vhd(BytesSource(fixed(b"\3" * BLOCK, UUID(int=1)), "base.vhd"), no_parents)
    bits = [100 <= sector < 108 for sector in range(4096)]
    layer = Sparse(BLOCK, BLOCK, {0: Block(bits, b"\7" * BLOCK)}, ID, DIFFERENCING, UUID(int=1))
    source = Bad(bytes(layer.build()), ByteRange(0, 0))
    with open_vhd(source, lambda reference: parent) as disk:
        disk.read_at(0, 1)
        source.requests.clear()
        assert disk.read_at(0, BLOCK) == apply(b"\3" * BLOCK, layer)
    assert sum(source.requests) <= 512 + 8 * 512


def test_a_block_reads_the_same_whichever_way_its_bitmap_comes() -> None:
    """With the bytes, alone, or known already: three ways to one answer, and all of the buffer filled."""
    pattern = bytes(1 + at % 255 for at in range(1 << 17))
    bits = [sector % 5 != 2 for sector in range(255)] + [False]
    layer = Sparse(3 << 17, 1 << 17, {0: full_block(pattern), 2: Block(bits, pattern)}, ID)
    seen = apply(b"", layer)
    for first in (0, 70_000, 2 << 17, (2 << 17) + 70_000):
        disk = open_vhd(BytesSource(bytes(layer.build()), "disk.vhd"), no_parents)
        for start in (first, first, 0):
            buffer = bytearray(b"\xaa" * (len(seen) - start))
            disk.read_into(start, memoryview(buffer))
            assert buffer == seen[start:]
