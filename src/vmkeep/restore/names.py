"""Give names from a manifest a safe form in the file system of this or any other machine."""

import re
from pathlib import Path
from typing import Final

# Not allowed in a Windows file name, or able to hide what a name is: controls,
# bidirectional marks, and the separators a hostile manifest might try.
_UNSAFE: Final = re.compile(
    '[\x00-\x1f\x7f-\x9f<>:"/\\\\|?*\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]'
)
_RESERVED: Final = re.compile(r"(?i)^(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]) *(\.|$)")
_MAX_BYTES: Final = 180


def safe_file_name(name: str) -> str:
    """Return one path component that means the same thing; odd characters become %XX."""
    text = _UNSAFE.sub(lambda match: _encoded(match[0]), name)
    while len(text.encode()) > _MAX_BYTES:
        text = text[:-1]
    if _RESERVED.match(text):
        text = "_" + text
    if text.endswith((".", " ")):
        text = text[:-1] + _encoded(text[-1])
    if text.startswith(("~", "-")) or not text:
        text = "_" + text  # an option or a home folder to some program
    return text


def safe_relative_path(name: str) -> Path:
    """Return a relative path below the target folder for a file of the VM; ``name`` uses ``/``."""
    return Path(*(safe_file_name(part) for part in name.split("/")))


def _encoded(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))
