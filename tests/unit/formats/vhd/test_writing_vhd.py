"""The bytes of written VHDs, field by field, and what the writer refuses."""

from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from tests.generators.vhd_bytes import ones_complement
from vmkeep.formats.creating import create_disk
from vmkeep.formats.disk import DiskProfile
from vmkeep.formats.errors import TargetUnwritable, UnsupportedDisk
from vmkeep.formats.opening import open_path
from vmkeep.formats.vhd import create_vhd
from vmkeep.formats.vhd.footer import geometry_of

pytestmark = pytest.mark.quick

ID = UUID("12345678-9abc-def0-1122-334455667788")
MIB = 1 << 20
GIB = 1 << 30


class Noon:
    """A clock that stands at noon of 2 January 2000: 129600 seconds after the epoch of the format."""

    def now(self) -> datetime:
        return datetime(2000, 1, 2, 12, tzinfo=UTC)

    def monotonic(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        raise AssertionError("a writer does not wait")


def number(data: bytes, at: int, length: int) -> int:
    return int.from_bytes(data[at : at + length], "big")


def require_footer(raw: bytes, kind: int, size: int, data_offset: int) -> None:
    assert raw[:8] == b"conectix"
    assert number(raw, 8, 4) == 2
    assert number(raw, 12, 4) == 0x00010000
    assert number(raw, 16, 8) == data_offset
    assert number(raw, 24, 4) == 129600
    assert raw[28:32] == b"win "
    assert raw[36:40] == b"Wi2k"
    assert number(raw, 40, 8) == number(raw, 48, 8) == size
    assert number(raw, 60, 4) == kind
    assert number(raw, 64, 4) == ones_complement(raw[:64] + bytes(4) + raw[68:])
    assert raw[68:84] == ID.bytes
    assert raw[84:] == bytes(428)


def test_a_fixed_disk_is_its_bytes_and_a_footer(tmp_path: Path) -> None:
    path = tmp_path / "disk.vhd"
    writer = create_vhd(path, DiskProfile("vhd", "fixed", 3 * MIB + 512, disk_id=ID), Noon())
    writer.write_at(MIB, b"\1" * 600)
    writer.finish()
    data = path.read_bytes()
    assert len(data) == 3 * MIB + 1024
    assert data[: 3 * MIB + 512] == bytes(MIB) + b"\1" * 600 + bytes(2 * MIB + 512 - 600)
    require_footer(data[-512:], 2, 3 * MIB + 512, (1 << 64) - 1)


def test_a_dynamic_disk_has_every_structure_where_the_format_wants_it(tmp_path: Path) -> None:
    path = tmp_path / "disk.vhd"
    writer = create_vhd(path, DiskProfile("vhd", "dynamic", 5 * MIB, disk_id=ID), Noon())
    writer.write_at(4 * MIB + 5, b"\1" * 600)  # the last, short block first
    writer.write_at(100, b"\2")
    writer.finish()
    data = path.read_bytes()
    assert data[:512] == data[-512:]
    require_footer(data[:512], 3, 5 * MIB, 512)
    header = data[512:1536]
    assert header[:8] == b"cxsparse"
    assert number(header, 8, 8) == (1 << 64) - 1
    assert number(header, 16, 8) == 1536
    assert number(header, 24, 4) == 0x00010000
    assert number(header, 28, 4) == 3
    assert number(header, 32, 4) == 2 * MIB
    assert number(header, 36, 4) == ones_complement(header[:36] + bytes(4) + header[40:])
    assert header[40:] == bytes(984)
    table = [number(data, 1536 + 4 * block, 4) for block in range(3)]
    assert table[1] == 0xFFFFFFFF
    assert data[1548:2048] == b"\xff" * 500
    last, first = table[2] * 512, table[0] * 512
    assert 2048 <= last < first == len(data) - 512 - 2 * MIB - 512
    for place in (first, last):
        assert data[place : place + 512] == b"\xff" * 512
        assert (place + 512) % 4096 == 0
    assert data[last + 512 :][: 2 * MIB] == bytes(5) + b"\1" * 600 + bytes(2 * MIB - 605)
    assert data[first + 512 :][: 2 * MIB] == bytes(100) + b"\2" + bytes(2 * MIB - 101)


def test_zeros_take_no_space_where_nothing_was_written_and_erase_where_something_was(tmp_path: Path) -> None:
    for kind in ("dynamic", "fixed"):
        path = tmp_path / f"{kind}.vhd"
        writer = create_disk(path, DiskProfile("vhd", kind, 64 * MIB))
        writer.write_at(0, bytes(8 * MIB))
        writer.write_at(8 * MIB, b"\1" * MIB)
        writer.write_at(8 * MIB + 4096, bytes(4096))
        writer.write_at(20 * MIB, bytes(8 * MIB) + b"\2" + bytes(MIB))
        writer.write_at(30 * MIB, bytes(34 * MIB))
        writer.finish()
        assert path.stat().st_blocks * 512 < 4 * MIB
        with open_path(path) as disk:
            assert disk.read_at(8 * MIB, MIB) == b"\1" * 4096 + bytes(4096) + b"\1" * (MIB - 8192)
            assert disk.read_at(28 * MIB, 2) == b"\2\0"
        if kind == "dynamic":
            assert path.stat().st_size < 3 * (2 * MIB + 8192)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (1 * GIB, (2080, 16, 63)),
        (2 * GIB, (4161, 16, 63)),
        (32 * GIB, (16448, 16, 255)),
        (127 * GIB, (65278, 16, 255)),
        (128 * GIB, (65535, 16, 255)),
        (2040 * GIB, (65535, 16, 255)),
    ],
)
def test_the_geometry_is_what_the_format_computes(size: int, expected: tuple[int, int, int]) -> None:
    assert geometry_of(size) == expected


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        (DiskProfile("vhd", "dynamic", 2040 * GIB + 512), "2040 GiB"),
        (DiskProfile("vhd", "fixed", 2041 * GIB), "2040 GiB"),
        (DiskProfile("vhd", "dynamic", 1000), "multiple of 512"),
        (DiskProfile("vhd", "fixed", 0), "multiple of 512"),
        (DiskProfile("vhd", "dynamic", MIB, logical_sector=4096), "sectors of 512"),
        (DiskProfile("vhd", "dynamic", MIB, block_size=3 * MIB), "block size"),
        (DiskProfile("vhd", "dynamic", MIB, block_size=4096), "block size"),
        (DiskProfile("vhd", "differencing", MIB), "differencing"),
        (DiskProfile("raw", "fixed", 1000), "multiple of 512"),
        (DiskProfile("raw", "fixed", 0), "multiple of 512"),
    ],
)
def test_what_the_format_cannot_hold_is_refused_and_leaves_no_file(
    tmp_path: Path, profile: DiskProfile, words: str
) -> None:
    with pytest.raises(UnsupportedDisk, match=words):
        create_disk(tmp_path / "disk.vhd", profile)
    assert list(tmp_path.iterdir()) == []


def test_the_greatest_disk_fits_its_positions(tmp_path: Path) -> None:
    for block_size in (512 << 10, 2 * MIB, 256 * MIB):
        path = tmp_path / f"{block_size}.vhd"
        writer = create_disk(path, DiskProfile("vhd", "dynamic", 2040 * GIB, block_size=block_size))
        writer.write_at(2040 * GIB - 1, b"\1")
        writer.finish()
        with open_path(path) as disk:
            assert disk.profile.block_size == block_size
            assert disk.read_at(2040 * GIB - 2, 2) == b"\0\1"
        path.unlink()


@pytest.mark.parametrize(
    "profile",
    [DiskProfile("vhd", "dynamic", MIB), DiskProfile("vhd", "fixed", MIB), DiskProfile("raw", "fixed", MIB)],
)
def test_an_unfinished_file_is_not_there(tmp_path: Path, profile: DiskProfile) -> None:
    path = tmp_path / "disk"
    writer = create_disk(path, profile)
    writer.write_at(0, b"\1" * 4096)
    assert not path.exists()
    writer.abort()
    writer.abort()
    assert list(tmp_path.iterdir()) == []
    path.write_bytes(b"mine")
    with pytest.raises(TargetUnwritable):
        create_disk(path, profile)
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize("profile", [DiskProfile("vhd", "dynamic", MIB), DiskProfile("raw", "fixed", MIB)])
def test_writing_outside_the_disk_is_the_callers_mistake(tmp_path: Path, profile: DiskProfile) -> None:
    writer = create_disk(tmp_path / "disk", profile)
    for offset, length in ((-1, 1), (MIB, 1), (MIB - 1, 2)):
        with pytest.raises(ValueError):
            writer.write_at(offset, b"\1" * length)
    writer.abort()


def test_until_the_end_of_finish_nothing_makes_the_file_a_disk(tmp_path: Path) -> None:
    """The footers are written last: what a crash leaves behind is refused as a VHD."""
    writer = create_vhd(tmp_path / "disk.vhd", DiskProfile("vhd", "dynamic", MIB), Noon())
    writer.write_at(0, b"\1" * 4096)
    (partial,) = tmp_path.iterdir()
    assert b"conectix" not in partial.read_bytes()
    writer.abort()
