"""Load a host's schema and find classes, properties, keys and methods in it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from vmkeep_lab.cim import (
    WBEM_E_INVALID_CLASS,
    WBEM_E_INVALID_METHOD,
    WBEM_E_INVALID_NAMESPACE,
    WBEM_E_NOT_FOUND,
    WmiError,
)
from vmkeep_lab.schema import keys as known

INTEGERS: Final[Mapping[str, tuple[int, int]]] = {
    **{f"uint{bits}": (0, (1 << bits) - 1) for bits in (8, 16, 32, 64)},
    **{f"sint{bits}": (-(1 << bits - 1), (1 << bits - 1) - 1) for bits in (8, 16, 32, 64)},
}


@dataclass(frozen=True)
class CimType:
    """Tell how a value looks.

    ``name`` is string, boolean, datetime (a time or an interval, the value tells), one of the integers,
    reference, or object (an instance as nested elements). ``of`` is the class: of what a reference leads to,
    of an object, and of a string that carries an embedded instance as CIM-XML text.
    """

    name: str
    is_array: bool = False
    of: str = ""

    @property
    def is_embedded(self) -> bool:
        """Tell whether the string carries an instance as CIM-XML text."""
        return self.name == "string" and bool(self.of)


@dataclass(frozen=True)
class CimParameter:
    """A method's parameter; one that is in and out is both."""

    name: str
    type: CimType
    is_in: bool
    is_out: bool


@dataclass(frozen=True)
class CimMethod:
    """A method, its parameters in the order of the MOF; ReturnValue is not among them."""

    name: str
    parameters: tuple[CimParameter, ...]

    def parameter(self, name: str) -> CimParameter | None:
        """Return a parameter, found without case, or None."""
        return next((each for each in self.parameters if each.name.lower() == name.lower()), None)


class CimClass:
    """One class with all that it inherits."""

    def __init__(self, schema: "Schema", namespace: str, name: str, facts: Mapping[str, Any]) -> None:
        self.namespace: Final = namespace
        self.name: Final = name
        self._schema = schema
        self._facts = facts

    def __repr__(self) -> str:
        return f"<CimClass {self.namespace}:{self.name}>"

    @cached_property
    def parent(self) -> "CimClass | None":
        """The class that this one extends."""
        name = self._facts.get("parent")
        return self._schema.find(self.namespace, name) if name else None

    @property
    def lineage(self) -> "Iterator[CimClass]":
        """This class, its parent, and so on."""
        each: CimClass | None = self
        while each:
            yield each
            each = each.parent

    @cached_property
    def properties(self) -> Mapping[str, CimType]:
        """All properties with their types, in the order a host sends them: alphabetical, without case."""
        found = dict(self.parent.properties) if self.parent else {}
        for name, text in self._facts.get("properties", {}).items():
            found[name] = _typed(text, known.property_fact(self.name, name))
        return dict(sorted(found.items(), key=lambda pair: pair[0].lower()))

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The properties that tell instances apart; none for embedded classes and singletons without."""
        for each in self.lineage:
            if each.name in known.KEYS:
                return known.KEYS[each.name]
        # An association is told apart by what it joins.
        joined = [
            name for name, kind in self.properties.items() if kind.name == "reference" and not kind.is_array
        ]
        return tuple(joined) if len(joined) > 1 else ()

    @cached_property
    def methods(self) -> Mapping[str, CimMethod]:
        """All methods, inherited ones first."""
        found = dict(self.parent.methods) if self.parent else {}
        for name, parameters in self._facts.get("methods", {}).items():
            found[name] = CimMethod(name, tuple(_parameter(self.name, name, each) for each in parameters))
        return found

    @cached_property
    def _folded(self) -> Mapping[str, str]:
        return {name.lower(): name for name in (*self.properties, *self.methods)}

    def property_name(self, name: str) -> str | None:
        """Return a property's name as the class spells it, or None where it has none of that name."""
        found = self._folded.get(name.lower())
        return found if found in self.properties else None

    def property_type(self, name: str) -> CimType:
        """Return a property's type; WmiError where the class has none of that name."""
        found = self.property_name(name)
        if found is None:
            raise WmiError(WBEM_E_NOT_FOUND, f"{self.name} has no property {name}")
        return self.properties[found]

    def method(self, name: str) -> CimMethod:
        """Return a method; WmiError where the class has none of that name."""
        found = self._folded.get(name.lower())
        if found is None or found not in self.methods:
            raise WmiError(WBEM_E_INVALID_METHOD, f"{self.name} has no method {name}")
        return self.methods[found]

    def is_a(self, name: str) -> bool:
        """Tell whether it is that class or descends from it."""
        return any(each.name.lower() == name.lower() for each in self.lineage)

    @cached_property
    def descendants(self) -> tuple["CimClass", ...]:
        """This class and all that descend from it."""
        return tuple(each for each in self._schema.classes(self.namespace) if each.is_a(self.name))


class Schema:
    """The classes of one real host."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self.host: Final[str] = facts["host"]
        self._namespaces: dict[str, dict[str, CimClass]] = {
            space: {name.lower(): CimClass(self, space, name, each) for name, each in classes.items()}
            for space, classes in facts["namespaces"].items()
        }

    @classmethod
    def load(cls, name: str) -> "Schema":
        """Read ``server2019`` or ``server23h2``."""
        return cls(json.loads((Path(__file__).parent / f"{name}.json").read_text("utf-8")))

    @property
    def namespaces(self) -> tuple[str, ...]:
        """The namespaces that the host has, in lower case with slashes."""
        return tuple(self._namespaces)

    def classes(self, namespace: str) -> tuple[CimClass, ...]:
        """Return all classes of a namespace; WmiError where the host has no such namespace."""
        return tuple(self._space(namespace).values())

    def find(self, namespace: str, class_name: str) -> CimClass:
        """Return a class; WmiError where the host has no such namespace or class."""
        found = self._space(namespace).get(class_name.lower())
        if found is None:
            raise WmiError(WBEM_E_INVALID_CLASS, f"{namespace} has no class {class_name}")
        return found

    def _space(self, namespace: str) -> dict[str, CimClass]:
        space = self._namespaces.get(namespace.replace("\\", "/").lower())
        if space is None:
            raise WmiError(WBEM_E_INVALID_NAMESPACE, f"there is no namespace {namespace}")
        return space


def _typed(text: str, fact: str = "") -> CimType:
    """Return the type that the contract's text means, corrected by a fact of ``keys.py``."""
    text = fact or text
    is_array = text.endswith("[]")
    name, _, of = text.removesuffix("[]").partition(":")
    if name == "enum":
        return CimType(known.ENUMERATIONS.get(of, "uint16"), is_array)
    return CimType(name, is_array, of)


def _parameter(class_name: str, method: str, facts: list[str]) -> CimParameter:
    direction, name, text = facts
    kind = _typed(text, known.parameter_fact(class_name, method, name, text))
    return CimParameter(name, kind, is_in="in" in direction, is_out="out" in direction)
