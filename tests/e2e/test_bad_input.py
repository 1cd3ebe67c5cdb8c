"""Bad input: one clear sentence with what to do, the right exit code, and nothing half-written."""

import ctypes
import json
import os
import random
import resource
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.command import CANARY, Result, Vmkeep
from tests.e2e.disks import MIB, SourceDisks, run

CHUNK: Final = 64 << 10
LIBC: Final = ctypes.CDLL(None)


def files_below(folder: Path) -> dict[str, int]:
    return {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def disk(tmp_path: Path, seed: int) -> Path:
    """A raw disk of 4 MiB of noise."""
    path = tmp_path / "disk.raw"
    path.write_bytes(random.Random(seed).randbytes(4 * MIB))
    return path


@pytest.fixture
def kept(vmkeep: Vmkeep, disk: Path) -> str:
    """A restore point of ``disk``."""
    return str(vmkeep.backup(f"disk:{disk}")["id"])


# -- repositories --


def test_places_that_are_no_repository(vmkeep: Vmkeep, disk: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "format").write_text('{"format": "jpeg"}')
    (tmp_path / "file").write_text("no folder")
    before = files_below(tmp_path)
    for place in ("nowhere", "empty", "photos", "file"):
        refused = vmkeep.fails(10, "backup", f"disk:{disk}", "--repo", place, says=place)
        assert "repo init" in refused.err or place == "photos"
        vmkeep.fails(10, "points", "--repo", place)
        vmkeep.fails(10, "repo", "info", place)
        vmkeep.fails(10, "repo", "check", place, "--keyless")
    assert files_below(tmp_path) == before


def test_a_repository_of_a_newer_version_is_left_alone(vmkeep: Vmkeep, kept: str, disk: Path) -> None:
    file = vmkeep.repo / "format"
    fields = json.loads(file.read_text())
    file.write_text(json.dumps({**fields, "version": 2, "something": "new"}))
    before = files_below(vmkeep.repo)
    for arguments in (("backup", f"disk:{disk}"), ("points",), ("repo", "check", vmkeep.repo, "--keyless")):
        refused = vmkeep.fails(11, *arguments, says="version 2")
        assert "Update vmkeep" in refused.err
    assert files_below(vmkeep.repo) == before


def test_a_wrong_password_opens_nothing(vmkeep: Vmkeep, kept: str, disk: Path, tmp_path: Path) -> None:
    before = files_below(vmkeep.repo)
    env: dict[str, str | None] = {"VMKEEP_PASSWORD": CANARY + "x"}
    for arguments in (
        ("backup", f"disk:{disk}"),
        ("points",),
        ("restore", kept, "--to", tmp_path / "back"),
        ("repo", "check", vmkeep.repo),
        ("repo", "info", vmkeep.repo),
    ):
        vmkeep.fails(12, *arguments, env=env, says="password is wrong")
    assert files_below(vmkeep.repo) == before
    assert not (tmp_path / "back").exists()


def test_a_repository_is_not_made_over_something(vmkeep: Vmkeep, kept: str, tmp_path: Path) -> None:
    vmkeep.fails(1, "repo", "init", vmkeep.repo, "--no-recovery-key", says="already")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    vmkeep.fails(1, "repo", "init", tmp_path / "full", "--no-recovery-key", says="not empty")
    assert files_below(tmp_path / "full") == {"letter.txt": 4}
    (tmp_path / "key").write_text("an older key")
    refused = vmkeep("repo", "init", tmp_path / "new", "--recovery-key-file", tmp_path / "key")
    assert refused.code == 1
    assert (tmp_path / "key").read_text() == "an older key"
    assert not (tmp_path / "new" / "format").exists()
    assert vmkeep.points()[0]["id"] == kept


def test_a_recovery_key_that_was_not_stored_leaves_no_file(vmkeep: Vmkeep, kept: str, tmp_path: Path) -> None:
    key = tmp_path / "key"
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    for place, says in (("file", "no folder"), ("full", "not empty"), (vmkeep.repo, "already")):
        vmkeep.fails(1, "repo", "init", tmp_path / place, "--recovery-key-file", key, says=says)
        assert not key.exists(), place
    vmkeep.ok("repo", "init", tmp_path / "new", "--recovery-key-file", key)
    key.unlink()
    vmkeep.points()
    add = ("repo", "key", "add", vmkeep.repo, "--recovery-key-file", key)
    # Room for the file, not for the key object.
    vmkeep.fails(1, *add, before_exec=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)))
    assert not key.exists()
    vmkeep.ok(*add)
    assert vmkeep.points("--password-file", key)[0]["id"] == kept


def test_a_store_without_hard_links_or_space_says_so_when_it_is_made(vmkeep: Vmkeep) -> None:
    refused = vmkeep("repo", "init", "/proc/vmkeep", "--no-recovery-key")
    assert refused.code == 1 and len(refused.err.splitlines()) >= 2


# -- sources --


def foreign(folder: Path, source_disks: SourceDisks) -> list[tuple[int, str, Path]]:
    vhdx = (source_disks.folder / "system.vhdx").read_bytes()
    vhd = (source_disks.folder / "old.vhd").read_bytes()
    fixed = (source_disks.folder / "old-fixed.vhd").read_bytes()
    damaged = bytearray(vhdx)
    for offset in (64 << 10, 128 << 10):  # both headers
        damaged[offset + 100] ^= 1
    header = bytearray(vhd)
    header[512 + 20] ^= 1
    made: list[tuple[int, str, str, bytes]] = [
        (1, "empty", "empty.vhdx", b""),
        (1, "empty", "empty.raw", b""),
        (14, "cut.vhdx", "cut.vhdx", vhdx[: len(vhdx) // 2]),
        (14, "short.vhdx", "short.vhdx", vhdx[:100]),
        (14, "headers.vhdx", "headers.vhdx", bytes(damaged)),
        (14, "cut.vhd", "cut.vhd", vhd[: len(vhd) // 2]),
        (1, "cut-fixed.vhd", "cut-fixed.vhd", fixed[:-700]),  # nothing left that shows a VHD
        (14, "header.vhd", "header.vhd", bytes(header)),
        (1, "qcow", "image.qcow2", b"QFI\xfb" + bytes(1020)),
        (1, "VMDK", "image", b"KDMV" + bytes(1020)),
        (1, "configuration", "vm.vmcx", bytes(512)),
        (1, "change tracking", "disk.vhdx.rct", bytes(512)),
        (1, "512", "odd.raw", b"x" * 1000),
        (1, "VHDX", "disguised.raw", vhdx),
    ]  # fmt: skip
    for _, _, name, content in made:
        (folder / name).write_bytes(content)
    return [(code, says, folder / name) for code, says, name, _ in made]


@pytest.mark.qemu
def test_files_that_are_no_good_disks_are_named(
    vmkeep: Vmkeep, source_disks: SourceDisks, tmp_path: Path
) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    for code, says, path in foreign(folder, source_disks):
        result = vmkeep("backup", f"disk:{path}")
        assert result.code == code, (path.name, result)
        assert says in result.err and len(result.err.splitlines()) == 2, (path.name, result.err)
    # One bad disk in a folder: no point of the others either.
    shutil.copy(source_disks.folder / "system.vhdx", folder)
    for path in folder.iterdir():
        if path.name not in ("system.vhdx", "cut.vhdx"):
            path.unlink()
    vmkeep.fails(14, "backup", f"folder:{folder}", says="cut.vhdx")
    assert vmkeep.points() == []


def test_sources_that_are_not_there_or_hold_no_disk(vmkeep: Vmkeep, tmp_path: Path) -> None:
    (tmp_path / "vm").mkdir()
    (tmp_path / "vm" / "notes.txt").write_text("no disk")
    (tmp_path / "dangling.raw").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.raw")
    cases = [
        ("does not exist", "disk:nowhere.vhdx"),
        ("does not exist", "folder:nowhere"),
        ("no virtual disk", "folder:vm"),
        ("is a folder", "disk:vm"),
        ("is a file", "folder:vm/notes.txt"),
        ("does not exist", "disk:dangling.raw"),
        ("regular file", "disk:pipe.raw"),
        ("regular file", "disk:/dev/null"),
    ]
    for says, source in cases:
        vmkeep.fails(1, "backup", source, says=says)
    assert vmkeep.points() == []


def as_ordinary_user() -> None:
    """Give up root's right to read and write what its mode forbids (capabilities(7))."""
    if os.geteuid() == 0:
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            LIBC.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP: gone with the next exec


def test_files_and_folders_that_must_not_be_read(vmkeep: Vmkeep, tmp_path: Path) -> None:
    source = tmp_path / "vm"
    source.mkdir()
    (source / "a.raw").write_bytes(bytes(512))
    (source / "b.raw").write_bytes(bytes(512))
    (source / "b.raw").chmod(0)
    for address in (f"folder:{source}", f"disk:{source / 'b.raw'}"):
        refused = vmkeep.fails(1, "backup", address, says="b.raw", before_exec=as_ordinary_user)
        assert "permission denied" in refused.err
    source.chmod(0)
    for address in (f"folder:{source}", f"disk:{source / 'a.raw'}"):
        vmkeep.fails(1, "backup", address, says="permission denied", before_exec=as_ordinary_user)
    source.chmod(0o700)
    assert vmkeep.points() == []


def test_a_repository_without_the_right_to_write_or_read(vmkeep: Vmkeep, disk: Path) -> None:
    place = vmkeep.repo
    vmkeep.backup(f"disk:{disk}")
    before = files_below(place)
    folders = [place, *(p for p in place.rglob("*") if p.is_dir())]
    for folder in folders:
        folder.chmod(0o500)
    refused = vmkeep.fails(
        1, "backup", f"disk:{disk}", says="permission denied", before_exec=as_ordinary_user
    )
    assert "right to write" in refused.err
    assert len(vmkeep("points", "--json", before_exec=as_ordinary_user).json) == 1
    for folder in reversed(folders):
        folder.chmod(0)
    refused = vmkeep.fails(1, "points", says="permission denied", before_exec=as_ordinary_user)
    assert "right" in refused.err
    for folder in folders:
        folder.chmod(0o700)
    assert files_below(place) == before


def test_a_restore_without_the_right_to_write(vmkeep: Vmkeep, kept: str, tmp_path: Path) -> None:
    target = tmp_path / "back"
    target.mkdir(mode=0o500)
    for to in (target, target / "below", target / "disk.vhdx"):
        vmkeep.fails(1, "restore", kept, "--to", to, says="permission denied", before_exec=as_ordinary_user)
    assert list(target.iterdir()) == []


def test_a_read_only_store_can_be_read(vmkeep: Vmkeep, kept: str, disk: Path, read_only: Vmkeep) -> None:
    assert read_only.restore_raw(kept) == disk.read_bytes()
    assert [p["id"] for p in read_only.points()] == [kept]
    read_only.check_all()
    disk.write_bytes(b"new" + disk.read_bytes()[3:])
    refused = read_only.fails(1, "backup", f"disk:{disk}", says="read-only")
    assert "writ" in refused.err
    assert [p["id"] for p in vmkeep.points()] == [kept]


@pytest.fixture
def read_only(vmkeep: Vmkeep, kept: str, tmp_path: Path) -> Iterator[Vmkeep]:
    """The same repository, mounted read-only elsewhere."""
    place = tmp_path / "mounted"
    place.mkdir()
    mount = subprocess.run(["mount", "--bind", vmkeep.repo, place], capture_output=True, check=False)
    if mount.returncode:
        pytest.skip("no right to mount")
    try:
        run("mount", "-o", "remount,bind,ro", place)
        yield Vmkeep(tmp_path, place, state=vmkeep.state)
    finally:
        run("umount", place)


def test_a_repository_inside_its_source_is_refused(vmkeep: Vmkeep, disk: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    for source in (tmp_path, vmkeep.repo, tmp_path / "link", tmp_path / "repo" / ".."):
        vmkeep.fails(1, "backup", f"folder:{source}", says="inside")
    assert vmkeep.points() == []


# -- a disk that moves --


def write_until(stop: threading.Event, path: Path) -> None:
    with path.open("r+b") as file:
        while not stop.is_set():
            file.seek(3 * MIB)
            file.write(os.urandom(512))
            file.flush()
            time.sleep(0.005)


def test_a_disk_that_is_written_while_it_is_read_makes_no_point(
    vmkeep: Vmkeep, kept: str, disk: Path
) -> None:
    stop = threading.Event()
    writer = threading.Thread(target=write_until, args=(stop, disk))
    writer.start()
    try:
        refused = vmkeep.fails(1, "backup", f"disk:{disk}", says="disk.raw")
    finally:
        stop.set()
        writer.join()
    assert "while it was" in refused.err
    assert [p["id"] for p in vmkeep.points()] == [kept]
    again = vmkeep.backup(f"disk:{disk}")
    assert vmkeep.restore_raw(again["id"]) == disk.read_bytes()
    vmkeep.check_all()


# -- targets --


def limited(size: int) -> Callable[[], None]:
    def limit() -> None:
        # Python ignores SIGXFSZ: a write over the limit fails with EFBIG.
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for two MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount")
    try:
        yield place
    finally:
        run("umount", place)


def test_a_repository_that_fills_up_keeps_what_it_has(
    vmkeep: Vmkeep, disk: Path, small_disk: Path, tmp_path: Path, seed: int
) -> None:
    program = Vmkeep(tmp_path, small_disk / "repo")
    shutil.copytree(vmkeep.repo, program.repo)
    small = tmp_path / "small.raw"
    small.write_bytes(random.Random(seed).randbytes(MIB // 2))
    first = program.backup(f"disk:{small}")
    refused = program.fails(1, "backup", f"disk:{disk}", says="no space left")
    assert "Free space" in refused.err
    assert [p["id"] for p in program.points()] == [first["id"]]
    assert program.restore_raw(first["id"]) == small.read_bytes()
    assert [name for name in files_below(program.repo) if name.startswith("tmp/")] == []
    program.backup(f"disk:{small}")  # what was left unfinished does not fill the place for ever
    program.check_all()


def test_a_restore_into_a_full_place_leaves_nothing(
    vmkeep: Vmkeep, kept: str, disk: Path, small_disk: Path
) -> None:
    for format in ("raw", "vhdx", "vhd"):
        refused = vmkeep.fails(1, "restore", kept, "--to", small_disk / "vm", "--format", format, says="full")
        assert "space" in refused.err.lower()
        assert files_below(small_disk) == {}
    vmkeep.fails(1, "restore", kept, "--to", small_disk / "disk.vhdx", says="full")
    assert files_below(small_disk) == {}


def test_a_file_size_limit_is_a_plain_error(vmkeep: Vmkeep, kept: str, disk: Path, tmp_path: Path) -> None:
    disk.write_bytes(disk.read_bytes()[::-1])
    vmkeep.fails(1, "backup", f"disk:{disk}", before_exec=limited(MIB))
    vmkeep.fails(1, "restore", kept, "--to", tmp_path / "back", before_exec=limited(MIB))
    assert files_below(tmp_path / "back") == {}
    assert [p["id"] for p in vmkeep.points()] == [kept]


def test_existing_targets_are_never_overwritten(vmkeep: Vmkeep, kept: str, tmp_path: Path) -> None:
    target = tmp_path / "back"
    target.mkdir()
    (target / "disk.raw").write_bytes(b"precious")
    vmkeep.fails(1, "restore", kept, "--to", target, says="exists")
    vmkeep.fails(1, "restore", kept, "--to", target / "disk.raw", says="exists")
    (target / "link.raw").symlink_to(tmp_path / "elsewhere.raw")
    vmkeep.fails(1, "restore", kept, "--to", target / "link.raw", says="exists")
    vmkeep.fails(1, "restore", kept, "--to", tmp_path / "no" / "such" / "disk.raw", says="does not exist")
    (tmp_path / "file").write_text("a file")
    vmkeep.fails(1, "restore", kept, "--to", tmp_path / "file", says="file")
    vmkeep.fails(1, "restore", kept, "--to", tmp_path / "file" / "below", says="file")
    assert (target / "disk.raw").read_bytes() == b"precious"
    assert sorted(files_below(target)) == ["disk.raw"]
    assert not (tmp_path / "elsewhere.raw").exists()


# -- declared changes --


def test_changes_that_cannot_be_meant_are_refused(
    vmkeep: Vmkeep, kept: str, disk: Path, tmp_path: Path
) -> None:
    size = disk.stat().st_size
    cases: list[tuple[str, str]] = [  # tests/unit/backup tries many more
        ("not JSON", "[[0, 1"),
        ("entry 1", "[[0, 1], [1]]"),
        (f"{size}", f"[[{size - 512}, 1024]]"),
        (f"{size}", "[[18446744073709551615, 1]]"),
    ]
    changes = tmp_path / "changes.json"
    for says, text in cases:
        changes.write_text(text)
        vmkeep.fails(1, "backup", f"disk:{disk}", "--changes", changes, "--parent", kept, says=says)
    vmkeep.fails(1, "backup", f"disk:{disk}", "--changes", "none.json", "--parent", kept, says="none.json")
    changes.write_text("[[0, 512]]")
    vmkeep.fails(1, "backup", f"disk:{disk}", "--changes", changes, "--parent", "nobody", says="nobody")
    with disk.open("ab") as file:
        file.write(bytes(512))
    refused = vmkeep.fails(1, "backup", f"disk:{disk}", "--changes", changes, "--parent", kept, says="size")
    assert "--changes" in refused.err
    assert [p["id"] for p in vmkeep.points()] == [kept]


def test_changes_of_another_set_of_disks_are_refused(vmkeep: Vmkeep, disk: Path, tmp_path: Path) -> None:
    folder = tmp_path / "vm"
    folder.mkdir()
    (folder / "one.raw").write_bytes(bytes(4 * MIB))
    (folder / "two.raw").write_bytes(bytes(4 * MIB))
    parent = vmkeep.backup(f"folder:{folder}")["id"]
    changes = tmp_path / "changes.json"
    changes.write_text("[[0, 512]]")
    # One list cannot be meant for both.
    vmkeep.fails(1, "backup", f"folder:{folder}", "--changes", changes, "--parent", parent, says="one disk")
    # disk.raw is none of the two, whatever its size.
    vmkeep.fails(1, "backup", f"disk:{disk}", "--changes", changes, "--parent", parent, says="not in it")


# -- company --


def test_two_runs_of_one_vm_at_once_do_not_mix(vmkeep: Vmkeep, disk: Path) -> None:
    disk.write_bytes(random.Random(4).randbytes(24 * MIB))
    processes = [vmkeep.start("backup", f"disk:{disk}", "--json") for _ in range(2)]
    results = []
    for process in processes:
        out, err = process.communicate(timeout=120)
        results.append(Result(process.returncode, out, err.decode()))
    codes = sorted(result.code for result in results)
    points: Any = vmkeep.points()
    if codes == [0, 11]:
        (busy,) = (result for result in results if result.code == 11)
        assert "under way" in busy.err and json.loads(busy.err)["code"] == 11
        assert len(points) == 1
    else:  # the machine was so slow that one ended before the other began
        assert codes == [0, 0] and [p["parent"] for p in points] == [None, points[0]["id"]]
    vmkeep.backup(f"disk:{disk}")
    vmkeep.check_all()
