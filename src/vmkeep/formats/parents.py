"""How a differencing disk asks for its parent, and what it may be given.

A path inside a disk file is untrusted text from another machine. A format
therefore never opens a parent itself: it describes the parent, and the caller
picks an opened candidate from the files it was allowed to use.
"""

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from vmkeep.formats.disk import Disk, Format


@dataclass(frozen=True)
class ParentReference:
    """What a child says about its parent, none of it proven.

    ``candidates`` are paths of the machine that made the child, most useful
    first, exactly as written there: only their last parts may be compared with
    the names of allowed files. ``identities`` are the values one of which the
    parent must carry (VHDX: its DataWriteGuid; VHD: its Unique Id).
    """

    child: str
    candidates: tuple[str, ...]
    identities: tuple[UUID, ...]
    required_format: Format

    def base_names(self) -> tuple[str, ...]:
        """Return the last part of each candidate, in order, each once; never empty text or dots."""
        names = (path.replace("/", "\\").rpartition("\\")[2] for path in self.candidates)
        return tuple(dict.fromkeys(name for name in names if name not in ("", ".", "..")))


FindParent = Callable[[ParentReference], Disk | None]
"""Return an opened candidate, or None when no allowed file has such a name.

The finder guards against cycles and too long chains. Whoever asks checks the
identity, and closes the candidate when it refuses it.
"""


def no_parents(reference: ParentReference) -> Disk | None:
    """Find nothing: for disks opened alone."""
    return None
