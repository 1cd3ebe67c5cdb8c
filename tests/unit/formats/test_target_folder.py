"""What is made in a folder stays in it, whatever somebody else does to names there meanwhile."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vmkeep.formats.errors import TargetUnwritable
from vmkeep.formats.target import TargetFile
from vmkeep.formats.target_folder import Place, TargetFolder

pytestmark = pytest.mark.quick


@pytest.fixture(params=[True, False], ids=["descriptors", "paths"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the way of systems that open nothing relative to a folder."""
    if not request.param:
        monkeypatch.setattr("vmkeep.formats.target_folder._BY_DESCRIPTOR", False)


def finished(place: Path | Place, content: bytes) -> None:
    target = TargetFile(place)
    try:
        target.write_at(0, content)
        target.publish()
    finally:
        target.abort()


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.usefixtures("both_ways")
def test_folders_and_files_are_made_step_by_step_for_their_owner(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with TargetFolder.open(tmp_path) as top, top.below("a", "b", make=True) as below:
            finished(Place(below, "disk.raw"), b"abc")
    finally:
        os.umask(before)
    assert everything(tmp_path) == {"a", "a/b", "a/b/disk.raw"}
    assert (tmp_path / "a/b/disk.raw").read_bytes() == b"abc"
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b", "a/b/disk.raw")]
    assert modes == [0o700, 0o700, 0o600]


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("make", [True, False])
def test_a_link_or_a_file_is_no_folder(tmp_path: Path, make: bool) -> None:
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    target.mkdir()
    (target / "link").symlink_to(outside)
    (target / "file").write_bytes(b"")
    with TargetFolder.open(target) as folder:
        for name in ("link", "file"):
            with pytest.raises(OSError) as refused:
                folder.below(name, "deeper", make=make)
            assert refused.value.filename == str(target / name)
        with pytest.raises(FileNotFoundError):
            folder.below("missing")
    assert everything(outside) == set()


@pytest.mark.usefixtures("both_ways")
def test_the_path_of_the_folder_itself_may_lead_over_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    finished(tmp_path / "link" / "disk.raw", b"abc")
    assert (tmp_path / "real" / "disk.raw").read_bytes() == b"abc"


def test_a_folder_exchanged_for_a_link_leads_nowhere_else(tmp_path: Path) -> None:
    target, moved, outside = (tmp_path / name for name in ("target", "moved", "outside"))
    target.mkdir()
    outside.mkdir()

    def exchange() -> None:
        target.rename(moved)
        target.symlink_to(outside)

    file = TargetFile(target / "one.raw")
    with TargetFolder.open(target) as folder:
        exchange()
        file.write_at(0, b"one")
        file.publish()
        finished(Place(folder, "two.raw"), b"two")
        with folder.below("sub", make=True) as below:
            finished(Place(below, "three.raw"), b"three")
    assert everything(outside) == set()
    assert everything(moved) == {"one.raw", "two.raw", "sub", "sub/three.raw"}


@pytest.mark.parametrize("put", ["link", "file", "nothing"])
def test_an_unfinished_file_that_was_exchanged_is_not_published(tmp_path: Path, put: str) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    target = tmp_path / "target"
    target.mkdir()
    file = TargetFile(target / "disk.raw")
    file.write_at(0, b"abc")
    (partial,) = target.iterdir()
    partial.unlink()
    if put == "link":
        partial.symlink_to(secret)
    elif put == "file":
        partial.write_bytes(b"other")
    with pytest.raises(TargetUnwritable, match="exchanged"):
        file.publish()
    file.abort()
    assert everything(target) == set()
    assert secret.read_bytes() == b"secret" and secret.stat().st_nlink == 1


def test_a_file_exchanged_in_the_last_moment_is_not_called_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def link_and_exchange(source: Any, target: Any, **where: Any) -> None:
        link(source, target, **where)
        (tmp_path / "disk.raw").unlink()
        (tmp_path / "disk.raw").write_bytes(b"other")

    monkeypatch.setattr(os, "link", link_and_exchange)
    file = TargetFile(tmp_path / "disk.raw")
    with pytest.raises(TargetUnwritable, match="exchanged"):
        file.publish()
    file.abort()
    assert everything(tmp_path) == {"disk.raw"}


@pytest.mark.usefixtures("both_ways")
def test_without_hard_links_a_file_is_renamed_and_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    finished(tmp_path / "disk.raw", b"abc")
    file = TargetFile(tmp_path / "late.raw")
    (tmp_path / "late.raw").write_bytes(b"mine")
    with pytest.raises(TargetUnwritable):
        file.publish()
    file.abort()
    assert everything(tmp_path) == {"disk.raw", "late.raw"}
    assert (tmp_path / "disk.raw").read_bytes() == b"abc"
    assert (tmp_path / "late.raw").read_bytes() == b"mine"


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize(
    "plant", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("real"), lambda path: path.symlink_to("no")]
)
def test_only_regular_files_are_opened_and_none_is_replaced(
    tmp_path: Path, plant: Callable[[Path], object]
) -> None:
    (tmp_path / "real").write_bytes(b"abc")
    plant(tmp_path / "disk.raw")
    with TargetFolder.open(tmp_path) as folder:
        assert folder.holds("disk.raw") and not folder.holds("other.raw")
        assert folder.open_file("disk.raw") is None
    with pytest.raises(TargetUnwritable, match="exists already"):
        TargetFile(tmp_path / "disk.raw")


@pytest.mark.usefixtures("both_ways")
def test_what_the_dead_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    dead = tmp_path / ".disk.vhdx.0123abcd.vmkeep-partial"
    spared = [
        ".disk.vhdx.0123ABCD.vmkeep-partial", ".disk.vhdx.0123abc.vmkeep-partial", "disk.vhdx.vmkeep-partial",
        ".disk.vhdx.0123abcd.vmkeep-partial.old", "disk.vhdx", "..0123abcd.vmkeep-partial~",
    ]  # fmt: skip
    for path in (dead, *(tmp_path / name for name in spared)):
        path.write_bytes(b"x")
    (tmp_path / ".link.0123abcd.vmkeep-partial").symlink_to("disk.vhdx")
    (tmp_path / ".folder.0123abcd.vmkeep-partial").mkdir()
    os.mkfifo(tmp_path / ".fifo.0123abcd.vmkeep-partial")
    alive = TargetFile(tmp_path / "alive.raw")
    before = everything(tmp_path)
    with TargetFolder.open(tmp_path) as folder:
        folder.remove_abandoned()
    assert before - everything(tmp_path) == {dead.name}
    alive.publish()
    alive.abort()


def test_a_file_swept_before_it_could_be_locked_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    original = os.open

    def open_and_sweep(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        fd = original(path, flags, *rest, **more)
        if flags & os.O_CREAT:
            opened.append(path)
            if len(opened) == 1:
                with TargetFolder.open(tmp_path) as folder:
                    folder.remove_abandoned()
        return fd

    monkeypatch.setattr(os, "open", open_and_sweep)
    finished(tmp_path / "disk.raw", b"abc")
    assert len(opened) == 2
    assert everything(tmp_path) == {"disk.raw"}
    assert (tmp_path / "disk.raw").read_bytes() == b"abc"


def test_files_of_other_users_are_spared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / ".disk.raw.0123abcd.vmkeep-partial"
    left.write_bytes(b"x")
    monkeypatch.setattr(os, "geteuid", lambda: left.stat().st_uid + 1)
    with TargetFolder.open(tmp_path) as folder:
        folder.remove_abandoned()
    assert left.exists()
