"""A file in the making is never taken for a good one, and leaves nothing when it fails."""

import errno
import itertools
import os
import random
from mmap import mmap
from pathlib import Path

import pytest

from vmkeep.formats.errors import TargetUnwritable
from vmkeep.formats.target import TargetFile

pytestmark = pytest.mark.quick

PAGE = 4096


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


def _write_in_pieces_of_all_kinds(target: TargetFile, seed: int) -> bytes:
    """Write aligned and odd pieces over each other, from memory of both kinds; return what is due."""
    rng = random.Random(seed)
    size = 64 * PAGE
    due = bytearray(size)
    memory = memoryview(mmap(-1, size))
    target.truncate(size)
    for _ in range(120):
        unit = rng.choice([1, PAGE])
        low, high = sorted(rng.randrange(0, size + 1, unit) for _ in range(2))
        memory[:] = rng.randbytes(size)
        source = rng.choice([low, low, 0, min(1, size - high + low)])
        data = memory[source : source + high - low]
        target.write_at(low, data)
        due[low:high] = data
    return bytes(due)


@pytest.mark.parametrize("smallest", [1, 4 * PAGE, 1 << 30])
def test_written_past_the_cache_and_through_it_the_content_is_whole(
    smallest: int, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmkeep.formats.target._DIRECT_BYTES", smallest)
    target = TargetFile(tmp_path / "disk.raw")
    due = _write_in_pieces_of_all_kinds(target, seed)
    target.publish()
    assert (tmp_path / "disk.raw").read_bytes() == due


@pytest.mark.parametrize("refused", ["open", "pwrite"])
def test_where_nothing_is_written_past_the_cache_the_content_is_whole(
    refused: str, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As tmpfs and some FUSE file systems answer, or one that wants larger sectors than a page.
    monkeypatch.setattr("vmkeep.formats.target._DIRECT_BYTES", 1)
    direct = getattr(os, "O_DIRECT", 0)
    real_open, real_pwrite = os.open, os.pwrite
    past_the_cache: set[int] = set()

    def refusing_open(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if refused == "open" and flags & direct:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fd = real_open(path, flags, mode, dir_fd=dir_fd)
        (past_the_cache.add if flags & direct else past_the_cache.discard)(fd)
        return fd

    def refusing_pwrite(fd: int, data: memoryview, offset: int) -> int:
        if refused == "pwrite" and fd in past_the_cache:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real_pwrite(fd, data, offset)

    monkeypatch.setattr(os, "open", refusing_open)
    monkeypatch.setattr(os, "pwrite", refusing_pwrite)
    target = TargetFile(tmp_path / "disk.raw")
    due = _write_in_pieces_of_all_kinds(target, seed)
    target.publish()
    assert (tmp_path / "disk.raw").read_bytes() == due


def test_a_full_disk_is_told_also_past_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmkeep.formats.target._DIRECT_BYTES", 1)

    def full(fd: int, data: memoryview, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = TargetFile(tmp_path / "disk.raw")
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(TargetUnwritable, match="full"):
        target.write_at(0, memoryview(mmap(-1, PAGE)))
    target.abort()
    assert list(tmp_path.iterdir()) == []


def test_abort_after_publish_removes_nothing(tmp_path: Path) -> None:
    target = TargetFile(tmp_path / "disk.raw")
    target.publish()
    target.abort()
    assert (tmp_path / "disk.raw").exists()
