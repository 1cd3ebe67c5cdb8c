"""A file in the making is never taken for a good one, and leaves nothing when it fails."""

import errno
import itertools
import os
from pathlib import Path

import pytest

from vmkeep.formats.errors import TargetUnwritable
from vmkeep.formats.target import TargetFile

pytestmark = pytest.mark.quick


def test_the_name_appears_with_the_whole_content(tmp_path: Path) -> None:
    target = TargetFile(tmp_path / "disk.raw")
    target.write_at(3, b"abc")
    assert not (tmp_path / "disk.raw").exists()
    target.truncate(10)
    target.publish()
    assert (tmp_path / "disk.raw").read_bytes() == b"\0\0\0abc\0\0\0\0"
    assert [p.name for p in tmp_path.iterdir()] == ["disk.raw"]
    assert (tmp_path / "disk.raw").stat().st_mode & 0o777 == 0o600


def test_aborted_nothing_is_left(tmp_path: Path) -> None:
    target = TargetFile(tmp_path / "disk.raw")
    target.write_at(0, b"abc")
    target.abort()
    target.abort()
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "disk.raw").write_bytes(b"mine")
    with pytest.raises(TargetUnwritable, match="exists already"):
        TargetFile(tmp_path / "disk.raw")
    (tmp_path / "link.raw").symlink_to(tmp_path / "nowhere")
    with pytest.raises(TargetUnwritable, match="exists already"):
        TargetFile(tmp_path / "link.raw")


def test_a_name_taken_meanwhile_is_not_replaced_and_nothing_else_stays(tmp_path: Path) -> None:
    target = TargetFile(tmp_path / "disk.raw")
    target.write_at(0, b"new")
    (tmp_path / "disk.raw").write_bytes(b"mine")
    with pytest.raises(TargetUnwritable):
        target.publish()
    target.abort()
    assert (tmp_path / "disk.raw").read_bytes() == b"mine"
    assert [p.name for p in tmp_path.iterdir()] == ["disk.raw"]


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_flush_beside_the_writing_that_fails_is_told(
    failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmkeep.formats.target._FLUSHED_BESIDE", 1000)
    calls = itertools.count()

    def fsync(fd: int) -> None:
        if next(calls) == failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    target = TargetFile(tmp_path / "disk.raw")
    with pytest.raises(TargetUnwritable):
        for at in range(0, 5000, 500):
            target.write_at(at, b"x" * 500)
        target.publish()
    target.abort()
    assert list(tmp_path.iterdir()) == []


def test_flushed_beside_the_writing_the_content_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmkeep.formats.target._FLUSHED_BESIDE", 1000)
    target = TargetFile(tmp_path / "disk.raw")
    for at in range(0, 50_000, 500):
        target.write_at(at, bytes([at // 500]) * 500)
    target.publish()
    assert (tmp_path / "disk.raw").read_bytes() == b"".join(bytes([n]) * 500 for n in range(100))
    target.abort()


def test_abort_after_publish_removes_nothing(tmp_path: Path) -> None:
    target = TargetFile(tmp_path / "disk.raw")
    target.publish()
    target.abort()
    assert (tmp_path / "disk.raw").exists()
