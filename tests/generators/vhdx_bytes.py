"""Write VHDX files byte by byte, straight from the specification: the witness for the reader.

Knows nothing of vmkeep. Structures can be built wrong on purpose: every part is
a plain function of bytes, and :class:`Made` says where each part lies, so that a
test can damage or replace it. Section numbers are those of [MS-VHDX].
"""

import random
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import google_crc32c

KIB = 1024
MIB = 1024 * 1024
GIB = 1024 * MIB
TIB = 1024 * GIB

NOT_PRESENT, UNDEFINED, ZERO, UNMAPPED, FULL, PARTIAL = 0, 1, 2, 3, 6, 7

BAT_GUID = "2DC27766-F623-4200-9D64-115E9BFD4A08"
METADATA_GUID = "8B7CA206-4790-4B9A-B8FE-575F050F886E"
FILE_PARAMETERS = "CAA16737-FA36-4D43-B3B6-33F0AA44E76B"
DISK_SIZE = "2FA54224-CD1B-4876-B211-5DBED83BF4B8"
DISK_ID = "BECA12AB-B2E6-4523-93EF-C309E000C746"
LOGICAL_SECTOR = "8141BF1D-A96F-4709-BA47-F233A8FAAB5F"
PHYSICAL_SECTOR = "CDA348C7-445D-4471-9CC9-E9885251C556"
PARENT_LOCATOR = "A8D35F2D-B30B-454D-ABF7-D3D84834AB0C"
LOCATOR_TYPE = "B04AEFB7-D19E-4A81-B789-25B8E9445913"

USER, VIRTUAL_DISK, REQUIRED = 1, 2, 4
Write = tuple[str, int, bytes] | tuple[str, int, int]

NO_LOG = UUID(int=0)
FILE_GUID, DISK_GUID, DATA_GUID = UUID(int=0xF11E), UUID(int=0xD15C), UUID(int=0xDA7A)
LOG_GUID = UUID("0b5e55ed-1111-4222-8333-444455556666")


def raw_guid(guid: UUID | str) -> bytes:
    """Mixed-endian: the first three fields are little endian (section 2.1)."""
    value = UUID(str(guid))
    return struct.pack("<IHH", *value.fields[:3]) + value.bytes[8:]


def crc_at_4(data: bytes) -> bytes:
    """Fill the checksum at offset 4: CRC-32C over the whole with that field zero."""
    blank = data[:4] + bytes(4) + data[8:]
    return data[:4] + struct.pack("<I", google_crc32c.value(blank)) + data[8:]


def header(
    sequence: int,
    *,
    data_write: UUID,
    file_write: UUID = FILE_GUID,
    log_guid: UUID = NO_LOG,
    log_offset: int = MIB,
    log_length: int = MIB,
    log_version: int = 0,
    version: int = 1,
) -> bytes:
    """Section 2.2.2, 4 KiB."""
    out = b"head" + bytes(4) + struct.pack("<Q", sequence)
    out += raw_guid(file_write) + raw_guid(data_write) + raw_guid(log_guid)
    out += struct.pack("<HHIQ", log_version, version, log_length, log_offset)
    return crc_at_4(out.ljust(4096, b"\0"))


def region_table(regions: Sequence[tuple[str, int, int, int]], count: int | None = None) -> bytes:
    """Section 2.2.3, 64 KiB; regions are (guid, offset, length, required)."""
    out = b"regi" + bytes(4) + struct.pack("<II", len(regions) if count is None else count, 0)
    for guid, offset, length, required in regions:
        out += raw_guid(guid) + struct.pack("<QII", offset, length, required)
    return crc_at_4(out.ljust(65536, b"\0"))


def metadata_table(entries: Sequence[tuple[str, int, int, int]], count: int | None = None) -> bytes:
    """Section 2.6.1, 64 KiB; entries are (item guid, offset, length, flags)."""
    out = b"metadata" + struct.pack("<HH", 0, len(entries) if count is None else count) + bytes(20)
    for guid, offset, length, flags in entries:
        out += raw_guid(guid) + struct.pack("<IIII", offset, length, flags, 0)
    return out.ljust(65536, b"\0")


def metadata_region(items: Sequence[tuple[str, int, bytes]], gap: int = 24) -> bytes:
    """Table and items, with a gap between items, for any alignment is allowed."""
    entries, body = [], b""
    for guid, flags, content in items:
        entries.append((guid, 65536 + len(body) if content else 0, len(content), flags))
        body += content + bytes(gap)
    return metadata_table(entries) + body


def standard_items(
    *, disk_size: int, block_size: int, sector: int, physical: int, disk_id: UUID, bits: int
) -> list[tuple[str, int, bytes]]:
    """The five items every disk has (section 2.6.2)."""
    return [
        (FILE_PARAMETERS, REQUIRED, struct.pack("<II", block_size, bits)),
        (DISK_SIZE, VIRTUAL_DISK | REQUIRED, struct.pack("<Q", disk_size)),
        (DISK_ID, VIRTUAL_DISK | REQUIRED, raw_guid(disk_id)),
        (LOGICAL_SECTOR, VIRTUAL_DISK | REQUIRED, struct.pack("<I", sector)),
        (PHYSICAL_SECTOR, VIRTUAL_DISK | REQUIRED, struct.pack("<I", physical)),
    ]


def parent_locator(pairs: Sequence[tuple[str, str]], kind: str = LOCATOR_TYPE) -> bytes:
    """Section 2.6.2.6."""
    texts = b""
    entries = b""
    start = 20 + 12 * len(pairs)
    for key, value in pairs:
        raw_key, raw_value = key.encode("utf-16-le"), value.encode("utf-16-le")
        key_at = start + len(texts)
        texts += raw_key + raw_value
        entries += struct.pack("<IIHH", key_at, key_at + len(raw_key), len(raw_key), len(raw_value))
    return raw_guid(kind) + struct.pack("<HH", 0, len(pairs)) + entries + texts


def data_write(offset: int, page: bytes) -> tuple[str, int, bytes]:
    """A logged write of one 4 KiB page."""
    assert len(page) == 4096
    return ("data", offset, page)


def zero_write(offset: int, length: int) -> tuple[str, int, int]:
    """A logged write of zeros."""
    return ("zero", offset, length)


def log_entry(
    sequence: int,
    tail: int,
    writes: Sequence[Write],
    *,
    flushed: int = MIB,
    last: int = MIB,
    guid: UUID = LOG_GUID,
    count: int | None = None,
    padding: int = 0,
) -> bytes:
    """Section 2.3.1: header, descriptors, data sectors."""
    descriptors, sectors = b"", b""
    for kind, offset, what in writes:
        if kind == "zero":
            assert isinstance(what, int)
            descriptors += b"zero" + bytes(4) + struct.pack("<QQQ", what, offset, sequence)
        else:
            assert isinstance(what, bytes)
            descriptors += b"desc" + what[-4:] + what[:8] + struct.pack("<QQ", offset, sequence)
            sectors += b"data" + struct.pack("<I", sequence >> 32) + what[8:-4]
            sectors += struct.pack("<I", sequence & 0xFFFFFFFF)
    front = 64 + len(descriptors)
    front_padded = -(-front // 4096) * 4096
    length = front_padded + len(sectors) + padding
    out = b"loge" + bytes(4) + struct.pack("<IIQ", length, tail, sequence)
    out += struct.pack("<II", len(writes) if count is None else count, 0) + raw_guid(guid)
    out += struct.pack("<QQ", flushed, last) + descriptors
    return crc_at_4(out.ljust(front_padded, b"\0") + sectors + bytes(padding))


def ring_of(entries: Mapping[int, bytes], length: int = MIB) -> bytearray:
    """Lay entries into a ring at these offsets; what runs over the end goes on at the start."""
    ring = bytearray(length)
    for offset, entry in entries.items():
        for at in range(0, len(entry), 4096):
            place = (offset + at) % length
            ring[place : place + 4096] = entry[at : at + 4096]
    return ring


def chunk_ratio(block_size: int, sector: int) -> int:
    """Section 2.5: payload blocks between two bitmap entries."""
    return (1 << 23) * sector // block_size


@dataclass(frozen=True)
class Block:
    """One payload block: state, its bytes in the file, and for PARTIAL which sectors are here.

    ``stale`` gives a block without contents a file offset nevertheless.
    """

    state: int
    data: bytes = b""
    here: frozenset[int] = frozenset()
    stale: bool = False


@dataclass
class Made:
    """A finished file and where its parts are."""

    data: bytearray
    bat: int
    bat_length: int
    metadata: int
    log: int
    ratio: int
    places: dict[int, int] = field(default_factory=dict)
    bitmap_places: dict[int, int] = field(default_factory=dict)
    regions: list[tuple[str, int, int, int]] = field(default_factory=list)

    def entry_at(self, block: int) -> int:
        """File offset of the table entry of a payload block."""
        return self.bat + 8 * (block + block // self.ratio)

    def bitmap_entry_at(self, chunk: int) -> int:
        """File offset of the table entry of a chunk's bitmap."""
        return self.bat + 8 * (chunk * (self.ratio + 1) + self.ratio)

    def set_u64(self, offset: int, value: int) -> None:
        self.data[offset : offset + 8] = struct.pack("<Q", value)

    def put(self, offset: int, content: bytes) -> None:
        """Overwrite, growing the file when needed."""
        if len(self.data) < offset + len(content):
            self.data.extend(bytes(offset + len(content) - len(self.data)))
        self.data[offset : offset + len(content)] = content

    def page(self, offset: int) -> bytes:
        """Return the 4 KiB page around an offset."""
        start = offset // 4096 * 4096
        return bytes(self.data[start : start + 4096])


def make_vhdx(
    *,
    disk_size: int,
    block_size: int = MIB,
    sector: int = 512,
    physical: int = 4096,
    blocks: Mapping[int, Block] | None = None,
    has_parent: bool = False,
    leave_allocated: bool = False,
    locator: Sequence[tuple[str, str]] | None = None,
    extra_items: Sequence[tuple[str, int, bytes]] = (),
    items: Sequence[tuple[str, int, bytes]] | None = None,
    disk_id: UUID = DISK_GUID,
    write_guid: UUID = DATA_GUID,
    log_guid: UUID = NO_LOG,
    log_ring: bytes | None = None,
    seed: int = 0,
    gaps: bool = True,
) -> Made:
    """Build a whole file: blocks in an order the seed decides, some behind gaps, regions behind the log."""
    blocks = dict(blocks or {})
    ratio = chunk_ratio(block_size, sector)
    payload = -(-disk_size // block_size)
    chunks = -(-payload // ratio)
    entries = chunks * (ratio + 1) if has_parent else payload + (payload - 1) // ratio
    bat_length = max(-(-entries * 8 // MIB), 1) * MIB
    ring = bytes(MIB) if log_ring is None else log_ring
    log, metadata = MIB, MIB + len(ring)
    bat = metadata + MIB
    made = Made(bytearray(bat + bat_length), bat, bat_length, metadata, log, ratio)

    made.put(0, b"vhdxfile" + "witness".encode("utf-16-le"))
    for slot, sequence in ((64 * KIB, 5), (128 * KIB, 6)):
        made.put(
            slot,
            header(sequence, data_write=write_guid, log_guid=log_guid, log_offset=log, log_length=len(ring)),
        )
    made.put(log, ring)
    made.regions = [(BAT_GUID, bat, bat_length, 1), (METADATA_GUID, metadata, MIB, 1)]
    for slot in (192 * KIB, 256 * KIB):
        made.put(slot, region_table(made.regions))

    if items is None:
        bits = (1 if leave_allocated else 0) | (2 if has_parent else 0)
        items = standard_items(
            disk_size=disk_size,
            block_size=block_size,
            sector=sector,
            physical=physical,
            disk_id=disk_id,
            bits=bits,
        )
        if locator is not None:
            items = [*items, (PARENT_LOCATOR, REQUIRED, parent_locator(locator))]
    made.put(metadata, metadata_region([*items, *extra_items]))
    _place_blocks(made, blocks, block_size, sector, seed if gaps else None)
    return made


def _place_blocks(
    made: Made, blocks: Mapping[int, Block], block_size: int, sector: int, seed: int | None
) -> None:
    """Lay blocks and bitmaps behind everything else, shuffled; with a seed, some behind gaps."""
    partial_chunks = {n // made.ratio for n, block in blocks.items() if block.state == PARTIAL}
    order: list[tuple[str, int]] = [("bitmap", chunk) for chunk in sorted(partial_chunks)]
    order += [("block", n) for n in sorted(blocks) if blocks[n].data or blocks[n].stale]
    rng = random.Random(seed or 0)
    rng.shuffle(order)
    end = -(-len(made.data) // MIB) * MIB
    for kind, number in order:
        end += MIB * (seed is not None and rng.randrange(4) == 0)
        if kind == "bitmap":
            made.bitmap_places[number] = end
            made.put(end, _bitmap(blocks, number, made.ratio, block_size // sector))
            made.set_u64(made.bitmap_entry_at(number), end | 6)
            end += MIB
        else:
            made.places[number] = end
            made.put(end, blocks[number].data.ljust(block_size, b"\xee"))
            end += block_size
    for n, block in blocks.items():
        made.set_u64(made.entry_at(n), made.places.get(n, 0) | block.state)


def _bitmap(blocks: Mapping[int, Block], chunk: int, ratio: int, sectors_per_block: int) -> bytes:
    """Section 2.4: 1 MiB, bit i of the chunk is bit i % 8 of byte i // 8, least significant first."""
    bits = bytearray(MIB)
    for n, block in blocks.items():
        if n // ratio == chunk and block.state == PARTIAL:
            base = n % ratio * sectors_per_block
            for s in block.here:
                bits[(base + s) // 8] |= 1 << (base + s) % 8
        elif n // ratio == chunk:
            # Bits of blocks in other states have no meaning: fill them with nonsense.
            base = n % ratio * sectors_per_block // 8
            bits[base : base + sectors_per_block // 8] = b"\xa5" * (sectors_per_block // 8)
    return bytes(bits)
