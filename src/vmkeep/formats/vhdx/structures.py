"""Everything in a VHDX file besides its blocks, read and checked in the order that is safe."""

from collections.abc import Iterator
from dataclasses import dataclass

from vmkeep.formats.errors import NotADisk, TruncatedDisk, UnsupportedDisk
from vmkeep.formats.source import Source, read_at
from vmkeep.formats.vhdx import layout
from vmkeep.formats.vhdx.blocks import BlockTable
from vmkeep.formats.vhdx.geometry import Geometry
from vmkeep.formats.vhdx.headers import Header, choose_header
from vmkeep.formats.vhdx.hidden_log import refuse_hidden_log
from vmkeep.formats.vhdx.log import LogAllowance, check_log_place, replay_log
from vmkeep.formats.vhdx.metadata import Metadata, read_metadata
from vmkeep.formats.vhdx.regions import Regions, choose_regions
from vmkeep.ranges import ByteRange


@dataclass(frozen=True)
class Structures:
    """One opened file: ``source`` as it lies there, ``image`` as it counts, log applied."""

    source: Source
    image: Source
    header: Header
    regions: Regions
    metadata: Metadata
    table: BlockTable


def read_structures(source: Source, allowance: LogAllowance | None = None) -> Structures:
    """Read the structures of the file, or raise.

    Nothing but the headers and the log may be read before the replay
    ([MS-VHDX] 2.3.3). Without a log this takes two requests; the block table
    is read when it is needed.
    """
    file = source.name
    section = read_at(source, 0, layout.HEADER_SECTION_USED)
    if section[: len(layout.IDENTIFIER_SIGNATURE)] != layout.IDENTIFIER_SIGNATURE:
        raise NotADisk(f"{file!r} is not a VHDX file.", file=file, offset=0, rule="[MS-VHDX] 2.2.1")
    if len(section) < layout.HEADER_SECTION_USED:
        raise TruncatedDisk(f"{file!r} ends inside its headers.", file=file, rule="[MS-VHDX] 2.2")
    if source.size() > layout.FILE_SIZE_MAX:
        raise UnsupportedDisk(
            f"{file!r} has {source.size()} bytes, more than the largest VHDX disk with its tables.", file=file
        )
    header = choose_header(section, file)
    allowance = allowance or LogAllowance()
    image = source
    if header.has_log:
        image = replay_log(source, header, allowance)
    refuse_hidden_log(section, header, source, image, allowance)
    if image is not source:
        section = read_at(image, 0, layout.HEADER_SECTION_USED)
    regions = choose_regions(section, image, header.log if header.has_log else None)
    metadata = read_metadata(image, regions.metadata)
    geometry = Geometry(
        disk_size=metadata.disk_size,
        block_size=metadata.block_size,
        sector=metadata.logical_sector,
        has_parent=metadata.has_parent,
    )
    table = BlockTable(image, regions.bat, geometry, PlacesOfNoBlock(header, regions, image))
    return Structures(source, image, header, regions, metadata, table)


@dataclass(frozen=True)
class PlacesOfNoBlock:
    """What lies in the file besides blocks, each with its name: [MS-VHDX] 2.2.3, 2.4."""

    header: Header
    regions: Regions
    image: Source

    def __iter__(self) -> Iterator[tuple[ByteRange, str]]:
        yield ByteRange(0, layout.HEADER_SECTION_SIZE), "the headers"
        for region in self.regions.all():
            yield region.place, f"the {region.title}"
        # An unused log may lie anywhere, even beyond the file.
        if check_log_place(self.header, self.image.size(), self.image.name) is None:
            yield self.header.log, "the log"
