"""Lay out the VHD footer: 512 bytes, big endian, at the end and (sparse disks) again at offset 0.

Rules: Virtual Hard Disk Image Format Specification (2006), "Hard Disk Footer Format".
"""

import struct
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from vmkeep.formats.disk import Kind
from vmkeep.formats.errors import CorruptDisk, TruncatedDisk, UnsupportedDisk
from vmkeep.formats.source import Source, read_at

SECTOR: Final = 512
COOKIE: Final = b"conectix"
# The largest disk Hyper-V makes or attaches in this format.
MAX_SIZE: Final = 2040 << 30
EPOCH: Final = 946_684_800  # 2000-01-01 UTC in Unix time; VHD time stamps count from here
NO_OFFSET: Final = (1 << 64) - 1

KINDS: Final[dict[int, Kind]] = {2: "fixed", 3: "dynamic", 4: "differencing"}
CODES: Final[dict[Kind, int]] = {kind: code for code, kind in KINDS.items()}

# 0 cookie 8s | 8 features I | 12 version I | 16 data offset Q | 24 time stamp I | 28 creator 4s
# 32 creator version I | 36 host system 4s | 40 original size Q | 48 current size Q
# 56 cylinders H, heads B, sectors B | 60 type I | 64 checksum I | 68 unique id 16s | 84 saved state B
_LAYOUT: Final = struct.Struct(">8sIIQI4sI4sQQHBBII16sB")
CHECKSUM_AT: Final = 64
COPY_RULE: Final = "VHD footer: the copy at offset 0 mirrors the footer"


@dataclass(frozen=True)
class Footer:
    """What one footer says; sizes and offsets in bytes, times in seconds since 2000."""

    kind_code: int
    current_size: int
    disk_id: UUID
    data_offset: int = NO_OFFSET
    original_size: int = 0
    time_stamp: int = 0
    features: int = 2
    version: int = 0x00010000
    creator: bytes = b"win "
    creator_version: int = 0x000A0000
    saved_state: int = 0
    geometry: tuple[int, int, int] = (0, 0, 0)

    def pack(self) -> bytes:
        """Return the 512 bytes, checksum included."""
        cylinders, heads, sectors = self.geometry
        raw = bytearray(SECTOR)
        _LAYOUT.pack_into(
            raw, 0, COOKIE, self.features, self.version, self.data_offset, self.time_stamp,
            self.creator, self.creator_version, b"Wi2k", self.original_size, self.current_size,
            cylinders, heads, sectors, self.kind_code, 0, self.disk_id.bytes, self.saved_state,
        )  # fmt: skip
        seal(raw, CHECKSUM_AT)
        return bytes(raw)


def unpack(raw: bytes) -> Footer:
    """Read a footer whose cookie and checksum are already known to be right."""
    (
        _, features, version, data_offset, time_stamp, creator, creator_version, _, original_size,
        current_size, cylinders, heads, sectors, kind_code, _, disk_id, saved_state,
    ) = _LAYOUT.unpack_from(raw)  # fmt: skip
    return Footer(
        kind_code=kind_code,
        current_size=current_size,
        disk_id=UUID(bytes=disk_id),
        data_offset=data_offset,
        original_size=original_size,
        time_stamp=time_stamp,
        features=features,
        version=version,
        creator=creator,
        creator_version=creator_version,
        saved_state=saved_state,
        geometry=(cylinders, heads, sectors),
    )


def checksum(raw: bytes | bytearray, at: int) -> int:
    """Return the one's complement of the byte sum, the four checksum bytes at ``at`` taken as zero."""
    return ~(sum(raw) - sum(raw[at : at + 4])) & 0xFFFFFFFF


def seal(raw: bytearray, at: int) -> None:
    """Store the checksum at ``at``."""
    raw[at : at + 4] = checksum(raw, at).to_bytes(4, "big")


def is_sealed(raw: bytes, at: int) -> bool:
    """Tell whether the checksum at ``at`` is right."""
    return int.from_bytes(raw[at : at + 4], "big") == checksum(raw, at)


def geometry_of(size: int) -> tuple[int, int, int]:
    """Return cylinders, heads and sectors per track as every VHD writer computes them.

    Only old programs ask for them; the size of the disk is Current Size.
    """
    total = min(size // SECTOR, 65535 * 16 * 255)
    if total >= 65535 * 16 * 63:
        heads, sectors = 16, 255
        tracks = total // sectors
    else:
        sectors = 17
        tracks = total // sectors
        heads = max(4, (tracks + 1023) // 1024)
        if tracks >= heads * 1024 or heads > 16:
            heads, sectors = 16, 31
            tracks = total // sectors
        if tracks >= heads * 1024:
            heads, sectors = 16, 63
            tracks = total // sectors
    return tracks // heads, heads, sectors


def is_nearly_cookie(raw: bytes) -> bool:
    """Tell whether all but two bytes at most of the cookie are there."""
    return sum(here == right for here, right in zip(raw, COOKIE, strict=False)) >= len(COOKIE) - 2


@dataclass(frozen=True)
class FooterCopy:
    """One place where a footer should be: what was found there."""

    offset: int
    raw: bytes
    footer: Footer | None
    problem: str = ""

    @property
    def has_cookie(self) -> bool:
        return self.raw.startswith(COOKIE)

    @property
    def was_fixed(self) -> bool:
        """Tell whether this is, or once was, the footer of a fixed disk: most of what marks one is there."""
        return is_nearly_cookie(self.raw) and self.raw[16:24].count(0xFF) >= 4  # Data Offset: all ones


def _look(source: Source, offset: int, length: int) -> FooterCopy:
    raw = read_at(source, offset, length)
    if not raw.startswith(COOKIE):
        return FooterCopy(offset, raw, None, "there is no footer")
    padded = raw.ljust(SECTOR, b"\0")
    if not is_sealed(padded, CHECKSUM_AT):
        return FooterCopy(offset, raw, None, "the footer's checksum is wrong")
    return FooterCopy(offset, raw, unpack(padded))


@dataclass(frozen=True)
class Footers:
    """The footers of a file and the one to be believed."""

    end: FooterCopy
    start: FooterCopy
    chosen: FooterCopy

    @property
    def footer(self) -> Footer:
        """The footer to be believed."""
        footer = self.chosen.footer
        assert footer is not None  # _choose takes only a whole one
        return footer

    @property
    def data_end(self) -> int:
        """Where tables and blocks end: at the footer or, where there is none, at the end of the file."""
        return self.end.offset + (len(self.end.raw) if self.end.footer is None else 0)


def read_footers(source: Source) -> Footers:
    """Find the footer at the end or, where that is damaged, its copy at offset 0.

    Raises :class:`CorruptDisk` when neither can be believed or the two
    describe different disks.
    """
    size = source.size()
    end = _look(source, max(0, size - SECTOR), SECTOR)
    if not end.has_cookie and size > SECTOR:
        # Virtual PC before 2004 wrote 511 bytes; the missing last one is reserved, so zero.
        old = _look(source, size - (SECTOR - 1), SECTOR - 1)
        end = old if old.has_cookie else end
    start = _look(source, 0, SECTOR)
    chosen = _choose(source, size, end, start)
    return Footers(end, start, chosen)


def _choose(source: Source, size: int, end: FooterCopy, start: FooterCopy) -> FooterCopy:
    name = source.name
    last, first = end.footer, start.footer
    if (
        last is not None
        and last.kind_code == CODES["fixed"]
        and (first is None or end.offset == last.current_size)
    ):
        # A fixed disk has no copy: what stands at 0 is the guest's, even if it looks like one.
        return end
    if last is not None and first is not None and _disagree(last, first):
        raise CorruptDisk(
            f"the two footers of {name!r} describe different disks.", file=name, offset=end.offset,
            rule=COPY_RULE,
        )  # fmt: skip
    if last is not None:
        return end
    if first is None:
        where = start if start.has_cookie and not end.has_cookie else end
        raise CorruptDisk(
            f"{name!r} has no usable VHD footer: {where.problem} at offset {where.offset:#x}.",
            file=name,
            offset=where.offset,
            rule="VHD footer",
        )
    if end.was_fixed:
        raise guests_copy(name, end.offset)
    if first.kind_code == CODES["fixed"]:
        raise TruncatedDisk(
            f"{name!r} is a fixed VHD whose footer is not at its end.",
            file=name,
            offset=size,
            rule="VHD footer",
        )
    return start


def guests_copy(name: str, offset: int) -> CorruptDisk:
    """Say that the footer is damaged and what stands at offset 0 may be the guest's."""
    return CorruptDisk(
        f"the footer of {name!r} is damaged, and its start may be the content of a fixed disk.",
        file=name,
        offset=offset,
        rule=COPY_RULE,
    )


def _disagree(one: Footer, other: Footer) -> bool:
    return (one.kind_code, one.current_size, one.data_offset) != (
        other.kind_code,
        other.current_size,
        other.data_offset,
    )


def require_readable(footer: Footer, name: str, offset: int) -> Kind:
    """Return the kind of disk, or refuse what this footer asks for."""
    if footer.version >> 16 != 1:
        raise UnsupportedDisk(
            f"{name!r} is of VHD version {footer.version >> 16}.{footer.version & 0xFFFF}; vmkeep reads 1.0.",
            file=name, offset=offset + 12, rule="VHD footer: File Format Version",
        )  # fmt: skip
    kind = KINDS.get(footer.kind_code)
    if kind is None:
        raise UnsupportedDisk(
            f"{name!r} is of VHD disk type {footer.kind_code}; vmkeep reads the types 2, 3 and 4.",
            file=name, offset=offset + 60, rule="VHD footer: Disk Type",
        )  # fmt: skip
    if footer.current_size == 0 or footer.current_size % SECTOR:
        raise CorruptDisk(
            f"{name!r} claims a size of {footer.current_size} bytes, which is not a number of sectors.",
            file=name, offset=offset + 48, rule="VHD footer: Current Size",
        )  # fmt: skip
    if footer.current_size > MAX_SIZE:
        raise CorruptDisk(
            f"{name!r} claims a size of {footer.current_size} bytes; a VHD holds at most 2040 GiB.",
            file=name, offset=offset + 48, rule="VHD footer: Current Size",
        )  # fmt: skip
    return kind
