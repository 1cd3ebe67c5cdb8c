"""SOAP envelopes: read a request and check its headers, write a reply ([MS-WSMV] 3.1.4.1; DSP0226)."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final
from xml.etree.ElementTree import Element

from vmkeep_lab.wire import times
from vmkeep_lab.wire.addresses import Addresses, Selectors
from vmkeep_lab.wire.faults import (
    ADDRESSING_MODE,
    DESTINATION_UNREACHABLE,
    HEADER_REQUIRED,
    INVALID_MESSAGE_INFORMATION_HEADER,
    INVALID_TIMEOUT_HEADER,
    LOCALE,
    MINIMUM_ENVELOPE,
    MUST_UNDERSTAND,
    SCHEMA_VALIDATION,
    SoapFault,
)
from vmkeep_lab.wire.markup import BadMarkup, attribute, parse, text
from vmkeep_lab.wire.names import (
    ADDRESSING,
    ANONYMOUS,
    ENUMERATION,
    MICROSOFT,
    SHELL,
    SOAP,
    TRANSFER,
    WSMAN,
    XML,
    tag,
)
from vmkeep_lab.wire.settings import Settings

MIN_ENVELOPE: Final = 8192
_MAX_MESSAGE_ID: Final = 2048

_KNOWN: Final = frozenset(
    [
        tag(ADDRESSING, name)
        for name in ("To", "Action", "ReplyTo", "MessageID", "From", "FaultTo", "RelatesTo")
    ]
    + [
        tag(WSMAN, name)
        for name in (
            "ResourceURI",
            "SelectorSet",
            "OperationTimeout",
            "MaxEnvelopeSize",
            "Locale",
            "OptionSet",
            "RequestEPR",
            "RequestTotalItemsCountEstimate",
            "FragmentTransfer",
        )
    ]
    + [
        tag(MICROSOFT, name)
        for name in ("DataLocale", "SessionId", "ActivityId", "OperationID", "SequenceId")
    ]
    + [tag(SHELL, "CompressionType")]
)
# Languages that are only a wish; as a demand they are refused.
_WISHES: Final = (tag(WSMAN, "Locale"), tag(MICROSOFT, "DataLocale"))

# The prefixes that a kind of reply declares, in the order of the recordings.
_DECLARED: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "enumeration": (("s", SOAP), ("a", ADDRESSING), ("n", ENUMERATION), ("w", WSMAN)),
    "transfer": (("s", SOAP), ("a", ADDRESSING), ("x", TRANSFER), ("w", WSMAN)),
    "invoke": (("s", SOAP), ("a", ADDRESSING), ("w", WSMAN)),
    "shell": (
        ("s", SOAP),
        ("a", ADDRESSING),
        ("x", TRANSFER),
        ("w", WSMAN),
        ("rsp", SHELL),
        ("p", MICROSOFT),
    ),
    "fault": (
        ("s", SOAP),
        ("a", ADDRESSING),
        ("x", TRANSFER),
        ("e", "http://schemas.xmlsoap.org/ws/2004/08/eventing"),
        ("n", ENUMERATION),
        ("w", WSMAN),
        ("p", MICROSOFT),
    ),
}


class NotSoap(Exception):
    """A body that is no SOAP envelope, which is answered without one: HTTP 400."""


@dataclass(frozen=True)
class Request:
    """What a request's headers say, within the limits of the service."""

    action: str
    resource_uri: str
    message_id: str
    selectors: Selectors
    body: Element | None
    timeout_s: float
    max_envelope_bytes: int
    locale: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    operation_id: str = ""
    sequence_id: str = ""
    fragment: str = ""

    @property
    def fingerprint(self) -> tuple[str, int, str]:
        """What a Pull must have in common with its Enumerate."""
        return self.locale, self.max_envelope_bytes, self.resource_uri.lower()


def open_envelope(data: bytes, encoding: str | None) -> tuple[Element, Element | None, list[Element]]:
    """Return header, first body child and all body children; NotSoap where it is no envelope."""
    try:
        root = parse(data, encoding)
    except BadMarkup as error:
        raise NotSoap(str(error)) from error
    body = root.find(tag(SOAP, "Body"))
    if root.tag != tag(SOAP, "Envelope") or body is None:
        raise NotSoap("not a SOAP 1.2 envelope")
    header = root.find(tag(SOAP, "Header"))
    children = list(body)
    return Element("none") if header is None else header, children[0] if children else None, children


class HeaderReader:
    """Checks a request's headers in the order of Microsoft's own servers."""

    def __init__(self, settings: Settings, addresses: Addresses) -> None:
        self._settings = settings
        self._addresses = addresses

    def read(self, header: Element, body: Element | None) -> Request:
        """Return the request; SoapFault where a header breaks a rule."""
        self._check_understood(header)
        envelope = self._envelope_bytes(header)
        timeout = self._timeout_s(header)
        action = _needed(header, "Action")
        for name in ("To", "ReplyTo"):
            if header.find(tag(ADDRESSING, name)) is None:
                raise SoapFault(HEADER_REQUIRED, f"The header a:{name} is missing.")
        reply_to = header.findtext(f"{tag(ADDRESSING, 'ReplyTo')}/{tag(ADDRESSING, 'Address')}") or ""
        if reply_to.strip() != ANONYMOUS:
            raise SoapFault(ADDRESSING_MODE, "Replies go to the anonymous address only.")
        message_id = (header.findtext(tag(ADDRESSING, "MessageID")) or "").strip()
        if not message_id or len(message_id) > _MAX_MESSAGE_ID:
            raise SoapFault(INVALID_MESSAGE_INFORMATION_HEADER, "The message has no usable MessageID.")
        uri = (header.findtext(tag(WSMAN, "ResourceURI")) or "").strip()
        if not uri:
            raise SoapFault(DESTINATION_UNREACHABLE, "The header w:ResourceURI is missing.")
        locale = header.find(tag(WSMAN, "Locale"))
        options = header.find(tag(WSMAN, "OptionSet"))
        return Request(
            action=action,
            resource_uri=uri,
            message_id=message_id,
            selectors=self._addresses.read_selectors(header.find(tag(WSMAN, "SelectorSet"))),
            body=body,
            timeout_s=timeout,
            max_envelope_bytes=envelope,
            locale="" if locale is None else locale.get(tag(XML, "lang"), ""),
            options={} if options is None else {each.get("Name", ""): each.text or "" for each in options},
            operation_id=(header.findtext(tag(MICROSOFT, "OperationID")) or "").strip(),
            sequence_id=(header.findtext(tag(MICROSOFT, "SequenceId")) or "").strip(),
            fragment=(header.findtext(tag(WSMAN, "FragmentTransfer")) or "").strip(),
        )

    def _check_understood(self, header: Element) -> None:
        for each in header:
            if not _is_demanded(each):
                continue
            if each.tag in _WISHES:
                raise SoapFault(LOCALE, "A locale cannot be demanded.")
            if each.tag not in _KNOWN:
                raise SoapFault(MUST_UNDERSTAND, "A header was not understood.", not_understood=each.tag)

    def _envelope_bytes(self, header: Element) -> int:
        most = self._settings.max_envelope_bytes
        asked = (header.findtext(tag(WSMAN, "MaxEnvelopeSize")) or "").strip()
        if not asked:
            return most
        if not asked.isascii() or not asked.isdigit():
            raise SoapFault(SCHEMA_VALIDATION, "MaxEnvelopeSize is a number.")
        if len(asked) < 9 and int(asked) < MIN_ENVELOPE:
            raise SoapFault(MINIMUM_ENVELOPE, f"The smallest envelope is {MIN_ENVELOPE} bytes.")
        return most if len(asked) > 9 else min(most, int(asked))

    def _timeout_s(self, header: Element) -> float:
        most = timedelta(milliseconds=self._settings.max_timeout_ms)
        asked = (header.findtext(tag(WSMAN, "OperationTimeout")) or "").strip()
        if not asked:
            return most.total_seconds()
        try:
            return min(most, times.read_duration(asked)).total_seconds()
        except ValueError as error:
            raise SoapFault(INVALID_TIMEOUT_HEADER, "OperationTimeout is no duration.") from error


def _is_demanded(header: Element) -> bool:
    return header.get(tag(SOAP, "mustUnderstand"), "").strip().lower() in {"true", "1"}


def _needed(header: Element, name: str) -> str:
    found = (header.findtext(tag(ADDRESSING, name)) or "").strip()
    if not found:
        raise SoapFault(HEADER_REQUIRED, f"The header a:{name} is missing.")
    return found


def relates_to(header: Element) -> str:
    """Return the MessageID of a request that may be broken."""
    return (header.findtext(tag(ADDRESSING, "MessageID")) or "").strip()[:_MAX_MESSAGE_ID]


@dataclass(frozen=True)
class Reply:
    """What goes back: the action, the inside of the body, and how its prefixes are declared."""

    action: str
    body: str
    kind: str
    not_understood: str = ""


def envelope(reply: Reply, locale: str, message_id: str, request: Request | None) -> bytes:
    """Return a reply as it goes over the wire; ``message_id`` is the request's."""
    declared = " ".join(f'xmlns:{prefix}="{uri}"' for prefix, uri in _DECLARED[reply.kind])
    rows = [
        f"<a:Action>{text(reply.action)}</a:Action>",
        f"<a:MessageID>uuid:{str(uuid.uuid4()).upper()}</a:MessageID>",
    ]
    if request is not None and request.operation_id:
        # Echoed by 2012 and later ([MS-WSMV] 3.1.4.1.39).
        rows.append(
            f'<p:OperationID s:mustUnderstand="false" xmlns:p="{MICROSOFT}">{text(request.operation_id)}'
            f'</p:OperationID><p:SequenceId xmlns:p="{MICROSOFT}">{text(request.sequence_id or "1")}'
            "</p:SequenceId>"
        )
    rows.append(f"<a:To>{ANONYMOUS}</a:To>")
    if message_id:
        rows.append(f"<a:RelatesTo>{text(message_id)}</a:RelatesTo>")
    if reply.not_understood:
        space, _, name = reply.not_understood.removeprefix("{").rpartition("}")
        rows.append(f"<s:NotUnderstood qname={attribute('q:' + name)} xmlns:q={attribute(space)}/>")
    return (
        f"<s:Envelope xml:lang={attribute(locale)} {declared}><s:Header>{''.join(rows)}</s:Header>"
        f"<s:Body>{reply.body}</s:Body></s:Envelope>"
    ).encode()
