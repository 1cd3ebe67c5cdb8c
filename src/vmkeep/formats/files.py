"""Say which files may be opened as the layers of a chain, and how their machine names files.

A chain is followed by names that stand in disk files, which are untrusted text.
So nothing is ever opened by such a name: it only chooses among the allowed files.
"""

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from vmkeep.formats.errors import SourceUnreadable
from vmkeep.formats.source import FileSource, Source


class Files(Protocol):
    """Files of one machine, under the names that machine gives them."""

    @property
    def names(self) -> Sequence[str]:
        """The only files that may be opened as somebody's parent."""

    def open(self, name: str) -> Source:
        """Open a file for reading; the caller closes it."""

    def base(self, name: str) -> str:
        """Return the last part of a name."""

    def place(self, path: str, child: str | None = None) -> str:
        """Return where a path leads, as ``child`` writes it where one is given; equal for equal places."""

    def one_file(self, name: str) -> str:
        """Return what is equal for all names of one file, as far as links can be told."""


class LocalFiles:
    """Files of this machine."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.names: Sequence[str] = tuple(str(path) for path in paths)

    def open(self, name: str) -> Source:
        # Opening a pipe would wait for ever, and a device reports no size.
        if not _may_be_regular(name):
            raise SourceUnreadable(f"{name!r} is not a regular file.", file=name, hint="Give a disk file.")
        return FileSource(name)

    def base(self, name: str) -> str:
        return Path(name).name

    def place(self, path: str, child: str | None = None) -> str:
        if child is None:
            return os.path.abspath(path)
        folder = os.path.dirname(os.path.abspath(child))
        return os.path.normpath(os.path.join(folder, path.replace("\\", "/")))

    def one_file(self, name: str) -> str:
        return os.path.realpath(name)


def _may_be_regular(name: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(name).st_mode)
    except OSError:  # opening it will say what is wrong
        return True
