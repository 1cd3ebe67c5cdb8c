"""The structures of a VHDX file, to bytes and back: [MS-VHDX] 2.2, 2.5, 2.6.

All numbers little endian, GUIDs in Microsoft's byte order, checksums CRC-32C
with their own field taken as zero.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import google_crc32c

from vmkeep_lab.disks.errors import DiskCorrupt

KIB: Final = 1 << 10
MIB: Final = 1 << 20
PAGE: Final = 4 * KIB  # the unit of the log, and of every in-place change of metadata

FILE_TYPE: Final = b"vhdxfile"
HEADER_PLACES: Final = (64 * KIB, 128 * KIB)
REGION_TABLE_PLACES: Final = (192 * KIB, 256 * KIB)
HEADER_SECTION: Final = MIB

NO_GUID: Final = UUID(int=0)
BAT_REGION: Final = UUID("2dc27766-f623-4200-9d64-115e9bfd4a08")
METADATA_REGION: Final = UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e")

# BAT entry states of payload blocks, [MS-VHDX] 2.5.1.1
NOT_PRESENT: Final = 0
UNDEFINED: Final = 1
ZERO: Final = 2
UNMAPPED: Final = 3
FULLY_PRESENT: Final = 6
PARTIALLY_PRESENT: Final = 7
BITMAP_PRESENT: Final = 6  # of sector bitmap blocks, 2.5.1.2

_STATE_MASK: Final = 7
_PLACE_MASK: Final = ~0xFFFFF
_HEADER: Final = struct.Struct("<4sIQ16s16s16sHHIQ")
_REGION_HEADER: Final = struct.Struct("<4sIII")
_REGION: Final = struct.Struct("<16sQII")
_MOST_REGIONS: Final = 2047


def crc32c(data: bytes | bytearray) -> int:
    """Return the Castagnoli checksum of some bytes."""
    return int(google_crc32c.value(bytes(data)))


def entry_of(state: int, place: int) -> int:
    """Return the BAT entry of a block in some state at a byte offset of the file."""
    return place | state


def split_entry(entry: int) -> tuple[int, int]:
    """Return state and byte offset of a BAT entry."""
    return entry & _STATE_MASK, entry & _PLACE_MASK


def file_identifier(creator: str) -> bytes:
    """Return the first bytes of a file; the creator is for people only (2.2.1)."""
    return FILE_TYPE + creator.encode("utf-16-le").ljust(512, b"\0")


@dataclass(frozen=True)
class Header:
    """What changes about a file as a whole (2.2.2)."""

    sequence: int
    file_write_guid: UUID
    data_write_guid: UUID
    log_guid: UUID
    log_offset: int
    log_length: int

    def encode(self) -> bytes:
        raw = bytearray(PAGE)
        _HEADER.pack_into(
            raw,
            0,
            b"head",
            0,
            self.sequence,
            self.file_write_guid.bytes_le,
            self.data_write_guid.bytes_le,
            self.log_guid.bytes_le,
            0,
            1,
            self.log_length,
            self.log_offset,
        )
        struct.pack_into("<I", raw, 4, crc32c(raw))
        return bytes(raw)

    @classmethod
    def decode(cls, raw: bytes) -> "Header | None":
        """Return the header, or None where signature or checksum are wrong."""
        if len(raw) != PAGE or raw[:4] != b"head":
            return None
        _, crc, sequence, file_write, data_write, log, log_version, version, length, offset = (
            _HEADER.unpack_from(raw)
        )
        if crc != crc32c(raw[:4] + bytes(4) + raw[8:]):
            return None
        if version != 1 or (log_version != 0 and any(log)):
            raise DiskCorrupt(f"header of version {version}, log version {log_version}")
        guids = [UUID(bytes_le=guid) for guid in (file_write, data_write, log)]
        return cls(sequence, guids[0], guids[1], guids[2], offset, length)


def current_header(copies: "list[Header | None]") -> tuple[int, Header]:
    """Choose the copy that counts, and say which it is (2.2.2: valid, greater sequence number)."""
    valid = [(index, header) for index, header in enumerate(copies) if header is not None]
    if not valid:
        raise DiskCorrupt("neither header is valid")
    if len(valid) == 2 and valid[0][1].sequence == valid[1][1].sequence:
        raise DiskCorrupt(f"both headers have sequence number {valid[0][1].sequence}")
    return max(valid, key=lambda pair: pair[1].sequence)


def encode_region_table(regions: Mapping[UUID, tuple[int, int]]) -> bytes:
    """Return a region table (2.2.3) of required regions: GUID to offset and length."""
    raw = bytearray(64 * KIB)
    _REGION_HEADER.pack_into(raw, 0, b"regi", 0, len(regions), 0)
    for index, (guid, (offset, length)) in enumerate(regions.items()):
        _REGION.pack_into(raw, 16 + 32 * index, guid.bytes_le, offset, length, 1)
    struct.pack_into("<I", raw, 4, crc32c(raw))
    return bytes(raw)


def decode_region_table(raw: bytes) -> "dict[UUID, tuple[int, int]] | None":
    """Return the regions, or None where signature, checksum or count are wrong."""
    if len(raw) != 64 * KIB:
        return None
    signature, crc, count, _ = _REGION_HEADER.unpack_from(raw)
    if signature != b"regi" or count > _MOST_REGIONS or crc != crc32c(raw[:4] + bytes(4) + raw[8:]):
        return None
    regions = {}
    for index in range(count):
        guid, offset, length, required = _REGION.unpack_from(raw, 16 + 32 * index)
        known = UUID(bytes_le=guid)
        if required and known not in {BAT_REGION, METADATA_REGION}:
            raise DiskCorrupt(f"required region {known} is unknown")
        regions[known] = (offset, length)
    return regions


@dataclass(frozen=True)
class Geometry:
    """Where the blocks of a disk stand in its BAT (2.5)."""

    size: int
    block_size: int
    logical_sector: int

    @property
    def chunk_ratio(self) -> int:
        return (1 << 23) * self.logical_sector // self.block_size

    @property
    def blocks(self) -> int:
        return -(-self.size // self.block_size)

    @property
    def chunks(self) -> int:
        return -(-self.blocks // self.chunk_ratio)

    def entries(self, *, differencing: bool) -> int:
        """Return how many BAT entries there are, bitmap entries between them included."""
        if differencing:
            return self.chunks * (self.chunk_ratio + 1)
        return self.blocks + (self.blocks - 1) // self.chunk_ratio

    def payload_index(self, block: int) -> int:
        return block + block // self.chunk_ratio

    def bitmap_index(self, chunk: int) -> int:
        return chunk * (self.chunk_ratio + 1) + self.chunk_ratio

    def block_bytes(self, block: int) -> int:
        """Return how many bytes of the disk a block holds: the last may hold fewer."""
        return min(self.block_size, self.size - block * self.block_size)

    def sectors(self, length: int) -> int:
        return length // self.logical_sector

    def first_bit(self, block: int) -> int:
        """Return where the bits of a block begin in its chunk's sector bitmap."""
        return (block % self.chunk_ratio) * self.sectors(self.block_size)
