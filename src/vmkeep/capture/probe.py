"""Write down, on this machine, what a probe is about to change on a host, so that the next one takes it away.

A probe has no repository. Its journal is a file of the state folder,
``probes/HOST/RUN.jsonl``, one JSON line ``[step, detail]`` for each record, and
is removed when nothing of the probe is left on the host. One probe of a host at
a time: it has ``probes/HOST/lock``, which the system takes back when a process
dies. So whoever has the lock knows that every journal in the folder is a dead probe's.
"""

import errno
import json
import os
import re
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from vmkeep.capture.errors import ProbeUnderWay, ProbeUnnoted
from vmkeep.clock import Clock

BEGUN: Final = "probe"  # the first record: what was to be probed, and where
_JOURNAL: Final = re.compile(r"([0-9a-f]{32})\.jsonl")
_PLAIN: Final = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789_-")
_LARGEST: Final = 1 << 20
_FLAGS: Final = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
# Somebody who only looks has the lock for a moment, too.
_TRIES: Final = 10
_PAUSE_S: Final = 0.1

Records = tuple[tuple[str, Mapping[str, Any]], ...]


@dataclass(frozen=True)
class DeadProbe:
    """A probe that did not come to its end: its id and the records of its journal, in order."""

    file: Path
    run: str
    records: Records

    @property
    def origin(self) -> Mapping[str, Any]:
        """What the probe said of itself and its host at first; empty if it died before."""
        return self.records[0][1] if self.records and self.records[0][0] == BEGUN else {}

    @contextmanager
    def continued(self) -> Iterator["FileJournal"]:
        """Write behind what the probe wrote, for whoever cleans up after it. Raises ProbeUnnoted."""
        journal = FileJournal.behind(self.file)
        try:
            yield journal
        finally:
            journal.close()

    def forget(self) -> None:
        """Remove the journal: nothing of the probe is left on the host. Raises ProbeUnnoted."""
        with _noting(self.file):
            self.file.unlink(missing_ok=True)
            _sync_folder(self.file.parent)


class ProbeNotes:
    """The journals of this machine's probes of one host, and the lock that lets one probe work at a time."""

    def __init__(self, state: Path, host: str, clock: Clock) -> None:
        self.folder = state / "probes" / _file_name(host)
        self._clock = clock

    def left_over(self) -> int:
        """Count the journals of dead probes; 0 while a probe is under way. Raises ProbeUnnoted."""
        if not self._journals():
            return 0
        try:
            with self._locked(tries=1):
                return len(self._journals())
        except ProbeUnderWay:
            return 0

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only probe of this host while the block runs. Raises ProbeUnderWay and ProbeUnnoted."""
        with _noting(self.folder):
            for folder in (self.folder.parent.parent, self.folder.parent, self.folder):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked(_TRIES):
            yield

    def dead_probes(self) -> Iterator[DeadProbe]:
        """Read what probes left that died; to be asked by who is :meth:`alone`. Raises ProbeUnnoted."""
        for file in self._journals():
            yield DeadProbe(file, file.stem, _read(file))

    def begin(self, **origin: Any) -> "FileJournal":
        """Open the journal of a new probe, whose first record is ``origin``. Raises ProbeUnnoted."""
        journal = FileJournal.make(self.folder)
        journal.step(BEGUN, origin)
        return journal

    def _journals(self) -> list[Path]:
        try:
            return sorted(file for file in self.folder.iterdir() if _JOURNAL.fullmatch(file.name))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unnoted(self.folder, error) from error

    @contextmanager
    def _locked(self, tries: int) -> Iterator[None]:
        file = self.folder / "lock"
        with _noting(file):
            fd = os.open(file, os.O_RDWR | os.O_CREAT | _FLAGS, 0o600)
        try:
            for attempt in range(tries):
                if attempt:
                    self._clock.sleep(_PAUSE_S)
                with _noting(file):
                    if _lock(fd):
                        break
            else:
                raise ProbeUnderWay("another process of this machine probes this host just now.")
            yield
        finally:
            os.close(fd)


class FileJournal:
    """The journal of one probe, in a file; :class:`vmkeep.capture.states.Journal`."""

    def __init__(self, file: Path, fd: int) -> None:
        self._file = file
        self._fd = fd
        self.steps: list[str] = []

    @classmethod
    def make(cls, folder: Path) -> Self:
        """Make the file of a new probe. Raises ProbeUnnoted."""
        file = folder / f"{secrets.token_hex(16)}.jsonl"
        with _noting(file):
            fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | _FLAGS, 0o600)
            try:
                _sync_folder(folder)
            except BaseException:
                os.close(fd)
                raise
        return cls(file, fd)

    @classmethod
    def behind(cls, file: Path) -> Self:
        """Open the file of a dead probe; half a line at its end, which announces nothing, is cut off."""
        with _noting(file):
            fd = os.open(file, os.O_RDWR | os.O_APPEND | _FLAGS)
            try:
                with open(fd, "rb", closefd=False) as opened:
                    content = opened.read(_LARGEST)
                os.ftruncate(fd, content.rfind(b"\n") + 1)
            except BaseException:
                os.close(fd)
                raise
        return cls(file, fd)

    @property
    def run(self) -> str:
        """The id of the probe."""
        return self._file.stem

    def step(self, name: str, detail: Mapping[str, Any], /) -> None:
        """Store a step durably, or not at all. Raises ProbeUnnoted."""
        line = json.dumps([name, dict(detail)]).encode("ascii") + b"\n"
        with _noting(self._file):
            before = os.fstat(self._fd).st_size
            try:
                written = 0
                while written < len(line):
                    written += os.write(self._fd, line[written:])
                os.fsync(self._fd)
            except OSError:
                os.ftruncate(self._fd, before)  # what follows must not stand behind half a line
                raise
        self.steps.append(name)

    def renew(self) -> None:
        """Do nothing: as long as the probe lives it has the lock."""

    def finish(self) -> None:
        """Remove the file: nothing of the probe is left on the host. Raises ProbeUnnoted."""
        self.close()
        DeadProbe(self._file, self.run, ()).forget()

    def close(self) -> None:
        """Close the file and leave it to the next probe."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _read(file: Path) -> Records:
    """Read a journal; a line without an end was being written when its probe died, and announces nothing."""
    with _noting(file), open(os.open(file, os.O_RDONLY | _FLAGS), "rb") as opened:
        content = opened.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise ProbeUnnoted(f"the journal {str(file)!r} is larger than {_LARGEST} bytes.")
    try:
        return tuple(_record(line) for line in content.split(b"\n")[:-1])
    except (ValueError, RecursionError) as error:
        raise ProbeUnnoted(
            f"the journal {str(file)!r} is damaged.",
            hint="Look for recovery checkpoints of the host that are called as the file, remove them in "
            "Hyper-V, then remove the file.",
        ) from error


def _record(line: bytes) -> tuple[str, Mapping[str, Any]]:
    match json.loads(line):
        case [str(name), dict(detail)]:
            return name, detail
    raise ValueError("not a record")


def _file_name(host: str) -> str:
    """Return a name for a folder, another one for every host, that no file system takes for anything else."""
    letters = (chr(byte) if byte in _PLAIN else f"%{byte:02x}" for byte in host.encode("utf-8"))
    return f"host-{''.join(letters)}"


@contextmanager
def _noting(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _unnoted(file, error) from error


def _unnoted(file: Path, error: OSError) -> ProbeUnnoted:
    reason = (error.strerror or str(error)).lower()
    return ProbeUnnoted(f"cannot read or write {str(file)!r}: {reason}.")


if sys.platform == "win32":
    import msvcrt

    def _lock(fd: int) -> bool:
        """Tell whether the file is locked by us now; False when somebody else has it."""
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True

    def _sync_folder(folder: Path) -> None:
        """Do nothing: folders cannot be flushed there."""

else:
    import fcntl

    def _lock(fd: int) -> bool:
        """Tell whether the file is locked by us now; False when somebody else has it."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _sync_folder(folder: Path) -> None:
        """Make the names in a folder survive a power cut, where its file system can."""
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
                raise
        finally:
            os.close(fd)
