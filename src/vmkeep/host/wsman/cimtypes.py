"""Know CIM's types: which values fit, and how they are spelled on the wire and in CIM-XML."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol, Self, runtime_checkable

from vmkeep.host.wsman.errors import ArgumentRefused
from vmkeep.host.wsman.refs import Ref
from vmkeep.host.wsman.times import cim_interval, cim_moment, iso_interval, iso_moment

_INTEGERS: Final = {
    **{f"uint{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)},
    **{f"sint{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
}
_KINDS: Final = frozenset({*_INTEGERS, "string", "boolean", "datetime", "reference"})


@runtime_checkable
class CimXml(Protocol):
    """An instance that travels as text inside a string."""

    @property
    def cim_xml(self) -> str:
        """Return the text."""


Scalar = str | int | bool | datetime | timedelta | Ref | CimXml
Argument = Scalar | Sequence[Scalar] | None


@dataclass(frozen=True)
class CimType:
    """One declared type: ``uint16``, ``string[]``, ``reference``..."""

    kind: str
    is_array: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a declaration. Raises ArgumentRefused for a type that CIM does not have."""
        kind = text.removesuffix("[]")
        if kind not in _KINDS:
            raise ArgumentRefused(f"{text!r} is not a CIM type.")
        return cls(kind, text.endswith("[]"))

    def __str__(self) -> str:
        return self.kind + ("[]" if self.is_array else "")

    def items(self, value: Argument, where: str) -> Sequence[Scalar]:
        """Return the values one by one, a scalar as the only one. Raises ArgumentRefused."""
        is_list = isinstance(value, Sequence) and not isinstance(value, str)
        if value is None or is_list != self.is_array:
            raise ArgumentRefused(f"{where} is {self}, which {value!r} is not.")
        return value if isinstance(value, Sequence) and not isinstance(value, str) else [value]

    def spell(self, value: Scalar, where: str, *, in_cim_xml: bool) -> str:
        """Return one value as unescaped text. Raises ArgumentRefused where it does not fit.

        Times inside CIM-XML are spelled CIM's way, on the wire as ISO 8601; the wrong
        one is answered with error 32768 (hyperv-backup-api.md 5.3).
        """
        match value:
            case bool() if self.kind == "boolean":
                return "true" if value else "false"
            case int() if self.kind in _INTEGERS and not isinstance(value, bool):
                least, most = _INTEGERS[self.kind]
                if least <= value <= most:
                    return str(value)
            case str() if self.kind == "string":
                return value
            case Ref() if self.kind in {"string", "reference"}:
                return value.path
            case datetime() if self.kind == "datetime":
                return cim_moment(value) if in_cim_xml else iso_moment(value)
            case timedelta() if self.kind == "datetime":
                return cim_interval(value) if in_cim_xml else iso_interval(value)
            case CimXml() if self.kind == "string":
                return value.cim_xml
            case _:
                pass
        raise ArgumentRefused(f"{where} is {self}, which {value!r} is not.")
