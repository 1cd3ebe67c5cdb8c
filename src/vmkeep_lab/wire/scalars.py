"""Integers and booleans of CIM, within the width that the schema gives them."""

from vmkeep_lab.schema import CimType
from vmkeep_lab.schema.classes import INTEGERS


def check_integer(kind: CimType, value: int) -> int:
    """Return the value; ValueError where it does not fit into its type."""
    if kind.name not in INTEGERS:
        raise ValueError(f"{value} is no {kind.name}")
    low, high = INTEGERS[kind.name]
    if not low <= value <= high:
        raise ValueError(f"{value} does not fit into {kind.name}")
    return value


def read_integer(kind: CimType, source: str) -> int:
    """Read a decimal or, as WMI takes it, hexadecimal integer; ValueError where it does not fit."""
    source = source.strip()
    if len(source) > 24:
        raise ValueError("too long for an integer")
    if "_" in source:
        raise ValueError("not an integer")
    return check_integer(kind, int(source, 16 if source.lower().startswith("0x") else 10))


def read_boolean(source: str) -> bool:
    """Read a boolean of XML, in any case; ValueError where it is none."""
    known = {"true": True, "1": True, "false": False, "0": False}
    try:
        return known[source.strip().lower()]
    except KeyError as error:
        raise ValueError(f"{source[:40]!r} is no boolean") from error
