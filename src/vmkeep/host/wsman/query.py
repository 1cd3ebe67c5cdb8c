"""Write WQL: literals, projections, and the questions about associations."""

import re
from collections.abc import Sequence
from typing import Final

from vmkeep.host.wsman.errors import ArgumentRefused
from vmkeep.host.wsman.refs import Ref

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FROM: Final = re.compile(r"\bfrom\s+([A-Za-z_][A-Za-z0-9_]*)", re.IGNORECASE)


def quoted(text: str) -> str:
    """Return the text as a WQL literal, quotes included."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def select(class_name: str, properties: Sequence[str] = (), where: str = "") -> str:
    """Ask for the instances of a class: all properties or those named, all instances or some."""
    for name in (class_name, *properties):
        if not _NAME.fullmatch(name):
            raise ArgumentRefused(f"{name!r} is not the name of a WMI class or property.")
    condition = f" WHERE {where}" if where else ""
    return f"SELECT {','.join(properties) or '*'} FROM {class_name}{condition}"


def references(ref: Ref, association: str) -> str:
    """Ask for the instances of one class of association that point to an instance.

    Believed (docs/believed.md): inside the braces stands the object path with the
    escapes it always has, and nothing is escaped once more.
    """
    if not _NAME.fullmatch(association):
        raise ArgumentRefused(f"{association!r} is not the name of a WMI class.")
    # A path relative to the namespace of the request: what WQL's own documentation shows.
    path = ref.path.partition(":")[2]
    return f"REFERENCES OF {{{path}}} WHERE ResultClass = {association}"


def class_asked(wql: str) -> str:
    """Return the class a query selects from; empty where only the answer tells."""
    found = _FROM.search(wql)
    return found[1] if found else ""
