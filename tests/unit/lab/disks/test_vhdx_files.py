"""What the files of a disk look like, byte by byte where the specification says so."""

import shutil
import uuid
from pathlib import Path

import pytest

from tests.unit.lab.disks.naive_vhdx import BAT, MIB, ZERO_GUID, NaiveVhdx, read_chain, u64
from vmkeep_lab.disks import (
    BadRequest,
    ChainCycle,
    DiskCorrupt,
    LayerInUse,
    NoSuchLayer,
    NotAVirtualDisk,
    ParentChanged,
    ParentNotFound,
    VirtualDisk,
)

pytestmark = pytest.mark.quick


def number(header: bytes) -> int:
    return u64(header, 8)


def test_a_new_file_has_both_headers_and_what_was_asked_for(tmp_path: Path) -> None:
    identity = uuid.UUID("11111111-2222-3333-4444-555555555555")
    disk = VirtualDisk.create(
        tmp_path / "d.vhdx",
        9 * MIB + 4096,
        block_size=4 * MIB,
        logical_sector=4096,
        physical_sector=512,
        disk_id=identity,
    )
    disk.close()
    file = NaiveVhdx(tmp_path / "d.vhdx")
    assert sorted(map(number, file.headers)) == [1, 2]
    assert file.log_guid == ZERO_GUID
    assert (file.size, file.block_size, file.sector) == (9 * MIB + 4096, 4 * MIB, 4096)
    assert file.disk_id == identity
    assert file.items["physical"] == (512).to_bytes(4, "little")
    assert not file.is_fixed
    assert (disk.size, disk.disk_id, disk.files) == (file.size, identity, [tmp_path / "d.vhdx"])


def test_one_seed_gives_the_same_bytes_and_two_do_not(tmp_path: Path) -> None:
    images = []
    for folder, seed in (("a", 7), ("b", 7), ("c", 8)):
        (tmp_path / folder).mkdir()
        disk = VirtualDisk.create(tmp_path / folder / "d.vhdx", 3 * MIB, block_size=MIB, seed=seed)
        disk.write(0, b"same" * 128)
        disk.checkpoint(tmp_path / folder / "d1.avhdx", host_path="C:\\d.vhdx", block_size=MIB)
        disk.write(512, b"more" * 128)
        disk.close()
        images.append([path.read_bytes() for path in disk.files])
    assert images[0] == images[1]
    leaves = [NaiveVhdx(tmp_path / f / "d1.avhdx", NaiveVhdx(tmp_path / f / "d.vhdx")) for f in "ac"]
    assert leaves[0].contents() == leaves[1].contents()
    assert leaves[0].data_write_guid != leaves[1].data_write_guid


def test_the_first_write_after_opening_renews_the_guids_and_no_other_does(tmp_path: Path) -> None:
    path = tmp_path / "d.vhdx"
    VirtualDisk.create(path, 3 * MIB, block_size=MIB).close()
    new = NaiveVhdx(path)
    disk = VirtualDisk.open(path)
    disk.read(0, 512)
    assert NaiveVhdx(path).headers == new.headers
    disk.write(0, bytes(512))
    first = NaiveVhdx(path)
    assert first.file_write_guid != new.file_write_guid
    assert first.data_write_guid != new.data_write_guid
    disk.write(MIB, bytes(512))
    disk.zero(0, MIB)
    assert NaiveVhdx(path).headers == first.headers
    disk.close()
    closed = NaiveVhdx(path)
    assert (closed.file_write_guid, closed.data_write_guid) == (
        first.file_write_guid,
        first.data_write_guid,
    )
    disk = VirtualDisk.open(path)
    disk.write(0, bytes(512))
    again = NaiveVhdx(path)
    assert again.file_write_guid not in {first.file_write_guid, new.file_write_guid}
    assert again.data_write_guid not in {first.data_write_guid, new.data_write_guid}
    disk.close()


def test_a_disk_in_use_names_a_log_in_both_headers_and_a_closed_one_in_neither(tmp_path: Path) -> None:
    path = tmp_path / "d.vhdx"
    disk = VirtualDisk.create(path, 3 * MIB, block_size=MIB)
    disk.write(0, bytes(512))
    guids = {header[48:64] for header in NaiveVhdx(path).headers}
    assert len(guids) == 1
    assert guids != {ZERO_GUID}
    disk.close()
    assert {header[48:64] for header in NaiveVhdx(path).headers} == {ZERO_GUID}


def test_a_fixed_disk_in_use_has_a_valid_log_although_its_metadata_never_changes(tmp_path: Path) -> None:
    path = tmp_path / "d.vhdx"
    disk = VirtualDisk.create(path, 3 * MIB, block_size=MIB, kind="fixed")
    disk.write(512, b"a" * 512)
    reader = NaiveVhdx(path)
    assert reader.log_guid != ZERO_GUID
    assert reader.is_fixed
    assert reader.replayed == 0
    assert reader.contents() == bytes(512) + b"a" * 512 + bytes(3 * MIB - 1024)
    disk.close()


def test_a_copy_of_a_disk_in_use_is_right_only_with_its_log(tmp_path: Path) -> None:
    path, copy = tmp_path / "d.vhdx", tmp_path / "copy.vhdx"
    disk = VirtualDisk.create(path, 3 * MIB, block_size=MIB)
    disk.write(MIB, b"payload!" * 64)
    shutil.copyfile(path, copy)
    expected = disk.read(0, disk.size)
    assert NaiveVhdx(copy).contents() == expected
    assert NaiveVhdx(copy, replay=False).contents() == bytes(disk.size)
    disk.close()
    assert NaiveVhdx(path, replay=False).contents() == expected
    with_lab = VirtualDisk.open(copy)
    assert with_lab.read(0, with_lab.size) == expected
    with_lab.close()
    assert NaiveVhdx(copy, replay=False).contents() == expected


def test_without_the_log_a_copy_needs_none(tmp_path: Path) -> None:
    path = tmp_path / "d.vhdx"
    disk = VirtualDisk.create(path, 3 * MIB, block_size=MIB, through_log=False)
    disk.write(MIB, b"payload!" * 64)
    reader = NaiveVhdx(path, replay=False)
    assert reader.log_guid == ZERO_GUID
    assert reader.contents() == disk.read(0, disk.size)
    disk.close()


def test_a_log_that_went_round_many_times_still_replays(tmp_path: Path) -> None:
    disk = VirtualDisk.create(tmp_path / "d.vhdx", 8 * MIB, block_size=MIB)
    disk.checkpoint(tmp_path / "d1.avhdx", host_path="C:\\d.vhdx", block_size=MIB)
    model = bytearray(disk.size)
    for count in range(600):  # each write changes a bitmap page: 8 KiB of log or more
        offset = count * 12800 % (8 * MIB - 512) // 512 * 512
        model[offset : offset + 512] = count.to_bytes(2, "little") * 256
        disk.write(offset, bytes(model[offset : offset + 512]))
        if count % 97 == 0:
            assert read_chain(disk.files).contents() == model
    disk.crash()
    disk = VirtualDisk.open(disk.leaf)
    assert disk.read(0, disk.size) == model
    disk.close()


def test_a_checkpoint_leaves_a_clean_parent_and_a_child_that_names_it(tmp_path: Path) -> None:
    base, leaf = tmp_path / "web.vhdx", tmp_path / "web_5C0A.avhdx"
    disk = VirtualDisk.create(base, 5 * MIB, block_size=MIB)
    disk.write(0, b"before" * 256)
    disk.checkpoint(leaf, host_path="C:\\VMs\\web\\web.vhdx")
    frozen = base.read_bytes()
    disk.write(512, b"behind" * 256)
    assert base.read_bytes() == frozen
    parent = NaiveVhdx(base, replay=False)
    child = NaiveVhdx(leaf, parent)
    assert parent.log_guid == ZERO_GUID
    assert child.disk_id == parent.disk_id
    assert child.block_size == 2 * MIB
    keys = child.locator()
    assert keys.pop("volume_path").endswith("}\\VMs\\web\\web.vhdx")
    assert keys == {
        "parent_linkage": f"{{{uuid.UUID(bytes_le=parent.data_write_guid)}}}",
        "parent_linkage2": "{00000000-0000-0000-0000-000000000000}",
        "relative_path": ".\\web.vhdx",
        "absolute_win32_path": "C:\\VMs\\web\\web.vhdx",
    }
    assert disk.read(0, 5 * MIB, at=base) == parent.contents()
    assert disk.leaf == leaf
    disk.close()


def test_layers_in_other_folders_are_found_by_their_relative_paths(tmp_path: Path) -> None:
    (tmp_path / "disks").mkdir()
    (tmp_path / "Snapshots" / "deep").mkdir(parents=True)
    disk = VirtualDisk.create(tmp_path / "disks" / "d.vhdx", 3 * MIB, block_size=MIB)
    disk.checkpoint(tmp_path / "Snapshots" / "deep" / "d1.avhdx", host_path="D:\\disks\\d.vhdx")
    disk.write(0, b"deep" * 128)
    expected = disk.read(0, disk.size)
    disk.close()
    assert read_chain(disk.files).locator()["relative_path"] == "..\\..\\disks\\d.vhdx"
    moved = tmp_path / "moved"
    moved.mkdir()
    for folder in ("disks", "Snapshots"):
        shutil.move(tmp_path / folder, moved / folder)
    disk = VirtualDisk.open(moved / "Snapshots" / "deep" / "d1.avhdx")
    assert disk.read(0, disk.size) == expected
    disk.close()


def test_states_of_blocks(tmp_path: Path) -> None:
    disk = VirtualDisk.create(tmp_path / "d.vhdx", 6 * MIB, block_size=MIB)
    for block in (1, 2, 3):
        disk.write(block * MIB, b"x" * 512)
    disk.zero(MIB, MIB)
    disk.unmap(2 * MIB, MIB)
    disk.unmap(4 * MIB, MIB)
    disk.zero(5 * MIB, MIB)
    reader = NaiveVhdx(disk.leaf)
    assert [reader.entry(block)[0] for block in range(6)] == [0, 2, 3, 6, 0, 2]
    disk.checkpoint(tmp_path / "d1.avhdx", host_path="C:\\d.vhdx", block_size=MIB)
    disk.write(0, b"y" * MIB)
    disk.write(3 * MIB + 512, b"y" * 512)
    disk.unmap(4 * MIB, MIB)
    disk.zero(5 * MIB, 512)
    child = read_chain(disk.files)
    assert [child.entry(block)[0] for block in range(6)] == [6, 0, 0, 7, 3, 7]
    assert child.entry(4096)[0] == 6, "the sector bitmap of the first chunk"
    disk.close()


def test_a_block_filled_sector_by_sector_becomes_fully_present(tmp_path: Path) -> None:
    disk = VirtualDisk.create(tmp_path / "d.vhdx", MIB + 1024, block_size=MIB)
    disk.checkpoint(tmp_path / "d1.avhdx", host_path="C:\\d.vhdx", block_size=MIB)
    disk.write(MIB + 512, b"b" * 512)
    assert read_chain(disk.files).entry(1)[0] == 7
    disk.write(MIB, b"a" * 512)
    assert read_chain(disk.files).entry(1)[0] == 6
    disk.close()


def test_bits_that_mean_nothing_are_not_believed(tmp_path: Path) -> None:
    """Another writer may leave any bits for blocks that are not partially present (2.4)."""
    disk = VirtualDisk.create(tmp_path / "d.vhdx", 3 * MIB, block_size=MIB)
    disk.write(MIB, b"below" * 512)
    disk.checkpoint(tmp_path / "d1.avhdx", host_path="C:\\d.vhdx", block_size=MIB)
    disk.write(0, b"a" * 512)
    disk.close()
    _, bitmap = read_chain(disk.files).entry(4096)
    with disk.leaf.open("r+b") as file:
        file.seek(bitmap + 2048 // 8)
        file.write(b"\xff" * (2048 // 8))
    disk = VirtualDisk.open(disk.leaf)
    disk.write(MIB + 1024, b"b" * 512)
    expected = b"below" * 204 + b"belo" + b"b" * 512 + (b"below" * 512)[1536:]
    assert disk.read(MIB, 2560) == read_chain(disk.files).contents()[MIB : MIB + 2560] == expected
    disk.close()


def test_freed_places_are_used_again_and_show_nothing_of_the_past(tmp_path: Path) -> None:
    disk = VirtualDisk.create(tmp_path / "d.vhdx", 6 * MIB, block_size=MIB)
    for block in range(3):
        disk.write(block * MIB, b"secret" * (MIB // 6) + bytes(MIB % 6))
    length = disk.leaf.stat().st_size
    disk.zero(MIB, MIB)
    disk.write(5 * MIB + 512, b"n" * 512)
    assert disk.leaf.stat().st_size == length
    assert NaiveVhdx(disk.leaf).contents()[5 * MIB :] == bytes(512) + b"n" * 512 + bytes(MIB - 1024)
    # In a differencing file the rest of a partially present block may hold anything, but is not looked at.
    disk.checkpoint(tmp_path / "d1.avhdx", host_path="C:\\d.vhdx", block_size=MIB)
    for block in range(2):
        disk.write(block * MIB, b"child!" * (MIB // 6) + bytes(MIB % 6))
    disk.zero(0, 2 * MIB)
    length = disk.leaf.stat().st_size
    disk.write(2 * MIB, b"m" * 512)
    assert disk.leaf.stat().st_size == length
    child = read_chain(disk.files)
    _, bitmap = child.entry(4096)
    assert child.raw[bitmap : bitmap + MIB].count(0) == MIB - 1, "one bit is set"
    expected = read_chain(disk.files).contents()
    assert expected[2 * MIB :][:1024] == b"m" * 512 + (b"secret" * 200)[512:1024]
    assert disk.read(0, disk.size) == expected
    disk.close()
    closed = read_chain(disk.files, replay=False)
    assert closed.raw[bitmap : bitmap + MIB].count(0) == MIB - 1


def test_a_large_dynamic_disk_costs_nothing(tmp_path: Path) -> None:
    disk = VirtualDisk.create(tmp_path / "d.vhdx", 64 << 30)
    disk.write((64 << 30) - 512, b"e" * 512)
    assert disk.leaf.stat().st_size <= 8 * MIB
    assert disk.leaf.stat().st_blocks * 512 <= 2 * MIB
    reader = NaiveVhdx(disk.leaf)
    assert reader.entry((64 << 30) // (2 * MIB) - 1 + ((64 << 30) // (2 * MIB) - 1) // 2048)[0] == 6
    disk.checkpoint(tmp_path / "d1.avhdx", host_path="C:\\d.vhdx")
    disk.write(33 << 30, b"f" * 512)
    disk.close()
    disk = VirtualDisk.open(tmp_path / "d1.avhdx")
    assert disk.read((33 << 30) - 512, 1536) == bytes(512) + b"f" * 512 + bytes(512)
    assert disk.read((64 << 30) - 1024, 1024) == bytes(512) + b"e" * 512
    disk.close()


def test_a_fixed_disk_is_as_long_as_its_blocks(tmp_path: Path) -> None:
    disk = VirtualDisk.create(tmp_path / "d.vhdx", 5 * MIB + 512, kind="fixed", block_size=2 * MIB)
    assert disk.leaf.stat().st_size == 4 * MIB + 3 * 2 * MIB
    disk.write(MIB, b"f" * 4096)
    disk.zero(0, 2 * MIB)
    disk.unmap(2 * MIB, 2 * MIB)
    assert disk.leaf.stat().st_size == 4 * MIB + 3 * 2 * MIB
    assert NaiveVhdx(disk.leaf).contents() == bytes(5 * MIB + 512)
    disk.close()


# --- what is refused ----------------------------------------------------------------------


@pytest.mark.parametrize(("offset", "length"), [(3 * MIB, 512), (-512, 512), (256, 512), (0, 100)])
def test_changes_are_whole_sectors_of_the_disk(tmp_path: Path, offset: int, length: int) -> None:
    disk = VirtualDisk.create(tmp_path / "d.vhdx", 3 * MIB, block_size=MIB)
    with pytest.raises(BadRequest) as refusal:
        disk.write(offset, bytes(length))
    assert refusal.value.code == 0x80070057
    disk.close()


def test_a_changed_parent_is_refused(tmp_path: Path) -> None:
    base, leaf = tmp_path / "d.vhdx", tmp_path / "d1.avhdx"
    disk = VirtualDisk.create(base, 3 * MIB, block_size=MIB)
    disk.checkpoint(leaf, host_path="C:\\d.vhdx")
    disk.close()
    intruder = VirtualDisk.open(base)
    intruder.write(0, b"!" * 512)
    intruder.close()
    with pytest.raises(ParentChanged) as refusal:
        VirtualDisk.open(leaf)
    assert refusal.value.code == 0xC03A000E


def test_a_missing_parent_is_named(tmp_path: Path) -> None:
    disk = VirtualDisk.create(tmp_path / "d.vhdx", 3 * MIB, block_size=MIB)
    disk.checkpoint(tmp_path / "d1.avhdx", host_path="C:\\d.vhdx")
    disk.close()
    (tmp_path / "d.vhdx").unlink()
    with pytest.raises(ParentNotFound, match=r"d\.vhdx"):
        VirtualDisk.open(tmp_path / "d1.avhdx")


def test_a_file_that_is_its_own_parent_is_refused(tmp_path: Path) -> None:
    disk = VirtualDisk.create(tmp_path / "d.vhdx", 3 * MIB, block_size=MIB)
    disk.checkpoint(tmp_path / "d1.avhdx", host_path="C:\\d.vhdx")
    disk.close()
    shutil.copyfile(tmp_path / "d1.avhdx", tmp_path / "d.vhdx")
    with pytest.raises(ChainCycle):
        (tmp_path / "d1.avhdx").unlink()
        (tmp_path / "d1.avhdx").symlink_to(tmp_path / "d.vhdx")
        VirtualDisk.open(tmp_path / "d1.avhdx")


def test_what_is_no_disk_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.vhdx").write_bytes(b"this is no disk" * 1000)
    with pytest.raises(NotAVirtualDisk):
        VirtualDisk.open(tmp_path / "text.vhdx")


@pytest.mark.parametrize("place", [64 << 10, 192 << 10])
def test_one_damaged_copy_is_survived_and_two_are_not(tmp_path: Path, place: int) -> None:
    path = tmp_path / "d.vhdx"
    disk = VirtualDisk.create(path, 3 * MIB, block_size=MIB)
    disk.write(0, b"here" * 128)
    disk.close()
    with path.open("r+b") as file:
        file.seek(place + 100)
        file.write(b"\xff")
    disk = VirtualDisk.open(path)
    assert disk.read(0, 4) == b"here"
    disk.close()
    with path.open("r+b") as file:
        for copy in (place, place + (64 << 10)):
            file.seek(copy + 100)
            file.write(b"\xee")
    with pytest.raises(DiskCorrupt):
        VirtualDisk.open(path)


def test_a_log_guid_without_a_log_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "d.vhdx"
    disk = VirtualDisk.create(path, 3 * MIB, block_size=MIB)
    disk.write(0, bytes(512))
    disk.crash()
    with path.open("r+b") as file:
        file.seek(MIB)
        file.write(bytes(MIB))
    with pytest.raises(DiskCorrupt):
        VirtualDisk.open(path)


def test_layers_in_use_stay(tmp_path: Path) -> None:
    disk = VirtualDisk.create(tmp_path / "d.vhdx", 3 * MIB, block_size=MIB)
    disk.checkpoint(tmp_path / "a.avhdx", host_path="C:\\d.vhdx")
    disk.checkpoint(tmp_path / "b.avhdx", host_path="C:\\a.avhdx")
    with pytest.raises(LayerInUse):
        disk.discard(tmp_path / "a.avhdx")
    with pytest.raises(LayerInUse):
        disk.discard(tmp_path / "b.avhdx")
    with pytest.raises(NoSuchLayer):
        disk.read(0, 512, at=tmp_path / "c.avhdx")
    with pytest.raises(LayerInUse):
        disk.revert(tmp_path / "b.avhdx", tmp_path / "c.avhdx", host_path="C:\\b.avhdx")
    assert disk.files == [tmp_path / "b.avhdx", tmp_path / "a.avhdx", tmp_path / "d.vhdx"]
    disk.revert(tmp_path / "d.vhdx", tmp_path / "c.avhdx", host_path="C:\\d.vhdx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.avhdx", "c.avhdx", "d.vhdx"]
    disk.discard(tmp_path / "a.avhdx")
    assert disk.all_files == [tmp_path / "d.vhdx", tmp_path / "c.avhdx"]
    disk.close()


def test_the_bat_grows_with_the_disk_not_beyond_its_region(tmp_path: Path) -> None:
    """A differencing file of 5 TiB has 1280 chunks of 4 GiB, each with a bitmap entry (2.5)."""
    disk = VirtualDisk.create(tmp_path / "d.vhdx", 5 << 40, block_size=32 * MIB)
    disk.checkpoint(tmp_path / "d1.avhdx", host_path="C:\\d.vhdx", block_size=32 * MIB)
    disk.write((5 << 40) - 512, b"l" * 512)
    entries = 1280 * (128 + 1)
    reader = read_chain(disk.files)
    assert reader.regions[BAT][1] == -(-entries * 8 // MIB) * MIB
    assert reader.entry(entries - 1)[0] == 6
    assert reader.entry(entries - 2)[0] == 7
    disk.close()
