"""A log that only a damaged header names: without it the tables are those of an earlier time.

The one sound header counts, whatever its age ([MS-VHDX] 2.2.2). Where the
damaged one was the newer and named a log, the file is not what the older one says.
"""

from dataclasses import replace
from typing import Final
from uuid import UUID

from vmkeep.formats.errors import CorruptDisk
from vmkeep.formats.source import Source, read_at
from vmkeep.formats.vhdx.headers import Header, damaged_header
from vmkeep.formats.vhdx.log import LogAllowance, check_log_place, owners_of, replay_log

# The damage may have met the GUID itself. Two random ones differ in 64 bits, hardly ever in fewer than 30.
_BITS_DAMAGED: Final = 16


def refuse_hidden_log(
    section: bytes, header: Header, source: Source, image: Source, allowance: LogAllowance
) -> None:
    """Raise :class:`CorruptDisk` when the damaged header names a log that says other than ``image`` holds.

    ``section`` is the header section as it lies in ``source``, ``header`` the
    sound one. A header that was torn while it was written is no harm: its log
    has no entries yet, or all of them are in their places already.
    """
    seeming = damaged_header(section)
    if seeming is None:
        return
    for place in dict.fromkeys((header.log, seeming.log)):
        named = replace(header, log=place)
        if check_log_place(named, source.size(), source.name) is not None:
            continue
        ring = read_at(source, place.offset, place.length)
        owner = _most_like(seeming.log_guid, owners_of(ring) - {header.log_guid})
        if owner is not None:
            hidden = replay_log(source, replace(named, log_guid=owner), allowance)
            if hidden.alters(image):
                raise _hidden(source.name, place.offset)


def _most_like(damaged: UUID, owners: set[UUID]) -> UUID | None:
    """Return the owner of log entries that the damaged GUID was, None when it was none of them."""
    bits = {owner: (owner.int ^ damaged.int).bit_count() for owner in owners}
    owner = min(bits, key=lambda one: (bits[one], one.int), default=None)
    return owner if owner is not None and bits[owner] <= _BITS_DAMAGED else None


def _hidden(file: str, offset: int) -> CorruptDisk:
    return CorruptDisk(
        f"{file!r} has a damaged header that names a log with changes: "
        "what the other header says may be older than the disk.",
        file=file,
        offset=offset,
        rule="[MS-VHDX] 2.2.2, 2.3.3",
    )
