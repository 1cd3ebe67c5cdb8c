"""Where things lie in a VHDX file, and how they are written there: structures as data.

All numbers are little endian, GUIDs in Microsoft's byte order, checksums
CRC-32C with their own field taken as zero ([MS-VHDX] 2, 2.1, 2.2).
"""

import struct
from typing import Final
from uuid import UUID

import google_crc32c

KIB: Final = 1 << 10
MIB: Final = 1 << 20
TIB: Final = 1 << 40

# The header section, the only fixed place: [MS-VHDX] 2.2.
IDENTIFIER_OFFSET: Final = 0
HEADER_OFFSETS: Final = (64 * KIB, 128 * KIB)
REGION_TABLE_OFFSETS: Final = (192 * KIB, 256 * KIB)
HEADER_SIZE: Final = 4 * KIB
REGION_TABLE_SIZE: Final = 64 * KIB
HEADER_SECTION_USED: Final = 320 * KIB
HEADER_SECTION_SIZE: Final = MIB

# The text prints some signatures as numbers in reading order and others as
# little-endian integers; as bytes they are all plain.
IDENTIFIER_SIGNATURE: Final = b"vhdxfile"
HEADER_SIGNATURE: Final = b"head"
REGION_SIGNATURE: Final = b"regi"
METADATA_SIGNATURE: Final = b"metadata"
ENTRY_SIGNATURE: Final = b"loge"
DATA_DESCRIPTOR_SIGNATURE: Final = b"desc"
ZERO_DESCRIPTOR_SIGNATURE: Final = b"zero"
DATA_SECTOR_SIGNATURE: Final = b"data"

# 8 signature, 512 creator UTF-16LE: [MS-VHDX] 2.2.1
IDENTIFIER: Final = struct.Struct("<8s512s")
# 0 signature 4, 4 checksum 4, 8 sequence 8, 16 file write GUID, 32 data write GUID, 48 log GUID,
# 64 log version 2, 66 version 2, 68 log length 4, 72 log offset 8, 80 reserved: [MS-VHDX] 2.2.2
HEADER: Final = struct.Struct("<4sIQ16s16s16sHHIQ")
# 0 signature 4, 4 checksum 4, 8 entry count 4, 12 reserved 4: [MS-VHDX] 2.2.3.1
REGION_TABLE: Final = struct.Struct("<4sIII")
# 0 GUID 16, 16 file offset 8, 24 length 4, 28 required 4: [MS-VHDX] 2.2.3.2
REGION_ENTRY: Final = struct.Struct("<16sQII")
REGION_ENTRIES_MAX: Final = 2047

# 0 signature 4, 4 checksum 4, 8 entry length 4, 12 tail 4, 16 sequence 8, 24 descriptors 4,
# 28 reserved 4, 32 log GUID 16, 48 flushed file offset 8, 56 last file offset 8: [MS-VHDX] 2.3.1.1
LOG_ENTRY: Final = struct.Struct("<4sIIIQII16sQQ")
# zero: 0 signature 4, 4 reserved 4, 8 length 8, 16 file offset 8, 24 sequence 8: [MS-VHDX] 2.3.1.2
# data: 0 signature 4, 4 trailing bytes 4, 8 leading bytes 8, then the same: [MS-VHDX] 2.3.1.3
LOG_DESCRIPTOR: Final = struct.Struct("<4s4s8sQQ")
# 0 signature 4, 4 sequence high 4, 8 data 4084, 4092 sequence low 4: [MS-VHDX] 2.3.1.4
LOG_DATA_SECTOR: Final = struct.Struct("<4sI4084sI")
LOG_SECTOR: Final = 4 * KIB

# 0 signature 8, 8 reserved 2, 10 entry count 2, 12 reserved 20: [MS-VHDX] 2.6.1.1
METADATA_TABLE: Final = struct.Struct("<8sHH20x")
# 0 item GUID 16, 16 offset 4, 20 length 4, 24 flags 4, 28 reserved 4: [MS-VHDX] 2.6.1.2
METADATA_ENTRY: Final = struct.Struct("<16sIII4x")
METADATA_TABLE_SIZE: Final = 64 * KIB
METADATA_ENTRIES_MAX: Final = 2047
METADATA_USER_ENTRIES_MAX: Final = 1024
METADATA_ITEM_MAX: Final = MIB

# 0 type GUID 16, 16 reserved 2, 18 count 2: [MS-VHDX] 2.6.2.6.1
LOCATOR: Final = struct.Struct("<16sHH")
# 0 key offset 4, 4 value offset 4, 8 key length 2, 10 value length 2: [MS-VHDX] 2.6.2.6.2
LOCATOR_ENTRY: Final = struct.Struct("<IIHH")

BAT_ENTRY: Final = struct.Struct("<Q")

REGION_BAT: Final = UUID("2dc27766-f623-4200-9d64-115e9bfd4a08")
REGION_METADATA: Final = UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e")

ITEM_FILE_PARAMETERS: Final = UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
ITEM_DISK_SIZE: Final = UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
ITEM_DISK_ID: Final = UUID("beca12ab-b2e6-4523-93ef-c309e000c746")
ITEM_LOGICAL_SECTOR: Final = UUID("8141bf1d-a96f-4709-ba47-f233a8faab5f")
ITEM_PHYSICAL_SECTOR: Final = UUID("cda348c7-445d-4471-9cc9-e9885251c556")
ITEM_PARENT_LOCATOR: Final = UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c")

LOCATOR_TYPE_VHDX: Final = UUID("b04aefb7-d19e-4a81-b789-25b8e9445913")

NO_GUID: Final = UUID(int=0)

SECTOR_SIZES: Final = (512, 4096)
BLOCK_SIZE_MIN: Final = MIB
BLOCK_SIZE_MAX: Final = 256 * MIB
DISK_SIZE_MAX: Final = 64 * TIB
# The largest disk and its tables: a file that claims more is nonsense.
FILE_SIZE_MAX: Final = 66 * TIB

_NO_CHECKSUM: Final = bytes(4)


def checksum(data: bytes) -> int:
    """Return the CRC-32C of a structure whose checksum field is bytes 4 to 7."""
    return crc32c(data[8:], crc32c(data[:4] + _NO_CHECKSUM))


def crc32c(data: bytes, before: int = 0) -> int:
    """Return the CRC-32C of plain bytes, which go on after bytes with the checksum ``before``."""
    crc: int = google_crc32c.extend(before, data)
    return crc


def with_checksum(data: bytes) -> bytes:
    """Return the structure with its checksum filled in."""
    return data[:4] + checksum(data).to_bytes(4, "little") + data[8:]


def guid(raw: bytes) -> UUID:
    """Read a GUID in the byte order of the file."""
    return UUID(bytes_le=raw)


def is_block_size(size: int) -> bool:
    """Tell whether [MS-VHDX] 2.6.2.1 allows this block size."""
    return BLOCK_SIZE_MIN <= size <= BLOCK_SIZE_MAX and size & (size - 1) == 0
