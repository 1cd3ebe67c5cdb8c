"""Read VHDs: fixed, dynamic, and differencing over a parent."""

import hashlib
from collections.abc import Iterator
from typing import Final

from vmkeep.formats.disk import Disk, DiskProfile, Finding, Holding, Kind, OwnSpan
from vmkeep.formats.errors import FormatError, ParentMismatch, TruncatedDisk
from vmkeep.formats.filling import fill_from, fill_with_zeros
from vmkeep.formats.layers import LayeredDisk, Remaining
from vmkeep.formats.parents import FindParent, ParentReference, parent_missing
from vmkeep.formats.raw import FlatDisk, require_inside
from vmkeep.formats.source import Source, read_at
from vmkeep.formats.vhd.blocks import BlockMap, Present
from vmkeep.formats.vhd.findings import examine_fixed, examine_sparse
from vmkeep.formats.vhd.footer import SECTOR, Footers, guests_copy, read_footers, require_readable
from vmkeep.formats.vhd.header import HEADER_SIZE, DynamicHeader, parent_locators, read_header
from vmkeep.ranges import ByteRange, intersect, join_sorted

# More runs than this inside one block: two reads and copying beat reading each run.
_SCATTERED: Final = 8


def open_vhd(source: Source, find_parent: FindParent, *, complete: bool = True) -> Disk:
    """Open a VHD; the disk then owns ``source``, which stays the caller's when this raises.

    Raises :class:`ParentMissing` or :class:`ParentMismatch` for a differencing
    disk whose parent is not found (unless the chain need not be ``complete``) or has another Unique Id, other
    ``FormatError`` for what is damaged or not supported.
    """
    footers = read_footers(source)
    footer = footers.footer
    kind = require_readable(footer, source.name, footers.chosen.offset)
    if kind == "fixed":
        return FixedVhd(source, footers)
    header = read_header(source, footers)
    if kind == "dynamic":
        return SparseVhd(source, footers, header, None, None)
    locators = parent_locators(source, header)
    paths = tuple(dict.fromkeys(text for _, text in locators))
    reference = ParentReference(source.name, paths, (header.parent_id,), "vhd", locators)
    parent = _open_parent(reference, find_parent)
    if parent is None and complete:
        raise parent_missing(reference)
    try:
        return SparseVhd(source, footers, header, parent, reference)
    except BaseException:
        if parent is not None:
            parent.close()
        raise


def _open_parent(reference: ParentReference, find_parent: FindParent) -> Disk | None:
    parent = find_parent(reference)
    if parent is not None and (
        parent.profile.format != "vhd" or parent.profile.disk_id not in reference.identities
    ):
        found = parent.name
        parent.close()
        raise ParentMismatch(
            f"{found!r} has the name of the parent of {reference.child!r} but is another disk.",
            file=reference.child,
            rule="VHD dynamic header: Parent Unique Id",
        )
    return parent


class Vhd(Disk):
    """What all VHDs have: a file with a footer."""

    def __init__(self, source: Source, footers: Footers, kind: Kind, block_size: int | None = None) -> None:
        footer = footers.footer
        self._source = source
        self._footers = footers
        self.time_stamp = footer.time_stamp
        self.profile = DiskProfile(
            "vhd", kind, footer.current_size, block_size=block_size, disk_id=footer.disk_id
        )

    def _footer_digest(self) -> str:
        """Hash anew the footer at the end and what stands at offset 0."""
        end = read_at(self._source, max(0, self._source.size() - SECTOR), SECTOR)
        return hashlib.sha256(end + read_at(self._source, 0, SECTOR)).hexdigest()


class FixedVhd(Vhd, FlatDisk):
    """A VHD that is the guest's bytes with a footer behind them."""

    def __init__(self, source: Source, footers: Footers) -> None:
        super().__init__(source, footers, "fixed")
        size, held = footers.footer.current_size, footers.end.offset
        if size > held:
            raise TruncatedDisk(
                f"{source.name!r} holds {held} bytes of a disk of {size}.",
                file=source.name, offset=held, rule="VHD footer: Current Size",
            )  # fmt: skip

    def identity(self) -> tuple[object, ...]:
        return ((self._source.identity(), self._footer_digest()),)

    def check(self) -> Iterator[Finding]:
        return examine_fixed(self._source, self._footers)


class SparseVhd(Vhd, LayeredDisk):
    """A dynamic VHD, or a differencing one over its parent.

    ``header`` is judged already; ``parent`` is open and proven to be the right
    one. Blocks are found on demand, so memory stays small whatever the file claims.
    """

    def __init__(
        self,
        source: Source,
        footers: Footers,
        header: DynamicHeader,
        parent: Disk | None,
        reference: ParentReference | None,
    ) -> None:
        kind: Kind = "dynamic" if reference is None else "differencing"
        super().__init__(source, footers, kind, header.block_size)
        self._header = header
        self.parent = parent
        self.parent_reference = reference
        self._blocks = BlockMap(source, footers, header)
        if footers.chosen is footers.start and not self._blocks.ends_like_a_disk():
            raise guests_copy(source.name, footers.end.offset)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        require_inside(self.profile.size, offset, len(buffer))
        end = offset + len(buffer)
        at = offset
        for block in self._blocks.present(offset, end):
            self._read_below(at, buffer[at - offset : block.low - offset])
            self._read_block(block, buffer[block.low - offset : block.high - offset])
            at = block.high
        self._read_below(at, buffer[at - offset :])

    def _read_block(self, block: Present, buffer: memoryview) -> None:
        """Fill ``buffer`` with the part of a block asked for."""
        # A child may hold little of a block, and its bitmap says how little.
        if self.parent_reference is None and self._read_whole(block, buffer):
            return
        runs = list(self._blocks.held(block))
        if len(runs) > _SCATTERED:
            self._read_scattered(block, runs, buffer)
            return
        at = block.low
        for low, high, place in runs:
            self._read_below(at, buffer[at - block.low : low - block.low])
            fill_from(self._source, place, buffer[low - block.low : high - block.low])
            at = high
        self._read_below(at, buffer[at - block.low :])

    def _read_whole(self, block: Present, buffer: memoryview) -> bool:
        """Read a block with its bitmap in one request; tell whether that was worth it, and went well."""
        try:
            stored = self._blocks.read_with_bitmap(block)
        except FormatError:
            # Sectors that the bitmap rules out may be unreadable by right: only the exact reading may fail.
            return False
        if stored is None:
            return False
        at = block.low
        for low, high, place in self._blocks.held(block):
            fill_with_zeros(buffer[at - block.low : low - block.low])
            own = stored[place - block.place : place - block.place + high - low]
            buffer[low - block.low : high - block.low] = own
            at = high
        fill_with_zeros(buffer[at - block.low :])
        return True

    def _read_scattered(self, block: Present, runs: list[tuple[int, int, int]], buffer: memoryview) -> None:
        """Read both layers in one piece each and put them together in memory."""
        self._read_below(block.low, buffer)
        start, _, place = runs[0]
        own = memoryview(bytearray(runs[-1][1] - start))
        fill_from(self._source, place, own)
        for low, high, _ in runs:
            buffer[low - block.low : high - block.low] = own[low - start : high - start]

    def _read_below(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer``, which may be empty, with what this file leaves to its parent or as zeros."""
        self._require_parent(len(buffer))
        # Nothing demands equal sizes of child and parent; beyond its end a parent holds zeros.
        held = 0 if self.parent is None else max(0, min(len(buffer), self.parent.profile.size - offset))
        if self.parent is not None and held:
            self.parent.read_into(offset, buffer[:held])
        fill_with_zeros(buffer[held:])

    def _require_parent(self, length: int) -> None:
        if length > 0 and self.parent is None and self.parent_reference is not None:
            raise parent_missing(self.parent_reference)

    def share_out(self, wanted: list[ByteRange]) -> tuple[list[ByteRange], list[ByteRange]]:
        own: list[ByteRange] = []
        below: list[ByteRange] = []
        rest = Remaining(wanted)
        for number, entry in self._blocks.used(wanted[0].offset, wanted[-1].end):
            below += rest.until(number * self._blocks.block_size)
            parts = rest.until((number + 1) * self._blocks.block_size)
            place = self._blocks.place_alone(number, entry) if parts else 0
            for part in parts:
                block = Present(number, part.offset, part.end, place)
                if self.parent_reference is None:
                    # Sectors that the bitmap rules out are zeros: not worth a request for each block.
                    own += self._data_in_file(block)
                    continue
                here, there = self._blocks.shares(block)
                if here:
                    own += intersect(here, self._data_in_file(block))
                below += there
        below += rest.until(wanted[-1].end)
        return own, list(join_sorted(below)) if self.parent_reference is not None else []

    def _data_in_file(self, block: Present) -> Iterator[ByteRange]:
        shift = self._blocks.shift(block)
        for found in self._source.data_ranges(block.low + shift, block.high + shift):
            yield ByteRange(found.offset - shift, found.length)

    def layer_extents(self, start: int = 0, end: int | None = None) -> Iterator[ByteRange]:
        stop = self.profile.size if end is None else min(end, self.profile.size)
        if self.parent_reference is None:
            return iter([ByteRange(start, stop - start)] if start < stop else [])
        return join_sorted(ByteRange(low, high - low) for low, high, _ in self._blocks.pieces(start, stop))

    def own_spans(self, wanted: list[ByteRange]) -> Iterator[OwnSpan]:
        absent: Holding = "zero" if self.parent_reference is None else "parent"
        rest = Remaining(wanted)
        for number, entry in self._blocks.used(wanted[0].offset, wanted[-1].end):
            for part in rest.until(number * self._blocks.block_size):
                yield OwnSpan(part.offset, part.end, absent)
            parts = rest.until((number + 1) * self._blocks.block_size)
            place = self._blocks.place_alone(number, entry) if parts else 0
            for part in parts:
                block = Present(number, part.offset, part.end, place)
                shift = self._blocks.shift(block)
                for low, high, is_here in self._blocks.sectors(block):
                    yield OwnSpan(low, high, "data", low + shift) if is_here else OwnSpan(low, high, absent)
        for part in rest.until(wanted[-1].end):
            yield OwnSpan(part.offset, part.end, absent)

    def identity(self) -> tuple[object, ...]:
        header = read_at(self._source, self._footers.footer.data_offset, HEADER_SIZE)
        own = (self._source.identity(), self._footer_digest(), hashlib.sha256(header).hexdigest())
        return (own,) + (self.parent.identity() if self.parent is not None else ())

    def check(self) -> Iterator[Finding]:
        parent_time = self.parent.time_stamp if isinstance(self.parent, Vhd) else None
        return examine_sparse(
            self._source, self._footers, self._header, self._blocks, self.parent, parent_time
        )
