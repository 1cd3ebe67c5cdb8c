"""References as endpoint addresses, resource URIs as classes, and back ([MS-WSMV] 3.1.4.1.1, 3.1.4.1.2)."""

from dataclasses import dataclass
from xml.etree.ElementTree import Element

from vmkeep_lab.cim import Ref, WmiError
from vmkeep_lab.schema import CimClass, Schema
from vmkeep_lab.wire.faults import (
    INVALID_PARAMETER,
    RESOURCE_NOT_FOUND,
    SCHEMA_VALIDATION,
    SELECTOR_LIMIT,
    SoapFault,
)
from vmkeep_lab.wire.markup import attribute, text
from vmkeep_lab.wire.names import ADDRESSING, ANONYMOUS, WMI, WSMAN, tag

Selectors = tuple[tuple[str, "str | Ref"], ...]

_NAMESPACE_SELECTOR = "__cimnamespace"
_MAX_SELECTORS = 50


@dataclass(frozen=True)
class Target:
    """What a resource URI names: a namespace and, unless it ends in ``*``, a class."""

    uri: str
    namespace: str
    kind: CimClass | None


class Addresses:
    """Writes and reads references as the classes of one host say they look."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def target(self, uri: str) -> Target:
        """Return what a resource URI names; SoapFault where there is no such thing."""
        path = uri.partition("?")[0].rstrip("/")
        lower = path.lower()
        if lower.startswith(WMI):
            namespace, _, name = path[len(WMI) :].rpartition("/")
        else:
            raise SoapFault(RESOURCE_NOT_FOUND, "The resource URI was not found in the catalog.")
        namespace = namespace.lower()
        if name == "*":
            self._schema.classes(namespace)
            return Target(path, namespace, None)
        return Target(path, namespace, self._schema.find(namespace, name))

    def endpoint(self, ref: Ref) -> str:
        """Return an a:EndpointReference."""
        return f"<a:EndpointReference>{self._address(ref)}</a:EndpointReference>"

    def inside_property(self, ref: Ref) -> str:
        """Return the rest of a start tag and what stands inside a reference property (recorded)."""
        return f' xmlns:a="{ADDRESSING}" xmlns:w="{WSMAN}">{self._address(ref)}'

    def _address(self, ref: Ref) -> str:
        return (
            f"<a:Address>{ANONYMOUS}</a:Address><a:ReferenceParameters>"
            f"<w:ResourceURI>{WMI}{text(ref.namespace)}/{text(ref.class_name)}</w:ResourceURI>"
            f"<w:SelectorSet>{self._selectors(ref)}</w:SelectorSet></a:ReferenceParameters>"
        )

    def _selectors(self, ref: Ref) -> str:
        try:
            kinds = self._schema.find(ref.namespace, ref.class_name).properties
        except WmiError:
            kinds = {}
        rows = []
        for name, value in ref.keys:
            kind = kinds.get(name)
            inside = text(value)
            if kind is not None and kind.name == "reference":
                # The key of an association is itself a reference, kept as an object path.
                inside = self.endpoint(Ref.from_path(value, ref.namespace))
            rows.append(f"<w:Selector Name={attribute(name)}>{inside}</w:Selector>")
        return "".join(rows)

    def read_inside_property(self, element: Element, namespace: str) -> Ref:
        """Read a reference parameter; SoapFault where an EndpointReference is wrapped around it.

        The wrapper is what a real host refuses as a schema error (libvirt, go-wsman).
        """
        parameters = element.find(tag(ADDRESSING, "ReferenceParameters"))
        if parameters is None:
            if len(element):
                raise SoapFault(SCHEMA_VALIDATION, f"{element.tag[:120]} holds no ReferenceParameters")
            # WMI also takes an object path.
            return self.spelled(Ref.from_path(element.text or "", namespace))
        return self._read(parameters)

    def _read(self, parameters: Element) -> Ref:
        uri = (parameters.findtext(tag(WSMAN, "ResourceURI")) or "").strip()
        selectors = self.read_selectors(parameters.find(tag(WSMAN, "SelectorSet")))
        target = self.target(uri)
        if target.kind is None:
            raise SoapFault(INVALID_PARAMETER, f"{uri[:200]} names no class")
        return self.reference(target.kind, selectors)

    def read_selectors(self, element: Element | None) -> Selectors:
        """Read a w:SelectorSet."""
        if element is None:
            return ()
        rows: list[tuple[str, str | Ref]] = []
        for each in element:
            if each.tag != tag(WSMAN, "Selector") or "Name" not in each.attrib:
                raise SoapFault(SCHEMA_VALIDATION, "a SelectorSet holds Selectors with names")
            nested = each.find(
                f"{tag(ADDRESSING, 'EndpointReference')}/{tag(ADDRESSING, 'ReferenceParameters')}"
            )
            rows.append((each.attrib["Name"], each.text or "" if nested is None else self._read(nested)))
        if len(rows) > _MAX_SELECTORS:
            raise SoapFault(SELECTOR_LIMIT, "too many selectors")
        return tuple(rows)

    def reference(self, kind: CimClass, selectors: Selectors) -> Ref:
        """Return selectors as a reference to that class, names spelled as the class spells them."""
        keys = [
            (kind.property_name(name) or name, value.path() if isinstance(value, Ref) else value)
            for name, value in selectors
            if name.lower() != _NAMESPACE_SELECTOR
        ]
        return Ref(kind.name, tuple(sorted(keys)), kind.namespace)

    def spelled(self, ref: Ref) -> Ref:
        """Return a reference spelled as the schema does; WmiError where its class does not exist."""
        return self.reference(self._schema.find(ref.namespace, ref.class_name), ref.keys)
