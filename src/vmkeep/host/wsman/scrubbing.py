"""Take out of XML and text what tells whose host it is, and put the same placeholder for the same thing.

What goes: names of users, hosts, domains, VMs, files and folders; SIDs, MAC and IP
addresses. What stays: classes, GUIDs, numbers, codes, times, and the relations
between all of these, so that a trace can be replayed. A name is known once it was
given to :meth:`Scrubber.hide` or came in a property that holds names; a sentence
that mentions it earlier keeps it.
"""

import base64
import binascii
import io
import ipaddress
import re
import xml.sax
from collections.abc import Mapping
from typing import Final
from xml.etree.ElementTree import Element
from xml.sax.handler import ContentHandler
from xml.sax.saxutils import XMLGenerator
from xml.sax.xmlreader import AttributesImpl

from vmkeep.host.wsman.errors import HostNonsense
from vmkeep.host.wsman.reading import parsed

# Properties whose text is a name that somebody gave.
_NAMING: Final = frozenset(
    {
        "ElementName",
        "Name",
        "SystemName",
        "DNSHostName",
        "HostName",
        "PSComputerName",
        "CSName",
        "Domain",
        "Workgroup",
        "UserName",
        "RegisteredUser",
        "Organization",
        "PrimaryOwnerName",
        "PrimaryOwnerContact",
        "HostComputerSystemName",
        "Label",
        "VolumeName",
        "Notes",
        "FullyQualifiedDomainName",
        "NetworkAddresses",
        "Owner",
        "ClientIP",
        "SharedPath",
        "FriendlyName",
    }
)
# What a guest tells under these names says which system it is, not whose (learn.microsoft.com, hyperv_v2,
# Msvm_KvpExchangeDataItem; Linux has more). All else that it tells goes.
_ITEM: Final = "Msvm_KvpExchangeDataItem"
_OF_SYSTEMS: Final = frozenset(
    {
        "CSDVersion",
        "IntegrationServicesVersion",
        "OSBuildNumber",
        "OSDistributionData",
        "OSDistributionName",
        "OSEditionId",
        "OSKernelVersion",
        "OSMajorVersion",
        "OSMinorVersion",
        "OSName",
        "OSPlatformId",
        "OSVersion",
        "ProcessorArchitecture",
        "ProductType",
        "ServicePackMajor",
        "ServicePackMinor",
        "SuiteMask",
    }
)
_MAC_NAMING: Final = frozenset({"Address", "PermanentAddress", "MACAddress", "StaticMacAddress"})
_SHORTEST_WORD: Final = 3  # shorter names are replaced where they stand alone, not inside other words

_GUID: Final = r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
# Where a name is expected: what Windows made itself, ids and the names of its classes.
_TELLS_NOTHING: Final = re.compile(
    rf"(?:Microsoft:)?\{{?{_GUID}\}}?(?:\\+[0-9A-Za-z-]+)*|Microsoft:Definition.*|[\d.]*"
    r"|(?:Msvm|CIM|Win32|MSCluster|MSFT)_\w+"
)
# Windows' own words, whatever somebody calls a VM: kinds of devices, ids (and in queries how they begin).
_OF_WINDOWS: Final = re.compile(
    rf"Microsoft:Hyper-V:[\w:/ -]+|Microsoft:{_GUID}(?:\\+[\w-]+)*%?|(?:Msvm|CIM|Win32)_\w+", re.ASCII
)
# An object path: the server, namespace and class, keys (hyperv-backup-api.md 1.2, Parent).
_OBJECT: Final = re.compile(
    r"\\\\([^\\]+)((?:\\\w+)+:(?:Msvm|CIM|Win32|MSCluster|MSFT)_\w+)(.*)", re.ASCII | re.DOTALL
)
_LETTER: Final = re.compile(r"[A-Za-z]:?")  # a drive, or the end of an id
_PLAIN_VALUE: Final = re.compile(rf"-?\d+|true|false|{_GUID}|\d{{4}}-\d\d-\d\dT[\d:.+Z-]*", re.IGNORECASE)
_OF_THE_WIRE: Final = frozenset({"ResourceURI", "Action", "MessageID", "RelatesTo", "Code", "Dialect"})
_COMMON_FOLDERS: Final = frozenset(
    {
        "virtual hard disks",
        "virtual machines",
        "snapshots",
        "planned virtual machines",
        "hyper-v",
        "clusterstorage",
        "users",
        "public",
        "documents",
        "programdata",
        "microsoft",
        "windows",
        "system32",
        "root",
        "virtualization",
        "v2",
        "cimv2",
        "",
    }
)
_VOLUME: Final = re.compile(r"volume\d*", re.IGNORECASE)
_KEPT: Final = (_LETTER, _VOLUME, _TELLS_NOTHING)
_HRESULT: Final = re.compile(r"\(0x[0-9A-Fa-f]{8}\)")
_PATH: Final = re.compile(r'(?<![A-Za-z])[A-Za-z]:\\[^"<>|*?\r\n]*|\\\\[^"<>|*?\r\n]+')
_SID: Final = re.compile(r"\bS-1-5-21(?:-\d+)+\b")
_MAC: Final = re.compile(r"\b(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}\b")
_BARE_MAC: Final = re.compile(r"\b[0-9A-Fa-f]{12}\b")
_IPV4: Final = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])")
_IPV6: Final = re.compile(r"(?<![\w:])[0-9A-Fa-f:][0-9A-Fa-f:.]{1,44}(?![\w:.])")
_WORD: Final = re.compile(rf"{_GUID}|[^\W_]+")  # a GUID is one word: no name is a part of it
_LITERAL: Final = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"", re.DOTALL)


class Scrubber:
    """Remembers which placeholder stands for what."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, str], str] = {}
        self._counts: dict[str, int] = {}
        self._by_word: dict[str, list[tuple[int, str]]] = {}  # first word: where in the name, the name

    def hide(self, kind: str, text: str) -> str:
        """Return the placeholder of a name, from now on used wherever the name stands."""
        return self._place(kind, text) if text else text

    def xml(self, content: str) -> str:
        """Return a document with names replaced. Raises HostNonsense for what is not XML."""
        # Bounded and without a document type before another parser sees it.
        root = parsed(content, "a message")
        if root.tag == "INSTANCE" and root.get("CLASSNAME") == _ITEM:
            self._hide_data(root)
        for learning in (True, False):
            written = io.StringIO()
            xml.sax.parseString(content.encode("utf-8"), _Rewriter(self, written, learning=learning))
        return written.getvalue().removeprefix('<?xml version="1.0" encoding="utf-8"?>\n')

    def text(self, text: str) -> str:
        """Return free text with everything known and everything that has a telling form replaced."""
        text = _PATH.sub(lambda found: self._path(found[0]), text)
        for pattern, kind in ((_SID, "sid"), (_MAC, "mac"), (_IPV4, "ip"), (_IPV6, "ip")):
            text = pattern.sub(lambda found, kind=kind: self._address(kind, found[0]), text)  # type: ignore[misc]
        return self._without_names(text)

    def value(self, name: str, text: str) -> str:
        """Return the text of one property, by what the property holds."""
        if name in _OF_THE_WIRE or _OF_WINDOWS.fullmatch(text):
            return text
        if name in _MAC_NAMING and _BARE_MAC.fullmatch(text):
            return self._address("mac", text)
        if text.lstrip().startswith("<INSTANCE"):
            try:
                return self.xml(text)
            except HostNonsense:
                return f"(an instance of {len(text)} characters that cannot be read)"
        if name == "Filter":
            # Only literals: whatever VMs are called, the query's own words stay.
            return _LITERAL.sub(self._literal, text)
        if path := _OBJECT.fullmatch(text):
            server = self._place("name", path[1])
            return rf"\\{server}{path[2]}{_LITERAL.sub(self._literal, path[3])}"
        if name == "Stream":
            return self._stream(text)
        if name == "Name" and text in _OF_SYSTEMS:
            return text
        if name == "Data" and ("name", text.lower()) in self._places:
            return self._place("name", text)
        if name in _NAMING and not _TELLS_NOTHING.fullmatch(text):
            return self._place("name", text)
        return text if _PLAIN_VALUE.fullmatch(text) else self.text(text)

    def _hide_data(self, item: Element) -> None:
        """Take what a guest tells of itself for a name, unless it is about its system only."""
        found = {each.get("NAME"): each.findtext("VALUE") or "" for each in item.iter("PROPERTY")}
        data = found.get("Data", "")
        if found.get("Name") in _OF_SYSTEMS or all(_is_address(each) for each in data.split(";")):
            return
        self.hide("name", data)
        self.hide("name", data.partition(".")[0])  # of a domain name, what people call the guest

    def _without_names(self, text: str) -> str:
        """Replace each known name that stands in the text as whole words, the longest first."""
        lower = "".join(c.lower() if len(c.lower()) == 1 else c for c in text)  # as long as the text
        parts, done = [], 0
        for word in _WORD.finditer(lower):
            for offset, name in self._by_word.get(word[0], ()):
                begin, end = word.start() - offset, word.start() - offset + len(name)
                if begin >= done and lower.startswith(name, begin) and not lower[end : end + 1].isalnum():
                    parts += [text[done:begin], self._place("name", text[begin:end])]
                    done = end
                    break
        return "".join([*parts, text[done:]])

    def _literal(self, found: re.Match[str]) -> str:
        inside = found[1] if found[1] is not None else found[2]
        if _TELLS_NOTHING.fullmatch(inside) or _OF_WINDOWS.fullmatch(inside):
            return found[0]
        scrubbed = self.text(inside) if _PATH.match(inside) else self._place("name", inside)
        return found[0][0] + scrubbed + found[0][-1]

    def _stream(self, text: str) -> str:
        try:
            shown = base64.b64decode(text).decode("utf-8", "replace")
        except binascii.Error:
            return ""
        return base64.b64encode(self.text(shown).encode("utf-8")).decode("ascii")

    def _path(self, path: str) -> str:
        """Replace the parts of a path, keeping its form, endings and HRESULTs that follow it."""
        parts = re.split(r"(\\+)", path)
        return "".join(part if part.startswith("\\") else self._part(part) for part in parts)

    def _part(self, part: str) -> str:
        bare = part.strip().lower()
        if bare in _COMMON_FOLDERS or any(kept.fullmatch(part) for kept in _KEPT):
            return part
        stem, dot, ending = part.partition(".") if part.count(".") == 1 else (part, "", "")
        codes = "".join(f" {code}" for code in _HRESULT.findall(part))
        kept = dot + ending if ending.isalnum() and len(ending) <= 5 else ""
        if _TELLS_NOTHING.fullmatch(stem):
            return stem + kept + codes
        return self._place("name", stem) + kept + codes

    def _address(self, kind: str, text: str) -> str:
        if kind == "ip" and not _is_address(text):
            return text  # a version, or a time
        return self._place(kind, text)

    def _place(self, kind: str, text: str) -> str:
        if kind == "name":
            # The same word may be known as a host or a user; it stays that.
            known = next(
                (self._places[k, text.lower()] for k in _WORDS if (k, text.lower()) in self._places), None
            )
            if known is not None:
                return known
        place = self._places.get((kind, text.lower()))
        if place is None:
            number = self._counts[kind] = self._counts.get(kind, 0) + 1
            place = _PLACES.get(kind, "{kind}-{n}").format(kind=kind, n=number, hex=f"{number:06X}")
            self._places[kind, text.lower()] = place
            first = _WORD.search(text.lower())
            if kind in _WORDS and first and len(text) >= _SHORTEST_WORD:
                names = self._by_word.setdefault(first[0], [])
                names.append((first.start(), text.lower()))
                names.sort(key=lambda found: -len(found[1]))
        return place


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


_WORDS: Final = ("host", "user", "domain", "name")
_PLACES: Final[Mapping[str, str]] = {
    "sid": "S-1-5-21-0-0-0-{n}",
    "mac": "00155D{hex}",
    "ip": "ip-{n}",
}


class _Rewriter(ContentHandler):
    """Copies a document as it is spelled, prefixes included, with its texts replaced."""

    def __init__(self, scrubber: Scrubber, written: io.StringIO, *, learning: bool) -> None:
        super().__init__()
        self._scrubber = scrubber
        self._copy = XMLGenerator(written, "utf-8", short_empty_elements=True)
        self._learning = learning
        self._names = [""]
        self._text = ""

    def startDocument(self) -> None:  # noqa: N802
        self._copy.startDocument()

    def startElement(self, name: str, attrs: AttributesImpl) -> None:  # noqa: N802
        self._flush()
        given = attrs.get("NAME" if "NAME" in attrs else "Name", "")
        local = name.rpartition(":")[2]
        # A value inside CIM-XML, and a selector, go by the name that is an attribute.
        self._names.append(
            given if local in {"PROPERTY", "PROPERTY.ARRAY", "Selector"} else self._inherited(local)
        )
        kept = {
            key: value
            if key.startswith("xmlns") or key.endswith(("type", "Name", "NAME"))
            else self._scrubber.value("Name" if key == "Machine" else key, value)
            for key, value in attrs.items()
        }
        self._copy.startElement(name, AttributesImpl(kept))

    def _inherited(self, local: str) -> str:
        return self._names[-1] if local in {"VALUE", "VALUE.ARRAY"} else local

    def characters(self, content: str) -> None:
        self._text += content

    def endElement(self, name: str) -> None:  # noqa: N802
        self._flush()
        self._names.pop()
        self._copy.endElement(name)

    def _flush(self) -> None:
        if self._text:
            scrubbed = self._scrubber.value(self._names[-1], self._text) if self._text.strip() else self._text
            self._copy.characters(scrubbed)
            self._text = ""
