"""Give names from a manifest a safe form in the file system of this or any other machine."""

import re
import unicodedata
from hashlib import sha256
from itertools import count
from pathlib import PurePath
from typing import Final

from vmkeep.formats.target_folder import PARTIAL_SUFFIX

# Not allowed in a Windows file name, or able to hide what a name is: controls,
# bidirectional marks, and the separators a hostile manifest might try.
_UNSAFE: Final = re.compile(
    '[\x00-\x1f\x7f-\x9f<>:"/\\\\|?*\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]'
)
_RESERVED: Final = re.compile(r"(?i)^(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]) *(\.|$)")
_MAX_BYTES: Final = 180
_LONGEST_EXTENSION: Final = 16


def safe_file_name(name: str) -> str:
    """Return one path component that means the same thing; odd characters become %XX.

    A name too long keeps its extension and gets a hash of all of it, so that
    two long names stay two.
    """
    text = _UNSAFE.sub(lambda match: _encoded(match[0]), name)
    if len(text.encode()) > _MAX_BYTES:
        text = _marked(text, name)
    if _RESERVED.match(text):
        text = "_" + text
    if text.endswith(PARTIAL_SUFFIX):
        text += "_"  # the next restore would take it for what a dead one left
    if text.endswith((".", " ")):
        text = text[:-1] + _encoded(text[-1])
    if text.startswith(("~", "-")) or not text:
        text = "_" + text  # an option or a home folder to some program
    return text


class Places:
    """Paths below one folder, no two of which any file system takes for one.

    File systems differ in whether they tell apart upper and lower case, or the
    ways Unicode writes one letter. Whoever comes first keeps the plain name;
    the next one gets a hash of its full name, the same in every restore.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._folders: dict[str, PurePath] = {"": PurePath()}

    def add_disk(self, name: str, stem: str, extension: str) -> PurePath:
        """Place a disk's file called ``stem`` and ``extension``, which begins with a dot and is never cut."""
        return self._free(PurePath(), safe_file_name(stem) + extension, name)

    def add_file(self, name: str) -> PurePath:
        """Place a file of the VM; ``name`` uses ``/``."""
        parts = name.split("/")
        folder = PurePath()
        for depth, part in enumerate(parts[:-1], 1):
            above = "/".join(parts[:depth])
            if above not in self._folders:
                self._folders[above] = self._free(folder, safe_file_name(part), above)
            folder = self._folders[above]
        return self._free(folder, safe_file_name(parts[-1]), name)

    def _free(self, folder: PurePath, safe: str, name: str) -> PurePath:
        path = folder / safe
        for attempt in count():
            if _folded(path) not in self._taken:
                break
            path = folder / _marked(safe, f"{name}\0{attempt}")
        self._taken.add(_folded(path))
        return path


def _folded(path: PurePath) -> str:
    """Return what two paths have in common that some file system takes for one."""
    decomposed = unicodedata.normalize("NFD", path.as_posix())
    return unicodedata.normalize("NFC", decomposed.casefold())


def _marked(text: str, name: str) -> str:
    """Put a hash of ``name`` before the extension of ``text``, which is cut where it must be."""
    stem, dot, extension = text.rpartition(".")
    if not stem or len(extension.encode()) > _LONGEST_EXTENSION:
        stem, dot, extension = text, "", ""
    tail = f"-{sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}{dot}{extension}"
    return stem.encode()[: _MAX_BYTES - len(tail.encode())].decode(errors="ignore") + tail


def _encoded(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))
