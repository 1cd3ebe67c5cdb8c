"""Turn untrusted text and sizes into what may stand on a terminal."""

import unicodedata


def visible(text: str) -> str:
    """Return the text with everything that could steer a terminal or hide itself written out."""
    if text.isascii() and text.isprintable():
        return text
    out = []
    for character in text:
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
            code = ord(character)
            out.append(
                f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
            )
        else:
            out.append(character)
    return "".join(out)


def rounded(size: int) -> str:
    """Return a size as people read it: 1.5 GiB."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return ""
