"""Declare the methods that are called: their inputs in the order of the MOF, with their CIM types."""

from collections.abc import Mapping
from dataclasses import dataclass

from vmkeep.host.wsman.cimtypes import Argument, CimType, CimXml, Scalar
from vmkeep.host.wsman.errors import ArgumentRefused
from vmkeep.host.wsman.names import ADDRESSING, CIM, WSMAN
from vmkeep.host.wsman.refs import Ref, reference_xml
from vmkeep.host.wsman.writing import attribute, cdata, escaped


@dataclass(frozen=True)
class Method:
    """A method's name and its inputs: ``(("AffectedSystem", "reference"), ("SnapshotType", "uint16"))``.

    Raises ArgumentRefused for a type that CIM does not have, and for an input given twice.
    """

    name: str
    inputs: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for _, declared in self.inputs:
            CimType.parse(declared)
        if len({name for name, _ in self.inputs}) < len(self.inputs):
            raise ArgumentRefused(f"{self.name} declares an input twice.")

    def input_xml(self, uri: str, arguments: Mapping[str, Argument]) -> str:
        """Return the body of a call, inputs in declared order; what is None or missing is left out.

        Raises ArgumentRefused for an argument that is not declared or does not fit.
        """
        unknown = set(arguments) - {name for name, _ in self.inputs}
        if unknown:
            raise ArgumentRefused(f"{self.name} declares no {', '.join(sorted(unknown))}.")
        body = []
        for name, declared in self.inputs:
            value = arguments.get(name)
            if value is None:
                continue
            kind, where = CimType.parse(declared), f"{self.name}.{name}"
            body += [
                f"<p:{name}>{_content(item, kind, where)}</p:{name}>" for item in kind.items(value, where)
            ]
        return (
            f"<p:{self.name}_INPUT xmlns:p={attribute(uri)} xmlns:a={attribute(ADDRESSING)} "
            f"xmlns:w={attribute(WSMAN)} xmlns:cim={attribute(CIM)}>{''.join(body)}</p:{self.name}_INPUT>"
        )


def _content(value: Scalar, kind: CimType, where: str) -> str:
    text = kind.spell(value, where, in_cim_xml=False)
    if kind.kind == "reference":
        if not isinstance(value, Ref):
            raise ArgumentRefused(f"{where} is a reference, which {value!r} is not.")
        return reference_xml(value)
    if kind.kind == "datetime":
        element = "Interval" if text.startswith("P") else "Datetime"
        return f"<cim:{element}>{text}</cim:{element}>"
    # An instance inside text stands in CDATA, as the programs do that are known to work
    # (hyperv-backup-api.md 5.3); to an XML reader it is the same.
    return cdata(text) if isinstance(value, CimXml) else escaped(text)
