"""Lay out VHD files byte by byte, straight from the format's description.

Knows nothing of vmkeep, so that its reader can be measured against it. Built
from: Virtual Hard Disk Image Format Specification (2006). All numbers big endian.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

FIXED, DYNAMIC, DIFFERENCING = 2, 3, 4
ABSENT = 0xFFFFFFFF


def ones_complement(data: bytes | bytearray) -> int:
    """Checksum: one's complement of the sum of all bytes."""
    total = 0
    for byte in data:
        total += byte
    return 0xFFFFFFFF - (total & 0xFFFFFFFF)


def resum(data: bytearray, start: int, length: int, field_at: int) -> None:
    """Compute a structure's checksum again after a test changed one of its fields."""
    data[start + field_at : start + field_at + 4] = bytes(4)
    value = ones_complement(data[start : start + length])
    data[start + field_at : start + field_at + 4] = value.to_bytes(4, "big")


def footer(
    kind: int,
    size: int,
    disk_id: UUID,
    *,
    data_offset: int | None = None,
    time_stamp: int = 0,
    saved_state: int = 0,
    features: int = 2,
    version: int = 0x00010000,
    creator: bytes = b"vpc ",
) -> bytes:
    out = bytearray(512)
    out[0:8] = b"conectix"
    out[8:12] = features.to_bytes(4, "big")
    out[12:16] = version.to_bytes(4, "big")
    out[16:24] = b"\xff" * 8 if data_offset is None else data_offset.to_bytes(8, "big")
    out[24:28] = time_stamp.to_bytes(4, "big")
    out[28:32] = creator
    out[32:36] = (0x00050003).to_bytes(4, "big")
    out[36:40] = b"Wi2k"
    out[40:48] = size.to_bytes(8, "big")
    out[48:56] = size.to_bytes(8, "big")
    # A geometry that contradicts the size: nobody may believe it.
    out[56:58] = (3).to_bytes(2, "big")
    out[58] = 4
    out[59] = 17
    out[60:64] = kind.to_bytes(4, "big")
    out[68:84] = disk_id.bytes
    out[84] = saved_state
    resum(out, 0, 512, 64)
    return bytes(out)


def fixed(data: bytes, disk_id: UUID, **fields: int) -> bytes:
    """Return a fixed disk that holds ``data``."""
    return data + footer(FIXED, len(data), disk_id, **fields)  # type: ignore[arg-type]


@dataclass
class Block:
    """One stored block: a bit and 512 bytes for each sector.

    Payload under a 0 bit is stored like any other; a right reader never shows it.
    """

    bits: Sequence[bool]
    payload: bytes

    def bitmap(self) -> bytes:
        """Bit 7 of the first byte is the first sector; padded to whole sectors."""
        out = bytearray(-(-len(self.bits) // 8))
        for sector, bit in enumerate(self.bits):
            if bit:
                out[sector // 8] |= 0x80 >> (sector % 8)
        return bytes(out).ljust(-(-len(out) // 512) * 512, b"\0")


@dataclass
class Sparse:
    """A dynamic or differencing VHD to be laid out.

    ``blocks`` are stored in the order of the mapping, whatever their numbers.
    ``locators`` are (code, text as bytes, data space) and lie behind the table.
    """

    size: int
    block_size: int
    blocks: Mapping[int, Block]
    disk_id: UUID
    kind: int = DYNAMIC
    parent_id: UUID = field(default_factory=lambda: UUID(int=0))
    parent_time: int = 0
    parent_name: str = ""
    locators: Sequence[tuple[bytes, bytes, int]] = ()
    time_stamp: int = 0
    spare_entries: int = 0
    gap: int = 0  # bytes left free in front of every block
    saved_state: int = 0
    features: int = 2

    def __post_init__(self) -> None:
        self.places: dict[int, int] = {}
        self.header_at = 512
        self.table_at = 1536

    def footer(self) -> bytes:
        return footer(
            self.kind, self.size, self.disk_id, data_offset=self.header_at, time_stamp=self.time_stamp,
            saved_state=self.saved_state, features=self.features,
        )  # fmt: skip

    def header(self, entries: int, locators: bytes) -> bytes:
        out = bytearray(1024)
        out[0:8] = b"cxsparse"
        out[8:16] = b"\xff" * 8
        out[16:24] = self.table_at.to_bytes(8, "big")
        out[24:28] = (0x00010000).to_bytes(4, "big")
        out[28:32] = entries.to_bytes(4, "big")
        out[32:36] = self.block_size.to_bytes(4, "big")
        out[40:56] = self.parent_id.bytes
        out[56:60] = self.parent_time.to_bytes(4, "big")
        name = self.parent_name.encode("utf-16-be")
        out[64 : 64 + len(name)] = name
        out[576 : 576 + len(locators)] = locators
        resum(out, 0, 1024, 36)
        return bytes(out)

    def build(self) -> bytearray:
        """Return the file; afterwards ``places`` tells where each block's bitmap is."""
        entries = -(-self.size // self.block_size) + self.spare_entries
        table = [ABSENT] * entries
        at = self.table_at + -(-entries * 4 // 512) * 512
        locators, texts = b"", []
        for code, text, space in self.locators:
            locators += (
                code
                + space.to_bytes(4, "big")
                + len(text).to_bytes(4, "big")
                + bytes(4)
                + at.to_bytes(8, "big")
            )
            texts.append((at, text))
            at += -(-len(text) // 512) * 512
        out = bytearray(at)
        for place, text in texts:
            out[place : place + len(text)] = text
        for number, block in self.blocks.items():
            out += b"\xee" * self.gap
            self.places[number] = len(out)
            table[number] = len(out) // 512
            out += block.bitmap() + block.payload
        out[0:512] = self.footer()
        out[512:1536] = self.header(entries, locators)
        raw = b"".join(entry.to_bytes(4, "big") for entry in table)
        out[self.table_at : self.table_at + len(raw)] = raw
        return out + self.footer()


def full_block(payload: bytes) -> Block:
    """Return a block whose sectors are all here."""
    return Block([True] * (len(payload) // 512), payload)


def apply(below: bytes, layer: Sparse) -> bytes:
    """Return what the guest sees of ``layer`` over the bytes ``below``: sector by sector, plainly."""
    seen = bytearray(below[: layer.size].ljust(layer.size, b"\0"))
    for number, block in layer.blocks.items():
        for sector, bit in enumerate(block.bits):
            at = number * layer.block_size + sector * 512
            if bit and at < layer.size:
                seen[at : at + 512] = block.payload[sector * 512 : sector * 512 + 512]
    return bytes(seen)
