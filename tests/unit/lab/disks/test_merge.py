"""Merges: in steps, with a guest that goes on, failed, killed, and what each leaves behind."""

import hashlib
import random
import threading
from pathlib import Path

import pytest

from tests.unit.lab.disks.naive_vhdx import ZERO_GUID, NaiveVhdx, read_chain
from vmkeep_lab.disks import LayerInUse, VirtualDisk

MIB = 1 << 20
SIZE = 6 * MIB + 1536

pytestmark = pytest.mark.quick


def chain_of_three(folder: Path, seed: int) -> VirtualDisk:
    disk = VirtualDisk.create(folder / "d.vhdx", SIZE, block_size=MIB, seed=seed)
    chooser = random.Random(seed)
    for name in ("a", "b"):
        scatter(disk, chooser)
        disk.checkpoint(folder / f"{name}.avhdx", host_path=f"C:\\{disk.leaf.name}", block_size=MIB)
    scatter(disk, chooser)
    return disk


def scatter(disk: VirtualDisk, chooser: random.Random) -> None:
    for _ in range(20):
        offset = chooser.randrange(SIZE // 512) * 512
        disk.write(offset, chooser.randbytes(512) * chooser.randint(1, min(9, (SIZE - offset) // 512)))
    disk.zero(chooser.randrange(6) * MIB, MIB)
    disk.unmap(chooser.randrange(6) * MIB, MIB)


def test_a_middle_layer_goes_and_its_child_names_the_grandparent(tmp_path: Path, seed: int) -> None:
    disk = chain_of_three(tmp_path, seed)
    middle, now = disk.read(0, SIZE, at=tmp_path / "a.avhdx"), disk.read(0, SIZE)
    base_before = NaiveVhdx(tmp_path / "d.vhdx").data_write_guid
    disk.merge(tmp_path / "a.avhdx")
    assert disk.files == [tmp_path / "b.avhdx", tmp_path / "d.vhdx"]
    assert not (tmp_path / "a.avhdx").exists()
    reader = read_chain(disk.files)
    assert reader.contents() == now == disk.read(0, SIZE)
    assert disk.read(0, SIZE, at=tmp_path / "d.vhdx") == middle
    keys = reader.locator()
    assert keys["relative_path"] == ".\\d.vhdx"
    assert keys["absolute_win32_path"] == "C:\\d.vhdx"
    assert keys["parent_linkage2"] == "{00000000-0000-0000-0000-000000000000}"
    assert reader.parent is not None
    assert reader.parent.data_write_guid != base_before
    assert reader.parent.log_guid == ZERO_GUID
    disk.close()
    disk = VirtualDisk.open(tmp_path / "b.avhdx")
    assert disk.read(0, SIZE) == now
    disk.close()


def test_merging_the_leaf_makes_its_parent_the_leaf(tmp_path: Path, seed: int) -> None:
    disk = chain_of_three(tmp_path, seed)
    now = disk.read(0, SIZE)
    disk.merge(tmp_path / "b.avhdx")
    disk.merge(tmp_path / "a.avhdx")
    assert disk.files == [tmp_path / "d.vhdx"]
    disk.write(0, b"go on" * 512)
    expected = b"go on" * 512 + now[2560:]
    assert disk.read(0, SIZE) == read_chain(disk.files).contents() == expected
    disk.close()
    assert [path.name for path in tmp_path.iterdir()] == ["d.vhdx"]


def test_a_guest_that_writes_during_the_merge_loses_nothing(tmp_path: Path, seed: int) -> None:
    disk = chain_of_three(tmp_path, seed)
    model = bytearray(disk.read(0, SIZE))
    chooser = random.Random(seed)
    merge = disk.start_merge(disk.leaf)
    for _ in range(5):
        merge.step(blocks=1)
        offset = chooser.randrange(SIZE // 512) * 512
        model[offset : offset + 512] = data = chooser.randbytes(512)
        disk.write(offset, data)
        assert disk.read(0, SIZE) == model
        assert merge.percent < 100
    while not merge.step():
        pass
    assert merge.percent == 100
    assert disk.leaf == tmp_path / "a.avhdx"
    assert read_chain(disk.files).contents() == model
    disk.close()


def test_a_failed_merge_leaves_a_chain_that_is_right_and_can_be_merged(tmp_path: Path, seed: int) -> None:
    disk = chain_of_three(tmp_path, seed)
    middle, now = disk.read(0, SIZE, at=tmp_path / "a.avhdx"), disk.read(0, SIZE)
    merge = disk.start_merge(tmp_path / "a.avhdx")
    merge.step(blocks=2)
    with pytest.raises(LayerInUse):
        disk.read(0, 512, at=tmp_path / "d.vhdx")
    with pytest.raises(LayerInUse):
        disk.checkpoint(tmp_path / "c.avhdx", host_path="C:\\b.avhdx")
    merge.fail()
    with pytest.raises(LayerInUse):
        merge.step()
    assert disk.files == [tmp_path / "b.avhdx", tmp_path / "a.avhdx", tmp_path / "d.vhdx"]
    assert read_chain(disk.files).contents() == now
    assert {NaiveVhdx(tmp_path / "d.vhdx", replay=False).log_guid} == {ZERO_GUID}
    assert read_chain(disk.files[1:]).contents() == middle
    disk.close()
    disk = VirtualDisk.open(tmp_path / "b.avhdx")
    disk.merge(tmp_path / "a.avhdx")
    assert read_chain(disk.files).contents() == now
    disk.close()


def test_a_host_killed_in_a_merge_starts_it_again(tmp_path: Path, seed: int) -> None:
    disk = chain_of_three(tmp_path, seed)
    now = disk.read(0, SIZE)
    for blocks in (0, 1, 3):
        disk.start_merge(tmp_path / "a.avhdx").step(blocks)
        assert read_chain(disk.files).contents() == now
        disk.crash()
        disk = VirtualDisk.open(tmp_path / "b.avhdx")
        assert disk.read(0, SIZE) == now
    disk.merge(tmp_path / "a.avhdx")
    assert disk.read(0, SIZE) == read_chain(disk.files).contents() == now
    disk.close()


def test_a_parent_of_two_children_is_not_merged_into(tmp_path: Path, seed: int) -> None:
    disk = chain_of_three(tmp_path, seed)
    disk.revert(tmp_path / "d.vhdx", tmp_path / "c.avhdx", host_path="C:\\d.vhdx")
    with pytest.raises(LayerInUse):
        disk.merge(tmp_path / "c.avhdx")
    disk.discard(tmp_path / "a.avhdx")
    disk.merge(tmp_path / "c.avhdx")
    assert disk.files == [tmp_path / "d.vhdx"]
    disk.close()


def test_a_frozen_layer_is_hashed_beside_a_guest_that_writes_and_a_merge(tmp_path: Path, seed: int) -> None:
    disk = chain_of_three(tmp_path, seed)
    frozen = tmp_path / "a.avhdx"
    expected = hashlib.sha256(disk.read(0, SIZE, at=frozen)).hexdigest()
    stop = threading.Event()

    def work() -> None:
        chooser = random.Random(seed)
        while not stop.is_set():
            scatter(disk, chooser)

    guest = threading.Thread(target=work)
    guest.start()
    try:
        merge = disk.start_merge(frozen)
        for _ in range(4):
            assert disk.sha256(at=frozen) == expected
            if merge.step(blocks=1):
                break
    finally:
        stop.set()
        guest.join()
    assert disk.sha256() == hashlib.sha256(read_chain(disk.files).contents()).hexdigest()
    disk.close()
