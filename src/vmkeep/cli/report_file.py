"""Put the report on a host into a file: whole or not at all, and over nothing but an earlier report."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vmkeep.cli.host_report import TITLE
from vmkeep.errors import UsageError, VmkeepError


def require_place(path: Path) -> None:
    """See, before the host is asked for anything, that a report can be put there; nothing changes.

    Raises UsageError for what must not be overwritten, and VmkeepError.
    """
    with _told(path):
        _require_no_loss(path)
        unfinished = _beside(path)
        try:
            unfinished.open("xb").close()
        finally:
            unfinished.unlink(missing_ok=True)


def put_report(path: Path, text: str) -> None:
    """Write a report and give it its name when all of it is on the disk. Raises as :func:`require_place`."""
    with _told(path):
        _require_no_loss(path)  # the host was asked meanwhile, which takes its time
        unfinished = _beside(path)
        try:
            with unfinished.open("xb") as file:
                file.write(text.encode("utf-8"))
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)  # it has another name now, unless something went wrong


def _beside(path: Path) -> Path:
    return path.with_name(f".vmkeep-report-{os.urandom(8).hex()}")


def _require_no_loss(path: Path) -> None:
    """Refuse a name under which something lies that is no report: links and folders, too."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISREG(mode):
        with path.open("rb") as file:
            begin = file.readline(len(TITLE.encode()) + 2)
        if begin in (b"", *(TITLE.encode() + end for end in (b"\n", b"\r\n"))):
            return
    raise UsageError(
        f"{str(path)!r} exists and is no report; a report goes into a new file, or over an earlier report.",
        hint="Choose another name.",
    )


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Say which report could not be written, and why."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise VmkeepError(
            f"cannot write the report {str(path)!r}: {reason}.", hint="Choose another place."
        ) from error
