"""Written files, judged by the specification and not by our reader."""

import errno
import os
import random
import struct
from pathlib import Path
from uuid import UUID

import google_crc32c
import pytest

from tests.generators import vhdx_bytes as gen
from vmkeep.formats.disk import DiskProfile, DiskWriter
from vmkeep.formats.errors import FormatError, NotADisk, TargetUnwritable, UnsupportedDisk
from vmkeep.formats.parents import no_parents
from vmkeep.formats.source import BytesSource, FileSource
from vmkeep.formats.target import TargetFile
from vmkeep.formats.vhdx import create_vhdx, open_vhdx
from vmkeep.formats.vhdx.metadata import Metadata
from vmkeep.formats.vhdx.writer import VhdxWriter

pytestmark = pytest.mark.quick


def profile(**changes: object) -> DiskProfile:
    values: dict[str, object] = {
        "format": "vhdx",
        "kind": "dynamic",
        "size": 5 * gen.MIB,
        "block_size": gen.MIB,
    }
    values.update(changes)
    return DiskProfile(**values)  # type: ignore[arg-type]


def crc_is_right(data: bytes) -> bool:
    (stored,) = struct.unpack_from("<I", data, 4)
    return bool(stored == google_crc32c.value(data[:4] + bytes(4) + data[8:]))


def test_every_structure_is_where_the_specification_wants_it(tmp_path: Path) -> None:
    path = tmp_path / "new.vhdx"
    disk_id = UUID("12345678-9abc-4def-8123-456789abcdef")
    writer = create_vhdx(path, profile(disk_id=disk_id, physical_sector=4096))
    writer.write_at(2 * gen.MIB + 100, b"hello")
    writer.finish()
    data = path.read_bytes()

    assert data[:8] == b"vhdxfile"
    heads = [data[at : at + 4096] for at in (64 * gen.KIB, 128 * gen.KIB)]
    numbers = []
    for head in heads:
        assert head[:4] == b"head"
        assert crc_is_right(head)
        number, file_guid, data_guid, log_guid, log_version, version, log_length, log_at = struct.unpack_from(
            "<Q16s16s16sHHIQ", head, 8
        )
        numbers.append(number)
        assert file_guid != bytes(16) != data_guid
        assert data_guid == gen.raw_guid(writer.data_write_guid)
        assert (log_guid, log_version, version) == (bytes(16), 0, 1)
        assert (log_at % gen.MIB, log_length) == (0, gen.MIB)
    assert numbers[1] == numbers[0] + 1
    assert not any(data[log_at : log_at + log_length])

    tables = [data[at : at + 65536] for at in (192 * gen.KIB, 256 * gen.KIB)]
    assert tables[0] == tables[1]
    assert crc_is_right(tables[0])
    regions = {}
    for n in range(struct.unpack_from("<I", tables[0], 8)[0]):
        guid, at, length, required = struct.unpack_from("<16sQII", tables[0], 16 + 32 * n)
        regions[guid] = at
        assert (at % gen.MIB, length % gen.MIB, required) == (0, 0, 1)
    metadata, bat = regions[gen.raw_guid(gen.METADATA_GUID)], regions[gen.raw_guid(gen.BAT_GUID)]

    assert data[metadata : metadata + 8] == b"metadata"
    assert struct.unpack_from("<H", data, metadata + 10) == (5,)
    items = {}
    for n in range(5):
        guid, at, length, flags = struct.unpack_from("<16sIII", data, metadata + 32 + 32 * n)
        assert at >= 64 * gen.KIB
        items[guid] = (flags, data[metadata + at : metadata + at + length])
    wanted = gen.standard_items(
        disk_size=5 * gen.MIB, block_size=gen.MIB, sector=512, physical=4096, disk_id=disk_id, bits=0
    )
    assert items == {gen.raw_guid(guid): (flags, content) for guid, flags, content in wanted}

    entries = struct.unpack_from("<5Q", data, bat)
    assert [e & 7 for e in entries] == [gen.ZERO, gen.ZERO, gen.FULL, gen.ZERO, gen.ZERO]
    place = entries[2] & ~0xFFFFF
    assert data[place + 100 : place + 105] == b"hello"
    assert len(data) == place + gen.MIB


class Recorded(TargetFile):
    """A real file that also notes the order of operations."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.steps: list[tuple[str, int]] = []

    def write_at(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        self.steps.append(("write", offset))
        super().write_at(offset, data)

    def flush(self) -> None:
        self.steps.append(("flush", 0))
        super().flush()

    def publish(self) -> None:
        self.steps.append(("publish", 0))
        super().publish()


def metadata(size: int, *, fixed: bool = False) -> Metadata:
    return Metadata(
        block_size=gen.MIB,
        leave_allocated=fixed,
        has_parent=False,
        disk_size=size,
        disk_id=UUID(int=1),
        logical_sector=512,
        physical_sector=512,
    )


@pytest.mark.parametrize("fixed", [False, True])
def test_payload_then_tables_then_headers_each_flushed(tmp_path: Path, fixed: bool) -> None:
    target = Recorded(tmp_path / "new.vhdx")
    writer = VhdxWriter(target, metadata(3 * gen.MIB, fixed=fixed))
    writer.write_at(0, b"x" * 3 * gen.MIB)
    writer.finish()
    phases: list[list[int]] = [[]]
    for what, offset in target.steps:
        if what == "flush":
            phases.append([])
        elif what == "write":
            phases[-1].append(offset)
    payload, tables, headers = phases[:3]
    assert min(payload) >= 4 * gen.MIB
    assert all(192 * gen.KIB <= offset < 4 * gen.MIB for offset in tables)
    assert sorted(headers) == [0, 64 * gen.KIB, 128 * gen.KIB]
    assert not any(phases[3:])
    assert [what for what, _ in target.steps].index("publish") > target.steps.index(
        ("write", 128 * gen.KIB)
    ) + 1


def test_an_unfinished_file_is_never_a_disk(tmp_path: Path) -> None:
    for cut in range(9):
        target = Recorded(tmp_path / f"cut{cut}.vhdx")
        writer = VhdxWriter(target, metadata(2 * gen.MIB))
        writer.write_at(0, b"x" * gen.MIB)
        done = 0

        def stop_after(
            offset: int, data: bytes | bytearray | memoryview, target: Recorded = target, cut: int = cut
        ) -> None:
            nonlocal done
            if done >= cut:
                raise KeyboardInterrupt
            done += 1
            TargetFile.write_at(target, offset, data)

        target.write_at = stop_after  # type: ignore[method-assign]
        try:
            writer.finish()
        except KeyboardInterrupt:
            (partial,) = tmp_path.glob(f".cut{cut}*")
            state = partial.read_bytes()
            assert not target.path.exists()
            if cut < 6:  # table, metadata, two region tables, identifier, first header
                with pytest.raises((NotADisk, FormatError)):
                    open_vhdx(BytesSource(state), no_parents)
            else:
                assert open_vhdx(BytesSource(state), no_parents).read_at(0, gen.MIB) == b"x" * gen.MIB
            writer.abort()
            assert not partial.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"cut7.vhdx", "cut8.vhdx"}


@pytest.mark.parametrize("kind", ["dynamic", "fixed"])
@pytest.mark.parametrize(("sector", "block_size"), [(512, gen.MIB), (4096, 2 * gen.MIB), (512, None)])
def test_what_was_written_in_any_order_is_read_back(
    tmp_path: Path, kind: str, sector: int, block_size: int | None
) -> None:
    size = 5 * gen.MIB + 3 * sector
    rng = random.Random(7)
    model = bytearray(size)
    path = tmp_path / "disk.vhdx"
    writer = create_vhdx(
        path,
        profile(kind=kind, size=size, block_size=block_size, logical_sector=sector, physical_sector=4096),
    )
    for _ in range(20):
        at = rng.randrange(size)
        piece = rng.randbytes(min(rng.randrange(1, gen.MIB * 2), size - at))
        model[at : at + len(piece)] = piece
        writer.write_at(at, memoryview(piece))
    writer.finish()
    writer.abort()
    with open_vhdx(FileSource(path), no_parents) as disk:
        assert disk.read_at(0, size) == model
        assert list(disk.check()) == []
        assert disk.profile == profile(
            kind=kind,
            size=size,
            block_size=block_size or 32 * gen.MIB,
            logical_sector=sector,
            physical_sector=4096,
            disk_id=disk.profile.disk_id,
        )


def test_a_dynamic_disk_of_64_tib_takes_only_its_table(tmp_path: Path) -> None:
    path = tmp_path / "huge.vhdx"
    writer = create_vhdx(path, profile(size=64 * gen.TIB, block_size=32 * gen.MIB))
    writer.write_at(64 * gen.TIB - 512, b"\7" * 512)
    writer.finish()
    assert path.stat().st_size < 64 * gen.MIB
    with open_vhdx(FileSource(path), no_parents) as disk:
        assert disk.read_at(64 * gen.TIB - 1024, 1024) == bytes(512) + b"\7" * 512
        assert [r.end for r in disk.extents()] == [64 * gen.TIB]


def test_a_fixed_disk_is_sparse_but_has_its_full_size(tmp_path: Path) -> None:
    path = tmp_path / "fixed.vhdx"
    writer = create_vhdx(path, profile(kind="fixed", size=gen.GIB))
    writer.finish()
    stat = path.stat()
    assert stat.st_size == gen.GIB + 4 * gen.MIB
    assert stat.st_blocks * 512 < 2 * gen.MIB
    with open_vhdx(FileSource(path), no_parents) as disk:
        assert list(disk.extents()) == []
        assert list(disk.check()) == []


@pytest.mark.parametrize("step", [512, 65536, gen.MIB, 8 * gen.MIB])
def test_zeros_never_written_over_take_no_space(tmp_path: Path, step: int) -> None:
    path = tmp_path / "new.vhdx"
    writer = create_vhdx(path, profile(size=8 * gen.MIB))
    model = bytearray(8 * gen.MIB)
    model[3 * gen.MIB + 70_000] = 7
    for at in range(0, len(model), step):
        writer.write_at(at, memoryview(model)[at : at + step])
    writer.finish()
    data = path.read_bytes()
    entries = struct.unpack_from("<8Q", data, 3 * gen.MIB)
    assert [e & 7 for e in entries] == [gen.ZERO] * 3 + [gen.FULL] + [gen.ZERO] * 4
    assert len(data) == 5 * gen.MIB
    assert path.stat().st_blocks * 512 < 2 * gen.MIB
    with open_vhdx(FileSource(path), no_parents) as disk:
        assert disk.read_at(0, len(model)) == model


@pytest.mark.parametrize("kind", ["dynamic", "fixed"])
def test_zeros_erase_what_was_written_before(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "new.vhdx"
    writer = create_vhdx(path, profile(kind=kind))
    writer.write_at(gen.MIB, b"x" * gen.MIB)
    writer.write_at(gen.MIB // 2, bytes(gen.MIB))  # over a block that has no place, and one that has
    writer.write_at(3 * gen.MIB, bytes(100) + b"y" + bytes(100))
    writer.write_at(3 * gen.MIB + 50, bytes(100))
    writer.finish()
    expected = bytearray(5 * gen.MIB)
    expected[3 * gen.MIB // 2 : 2 * gen.MIB] = b"x" * (gen.MIB // 2)
    with open_vhdx(FileSource(path), no_parents) as disk:
        assert disk.read_at(0, len(expected)) == expected
        assert list(disk.check()) == []
    if kind == "dynamic":
        states = [e & 7 for e in struct.unpack_from("<5Q", path.read_bytes(), 3 * gen.MIB)]
        assert states == [gen.ZERO, gen.FULL, gen.ZERO, gen.FULL, gen.ZERO]


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "differencing"},
        {"size": 0},
        {"size": 1000},
        {"size": 64 * gen.TIB + 512},
        {"logical_sector": 4096, "size": gen.MIB + 512},
        {"logical_sector": 520},
        {"physical_sector": 8192},
        {"block_size": 512 * gen.KIB},
        {"block_size": 3 * gen.MIB},
        {"block_size": 512 * gen.MIB},
    ],
)
def test_what_no_vhdx_holds_is_refused_before_a_file_exists(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(UnsupportedDisk):
        create_vhdx(tmp_path / "new.vhdx", profile(**wrong))
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_outside_the_disk_or_over_a_file(tmp_path: Path) -> None:
    path = tmp_path / "new.vhdx"
    writer: DiskWriter = create_vhdx(path, profile())
    for offset, length in ((-1, 1), (5 * gen.MIB, 1), (5 * gen.MIB - 1, 2)):
        with pytest.raises(ValueError, match="inside"):
            writer.write_at(offset, bytes(length))
    path.write_bytes(b"mine")
    with pytest.raises(TargetUnwritable):
        writer.finish()
    writer.abort()
    assert path.read_bytes() == b"mine"
    with pytest.raises(TargetUnwritable):
        create_vhdx(path, profile())


def test_each_file_has_its_own_identity(tmp_path: Path) -> None:
    made = []
    for n in range(2):
        writer = create_vhdx(tmp_path / f"{n}.vhdx", profile())
        writer.finish()
        disk = open_vhdx(FileSource(tmp_path / f"{n}.vhdx"), no_parents)
        made.append((disk.profile.disk_id, disk.data_write_guid))
        disk.close()
    assert made[0][0] != made[1][0]
    assert made[0][1] != made[1][1]


def test_a_place_too_small_for_a_fixed_disk_is_left_without_a_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, size: int) -> None:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    monkeypatch.setattr(os, "ftruncate", refuse)
    with pytest.raises(TargetUnwritable):
        create_vhdx(tmp_path / "new.vhdx", profile(kind="fixed", size=gen.GIB))
    assert list(tmp_path.iterdir()) == []
