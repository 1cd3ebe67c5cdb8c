"""Turn untrusted text and sizes into what may stand on a terminal."""

import unicodedata
from typing import Final

# Control, format (direction marks among them), surrogates, line and paragraph separators.
_OBEYED: Final = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))


def visible(text: str) -> str:
    """Return the text with everything that could steer a terminal or hide itself written out."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in _OBEYED
        else character
        for character in text
    )


def rounded(size: int) -> str:
    """Return a size as people read it: 1.5 GiB."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return ""


def shortened(text: str, width: int) -> str:
    """Return a text that fits into a column; what was cut is marked."""
    return text if len(text) <= width else f"{text[: width - 1]}…"
