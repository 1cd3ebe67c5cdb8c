"""Read XML without DTD and entities, and write its text safely."""

import re
from typing import Final
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

# Nobody writes an envelope as deep as this; deeper ones only try to hurt.
MAX_DEPTH: Final = 64

_CONTROLS: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\ud800-\udfff]")


class BadMarkup(Exception):
    """Text that is no XML, or XML with a DTD."""


def parse(data: bytes, encoding: str | None = None) -> Element:
    """Return the root element, names as ``{namespace}name``; BadMarkup where the text is not well-formed."""
    builder = TreeBuilder()
    parser = expat.ParserCreate(encoding, "}")
    depth = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise BadMarkup(f"more than {MAX_DEPTH} elements deep")
        builder.start(_name(name), {_name(key): text for key, text in attributes.items()})

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(_name(name))

    def refuse(*_: object) -> None:
        raise BadMarkup("a document type is not allowed")

    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise BadMarkup(str(error)) from error
    return builder.close()


def _name(name: str) -> str:
    return f"{{{name}" if "}" in name else name


def text(value: str) -> str:
    """Return a string as the text of an element.

    Control characters become question marks ([MS-WSMV] 3.1.4.1.26); a carriage return would not survive.
    """
    clean = _CONTROLS.sub("?", value)
    return clean.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#xD;")


def attribute(value: str) -> str:
    """Return a string as an attribute's value, with its quotes."""
    inside = text(value).replace('"', "&quot;").replace("\n", "&#xA;").replace("\t", "&#x9;")
    return f'"{inside}"'
