"""A file in the making is never taken for a good one, and leaves nothing when it fails."""

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


def test_abort_after_publish_removes_nothing(tmp_path: Path) -> None:
    target = TargetFile(tmp_path / "disk.raw")
    target.publish()
    target.abort()
    assert (tmp_path / "disk.raw").exists()
