"""Every file of a restore has a name of its own, in the folder the user named and nowhere else."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.clocks import FakeClock
from tests.generators.repository_bytes import Content, RepositoryBytes
from vmkeep.errors import ExitCode, VmkeepError
from vmkeep.formats.opening import open_path
from vmkeep.objectstore.memory import MemoryStore
from vmkeep.progress import Silent
from vmkeep.repository.errors import RepositoryError
from vmkeep.repository.repository import Repository
from vmkeep.restore.files import restore_point
from vmkeep.secrets import Secret

pytestmark = pytest.mark.quick

SIZE: Final = 1 << 20


def restore(
    target: Path, disks: list[str], files: list[str] | None = None, format: Any = "raw", **more: Any
) -> None:
    """Restore disks and files that hold their own numbers and names."""
    written = RepositoryBytes(seed=3, passwords=["x"])
    written.add_point(
        disks=[
            Content(name, SIZE, {0: f"{n} {name}".encode()}, source=more.get("sources", {}).get(name))
            for n, name in enumerate(disks)
        ],
        files=[
            Content(name, len(name) + 99, {0: f"{n} {name}".encode()}) for n, name in enumerate(files or [])
        ],
    )
    store = MemoryStore(FakeClock())
    for name, content in written.objects.items():
        store.put(name, content)
    with Repository.open(store, Secret("x"), FakeClock()) as repository:
        listing = repository.listing()
        for problem in listing.problems:
            raise problem
        point = listing.points[0].point
        restore_point(repository, point, target, format, more.get("wanted"), more.get("progress", Silent()))


def disk_text(path: Path) -> str:
    """The text at the beginning of a disk."""
    with open_path(path) as disk:
        return disk.read_at(0, 99).rstrip(b"\0").decode()


def found(target: Path) -> dict[str, str]:
    """Path to text, of each file below."""
    return {
        path.relative_to(target).as_posix(): path.read_bytes().rstrip(b"\0").decode()
        for path in target.rglob("*")
        if path.is_file()
    }


# -- names --


@pytest.mark.parametrize(
    ("disks", "files"),
    [
        (["d" * 190 + "1", "d" * 190 + "2"], []),
        (["Caf\u00e9", "cafe\u0301", "CAFE\u0301"], []),
        (["d"], ["d.raw", "D.raw"]),
        (["d"], ["d.raw/vm.vmcx"]),
        ([], ["v" * 200 + "1.vmcx", "v" * 200 + "2.vmcx"]),
        ([], ["f" * 200 + "1/a.vmcx", "f" * 200 + "2/a.vmcx"]),
        ([], ["Snapshots/a.vmcx", "snapshots/A.vmcx", "Snapshots/a.VMCX"]),
        ([], ["a", "a/b", "a/b/c"]),
        ([], ["x/a:.vmcx", "x/a%3A.vmcx"]),
    ],
)
def test_names_that_become_one_come_back_as_two(tmp_path: Path, disks: list[str], files: list[str]) -> None:
    restore(tmp_path, disks, files)
    back = found(tmp_path)
    assert sorted(back.values()) == sorted(
        f"{n} {name}" for names in (disks, files) for n, name in enumerate(names)
    )
    assert len({name.lower() for name in back}) == len(back)
    assert sum(name.endswith(".raw") for name in back) >= len(disks)
    kept = [name for name in files if name.lower().endswith(".vmcx")]
    assert sum(name.lower().endswith(".vmcx") for name in back) == len(kept)


@pytest.mark.parametrize(
    ("disk", "format", "expected"),
    [
        ("x", "vhdx", "x.vhdx"),
        ("x.vhdx", "vhdx", "x.vhdx"),
        ("x.vhdx", "raw", "x.raw"),
        ("x.AVHDX", "vhd", "x.vhd"),
        ("x.img", "raw", "x.raw"),
        ("x.old", "vhdx", "x.old.vhdx"),
        ("web.example.org", "raw", "web.example.org.raw"),
        (".vhdx", "raw", ".vhdx.raw"),
    ],
)
def test_a_disk_named_with_an_image_extension_gets_no_second_one(
    tmp_path: Path, disk: str, format: str, expected: str
) -> None:
    restore(tmp_path, [disk], format=format)
    assert [path.name for path in tmp_path.iterdir()] == [expected]


def test_disks_that_differ_in_their_extension_do_not_collide(tmp_path: Path) -> None:
    restore(tmp_path, ["f_a.vhd", "f_a.vhdx"])
    back = found(tmp_path)
    assert sorted(back.values()) == ["0 f_a.vhd", "1 f_a.vhdx"]
    assert back["f_a.raw"] == "0 f_a.vhd" and all(name.endswith(".raw") for name in back)


FOLDER: Final = "Virtual Hard Disks"
ALIKE: Final = {f"{FOLDER}_d.vhd": f"{FOLDER}/d.vhd", f"{FOLDER}_d.vhdx": f"{FOLDER}/d.vhdx"}


@pytest.mark.parametrize("format", ["vhd", "vhdx"])
def test_a_disk_named_like_the_file_gets_the_name_before_others(tmp_path: Path, format: str) -> None:
    for number, order in enumerate((list(ALIKE), list(ALIKE)[::-1])):
        target = tmp_path / str(number)
        restore(target, order, format=format, sources=ALIKE)
        back = {path.name: disk_text(path) for path in target.iterdir()}
        own = f"{FOLDER}_d.{format}"
        assert len(back) == 2 and back[own].endswith(own), back


def test_a_file_in_the_source_that_had_the_name_gets_it_back(tmp_path: Path) -> None:
    # Disks are named by their files without the ending, and these two then look alike.
    restore(tmp_path, ["b.vhd", "b"], format="vhdx", sources={"b.vhd": "b.vhd.vhdx", "b": "b.vhdx"})
    assert disk_text(tmp_path / "b.vhdx") == "1 b" and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (f"{FOLDER}/d.vhdx", f"1 {FOLDER}_d.vhdx"), ("d.vhdx", f"1 {FOLDER}_d.vhdx"),
        (f"{FOLDER}_d.vhd", f"0 {FOLDER}_d.vhd"), ("other", "2 other"), ("one.raw", "2 other"),
        ("x/one.raw", "2 other"), ("0", "3 0"), ("1", f"1 {FOLDER}_d.vhdx"), ("last.raw", "4 last"),
    ],
)  # fmt: skip
def test_a_disk_is_found_by_all_that_people_call_it(tmp_path: Path, wanted: str, text: str) -> None:
    sources = ALIKE | {"other": "x/one.raw", "0": "y/two.raw", "last": "last.raw", "deep": "y/last.raw"}
    restore(tmp_path, list(sources), sources=sources, wanted=wanted)
    assert list(found(tmp_path).values()) == [text]


@pytest.mark.parametrize("wanted", ["d.raw", "c.raw"])
def test_what_means_two_disks_is_refused_with_their_numbers(tmp_path: Path, wanted: str) -> None:
    sources = {"x_d": "x/d.raw", "y_d": "y/d.raw", "c": "c.raw", "c.raw": "c.raw.raw"}
    with pytest.raises(VmkeepError, match="means 2 disks") as refused:
        restore(tmp_path, list(sources), sources=sources, wanted=wanted)
    for disk in ["0", "1"] if wanted == "d.raw" else ["2", "3"]:
        assert disk in refused.value.hint
    assert list(tmp_path.iterdir()) == []


def test_one_disk_after_the_other_gets_the_names_of_all_at_once(tmp_path: Path) -> None:
    disks = ["Web", "web", "WEB"]
    restore(tmp_path / "all", disks)
    for number in range(3):
        restore(tmp_path / "each", disks, wanted=str(number))
    assert found(tmp_path / "each") == found(tmp_path / "all") and len(found(tmp_path / "all")) == 3


@pytest.mark.parametrize("depth", [63, 64, 100_000])
def test_a_tree_too_deep_is_refused_before_the_first_byte(tmp_path: Path, depth: int) -> None:
    name = "f/" * depth + "a.vmcx"
    if depth < 64:
        restore(tmp_path, ["d"], [name])
        assert name in found(tmp_path)
        return
    with pytest.raises(RepositoryError, match="64 segments"):
        restore(tmp_path, ["d"], [name])
    assert list(tmp_path.iterdir()) == []


def test_every_folder_that_got_a_name_is_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: set[int] = set()
    fsync = os.fsync

    def noted(fd: int) -> None:
        flushed.add(os.fstat(fd).st_ino)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    restore(tmp_path / "new" / "target", ["d"], ["Virtual Machines/vm.vmcx"])
    for folder in (tmp_path, *(path for path in tmp_path.rglob("*") if path.is_dir())):
        assert folder.stat().st_ino in flushed, folder


# -- one file --


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("x.raw", "vhdx"), ("x.IMG", "vhd"), ("x.vhdx", "raw"), ("x.vhd", "vhdx"), ("x.avhdx", "vhd"),
        ("x.qcow2", None), ("x.vmdk", "raw"), ("x.vmcx", "raw"), ("x.iso", "raw"),
    ],
)  # fmt: skip
def test_a_name_that_promises_another_format_is_refused(
    tmp_path: Path, name: str, format: str | None
) -> None:
    with pytest.raises(VmkeepError, match="named like") as refused:
        restore(tmp_path / name, ["d"], format=format)
    assert refused.value.exit_code is ExitCode.USAGE
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "format", "becomes"),
    [
        ("x.img", None, "raw"),
        ("x.vhd", None, "vhd"),
        ("x.VHDX", "vhdx", "vhdx"),
        ("x.dd", "raw", "raw"),
        ("x.saved", "vhd", "vhd"),
        ("x.saved", "raw", "raw"),
    ],
)
def test_what_is_written_can_be_opened_under_its_name(
    tmp_path: Path, name: str, format: str | None, becomes: str
) -> None:
    restore(tmp_path / name, ["d"], format=format)
    with open_path(tmp_path / name) as disk:
        assert disk.profile.format == becomes
        assert disk.read_at(0, 4) == b"0 d\0"


# -- somebody else writes to the folder meanwhile --


class Meanwhile:
    """Does something once, when the first bytes of a restore arrive."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._actions = [action]

    def begin(self, label: str, total_bytes: int | None) -> None:
        return

    def advance(self, done_bytes: int) -> None:
        if self._actions:
            self._actions.pop()()

    def end(self) -> None:
        return


def test_a_target_exchanged_for_a_link_leads_nowhere_else(tmp_path: Path) -> None:
    target, moved, outside = (tmp_path / name for name in ("target", "moved", "outside"))
    outside.mkdir()

    def exchange() -> None:
        target.rename(moved)
        target.symlink_to(outside)

    restore(target, ["d", "e"], ["Virtual Machines/vm.vmcx"], progress=Meanwhile(exchange))
    assert list(outside.iterdir()) == []
    assert set(found(moved)) == {"d.raw", "e.raw", "Virtual Machines/vm.vmcx"}


def test_a_folder_exchanged_for_a_link_as_soon_as_it_is_made_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, outside = tmp_path / "target", tmp_path / "outside"
    outside.mkdir()
    original = os.mkdir

    def mkdir_and_exchange(path: Any, mode: int = 0o777, **where: Any) -> None:
        original(path, mode, **where)
        if "Virtual" in str(path):
            (target / "Virtual Machines").rmdir()
            (target / "Virtual Machines").symlink_to(outside)

    monkeypatch.setattr(os, "mkdir", mkdir_and_exchange)
    with pytest.raises(VmkeepError, match="Virtual Machines"):
        restore(target, ["d"], ["Virtual Machines/vm.vmcx"])
    assert list(outside.iterdir()) == []


def test_a_link_where_a_folder_has_to_be_is_refused_before_the_first_byte(tmp_path: Path) -> None:
    target, outside = tmp_path / "target", tmp_path / "outside"
    outside.mkdir()
    target.mkdir()
    (target / "Virtual Machines").symlink_to(outside)
    with pytest.raises(VmkeepError, match="Virtual Machines"):
        restore(target, ["d"], ["Virtual Machines/vm.vmcx"])
    assert [path.name for path in target.iterdir()] == ["Virtual Machines"]
    assert list(outside.iterdir()) == []


def test_ctrl_c_leaves_no_unfinished_file(tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    for format in ("raw", "vhd", "vhdx"):
        with pytest.raises(KeyboardInterrupt):
            restore(tmp_path / format, ["d"], format=format, progress=Meanwhile(interrupt))
        assert list((tmp_path / format).iterdir()) == []
