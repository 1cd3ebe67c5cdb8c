"""Write a new VHDX disk, fixed or dynamic, that no reader can take for complete too early."""

import sys
from array import array
from bisect import bisect_left
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

from vmkeep.formats.disk import DiskProfile
from vmkeep.formats.errors import UnsupportedDisk
from vmkeep.formats.filling import is_zero, nonzero_parts
from vmkeep.formats.raw import require_inside
from vmkeep.formats.target import TargetFile
from vmkeep.formats.target_folder import Place
from vmkeep.formats.vhdx import layout
from vmkeep.formats.vhdx.blocks import BlockState
from vmkeep.formats.vhdx.geometry import Geometry
from vmkeep.formats.vhdx.headers import Header, pack_header
from vmkeep.formats.vhdx.metadata import Metadata, pack_metadata
from vmkeep.formats.vhdx.regions import Region, pack_region_table
from vmkeep.ranges import ByteRange

DEFAULT_BLOCK_SIZE: Final = 32 * layout.MIB

_CREATOR: Final = "vmkeep"
# The order Hyper-V uses: log, metadata, block table, blocks.
_LOG: Final = ByteRange(layout.MIB, layout.MIB)
_METADATA: Final = ByteRange(2 * layout.MIB, layout.MIB)
_TABLE_OFFSET: Final = 3 * layout.MIB
# Entries written to the file at once, at least.
_TABLE_PAGE: Final = 1 << 16


def create_vhdx(path: Path | Place, profile: DiskProfile) -> "VhdxWriter":
    """Begin a VHDX file for a disk like ``profile``, which may come from another format.

    Kept: size, sector sizes, disk id, and the block size where VHDX allows it
    (None: 32 MiB). Raises :class:`~vmkeep.formats.errors.UnsupportedDisk` for
    a disk that no VHDX can hold.
    """
    metadata = Metadata(
        block_size=profile.block_size or DEFAULT_BLOCK_SIZE,
        leave_allocated=profile.kind == "fixed",
        has_parent=False,
        disk_size=profile.size,
        disk_id=profile.disk_id or uuid4(),
        logical_sector=profile.logical_sector,
        physical_sector=profile.physical_sector,
    )
    what = _what_no_vhdx_holds(metadata, profile)
    if what is not None:
        raise UnsupportedDisk(
            f"cannot write {str(path)!r}: {what}.",
            file=str(path),
            rule="[MS-VHDX] 2.6.2",
            hint="Choose another format or other disk parameters.",
        )
    return VhdxWriter(TargetFile(path), metadata)


def _what_no_vhdx_holds(metadata: Metadata, profile: DiskProfile) -> str | None:
    if profile.kind == "differencing":
        return "a differencing disk is written by flattening its chain"
    if not 0 < metadata.disk_size <= layout.DISK_SIZE_MAX:
        return f"a VHDX disk holds 1 sector to 64 TiB, not {metadata.disk_size} bytes"
    if (
        metadata.logical_sector not in layout.SECTOR_SIZES
        or metadata.physical_sector not in layout.SECTOR_SIZES
    ):
        return "sectors of a VHDX disk have 512 or 4096 bytes"
    if metadata.disk_size % metadata.logical_sector:
        return f"a size of {metadata.disk_size} bytes is not a whole number of sectors"
    if not layout.is_block_size(metadata.block_size):
        return f"blocks of a VHDX disk have 1 to 256 MiB and a power of two, not {metadata.block_size} bytes"
    return None


class VhdxWriter:
    """A VHDX in the making; see :class:`~vmkeep.formats.disk.DiskWriter`.

    Until :meth:`finish` the file has neither headers nor a block table, besides
    having a temporary name. A child made later must name ``data_write_guid``.
    """

    def __init__(self, target: TargetFile, metadata: Metadata) -> None:
        self.data_write_guid: UUID = uuid4()
        self._target = target
        self._metadata = metadata
        self._geometry = Geometry(metadata.disk_size, metadata.block_size, metadata.logical_sector, False)
        self._table = ByteRange(_TABLE_OFFSET, -(-self._geometry.table_bytes() // layout.MIB) * layout.MIB)
        self._end = self._table.end
        self._places: dict[int, int] = {}
        self._fresh_from = 0  # nothing was written at or behind this offset
        if metadata.leave_allocated:
            # Sparse where the file system can, but every block has its place.
            self._end += self._geometry.payload_count * metadata.block_size
            try:
                target.truncate(self._end)
            except BaseException:
                target.abort()
                raise

    def write_at(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Store guest bytes; a block gets its place in the file with its first byte that is not zero."""
        require_inside(self._metadata.disk_size, offset, len(data))
        # Zeros are left out where nothing was written; elsewhere they must erase what lies there.
        parts = nonzero_parts(data) if offset >= self._fresh_from else [(0, memoryview(data))]
        for at, part in parts:
            self._write_part(offset + at, part)
        self._fresh_from = max(self._fresh_from, offset + len(data))

    def _write_part(self, offset: int, data: memoryview) -> None:
        block_size = self._metadata.block_size
        while data:
            block, within = divmod(offset, block_size)
            piece = data[: block_size - within]
            if self._metadata.leave_allocated or block in self._places or not is_zero(piece):
                self._target.write_at(self._place(block) + within, piece)
            data, offset = data[len(piece) :], offset + len(piece)

    def _place(self, block: int) -> int:
        if self._metadata.leave_allocated:
            return self._table.end + block * self._metadata.block_size
        place = self._places.get(block)
        if place is None:
            place = self._places[block] = self._end
            self._end += self._metadata.block_size
        return place

    def finish(self) -> None:
        """Complete the file: payload, then tables, then headers, each flushed before the next."""
        self._target.truncate(self._end)
        self._target.flush()
        self._write_table()
        self._target.write_at(_METADATA.offset, pack_metadata(self._metadata))
        regions = pack_region_table(
            [
                Region(layout.REGION_BAT, self._table, required=True),
                Region(layout.REGION_METADATA, _METADATA, required=True),
            ]
        )
        for offset in layout.REGION_TABLE_OFFSETS:
            self._target.write_at(offset, regions)
        self._target.flush()
        self._write_headers()
        self._target.flush()
        self._target.publish()

    def _write_headers(self) -> None:
        creator = _CREATOR.encode("utf-16-le")
        self._target.write_at(
            layout.IDENTIFIER_OFFSET, layout.IDENTIFIER.pack(layout.IDENTIFIER_SIGNATURE, creator)
        )
        file_write_guid = uuid4()
        for sequence, offset in enumerate(layout.HEADER_OFFSETS, 1):
            header = Header(
                sequence=sequence,
                file_write_guid=file_write_guid,
                data_write_guid=self.data_write_guid,
                log_guid=layout.NO_GUID,
                log_version=0,
                version=1,
                log=_LOG,
            )
            self._target.write_at(offset, pack_header(header))

    def _write_table(self) -> None:
        geometry = self._geometry
        placed = sorted(self._places)
        page = array("Q")
        at = self._table.offset
        for first in range(0, geometry.payload_count, geometry.chunk_ratio):
            stop = min(first + geometry.chunk_ratio, geometry.payload_count)
            page.extend(self._chunk_entries(first, stop, placed))
            if stop < geometry.payload_count:
                page.append(0)  # the entry of a bitmap, which disks without a parent do not have
            if len(page) >= _TABLE_PAGE or stop == geometry.payload_count:
                if sys.byteorder == "big":
                    page.byteswap()
                self._target.write_at(at, page.tobytes())
                at += len(page) * page.itemsize
                page = array("Q")

    def _chunk_entries(self, first: int, stop: int, placed: list[int]) -> "array[int]":
        """Return the entries of the blocks ``[first, stop)``; ``placed`` are the written ones, ascending."""
        block_size = self._metadata.block_size
        if self._metadata.leave_allocated:
            start = self._place(first) | BlockState.FULLY_PRESENT
            return array("Q", range(start, start + (stop - first) * block_size, block_size))
        # A block that is not present reads as undefined, one that is ZERO reads as zeros.
        entries = array("Q", [BlockState.ZERO]) * (stop - first)
        for block in placed[bisect_left(placed, first) : bisect_left(placed, stop)]:
            entries[block - first] = self._places[block] | BlockState.FULLY_PRESENT
        return entries

    def abort(self) -> None:
        """Remove the unfinished file; safe to repeat, and after ``finish`` a no-op."""
        self._target.abort()
