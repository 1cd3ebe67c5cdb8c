"""The current header and what an open refuses: [MS-VHDX] 2.2."""

import struct
from uuid import UUID

import pytest

from tests.generators import vhdx_bytes as gen
from vmkeep.formats.errors import CorruptDisk, NotADisk, TruncatedDisk, UnsupportedDisk
from vmkeep.formats.parents import no_parents
from vmkeep.formats.source import BytesSource
from vmkeep.formats.vhdx import VhdxDisk, open_vhdx

pytestmark = pytest.mark.quick

FIRST, SECOND = 64 * gen.KIB, 128 * gen.KIB
OLD, NEW = UUID(int=0x01D), UUID(int=0x2E0)


def make(first: bytes, second: bytes) -> gen.Made:
    made = gen.make_vhdx(disk_size=gen.MIB)
    made.put(FIRST, first)
    made.put(SECOND, second)
    return made


def opened(made: gen.Made) -> VhdxDisk:
    return open_vhdx(BytesSource(made.data, "disk.vhdx"), no_parents)


@pytest.mark.parametrize("newer_is_second", [False, True])
def test_the_header_with_the_greater_number_counts(newer_is_second: bool) -> None:
    old, new = gen.header(9, data_write=OLD), gen.header(10, data_write=NEW)
    disk = opened(make(old, new) if newer_is_second else make(new, old))
    assert disk.data_write_guid == NEW


@pytest.mark.parametrize("at", [0, 4, 20, 4095])
def test_a_damaged_newer_header_is_passed_over(at: int) -> None:
    made = make(gen.header(9, data_write=OLD), gen.header(10, data_write=NEW))
    made.data[SECOND + at] ^= 1
    disk = opened(made)
    assert disk.data_write_guid == OLD
    assert [(f.severity, f.offset) for f in disk.check()] == [("warning", SECOND)]


def test_sequence_numbers_are_unsigned_64_bit() -> None:
    made = make(gen.header(2**64 - 1, data_write=NEW), gen.header(2**63, data_write=OLD))
    assert opened(made).data_write_guid == NEW


def test_two_damaged_headers_are_an_error() -> None:
    with pytest.raises(CorruptDisk, match="no valid header"):
        opened(make(bytes(4096), bytes(4096)))


def test_two_headers_of_one_number_that_disagree_are_an_error() -> None:
    with pytest.raises(CorruptDisk, match="disagree"):
        opened(make(gen.header(9, data_write=OLD), gen.header(9, data_write=NEW)))


def test_two_equal_headers_are_accepted() -> None:
    assert opened(make(gen.header(9, data_write=OLD), gen.header(9, data_write=OLD))).data_write_guid == OLD


def test_an_unknown_version_is_refused_only_in_the_current_header() -> None:
    future = gen.header(9, data_write=OLD, version=2)
    with pytest.raises(UnsupportedDisk, match="version 2"):
        opened(make(future, gen.header(8, data_write=NEW)))
    assert opened(make(future, gen.header(10, data_write=NEW))).data_write_guid == NEW


def test_an_unknown_log_version_matters_only_with_a_log() -> None:
    without = gen.header(9, data_write=OLD, log_version=1)
    assert opened(make(without, bytes(4096))).data_write_guid == OLD
    pending = gen.header(9, data_write=OLD, log_version=1, log_guid=gen.LOG_GUID)
    with pytest.raises(UnsupportedDisk, match="log of version 1"):
        opened(make(pending, bytes(4096)))


def test_another_file_is_not_a_disk() -> None:
    with pytest.raises(NotADisk):
        open_vhdx(BytesSource(b"conectix" + bytes(2 * gen.MIB)), no_parents)
    with pytest.raises(NotADisk):
        open_vhdx(BytesSource(b""), no_parents)


@pytest.mark.parametrize("size", [8, 64 * gen.KIB + 100, 319 * gen.KIB])
def test_a_file_cut_in_its_headers_is_truncated(size: int) -> None:
    with pytest.raises(TruncatedDisk):
        open_vhdx(BytesSource(gen.make_vhdx(disk_size=gen.MIB).data[:size]), no_parents)


def test_the_creator_text_is_never_looked_at() -> None:
    made = gen.make_vhdx(disk_size=gen.MIB)
    made.put(8, b"\xff" * 512)
    assert opened(made).profile.size == gen.MIB


@pytest.mark.parametrize("slot", [FIRST, SECOND])
@pytest.mark.parametrize(
    "changed",
    [
        gen.header(11, data_write=OLD),
        gen.header(10, data_write=NEW),
        gen.header(10, data_write=OLD, file_write=UUID(int=1)),
        gen.header(10, data_write=OLD, log_guid=gen.LOG_GUID),
        bytes(4096),
    ],
    ids=["sequence", "data-write", "file-write", "log", "destroyed"],
)
def test_identity_shows_a_change_of_either_header(slot: int, changed: bytes) -> None:
    same = gen.header(10, data_write=OLD)
    made = make(same, same)
    disk = opened(made)
    before = disk.identity()
    assert disk.identity() == before
    made.put(slot, changed)
    assert disk.identity() != before


A, B = b"A" * gen.MIB, b"B" * gen.MIB
STALE_LOG = UUID("99999999-8888-4777-8666-555555555555")


def with_pending_log(*, older: UUID = gen.NO_LOG, newer: UUID = gen.LOG_GUID) -> gen.Made:
    """Block 0 holds A and block 1 B; the table on the disk says the opposite, the log the right thing."""
    blocks = {0: gen.Block(gen.FULL, A), 1: gen.Block(gen.FULL, B)}
    made = gen.make_vhdx(disk_size=2 * gen.MIB, blocks=blocks, gaps=False)
    right = made.page(made.bat)
    made.set_u64(made.entry_at(0), made.places[1] | gen.FULL)
    made.set_u64(made.entry_at(1), made.places[0] | gen.FULL)
    made.put(made.log, bytes(gen.ring_of({0: gen.log_entry(9, 0, [gen.data_write(made.bat, right)])})))
    made.put(FIRST, gen.header(5, data_write=OLD, log_guid=older))
    made.put(SECOND, gen.header(6, data_write=OLD, log_guid=newer))
    return made


# Signature, checksum, number, LogGuid, place and length of the log, the reserved rest.
@pytest.mark.parametrize("at", [0, 4, 8, 48, 63, 68, 70, 74, 100, 4095])
@pytest.mark.parametrize("bit", [1, 4])
def test_a_log_that_only_the_damaged_header_names_is_not_passed_over(at: int, bit: int) -> None:
    made = with_pending_log()
    assert opened(made).read_at(0, 2 * gen.MIB) == A + B
    made.data[SECOND + at] ^= bit
    with pytest.raises(CorruptDisk, match="damaged header that names a log") as caught:
        opened(made)
    assert (caught.value.rule, caught.value.offset) == ("[MS-VHDX] 2.2.2, 2.3.3", made.log)


def test_a_log_named_by_a_damaged_header_lies_where_that_header_says() -> None:
    made = with_pending_log()
    made.put(FIRST, gen.header(5, data_write=OLD, log_offset=0, log_length=0))
    made.data[SECOND + 100] ^= 1
    with pytest.raises(CorruptDisk, match="damaged header that names a log"):
        opened(made)


def test_a_log_behind_the_one_of_the_sound_header_is_not_passed_over() -> None:
    """Both have entries: those of the newer log have not yet overwritten those of the older one."""
    made = with_pending_log(older=STALE_LOG)
    ring = gen.ring_of({0: bytes(made.data[made.log : made.log + 8192]), 65536: b""})
    ring[65536 : 65536 + 4096] = gen.log_entry(3, 65536, [], guid=STALE_LOG)
    made.put(made.log, bytes(ring))
    made.data[SECOND + 100] ^= 1
    with pytest.raises(CorruptDisk, match="damaged header that names a log"):
        opened(made)


def test_a_header_torn_before_its_log_had_entries_is_passed_over() -> None:
    """A log is named first and written then: [MS-VHDX] 2.2.2 LogGuid. Older entries are nobody's."""
    made = with_pending_log(newer=STALE_LOG)
    made.data[SECOND + 100] ^= 1
    disk = opened(made)
    assert disk.read_at(0, 2 * gen.MIB) == B + A  # nobody says that the entries there count
    assert [(f.severity, f.offset) for f in disk.check()] == [("warning", SECOND)]


def test_a_header_torn_when_all_of_its_log_was_in_place_is_passed_over() -> None:
    """The file is closed: the first header has no log any more, the second is cut while it is written."""
    made = with_pending_log()
    first, second = struct.unpack_from("<2Q", made.data, made.bat)
    made.put(made.bat, struct.pack("<2Q", second, first))
    made.put(FIRST, gen.header(7, data_write=OLD))
    made.data[SECOND + 8 : SECOND + 16] = struct.pack("<Q", 8)
    assert opened(made).read_at(0, 2 * gen.MIB) == A + B


def test_zeros_in_a_log_that_only_the_damaged_header_names_count_too() -> None:
    made = with_pending_log()
    place = made.places[0]
    for length, is_harm in ((4096, False), (2 * 4096, True), (1 << 40, True)):
        made.put(place, bytes(4096) + A[4096:])
        entry = gen.log_entry(9, 0, [gen.zero_write(place, length)])
        made.put(made.log, bytes(gen.ring_of({0: entry})))
        made.put(SECOND, gen.header(6, data_write=OLD, log_guid=gen.LOG_GUID, file_write=UUID(int=1)))
        made.data[SECOND + 100] ^= 1
        if is_harm:
            with pytest.raises(CorruptDisk, match="damaged header that names a log"):
                opened(made)
        else:
            assert opened(made).read_at(gen.MIB, 4096) == bytes(4096)


def test_damaged_and_foreign_bytes_in_place_of_a_header_are_passed_over() -> None:
    for content in (bytes(4096), b"\xff" * 4096, b"head" + b"\x5a" * 4092):
        made = with_pending_log(older=gen.NO_LOG)
        made.put(SECOND, content)
        assert opened(made).data_write_guid == OLD
