"""Write text into XML so that a reader gets exactly that text back."""

import re
from typing import Final

from vmkeep.host.wsman.errors import ArgumentRefused

# What XML 1.0 cannot carry at all, not even as a character reference (section 2.2).
_IMPOSSIBLE: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# A bare CR would be read as LF; in attributes tab and LF would be read as blanks (sections 2.11, 3.3.3).
_IN_TEXT: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"})
_IN_ATTRIBUTE: Final = _IN_TEXT | str.maketrans({'"': "&quot;", "\t": "&#9;", "\n": "&#10;"})


def escaped(text: str) -> str:
    """Return the text as element content. Raises ArgumentRefused for characters XML cannot carry."""
    return _possible(text).translate(_IN_TEXT)


def attribute(text: str) -> str:
    """Return the text as an attribute's value, with its quotes."""
    return f'"{_possible(text).translate(_IN_ATTRIBUTE)}"'


def cdata(text: str) -> str:
    """Return the text as a CDATA section, split where it holds the end mark; a CR stays outside."""
    parts = _possible(text).split("\r")
    sections = ["<![CDATA[" + part.replace("]]>", "]]]]><![CDATA[>") + "]]>" for part in parts]
    return "&#13;".join(sections)


def _possible(text: str) -> str:
    found = _IMPOSSIBLE.search(text)
    if found:
        raise ArgumentRefused(f"the text {text!r} holds {found[0]!r}, which XML cannot carry.")
    return text
