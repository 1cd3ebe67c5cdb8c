"""The metadata: what the disk is, as items in a table without a checksum."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final
from uuid import UUID

from vmkeep.formats.errors import CorruptDisk, UnsupportedDisk
from vmkeep.formats.source import Source, read_at
from vmkeep.formats.vhdx import layout
from vmkeep.ranges import ByteRange

_IS_USER: Final = 1
_IS_VIRTUAL_DISK: Final = 2
_IS_REQUIRED: Final = 4
_ITEM_FLAGS_KNOWN: Final = _IS_USER | _IS_VIRTUAL_DISK | _IS_REQUIRED

_LEAVE_BLOCK_ALLOCATED: Final = 1
_HAS_PARENT: Final = 2

# Exact sizes; the parent locator has none.
_ITEM_SIZES: Final = {
    layout.ITEM_FILE_PARAMETERS: 8,
    layout.ITEM_DISK_SIZE: 8,
    layout.ITEM_DISK_ID: 16,
    layout.ITEM_LOGICAL_SECTOR: 4,
    layout.ITEM_PHYSICAL_SECTOR: 4,
}
_ITEM_FLAGS: Final = {
    layout.ITEM_FILE_PARAMETERS: _IS_REQUIRED,
    layout.ITEM_DISK_SIZE: _IS_VIRTUAL_DISK | _IS_REQUIRED,
    layout.ITEM_DISK_ID: _IS_VIRTUAL_DISK | _IS_REQUIRED,
    layout.ITEM_LOGICAL_SECTOR: _IS_VIRTUAL_DISK | _IS_REQUIRED,
    layout.ITEM_PHYSICAL_SECTOR: _IS_VIRTUAL_DISK | _IS_REQUIRED,
}
# Every writer puts its items right behind the table, so one read gets all of them.
_FIRST_READ: Final = 2 * layout.METADATA_TABLE_SIZE


@dataclass(frozen=True)
class Metadata:
    """The items every VHDX has, checked; ``locator`` is the raw parent locator of a child."""

    block_size: int
    leave_allocated: bool
    has_parent: bool
    disk_size: int
    disk_id: UUID
    logical_sector: int
    physical_sector: int
    locator: bytes | None = None


@dataclass(frozen=True)
class _Item:
    kind: UUID
    user: bool
    place: ByteRange


class _Faults:
    """Raise with the place in the file: every fault here is fatal, for nothing else guards the table."""

    def __init__(self, image: Source, region: ByteRange) -> None:
        self.file = image.name
        self.region = region

    def corrupt(self, what: str, rule: str, at: int = 0) -> CorruptDisk:
        return CorruptDisk(
            f"{self.file!r} has broken metadata: {what}.",
            file=self.file,
            offset=self.region.offset + at,
            rule=f"[MS-VHDX] {rule}",
        )

    def unsupported(self, what: str, rule: str, at: int = 0) -> UnsupportedDisk:
        return UnsupportedDisk(
            f"{self.file!r} {what}.", file=self.file, offset=self.region.offset + at, rule=f"[MS-VHDX] {rule}"
        )


def read_metadata(image: Source, region: ByteRange) -> Metadata:
    """Return the checked items of the metadata region, or raise."""
    faults = _Faults(image, region)
    head = read_at(image, region.offset, min(_FIRST_READ, region.length))
    items = _parse_table(head, faults)
    contents: dict[UUID, bytes] = {}
    for item in items:
        if not item.user and (item.kind in _ITEM_SIZES or item.kind == layout.ITEM_PARENT_LOCATOR):
            contents[item.kind] = _read_item(image, head, item, faults)
    return _interpret(contents, faults)


def _parse_table(head: bytes, faults: _Faults) -> list[_Item]:
    """Return the entries of the table; every rule of [MS-VHDX] 2.6.1 holds for them."""
    if len(head) < layout.METADATA_TABLE_SIZE:
        raise faults.corrupt("the table is cut", "2.6.1")
    signature, _, count = layout.METADATA_TABLE.unpack_from(head)
    if signature != layout.METADATA_SIGNATURE:
        raise faults.corrupt("the table has no signature", "2.6.1.1")
    if count > layout.METADATA_ENTRIES_MAX:
        raise faults.corrupt(f"the table claims {count} items", "2.6.1.1 EntryCount", 10)
    end = layout.METADATA_TABLE.size + count * layout.METADATA_ENTRY.size
    items: list[_Item] = []
    entries = layout.METADATA_ENTRY.iter_unpack(head[layout.METADATA_TABLE.size : end])
    for n, (kind, offset, length, flags) in enumerate(entries):
        at = layout.METADATA_TABLE.size + n * layout.METADATA_ENTRY.size
        item = _Item(layout.guid(kind), bool(flags & _IS_USER), ByteRange(offset, length))
        _check_entry(item, flags, at, faults)
        items.append(item)
    if len({(item.kind, item.user) for item in items}) < len(items):
        raise faults.corrupt("the table names one item twice", "2.6.1.2 ItemId")
    if sum(item.user for item in items) > layout.METADATA_USER_ENTRIES_MAX:
        raise faults.corrupt("the table has too many user items", "2.6.1.1 EntryCount")
    placed = sorted((item.place for item in items if item.place.length), key=lambda place: place.offset)
    if any(low.end > high.offset for low, high in pairwise(placed)):
        raise faults.corrupt("two items overlap", "2.6.1.2 Offset")
    return items


def reserved_bits(image: Source, region: ByteRange) -> Iterator[tuple[int, str]]:
    """Yield what must be zero and is not, in metadata that was read: the offset in the file, and the rule."""
    table = read_at(image, region.offset, layout.METADATA_TABLE_SIZE)
    _, count = layout.METADATA_TABLE.unpack_from(table)[1:]
    if any(table[8:10]) or any(table[12 : layout.METADATA_TABLE.size]):
        yield region.offset, "2.6.1.1"
    for n in range(count):
        at = layout.METADATA_TABLE.size + n * layout.METADATA_ENTRY.size
        kind, offset, length, flags = layout.METADATA_ENTRY.unpack_from(table, at)
        if flags & ~_ITEM_FLAGS_KNOWN or any(table[at + 28 : at + 32]):
            yield region.offset + at, "2.6.1.2"
        if layout.guid(kind) == layout.ITEM_FILE_PARAMETERS and not flags & _IS_USER:
            bits = int.from_bytes(read_at(image, region.offset + offset, length)[4:], "little")
            if bits & ~(_LEAVE_BLOCK_ALLOCATED | _HAS_PARENT):
                yield region.offset + offset, "2.6.2.1"


def _check_entry(item: _Item, flags: int, at: int, faults: _Faults) -> None:
    known = not item.user and (item.kind in _ITEM_SIZES or item.kind == layout.ITEM_PARENT_LOCATOR)
    if flags & _IS_REQUIRED and not known:
        raise faults.unsupported(
            f"needs the unknown metadata item {item.kind} to be understood", "2.6.1.2 IsRequired", at
        )
    place = item.place
    if not place.length:
        if place.offset:
            raise faults.corrupt(f"the empty item {item.kind} has a place", "2.6.1.2 Length", at)
    elif place.offset < layout.METADATA_TABLE_SIZE or place.end > faults.region.length:
        raise faults.corrupt(f"the item {item.kind} lies outside the region", "2.6.1.2 Offset", at)
    elif place.length > layout.METADATA_ITEM_MAX:
        raise faults.corrupt(f"the item {item.kind} is too long", "2.6.1.2 Length", at)


def _read_item(image: Source, head: bytes, item: _Item, faults: _Faults) -> bytes:
    size = _ITEM_SIZES.get(item.kind)
    if size is not None and item.place.length != size:
        raise faults.corrupt(
            f"the item {item.kind} has {item.place.length} bytes instead of {size}",
            "2.6.2",
            item.place.offset,
        )
    if item.place.end <= len(head):
        return head[item.place.offset : item.place.end]
    data = read_at(image, faults.region.offset + item.place.offset, item.place.length)
    if len(data) < item.place.length:
        raise faults.corrupt(f"the item {item.kind} is cut", "2.6.2", item.place.offset)
    return data


def _interpret(contents: dict[UUID, bytes], faults: _Faults) -> Metadata:
    """Turn the items into values and hold them against their ranges: [MS-VHDX] 2.6.2."""
    for kind in _ITEM_SIZES:
        if kind not in contents:
            raise faults.corrupt(f"the required item {kind} is missing", "2.6.2")
    parameters = contents[layout.ITEM_FILE_PARAMETERS]
    block_size = int.from_bytes(parameters[:4], "little")
    bits = int.from_bytes(parameters[4:], "little")
    disk_size, logical, physical = (
        int.from_bytes(contents[kind], "little")
        for kind in (layout.ITEM_DISK_SIZE, layout.ITEM_LOGICAL_SECTOR, layout.ITEM_PHYSICAL_SECTOR)
    )
    if not layout.is_block_size(block_size):
        raise faults.corrupt(f"a block size of {block_size} bytes", "2.6.2.1 BlockSize")
    if logical not in layout.SECTOR_SIZES:
        raise faults.corrupt(f"a logical sector of {logical} bytes", "2.6.2.4")
    if physical not in layout.SECTOR_SIZES:
        raise faults.corrupt(f"a physical sector of {physical} bytes", "2.6.2.5")
    if not 0 < disk_size <= layout.DISK_SIZE_MAX or disk_size % logical:
        raise faults.corrupt(f"a disk size of {disk_size} bytes", "2.6.2.2")
    has_parent = bool(bits & _HAS_PARENT)
    locator = contents.get(layout.ITEM_PARENT_LOCATOR)
    if has_parent and locator is None:
        raise faults.corrupt("a differencing disk without a parent locator", "2.6.2.6")
    if locator is not None and not has_parent:
        # No checksum guards the bit: without it all the parent's bytes would read as zeros.
        raise faults.corrupt("a disk that names a parent, and says that it has none", "2.6.2.6")
    return Metadata(
        block_size=block_size,
        leave_allocated=bool(bits & _LEAVE_BLOCK_ALLOCATED),
        has_parent=has_parent,
        disk_size=disk_size,
        disk_id=layout.guid(contents[layout.ITEM_DISK_ID]),
        logical_sector=logical,
        physical_sector=physical,
        locator=locator,
    )


def pack_metadata(metadata: Metadata) -> bytes:
    """Return table and items of a disk without a parent, from the start of the region on."""
    bits = _LEAVE_BLOCK_ALLOCATED if metadata.leave_allocated else 0
    contents = {
        layout.ITEM_FILE_PARAMETERS: metadata.block_size.to_bytes(4, "little") + bits.to_bytes(4, "little"),
        layout.ITEM_DISK_SIZE: metadata.disk_size.to_bytes(8, "little"),
        layout.ITEM_DISK_ID: metadata.disk_id.bytes_le,
        layout.ITEM_LOGICAL_SECTOR: metadata.logical_sector.to_bytes(4, "little"),
        layout.ITEM_PHYSICAL_SECTOR: metadata.physical_sector.to_bytes(4, "little"),
    }
    table = layout.METADATA_TABLE.pack(layout.METADATA_SIGNATURE, 0, len(contents))
    items = b""
    for kind, content in contents.items():
        place = layout.METADATA_TABLE_SIZE + len(items)
        table += layout.METADATA_ENTRY.pack(kind.bytes_le, place, len(content), _ITEM_FLAGS[kind])
        items += content
    return table.ljust(layout.METADATA_TABLE_SIZE, b"\0") + items
