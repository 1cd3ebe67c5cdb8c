"""A folder may hold hundreds of files: what each of them keeps in memory is bounded for all together."""

import tracemalloc
from uuid import UUID

import pytest

from tests.generators import vhdx_bytes as gen
from vmkeep.formats.disk import Disk
from vmkeep.formats.parents import no_parents
from vmkeep.formats.source import BytesSource
from vmkeep.formats.vhdx import open_vhdx

pytestmark = pytest.mark.quick


def kept_by(data: bytes | bytearray, count: int) -> int:
    """Return the bytes that many open and mapped copies of a disk keep."""
    disks: list[Disk] = []
    tracemalloc.start()
    for number in range(count):
        disk = open_vhdx(BytesSource(data, f"{number}.vhdx"), no_parents)
        list(disk.extents())
        list(disk.check())
        disks.append(disk)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return kept


def test_tables_of_many_disks_take_a_bounded_room() -> None:
    """Tables of 1 MiB, each with something in its first page of 4 KiB."""
    made = gen.make_vhdx(disk_size=131000 * gen.MIB, blocks={3: gen.Block(gen.FULL, b"\1" * gen.MIB)})
    assert kept_by(made.data, 48) < 36 * gen.MIB


def test_an_open_disk_keeps_little_besides_its_table() -> None:
    made = gen.make_vhdx(disk_size=gen.MIB)
    assert kept_by(made.data, 64) < 64 * 16 * gen.KIB


@pytest.mark.slow
def test_regions_that_nobody_knows_take_no_more_than_their_table() -> None:
    made = gen.make_vhdx(disk_size=gen.MIB)
    made.regions += [(str(UUID(int=n + 1)), (n + 1000) * gen.MIB, gen.MIB, 0) for n in range(2045)]
    for slot in (192 * gen.KIB, 256 * gen.KIB):
        made.put(slot, gen.region_table(made.regions))
    assert kept_by(made.data, 8) < 8 * 80 * gen.KIB
