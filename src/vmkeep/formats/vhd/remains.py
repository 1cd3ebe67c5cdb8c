"""What is left of a VHD that has no footer any more."""

from vmkeep.formats.errors import CorruptDisk
from vmkeep.formats.source import Source, read_at
from vmkeep.formats.vhd.footer import SECTOR, is_nearly_cookie
from vmkeep.formats.vhd.header import COOKIE


def refuse_vhd_remains(source: Source) -> None:
    """Raise :class:`CorruptDisk` for a file without a footer that holds what else a VHD has.

    A cookie with one or two damaged bytes, at either place, or the dynamic
    header where all writers put it: behind the copy of the footer.
    """
    size = source.size()
    for offset in (0, size - SECTOR, size - (SECTOR - 1)):
        if offset >= 0 and is_nearly_cookie(read_at(source, offset, len(COOKIE))):
            raise _damaged(source.name, offset)
    if read_at(source, SECTOR, len(COOKIE)) == COOKIE:
        raise _damaged(source.name, 0)


def _damaged(name: str, offset: int) -> CorruptDisk:
    return CorruptDisk(
        f"{name!r} is a VHD file whose footer is damaged.",
        file=name,
        offset=offset,
        rule="VHD footer: Cookie",
    )
