"""Comparing disks: every difference, nothing else, whatever the formats."""

import random
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.generators.vhd_bytes import Sparse, fixed, full_block
from vmkeep.formats.comparing import Difference, compare
from vmkeep.formats.disk import Disk
from vmkeep.formats.opening import open_disk
from vmkeep.formats.source import BytesSource
from vmkeep.ranges import ByteRange

pytestmark = pytest.mark.quick

MIB = 1 << 20
ID = UUID(int=5)


def raw(data: bytes | bytearray) -> Disk:
    return open_disk(BytesSource(bytes(data), "disk.raw"))


def content(*places: tuple[int, int]) -> list[Difference]:
    return [Difference("content", ByteRange(*place)) for place in places]


def test_equal_disks_do_not_differ() -> None:
    data = random.Random(1).randbytes(3 * MIB + 512)
    assert list(compare(raw(data), raw(data))) == []
    assert list(compare(raw(data), open_disk(BytesSource(fixed(data, ID), "disk.vhd")))) == []


def test_single_bytes_are_found_as_sectors_and_neighbours_joined() -> None:
    data = bytearray(random.Random(2).randbytes(5 * MIB))
    other = bytearray(data)
    for at in (0, 511, 512, 5000, 2 * MIB - 1, 2 * MIB, 5 * MIB - 1):
        other[at] ^= 1
    assert list(compare(raw(data), raw(other))) == content(
        (0, 1024), (4608, 512), (2 * MIB - 512, 1024), (5 * MIB - 512, 512)
    )


def test_zeros_stored_and_zeros_left_out_are_equal() -> None:
    sparse = Sparse(4 * MIB, 2 * MIB, {0: full_block(bytes(2 * MIB))}, ID)
    assert list(compare(open_disk(BytesSource(bytes(sparse.build()), "a.vhd")), raw(bytes(4 * MIB)))) == []
    data = bytearray(4 * MIB)
    data[3 * MIB] = 1
    for left, right in ((sparse.build(), data), (data, sparse.build())):
        one = open_disk(BytesSource(bytes(left), "a.raw" if left is data else "a.vhd"))
        two = open_disk(BytesSource(bytes(right), "b.raw" if right is data else "b.vhd"))
        assert list(compare(one, two)) == content((3 * MIB, 512))


def test_what_only_the_longer_disk_has_is_a_difference_even_if_zero() -> None:
    expected = [Difference("size", ByteRange(1024, 512))]
    assert list(compare(raw(bytes(1024)), raw(bytes(1536)))) == expected
    assert list(compare(raw(b"\1" * 1536), raw(b"\1" * 1024))) == expected
    assert list(compare(raw(b"\1" * 512), raw(bytes(1024)))) == [
        *content((0, 512)),
        Difference("size", ByteRange(512, 512)),
    ]


@given(
    sectors=st.integers(1, 6000),
    changed=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 900)), max_size=6),
    stored=st.lists(st.integers(0, 5), unique=True, max_size=6),
)
@settings(max_examples=60, deadline=None)
def test_the_differing_sectors_are_exactly_those_of_a_plain_comparison(
    sectors: int, changed: list[tuple[float, int]], stored: list[int]
) -> None:
    size = sectors * 512
    rng = random.Random(sectors)
    left = Sparse(
        size, 1 << 19, {n: full_block(rng.randbytes(1 << 19)) for n in stored if n << 19 < size}, ID
    )
    seen = bytearray(size)
    for number, block in left.blocks.items():
        at = number << 19
        seen[at : at + (1 << 19)] = block.payload[: size - at]
    other = bytearray(seen)
    for where, length in changed:
        at = int(where * (size - 1))
        other[at : at + length] = rng.randbytes(len(other[at : at + length]))
    expected = [n for n in range(sectors) if seen[n * 512 : n * 512 + 512] != other[n * 512 : n * 512 + 512]]
    found: list[int] = []
    for difference in compare(open_disk(BytesSource(bytes(left.build()), "a.vhd")), raw(other)):
        assert difference.kind == "content"
        found += range(difference.range.offset // 512, difference.range.end // 512)
    assert found == expected
