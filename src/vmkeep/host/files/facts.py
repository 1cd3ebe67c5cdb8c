"""What is known of a file on the host, and how an open one is read."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from vmkeep.ranges import ByteRange


class FileIdentity(NamedTuple):
    """Numbers that differ when a file was replaced, resized or written; units are the file system's.

    ``number`` is 0 where the file system has no number for its files. The time of
    creation is not among them: Samba makes one up, which changes when a file is read.
    """

    volume: int
    number: int
    size: int
    written: int
    changed: int  # its record: a name, an access list; of no weight for the bytes

    def is_same_file(self, other: "FileIdentity") -> bool:
        """Tell whether both are one file with the same bytes, as far as numbers can tell."""
        return self[:4] == other[:4]


@dataclass(frozen=True)
class FileFacts:
    """One file or folder, as the host describes it."""

    identity: FileIdentity
    is_folder: bool
    is_sparse: bool

    @property
    def size(self) -> int:
        return self.identity.size


@dataclass(frozen=True)
class FolderEntry:
    """One name in a folder; ``is_link`` is true for every kind of reparse point."""

    name: str
    size: int
    is_folder: bool
    is_link: bool


class HostFile(Protocol):
    """One open file: bytes at any offset, for several threads at once."""

    @property
    def name(self) -> str:
        """The path as the host names it."""

    def size(self) -> int:
        """Return the current size in bytes, asked anew at each call."""

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill ``buffer`` from ``offset`` on; return the bytes read, short only at the end.

        Survives a lost connection if the file is provably the same afterwards.
        Raises :class:`AnotherFile`, HostUnreachable, FileInUse, HostReadFailed.
        """

    def data_ranges(self, start: int, end: int) -> Iterator[ByteRange]:
        """Yield the ranges of ``[start, end)`` that may hold something else than zeros.

        Ascending; a file system that does not know yields the whole range.
        """

    def identity(self) -> tuple[int, ...]:
        """Return the :class:`FileIdentity` of what the *path* leads to now."""

    def close(self) -> None:
        """Release the file; safe to repeat."""


Reader = Callable[[int, int], bytes]
"""``read(offset, length)``: up to ``length`` bytes, fewer only at the end."""

Proof = Callable[[Reader], object]
"""Reads what makes the file unmistakable, for example a VHDX's headers, and returns it.

Asked when the file is opened and after each reconnection; both must be equal.
"""
