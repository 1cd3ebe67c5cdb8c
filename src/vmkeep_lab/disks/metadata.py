"""The metadata region of a VHDX file, parent locator included: [MS-VHDX] 2.6."""

import struct
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from vmkeep_lab.disks.errors import DiskCorrupt
from vmkeep_lab.disks.vhdx import KIB, MIB, NO_GUID, PAGE, Geometry

FILE_PARAMETERS: Final = UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
VIRTUAL_DISK_SIZE: Final = UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
VIRTUAL_DISK_ID: Final = UUID("beca12ab-b2e6-4523-93ef-c309e000c746")
LOGICAL_SECTOR_SIZE: Final = UUID("8141bf1d-a96f-4709-ba47-f233a8faab5f")
PHYSICAL_SECTOR_SIZE: Final = UUID("cda348c7-445d-4471-9cc9-e9885251c556")
PARENT_LOCATOR: Final = UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c")
LOCATOR_TYPE: Final = UUID("b04aefb7-d19e-4a81-b789-25b8e9445913")

TABLE: Final = 64 * KIB
LOCATOR_PLACE: Final = TABLE + PAGE  # on pages of its own, so that changing it touches few others
_MOST_ITEMS: Final = 2047
_LEAVE_ALLOCATED: Final = 1
_HAS_PARENT: Final = 2
_IS_VIRTUAL_DISK: Final = 2
_IS_REQUIRED: Final = 4
_ENTRY: Final = struct.Struct("<16sIIII")
_LOCATOR_HEADER: Final = struct.Struct("<16sHH")
_KEY_VALUE: Final = struct.Struct("<IIHH")
_KNOWN: Final = {
    FILE_PARAMETERS,
    VIRTUAL_DISK_SIZE,
    VIRTUAL_DISK_ID,
    LOGICAL_SECTOR_SIZE,
    PHYSICAL_SECTOR_SIZE,
    PARENT_LOCATOR,
}


@dataclass(frozen=True)
class ParentLocator:
    """How a differencing file names its parent (2.6.2.6).

    ``linkage2`` is the second DataWriteGuid the parent may have; NO_GUID when
    no merge is under way. Hyper-V writes all five keys, that one as a null
    GUID, and the absolute path without the prefix that the text demands: seen
    in the bytes of New-VHD's files (docs/believed.md).
    """

    linkage: UUID
    relative_path: str
    absolute_win32_path: str
    volume_path: str
    linkage2: UUID = NO_GUID

    def allows(self, data_write_guid: UUID) -> bool:
        """Tell whether a file with this DataWriteGuid is the parent."""
        return data_write_guid == self.linkage or (
            self.linkage2 != NO_GUID and data_write_guid == self.linkage2
        )

    def encode(self) -> bytes:
        values = {
            "parent_linkage": f"{{{self.linkage}}}",
            "parent_linkage2": f"{{{self.linkage2}}}",
            "relative_path": self.relative_path,
            "absolute_win32_path": self.absolute_win32_path,
            "volume_path": self.volume_path,
        }
        head = _LOCATOR_HEADER.pack(LOCATOR_TYPE.bytes_le, 0, len(values))
        place = len(head) + _KEY_VALUE.size * len(values)
        entries, texts = b"", b""
        for key, value in values.items():
            raw_key, raw_value = key.encode("utf-16-le"), value.encode("utf-16-le")
            key_place = place + len(texts)
            entries += _KEY_VALUE.pack(key_place, key_place + len(raw_key), len(raw_key), len(raw_value))
            texts += raw_key + raw_value
        return head + entries + texts

    @classmethod
    def decode(cls, raw: bytes) -> "ParentLocator":
        kind, _, count = _LOCATOR_HEADER.unpack_from(raw)
        if UUID(bytes_le=kind) != LOCATOR_TYPE:
            raise DiskCorrupt(f"parent locator of unknown type {UUID(bytes_le=kind)}")
        values = {}
        for index in range(count):
            key, value, key_length, value_length = _KEY_VALUE.unpack_from(
                raw, _LOCATOR_HEADER.size + _KEY_VALUE.size * index
            )
            values[_text(raw, key, key_length)] = _text(raw, value, value_length)
        if "parent_linkage" not in values:
            raise DiskCorrupt("parent locator without parent_linkage")
        return cls(
            UUID(values["parent_linkage"]),
            values.get("relative_path", ""),
            values.get("absolute_win32_path", ""),
            values.get("volume_path", ""),
            UUID(values.get("parent_linkage2", str(NO_GUID))),
        )


def _text(raw: bytes, offset: int, length: int) -> str:
    if not 0 < offset <= offset + length <= len(raw):
        raise DiskCorrupt("parent locator text outside its item")
    return raw[offset : offset + length].decode("utf-16-le")


@dataclass(frozen=True)
class Metadata:
    """What a file says about its disk; ``size`` and the sector sizes in bytes."""

    size: int
    block_size: int
    disk_id: UUID
    logical_sector: int = 512
    physical_sector: int = 4096
    is_fixed: bool = False
    locator: ParentLocator | None = None

    @property
    def geometry(self) -> Geometry:
        return Geometry(self.size, self.block_size, self.logical_sector)

    def encode(self) -> bytearray:
        """Return a new region's bytes, up to the last that is used."""
        flags = _LEAVE_ALLOCATED * self.is_fixed | _HAS_PARENT * (self.locator is not None)
        items = [
            (FILE_PARAMETERS, _IS_REQUIRED, struct.pack("<II", self.block_size, flags)),
            (VIRTUAL_DISK_SIZE, _IS_REQUIRED | _IS_VIRTUAL_DISK, struct.pack("<Q", self.size)),
            (VIRTUAL_DISK_ID, _IS_REQUIRED | _IS_VIRTUAL_DISK, self.disk_id.bytes_le),
            (LOGICAL_SECTOR_SIZE, _IS_REQUIRED | _IS_VIRTUAL_DISK, struct.pack("<I", self.logical_sector)),
            (PHYSICAL_SECTOR_SIZE, _IS_REQUIRED | _IS_VIRTUAL_DISK, struct.pack("<I", self.physical_sector)),
        ]
        region = bytearray(LOCATOR_PLACE)
        place = TABLE
        for index, (guid, item_flags, value) in enumerate(items):
            _put_item(region, index, guid, place, item_flags, value)
            place += len(value)
        if self.locator is not None:
            value = self.locator.encode()
            region += bytes(len(value))
            _put_item(region, len(items), PARENT_LOCATOR, LOCATOR_PLACE, _IS_REQUIRED, value)
        struct.pack_into("<8sHH", region, 0, b"metadata", 0, len(items) + (self.locator is not None))
        return region

    @classmethod
    def decode(cls, region: bytes | bytearray) -> "Metadata":
        items = item_places(region)
        raw = {guid: bytes(region[offset : offset + length]) for guid, (offset, length) in items.items()}
        try:
            block_size, flags = struct.unpack("<II", raw[FILE_PARAMETERS])
            (size,) = struct.unpack("<Q", raw[VIRTUAL_DISK_SIZE])
            (logical,) = struct.unpack("<I", raw[LOGICAL_SECTOR_SIZE])
            (physical,) = struct.unpack("<I", raw[PHYSICAL_SECTOR_SIZE])
            disk_id = UUID(bytes_le=raw[VIRTUAL_DISK_ID])
            locator = ParentLocator.decode(raw[PARENT_LOCATOR]) if flags & _HAS_PARENT else None
        except (KeyError, ValueError, struct.error) as error:
            raise DiskCorrupt(f"metadata item missing or of a wrong form: {error!r}") from error
        if logical not in {512, 4096} or physical not in {512, 4096}:
            raise DiskCorrupt(f"sector sizes {logical} and {physical}")
        if block_size.bit_count() != 1 or not MIB <= block_size <= 256 * MIB:
            raise DiskCorrupt(f"block size {block_size}")
        if size == 0 or size % logical or size > 64 << 40:
            raise DiskCorrupt(f"virtual disk size {size}")
        fixed = bool(flags & _LEAVE_ALLOCATED) and locator is None
        return cls(size, block_size, disk_id, logical, physical, fixed, locator)

    def with_locator(self, locator: ParentLocator) -> "Metadata":
        return replace(self, locator=locator)


def _put_item(region: bytearray, index: int, guid: UUID, place: int, flags: int, value: bytes) -> None:
    _ENTRY.pack_into(region, 32 * (index + 1), guid.bytes_le, place, len(value), flags, 0)
    region[place : place + len(value)] = value


def item_places(region: bytes | bytearray) -> dict[UUID, tuple[int, int]]:
    """Return offset (in the region) and length of each system item of a metadata table (2.6.1)."""
    if len(region) < TABLE or region[:8] != b"metadata":
        raise DiskCorrupt("no metadata table")
    (count,) = struct.unpack_from("<H", region, 10)
    if count > _MOST_ITEMS:
        raise DiskCorrupt(f"{count} metadata items")
    places = {}
    for index in range(count):
        guid, offset, length, flags, _ = _ENTRY.unpack_from(region, 32 * (index + 1))
        known = UUID(bytes_le=guid)
        if known not in _KNOWN:
            if flags & _IS_REQUIRED:
                raise DiskCorrupt(f"required metadata item {known} is unknown")
            continue
        if offset < TABLE or offset + length > len(region):
            raise DiskCorrupt(f"metadata item {known} lies outside its region")
        places[known] = (offset, length)
    return places


def replace_locator(region: bytearray, locator: ParentLocator) -> None:
    """Put another parent locator into a region that has one, in place or behind all other items."""
    value = locator.encode()
    (count,) = struct.unpack_from("<H", region, 10)
    entries = [_ENTRY.unpack_from(region, 32 * (index + 1)) for index in range(count)]
    index = next(i for i, entry in enumerate(entries) if UUID(bytes_le=entry[0]) == PARENT_LOCATOR)
    others = [entry for i, entry in enumerate(entries) if i != index]
    place = entries[index][1]
    if any(offset < place + len(value) and place < offset + length for _, offset, length, _, _ in others):
        place = -(-max(offset + length for _, offset, length, _, _ in others) // PAGE) * PAGE
    if place + len(value) > len(region):
        raise DiskCorrupt("no room for the parent locator in the metadata region")
    _put_item(region, index, PARENT_LOCATOR, place, entries[index][3], value)
