"""Turn dataclasses into plain data and back, refusing what does not fit and naming where it stands."""

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from enum import Enum
from functools import cache
from typing import Any, TypeVar

Record = TypeVar("Record")


class Misfit(ValueError):
    """Data that is not what the record wants; the text names the place and what is allowed there."""


def plain(value: Any) -> Any:
    """Return dataclasses, times and enumerations as what JSON and TOML know."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    return value


def read(kind: type[Record], data: Any, where: str = "") -> Record:
    """Build a record from plain data; Misfit for an unknown key, a missing one, or a wrong type."""
    return typing.cast(Record, _read(kind, data, where or kind.__name__))


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _read(kind: Any, data: Any, where: str) -> Any:
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        inner = [each for each in parts if each is not type(None)]
        return None if data is None else _read(inner[0], data, where)
    if origin is list:
        _expect(isinstance(data, list), where, "a list", data)
        return [_read(parts[0], each, f"{where}[{n}]") for n, each in enumerate(data)]
    if origin is dict:
        _expect(isinstance(data, dict), where, "a table", data)
        return {key: _read(parts[1], each, f"{where}.{key}") for key, each in data.items()}
    if is_dataclass(kind):
        return _record(typing.cast(type, kind), data, where)
    if isinstance(kind, type) and issubclass(kind, Enum):
        known = [each.value for each in kind]
        _expect(data in known, where, f"one of {', '.join(map(repr, known))}", data)
        return kind(data)
    if kind is datetime:
        return data if isinstance(data, datetime) else datetime.fromisoformat(data)
    if kind is float:
        _expect(isinstance(data, int | float) and not isinstance(data, bool), where, "a number", data)
        return float(data)
    _expect(
        type(data) is kind, where, {int: "a whole number", str: "a text", bool: "true or false"}[kind], data
    )
    return data


def _record(kind: type, data: Any, where: str) -> Any:
    _expect(isinstance(data, dict), where, "a table", data)
    hints = _hints(kind)
    unknown = sorted(set(data) - set(hints))
    if unknown:
        raise Misfit(f"{where} has no {unknown[0]!r}; it knows {', '.join(sorted(hints))}")
    for each in fields(kind):
        if each.name not in data and each.default is MISSING and each.default_factory is MISSING:
            raise Misfit(f"{where} lacks {each.name!r}")
    return kind(**{name: _read(hints[name], each, f"{where}.{name}") for name, each in data.items()})


def _expect(holds: bool, where: str, wanted: str, got: Any) -> None:
    if not holds:
        raise Misfit(f"{where} must be {wanted}, not {got!r}")
