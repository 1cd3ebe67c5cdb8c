"""Say where a path of the host leads: to a share, or to a mounted folder.

Nothing here asks the host or the file system. A path that Windows would read
in more than one way is refused, not repaired: what is opened must be what the
host meant ([MS-FSCC] 2.1.5, "Naming Files, Paths, and Namespaces").
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from vmkeep.host.files.errors import BadHostPath, BadPathMap, PathNotMapped

_LONGEST_COMPONENT: Final = 255  # in UTF-16 units, as is the next one
_LONGEST_PATH: Final = 32_000
_REFUSED_CHARACTERS: Final = re.compile(r'[\x00-\x1f<>:"/\\|?*]')
_DEVICE: Final = re.compile(
    r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9¹²³])\s*(?:\..*)?", re.I | re.S
)
_DRIVE: Final = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True)
class HostPath:
    """A path as the host names it: ``root`` is ``C:`` or ``\\\\server\\share``, then the components."""

    root: str
    parts: tuple[str, ...]

    def __str__(self) -> str:
        return "\\".join((self.root, *self.parts)) if self.parts else self.root + "\\"

    def key(self) -> tuple[str, ...]:
        """Return what is equal for paths that differ in case only."""
        return tuple(_fold(part) for part in (self.root, *self.parts))


@dataclass(frozen=True)
class SharePlace:
    """A path inside a share; ``server`` is empty for the host itself, ``port`` None for its smb_port."""

    server: str
    port: int | None
    share: str
    parts: tuple[str, ...]

    @property
    def path(self) -> str:
        """The path inside the share, as SMB wants it: without a leading separator."""
        return "\\".join(self.parts)


@dataclass(frozen=True)
class FolderPlace:
    """A path below a folder of this machine."""

    root: Path
    parts: tuple[str, ...]


Place = SharePlace | FolderPlace


class PathMap:
    """Where the host's paths lead: its administrative shares, or what the configuration says."""

    def __init__(self, rules: Mapping[str, str] | None = None) -> None:
        """Take ``paths`` of the configuration: prefixes of host paths to ``smb://`` or ``file:`` addresses.

        Raises :class:`BadPathMap`.
        """
        self._places: dict[tuple[str, ...], Place] = {}
        for prefix, address in (rules or {}).items():
            try:
                key = parse_host_path(prefix).key()
            except BadHostPath as error:
                raise BadPathMap(f"paths: {prefix!r} is not a folder of a host: {error.message}") from error
            if key in self._places:
                raise BadPathMap(f"paths: {prefix!r} is there twice.")
            self._places[key] = _parse_address(address)

    def place(self, path: str) -> Place:
        """Return where ``path`` leads: by its longest prefix among the rules, else to the host's own share.

        Raises :class:`BadHostPath`, and :class:`PathNotMapped` for a UNC path without a rule: the account's
        proof of its password must not be handed to any server that a VM's configuration names.
        """
        host_path = parse_host_path(path)
        key = host_path.key()
        for length in range(len(key), 0, -1):
            found = self._places.get(key[:length])
            if found is not None:
                return _below(found, host_path.parts[length - 1 :])
        if host_path.root.startswith("\\\\"):
            raise PathNotMapped(f"{path!r} lies on another server than the host.", path=path)
        # C:\ClusterStorage\Volume1 is a mount point inside C$, so CSV paths need no rule of their own.
        return SharePlace("", None, f"{host_path.root[0].upper()}$", host_path.parts)


def parse_host_path(text: str) -> HostPath:
    """Take an absolute Windows path apart, or refuse it with :class:`BadHostPath`."""

    def refuse(reason: str) -> BadHostPath:
        return BadHostPath(f"{text!r} is not a path vmkeep opens: {reason}.", path=text)

    rest = text
    verbatim = rest.startswith("\\\\?\\")
    if verbatim:
        rest = rest[4:]
        if rest[:4].upper() == "UNC\\":
            rest = "\\\\" + rest[4:]
        elif not _DRIVE.match(rest):
            raise refuse("it names a device or a volume")
    else:
        rest = rest.replace("/", "\\")
        if rest.startswith(("\\\\.\\", "\\\\?\\", "\\??\\")):
            raise refuse("it names a device")
    if rest.startswith("\\\\"):
        server, _, after = rest[2:].partition("\\")
        share, _, after = after.partition("\\")
        named = [server, share]
        root = f"\\\\{server}\\{share}"
    elif _DRIVE.match(rest) and rest[2:3] in {"", "\\"}:
        root, after, named = rest[:2], rest[3:], []
    else:
        raise refuse("it has no drive letter and no server")
    # Windows drops empty components and dots of its own; in the verbatim form they are names.
    parts = tuple(part for part in after.split("\\") if part and (verbatim or part != "."))
    for component in (*named, *parts):
        if reason := _why_refused(component):
            raise refuse(reason)
    if _units(text) > _LONGEST_PATH:
        raise refuse("it is too long")
    return HostPath(root, parts)


def _why_refused(component: str) -> str:
    """Say what is wrong with one name, or return an empty text."""
    if not component:
        return "a name in it is empty"
    if component in {".", ".."}:
        return "it walks upward or stands still"
    if _REFUSED_CHARACTERS.search(component):
        return "a name in it holds a character that no file name has, or names a stream"
    if component[-1] in ". ":
        return "a name in it ends in a dot or a space, which Windows drops"
    if _DEVICE.fullmatch(component):
        return "it names a device"
    try:
        component.encode("utf-16-le")
    except UnicodeEncodeError:
        return "a name in it is not Unicode"
    return "a name in it is too long" if _units(component) > _LONGEST_COMPONENT else ""


def _units(text: str) -> int:
    return len(text) + sum(character > "\uffff" for character in text)


def _fold(text: str) -> str:
    # As NTFS compares names: one character for one. Python's own folding would let
    # the rule for STRASSE catch a folder called Straße.
    return "".join(upper if len(upper := character.upper()) == 1 else character for character in text)


def _below(place: Place, parts: tuple[str, ...]) -> Place:
    if isinstance(place, FolderPlace):
        return FolderPlace(place.root, place.parts + parts)
    return SharePlace(place.server, place.port, place.share, place.parts + parts)


def _parse_address(address: str) -> Place:
    try:
        url = urlsplit(address)
        port = url.port
    except ValueError as error:
        raise BadPathMap(f"paths: {address!r} is not an address: {error}.") from error
    if url.query or url.fragment or url.username is not None or "\\" in url.path:
        raise BadPathMap(f"paths: {address!r} holds more than a server, a share and a folder.")
    path = unquote(url.path, errors="surrogateescape")
    if url.scheme == "smb":
        share, *parts = [part for part in path.split("/") if part] or [""]
        if not url.hostname or any(map(_why_refused, (share, *parts))):
            raise BadPathMap(f"paths: {address!r} is not of the form smb://HOST/SHARE/FOLDER.")
        return SharePlace(url.hostname, port, share, tuple(parts))
    if (
        url.scheme == "file"
        and url.hostname in {None, "localhost"}
        and path.startswith("/")
        and "\0" not in path
    ):
        root = Path(path[1:] if re.match(r"/[A-Za-z]:/", path) else path)
        if ".." in root.parts:
            raise BadPathMap(f"paths: {address!r} walks upward.")
        return FolderPlace(root, ())
    raise BadPathMap(f"paths: {address!r} is neither smb://HOST/SHARE nor file:///FOLDER.")
