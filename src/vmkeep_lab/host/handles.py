"""Find out who has a file open, the way a Windows host notices a sharing violation."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol


class Handles(Protocol):
    """Tells which other processes have one of some files open."""

    def holders(self, files: Iterable[Path]) -> list[str]:
        """Return one line for each open handle: the process id and the file; empty where nobody has any."""


class ProcessHandles:
    """Looks through /proc: readers of a plain path and Samba's servers show up there alike.

    The lab's own handles do not count. Where there is no /proc, nobody is ever seen.
    """

    def holders(self, files: Iterable[Path]) -> list[str]:
        """See ``Handles``."""
        wanted = {(found.st_dev, found.st_ino) for each in files if (found := _look(each))}
        own = str(os.getpid())
        processes = [each for each in _entries("/proc") if each.isdigit() and each != own]
        return [line for process in processes for line in _open_files(process, wanted)]


def _open_files(process: str, wanted: set[tuple[int, int]]) -> list[str]:
    folder = f"/proc/{process}/fd"
    lines = []
    for each in _entries(folder):
        found = _look(Path(folder, each))
        if found and (found.st_dev, found.st_ino) in wanted:
            lines.append(f"{process} {_target(f'{folder}/{each}')}")
    return lines


def _entries(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []  # the process has ended, or is another user's


def _look(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None  # closed meanwhile


def _target(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return "?"
