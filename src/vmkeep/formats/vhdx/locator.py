"""The parent locator: what a child says about its parent."""

from typing import Final
from uuid import UUID

from vmkeep.formats.errors import CorruptDisk, UnsupportedDisk
from vmkeep.formats.parents import ParentReference
from vmkeep.formats.vhdx import layout

# The order in which a child's paths are to be tried: [MS-VHDX] 2.6.2.6.3.
_PATH_KEYS: Final = ("relative_path", "volume_path", "absolute_win32_path")
# parent_linkage2 is the value a running merge is about to give the parent. One sentence of
# the text forbids it, another demands a check against both: either may match.
_LINKAGE_KEYS: Final = ("parent_linkage", "parent_linkage2")

_QUOTED: Final = 64  # characters of a text that are enough for a message

_RULE: Final = "[MS-VHDX] 2.6.2.6"


def parse_locator(data: bytes, file: str) -> ParentReference:
    """Return what the raw locator item of ``file`` names, or raise."""
    if len(data) < layout.LOCATOR.size:
        raise _broken(file, "it is cut")
    kind, _, count = layout.LOCATOR.unpack_from(data)
    if layout.guid(kind) != layout.LOCATOR_TYPE_VHDX:
        raise UnsupportedDisk(
            f"{file!r} has a parent that is not a VHDX disk.", file=file, rule=f"{_RULE}.1 LocatorType"
        )
    entries_end = layout.LOCATOR.size + count * layout.LOCATOR_ENTRY.size
    if entries_end > len(data):
        raise _broken(file, f"it claims {count} entries")
    entries = data[layout.LOCATOR.size : entries_end]
    # One stretch of text named by each of 65535 entries would become thousands of MiB.
    lengths = (key + value for _, _, key, value in layout.LOCATOR_ENTRY.iter_unpack(entries))
    if sum(lengths) > len(data):
        raise _broken(file, "its texts lie on each other")
    pairs: dict[str, str] = {}
    for key_at, value_at, key_length, value_length in layout.LOCATOR_ENTRY.iter_unpack(entries):
        key = _text(data, key_at, key_length, file)
        if key in pairs:
            raise _broken(file, f"it has the key {key[:_QUOTED]!r} twice")
        pairs[key] = _text(data, value_at, value_length, file)
    if "parent_linkage" not in pairs:
        raise _broken(file, "it does not say which parent it means")
    candidates = tuple(pairs[key] for key in _PATH_KEYS if key in pairs)
    if not candidates:
        raise _broken(file, "it names no path")
    linkages = [_linkage(pairs[key], file) for key in _LINKAGE_KEYS if key in pairs]
    # A null one is nobody's identity. Hyper-V is said to write it as the second while nothing is merged.
    identities = tuple(guid for guid in linkages if guid != layout.NO_GUID)
    if not identities:
        raise _broken(file, "it does not say which parent it means")
    locators = tuple((key, pairs[key]) for key in (*_PATH_KEYS, *_LINKAGE_KEYS) if key in pairs)
    return ParentReference(file, candidates, identities, "vhdx", locators)


def _text(data: bytes, at: int, length: int, file: str) -> str:
    if at == 0 or length == 0 or length % 2 or at + length > len(data):
        raise _broken(file, "a text lies outside of it")
    try:
        text = data[at : at + length].decode("utf-16-le")
    except UnicodeDecodeError as error:
        raise _broken(file, "a text is not UTF-16") from error
    if "\0" in text:
        raise _broken(file, "a text holds a NUL")
    return text


def _linkage(text: str, file: str) -> UUID:
    # Braces and letter case vary between writers.
    try:
        return UUID(text.strip("{}"))
    except ValueError as error:
        raise _broken(file, f"{text[:_QUOTED]!r} is not a GUID") from error


def _broken(file: str, what: str) -> CorruptDisk:
    return CorruptDisk(f"{file!r} has a broken reference to its parent: {what}.", file=file, rule=_RULE)
