"""CIM values as elements of a SOAP body ([MS-WSMV] 3.1.4.1.26, 4.11; the recordings).

A null scalar is xsi:nil, a null or empty array is no element at all, a reference has no EndpointReference
around it, an instance in a string is CIM-XML text. Properties stand in alphabetical order.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from xml.etree.ElementTree import Element

from vmkeep_lab.cim import CimScalar, CimValue, Instance, Ref
from vmkeep_lab.schema import CimClass, CimMethod, CimParameter, CimType, Schema
from vmkeep_lab.wire import times
from vmkeep_lab.wire.addresses import Addresses
from vmkeep_lab.wire.embedded import named_values, read_instance, write_instance
from vmkeep_lab.wire.faults import INVALID_PARAMETER, SCHEMA_VALIDATION, SoapFault
from vmkeep_lab.wire.markup import text
from vmkeep_lab.wire.names import CIM_COMMON, WMI, XSI, tag
from vmkeep_lab.wire.scalars import check_integer, read_boolean, read_integer

_NIL = tag(XSI, "nil")


class Values:
    """Writes and reads values as the schema of one host says they look."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self.addresses = Addresses(schema)

    # --- writing ---------------------------------------------------------------------

    def instance(self, instance: Instance) -> str:
        """Return an instance as an element; ValueError where it is not what the schema says."""
        kind = self._schema.find(instance.namespace, instance.class_name)
        uri = f"{WMI}{kind.namespace}/{kind.name}"
        return (
            f'<p:{kind.name} xmlns:xsi="{XSI}" xmlns:p="{uri}" xmlns:cim="{CIM_COMMON}" '
            f'xsi:type="p:{kind.name}_Type">{"".join(self._properties(kind, instance, "p:"))}</p:{kind.name}>'
        )

    def fragment(self, instance: Instance, names: tuple[str, ...]) -> str:
        """Return some properties as a WQL projection: no namespace of the class ([MS-WSMV] n. 58, 59)."""
        kind = self._schema.find(instance.namespace, instance.class_name)
        inside = "".join(self._properties(kind, instance, "", frozenset(names)))
        return f'<w:XmlFragment xmlns:xsi="{XSI}" xmlns:cim="{CIM_COMMON}">{inside}</w:XmlFragment>'

    def output(self, method: CimMethod, uri: str, result: Mapping[str, CimValue]) -> str:
        """Return a method's OUTPUT element; ValueError where the result is not what the schema says."""
        kinds = {each.name: each.type for each in method.parameters if each.is_out}
        kinds["ReturnValue"] = CimType("uint32")
        unknown = set(result) - set(kinds)
        if unknown:
            raise ValueError(f"{method.name} returns no {', '.join(sorted(unknown))}")
        rows = (
            self._property("p:", name, kinds[name], result[name]) for name in sorted(result, key=str.lower)
        )
        return (
            f'<p:{method.name}_OUTPUT xmlns:xsi="{XSI}" xmlns:p="{uri}" xmlns:cim="{CIM_COMMON}">'
            f"{''.join(rows)}</p:{method.name}_OUTPUT>"
        )

    def _properties(
        self, kind: CimClass, instance: Instance, prefix: str, only: frozenset[str] = frozenset()
    ) -> Iterator[str]:
        values = named_values(kind, instance)
        for name, each in kind.properties.items():
            if not only or name in only:
                yield self._property(prefix, name, each, values.get(name))

    def _property(self, prefix: str, name: str, kind: CimType, value: CimValue) -> str:
        if kind.is_array:
            if value is not None and not isinstance(value, list):
                raise ValueError(f"{name} is an array")
            return "".join(self._element(prefix, name, kind, each) for each in value or ())
        if isinstance(value, list):
            raise ValueError(f"{name} is no array")
        if value is None:
            return f'<{prefix}{name} xsi:nil="true"/>'
        return self._element(prefix, name, kind, value)

    def _element(self, prefix: str, name: str, kind: CimType, value: CimScalar) -> str:
        if isinstance(value, Ref):
            return f"<{prefix}{name}{self.addresses.inside_property(value)}</{prefix}{name}>"
        if kind.name == "object" and isinstance(value, Instance):
            inner = self._schema.find(value.namespace, value.class_name)
            inside = "".join(self._properties(inner, value, prefix))
            return f'<{prefix}{name} xsi:type="p:{inner.name}_Type">{inside}</{prefix}{name}>'
        return f"<{prefix}{name}>{self._text(kind, value)}</{prefix}{name}>"

    def _text(self, kind: CimType, value: CimScalar) -> str:
        if isinstance(value, Instance) and kind.name == "string":
            return text(write_instance(self._schema, value))
        if isinstance(value, str) and kind.name == "string":
            return text(value)
        if isinstance(value, bool) and kind.name == "boolean":
            return "true" if value else "false"
        if isinstance(value, int) and not isinstance(value, bool):
            return str(check_integer(kind, value))
        if isinstance(value, datetime) and kind.name == "datetime":
            return f"<cim:Datetime>{times.iso_time(value)}</cim:Datetime>"
        if isinstance(value, timedelta) and kind.name == "datetime":
            return f"<cim:Interval>{times.iso_interval(value)}</cim:Interval>"
        raise ValueError(f"{type(value).__name__} is no {kind.name}")

    # --- reading ---------------------------------------------------------------------

    def arguments(
        self, kind: CimClass, method: CimMethod, uri: str, body: Element | None
    ) -> dict[str, CimValue]:
        """Read a method's INPUT element; SoapFault where it is not what the schema says."""
        if body is None or body.tag.lower() != tag(uri, f"{method.name}_INPUT").lower():
            raise SoapFault(SCHEMA_VALIDATION, f"the body of {method.name} is {method.name}_INPUT")
        found: dict[str, CimValue] = {}
        for element in body:
            parameter = self._parameter(method, uri, element)
            value = self._read(kind.namespace, parameter.type, element)
            if value is None:
                continue
            if parameter.type.is_array:
                items = found.setdefault(parameter.name, [])
                assert isinstance(items, list)
                items.append(value)
            elif parameter.name in found:
                raise SoapFault(SCHEMA_VALIDATION, f"{parameter.name} is no array")
            else:
                found[parameter.name] = value
        return found

    def _parameter(self, method: CimMethod, uri: str, element: Element) -> CimParameter:
        namespace, _, name = element.tag.removeprefix("{").rpartition("}")
        parameter = method.parameter(name)
        if namespace.lower() != uri.lower() or parameter is None or not parameter.is_in:
            raise SoapFault(INVALID_PARAMETER, f"{method.name} has no parameter {name[:80]}")
        return parameter

    def read_properties(self, kind: CimClass, uri: str, body: Element | None) -> Instance:
        """Read the instance that Put or Create carries; SoapFault where it is not what the schema says."""
        if body is None or body.tag.lower() != tag(uri, kind.name).lower():
            raise SoapFault(SCHEMA_VALIDATION, f"the body is not a {kind.name}")
        values: dict[str, CimValue] = {}
        for element in body:
            name = kind.property_name(element.tag.rpartition("}")[2])
            if name is None:
                if element.tag.startswith(tag(CIM_COMMON, "")):
                    continue
                raise SoapFault(SCHEMA_VALIDATION, f"{kind.name} has no {element.tag[:120]}")
            value = self._read(kind.namespace, kind.properties[name], element)
            if kind.properties[name].is_array and value is not None:
                items = values.setdefault(name, [])
                assert isinstance(items, list)
                items.append(value)
            else:
                values[name] = value
        return Instance(kind.name, values, kind.namespace)

    def _read(self, namespace: str, kind: CimType, element: Element) -> CimScalar | None:
        if element.get(_NIL, "").strip() in {"true", "1"}:
            return None
        try:
            if kind.name == "reference":
                return self.addresses.read_inside_property(element, namespace)
            if kind.name == "datetime":
                return _read_time(element)
            if kind.name == "object":
                return self._read_object(namespace, kind, element)
            if len(element):
                # Embedded instances are text here, not trees (libvirt and go-wsman, on real hosts).
                raise SoapFault(SCHEMA_VALIDATION, f"{element.tag[:120]} has elements where a value stands")
            source = element.text or ""
            if kind.is_embedded:
                return read_instance(self._schema, namespace, source) if source.strip() else None
            if kind.name == "string":
                return source
            if kind.name == "boolean":
                return read_boolean(source)
            return read_integer(kind, source)
        except ValueError as error:
            raise SoapFault(INVALID_PARAMETER, f"{element.tag[:120]}: {error}") from error

    def _read_object(self, namespace: str, kind: CimType, element: Element) -> Instance:
        inner = self._schema.find(namespace, kind.of)
        values: dict[str, CimValue] = {}
        for each in element:
            name = inner.property_name(each.tag.rpartition("}")[2])
            if name is None:
                raise ValueError(f"{inner.name} has no {each.tag[:120]}")
            values[name] = self._read(namespace, inner.properties[name], each)
        return Instance(inner.name, values, namespace)


def _read_time(element: Element) -> datetime | timedelta:
    """Read a time, wrapped in cim:Datetime or cim:Interval or bare; ValueError where it is none."""
    inside = element[0] if len(element) else element
    if inside is not element and inside.tag not in {tag(CIM_COMMON, "Datetime"), tag(CIM_COMMON, "Interval")}:
        raise ValueError("not a time")
    source = (inside.text or "").strip()
    return times.read_iso(source) if source.startswith("P") or "T" in source else times.read_cim(source)
