"""Block states, bitmaps and places: [MS-VHDX] 2.4 and 2.5."""

import random
import threading
import tracemalloc
from collections.abc import Iterator

import pytest

from tests.generators import vhdx_bytes as gen
from vmkeep.formats.errors import CorruptDisk, TruncatedDisk
from vmkeep.formats.opening import open_disk
from vmkeep.formats.parents import no_parents
from vmkeep.formats.source import BytesSource
from vmkeep.formats.vhdx import VhdxDisk, open_vhdx
from vmkeep.formats.vhdx.geometry import Geometry
from vmkeep.ranges import ByteRange

pytestmark = pytest.mark.quick

A, B, C = (random.Random(n).randbytes(gen.MIB) for n in range(3))
NOTHING = bytes(gen.MIB)


class SparseSource:
    """A large file of which only some pieces exist; counts requests."""

    name = "sparse.vhdx"

    def __init__(self, size: int, pieces: dict[int, bytes]) -> None:
        self._size = size
        self._pieces = pieces
        self.requests: list[tuple[int, int]] = []

    def size(self) -> int:
        return self._size

    def read_into(self, offset: int, buffer: memoryview) -> int:
        self.requests.append((offset, len(buffer)))
        length = max(min(len(buffer), self._size - offset), 0)
        buffer[:length] = bytes(length)
        for at, piece in self._pieces.items():
            low, high = max(at, offset), min(at + len(piece), offset + length)
            if low < high:
                buffer[low - offset : high - offset] = piece[low - at : high - at]
        return length

    def data_ranges(self, start: int, end: int) -> Iterator[ByteRange]:
        yield ByteRange(start, end - start)

    def identity(self) -> tuple[int, ...]:
        return (self._size,)

    def close(self) -> None:
        return


def opened(made: gen.Made) -> VhdxDisk:
    return open_vhdx(BytesSource(made.data, "disk.vhdx"), no_parents)


@pytest.mark.parametrize("leave_allocated", [False, True])
def test_each_state_of_a_disk_without_a_parent(leave_allocated: bool) -> None:
    made = gen.make_vhdx(
        disk_size=8 * gen.MIB,
        leave_allocated=leave_allocated,
        blocks={
            0: gen.Block(gen.FULL, A),
            1: gen.Block(gen.NOT_PRESENT),
            2: gen.Block(gen.ZERO, stale=True),
            3: gen.Block(gen.UNDEFINED, stale=True),
            4: gen.Block(gen.UNMAPPED, stale=True),
            5: gen.Block(gen.FULL, B),
            7: gen.Block(gen.FULL, C),
        },
    )
    disk = opened(made)
    assert disk.read_at(0, 8 * gen.MIB) == A + NOTHING * 4 + B + NOTHING + C
    assert disk.read_at(gen.MIB - 3, 6) == A[-3:] + bytes(3)
    assert disk.read_at(5 * gen.MIB - 3, gen.MIB + 6) == bytes(3) + B + bytes(3)
    assert list(disk.extents()) == [
        ByteRange(0, gen.MIB),
        ByteRange(5 * gen.MIB, gen.MIB),
        ByteRange(7 * gen.MIB, gen.MIB),
    ]
    assert list(disk.extents(100, 5 * gen.MIB + 1)) == [
        ByteRange(100, gen.MIB - 100),
        ByteRange(5 * gen.MIB, 1),
    ]
    assert list(disk.layer_extents()) == [ByteRange(0, 8 * gen.MIB)]
    assert disk.profile.kind == ("fixed" if leave_allocated else "dynamic")


@pytest.mark.parametrize("state", [4, 5])
def test_reserved_states_are_refused(state: int) -> None:
    made = gen.make_vhdx(disk_size=2 * gen.MIB, blocks={0: gen.Block(gen.FULL, A), 1: gen.Block(gen.ZERO)})
    made.set_u64(made.entry_at(1), made.places[0] | state)
    disk = opened(made)
    assert disk.read_at(0, gen.MIB) == A
    with pytest.raises(CorruptDisk, match="reserved state"):
        disk.read_at(gen.MIB, 512)
    with pytest.raises(CorruptDisk, match="reserved state"):
        list(disk.extents())


def test_a_partly_present_block_without_a_parent_is_refused() -> None:
    made = gen.make_vhdx(disk_size=gen.MIB, blocks={0: gen.Block(gen.PARTIAL, A, frozenset({1}))})
    with pytest.raises(CorruptDisk, match="no parent"):
        opened(made).read_at(0, 512)


@pytest.mark.parametrize("place", [0, gen.MIB - 1])
def test_a_block_on_the_headers_is_refused(place: int) -> None:
    made = gen.make_vhdx(disk_size=gen.MIB, blocks={0: gen.Block(gen.FULL, A)})
    made.set_u64(made.entry_at(0), place & ~0xFFFFF | gen.FULL)
    with pytest.raises(CorruptDisk, match="headers"):
        opened(made).read_at(0, 512)


@pytest.mark.parametrize("far", [0, gen.MIB, 1 << 50, (2**64 - gen.GIB)])
def test_a_block_beyond_the_end_is_never_zeros(far: int) -> None:
    made = gen.make_vhdx(disk_size=gen.MIB, blocks={0: gen.Block(gen.FULL, A)})
    made.set_u64(made.entry_at(0), (len(made.data) + far) | gen.FULL)
    disk = opened(made)
    with pytest.raises(TruncatedDisk):
        disk.read_at(0, 512)
    with pytest.raises(TruncatedDisk):
        list(disk.extents())


def test_a_file_cut_in_a_block_is_truncated() -> None:
    made = gen.make_vhdx(disk_size=gen.MIB, blocks={0: gen.Block(gen.FULL, A)})
    disk = opened(made)
    del made.data[made.places[0] + 5000 :]
    with pytest.raises(TruncatedDisk):
        disk.read_at(0, gen.MIB)
    assert disk.read_at(0, 5000) == A[:5000]
    with pytest.raises(TruncatedDisk):
        opened(made).read_at(0, 1)


def test_reserved_bits_of_an_entry_do_not_move_the_block() -> None:
    made = gen.make_vhdx(disk_size=gen.MIB, blocks={0: gen.Block(gen.FULL, A)})
    made.set_u64(made.entry_at(0), made.places[0] | 0xFFFF8 | gen.FULL)
    disk = opened(made)
    assert disk.read_at(0, gen.MIB) == A
    assert [f.severity for f in disk.check()] == ["warning"]


@pytest.mark.parametrize("sector", [512, 4096])
def test_a_size_that_is_not_a_multiple_of_the_block(sector: int) -> None:
    size = 2 * gen.MIB + 5 * sector
    made = gen.make_vhdx(
        disk_size=size, sector=sector, blocks={1: gen.Block(gen.FULL, A), 2: gen.Block(gen.FULL, B)}
    )
    disk = opened(made)
    assert disk.read_at(0, size) == NOTHING + A + B[: 5 * sector]
    assert list(disk.extents()) == [ByteRange(gen.MIB, gen.MIB + 5 * sector)]
    with pytest.raises(ValueError, match="inside"):
        disk.read_at(size - 1, 2)


def test_the_last_block_needs_only_the_bytes_of_the_disk() -> None:
    made = gen.make_vhdx(disk_size=4096, blocks={0: gen.Block(gen.FULL, A)})
    del made.data[made.places[0] + 4096 :]
    assert opened(made).read_at(0, 4096) == A[:4096]


@pytest.mark.parametrize(("sector", "ratio"), [(512, 4096), (4096, 32768)])
def test_blocks_around_the_bitmap_entries(sector: int, ratio: int) -> None:
    wanted = [0, ratio - 1, ratio, ratio + 1, 2 * ratio - 1, 2 * ratio]
    blocks = {n: gen.Block(gen.FULL, random.Random(n).randbytes(gen.MIB)) for n in wanted}
    made = gen.make_vhdx(disk_size=(2 * ratio + 1) * gen.MIB, sector=sector, blocks=blocks)
    disk = opened(made)
    for n in wanted:
        assert disk.read_at(n * gen.MIB, gen.MIB) == blocks[n].data
    assert disk.read_at(ratio * gen.MIB - 10, 20) == blocks[ratio - 1].data[-10:] + blocks[ratio].data[:10]
    assert list(disk.extents()) == [
        ByteRange(0, gen.MIB),
        ByteRange((ratio - 1) * gen.MIB, 3 * gen.MIB),
        ByteRange((2 * ratio - 1) * gen.MIB, 2 * gen.MIB),
    ]
    assert list(disk.check()) == []


@pytest.mark.parametrize(
    ("disk_size", "block_size", "sector", "has_parent", "ratio", "entries"),
    [
        # Counted by hand from [MS-VHDX] 2.5: a chunk has 2^23 sectors, and one more entry.
        (4 * gen.GIB, gen.MIB, 512, False, 4096, 4096),
        (4 * gen.GIB + 512, gen.MIB, 512, False, 4096, 4098),
        (4 * gen.GIB, gen.MIB, 512, True, 4096, 4097),
        (4 * gen.GIB + 512, gen.MIB, 512, True, 4096, 8194),
        (512, 256 * gen.MIB, 512, False, 16, 1),
        (512, 256 * gen.MIB, 512, True, 16, 17),
        (64 * gen.TIB, 256 * gen.MIB, 4096, False, 128, 262144 + 2047),
        (64 * gen.TIB, gen.MIB, 4096, True, 32768, 2048 * 32769),
    ],
)
def test_the_table_has_as_many_entries_as_the_specification_says(
    disk_size: int, block_size: int, sector: int, has_parent: bool, ratio: int, entries: int
) -> None:
    geometry = Geometry(disk_size, block_size, sector, has_parent)
    assert (geometry.chunk_ratio, geometry.entry_count) == (ratio, entries)


def huge(size: int, block_size: int) -> tuple[SparseSource, gen.Made]:
    """A file of the structures of a huge disk; its table is a hole but for the first block and the last."""
    small = gen.make_vhdx(disk_size=gen.MIB, blocks={0: gen.Block(gen.FULL, A)})
    count = size // block_size
    table_length = -(-8 * (count + count // gen.chunk_ratio(block_size, 512)) // gen.MIB) * gen.MIB
    place = small.bat + table_length
    file_size = place + 2 * block_size
    head = bytearray(small.data[: small.bat])
    tables = gen.region_table([(gen.BAT_GUID, small.bat, table_length, 1), small.regions[1]])
    head[192 * gen.KIB : 256 * gen.KIB] = tables
    items = gen.standard_items(
        disk_size=size, block_size=block_size, sector=512, physical=4096, disk_id=gen.LOG_GUID, bits=0
    )
    region = gen.metadata_region(items)
    head[small.metadata : small.metadata + len(region)] = region
    last = count - 1
    last_entry = small.bat + 8 * (last + last // gen.chunk_ratio(block_size, 512))
    pieces = {
        0: bytes(head),
        small.bat: (place | gen.FULL).to_bytes(8, "little"),
        last_entry: ((place + block_size) | gen.FULL).to_bytes(8, "little"),
        place: A,
        place + 2 * block_size - gen.MIB: B,
    }
    return SparseSource(file_size, pieces), small


def test_a_disk_of_64_tib_opens_and_is_mapped_in_little_memory() -> None:
    source, _ = huge(64 * gen.TIB, gen.MIB)
    tracemalloc.start()
    disk = open_vhdx(source, no_parents)
    assert disk.read_at(0, gen.MIB) == A
    assert disk.read_at(64 * gen.TIB - gen.MIB, gen.MIB) == B
    assert list(disk.extents()) == [ByteRange(0, gen.MIB), ByteRange(64 * gen.TIB - gen.MIB, gen.MIB)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * gen.MIB


def test_a_disk_of_one_tib_is_opened_and_mapped_in_few_requests() -> None:
    source, _ = huge(gen.TIB, 32 * gen.MIB)
    disk = open_vhdx(source, no_parents)
    assert len(source.requests) == 2
    list(disk.extents())
    assert len(source.requests) <= 4
    source.requests.clear()
    buffer = bytearray(4 * gen.MIB)
    disk.read_into(gen.TIB - 4 * gen.MIB, memoryview(buffer))
    assert bytes(buffer[-gen.MIB :]) == B
    assert len(source.requests) == 1


@pytest.mark.parametrize("block_size", [2 * gen.MIB, 32 * gen.MIB])
def test_a_disk_of_one_tib_is_recognised_opened_and_mapped_in_eight_requests(block_size: int) -> None:
    source, _ = huge(gen.TIB, block_size)
    with open_disk(source) as disk:
        assert len(source.requests) <= 3
        list(disk.extents())
        assert len(source.requests) <= 8
        assert max(length for _, length in source.requests) <= gen.MIB


def test_a_small_file_that_claims_64_tib_costs_nothing() -> None:
    made = gen.make_vhdx(disk_size=gen.MIB)
    items = gen.standard_items(
        disk_size=64 * gen.TIB, block_size=gen.MIB, sector=512, physical=512, disk_id=gen.LOG_GUID, bits=0
    )
    made.put(made.metadata, gen.metadata_region(items))
    for slot in (192 * gen.KIB, 256 * gen.KIB):
        made.put(slot, gen.region_table([(gen.BAT_GUID, made.bat, 513 * gen.MIB, 1), made.regions[1]]))
    tracemalloc.start()
    with pytest.raises(TruncatedDisk):
        opened(made)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * gen.MIB


def test_many_threads_read_the_same_bytes() -> None:
    blocks = {n: gen.Block(gen.FULL, random.Random(n).randbytes(gen.MIB)) for n in range(0, 16, 2)}
    disk = opened(gen.make_vhdx(disk_size=16 * gen.MIB, blocks=blocks))
    whole = disk.read_at(0, 16 * gen.MIB)
    wrong: list[int] = []

    def read(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(200):
            at = rng.randrange(16 * gen.MIB - 5000)
            if disk.read_at(at, 5000) != whole[at : at + 5000]:
                wrong.append(at)

    threads = [threading.Thread(target=read, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
