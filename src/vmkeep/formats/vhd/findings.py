"""Examine a VHD: every structure, every table entry, every bitmap."""

from collections.abc import Iterator
from itertools import islice, pairwise
from typing import Final

from vmkeep.formats.disk import Disk, Finding
from vmkeep.formats.errors import FormatError
from vmkeep.formats.filling import fill_from, is_zero
from vmkeep.formats.source import Source
from vmkeep.formats.vhd.blocks import BlockMap, Present
from vmkeep.formats.vhd.footer import KINDS, SECTOR, Footer, FooterCopy, Footers
from vmkeep.formats.vhd.header import DynamicHeader, locator_fits

_TABLE_RULE: Final = "VHD block allocation table"
# More of the same kind tell the reader nothing; a hostile table could hold millions.
_MOST_PER_KIND: Final = 100
_MOST_COMPARED: Final = 100_000
_PIECE: Final = 1 << 20


def examine_fixed(source: Source, footers: Footers) -> Iterator[Finding]:
    """Yield what is odd about a fixed VHD; what would give wrong bytes was refused at opening."""
    footer = footers.footer
    yield from _odd_fields(source, footer, footers.chosen.offset)
    unused = footers.end.offset - footer.current_size
    if unused:
        yield Finding(
            "warning", source.name, footer.current_size, "VHD footer: Current Size",
            f"{unused} bytes between the disk and its footer belong to nothing",
        )  # fmt: skip


def examine_sparse(
    source: Source,
    footers: Footers,
    header: DynamicHeader,
    blocks: BlockMap,
    parent: Disk | None,
    parent_time: int | None,
) -> Iterator[Finding]:
    """Yield what is wrong in a dynamic or differencing VHD; reads its table, bitmaps and unused sectors."""
    yield from _odd_footers(source, footers)
    yield from _odd_fields(source, footers.footer, footers.chosen.offset)
    for locator in header.locators:
        if not locator_fits(locator, source.size()):
            yield Finding(
                "warning", source.name, locator.offset, "VHD dynamic header: Parent Locator",
                f"the text of parent locator {locator.code!r} lies outside the file",
            )  # fmt: skip
    if parent is not None:
        yield from _odd_parent(source, footers.footer, header, parent, parent_time)
    yield from _wrong_places(source, blocks)
    if KINDS[footers.footer.kind_code] == "dynamic":
        yield from _denied_sectors(source, blocks)


def _odd_footers(source: Source, footers: Footers) -> Iterator[Finding]:
    for copy, where in ((footers.end, "at the end"), (footers.start, "copy at offset 0")):
        if copy.footer is None:
            yield Finding(
                "warning", source.name, copy.offset, "VHD footer",
                f"{copy.problem} ({where}); the other one is used",
            )  # fmt: skip
    if _id_of(footers.end) and _id_of(footers.start) and _id_of(footers.end) != _id_of(footers.start):
        yield Finding(
            "warning", source.name, 68, "VHD footer: Unique Id",
            "the footer and its copy carry different identifiers; the one at the end counts",
        )  # fmt: skip


def _id_of(copy: FooterCopy) -> object:
    return copy.footer.disk_id if copy.footer is not None else None


def _odd_fields(source: Source, footer: Footer, offset: int) -> Iterator[Finding]:
    if footer.saved_state:
        yield Finding(
            "warning", source.name, offset + 84, "VHD footer: Saved State",
            "the disk belongs to a machine in saved state: its memory holds writes that are not on the disk",
        )  # fmt: skip
    if footer.features & 1:
        yield Finding(
            "warning", source.name, offset + 8, "VHD footer: Features",
            "the disk is marked as temporary: its owner may delete it",
        )  # fmt: skip


def _odd_parent(
    source: Source, footer: Footer, header: DynamicHeader, parent: Disk, parent_time: int | None
) -> Iterator[Finding]:
    # Some writers store the parent's footer time here, others the time of its file,
    # which any copy changes: only a hint, never a proof.
    if parent_time is not None and header.parent_time_stamp != parent_time:
        yield Finding(
            "warning", source.name, footer.data_offset + 56, "VHD dynamic header: Parent Time Stamp",
            f"the time noted for the parent is {header.parent_time_stamp}, its footer says {parent_time}",
        )  # fmt: skip
    if parent.profile.size != footer.current_size:
        yield Finding(
            "warning", source.name, None, "VHD footer: Current Size",
            f"the disk has {footer.current_size} bytes, its parent {parent.profile.size}",
        )  # fmt: skip


def _wrong_places(source: Source, blocks: BlockMap) -> Iterator[Finding]:
    """Yield blocks outside the file, on other structures or on each other.

    A hole of a few bytes on the medium can hold a table of millions of
    misplaced entries: the first hundred end the examination.
    """
    wrong = 0
    for number, entry in blocks.entries():
        try:
            blocks.place(number, entry)
        except FormatError as error:
            wrong += 1
            if wrong > _MOST_PER_KIND:
                break
            yield Finding("error", source.name, error.offset, error.rule, error.message)
    if wrong > _MOST_PER_KIND:
        yield Finding(
            "error", source.name, None, _TABLE_RULE,
            "more blocks are misplaced; the rest of the block table was not examined",
        )  # fmt: skip
    else:
        yield from _overlaps(source, blocks)


def _overlaps(source: Source, blocks: BlockMap) -> Iterator[Finding]:
    """Yield pairs of blocks that lie on each other, of the first hundred thousand that do."""
    shared = (
        entry << 32 | number
        for number, entry in blocks.entries()
        if blocks.is_shared(number, entry) and _is_well_placed(blocks, number, entry)
    )
    used = sorted(islice(shared, _MOST_COMPARED))
    found = 0
    for one, other in pairwise(used):
        number, low = one & 0xFFFFFFFF, (one >> 32) * SECTOR
        if low + blocks.bitmap_size + blocks.length(number) > (other >> 32) * SECTOR:
            found += 1
            if found <= _MOST_PER_KIND:
                yield Finding(
                    "error", source.name, (other >> 32) * SECTOR, _TABLE_RULE,
                    f"blocks {number} and {other & 0xFFFFFFFF} overlap in the file",
                )  # fmt: skip
    if found > _MOST_PER_KIND or len(used) == _MOST_COMPARED:
        yield Finding("error", source.name, None, _TABLE_RULE, "more blocks overlap")


def _is_well_placed(blocks: BlockMap, number: int, entry: int) -> bool:
    try:
        blocks.place(number, entry)
    except FormatError:
        return False  # reported as misplaced
    return True


def _denied_sectors(source: Source, blocks: BlockMap) -> Iterator[Finding]:
    """Yield how many sectors of a dynamic disk hold data that its bitmaps deny.

    They read as zeros here; a program that ignores the bitmaps shows their bytes.
    In a differencing disk such sectors belong to the parent, whatever lies there.
    """
    denied, first = 0, None
    wrong = 0
    # Blocks that lie apart take no more than the file; entries without end may share one block.
    left = source.size()
    for number, entry in blocks.entries():
        try:
            place = blocks.place(number, entry)
            left -= blocks.bitmap_size + blocks.length(number)
            if left < 0:
                break  # reported as overlapping
            count, at = _denied(source, blocks, number, place)
        except FormatError:
            wrong += 1
            if wrong > _MOST_PER_KIND:
                break  # reported as misplaced, as are the others
            continue
        denied += count
        first = at if first is None else first
    if denied:
        yield Finding(
            "warning", source.name, first, "VHD sector bitmap",
            f"{denied} sectors hold data but are marked unused; they read as zeros",
        )  # fmt: skip


def _denied(source: Source, blocks: BlockMap, number: int, place: int) -> tuple[int, int | None]:
    """Count the sectors of one block that are marked unused and not zero; with the first one's offset.

    Looks only where the file may hold something, and at its bits a piece at a time.
    """
    start = number * blocks.block_size
    end = start + blocks.length(number)
    shift = place + blocks.bitmap_size - start
    count, first = 0, None
    for held in source.data_ranges(start + shift, end + shift):
        low = (held.offset - shift) // SECTOR * SECTOR
        for at in range(low, min(held.end - shift, end), _PIECE):
            piece = Present(number, at, min(at + _PIECE, end), place)
            for offset in _denied_in(source, blocks, piece):
                count += 1
                first = offset if first is None else first
    return count, first


def _denied_in(source: Source, blocks: BlockMap, part: Present) -> Iterator[int]:
    """Yield the offsets in the file of such sectors in a part of a block."""
    unused = [(low, high) for low, high, is_here in blocks.sectors(part) if not is_here]
    if not unused:
        return
    data = bytearray(part.high - part.low)
    shift = blocks.shift(part)
    fill_from(source, part.low + shift, memoryview(data))
    for low, high in unused:
        if not is_zero(memoryview(data)[low - part.low : high - part.low]):
            for at in range(low, high, SECTOR):
                if not is_zero(data[at - part.low : min(at + SECTOR, high) - part.low]):
                    yield at + shift
