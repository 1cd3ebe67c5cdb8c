"""Where the data of a VM comes from, as the user names it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

from vmkeep.errors import UsageError

# What Python makes of such bytes in names and arguments (PEP 383), and any other lone surrogate.
_NO_TEXT: Final = re.compile("[\ud800-\udfff]")


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
        return readable(f"{self.kind}:{self.path}")


def readable(text: str) -> str:
    """Return a file system's text as Unicode that can be stored: bytes that are no UTF-8 become %XX."""
    return _NO_TEXT.sub(lambda match: percent(match[0]), text)


def percent(character: str) -> str:
    """Write a character as the %XX of its bytes; what stands for a byte (PEP 383) as that byte."""
    stands_for_a_byte = "\udc80" <= character <= "\udcff"
    encoded = character.encode("utf-8", "surrogateescape" if stands_for_a_byte else "surrogatepass")
    return "".join(f"%{byte:02X}" for byte in encoded)
