"""Write an object's bytes under a name nobody looks at, and clean up what dead writers left."""

import os
import stat
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from vmkeep.objectstore.files import CREATE_FLAGS
from vmkeep.objectstore.store import ObjectData

ABANDONED_AFTER: Final = timedelta(days=1)


class TemporaryFile:
    """A new file with a random name, readable by its owner only, removed unless kept elsewhere.

    Its methods raise OSError; the store knows what that means.
    """

    def __init__(self, folder: str) -> None:
        self.path = f"{folder}/{os.urandom(16).hex()}"
        self._fd = os.open(self.path, CREATE_FLAGS, 0o600)
        # Held until finished: tells a sweep, also one on another machine of a shared mount,
        # that the writer lives.
        _lock(self._fd)

    def write(self, data: ObjectData) -> None:
        """Append all of ``data``."""
        rest = memoryview(data).cast("B")
        while rest:
            rest = rest[os.write(self._fd, rest) :]

    def finish(self) -> None:
        """Close the file; its bytes survive a power cut on return."""
        os.fsync(self._fd)
        fd, self._fd = self._fd, -1
        os.close(fd)  # network file systems report a failed write only here

    def remove(self) -> None:
        """Close the file and take the random name away; safe to repeat.

        Best effort: a name that stays behind is invisible and swept a day later.
        """
        fd, self._fd = self._fd, -1
        try:
            if fd >= 0:
                os.close(fd)
        except OSError:
            pass  # the bytes are being thrown away, or were flushed and closed by finish()
        try:
            Path(self.path).unlink()
        except OSError:
            pass  # renamed to its final name (Windows), swept, or left for the sweep


def sweep_folder(folder: str, now: datetime) -> int:
    """Remove the files in ``folder`` not written to for a day and not held by a live writer."""
    removed = 0
    try:
        scan = os.scandir(folder)
    except FileNotFoundError:
        return 0
    with scan:
        for entry in scan:
            try:
                found = entry.stat(follow_symlinks=False)
                written = datetime.fromtimestamp(found.st_mtime, UTC)
                if (
                    not stat.S_ISREG(found.st_mode)
                    or now - written <= ABANDONED_AFTER
                    or _is_held(entry.path)
                ):
                    continue
                Path(entry.path).unlink()
                removed += 1
            except FileNotFoundError:  # finished or swept by somebody else meanwhile
                continue
            except PermissionError:
                if sys.platform != "win32":
                    raise
                continue  # its writer lives
    return removed


if sys.platform == "win32":

    def _lock(fd: int) -> None:
        """Do nothing: an open file cannot be deleted there."""

    def _is_held(path: str) -> bool:
        return False

else:
    import fcntl

    def _lock(fd: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pass  # no locks on this file system: age alone protects the file

    def _is_held(path: str) -> bool:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False  # no locks on this file system: age alone decides
        finally:
            os.close(fd)
        return False
