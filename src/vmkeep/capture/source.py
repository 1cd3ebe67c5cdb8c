"""Where the data of a VM comes from, as the user names it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

from vmkeep.errors import UsageError

HOST_SCHEME: Final = "hyperv://"
# What Python makes of such bytes in names and arguments (PEP 383), and any other lone surrogate.
_NO_TEXT: Final = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class SourceAddress:
    """``folder:PATH`` (exported VM or loose disks) or ``disk:PATH`` (one disk file)."""

    kind: Literal["folder", "disk"]
    path: Path

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an address of files. Raises UsageError that says what is allowed."""
        kind, _, rest = text.partition(":")
        if kind == "folder" and rest:
            return cls("folder", Path(rest))
        if kind == "disk" and rest:
            return cls("disk", Path(rest))
        raise UsageError(
            f"{text!r} is not a source.",
            hint="Use hyperv://NAME or hyperv://NAME/VM for a configured host, folder:PATH for an exported "
            "VM or loose disks, disk:FILE for one disk.",
        )

    def __str__(self) -> str:
        return readable(f"{self.kind}:{self.path}")


@dataclass(frozen=True)
class HostAddress:
    """``hyperv://NAME`` or ``hyperv://NAME/VM``: a configured host, and one of its VMs by name or id.

    The VM is taken letter for letter: all that stands behind the first slash.
    """

    host: str
    vm: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an address of a host. Raises UsageError that says what is allowed."""
        host, separator, vm = text.removeprefix(HOST_SCHEME).partition("/")
        if not text.startswith(HOST_SCHEME) or not host or (separator and not vm):
            what = "no VM behind the slash" if host and separator else "no host"
            raise UsageError(
                f"{text!r} names {what}.", hint="Use hyperv://NAME or hyperv://NAME/VM, as configured."
            )
        return cls(host, vm or None)

    def __str__(self) -> str:
        return readable(HOST_SCHEME + self.host + (f"/{self.vm}" if self.vm is not None else ""))


def parse_source(text: str) -> SourceAddress | HostAddress:
    """Read where data comes from. Raises UsageError that says what is allowed."""
    return HostAddress.parse(text) if text.startswith(HOST_SCHEME) else SourceAddress.parse(text)


def readable(text: str) -> str:
    """Return a file system's text as Unicode that can be stored: bytes that are no UTF-8 become %XX."""
    return _NO_TEXT.sub(lambda match: percent(match[0]), text)


def percent(character: str) -> str:
    """Write a character as the %XX of its bytes; what stands for a byte (PEP 383) as that byte."""
    stands_for_a_byte = "\udc80" <= character <= "\udcff"
    encoded = character.encode("utf-8", "surrogateescape" if stands_for_a_byte else "surrogatepass")
    return "".join(f"%{byte:02X}" for byte in encoded)
