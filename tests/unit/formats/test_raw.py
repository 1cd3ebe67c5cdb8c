"""Raw disks and the bulk work under all formats."""

import os
from pathlib import Path

import pytest

from vmkeep.formats.errors import NotADisk, SourceChanged
from vmkeep.formats.filling import fill_with_zeros, is_zero, nonzero_parts
from vmkeep.formats.raw import open_raw
from vmkeep.formats.source import BytesSource, FileSource
from vmkeep.ranges import ByteRange

pytestmark = pytest.mark.quick

MIB = 1 << 20


@pytest.mark.parametrize("size", [0, 1, 511, 513, 4095])
def test_a_size_of_broken_sectors_is_refused(size: int) -> None:
    with pytest.raises(NotADisk):
        open_raw(BytesSource(b"\1" * size, "disk.raw"))


def test_a_raw_disk_is_its_file(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.seek(5 * MIB)
        file.write(b"\1" * 4096)
        file.truncate(20 * MIB)
    with open_raw(FileSource(path)) as disk:
        assert (disk.profile.format, disk.profile.size, disk.profile.block_size) == ("raw", 20 * MIB, None)
        assert disk.read_at(5 * MIB - 1, 4098) == b"\0" + b"\1" * 4096 + b"\0"
        extents = list(disk.extents())
        assert len(extents) == 1
        assert extents[0].offset <= 5 * MIB and 5 * MIB + 4096 <= extents[0].end < 6 * MIB
        assert list(disk.extents(0, MIB)) == []
        assert list(disk.layer_extents(512, MIB)) == [ByteRange(512, MIB - 512)]
        assert list(disk.check()) == []
        with pytest.raises(ValueError):
            disk.read_at(20 * MIB, 1)


def test_identity_tells_a_write_and_a_read_tells_a_cut(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"\1" * 4096)
    with open_raw(FileSource(path)) as disk:
        before = disk.identity()
        os.utime(path, ns=(1, 1))
        assert disk.identity() != before
        os.truncate(path, 1024)
        with pytest.raises(SourceChanged):
            disk.read_at(512, 1024)


@pytest.mark.parametrize("length", [0, 1, 65535, 65536, 65537, 3 * MIB + 17])
def test_zeros_are_recognised_at_any_length(length: int) -> None:
    data = bytearray(length)
    assert is_zero(data) and list(nonzero_parts(data)) == []
    for at in {0, length // 2, length - 1} if length else ():
        data[at] = 1
        assert not is_zero(data)
        assert [(start, bytes(part)) for start, part in nonzero_parts(data)] == [
            (at // 65536 * 65536, bytes(data[at // 65536 * 65536 : at // 65536 * 65536 + 65536]))
        ]
        data[at] = 0


def test_parts_that_touch_come_as_one() -> None:
    data = bytearray(5 * 65536)
    data[65536] = data[3 * 65536 - 1] = data[-1] = 7
    assert [(start, len(part)) for start, part in nonzero_parts(data)] == [
        (65536, 2 * 65536),
        (4 * 65536, 65536),
    ]


@pytest.mark.parametrize("length", [0, 1, MIB - 1, MIB, 2 * MIB + 3])
def test_a_buffer_is_zeroed_and_nothing_beside_it(length: int) -> None:
    data = bytearray(b"\1" * (length + 2))
    fill_with_zeros(memoryview(data)[1 : length + 1])
    assert data == b"\1" + bytes(length) + b"\1"
