"""Lay out the dynamic header of sparse VHDs: 1024 bytes, big endian, and the parent's names in it.

Rules: Virtual Hard Disk Image Format Specification (2006), "Dynamic Disk Header Format".
"""

import struct
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit
from uuid import UUID

from vmkeep.formats.errors import CorruptDisk, TruncatedDisk, UnsupportedDisk
from vmkeep.formats.source import Source, read_at
from vmkeep.formats.vhd.footer import NO_OFFSET, SECTOR, Footers, is_sealed, seal

HEADER_SIZE: Final = 1024
COOKIE: Final = b"cxsparse"
ABSENT: Final = 0xFFFFFFFF
NO_PARENT: Final = UUID(int=0)

# 0 cookie 8s | 8 next structure Q | 16 table offset Q | 24 version I | 28 table entries I
# 32 block size I | 36 checksum I | 40 parent unique id 16s | 56 parent time stamp I | 60 reserved
# 64 parent name 512s UTF-16BE | 576 eight locators of 24
_LAYOUT: Final = struct.Struct(">8sQQIIII16sI4x512s")
_CHECKSUM_AT: Final = 36
# 0 code 4s | 4 data space I | 8 data length I | 12 reserved | 16 data offset Q
_LOCATOR: Final = struct.Struct(">4sII4xQ")
_LOCATORS_AT: Final = 576
_LOCATOR_COUNT: Final = 8
# 2040 GiB in blocks of 512 KiB, the smallest that programs make, need fewer.
_MOST_BLOCKS: Final = 1 << 22
# A Windows path has at most 32767 characters; more is not a name but an attack on memory.
_LONGEST_PATH: Final = 1 << 16


@dataclass(frozen=True)
class Locator:
    """One place where the file says its parent's name is stored, not yet read."""

    code: bytes
    length: int
    offset: int


@dataclass(frozen=True)
class DynamicHeader:
    """What the dynamic header says; offsets and sizes in bytes."""

    table_offset: int
    table_entries: int
    block_size: int
    parent_id: UUID = NO_PARENT
    parent_time_stamp: int = 0
    parent_name: str = ""
    locators: tuple[Locator, ...] = ()

    @property
    def bitmap_size(self) -> int:
        """Bytes of the sector bitmap in front of each block: one bit a sector, whole sectors."""
        return -(-self.block_size // (SECTOR * 8 * SECTOR)) * SECTOR

    def pack(self) -> bytes:
        """Return the 1024 bytes of a header without parent, checksum included."""
        raw = bytearray(HEADER_SIZE)
        _LAYOUT.pack_into(
            raw, 0, COOKIE, NO_OFFSET, self.table_offset, 0x00010000, self.table_entries,
            self.block_size, 0, self.parent_id.bytes, self.parent_time_stamp, b"",
        )  # fmt: skip
        seal(raw, _CHECKSUM_AT)
        return bytes(raw)


def read_header(source: Source, footers: Footers) -> DynamicHeader:
    """Read and judge the header that the footer points to; there is no second copy of it.

    Raises :class:`CorruptDisk` where the header or the size of its table
    cannot be trusted, :class:`TruncatedDisk` where the file ends before them.
    """
    name, offset = source.name, footers.footer.data_offset
    if offset < SECTOR or offset + HEADER_SIZE > source.size():
        raise TruncatedDisk(
            f"{name!r} ends before its dynamic header.",
            file=name,
            offset=offset,
            rule="VHD footer: Data Offset",
        )
    raw = read_at(source, offset, HEADER_SIZE)
    if not raw.startswith(COOKIE) or not is_sealed(raw, _CHECKSUM_AT):
        raise CorruptDisk(
            f"the dynamic header of {name!r} is damaged, and the format keeps no second copy of it.",
            file=name, offset=offset, rule="VHD dynamic header: Cookie, Checksum",
        )  # fmt: skip
    _, _, table_offset, version, entries, block_size, _, parent_id, parent_time, parent_name = (
        _LAYOUT.unpack_from(raw)
    )
    if version >> 16 != 1:
        raise UnsupportedDisk(
            f"{name!r} has a dynamic header of version {version >> 16}; vmkeep reads version 1.",
            file=name, offset=offset + 24, rule="VHD dynamic header: Header Version",
        )  # fmt: skip
    header = DynamicHeader(
        table_offset=table_offset,
        table_entries=entries,
        block_size=block_size,
        parent_id=UUID(bytes=parent_id),
        parent_time_stamp=parent_time,
        parent_name=_until_nul(parent_name.decode("utf-16-be", "replace")),
        locators=_locators(raw),
    )
    _judge(header, name, footers)
    return header


def _judge(header: DynamicHeader, name: str, footers: Footers) -> None:
    offset, disk_size = footers.footer.data_offset, footers.footer.current_size
    if header.block_size < SECTOR or header.block_size & (header.block_size - 1):
        raise CorruptDisk(
            f"{name!r} has blocks of {header.block_size} bytes, which is not a power of two.",
            file=name, offset=offset + 32, rule="VHD dynamic header: Block Size",
        )  # fmt: skip
    needed = -(-disk_size // header.block_size)
    if header.table_entries < needed:
        raise CorruptDisk(
            f"the block table of {name!r} has {header.table_entries} entries, but the disk needs {needed}.",
            file=name, offset=offset + 28, rule="VHD dynamic header: Max Table Entries",
        )  # fmt: skip
    if header.table_offset < SECTOR:
        raise CorruptDisk(
            f"the block table of {name!r} lies on its footer copy.",
            file=name, offset=offset + 16, rule="VHD dynamic header: Table Offset",
        )  # fmt: skip
    table_end = header.table_offset + needed * 4
    if header.table_offset < offset + HEADER_SIZE and offset < table_end:
        raise CorruptDisk(
            f"the block table of {name!r} lies on its dynamic header.",
            file=name, offset=offset + 16, rule="VHD dynamic header: Table Offset",
        )  # fmt: skip
    if table_end > footers.data_end:
        raise TruncatedDisk(
            f"{name!r} ends before its block table.",
            file=name, offset=header.table_offset, rule="VHD dynamic header: Table Offset",
        )  # fmt: skip
    if needed > _MOST_BLOCKS:
        raise UnsupportedDisk(
            f"{name!r} has {needed} blocks, more than any disk in blocks of the usual sizes has.",
            file=name, offset=offset + 32, rule="VHD dynamic header: Block Size",
        )  # fmt: skip


def _locators(raw: bytes) -> tuple[Locator, ...]:
    found = []
    for at in range(_LOCATORS_AT, _LOCATORS_AT + _LOCATOR_COUNT * _LOCATOR.size, _LOCATOR.size):
        code, _, length, offset = _LOCATOR.unpack_from(raw, at)
        # The data space is written in sectors by some and in bytes by others; it is not needed.
        if code != b"\0\0\0\0":
            found.append(Locator(code, length, offset))
    return tuple(found)


def locator_fits(locator: Locator, file_size: int) -> bool:
    """Tell whether the locator's text lies inside the file and can be a path at all."""
    return locator.length <= _LONGEST_PATH and SECTOR <= locator.offset <= file_size - locator.length


def parent_locators(source: Source, header: DynamicHeader) -> tuple[tuple[str, str], ...]:
    """Return the parent's paths as written, each with its key, relative ones first.

    Locators that cannot be read are left out.
    """
    ranked: list[tuple[int, str, str]] = []
    size = source.size()
    for locator in header.locators:
        rank = _RANKS.get(locator.code)
        if rank is None or not locator_fits(locator, size):
            continue
        text = _decode(locator.code, read_at(source, locator.offset, locator.length))
        if text:
            ranked.append((rank, locator.code.decode("ascii"), text))
    ranked.sort(key=lambda item: item[0])
    if header.parent_name:
        ranked.append((len(_RANKS), "parent name", header.parent_name))
    return tuple((key, text) for _, key, text in ranked)


# Relative before absolute, Unicode before the deprecated code pages; Mac OS aliases are no paths.
_RANKS: Final = {b"W2ru": 0, b"W2ku": 1, b"Wi2r": 2, b"Wi2k": 3, b"MacX": 4}


def _decode(code: bytes, raw: bytes) -> str:
    if code in (b"W2ru", b"W2ku"):
        return _until_nul(raw[: len(raw) & ~1].decode("utf-16-le", "replace"))
    if code == b"MacX":
        text = _until_nul(raw.decode("utf-8", "replace"))
        try:
            return unquote(urlsplit(text).path) or text
        except ValueError:  # not a URL after all: the text itself is the path
            return text
    return _until_nul(raw.decode("cp1252", "replace"))


def _until_nul(text: str) -> str:
    return text.partition("\0")[0]
