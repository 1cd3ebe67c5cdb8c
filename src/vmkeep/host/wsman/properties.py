"""Read properties by type and refuse what is not of it; instances inside text among them.

A property is kept as it came: text, None, a wrapped time, a reference, a nested
instance, or a list of these. What it means is decided when it is asked for, by
the accessor that names the type.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, TypeVar
from xml.etree.ElementTree import Element

from vmkeep.host.wsman.cimtypes import Argument, CimType
from vmkeep.host.wsman.errors import ArgumentRefused, HostNonsense, ValueRefused
from vmkeep.host.wsman.reading import parsed
from vmkeep.host.wsman.refs import Ref
from vmkeep.host.wsman.times import NEVER, read_interval, read_moment
from vmkeep.host.wsman.writing import attribute, escaped

T = TypeVar("T")


class Stamp(str):
    """The text of a moment or interval that came wrapped in an element of its own."""

    __slots__ = ()


@dataclass(frozen=True)
class Unread:
    """A value of a shape nobody declared; refused once somebody asks for it."""

    tag: str


Value = object  # str | Stamp | None | Ref | Properties | Unread, or a list of these

_BOOLEANS: Final = {"true": True, "false": False, "1": True, "0": False}


class Properties:
    """Named values of one class, read by accessors that refuse a wrong type.

    Each ``X`` refuses null; each ``X_or_none`` returns None for it. The plural
    ones return ``()`` for null, for an empty array, and for an array that was not
    sent: on the wire the three look alike (wsman-wire.md section 4). Every
    refusal is a ValueRefused that names class and property.
    """

    __slots__ = ("class_name", "values")

    def __init__(self, class_name: str, values: Mapping[str, Value]) -> None:
        self.class_name = class_name
        self.values = values

    def __contains__(self, name: object) -> bool:
        return name in self.values

    @property
    def names(self) -> frozenset[str]:
        """The properties that were sent."""
        return frozenset(self.values)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.class_name}, {len(self.values)} properties>"

    def text(self, name: str) -> str:
        return self._one(name, _text)

    def text_or_none(self, name: str) -> str | None:
        return self._maybe(name, _text)

    def texts(self, name: str) -> tuple[str, ...]:
        return self._all(name, _text)

    def integer(self, name: str) -> int:
        return self._one(name, _integer)

    def integer_or_none(self, name: str) -> int | None:
        return self._maybe(name, _integer)

    def integers(self, name: str) -> tuple[int, ...]:
        return self._all(name, _integer)

    def boolean(self, name: str) -> bool:
        return self._one(name, _boolean)

    def boolean_or_none(self, name: str) -> bool | None:
        return self._maybe(name, _boolean)

    def moment(self, name: str) -> datetime:
        """Return a moment in UTC; "never" (1601) is refused like null."""
        found = self.moment_or_none(name)
        if found is None:
            raise self._refusal(name, "is null")
        return found

    def moment_or_none(self, name: str) -> datetime | None:
        """Return a moment in UTC, or None for null and for "never" (1601)."""
        found = self._maybe(name, _moment)
        return None if found == NEVER else found

    def interval(self, name: str) -> timedelta:
        return self._one(name, _interval)

    def interval_or_none(self, name: str) -> timedelta | None:
        return self._maybe(name, _interval)

    def ref(self, name: str) -> Ref:
        """Return a reference; also one that came as an object path in text."""
        return self._one(name, _ref)

    def ref_or_none(self, name: str) -> Ref | None:
        return self._maybe(name, _ref)

    def refs(self, name: str) -> tuple[Ref, ...]:
        return self._all(name, _ref)

    def embedded(self, name: str) -> "Properties":
        """Return an instance inside this one: nested elements, or CIM-XML in text."""
        return self._one(name, _embedded)

    def embedded_or_none(self, name: str) -> "Properties | None":
        return self._maybe(name, _embedded)

    def embeddeds(self, name: str) -> "tuple[Properties, ...]":
        return self._all(name, _embedded)

    def _one(self, name: str, read: Callable[[Value], T]) -> T:
        found = self._maybe(name, read)
        if found is None:
            raise self._refusal(name, "is null")
        return found

    def _maybe(self, name: str, read: Callable[[Value], T]) -> T | None:
        if name not in self.values:
            raise self._refusal(name, "was not sent")
        value = self.values[name]
        return None if value is None else self._read(name, value, read)

    def _all(self, name: str, read: Callable[[Value], T]) -> tuple[T, ...]:
        value = self.values.get(name)
        if value is None:
            return ()
        return tuple(self._read(name, item, read) for item in (value if isinstance(value, list) else [value]))

    def _read(self, name: str, value: Value, read: Callable[[Value], T]) -> T:
        try:
            return read(value)
        except (ValueRefused, HostNonsense) as error:
            raise self._refusal(name, f"is refused: {error.message}") from error

    def _refusal(self, name: str, what: str) -> ValueRefused:
        return ValueRefused(
            f"{self.class_name}.{name} {what}.".replace("..", "."), class_name=self.class_name, property=name
        )


def _text(value: Value) -> str:
    if type(value) is not str:
        raise ValueRefused(f"{_shape(value)} is not a text")
    return value


def _integer(value: Value) -> int:
    text = value if type(value) is str else ""
    digits = text[1:] if text[:1] in {"-", "+"} else text
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 20):
        raise ValueRefused(f"{_shape(value)} is not a whole number")
    return int(text)


def _boolean(value: Value) -> bool:
    # Windows writes true, OMI TRUE (wsman-wire.md section 4).
    found = _BOOLEANS.get(value.strip().lower()) if type(value) is str else None
    if found is None:
        raise ValueRefused(f"{_shape(value)} is neither true nor false")
    return found


def _moment(value: Value) -> datetime:
    return read_moment(_time_text(value))


def _interval(value: Value) -> timedelta:
    return read_interval(_time_text(value))


def _time_text(value: Value) -> str:
    # Wrapped by Windows; bare text is what servers may send to others (wsman-wire.md section 4).
    if not isinstance(value, str):
        raise ValueRefused(f"{_shape(value)} is not a time")
    return value.strip()


def _ref(value: Value) -> Ref:
    if isinstance(value, Ref):
        return value
    return Ref.parse(_text(value))


def _embedded(value: Value) -> Properties:
    if isinstance(value, Properties):
        return value
    return EmbeddedInstance.parse(_text(value))


def _shape(value: Value) -> str:
    if isinstance(value, str):
        return repr(value if len(value) <= 80 else value[:80] + "...")
    if isinstance(value, list):
        return f"an array of {len(value)}"
    return "null" if value is None else f"a {type(value).__name__}"


# --- instances inside text: CIM-XML (DSP0201) -------------------------------------


@dataclass(frozen=True)
class EmbeddedClass:
    """The declared properties of a class whose instances we write into text: name and CIM type."""

    name: str
    types: Mapping[str, str]

    def __post_init__(self) -> None:
        for declared in self.types.values():
            CimType.parse(declared)


class EmbeddedInstance(Properties):
    """An instance that travels as CIM-XML inside a string.

    Made from a declared class and Python values, of which None is left out; or
    read with :meth:`parse`. Raises ArgumentRefused for what the class does not
    declare or what does not fit.
    """

    __slots__ = ("_types",)

    def __init__(self, declared: EmbeddedClass, values: Mapping[str, Argument]) -> None:
        unknown = set(values) - set(declared.types)
        if unknown:
            raise ArgumentRefused(f"{declared.name} declares no {', '.join(sorted(unknown))}.")
        self._types = {name: CimType.parse(declared.types[name]) for name in values}
        raw: dict[str, Value] = {}
        for name, value in values.items():
            if value is None:
                continue
            kind, where = self._types[name], f"{declared.name}.{name}"
            texts = [kind.spell(item, where, in_cim_xml=True) for item in kind.items(value, where)]
            raw[name] = texts if kind.is_array else texts[0]
        super().__init__(declared.name, raw)

    @classmethod
    def parse(cls, text: str) -> "EmbeddedInstance":
        """Read the CIM-XML text of one instance. Raises ValueRefused or HostNonsense."""
        root = parsed(text, "an embedded instance")
        name = root.get("CLASSNAME", "")
        if root.tag != "INSTANCE" or not name:
            raise ValueRefused(f"an embedded instance begins with <{root.tag}>, not with <INSTANCE>")
        made = cls(EmbeddedClass(name, {}), {})
        values = {item.get("NAME", ""): _cim_value(item) for item in root if item.tag.startswith("PROPERTY")}
        made.values = values
        made._types = {
            item.get("NAME", ""): CimType.parse(item.get("TYPE", "") + ("[]" if "ARRAY" in item.tag else ""))
            for item in root
            if item.tag in {"PROPERTY", "PROPERTY.ARRAY"} and _is_known(item.get("TYPE", ""))
        }
        return made

    @property
    def cim_xml(self) -> str:
        """The instance as text. Null properties, and those of an unknown type, are left out."""
        body = "".join(_property_xml(name, kind, self.values.get(name)) for name, kind in self._types.items())
        return f"<INSTANCE CLASSNAME={attribute(self.class_name)}>{body}</INSTANCE>"


def _is_known(kind: str) -> bool:
    try:
        CimType.parse(kind)
    except ArgumentRefused:
        return False
    return True


def _property_xml(name: str, kind: CimType, value: Value) -> str:
    head = f"NAME={attribute(name)} TYPE={attribute(kind.kind)}"
    if isinstance(value, list):
        items = "".join(f"<VALUE>{escaped(str(item))}</VALUE>" for item in value)
        return f"<PROPERTY.ARRAY {head}><VALUE.ARRAY>{items}</VALUE.ARRAY></PROPERTY.ARRAY>"
    if not isinstance(value, str):
        return ""
    return f"<PROPERTY {head}><VALUE>{escaped(value)}</VALUE></PROPERTY>"


def _cim_value(item: Element) -> Value:
    """Return the value of a PROPERTY element: null is no VALUE, or a VALUE.NULL."""
    if item.tag == "PROPERTY":
        value = item.find("VALUE")
        return None if value is None else value.text or ""
    if item.tag == "PROPERTY.ARRAY":
        array = item.find("VALUE.ARRAY")
        if array is None:
            return None
        return [None if value.tag == "VALUE.NULL" else value.text or "" for value in array]
    return Unread(item.tag)
