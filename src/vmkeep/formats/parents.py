"""How a differencing disk asks for its parent, and what it may be given.

A path inside a disk file is untrusted text from another machine. A format
therefore never opens a parent itself: it describes the parent, and the caller
picks an opened candidate from the files it was allowed to use.
"""

from collections.abc import Callable
from typing import Final

from vmkeep.formats.disk import Disk, Format, ParentReference
from vmkeep.formats.errors import ParentMissing

__all__ = ["FindParent", "ParentReference", "no_parents", "parent_missing"]

_RULES: Final[dict[Format, str]] = {
    "vhdx": "[MS-VHDX] 2.6.2.6.3",
    "vhd": "VHD dynamic header: Parent Locator",
}


FindParent = Callable[[ParentReference], Disk | None]
"""Return an opened candidate, or None when no allowed file has such a name.

The finder guards against cycles and too long chains. Whoever asks checks the
identity, and closes the candidate when it refuses it.
"""


def no_parents(reference: ParentReference) -> Disk | None:
    """Find nothing: for disks opened alone."""
    return None


def parent_missing(reference: ParentReference) -> ParentMissing:
    """Say that no allowed file is the parent."""
    names = " or ".join(repr(name) for name in reference.base_names()) or "a file it does not name"
    return ParentMissing(
        f"{reference.child!r} needs its parent {names}, which is not among the files given.",
        file=reference.child,
        rule=_RULES.get(reference.required_format, ""),
    )
