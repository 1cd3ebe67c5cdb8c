import pytest

from vmkeep.host.files.extents import join_near
from vmkeep.ranges import ByteRange

pytestmark = pytest.mark.quick

MIB = 1 << 20


@pytest.mark.parametrize(
    ("ranges", "joined"),
    [
        ([], []),
        ([(5, 10)], [(5, 10)]),
        ([(0, 10), (MIB + 9, 1)], [(0, MIB + 10)]),
        ([(0, 10), (MIB + 10, 1)], [(0, 10), (MIB + 10, 1)]),
        ([(0, 100), (50, 10), (90, 20)], [(0, 110)]),
        ([(0, 1), (10, 1), (5 * MIB, 1), (5 * MIB + 10, 1)], [(0, 11), (5 * MIB, 11)]),
    ],
)
def test_small_gaps_are_read_through(ranges: list[tuple[int, int]], joined: list[tuple[int, int]]) -> None:
    assert list(join_near(ByteRange(*r) for r in ranges)) == joined
