"""Replay of the log, in memory only: [MS-VHDX] 2.3."""

import struct
import sys
import tracemalloc
from collections.abc import Mapping
from types import FrameType
from typing import Any
from uuid import UUID

import pytest

from tests.generators import vhdx_bytes as gen
from vmkeep.formats.errors import CorruptDisk, SourceChanged, TruncatedDisk, UnsupportedDisk
from vmkeep.formats.parents import no_parents
from vmkeep.formats.source import BytesSource
from vmkeep.formats.vhdx import LogAllowance, VhdxDisk, open_vhdx
from vmkeep.formats.vhdx.log import find_active_sequence

pytestmark = pytest.mark.quick

K4 = 4096
OLD, NEW = b"\x11" * gen.MIB, b"\x22" * gen.MIB


def pages(value: int) -> bytes:
    """A page whose first and last bytes differ, for descriptors carry them apart."""
    return bytes([value, 1, 2, 3, 4, 5, 6, 7]) + bytes([value]) * 4084 + bytes([9, 8, 7, value])


def base(**extra: object) -> gen.Made:
    """A disk of four blocks, all in the file; block 0 holds OLD."""
    blocks = {n: gen.Block(gen.FULL, OLD) for n in range(4)}
    return gen.make_vhdx(disk_size=4 * gen.MIB, blocks=blocks, log_guid=gen.LOG_GUID, **extra)  # type: ignore[arg-type]


def with_ring(made: gen.Made, entries: Mapping[int, bytes]) -> gen.Made:
    made.put(made.log, bytes(gen.ring_of(entries)))
    return made


def opened(made: gen.Made) -> VhdxDisk:
    return open_vhdx(BytesSource(made.data, "disk.vhdx"), no_parents)


def payload(made: gen.Made, block: int = 0) -> int:
    return made.places[block]


def test_writes_are_applied_in_memory_and_the_file_is_left_alone() -> None:
    made = base()
    at = payload(made)
    entry = gen.log_entry(7, 0, [gen.data_write(at + K4, pages(5)), gen.zero_write(at + 3 * K4, 2 * K4)])
    with_ring(made, {0: entry})
    before = bytes(made.data)
    disk = opened(made)
    expected = bytearray(OLD)
    expected[K4 : 2 * K4] = pages(5)
    expected[3 * K4 : 5 * K4] = bytes(2 * K4)
    assert disk.read_at(0, gen.MIB) == expected
    assert disk.read_at(K4 + 1, K4 + 7) == expected[K4 + 1 : 2 * K4 + 8]
    assert made.data == before
    assert [(f.severity, f.rule) for f in disk.check()] == [("warning", "[MS-VHDX] 2.3.3")]


def test_a_stale_block_table_is_replaced_by_the_one_in_the_log() -> None:
    made = gen.make_vhdx(
        disk_size=2 * gen.MIB,
        blocks={0: gen.Block(gen.FULL, OLD), 1: gen.Block(gen.FULL, NEW)},
        log_guid=gen.LOG_GUID,
    )
    right = made.page(made.bat)
    made.put(made.bat, struct.pack("<QQ", made.places[1] | gen.FULL, gen.ZERO))
    with_ring(made, {0: gen.log_entry(1, 0, [gen.data_write(made.bat, right)])})
    assert opened(made).read_at(0, 2 * gen.MIB) == OLD + NEW


def test_region_tables_and_metadata_are_read_after_the_replay() -> None:
    made = base()
    first, second = made.page(192 * gen.KIB), made.page(256 * gen.KIB)
    table = made.page(made.metadata)
    for offset in (192 * gen.KIB, 256 * gen.KIB, made.metadata):
        made.put(offset, b"\xff" * K4)
    writes = [
        gen.data_write(192 * gen.KIB, first),
        gen.data_write(256 * gen.KIB, second),
        gen.data_write(made.metadata, table),
    ]
    disk = opened(with_ring(made, {0: gen.log_entry(1, 0, writes)}))
    assert disk.read_at(0, gen.MIB) == OLD


def test_later_writes_win_in_the_order_of_entries_and_descriptors() -> None:
    made = base()
    at = payload(made)
    first = gen.log_entry(
        1, 0, [gen.data_write(at, pages(1)), gen.zero_write(at, K4), gen.data_write(at + K4, pages(2))]
    )
    second = gen.log_entry(2, 0, [gen.zero_write(at + K4, K4), gen.data_write(at + K4, pages(3))])
    disk = opened(with_ring(made, {0: first, len(first): second}))
    assert disk.read_at(0, 3 * K4) == bytes(K4) + pages(3) + OLD[:K4]


def test_entries_before_the_tail_are_not_replayed() -> None:
    made = base()
    at = payload(made)
    done = gen.log_entry(1, 0, [gen.data_write(at, pages(1))])
    needed = gen.log_entry(2, len(done), [gen.data_write(at + K4, pages(2))])
    disk = opened(with_ring(made, {0: done, len(done): needed}))
    assert disk.read_at(0, 2 * K4) == OLD[:K4] + pages(2)


@pytest.mark.parametrize("torn_at", [64, 70, K4, K4 + 5, 2 * K4 - 1], ids=str)
def test_a_torn_last_entry_is_left_out(torn_at: int) -> None:
    made = base()
    at = payload(made)
    first = gen.log_entry(1, 0, [gen.data_write(at, pages(1))])
    second = bytearray(gen.log_entry(2, 0, [gen.data_write(at, pages(2))]))
    second[torn_at] ^= 0xFF
    disk = opened(with_ring(made, {0: first, len(first): bytes(second)}))
    assert disk.read_at(0, K4) == pages(1)


def recrc(entry: bytearray) -> bytes:
    return gen.crc_at_4(bytes(entry))


@pytest.mark.parametrize(
    ("at", "raw"),
    [
        (64, b"dead"),
        (64 + 24, struct.pack("<Q", 3)),
        (64 + 16, struct.pack("<Q", 4 * gen.MIB + 512)),
        (K4, b"dat "),
        (K4 + 4, struct.pack("<I", 1)),
        (2 * K4 - 4, struct.pack("<I", 3)),
        (8, struct.pack("<I", 2 * K4 - 512)),
        (12, struct.pack("<I", 100)),
        (12, struct.pack("<I", gen.MIB)),
        (16, struct.pack("<Q", 0)),
        (24, struct.pack("<I", 2)),
        (24, struct.pack("<I", 2**32 - 1)),
        (24, struct.pack("<I", 200)),
        (32, bytes(16)),
    ],
    ids=[
        "descriptor signature",
        "descriptor number",
        "descriptor alignment",
        "sector signature",
        "sector high half",
        "sector low half",
        "entry length",
        "tail alignment",
        "tail outside",
        "number zero",
        "one descriptor too many",
        "absurd count",
        "count beyond the entry",
        "another log",
    ],
)
def test_an_entry_that_breaks_a_rule_is_invalid_even_with_a_right_checksum(at: int, raw: bytes) -> None:
    sound = gen.log_entry(2, 0, [gen.data_write(4 * gen.MIB, pages(2))])
    assert find_active_sequence(bytes(gen.ring_of({0: sound})), gen.LOG_GUID)
    entry = bytearray(sound)
    entry[at : at + len(raw)] = raw
    assert find_active_sequence(bytes(gen.ring_of({0: recrc(entry)})), gen.LOG_GUID) == []


def test_a_zero_write_must_have_whole_pages() -> None:
    entry = gen.log_entry(2, 0, [gen.zero_write(4 * gen.MIB, 512)])
    assert find_active_sequence(bytes(gen.ring_of({0: entry})), gen.LOG_GUID) == []


def test_an_entry_may_be_longer_than_its_contents_and_may_be_empty() -> None:
    ring = gen.ring_of({0: gen.log_entry(2, 0, [gen.data_write(4 * gen.MIB, pages(2))], padding=3 * K4)})
    assert [e.sequence for e in find_active_sequence(bytes(ring), gen.LOG_GUID)] == [2]
    ring = gen.ring_of({0: gen.log_entry(3, 0, [])})
    assert [e.sequence for e in find_active_sequence(bytes(ring), gen.LOG_GUID)] == [3]


def test_many_descriptors_fill_several_sectors() -> None:
    made = base()
    at = payload(made)
    writes = [gen.data_write(at + n * K4, pages(n % 251)) for n in range(200)]
    disk = opened(with_ring(made, {K4: gen.log_entry(1 << 33, K4, writes)}))
    assert disk.read_at(0, 200 * K4) == b"".join(pages(n % 251) for n in range(200))


def test_a_sequence_may_run_over_the_end_of_the_ring_inside_an_entry() -> None:
    made = base()
    at = payload(made)
    first = gen.log_entry(8, gen.MIB - 5 * K4, [gen.data_write(at, pages(1))])
    second = gen.log_entry(9, gen.MIB - 5 * K4, [gen.data_write(at + n * K4, pages(n)) for n in (1, 2, 3, 4)])
    third = gen.log_entry(10, gen.MIB - 5 * K4, [gen.data_write(at + K4, pages(77))])
    start = gen.MIB - 5 * K4
    entries = {start: first, start + len(first): second}
    entries[(start + len(first) + len(second)) % gen.MIB] = third
    assert start + len(first) + len(second) > gen.MIB
    disk = opened(with_ring(made, entries))
    assert disk.read_at(0, 6 * K4) == pages(1) + pages(77) + pages(2) + pages(3) + pages(4) + OLD[:K4]


def test_a_ring_filled_by_one_sequence_ends() -> None:
    # The published procedure never ends here.
    entries = {n * K4: gen.log_entry(100 + n, 0, []) for n in range(gen.MIB // K4)}
    found = find_active_sequence(bytes(gen.ring_of(entries)), gen.LOG_GUID)
    assert [e.sequence for e in found] == list(range(100, 356))


def test_a_ring_filled_from_its_middle_ends() -> None:
    count = gen.MIB // K4
    entries = {(n + 100) % count * K4: gen.log_entry(1 + n, 100 * K4, []) for n in range(count)}
    found = find_active_sequence(bytes(gen.ring_of(entries)), gen.LOG_GUID)
    assert [e.sequence for e in found] == list(range(1, count + 1))


def test_the_sequence_with_the_greater_number_wins_wherever_it_lies() -> None:
    for low, high in ((0, 64 * K4), (64 * K4, 0)):
        entries = {
            low: gen.log_entry(5, low, []),
            low + K4: gen.log_entry(6, low, []),
            high: gen.log_entry(50, high, []),
        }
        found = find_active_sequence(bytes(gen.ring_of(entries)), gen.LOG_GUID)
        assert [e.sequence for e in found] == [50]


def test_a_sequence_whose_tail_is_not_in_it_does_not_count() -> None:
    entries = {
        0: gen.log_entry(5, 0, []),
        64 * K4: gen.log_entry(50, 32 * K4, []),  # points at nothing
        96 * K4: gen.log_entry(60, 0, []),  # points into another run
    }
    found = find_active_sequence(bytes(gen.ring_of(entries)), gen.LOG_GUID)
    assert [e.sequence for e in found] == [5]


def test_a_gap_in_the_numbers_parts_two_sequences() -> None:
    entries = {0: gen.log_entry(5, 0, []), K4: gen.log_entry(7, K4, [])}
    found = find_active_sequence(bytes(gen.ring_of(entries)), gen.LOG_GUID)
    assert [e.sequence for e in found] == [7]


def test_entries_of_an_earlier_log_are_strangers() -> None:
    entries = {0: gen.log_entry(5, 0, []), K4: gen.log_entry(6, 0, [], guid=UUID(int=1))}
    found = find_active_sequence(bytes(gen.ring_of(entries)), gen.LOG_GUID)
    assert [e.sequence for e in found] == [5]


def test_a_log_without_a_sequence_is_corrupt() -> None:
    with pytest.raises(CorruptDisk, match="log is damaged"):
        opened(base())


def test_a_file_shorter_than_its_log_knew_it_is_truncated() -> None:
    made = base()
    size = len(made.data)
    opened(with_ring(made, {0: gen.log_entry(1, 0, [], flushed=size, last=size)}))
    with_ring(made, {0: gen.log_entry(1, 0, [], flushed=size + gen.MIB, last=size + gen.MIB)})
    with pytest.raises(TruncatedDisk):
        opened(made)


def test_the_file_counts_as_extended_to_its_last_offset() -> None:
    made = base()
    size = len(made.data)
    made.set_u64(made.entry_at(3), size | gen.FULL)
    with_ring(made, {0: gen.log_entry(1, 0, [], last=size)})
    with pytest.raises(TruncatedDisk):
        opened(made).read_at(3 * gen.MIB, 512)
    with_ring(made, {0: gen.log_entry(1, 0, [], last=size + gen.MIB)})
    disk = opened(made)
    assert disk.read_at(3 * gen.MIB, gen.MIB) == bytes(gen.MIB)
    with_ring(made, {0: gen.log_entry(1, 0, [gen.data_write(size + K4, pages(4))], last=size + gen.MIB)})
    disk = opened(made)
    assert disk.read_at(3 * gen.MIB, 3 * K4) == bytes(K4) + pages(4) + bytes(K4)
    assert (3 * gen.MIB + K4, K4) in [(r.offset, r.length) for r in disk.extents(3 * gen.MIB)]


@pytest.mark.parametrize("offset", [0, 60 * gen.KIB, 64 * gen.KIB, 128 * gen.KIB, 188 * gen.KIB])
def test_a_log_that_writes_the_headers_is_refused(offset: int) -> None:
    made = with_ring(base(), {0: gen.log_entry(1, 0, [gen.data_write(offset, pages(1))])})
    with pytest.raises(CorruptDisk, match="headers"):
        opened(made)
    made = with_ring(base(), {0: gen.log_entry(1, 0, [gen.zero_write(offset, K4)])})
    with pytest.raises(CorruptDisk, match="headers"):
        opened(made)


def test_a_log_that_writes_itself_or_beyond_any_disk_is_refused() -> None:
    for write, text in (
        (gen.data_write(2 * gen.MIB - K4, pages(1)), "itself"),
        (gen.zero_write(512 * gen.KIB, gen.MIB), "itself"),
        (gen.data_write(1 << 60, pages(1)), "beyond"),
        (gen.zero_write(4 * gen.MIB, 2**64 - K4), "beyond"),
    ):
        with pytest.raises(CorruptDisk, match=text):
            opened(with_ring(base(), {0: gen.log_entry(1, 0, [write])}))
    with pytest.raises(CorruptDisk, match="grows"):
        opened(with_ring(base(), {0: gen.log_entry(1, 0, [], last=1 << 62)}))


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, gen.MIB),
        (gen.MIB + 4096, gen.MIB),
        (gen.MIB, 0),
        (gen.MIB, 4096),
        (1 << 40, gen.MIB),
        (gen.MIB, 1 << 31),
    ],
)
def test_a_pending_log_must_lie_where_a_log_may_lie(offset: int, length: int) -> None:
    def build(log_guid: UUID) -> gen.Made:
        made = base()
        for slot in (64 * gen.KIB, 128 * gen.KIB):
            made.put(
                slot,
                gen.header(
                    9, data_write=UUID(int=1), log_guid=log_guid, log_offset=offset, log_length=length
                ),
            )
        return with_ring(made, {0: gen.log_entry(1, 0, [])})

    with pytest.raises(CorruptDisk):
        opened(build(gen.LOG_GUID))
    # Without a pending log the place does not matter for reading.
    disk = opened(build(gen.NO_LOG))
    assert disk.read_at(0, gen.MIB) == OLD
    found = list(disk.check())
    assert found[0].rule == "[MS-VHDX] 2.2.2 LogOffset"
    assert {f.severity for f in found} == {"warning"}


def test_a_region_on_the_pending_log_is_refused() -> None:
    made = base()
    guid, _, length, required = made.regions[1]
    for slot in (192 * gen.KIB, 256 * gen.KIB):
        made.put(slot, gen.region_table([made.regions[0], (guid, made.log, length, required)]))
    with pytest.raises(CorruptDisk, match="on top of the log"):
        opened(with_ring(made, {0: gen.log_entry(1, 0, [])}))


def test_a_log_of_overlapping_claims_is_refused_before_it_costs_time() -> None:
    size = 16 * gen.MIB
    ring = bytearray(size)
    claim = struct.pack("<4sIIIQII", b"loge", 0, size, 0, 1, 0, 0) + gen.raw_guid(gen.LOG_GUID)
    for at in range(0, size, K4):
        ring[at : at + len(claim)] = claim
    with pytest.raises(CorruptDisk, match="overlapping"):
        find_active_sequence(bytes(ring), gen.LOG_GUID)


class CountedSource(BytesSource):
    """Bytes in memory that remember which places were read."""

    def __init__(self, data: bytes | bytearray) -> None:
        super().__init__(data, "disk.vhdx")
        self.reads: list[tuple[int, int]] = []

    def read_into(self, offset: int, buffer: memoryview) -> int:
        self.reads.append((offset, len(buffer)))
        return super().read_into(offset, buffer)


def full_log(length: int) -> bytes:
    """A log of one entry that fills it with pages, all for a place far behind the file."""
    pages_in_it = length // K4 - length // K4 // 128 - 1
    writes = [gen.data_write(gen.TIB + n * K4, pages(n % 251)) for n in range(pages_in_it)]
    return bytes(gen.ring_of({0: gen.log_entry(1, 0, writes)}, length))


@pytest.mark.slow
def test_pages_in_the_log_are_not_kept_in_memory() -> None:
    made = gen.make_vhdx(disk_size=gen.MIB, log_guid=gen.LOG_GUID, log_ring=full_log(16 * gen.MIB))
    source = BytesSource(bytes(made.data), "disk.vhdx")
    tracemalloc.start()
    try:
        disk = open_vhdx(source, no_parents)
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # 16 MiB of log: once while it is applied, and then no more than where its pages are.
    assert kept < 3 * gen.MIB
    assert most < 24 * gen.MIB
    assert disk.read_at(0, gen.MIB) == bytes(gen.MIB)


def test_a_page_is_read_from_its_place_in_the_log_when_it_is_asked() -> None:
    made = base()
    at = payload(made)
    writes = [gen.data_write(at + n * 2 * K4, pages(n)) for n in range(10)]
    with_ring(made, {gen.MIB - 5 * K4: gen.log_entry(1, gen.MIB - 5 * K4, writes)})
    source = CountedSource(made.data)
    disk = open_vhdx(source, no_parents)
    disk.read_at(0, 1)
    source.reads.clear()
    assert disk.read_at(0, 5 * K4) == pages(0) + OLD[:K4] + pages(1) + OLD[:K4] + pages(2)
    # The entry begins five pages before the end of the log and goes on at its start.
    first = made.log + gen.MIB - 4 * K4
    assert source.reads[1:] == [(first, K4), (first + K4, K4), (first + 2 * K4, K4)]


@pytest.mark.parametrize("byte", [0, 8, 100, K4 - 1])
def test_a_log_that_changes_while_the_disk_is_read_is_refused(byte: int) -> None:
    made = base()
    with_ring(made, {0: gen.log_entry(1, 0, [gen.data_write(payload(made), pages(1))])})
    disk = opened(made)
    assert disk.read_at(0, K4) == pages(1)
    made.data[made.log + K4 + byte] ^= 1
    with pytest.raises(SourceChanged, match="log"):
        disk.read_at(0, K4)
    assert disk.read_at(K4, K4) == OLD[:K4]


class CountedRing(bytes):
    """A log that remembers how many bytes of it were asked for."""

    asked = 0
    searched = 0

    def __getitem__(self, key: Any) -> Any:
        part = super().__getitem__(key)
        self.asked += len(part)
        return part

    def find(self, *args: Any) -> int:
        self.searched += 1
        return super().find(*args)


def test_only_places_where_an_entry_may_begin_are_looked_at() -> None:
    size = 4 * gen.MIB
    ring = bytearray(b"loge" * (size // 4))
    entry = gen.log_entry(5, 0, [])
    ring[: len(entry)] = entry
    counted = CountedRing(ring)
    assert [e.sequence for e in find_active_sequence(counted, gen.LOG_GUID)] == [5]
    assert counted.searched <= size // K4
    assert counted.asked <= size


def interleaved(size: int) -> bytearray:
    """A log of overlapping entries that form one run over twice its length, each of them valid.

    Entries of two sectors stand in every sector but three; the run takes the even ones first, and an entry
    of three sectors at the end of the ring leads to the odd ones.
    """
    sectors = size // K4
    odd = range(1, sectors - 3, 2)
    order = [*range(0, sectors, 2), *odd]
    lengths = dict.fromkeys(order, 2) | {odd[-1]: 1, sectors - 2: 3}
    ring = bytearray(size)
    # What an entry covers has to be there before it: the one that runs over the end comes last.
    for at in [*sorted(set(order) - {sectors - 2}, reverse=True), sectors - 2]:
        head = b"loge" + bytes(4) + struct.pack("<IIQII", lengths[at] * K4, 0, order.index(at) + 1, 0, 0)
        head += gen.raw_guid(gen.LOG_GUID) + struct.pack("<QQ", gen.MIB, gen.MIB)
        covered = [(at + n) % sectors * K4 for n in range(1, lengths[at])]
        body = b"".join(bytes(ring[place : place + K4]) for place in covered)
        ring[at * K4 : (at + 1) * K4] = gen.crc_at_4(head.ljust(K4, b"\0") + body)[:K4]
    return ring


def test_a_run_longer_than_the_log_is_walked_once() -> None:
    steps = 0

    def count(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal steps
        steps += event == "line" and frame.f_code is find_active_sequence.__code__
        return count if frame.f_code is find_active_sequence.__code__ else None

    size = gen.MIB
    ring = bytes(interleaved(size))
    before = sys.gettrace()
    sys.settrace(count)
    try:
        assert find_active_sequence(ring, gen.LOG_GUID) == []
    finally:
        sys.settrace(before)
    assert 2 * size // K4 < steps < 40 * size // K4


def zeros_log(count: int) -> bytes:
    entry = gen.log_entry(1, 0, [])
    descriptors = b"".join(
        b"zero" + bytes(4) + struct.pack("<QQQ", K4, gen.TIB + n * K4, 1) for n in range(count)
    )
    size = -(-(64 + len(descriptors)) // K4) * K4
    head = entry[:8] + struct.pack("<IIQII", size, 0, 1, count, 0) + entry[32:64]
    return bytes(gen.ring_of({0: gen.crc_at_4((head + descriptors).ljust(size, b"\0"))}, 8 * gen.MIB))


@pytest.mark.slow
def test_files_opened_together_share_one_bound_of_logged_writes() -> None:
    made = gen.make_vhdx(disk_size=gen.MIB, log_guid=gen.LOG_GUID, log_ring=zeros_log(1 << 16))
    source = BytesSource(bytes(made.data), "disk.vhdx")
    allowance = LogAllowance()
    for _ in range(2):
        open_vhdx(source, no_parents, allowance=allowance)
    with pytest.raises(UnsupportedDisk, match="131072 writes in their logs"):
        open_vhdx(source, no_parents, allowance=allowance)
    open_vhdx(source, no_parents)
    one_more = gen.make_vhdx(disk_size=gen.MIB, log_guid=gen.LOG_GUID, log_ring=zeros_log((1 << 17) + 1))
    with pytest.raises(UnsupportedDisk, match="more than any writer"):
        opened(one_more)


def test_a_file_cut_while_it_is_open_is_not_filled_with_zeros() -> None:
    made = base()
    with_ring(made, {0: gen.log_entry(1, 0, [], last=len(made.data) + gen.MIB)})
    disk = opened(made)
    last = max(range(4), key=lambda n: made.places[n])
    del made.data[made.places[last] + 1000 :]
    with pytest.raises(TruncatedDisk):
        disk.read_at(last * gen.MIB, gen.MIB)
