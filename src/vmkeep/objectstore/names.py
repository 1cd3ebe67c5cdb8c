"""Decide which names an object may have, the same for every back end."""

import re
from typing import Final

from vmkeep.objectstore.errors import BadObjectName

MAX_SEGMENT: Final = 128
MAX_NAME: Final = 240

# A name must survive as a file name on Linux and on Windows, and as a key in S3 and Azure. Windows
# drops a trailing dot and opens a device for CON, NUL and others, with any extension
# (learn.microsoft.com, "Naming Files, Paths, and Namespaces").
_SEGMENT: Final = (
    r"(?!(?i:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:[./]|\Z))"
    rf"[A-Za-z0-9_-](?:[A-Za-z0-9._-]{{0,{MAX_SEGMENT - 2}}}[A-Za-z0-9_-])?"
)
# The directory store keeps unfinished files in tmp/, so no object may live there.
_NAME: Final = re.compile(rf"(?!(?i:tmp)(?:/|\Z)){_SEGMENT}(?:/{_SEGMENT})*")


def is_valid_name(name: str) -> bool:
    """Tell whether every back end can keep an object of this name."""
    return len(name) <= MAX_NAME and _NAME.fullmatch(name) is not None


def validate_name(name: str) -> None:
    """Raise :class:`BadObjectName` unless every back end can keep an object of this name.

    Two names must not differ in case only, and no name may be a folder of
    another (``a`` and ``a/b``): the first is the caller's duty, the second is
    refused when it happens.
    """
    if not is_valid_name(name):
        raise BadObjectName(f"{name[:MAX_NAME]!r} cannot be the name of a stored object.", name=name)


def validate_prefix(prefix: str) -> None:
    """Raise :class:`BadObjectName` unless ``prefix`` is empty or whole segments ending in ``/``."""
    if prefix and not (prefix.endswith("/") and is_valid_name(prefix[:-1])):
        raise BadObjectName(f"{prefix[:MAX_NAME]!r} cannot be the beginning of object names.", name=prefix)


def folder_conflict(name: str, address: str) -> BadObjectName:
    """Return the error for a name that is a folder of other objects, or lies below an object."""
    return BadObjectName(
        f"{name!r} cannot be stored in {address!r}: a name there is at once an object and a folder.",
        name=name,
        address=address,
    )
