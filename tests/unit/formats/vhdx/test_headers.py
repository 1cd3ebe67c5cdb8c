"""The current header and what an open refuses: [MS-VHDX] 2.2."""

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
