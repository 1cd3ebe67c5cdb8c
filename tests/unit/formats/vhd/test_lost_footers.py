"""Whether a VHD with a damaged footer is fixed or dynamic: what stands at its start may be the guest's."""

import pytest

from tests.generators.vhd_bytes import apply, fixed, footer, full_block
from tests.unit.formats.vhd.test_reading_vhd import BASE_ID, ID, content, open_bytes, pattern, small
from vmkeep.formats.errors import CorruptDisk

pytestmark = pytest.mark.quick


def test_a_fixed_footer_over_a_whole_dynamic_copy_is_not_guessed() -> None:
    """The end says fixed, but not of this length; the start says dynamic: one of them is the guest's."""
    data = small().build()
    data[-512:] = footer(2, 4096, ID)
    with pytest.raises(CorruptDisk, match="different disks"):
        open_bytes(data)


def test_a_guest_cannot_turn_a_fixed_disk_into_a_dynamic_one() -> None:
    """The guest wrote a whole dynamic VHD, footer copy first, to its own sector 0."""
    inner = small().build()
    disk = open_bytes(fixed(bytes(inner), BASE_ID))
    assert disk.profile.kind == "fixed"
    assert content(disk) == bytes(inner)


def test_a_damaged_footer_at_the_end_is_replaced_by_its_copy() -> None:
    layer = small()
    data = layer.build()
    data[-512:] = bytes(512)
    disk = open_bytes(data)
    assert content(disk) == apply(b"", layer)
    assert [f.severity for f in disk.check()] == ["warning"]


def test_a_torn_append_with_the_footer_not_yet_written_is_read_by_the_copy() -> None:
    """A crash after a block was appended over the footer leaves a file that ends in data."""
    layer = small()
    data = layer.build()[:-512]
    assert content(open_bytes(data)) == apply(b"", layer)


def test_a_damaged_copy_is_only_a_warning() -> None:
    layer = small()
    data = layer.build()
    data[100] ^= 1
    disk = open_bytes(data)
    assert content(disk) == apply(b"", layer)
    assert [(f.severity, f.offset) for f in disk.check()] == [("warning", 0)]


def test_both_footers_damaged_is_refused() -> None:
    data = small().build()
    data[100] ^= 1
    data[-100] ^= 1
    with pytest.raises(CorruptDisk, match="checksum"):
        open_bytes(data)


def fixed_with_a_vhd_inside() -> bytearray:
    """A fixed disk whose guest wrote a dynamic VHD to its sector 0, up to the last sector."""
    inner = small()
    inner.blocks = {n: full_block(pattern(4096, n + 1)) for n in (0, 1, 2, 3)}
    return bytearray(fixed(bytes(inner.build()[:-512]), BASE_ID))


@pytest.mark.parametrize("bit", [0, 7])
@pytest.mark.parametrize("at", [0, 7, 8, 16, 20, 23, 48, 63, 64, 70, 200, 511])
def test_one_damaged_bit_in_its_footer_does_not_make_a_fixed_disk_a_dynamic_one(at: int, bit: int) -> None:
    data = fixed_with_a_vhd_inside()
    data[len(data) - 512 + at] ^= 1 << bit
    with pytest.raises(CorruptDisk, match="fixed") as caught:
        open_bytes(data)
    assert (caught.value.offset, caught.value.rule[:10]) == (len(data) - 512, "VHD footer")


def test_a_damaged_footer_of_511_bytes_does_not_make_a_fixed_disk_a_dynamic_one() -> None:
    data = fixed_with_a_vhd_inside()[:-1]
    data[-100] ^= 1
    with pytest.raises(CorruptDisk, match="fixed"):
        open_bytes(data)


@pytest.mark.parametrize("end", [bytes(512), b"\xff" * 512, b""])
def test_a_vhd_at_the_start_of_something_longer_is_not_opened_without_its_footer(end: bytes) -> None:
    """The copy at offset 0 may be the guest's: the file does not end where this disk would."""
    inner = small()
    data = bytes(inner.build()) + pattern(20480) + end
    with pytest.raises(CorruptDisk, match="fixed") as caught:
        open_bytes(data)
    assert caught.value.rule == "VHD footer: the copy at offset 0 mirrors the footer"


@pytest.mark.parametrize("more", [0, 512, 512 + 2048, 512 + 4096, 2 * 512 + 4096])
def test_a_block_being_appended_when_the_writer_died_is_passed_over(more: int) -> None:
    """Its bitmap and bytes lie over the footer; the table does not know of it yet."""
    layer = small()
    data = layer.build()[:-512] + b"\xff" * min(more, 512) + pattern(max(more - 512, 0))
    assert content(open_bytes(data)) == apply(b"", layer)
    empty = small()
    empty.blocks = {}
    data = empty.build()[:-512] + b"\xff" * min(more, 512) + pattern(max(more - 512, 0))
    assert content(open_bytes(data)) == bytes(empty.size)


@pytest.mark.parametrize("at", [0, 7, 16, 23, 48, 63, 64, 70, 200, 511])
def test_one_damaged_bit_in_the_footer_of_a_dynamic_disk_does_no_harm(at: int) -> None:
    layer = small()
    for bit in range(8):
        data = layer.build()
        data[len(data) - 512 + at] ^= 1 << bit
        assert content(open_bytes(data)) == apply(b"", layer)
