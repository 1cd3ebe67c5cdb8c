"""What every virtual disk offers, whatever file format holds it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, Self
from uuid import UUID

from vmkeep.formats.source import Source
from vmkeep.ranges import ByteRange

Format = Literal["vhdx", "vhd", "raw"]
Kind = Literal["fixed", "dynamic", "differencing"]
Holding = Literal["data", "zero", "parent"]


@dataclass(frozen=True)
class DiskProfile:
    """What a guest and Hyper-V can tell about a disk besides its bytes.

    Sizes in bytes. ``block_size`` is the allocation unit of the file (None
    where the format has none); ``disk_id`` is the VHDX Virtual Disk ID or the
    VHD Unique Id, None for raw.
    """

    format: Format
    kind: Kind
    size: int
    logical_sector: int = 512
    physical_sector: int = 512
    block_size: int | None = None
    disk_id: UUID | None = None


@dataclass(frozen=True)
class ParentReference:
    """What a child says about its parent, none of it proven.

    ``candidates`` are paths of the machine that made the child, most useful
    first, exactly as written there: only their last parts may be compared with
    the names of allowed files. ``identities`` are the values one of which the
    parent must carry (VHDX: its DataWriteGuid; VHD: its Unique Id).
    ``locators`` is all the child says, by the format's own keys, for people.
    """

    child: str
    candidates: tuple[str, ...]
    identities: tuple[UUID, ...]
    required_format: Format
    locators: tuple[tuple[str, str], ...] = ()

    def base_names(self) -> tuple[str, ...]:
        """Return the last part of each candidate, in order, each once; never empty text or dots."""
        names = (path.replace("/", "\\").rpartition("\\")[2] for path in self.candidates)
        return tuple(dict.fromkeys(name for name in names if name not in ("", ".", "..")))


@dataclass(frozen=True)
class Finding:
    """One thing `disk check` noticed: where, by which rule, and what it means.

    ``offset`` counts bytes into ``file``. An ``error`` means that some read can
    fail or return wrong bytes; a ``warning`` does not.
    """

    severity: Literal["error", "warning"]
    file: str
    offset: int | None
    rule: str
    message: str


class OwnSpan(NamedTuple):
    """What one file says of neighbouring bytes ``[start, end)`` of the disk.

    ``data``: it holds them, from ``place`` on; None when they stand in its log.
    ``zero``: they are zeros. ``parent``: it leaves them to its parent.
    """

    start: int
    end: int
    kind: Holding
    place: int | None = None


class Disk(ABC):
    """A virtual disk opened for reading, seen as the guest sees it: flat bytes.

    Reads may come from several threads at once. The file and its parents are
    never written, not even to replay a log.
    """

    profile: DiskProfile
    parent: "Disk | None" = None
    parent_reference: ParentReference | None = None  # what a differencing disk says about its parent
    _source: Source
    _users = 1

    @property
    def name(self) -> str:
        """The file this disk was opened from, as the user knows it."""
        return self._source.name

    @abstractmethod
    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill all of ``buffer`` with the guest's bytes from ``offset`` on.

        ``[offset, offset + len(buffer))`` lies inside the disk. Raises
        :class:`~vmkeep.formats.errors.FormatError` rather than return a byte
        that is not proven right.
        """

    def read_at(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes; the convenient form of :meth:`read_into`."""
        buffer = bytearray(length)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    @abstractmethod
    def extents(self, start: int = 0, end: int | None = None) -> Iterator[ByteRange]:
        """Yield the ranges of ``[start, end)`` that may hold other bytes than zeros.

        Of the whole chain; ascending, joined, lazily computed. Everything
        outside them reads as zeros.
        """

    @abstractmethod
    def layer_extents(self, start: int = 0, end: int | None = None) -> Iterator[ByteRange]:
        """Yield the ranges whose bytes this file decides, not its parent (zeros included)."""

    @abstractmethod
    def own_spans(self, wanted: list[ByteRange]) -> Iterator[OwnSpan]:
        """Yield what this file says of ``wanted``, a range list inside the disk that is not empty.

        Ascending, lazily computed; covers ``wanted`` exactly, and no more.
        """

    @abstractmethod
    def identity(self) -> tuple[object, ...]:
        """Read anew what changes when somebody writes to a file: one item for each of the chain, child first.

        Two equal answers around a reading show that the files stood still
        (as far as their formats tell).
        """

    @abstractmethod
    def check(self) -> Iterator[Finding]:
        """Examine every structure of this layer (not of its parents) and yield what is wrong."""

    def share(self) -> Self:
        """Return this disk for one more user, such as a second child: open until each has closed it once."""
        self._users += 1
        return self

    def close(self) -> None:
        """Release this file and its parents when nobody else shares them; safe to repeat when unshared."""
        self._users -= 1
        if self._users == 0:
            self._source.close()
            if self.parent is not None:
                self.parent.close()

    def missing_parent(self) -> ParentReference | None:
        """Return what the last file of the chain asks for when its parent is missing, else None.

        A disk opened so can be examined; a read that needs the parent raises
        :class:`~vmkeep.formats.errors.ParentMissing`.
        """
        return self.chain()[-1].parent_reference

    def chain(self) -> list["Disk"]:
        """Return this disk and its parents, child first."""
        layers: list[Disk] = []
        disk: Disk | None = self
        while disk is not None:
            layers.append(disk)
            disk = disk.parent
        return layers

    def __enter__(self) -> "Disk":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class DiskWriter(Protocol):
    """A disk file in the making, under a temporary name until :meth:`finish`.

    The file can not be taken for a good disk before ``finish`` returned. What
    was never written reads as zeros. Calls come from one thread.
    """

    def write_at(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Store guest bytes; any order, any length inside the disk."""

    def finish(self) -> None:
        """Complete all tables, flush to the medium, give the file its name.

        Raises :class:`~vmkeep.formats.errors.TargetUnwritable` when the name was taken meanwhile.
        """

    def abort(self) -> None:
        """Remove the unfinished file; safe to repeat, and after ``finish`` a no-op."""
