"""The region tables: where the block table and the metadata lie."""

from dataclasses import dataclass
from itertools import pairwise
from uuid import UUID

from vmkeep.formats.errors import CorruptDisk, TruncatedDisk, UnsupportedDisk
from vmkeep.formats.source import Source
from vmkeep.formats.vhdx import layout
from vmkeep.ranges import ByteRange

_KNOWN = {layout.REGION_BAT: "block table", layout.REGION_METADATA: "metadata"}


@dataclass(frozen=True)
class Region:
    """One entry of a region table."""

    kind: UUID
    place: ByteRange
    required: bool

    @property
    def title(self) -> str:
        return _KNOWN.get(self.kind, f"region {self.kind}")


@dataclass(frozen=True)
class Regions:
    """The regions of a file; ``faults`` says what is wrong with the copies that were not used.

    ``table`` is the copy that counts, as it is: two thousand regions would take
    twenty times as much memory.
    """

    bat: ByteRange
    metadata: ByteRange
    table: bytes
    faults: tuple[tuple[int, str], ...] = ()

    def all(self) -> list[Region]:
        """Return every region, also those that nobody knows."""
        return _entries(self.table)


def pack_region_table(regions: list[Region]) -> bytes:
    """Return the 64 KiB of a region table with its checksum."""
    entries = b"".join(
        layout.REGION_ENTRY.pack(r.kind.bytes_le, r.place.offset, r.place.length, r.required) for r in regions
    )
    head = layout.REGION_TABLE.pack(layout.REGION_SIGNATURE, 0, len(regions), 0)
    return layout.with_checksum((head + entries).ljust(layout.REGION_TABLE_SIZE, b"\0"))


def parse_region_table(data: bytes) -> list[Region] | str:
    """Return the regions of one copy, or the rule it breaks ([MS-VHDX] 2.2.3)."""
    if len(data) < layout.REGION_TABLE_SIZE:
        return "is cut"
    signature, crc, count, _ = layout.REGION_TABLE.unpack_from(data)
    if signature != layout.REGION_SIGNATURE:
        return "has no signature"
    if crc != layout.checksum(data):
        return "has a wrong checksum"
    if count > layout.REGION_ENTRIES_MAX:
        return f"claims {count} entries"
    regions = _entries(data)
    return _broken_rule(regions) or regions


def _entries(table: bytes) -> list[Region]:
    _, _, count, _ = layout.REGION_TABLE.unpack_from(table)
    end = layout.REGION_TABLE.size + count * layout.REGION_ENTRY.size
    entries = layout.REGION_ENTRY.iter_unpack(table[layout.REGION_TABLE.size : end])
    return [
        Region(layout.guid(kind), ByteRange(offset, length), bool(required & 1))
        for kind, offset, length, required in entries
    ]


def _broken_rule(regions: list[Region]) -> str | None:
    if len({region.kind for region in regions}) < len(regions):
        return "names one region twice"
    for region in regions:
        place = region.place
        if place.offset % layout.MIB or place.length % layout.MIB or place.offset < layout.MIB:
            return f"places the {region.title} off the 1 MiB boundaries"
    placed = sorted((r.place for r in regions), key=lambda place: place.offset)
    if any(low.end > high.offset for low, high in pairwise(placed)):
        return "lets regions overlap"
    for kind, title in _KNOWN.items():
        if kind not in {region.kind for region in regions}:
            return f"does not name the {title}"
    return None


def choose_regions(section: bytes, image: Source, log: ByteRange | None) -> Regions:
    """Return the regions by the first copy of the table that keeps the rules.

    ``section`` is the header section of ``image``, for a log may rewrite either
    copy; ``log`` is its place while it counts. The text does not say which of
    two valid copies that differ to believe: the first.
    """
    file = image.name
    faults: list[tuple[int, str]] = []
    for offset in layout.REGION_TABLE_OFFSETS:
        table = section[offset : offset + layout.REGION_TABLE_SIZE]
        regions = parse_region_table(table)
        if isinstance(regions, list):
            regions = _overlap_with_log(regions, log) or regions
        if isinstance(regions, str):
            faults.append((offset, regions))
            continue
        for region in regions:
            _require_known(region, file, offset)
        places = {region.kind: region.place for region in regions}
        bat, metadata = places[layout.REGION_BAT], places[layout.REGION_METADATA]
        _require_inside(bat, "block table", image)
        _require_inside(metadata, "metadata", image)
        used = layout.REGION_TABLE.size + len(regions) * layout.REGION_ENTRY.size
        return Regions(bat, metadata, table[:used], tuple(faults))
    what = "; ".join(f"copy {n} {fault}" for n, (_, fault) in enumerate(faults, 1))
    raise CorruptDisk(
        f"{file!r} has no usable region table: {what}.",
        file=file,
        offset=layout.REGION_TABLE_OFFSETS[0],
        rule="[MS-VHDX] 2.2.3",
    )


def _overlap_with_log(regions: list[Region], log: ByteRange | None) -> str | None:
    if log is not None:
        for region in regions:
            if region.place.offset < log.end and log.offset < region.place.end:
                return f"places the {region.title} on top of the log"
    return None


def _require_known(region: Region, file: str, offset: int) -> None:
    if region.required and region.kind not in _KNOWN:
        raise UnsupportedDisk(
            f"{file!r} needs the unknown region {region.kind} to be understood.",
            file=file,
            offset=offset,
            rule="[MS-VHDX] 2.2.3.2 Required",
        )


def _require_inside(place: ByteRange, title: str, image: Source) -> None:
    if place.end > image.size():
        raise TruncatedDisk(
            f"{image.name!r} ends before the end of its {title}.",
            file=image.name,
            offset=place.offset,
            rule="[MS-VHDX] 2.2.3.2",
        )
