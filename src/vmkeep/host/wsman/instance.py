"""Turn the elements of a reply into instances and results."""

from collections.abc import Mapping
from typing import Final
from xml.etree.ElementTree import Element

from vmkeep.host.wsman.errors import HostNonsense, ValueRefused
from vmkeep.host.wsman.names import ADDRESSING, CIM, WMI, WSMAN, XSI
from vmkeep.host.wsman.properties import Properties, Stamp, Unread, Value
from vmkeep.host.wsman.reading import DEEPEST, is_nil, split_tag
from vmkeep.host.wsman.refs import read_reference, split_uri

_TIMES: Final = frozenset({f"{{{CIM}}}Datetime", f"{{{CIM}}}Interval", f"{{{CIM}}}Date", f"{{{CIM}}}Time"})
_LOCATION: Final = f"{{{CIM}}}Location"
_FRAGMENT: Final = f"{{{WSMAN}}}XmlFragment"
_REFERENCES: Final = frozenset(
    {f"{{{ADDRESSING}}}ReferenceParameters", f"{{{ADDRESSING}}}EndpointReference", f"{{{ADDRESSING}}}Address"}
)
_TYPE: Final = f"{{{XSI}}}type"


class Instance(Properties):
    """One WMI instance as the host sent it: class, namespace, properties."""

    __slots__ = ("namespace",)

    def __init__(self, class_name: str, namespace: str, values: Mapping[str, Value]) -> None:
        super().__init__(class_name, values)
        self.namespace = namespace


class Result(Properties):
    """What a method returned: its number, and the out parameters as properties.

    A number other than 0 is no error here: 4096 means that a job was started.
    """

    __slots__ = ("return_value",)

    def __init__(self, method: str, values: Mapping[str, Value]) -> None:
        super().__init__(method, values)
        self.return_value = self.integer("ReturnValue")


def read_instance(element: Element, namespace: str, class_asked: str) -> Instance:
    """Read one item of an enumeration, or the body of a Get.

    The element's namespace names the class; a projection may come without one
    (see :func:`_read_projection`). Raises HostNonsense for anything else.
    """
    uri, name = split_tag(element.tag)
    if not uri.lower().startswith(WMI) and not uri.startswith("http://schemas.dmtf.org/wbem/wscim/1/"):
        return _read_projection(element, namespace, class_asked)
    try:
        found_namespace, class_name = split_uri(uri)
    except ValueRefused as error:
        raise HostNonsense(f"an instance came as <{element.tag}>.") from error
    if class_name.lower() != name.lower():
        raise HostNonsense(f"<{name}> was sent in the namespace of {class_name}.")
    return Instance(name, found_namespace or namespace, read_properties(element, f"{{{uri}}}"))


def _read_projection(element: Element, namespace: str, class_asked: str) -> Instance:
    """Read the answer to SELECT with a list of properties.

    Believed (docs/believed.md): a ``w:XmlFragment`` around the properties, which
    have no namespace; or the class's element without one ([MS-WSMV] notes 58, 59).
    """
    uri, name = split_tag(element.tag)
    if element.tag == _FRAGMENT:
        # The fragment may hold the class's element, or its properties directly.
        inside = list(element)
        if len(inside) == 1 and split_tag(inside[0].tag)[1].lower() == class_asked.lower():
            return read_instance(inside[0], namespace, class_asked)
        name = class_asked
    elif uri or not class_asked:
        raise HostNonsense(f"an instance came as <{element.tag}>.")
    if not name:
        raise HostNonsense("an instance came without its class.")
    return Instance(name, namespace, read_properties(element, ""))


def read_properties(element: Element, prefix: str, depth: int = 0) -> dict[str, Value]:
    """Return the child elements as named values; a repeated name makes a list.

    ``prefix`` is the expected namespace as ElementTree spells it; other
    properties keep their local name. Raises HostNonsense for bottomless nesting.
    """
    values: dict[str, Value] = {}
    cut = len(prefix)
    for child in element:
        tag = child.tag
        if tag.startswith(prefix) and "}" not in tag[cut:]:
            name = tag[cut:]
        elif tag == _LOCATION:  # older stacks end an instance with its own address
            continue
        else:
            name = split_tag(tag)[1]
        value: Value
        if len(child):
            value = _structured(child, depth)
        elif child.attrib and is_nil(child):
            value = None
        else:
            value = child.text or ""
        if name not in values:
            values[name] = value
        elif isinstance(values[name], list):
            values[name].append(value)  # type: ignore[attr-defined]
        else:
            values[name] = [values[name], value]
    return values


def _structured(element: Element, depth: int) -> Value:
    """Return what an element with children holds: a time, a reference, or an instance."""
    if depth > DEEPEST:
        raise HostNonsense("an instance is nested without an end.")
    first = element[0]
    if first.tag in _TIMES and len(element) == 1:
        return Stamp((first.text or "").strip())
    if first.tag in _REFERENCES:
        try:
            return read_reference(element)
        except ValueRefused:
            return Unread(element.tag)  # an address outside WMI; refused by name when it is asked for
    kind = element.get(_TYPE, "").rpartition(":")[2]
    if kind.endswith("_Type"):
        uri = split_tag(first.tag)[0]
        return Instance(kind.removesuffix("_Type"), "", read_properties(element, f"{{{uri}}}", depth + 1))
    return Unread(element.tag)
