"""Where the data of a VM comes from, as the user names it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from vmkeep.errors import UsageError


@dataclass(frozen=True)
class SourceAddress:
    """``folder:PATH`` (exported VM or loose disks) or ``disk:PATH`` (one disk file)."""

    kind: Literal["folder", "disk"]
    path: Path

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an address. Raises UsageError that says what is allowed."""
        kind, separator, rest = text.partition(":")
        if separator and rest and not text.startswith("hyperv://"):
            if kind == "folder":
                return cls("folder", Path(rest))
            if kind == "disk":
                return cls("disk", Path(rest))
        if text.startswith("hyperv://"):
            raise UsageError(
                f"{text!r}: this version cannot talk to a Hyper-V host yet.",
                hint="Export the VM and use folder:PATH, or give one disk with disk:FILE.",
            )
        raise UsageError(
            f"{text!r} is not a source.",
            hint="Use folder:PATH for an exported VM or loose disks, disk:FILE for one disk.",
        )

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}"
