"""The region tables: [MS-VHDX] 2.2.3."""

from collections.abc import Callable

import pytest

from tests.generators import vhdx_bytes as gen
from vmkeep.formats.errors import CorruptDisk, TruncatedDisk, UnsupportedDisk
from vmkeep.formats.parents import no_parents
from vmkeep.formats.source import BytesSource
from vmkeep.formats.vhdx import VhdxDisk, open_vhdx

pytestmark = pytest.mark.quick

FIRST, SECOND = 192 * gen.KIB, 256 * gen.KIB
STRANGE = "11111111-2222-3333-4444-555555555555"
CONTENT = bytes(range(256)) * 4096


def make() -> gen.Made:
    return gen.make_vhdx(disk_size=gen.MIB, blocks={0: gen.Block(gen.FULL, CONTENT)})


def opened(made: gen.Made) -> VhdxDisk:
    return open_vhdx(BytesSource(made.data, "disk.vhdx"), no_parents)


def entry(made: gen.Made, n: int, **changes: int | str) -> tuple[str, int, int, int]:
    guid, offset, length, required = made.regions[n]
    return (
        str(changes.get("guid", guid)),
        int(changes.get("offset", offset)),
        int(changes.get("length", length)),
        int(changes.get("required", required)),
    )


BROKEN: dict[str, Callable[[gen.Made], bytes]] = {
    "zeros": lambda made: bytes(65536),
    "checksum": lambda made: gen.region_table(made.regions)[:-1] + b"\1",
    "too many": lambda made: gen.region_table(made.regions, count=2048),
    "absurd count": lambda made: gen.region_table(made.regions, count=2**32 - 1),
    "twice": lambda made: gen.region_table([*made.regions, made.regions[0]]),
    "no table": lambda made: gen.region_table(made.regions[1:]),
    "no metadata": lambda made: gen.region_table(made.regions[:1]),
    "overlap": lambda made: gen.region_table([made.regions[0], entry(made, 1, offset=made.bat)]),
    "unaligned offset": lambda made: gen.region_table(
        [made.regions[0], entry(made, 1, offset=made.metadata + 1)]
    ),
    "unaligned length": lambda made: gen.region_table([made.regions[0], entry(made, 1, length=4096)]),
    "on the headers": lambda made: gen.region_table([made.regions[0], entry(made, 1, offset=0)]),
}


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize("slot", [FIRST, SECOND])
def test_one_broken_copy_is_replaced_by_the_other(fault: str, slot: int) -> None:
    made = make()
    made.put(slot, BROKEN[fault](made))
    disk = opened(made)
    assert disk.read_at(0, gen.MIB) == CONTENT
    assert [(f.severity, f.offset) for f in disk.check()] == [("warning", slot)]


@pytest.mark.parametrize("fault", BROKEN)
def test_two_broken_copies_are_an_error(fault: str) -> None:
    made = make()
    made.put(FIRST, BROKEN[fault](made))
    made.put(SECOND, BROKEN[fault](made))
    with pytest.raises(CorruptDisk, match="no usable region table"):
        opened(made)


def test_an_unknown_required_region_is_refused() -> None:
    made = make()
    table = gen.region_table([*made.regions, (STRANGE, 64 * gen.MIB, gen.MIB, 1)])
    made.put(FIRST, table)
    with pytest.raises(UnsupportedDisk, match=STRANGE):
        opened(made)


def test_an_unknown_optional_region_is_passed_over() -> None:
    made = make()
    table = gen.region_table([*made.regions, (STRANGE, 64 * gen.MIB, gen.MIB, 0)])
    made.put(FIRST, table)
    made.put(SECOND, table)
    disk = opened(made)
    assert disk.read_at(0, gen.MIB) == CONTENT
    assert list(disk.check()) == []


@pytest.mark.parametrize("n", [0, 1])
def test_a_region_beyond_the_end_is_a_truncated_file(n: int) -> None:
    made = make()
    made.regions[n] = entry(made, n, offset=1 << 40)
    for slot in (FIRST, SECOND):
        made.put(slot, gen.region_table(made.regions))
    with pytest.raises(TruncatedDisk):
        opened(made)


def test_copies_that_differ_are_noticed() -> None:
    made = make()
    made.put(SECOND, gen.region_table(made.regions[::-1]))
    assert [f.rule for f in opened(made).check()] == ["[MS-VHDX] 2.2.3"]
