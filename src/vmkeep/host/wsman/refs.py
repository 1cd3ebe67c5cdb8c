"""Address one WMI object: as an endpoint reference on the wire, as an object path inside text."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Protocol, Self
from xml.etree.ElementTree import Element

from vmkeep.host.wsman.errors import ArgumentRefused, ValueRefused
from vmkeep.host.wsman.names import ADDRESSING, ANONYMOUS, DMTF_CLASSES, WMI, WSMAN, class_uri
from vmkeep.host.wsman.reading import DEEPEST, content_of
from vmkeep.host.wsman.writing import attribute, escaped

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAMESPACE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*")
_SERVER: Final = re.compile(r"\A[\\/]{2}[^\\/]+[\\/]")
_CLASS: Final = re.compile(r"(?:([A-Za-z0-9_/\\]+):)?([A-Za-z_][A-Za-z0-9_]*)")
_KEY: Final = re.compile(r'[.,]([A-Za-z_][A-Za-z0-9_]*)=(?:"((?:[^"\\]|\\.)*)"|([^",.\s]+))', re.DOTALL)


class Keyed(Protocol):
    """What a reference can be taken of: an object with a class and properties."""

    class_name: str
    namespace: str

    def text(self, name: str) -> str:
        """Return the text of a property."""


@dataclass(frozen=True, eq=False)
class Ref:
    """The address of one WMI object: namespace, class, and the values of its keys.

    Two are equal if they differ in letter case only: WMI compares so
    ([MS-WSMV] 3.1.4.1.2). No keys: the class itself, or its only instance.
    Raises ArgumentRefused for names that are none.
    """

    namespace: str
    class_name: str
    keys: "Mapping[str, str | Ref]"
    _identity: tuple[object, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        namespace = self.namespace.replace("\\", "/")
        if not _NAMESPACE.fullmatch(namespace):
            raise ArgumentRefused(f"{self.namespace!r} is not a WMI namespace.")
        for name in (self.class_name, *self.keys):
            if not _NAME.fullmatch(name):
                raise ArgumentRefused(f"{name!r} is not the name of a WMI class or key.")
        if len({name.lower() for name in self.keys}) < len(self.keys):
            raise ArgumentRefused(f"a key of {self.class_name} is given twice.")
        folded = sorted(
            (name.lower(), value.lower() if isinstance(value, str) else value._identity)
            for name, value in self.keys.items()
        )
        object.__setattr__(self, "namespace", namespace)
        object.__setattr__(self, "keys", MappingProxyType(dict(self.keys)))
        object.__setattr__(self, "_identity", (namespace.lower(), self.class_name.lower(), *folded))

    @classmethod
    def singleton(cls, namespace: str, class_name: str) -> Self:
        """Address the only instance of a service class, which wants its own name as key."""
        return cls(namespace, class_name, {"CreationClassName": class_name})

    @classmethod
    def of(cls, instance: Keyed, *keys: str) -> Self:
        """Address an instance that was read, by the key properties named."""
        return cls(instance.namespace, instance.class_name, {key: instance.text(key) for key in keys})

    @classmethod
    def parse(cls, path: str, namespace: str = "") -> Self:
        r"""Read a WMI object path: ``\\SERVER\root\virtualization\v2:Class.Key="value"``.

        The server is left out of the result: a host speaks of itself. A path
        without a namespace is taken relative to ``namespace``. Raises ValueRefused.
        """
        rest = _SERVER.sub("", path)
        head = _CLASS.match(rest)
        if head is None:
            raise ValueRefused(f"{path!r} is not a WMI object path.")
        keys: dict[str, str | Ref] = {}
        for name, value in _keys_of(path, rest[head.end() :]):
            if name in keys:
                raise ValueRefused(f"the WMI object path {path!r} gives {name} twice.")
            keys[name] = value
        try:
            return cls(head[1] or namespace, head[2], keys)
        except ArgumentRefused as error:
            raise ValueRefused(f"{path!r} is not a WMI object path.") from error

    @property
    def path(self) -> str:
        """The object path without a server, as properties and CIM-XML carry it."""
        keys = ",".join(f"{name}={_quoted(value)}" for name, value in self.keys.items())
        return f"{self.namespace}:{self.class_name}" + (f".{keys}" if keys else "=@")

    @property
    def uri(self) -> str:
        """The resource address of the class."""
        return class_uri(self.namespace, self.class_name)

    def __eq__(self, other: object) -> bool:
        return self._identity == other._identity if isinstance(other, Ref) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._identity)

    def __str__(self) -> str:
        return self.path


def _keys_of(path: str, rest: str) -> Iterator[tuple[str, str]]:
    if rest in {"", "=@"}:
        return
    position = 0
    while position < len(rest):
        found = _KEY.match(rest, position)
        if found is None or (found[0][0] == ".") != (position == 0):
            raise ValueRefused(f"the keys of the WMI object path {path!r} cannot be read.")
        name, quoted, bare = found.groups()
        yield name, bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL)
        position = found.end()


def _quoted(value: str | Ref) -> str:
    # A wrong escape is answered with error 32773, whatever else is right (hyperv-backup-api.md 5.3).
    text = value if isinstance(value, str) else value.path
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def reference_xml(ref: Ref) -> str:
    """Return the inside of an endpoint reference: address and parameters, without a wrapper.

    A REF input with ``a:EndpointReference`` around it is a SchemaValidationError
    (hyperv-backup-api.md section 0, fact 3).
    """
    return (
        f"<a:Address>{ANONYMOUS}</a:Address><a:ReferenceParameters><w:ResourceURI>{escaped(ref.uri)}"
        f"</w:ResourceURI>{selectors_xml(ref)}</a:ReferenceParameters>"
    )


def selectors_xml(ref: Ref) -> str:
    """Return the selector set that picks the object; nothing for a reference without keys."""
    selectors = [
        f"<w:Selector Name={attribute(name)}>{_selector(value)}</w:Selector>"
        for name, value in ref.keys.items()
    ]
    return f"<w:SelectorSet>{''.join(selectors)}</w:SelectorSet>" if selectors else ""


def _selector(value: str | Ref) -> str:
    # Believed (docs/believed.md): a key that is a reference is wrapped, unlike a property.
    if isinstance(value, Ref):
        return f"<a:EndpointReference>{reference_xml(value)}</a:EndpointReference>"
    return escaped(value)


def read_reference(element: Element, depth: int = 0) -> Ref:
    """Read an endpoint reference: address and parameters directly inside, or in a wrapper.

    Raises ValueRefused for one that addresses nothing in WMI.
    """
    wrapped = element.find(f"{{{ADDRESSING}}}EndpointReference")
    inside = element if wrapped is None else wrapped
    parameters = inside.find(f"{{{ADDRESSING}}}ReferenceParameters")
    if parameters is None or depth > DEEPEST:
        raise ValueRefused(f"<{element.tag}> holds no reference.")
    namespace, class_name = split_uri(content_of(parameters.find(f"{{{WSMAN}}}ResourceURI")))
    keys: dict[str, str | Ref] = {}
    for selector in parameters.iterfind(f"{{{WSMAN}}}SelectorSet/{{{WSMAN}}}Selector"):
        name = selector.get("Name", "")
        if name.lower() == "__cimnamespace":  # some servers repeat the namespace here
            namespace = namespace or content_of(selector)
        elif len(selector):
            keys[name] = read_reference(selector, depth + 1)
        else:
            keys[name] = selector.text or ""
    try:
        return Ref(namespace, class_name, keys)
    except ArgumentRefused as error:
        raise ValueRefused(f"<{element.tag}> holds a reference that cannot be: {error.message}") from error


def split_uri(uri: str) -> tuple[str, str]:
    """Return namespace and class of a resource address; an empty namespace for a DMTF class.

    Raises ValueRefused for an address that is not WMI's.
    """
    if uri.lower().startswith(WMI.lower() + "/"):
        namespace, slash, class_name = uri[len(WMI) + 1 :].rpartition("/")
        if slash:
            return namespace, class_name
    elif uri.startswith(DMTF_CLASSES + "/"):
        return "", uri[len(DMTF_CLASSES) + 1 :]
    raise ValueRefused(f"{uri!r} is not the address of a WMI class.")
