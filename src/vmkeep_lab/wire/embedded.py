"""Instances inside strings: CIM-XML text (DSP0201), as Hyper-V takes and gives them.

A property sent with VALUE has a value, one without it is null, one not sent is absent. Times are CIM's 25
characters; a text that is none is handed on as a string, so that the host can refuse it its own way.
"""

from datetime import datetime, timedelta
from xml.etree.ElementTree import Element

from vmkeep_lab.cim import (
    WBEM_E_INVALID_CLASS,
    WBEM_E_INVALID_METHOD_PARAMETERS,
    CimScalar,
    CimValue,
    Instance,
    Ref,
    WmiError,
)
from vmkeep_lab.schema import CimClass, CimType, Schema
from vmkeep_lab.wire import times
from vmkeep_lab.wire.markup import BadMarkup, attribute, parse, text
from vmkeep_lab.wire.scalars import check_integer, read_integer


def write_instance(schema: Schema, instance: Instance) -> str:
    """Return an instance as CIM-XML text: all properties of its class, null ones without VALUE."""
    kind = schema.find(instance.namespace, instance.class_name)
    values = named_values(kind, instance)
    rows = [_property(schema, name, each, values.get(name)) for name, each in kind.properties.items()]
    return f"<INSTANCE CLASSNAME={attribute(kind.name)}>{''.join(rows)}</INSTANCE>"


def named_values(kind: CimClass, instance: Instance) -> dict[str, CimValue]:
    """Return an instance's values by the names of the class; ValueError for one that is not there."""
    values: dict[str, CimValue] = {}
    for given, value in instance.values.items():
        name = kind.property_name(given)
        if name is None:
            raise ValueError(f"{kind.name} has no property {given}")
        values[name] = value
    return values


def _property(schema: Schema, name: str, kind: CimType, value: CimValue) -> str:
    said = f"NAME={attribute(name)} TYPE={attribute(kind.name)}"
    if kind.name == "reference":
        inside = f"<VALUE.REFERENCE>{_reference(value)}</VALUE.REFERENCE>" if isinstance(value, Ref) else ""
        return f"<PROPERTY.REFERENCE NAME={attribute(name)}>{inside}</PROPERTY.REFERENCE>"
    if kind.is_array:
        if value is None:
            return f"<PROPERTY.ARRAY {said}></PROPERTY.ARRAY>"
        if not isinstance(value, list):
            raise ValueError(f"{name} is an array")
        items = "".join(f"<VALUE>{text(_scalar(schema, kind, each))}</VALUE>" for each in value)
        return f"<PROPERTY.ARRAY {said}><VALUE.ARRAY>{items}</VALUE.ARRAY></PROPERTY.ARRAY>"
    inside = "" if value is None else f"<VALUE>{text(_scalar(schema, kind, value))}</VALUE>"
    return f"<PROPERTY {said}>{inside}</PROPERTY>"


def _scalar(schema: Schema, kind: CimType, value: CimValue) -> str:
    if isinstance(value, datetime | timedelta):
        return times.cim_time(value)
    if isinstance(value, Instance):
        return write_instance(schema, value)
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int):
        return str(check_integer(kind, value))
    if isinstance(value, str):
        return value
    raise ValueError(f"{type(value).__name__} cannot stand in CIM-XML")


def _reference(ref: Ref) -> str:
    pairs = "".join(
        f'<KEYBINDING NAME={attribute(name)}><KEYVALUE VALUETYPE="string">{text(value)}</KEYVALUE>'
        "</KEYBINDING>"
        for name, value in ref.keys
    )
    return f"<INSTANCENAME CLASSNAME={attribute(ref.class_name)}>{pairs}</INSTANCENAME>"


def read_instance(schema: Schema, namespace: str, source: str) -> Instance:
    """Read CIM-XML text; WmiError where it is none, or names a class or property that does not exist."""
    try:
        root = parse(source.strip().encode("utf-8", "replace"))
    except BadMarkup as error:
        raise _refused(f"not an embedded instance: {error}") from error
    while root.tag in {"CIM", "DECLARATION", "DECLGROUP", "VALUE.OBJECT"} and len(root):
        root = root[0]
    if root.tag != "INSTANCE":
        raise _refused(f"an embedded instance begins with INSTANCE, not {root.tag[:40]}")
    name = root.get("CLASSNAME", "")
    try:
        kind = schema.find(namespace, name)
    except WmiError as error:
        raise WmiError(WBEM_E_INVALID_CLASS, f"there is no class {name[:80]}") from error
    values: dict[str, CimValue] = {}
    for element in root:
        if element.tag in {"PROPERTY", "PROPERTY.ARRAY", "PROPERTY.REFERENCE"}:
            given = element.get("NAME", "")
            spelled = kind.property_name(given)
            if spelled is None:
                raise _refused(f"{kind.name} has no property {given[:80]}")
            values[spelled] = _read_property(schema, namespace, kind.properties[spelled], element)
        elif element.tag != "QUALIFIER":
            raise _refused(f"{element.tag[:40]} does not belong into INSTANCE")
    return Instance(kind.name, values, namespace)


def _read_property(schema: Schema, namespace: str, kind: CimType, element: Element) -> CimValue:
    if element.tag == "PROPERTY.REFERENCE":
        named = element.find("VALUE.REFERENCE//INSTANCENAME")
        return None if named is None else _read_reference(named, namespace)
    if "TYPE" not in element.attrib:
        raise _refused(f"{element.get('NAME')} has no TYPE")
    array = element.find("VALUE.ARRAY")
    if kind.is_array != (element.tag == "PROPERTY.ARRAY"):
        raise _refused(f"{element.get('NAME')} is {'an' if kind.is_array else 'no'} array")
    if kind.is_array:
        return None if array is None else [_read(schema, namespace, kind, each) for each in array]
    value = element.find("VALUE")
    return None if value is None else _read(schema, namespace, kind, value)


def _read(schema: Schema, namespace: str, kind: CimType, element: Element) -> CimScalar:
    if element.tag != "VALUE":
        raise _refused("an array of an embedded instance has a null element")
    source = "".join(element.itertext())
    try:
        if kind.name == "boolean":
            return {"true": True, "false": False}[source.strip().lower()]
        if kind.name == "datetime":
            try:
                return times.read_cim(source)
            except ValueError:
                return source
        if kind.is_embedded and source.lstrip().startswith("<"):
            return read_instance(schema, namespace, source)
        if kind.name in {"string", "reference", "object"}:
            return source
        return read_integer(kind, source)
    except (KeyError, ValueError) as error:
        raise _refused(f"{source[:40]!r} is no {kind.name}") from error


def _read_reference(named: Element, namespace: str) -> Ref:
    keys = [(binding.get("NAME", ""), "".join(binding.itertext())) for binding in named.iter("KEYBINDING")]
    return Ref(named.get("CLASSNAME", ""), tuple(sorted(keys)), namespace)


def _refused(message: str) -> WmiError:
    return WmiError(WBEM_E_INVALID_METHOD_PARAMETERS, message)
