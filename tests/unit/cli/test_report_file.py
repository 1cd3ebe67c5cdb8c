"""A report is whole or not there, and takes the place of nothing but an earlier report."""

import errno
import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from vmkeep.cli.host_report import report_of
from vmkeep.cli.report_file import put_report, require_place
from vmkeep.errors import UsageError, VmkeepError

pytestmark = pytest.mark.quick

FIRST_LINE = "# A Hyper-V host, as vmkeep sees it"  # of every report that was ever written
NOW = datetime(2026, 3, 29, tzinfo=UTC)
REPORT = report_of([], "sum", NOW)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "report.md"


def test_a_new_report_holds_its_text_and_is_as_readable_as_the_user_makes_files(place: Path) -> None:
    before = os.umask(0o027)
    try:
        require_place(place)
        assert list(place.parent.iterdir()) == []
        put_report(place, REPORT)
    finally:
        os.umask(before)
    assert place.read_bytes() == REPORT.encode()
    assert stat.S_IMODE(place.stat().st_mode) == 0o640
    assert list(place.parent.iterdir()) == [place]


@pytest.mark.parametrize("earlier", [f"{FIRST_LINE}\n\nvmkeep 0.0.1\n", f"{FIRST_LINE}\r\n\r\nv\r\n", ""])
def test_an_earlier_report_makes_room(place: Path, earlier: str) -> None:
    place.write_bytes(earlier.encode())
    require_place(place)
    assert place.read_bytes() == earlier.encode()
    put_report(place, REPORT)
    assert place.read_bytes() == REPORT.encode()
    assert REPORT.startswith(f"{FIRST_LINE}\n")


@pytest.mark.parametrize("there", ["precious", f"\n{REPORT}", f"{FIRST_LINE}!\n", FIRST_LINE[:-1]])
def test_another_file_stays_as_it_is(place: Path, there: str) -> None:
    place.write_text(there)
    with pytest.raises(UsageError, match="is no report"):
        require_place(place)
    with pytest.raises(UsageError, match="is no report"):
        put_report(place, REPORT)
    assert place.read_text() == there
    assert list(place.parent.iterdir()) == [place]


def test_what_is_no_file_is_not_even_opened(place: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(place)
    place.write_text(REPORT)
    for name in ("fifo", "link", "", ".."):
        with pytest.raises(UsageError, match="is no report"):
            require_place(tmp_path / name)
    assert place.read_text() == REPORT


def test_what_came_there_meanwhile_stays(place: Path) -> None:
    require_place(place)
    place.write_text("precious")
    with pytest.raises(UsageError):
        put_report(place, REPORT)
    assert place.read_text() == "precious"


def test_a_report_that_cannot_be_flushed_leaves_the_earlier_one(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    put_report(place, REPORT)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(VmkeepError, match="no space left on device"):
        put_report(place, REPORT.replace("sum", "another"))
    assert place.read_text() == REPORT
    assert list(place.parent.iterdir()) == [place]
