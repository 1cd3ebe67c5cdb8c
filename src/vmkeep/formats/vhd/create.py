"""Write VHDs: fixed and dynamic, complete or not there at all."""

import sys
from array import array
from pathlib import Path
from typing import Final
from uuid import uuid4

from vmkeep.clock import Clock, SystemClock
from vmkeep.formats.disk import DiskProfile, DiskWriter
from vmkeep.formats.errors import UnsupportedDisk
from vmkeep.formats.filling import is_zero, nonzero_parts
from vmkeep.formats.raw import FlatWriter, require_inside
from vmkeep.formats.target import TargetFile
from vmkeep.formats.target_folder import Place
from vmkeep.formats.vhd.footer import CODES, EPOCH, MAX_SIZE, NO_OFFSET, SECTOR, Footer, geometry_of
from vmkeep.formats.vhd.header import ABSENT, HEADER_SIZE, DynamicHeader

DEFAULT_BLOCK: Final = 2 << 20
_SMALLEST_BLOCK: Final = 512 << 10
_LARGEST_BLOCK: Final = 256 << 20
_PAGE: Final = 4096  # what host disks and file systems move at once
_TABLE_AT: Final = SECTOR + HEADER_SIZE


def create_vhd(path: Path | Place, profile: DiskProfile, clock: Clock | None = None) -> DiskWriter:
    """Begin a fixed or dynamic VHD of exactly ``profile.size``, with its disk id or a new one.

    Raises :class:`UnsupportedDisk` for what the format cannot hold.
    """
    _require_possible(path, profile)
    now = (clock or SystemClock()).now().timestamp()
    footer = Footer(
        kind_code=CODES[profile.kind],
        current_size=profile.size,
        original_size=profile.size,
        disk_id=profile.disk_id or uuid4(),
        data_offset=NO_OFFSET if profile.kind == "fixed" else SECTOR,
        time_stamp=max(0, int(now) - EPOCH),
        # "win " is the one mark by which every reader takes Current Size and not the geometry,
        # which most sizes do not fit (QEMU block/vpc.c; Hyper-V and Azure write and expect it).
        creator=b"win ",
        geometry=geometry_of(profile.size),
    )
    if profile.kind == "fixed":
        return FlatWriter(TargetFile(path), profile.size, footer.pack())
    return DynamicWriter(TargetFile(path), footer, profile.block_size or DEFAULT_BLOCK)


def is_block_size(size: int) -> bool:
    """Tell whether a VHD with blocks of so many bytes can be written."""
    return _SMALLEST_BLOCK <= size <= _LARGEST_BLOCK and size & (size - 1) == 0


def _require_possible(path: Path | Place, profile: DiskProfile) -> None:
    size, block = profile.size, profile.block_size or DEFAULT_BLOCK
    reason = ""
    if profile.kind == "differencing":
        reason = "a differencing VHD cannot be written yet"
    elif size <= 0 or size % SECTOR:
        reason = f"the size of a VHD must be a multiple of {SECTOR} bytes, not {size}"
    elif size > MAX_SIZE:
        reason = f"a VHD holds at most 2040 GiB (2190433320960 bytes), not {size} bytes"
    elif profile.logical_sector != SECTOR:
        reason = f"a VHD has sectors of {SECTOR} bytes, not {profile.logical_sector}"
    elif not is_block_size(block):
        reason = f"a block size of {block} bytes is not a power of two from 512 KiB to 256 MiB"
    if reason:
        raise UnsupportedDisk(
            f"{str(path)!r} cannot be made: {reason}.",
            file=str(path),
            hint="Write a VHDX or a raw disk instead.",
        )


class DynamicWriter:
    """Writes a dynamic VHD; a block takes space with its first byte that is not zero."""

    def __init__(self, target: TargetFile, footer: Footer, block_size: int) -> None:
        self._target = target
        self._footer = footer
        count = -(-footer.current_size // block_size)
        self._header = DynamicHeader(_TABLE_AT, count, block_size)
        self._table = array("I", [ABSENT]) * count
        bitmap = self._header.bitmap_size
        table_end = _TABLE_AT + -(-count * 4 // SECTOR) * SECTOR
        # Data on page boundaries of the host; packed only where positions would not fit 32 bits.
        gap = -bitmap % _PAGE
        end = table_end + _PAGE + count * (bitmap + block_size + gap)
        self._unit = _PAGE if end // SECTOR < ABSENT else SECTOR
        self._end = table_end
        self._fresh_from = 0  # nothing was written at or behind this offset

    def write_at(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        require_inside(self._footer.current_size, offset, len(data))
        # Zeros are left out where nothing was written; elsewhere they must erase what lies there.
        parts = nonzero_parts(data) if offset >= self._fresh_from else [(0, memoryview(data))]
        for at, part in parts:
            self._write_part(offset + at, part)
        self._fresh_from = max(self._fresh_from, offset + len(data))

    def _write_part(self, offset: int, data: memoryview) -> None:
        block_size = self._header.block_size
        while data:
            block, within = divmod(offset, block_size)
            piece = data[: block_size - within]
            if self._table[block] != ABSENT or not is_zero(piece):
                self._target.write_at(self._data_of(block) + within, piece)
            data, offset = data[len(piece) :], offset + len(piece)

    def _data_of(self, block: int) -> int:
        """Return where the block's bytes lie, giving it a place at the end of the file if it has none."""
        bitmap = self._header.bitmap_size
        if self._table[block] == ABSENT:
            data = -(-(self._end + bitmap) // self._unit) * self._unit
            # All sectors are marked as used: some readers look at no bitmap, and unwritten ones are zeros.
            self._target.write_at(data - bitmap, b"\xff" * bitmap)
            self._table[block] = (data - bitmap) // SECTOR
            self._end = data + self._header.block_size
        return self._table[block] * SECTOR + bitmap

    def finish(self) -> None:
        """Write what makes the file a disk only after the bytes it speaks of: payload, tables, footers."""
        footer = self._footer.pack()
        self._target.flush()
        table = array("I", self._table)
        if sys.byteorder == "little":
            table.byteswap()
        padding = b"\xff" * (-len(table) * 4 % SECTOR)
        self._target.write_at(_TABLE_AT, table.tobytes() + padding)
        self._target.write_at(SECTOR, self._header.pack())
        self._target.flush()
        self._target.write_at(self._end, footer)
        self._target.write_at(0, footer)
        self._target.publish()

    def abort(self) -> None:
        self._target.abort()
