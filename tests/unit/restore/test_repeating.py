"""An interrupted restore is simply repeated: what is proven identical stays, anything else is refused."""

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest

from tests.clocks import FakeClock
from tests.generators.repository_bytes import Content, RepositoryBytes
from vmkeep.errors import VmkeepError
from vmkeep.formats.creating import create_disk
from vmkeep.formats.disk import DiskProfile, Format
from vmkeep.formats.opening import open_path
from vmkeep.formats.source import FileSource
from vmkeep.formats.target import TargetFile
from vmkeep.formats.target_folder import TargetFolder
from vmkeep.objectstore.memory import MemoryStore
from vmkeep.progress import Silent
from vmkeep.repository.repository import Repository
from vmkeep.restore.errors import TargetRefused
from vmkeep.restore.files import RestoredFile, restore_point
from vmkeep.restore.kept import is_this_disk
from vmkeep.secrets import Secret

pytestmark = pytest.mark.quick

MIB: Final = 1 << 20
SIZE: Final = 9 * MIB
FORMATS: Final[list[Format]] = ["raw", "vhd", "vhdx"]
# A guest may write what begins like another format.
DISK: Final = Content(
    "disk", SIZE, {0: b"vhdxfile" + b"a" * 70_000, 5 * MIB + 7: b"middle", SIZE - 3: b"end"}
)
OTHER: Final = Content("other", MIB, {300: random.Random(1).randbytes(1000)})
FILE: Final = Content("Virtual Machines/vm.vmcx", 3001, {5: b"config"})
EMPTY: Final = Content("Virtual Machines/vm.vmgs", 0)

Restore = Callable[..., list[RestoredFile]]


@pytest.fixture
def restore() -> Iterator[Restore]:
    """Restores the point of DISK, OTHER, FILE and EMPTY to a target."""
    written = RepositoryBytes(seed=3, passwords=["x"])
    written.add_point(disks=[DISK, OTHER], files=[FILE, EMPTY])
    store = MemoryStore(FakeClock())
    for name, content in written.objects.items():
        store.put(name, content)
    with Repository.open(store, Secret("x"), FakeClock()) as repository:
        point = repository.listing().points[0].point

        def to(target: Path, format: Format | None = "raw", wanted: str | None = None) -> list[RestoredFile]:
            return restore_point(repository, point, target, format, wanted, Silent())

        yield to


def state(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Each file below, by what a rewritten one could not have again."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("format", FORMATS)
def test_a_complete_restore_repeated_writes_nothing(tmp_path: Path, restore: Restore, format: Format) -> None:
    first = restore(tmp_path, format)
    before = state(tmp_path)
    assert len(before) == 4 and [file.kept for file in first] == [False] * 4
    again = restore(tmp_path, format)
    assert again == [replace(file, kept=True) for file in first]
    assert state(tmp_path) == before


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("missing", [["disk"], ["other", "Virtual Machines/vm.vmcx"]])
def test_what_is_missing_is_restored_beside_what_is_kept(
    tmp_path: Path, restore: Restore, format: Format, missing: list[str]
) -> None:
    restore(tmp_path, format)
    before = state(tmp_path)
    gone = {name if "/" in name else f"{name}.{format}" for name in missing}
    for name in gone:
        (tmp_path / name).unlink()
    again = restore(tmp_path, format)
    assert {Path(f.path).relative_to(tmp_path).as_posix() for f in again if not f.kept} == gone
    now = state(tmp_path)
    assert set(now) == set(before)
    assert {name: now[name] for name in before if name not in gone} == {
        name: before[name] for name in before if name not in gone
    }
    if format == "raw":
        assert now["disk.raw"][2] == DISK.read(0, SIZE)


def test_one_file_is_kept_too(tmp_path: Path, restore: Restore) -> None:
    for expected in (False, True):
        (file,) = restore(tmp_path / "one.raw", wanted="disk")
        assert file.kept is expected


@pytest.mark.parametrize("at", [None, 0, 40_000, 3 * MIB, 5 * MIB + 8, 8 * MIB, SIZE - 1])
@pytest.mark.parametrize("format", FORMATS)
def test_a_disk_with_one_other_byte_is_refused(
    tmp_path: Path, restore: Restore, format: Format, at: int | None
) -> None:
    restore(tmp_path, format)
    path = tmp_path / f"disk.{format}"
    profile = DiskProfile("raw", "fixed", SIZE)
    if format != "raw":
        with open_path(path) as disk:
            profile = disk.profile
    path.unlink()
    content = bytearray(DISK.read(0, SIZE))
    if at is not None:
        content[at] ^= 1
    # Made by the writers, as a restore of another point would make it: valid in everything.
    writer = create_disk(path, profile)
    writer.write_at(0, content)
    writer.finish()
    (tmp_path / f"other.{format}").unlink()
    before = state(tmp_path)
    if at is None:  # the same bytes are the same disk, however they lie in the file
        assert [file.kept for file in restore(tmp_path, format)] == [True, False, True, True]
        return
    with pytest.raises(TargetRefused, match="exists already"):
        restore(tmp_path, format)
    assert state(tmp_path) == before


@pytest.mark.parametrize("change", [{"kind": "fixed"}, {"block_size": 4 * MIB}, {"physical_sector": 512}])
def test_a_disk_that_differs_in_what_a_host_can_tell_is_refused(
    tmp_path: Path, restore: Restore, change: dict[str, Any]
) -> None:
    restore(tmp_path, None, "disk")
    (path,) = tmp_path.iterdir()
    with open_path(path) as disk:
        profile = disk.profile
        content = disk.read_at(0, SIZE)
    assert content == DISK.read(0, SIZE)
    path.unlink()
    writer = create_disk(path, replace(profile, **change))
    writer.write_at(0, content)
    writer.finish()
    with pytest.raises(TargetRefused, match="exists already"):
        restore(tmp_path, None, "disk")


@pytest.mark.parametrize("format", ["vhd", "vhdx"])
def test_a_disk_with_another_identifier_is_another_disk(tmp_path: Path, format: Format) -> None:
    path = tmp_path / f"disk.{format}"
    profile = DiskProfile(format, "dynamic", MIB, disk_id=UUID(int=7))
    create_disk(path, profile).finish()
    for number, same in ((7, True), (8, False)):
        assert is_this_disk(FileSource(path), replace(profile, disk_id=UUID(int=number)), []) is same


@pytest.mark.parametrize("name", ["disk.raw", "Virtual Machines/vm.vmcx", "Virtual Machines/vm.vmgs"])
@pytest.mark.parametrize("change", ["longer", "shorter", "link", "fifo", "folder"])
def test_anything_else_in_its_place_is_refused_before_the_first_byte(
    tmp_path: Path, restore: Restore, name: str, change: str
) -> None:
    restore(tmp_path)
    path = tmp_path / name
    content = path.read_bytes()
    path.unlink()
    match change:
        case "longer":
            path.write_bytes(content + bytes(512))
        case "shorter":
            path.write_bytes(content[:-512] if content else b"x")
        case "link":
            (tmp_path / "elsewhere").write_bytes(content)
            path.symlink_to(tmp_path / "elsewhere")
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
    (tmp_path / "other.raw").unlink()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(TargetRefused, match="exists already"):
        restore(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("format", FORMATS)
def test_a_damaged_or_cut_disk_is_refused(tmp_path: Path, restore: Restore, format: Format) -> None:
    restore(tmp_path, format)
    path = tmp_path / f"disk.{format}"
    whole = path.read_bytes()
    for content in (whole[:-2], whole[: len(whole) // 2], b"", bytes(len(whole)), b"\0" + whole[1:]):
        path.write_bytes(content)
        with pytest.raises(TargetRefused, match="exists already"):
            restore(tmp_path, format)
        assert path.read_bytes() == content


def test_stored_data_that_is_damaged_is_told_not_kept(tmp_path: Path) -> None:
    written = RepositoryBytes(seed=3, passwords=["x"])
    written.add_point(disks=[OTHER])
    (tmp_path / "other.raw").write_bytes(OTHER.read(0, MIB))
    store = MemoryStore(FakeClock())
    for name, content in written.objects.items():
        damaged = content[:60] + bytes([content[60] ^ 1]) + content[61:]
        store.put(name, damaged if name.startswith("packs/") else content)
    with Repository.open(store, Secret("x"), FakeClock()) as repository:
        point = repository.listing().points[0].point
        with pytest.raises(VmkeepError) as refused:
            restore_point(repository, point, tmp_path, "raw", None, Silent())
    assert refused.value.exit_code == 14


def test_what_a_dead_restore_left_is_removed_a_living_one_spared(tmp_path: Path, restore: Restore) -> None:
    (tmp_path / "Virtual Machines").mkdir()
    dead = [".disk.raw.0123abcd.vmkeep-partial", "Virtual Machines/.vm.vmcx.0123abcd.vmkeep-partial"]
    for name in dead:
        (tmp_path / name).write_bytes(b"half")
    living = TargetFile(tmp_path / "third.raw")
    restore(tmp_path)
    left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.vmkeep-partial")}
    assert len(left) == 1 and not left & set(dead)
    living.publish()
    assert not list(tmp_path.rglob("*.vmkeep-partial"))


def test_a_file_of_the_vm_is_never_taken_for_an_unfinished_one(tmp_path: Path) -> None:
    written = RepositoryBytes(seed=3, passwords=["x"])
    written.add_point(files=[Content(".vm.0123abcd.vmkeep-partial", 99, {0: b"config"})])
    store = MemoryStore(FakeClock())
    for name, content in written.objects.items():
        store.put(name, content)
    with Repository.open(store, Secret("x"), FakeClock()) as repository:
        point = repository.listing().points[0].point
        for kept in (False, True):
            (file,) = restore_point(repository, point, tmp_path, None, None, Silent())
            assert file.kept is kept and Path(file.path).read_bytes() == b"config".ljust(99, b"\0")
    with TargetFolder.open(tmp_path) as folder:
        folder.remove_abandoned()
    assert len(list(tmp_path.iterdir())) == 1
