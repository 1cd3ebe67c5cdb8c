"""Read XML from a stranger: bounded, UTF-8, without document types, resolved by namespace."""

import re
from typing import Final
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from vmkeep.host.wsman.errors import HostNonsense
from vmkeep.host.wsman.names import XSI

NIL: Final = f"{{{XSI}}}nil"
DEEPEST: Final = 32  # levels below which nothing of ours is nested
# Before the first element only an XML declaration may stand: no DOCTYPE, hence no entities.
_PROLOG: Final = re.compile(r"\A\ufeff?\s*(?:<\?xml\s[^>]{0,200}\?>\s*)?<[A-Za-z_]")


def parsed(content: bytes | str, what: str) -> Element:
    """Return the root element of a document. ``what`` names it in the error; raises HostNonsense."""
    try:
        text = content if isinstance(content, str) else content.decode("utf-8")
        if not _PROLOG.match(text):
            raise HostNonsense(f"{what} is not XML, or has a document type: {text[:80]!r}.")
        return ElementTree.fromstring(text.removeprefix("\ufeff"))
    except UnicodeDecodeError as error:
        raise HostNonsense(f"{what} is not UTF-8 text.") from error
    except ElementTree.ParseError as error:
        raise HostNonsense(f"{what} is not well-formed XML: {error}.") from error


def split_tag(tag: str) -> tuple[str, str]:
    """Return namespace and local name of an element's tag; the namespace is empty without one."""
    namespace, _, name = tag.rpartition("}")
    return namespace[1:], name


def is_nil(element: Element) -> bool:
    """Tell whether the element says that it holds null."""
    return element.get(NIL, "false").strip().lower() in {"true", "1"}


def content_of(element: Element | None) -> str:
    """Return the element's text without the blanks around it; empty if there is no element."""
    return "" if element is None else (element.text or "").strip()
