"""Open and read VHDX disks: fixed, dynamic and differencing."""

from collections.abc import Iterator
from typing import Final
from uuid import UUID

from vmkeep.formats.disk import Disk, DiskProfile, Finding, Holding, Kind, OwnSpan
from vmkeep.formats.errors import (
    FormatError,
    ParentMismatch,
    TruncatedDisk,
    UnsupportedDisk,
)
from vmkeep.formats.layers import LayeredDisk
from vmkeep.formats.parents import FindParent, ParentReference, parent_missing
from vmkeep.formats.source import Source
from vmkeep.formats.vhdx import layout
from vmkeep.formats.vhdx.blocks import Holder, Span
from vmkeep.formats.vhdx.headers import read_marks
from vmkeep.formats.vhdx.image import ReplayedImage
from vmkeep.formats.vhdx.inspection import inspect
from vmkeep.formats.vhdx.locator import parse_locator
from vmkeep.formats.vhdx.log import LogAllowance
from vmkeep.formats.vhdx.structures import Structures, read_structures
from vmkeep.ranges import ByteRange, intersect, join_sorted

_ZEROS: Final = memoryview(bytes(layout.MIB))
# Scattered sectors shorter than this on average are read together with what lies between them.
_WORTH_A_REQUEST: Final = 32 * layout.KIB


def open_vhdx(
    source: Source, find_parent: FindParent, *, complete: bool = True, allowance: LogAllowance | None = None
) -> "VhdxDisk":
    """Open the VHDX file in ``source``, and through ``find_parent`` the chain behind it.

    The disk owns ``source`` from the return on; after an error the caller
    still does. Raises :class:`~vmkeep.formats.errors.NotADisk` when the file
    is something else, and ``ParentMissing`` unless the chain need not be ``complete``.
    Files opened together share one ``allowance``.
    """
    structures = read_structures(source, allowance)
    if structures.metadata.locator is None:
        return VhdxDisk(structures)
    reference = parse_locator(structures.metadata.locator, source.name)
    parent = find_parent(reference)
    if parent is None:
        if complete:
            raise parent_missing(reference)
        return VhdxDisk(structures, None, reference)
    try:
        return VhdxDisk(structures, _proven_parent(parent, reference, structures), reference)
    except BaseException:
        parent.close()
        raise


def _proven_parent(parent: Disk, reference: ParentReference, child: Structures) -> "VhdxDisk":
    """Return the candidate when it is the parent as it was when the child was made, or raise."""
    file = reference.child
    if not isinstance(parent, VhdxDisk):
        raise UnsupportedDisk(
            f"{file!r} has the parent {parent.name!r}, which is not a VHDX disk.",
            file=file,
            rule="[MS-VHDX] 2.6.2.6.1",
        )
    # A parent gets a new DataWriteGuid before its contents change ([MS-VHDX] 2.2.2).
    if parent.data_write_guid not in reference.identities:
        raise ParentMismatch(
            f"{parent.name!r} is not the parent {file!r} was made from, or was written since.",
            file=file,
            rule="[MS-VHDX] 2.6.2.6.3 parent_linkage",
        )
    if parent.profile.logical_sector != child.metadata.logical_sector:
        raise ParentMismatch(
            f"{parent.name!r} and its child {file!r} have sectors of different size.",
            file=file,
            rule="[MS-VHDX] 2.6.2.4",
        )
    return parent


class VhdxDisk(LayeredDisk):
    """One VHDX file as the guest sees it, its log applied in memory and its parents below it.

    ``data_write_guid`` is what a child must name to be this disk's child.
    """

    def __init__(
        self,
        structures: Structures,
        parent: "VhdxDisk | None" = None,
        reference: ParentReference | None = None,
    ) -> None:
        metadata = structures.metadata
        kind: Kind = "fixed" if metadata.leave_allocated else "dynamic"
        self.profile = DiskProfile(
            format="vhdx",
            kind="differencing" if metadata.has_parent else kind,
            size=metadata.disk_size,
            logical_sector=metadata.logical_sector,
            physical_sector=metadata.physical_sector,
            block_size=metadata.block_size,
            disk_id=metadata.disk_id,
        )
        self.parent = parent
        self.parent_reference = reference
        self.data_write_guid: UUID = structures.header.data_write_guid
        self._structures = structures
        self._table = structures.table
        self._image = structures.image
        self._source = structures.source

    def read_into(self, offset: int, buffer: memoryview) -> None:
        end = offset + len(buffer)
        if offset < 0 or end > self.profile.size:
            raise ValueError(f"[{offset}, {end}) is not inside a disk of {self.profile.size} bytes")
        if offset == end:
            return
        place = self._table.single_place(offset, end)
        if place is not None:
            self._read_file(place, buffer)
            return
        for span in self._table.spans(offset, end):
            part = buffer[span.start - offset : span.end - offset]
            if span.holder is Holder.FILE:
                self._read_file(span.place, part)
            elif span.holder is Holder.NOBODY:
                _fill_zeros(part)
            elif span.holder is Holder.PARENT:
                self._read_parent(span.start, part)
            else:
                self._read_mixed(span, part)

    def _read_file(self, place: int, buffer: memoryview) -> None:
        got = self._image.read_into(place, buffer)
        if got < len(buffer):
            raise TruncatedDisk(
                f"{self.name!r} ended at {place + got} while it was read.", file=self.name, offset=place + got
            )

    def _read_parent(self, start: int, buffer: memoryview) -> None:
        """Fill the buffer from the parent; beyond its end there are zeros, for a child may be larger."""
        parent = self._required_parent()
        within = max(min(len(buffer), parent.profile.size - start), 0)
        if within:
            parent.read_into(start, buffer[:within])
        if within < len(buffer):
            _fill_zeros(buffer[within:])

    def _read_mixed(self, span: Span, buffer: memoryview) -> None:
        runs = list(self._table.sector_runs(span.start, span.end))
        if len(runs) > 2 and len(runs) * _WORTH_A_REQUEST > len(buffer):
            try:
                self._read_together(span, runs, buffer)
                return
            except FormatError:
                # What lies between the sectors needed may be unreadable by right, such as
                # a parent that is cut: only the exact reading below may fail.
                pass
        for low, high, is_here in runs:
            part = buffer[low - span.start : high - span.start]
            if is_here:
                self._read_file(span.place + low - span.start, part)
            else:
                self._read_parent(low, part)

    def _read_together(self, span: Span, runs: list[tuple[int, int, bool]], buffer: memoryview) -> None:
        """Read both layers whole and lay this file's sectors over the parent's."""
        own = bytearray(len(buffer))
        self._read_file(span.place, memoryview(own))
        self._read_parent(span.start, buffer)
        base = span.start
        for low, high, is_here in runs:
            if is_here:
                buffer[low - base : high - base] = own[low - base : high - base]

    def share_out(self, wanted: list[ByteRange]) -> tuple[list[ByteRange], list[ByteRange]]:
        own: list[ByteRange] = []
        below: list[ByteRange] = []
        low = high = shift = 0  # what lies in the file as it does in the disk, not yet looked at
        for holder, part_shift, parts in self._table.walk(wanted):
            if holder is Holder.PARENT:
                below += parts
            elif holder is Holder.FILE:
                for offset, length in parts:
                    if offset != high or part_shift != shift:
                        own += self._file_extents(low, high, shift)
                        low, shift = offset, part_shift
                    high = offset + length
            elif holder is Holder.MIXED:
                for part in parts:
                    here, there = self._table.shares(part.offset, part.end)
                    own += intersect(here, self._file_extents(part.offset, part.end, part_shift))
                    below += there
        own += self._file_extents(low, high, shift)
        return own, below

    def _file_extents(self, start: int, end: int, shift: int) -> Iterator[ByteRange]:
        if start < end:
            for found in self._image.data_ranges(start + shift, end + shift):
                yield ByteRange(found.offset - shift, found.length)

    def _required_parent(self) -> Disk:
        if self.parent is not None:
            return self.parent
        assert self.parent_reference is not None
        raise parent_missing(self.parent_reference)

    def layer_extents(self, start: int = 0, end: int | None = None) -> Iterator[ByteRange]:
        end = self._limit(end)
        if self.parent_reference is None:
            return join_sorted([ByteRange(start, end - start)])
        return join_sorted(self._layer_extents(start, end))

    def _layer_extents(self, start: int, end: int) -> Iterator[ByteRange]:
        for span in self._table.spans(start, end):
            if span.holder is Holder.MIXED:
                for low, high, is_here in self._table.sector_runs(span.start, span.end):
                    if is_here:
                        yield ByteRange(low, high - low)
            elif span.holder is not Holder.PARENT:
                yield ByteRange(span.start, span.end - span.start)

    def own_spans(self, wanted: list[ByteRange]) -> Iterator[OwnSpan]:
        for holder, shift, parts in self._table.walk(wanted):
            for offset, length in parts:
                end = offset + length
                if holder is Holder.FILE:
                    yield from self._held(offset, end, shift)
                elif holder is Holder.MIXED:
                    for low, high, is_here in self._table.sector_runs(offset, end):
                        if is_here:
                            yield from self._held(low, high, shift)
                        else:
                            yield OwnSpan(low, high, "parent")
                else:
                    yield OwnSpan(offset, end, "parent" if holder is Holder.PARENT else "zero")

    def _held(self, start: int, end: int, shift: int) -> Iterator[OwnSpan]:
        """Yield where ``[start, end)`` lies, ``shift`` further in the file: there, or in the log over it."""
        if not isinstance(self._image, ReplayedImage):
            yield OwnSpan(start, end, "data", start + shift)
            return
        for low, high, holding in self._image.holdings(start + shift, end + shift):
            kind: Holding = "zero" if holding == "nothing" else "data"
            yield OwnSpan(low - shift, high - shift, kind, low if holding == "file" else None)

    def _limit(self, end: int | None) -> int:
        return self.profile.size if end is None else min(end, self.profile.size)

    def identity(self) -> tuple[object, ...]:
        below = self.parent.identity() if self.parent is not None else ()
        return ((self._source.identity(), read_marks(self._source)), *below)

    def check(self) -> Iterator[Finding]:
        return inspect(self._structures, self.parent.profile.size if self.parent is not None else None)


def _fill_zeros(buffer: memoryview) -> None:
    size = len(_ZEROS)
    for at in range(0, len(buffer), size):
        part = buffer[at : at + size]
        part[:] = _ZEROS[: len(part)]
