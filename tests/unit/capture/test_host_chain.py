"""Chains over a host's files: only allowed names are opened, chosen as Windows names files."""

from pathlib import Path
from uuid import UUID

import pytest

from tests.generators.vhdx_bytes import FULL, MIB, Block, make_vhdx
from vmkeep.capture.host_chain import ChainFiles
from vmkeep.formats.errors import CorruptDisk, ParentMissing
from vmkeep.formats.opening import open_files
from vmkeep.host.files.errors import FileMissing
from vmkeep.host.files.host_files import HostFiles
from vmkeep.host.files.paths import PathMap

pytestmark = pytest.mark.quick

SIZE = 4 * MIB


@pytest.fixture
def files(tmp_path: Path) -> HostFiles:
    return HostFiles("host", 445, None, PathMap({"C:\\VMs": tmp_path.as_uri()}))


def write_base(path: Path, fill: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    blocks = {0: Block(FULL, fill * MIB)}
    path.write_bytes(bytes(make_vhdx(disk_size=SIZE, blocks=blocks, write_guid=UUID(int=1)).data))


def write_child(path: Path, parent: str, key: str = "absolute_win32_path", own: int = 2) -> None:
    path.parent.mkdir(exist_ok=True)
    locator = [("parent_linkage", f"{{{UUID(int=1)}}}"), (key, parent)]
    made = make_vhdx(disk_size=SIZE, has_parent=True, locator=locator, write_guid=UUID(int=own))
    path.write_bytes(bytes(made.data))


def chain(files: HostFiles, leaf: str, *names: str) -> tuple[list[str], bytes]:
    (disk,) = open_files([leaf], ChainFiles(files, names))
    with disk:
        return [layer.name for layer in disk.chain()], disk.read_at(0, 1)


def test_a_chain_has_the_names_of_the_host(tmp_path: Path, files: HostFiles) -> None:
    write_base(tmp_path / "base.vhdx", b"\1")
    write_child(tmp_path / "top.avhdx", "D:\\elsewhere\\BASE.vhdx")
    layers = ["C:\\VMs\\top.avhdx", "C:\\VMs\\base.vhdx"]
    assert chain(files, layers[0], *layers) == (layers, b"\1")


def test_a_file_that_is_not_allowed_is_not_opened(tmp_path: Path, files: HostFiles) -> None:
    write_base(tmp_path / "base.vhdx", b"\1")
    write_child(tmp_path / "top.avhdx", "C:\\VMs\\base.vhdx")
    with pytest.raises(ParentMissing, match=r"base\.vhdx"):
        chain(files, "C:\\VMs\\top.avhdx", "C:\\VMs\\top.avhdx")


@pytest.mark.parametrize("key", ["absolute_win32_path", "relative_path"])
def test_of_copies_with_one_identity_the_one_the_child_means_is_taken(
    tmp_path: Path, files: HostFiles, key: str
) -> None:
    write_base(tmp_path / "a" / "base.vhdx", b"\1")
    write_base(tmp_path / "b" / "base.vhdx", b"\2")
    place = "\\\\?\\c:\\vms\\B\\base.vhdx" if key == "absolute_win32_path" else "..\\b\\base.vhdx"
    write_child(tmp_path / "a" / "top.avhdx", place, key)
    bases = ["C:\\VMs\\a\\base.vhdx", "C:\\VMs\\b\\base.vhdx"]
    assert chain(files, "C:\\VMs\\a\\top.avhdx", *bases) == (["C:\\VMs\\a\\top.avhdx", bases[1]], b"\2")


def test_a_file_that_is_its_own_parent_is_refused_in_any_case(tmp_path: Path, files: HostFiles) -> None:
    write_child(tmp_path / "loop.avhdx", "C:\\VMs\\LOOP.avhdx", own=1)
    with pytest.raises(CorruptDisk, match="its child already"):
        chain(files, "C:\\VMs\\loop.avhdx", "c:\\vms\\loop.avhdx")


def test_a_file_that_the_host_does_not_have_is_the_hosts_error(files: HostFiles) -> None:
    with pytest.raises(FileMissing):
        chain(files, "C:\\VMs\\gone.vhdx", "C:\\VMs\\gone.vhdx")
