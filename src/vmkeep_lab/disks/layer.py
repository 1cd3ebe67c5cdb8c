"""One file of a disk: a base or a differencing layer, read and written as a guest's sectors.

The states of blocks and who may have which: [MS-VHDX] 2.5.1.1 and the table in
vhdx-vhd-spec.md section 5.
"""

import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID

from vmkeep_lab.disks import bits
from vmkeep_lab.disks.errors import DiskCorrupt
from vmkeep_lab.disks.metadata import Metadata, ParentLocator, replace_locator
from vmkeep_lab.disks.space import FreeSpace
from vmkeep_lab.disks.vhdx import (
    BAT_REGION,
    BITMAP_PRESENT,
    FULLY_PRESENT,
    HEADER_SECTION,
    METADATA_REGION,
    MIB,
    NOT_PRESENT,
    PAGE,
    PARTIALLY_PRESENT,
    UNDEFINED,
    UNMAPPED,
    ZERO,
    Geometry,
    entry_of,
    split_entry,
)
from vmkeep_lab.disks.vhdx_file import VhdxFile, derived_guid

ZEROS: Final = -1  # places of a Segment that are none
BELOW: Final = -2

_READS_AS_ZEROS: Final = {UNDEFINED, ZERO, UNMAPPED}
_WITHOUT_PLACE: Final = {NOT_PRESENT, ZERO}  # their offset is reserved
_PIECE: Final = 4 * MIB


class Segment(NamedTuple):
    """A range of the disk, and where in the layer's file it lies: a byte offset, ZEROS or BELOW."""

    offset: int
    length: int
    place: int


class Layer:
    """An open VHDX file of a disk; offsets and lengths in bytes of the disk, whole sectors for changes."""

    def __init__(self, path: Path, *, through_log: bool = True, seed: object = "") -> None:
        self.file = VhdxFile(path, through_log=through_log, seed=seed)
        try:
            self.metadata = Metadata.decode(self._read_region(METADATA_REGION))
            self._geometry = self.metadata.geometry
            self._load_bat()
        except BaseException:
            self.file.abandon()
            raise
        self._bitmaps: dict[int, bytearray] = {}
        self._changed_entries: set[int] = set()  # pages of the BAT
        self._changed_bits: set[tuple[int, int]] = set()  # chunk, page of its bitmap
        self._new_bitmaps: list[tuple[int, int]] = []
        self._freed: list[tuple[int, int]] = []
        self._space = FreeSpace(self._used(), -(-self.file.size // MIB) * MIB)

    @classmethod
    def create(cls, path: Path, metadata: Metadata, *, seed: object) -> None:
        """Write a new file with nothing in it; a fixed one takes its whole (sparse) length."""
        geometry = metadata.geometry
        count = geometry.entries(differencing=metadata.locator is not None)
        bat_length = -(-count * 8 // MIB) * MIB
        end = VhdxFile.end_of_metadata(bat_length)
        bat = b""
        if metadata.is_fixed:
            entries = [0] * count
            for block in range(geometry.blocks):
                place = end + block * geometry.block_size
                entries[geometry.payload_index(block)] = entry_of(FULLY_PRESENT, place)
            bat = struct.pack(f"<{count}Q", *entries)
            end += geometry.blocks * geometry.block_size
        names = (path.name, metadata.disk_id, metadata.locator, seed)
        guids = (derived_guid("file", *names), derived_guid("data", *names))
        VhdxFile.create(path, bytes(metadata.encode()), bat, bat_length, end, guids)

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def size(self) -> int:
        return self.metadata.size

    @property
    def locator(self) -> ParentLocator | None:
        return self.metadata.locator

    @property
    def data_write_guid(self) -> UUID:
        return self.file.header.data_write_guid

    # --- reading -----------------------------------------------------------------------

    def segments(self, offset: int, length: int) -> Iterator[Segment]:
        """Yield what a range consists of, in order, neighbours of one kind joined."""
        current: Segment | None = None
        for piece in self._pieces(offset, length):
            if current is None:
                current = piece
            elif piece.place == current.place + (current.length if current.place >= 0 else 0):
                current = current._replace(length=current.length + piece.length)
            else:
                yield current
                current = piece
        if current is not None:
            yield current

    def read_place(self, place: int, length: int) -> bytes:
        """Return bytes of the file; DiskCorrupt where it ends too early."""
        data = os.pread(self.file.fd, length, place)
        if len(data) != length:
            raise DiskCorrupt(f"a block of {self.path.name} lies beyond the end of the file")
        return data

    def blocks(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Yield (block, first byte in it, bytes) for each block a range touches."""
        size = self._geometry.block_size
        while length > 0:
            block, within = divmod(offset, size)
            count = min(length, size - within)
            yield block, within, count
            offset += count
            length -= count

    def state(self, block: int) -> int:
        """Return the state of a payload block."""
        return self._entry(block)[0]

    def _pieces(self, offset: int, length: int) -> Iterator[Segment]:
        sector = self._geometry.logical_sector
        for block, within, count in self.blocks(offset, length):
            state, place = self._entry(block)
            start = block * self._geometry.block_size + within
            if state == FULLY_PRESENT:
                yield Segment(start, count, place + within)
            elif state in _READS_AS_ZEROS or (state == NOT_PRESENT and self.locator is None):
                yield Segment(start, count, ZEROS)
            elif state == NOT_PRESENT:
                yield Segment(start, count, BELOW)
            elif state == PARTIALLY_PRESENT:
                first = self._geometry.first_bit(block)
                from_sector, stop = within // sector, -(-(within + count) // sector)
                row = self._bitmap(block // self._geometry.chunk_ratio)
                for bit, run, here in bits.runs(row, first + from_sector, stop - from_sector):
                    low = max((bit - first) * sector, within)
                    high = min((bit - first + run) * sector, within + count)
                    where = place + low if here else BELOW
                    yield Segment(block * self._geometry.block_size + low, high - low, where)
            else:
                raise DiskCorrupt(f"block {block} of {self.path.name} is in state {state}")

    # --- changing ----------------------------------------------------------------------

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Store what a guest wrote."""
        self.file.begin(visible=True)
        view = memoryview(data)
        done = 0
        for block, within, count in self.blocks(offset, len(view)):
            self._write_block(block, within, view[done : done + count])
            done += count
        self._commit()

    def zero(self, offset: int, length: int, *, unmap: bool = False) -> None:
        """Make a range read as zeros: whole blocks by their state, parts of blocks by stored zeros."""
        self.file.begin(visible=True)
        for block, within, count in self.blocks(offset, length):
            if self._is_whole(block, within, count):
                self._zero_block(block, UNMAPPED if unmap else ZERO)
            else:
                self._zero_part(block, within, count)
        self._commit()

    def set_locator(self, locator: ParentLocator) -> None:
        """Name another parent, or the same one in another way; no byte of the disk changes."""
        self.file.begin(visible=False)
        place, _ = self.file.region(METADATA_REGION)
        before = self._read_region(METADATA_REGION)
        after = bytearray(before)
        replace_locator(after, locator)
        pages = {
            place + start: bytes(after[start : start + PAGE])
            for start in range(0, len(after), PAGE)
            if after[start : start + PAGE] != before[start : start + PAGE]
        }
        self.file.commit((), pages)
        self.metadata = self.metadata.with_locator(locator)

    def _write_block(self, block: int, within: int, data: memoryview) -> None:
        state, place = self._entry(block)
        if state == FULLY_PRESENT:
            self._put(place + within, data)
        elif state == PARTIALLY_PRESENT:
            self._put(place + within, data)
            self._mark_present(block, within, len(data))
        else:
            whole = self._is_whole(block, within, len(data))
            shines_through = state == NOT_PRESENT and self.locator is not None
            is_zero = False
            if not place:
                place, is_zero = self._take(self._geometry.block_size)
            if not (whole or shines_through or is_zero):
                self._put_zeros(place, self._geometry.block_size)
            self._put(place + within, data)
            if whole or not shines_through:
                self._set_entry(block, FULLY_PRESENT, place)
            else:
                self._need_bitmap(block // self._geometry.chunk_ratio)
                self._clear_bits(block)
                self._set_entry(block, PARTIALLY_PRESENT, place)
                self._mark_present(block, within, len(data))

    def _zero_block(self, block: int, state: int) -> None:
        old, place = self._entry(block)
        if self.metadata.is_fixed and old == FULLY_PRESENT:
            self._put_zeros(place, self._geometry.block_bytes(block))  # a fixed disk's blocks stay
        elif state == UNMAPPED:
            # What was never written needs no trimming; what was keeps its place, as 2.5.1.1 allows.
            if old != NOT_PRESENT or self.locator is not None:
                self._set_entry(block, UNMAPPED, place)
        else:
            if place:
                self._freed.append((place, self._geometry.block_size))
            self._set_entry(block, ZERO, 0)

    def _zero_part(self, block: int, within: int, count: int) -> None:
        state = self.state(block)
        if state in _READS_AS_ZEROS or (state == NOT_PRESENT and self.locator is None):
            return
        for start in range(0, count, _PIECE):
            zeros = bytes(min(_PIECE, count - start))
            self._write_block(block, within + start, memoryview(zeros))

    def _is_whole(self, block: int, within: int, count: int) -> bool:
        return within == 0 and count >= self._geometry.block_bytes(block)

    def _mark_present(self, block: int, within: int, count: int) -> None:
        geometry = self._geometry
        first = geometry.first_bit(block)
        self._set_bits(block, first + geometry.sectors(within), geometry.sectors(count), True)
        row = self._bitmap(block // geometry.chunk_ratio)
        if bits.is_full(row, first, geometry.sectors(geometry.block_bytes(block))):
            self._set_entry(block, FULLY_PRESENT, self._entry(block)[1])

    def _clear_bits(self, block: int) -> None:
        geometry = self._geometry
        self._set_bits(block, geometry.first_bit(block), geometry.sectors(geometry.block_size), False)

    def _set_bits(self, block: int, first: int, count: int, value: bool) -> None:
        chunk = block // self._geometry.chunk_ratio
        bits.set_range(self._bitmap(chunk), first, count, value)
        last_page = (first + count - 1) // 8 // PAGE
        self._changed_bits.update((chunk, page) for page in range(first // 8 // PAGE, last_page + 1))

    # --- the file's own structures -------------------------------------------------------

    def _entry(self, block: int) -> tuple[int, int]:
        return self._entry_at(self._geometry.payload_index(block))

    def _entry_at(self, index: int) -> tuple[int, int]:
        (entry,) = struct.unpack_from("<Q", self._bat, 8 * index)
        state, place = split_entry(entry)
        return state, 0 if state in _WITHOUT_PLACE else place

    def _set_entry(self, block: int, state: int, place: int) -> None:
        self._set_entry_at(self._geometry.payload_index(block), state, place)

    def _set_entry_at(self, index: int, state: int, place: int) -> None:
        struct.pack_into("<Q", self._bat, 8 * index, entry_of(state, place))
        self._changed_entries.add(8 * index // PAGE)

    def _bitmap(self, chunk: int) -> bytearray:
        """Return the sector bitmap of a chunk, which must be there for a block partially present."""
        if chunk not in self._bitmaps:
            state, place = self._entry_at(self._geometry.bitmap_index(chunk))
            if state != BITMAP_PRESENT:
                raise DiskCorrupt(f"chunk {chunk} of {self.path.name} has no sector bitmap")
            self._bitmaps[chunk] = bytearray(self.read_place(place, MIB))
        return self._bitmaps[chunk]

    def _need_bitmap(self, chunk: int) -> None:
        """Give a chunk a sector bitmap of zeros, if it has none yet."""
        index = self._geometry.bitmap_index(chunk)
        if self._entry_at(index)[0] == BITMAP_PRESENT:
            return
        place, is_zero = self._take(MIB)
        self._set_entry_at(index, BITMAP_PRESENT, place)
        self._bitmaps[chunk] = bytearray(MIB)
        if not is_zero:
            self._new_bitmaps.append((place, MIB))

    def _take(self, length: int) -> tuple[int, bool]:
        """Return a free place of the file, which is made long enough, and whether it holds zeros."""
        place, is_zero = self._space.take(length)
        self.file.grow(self._space.end)
        return place, is_zero

    def _commit(self) -> None:
        """Let the file say what was written: bitmaps before the entries that rely on them."""
        pages = {}
        for chunk, page in sorted(self._changed_bits):
            _, place = self._entry_at(self._geometry.bitmap_index(chunk))
            pages[place + PAGE * page] = bytes(self._bitmaps[chunk][PAGE * page : PAGE * (page + 1)])
        for page in sorted(self._changed_entries):
            pages[self._bat_place + PAGE * page] = bytes(self._bat[PAGE * page : PAGE * (page + 1)])
        if pages:
            self.file.commit(self._new_bitmaps, pages)
        self._changed_bits.clear()
        self._changed_entries.clear()
        self._new_bitmaps.clear()
        # Only now: had a freed place been filled earlier, a killed writer would leave two blocks in it.
        for place, length in self._freed:
            self._space.give(place, length)
        self._freed.clear()

    def _put(self, place: int, data: memoryview) -> None:
        os.pwrite(self.file.fd, data, place)

    def _put_zeros(self, place: int, length: int) -> None:
        for start in range(0, length, _PIECE):
            os.pwrite(self.file.fd, bytes(min(_PIECE, length - start)), place + start)

    def _read_region(self, guid: UUID) -> bytes:
        place, length = self.file.region(guid)
        return os.pread(self.file.fd, length, place)

    def _load_bat(self) -> None:
        place, length = self.file.region(BAT_REGION)
        needed = 8 * self._geometry.entries(differencing=self.locator is not None)
        if needed > length:
            raise DiskCorrupt(f"the BAT of {self.path.name} is too short")
        self._bat_place = place
        self._bat = bytearray(os.pread(self.file.fd, -(-needed // PAGE) * PAGE, place))
        if len(self._bat) < needed:
            raise DiskCorrupt(f"{self.path.name} ends inside its BAT")

    def _used(self) -> Iterable[tuple[int, int]]:
        header = self.file.header
        yield 0, HEADER_SECTION
        yield header.log_offset, header.log_length
        yield from self.file.regions.values()
        geometry: Geometry = self._geometry
        bitmaps = {geometry.bitmap_index(chunk) for chunk in range(geometry.chunks)}
        for index in range(geometry.entries(differencing=self.locator is not None)):
            _, place = self._entry_at(index)
            if place:
                yield place, MIB if index in bitmaps else geometry.block_size
