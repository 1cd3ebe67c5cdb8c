"""Read SOAP faults, and decide by their numbers which of our errors they are.

The host's sentence is translated into its language: it is kept for display and
decides nothing.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from xml.etree.ElementTree import Element

from vmkeep.host.wsman.errors import (
    ActionHappened,
    EnumerationLost,
    EnvelopeTooLarge,
    HostBusy,
    HostError,
    HostFault,
    HostShuttingDown,
    HostTimedOut,
    InstanceMissing,
    RightMissing,
    UnknownToHost,
)
from vmkeep.host.wsman.names import FAULT, MICROSOFT, SOAP, WSMAN
from vmkeep.host.wsman.reading import content_of, split_tag

_LONGEST_TEXT: Final = 2000
_WMI_ERROR: Final = "MSFT_WmiError"
_HRESULT: Final = re.compile(r"\s*(\d{1,10})\s*", re.ASCII)

TIMED_OUT: Final = 2150858793
# Windows' system error for "access is denied", which WS-Management sends as it is.
_ACCESS_DENIED: Final = 5

# By number ([MS-WSMV], wsman-wire.md section 5, failures.md 3.5). An error that carries several
# numbers is what the first row says that knows one of them.
_BY_CODE: Final[Mapping[type[HostError], frozenset[int]]] = {
    ActionHappened: frozenset({2150858829}),
    RightMissing: frozenset(
        {
            _ACCESS_DENIED,
            2150859012,  # WMI: the service, a provider or the connection denies
            2150859013,
            2150859014,
            0x80041003,  # WBEM_E_ACCESS_DENIED
            0x80070005,  # E_ACCESSDENIED
        }
    ),
    HostShuttingDown: frozenset({0x80041033}),
    HostBusy: frozenset(
        {
            2150858772,  # endpoint unavailable
            2150858802,  # concurrency
            2150858815,  # quota
            *range(2150859173, 2150859177),  # shells, operations, of a user, of the system
            2150859179,  # users of shells
            *range(2150859236, 2150859243),  # of a plug-in
            1018,  # the host could not start a process for the request: nothing ran
        }
    ),
    HostTimedOut: frozenset({TIMED_OUT, 2150858780, 2150859046}),
    EnumerationLost: frozenset({2150858779, 2150858884}),
    EnvelopeTooLarge: frozenset({2150858790, 2150858805, *range(2150858823, 2150858826), 2150859025}),
    UnknownToHost: frozenset(
        {
            87,  # Windows' invalid parameter, as the shell plug-in sends it
            2150858753,  # invalid or unsupported actions
            2150858771,
            2150858801,
            2150858773,  # invalid representation
            *range(2150858838, 2150858842),
            *range(2150858776, 2150858779),  # filters
            *range(2150858809, 2150858812),  # options, parameters, resource address
            2150858813,  # selectors
            *range(2150858833, 2150858838),
            *range(2150858842, 2150858848),
            2150858817,  # schema
            2150858818,  # features
            2150858819,
            2150858854,
            2150858861,
            2150858862,
            2150858870,
            2150858871,
            2150858886,
            2150858887,
            2150858918,
            2150858767,  # headers
            2150858768,
            2150858769,
            2150858881,
            2150859002,  # selectors that are missing; WQL at a class's address
            2150859003,
            2150859181,  # a Pull that differs from its Enumerate
            0x80041008,  # WBEM_E_INVALID_PARAMETER
            0x8004100E,  # WBEM_E_INVALID_NAMESPACE
            0x80041010,  # WBEM_E_INVALID_CLASS
            0x80041017,  # WBEM_E_INVALID_QUERY
            0x80041018,  # WBEM_E_INVALID_QUERY_TYPE
            0x8004102E,  # WBEM_E_INVALID_METHOD
            0x8004102F,  # WBEM_E_INVALID_METHOD_PARAMETERS
            0x80041031,  # WBEM_E_INVALID_PROPERTY
        }
    ),
    InstanceMissing: frozenset({2150858752, 2150858770, 0x80041002}),
}
_CODE_OF_SUBCODE: Final[Mapping[str, type[HostError]]] = {
    "AccessDenied": RightMissing,
    "QuotaLimit": HostBusy,
    "Concurrency": HostBusy,
    "EndpointUnavailable": HostBusy,
    "TimedOut": HostTimedOut,
    "InvalidEnumerationContext": EnumerationLost,
    "EncodingLimit": EnvelopeTooLarge,
    "SchemaValidationError": UnknownToHost,
    "InvalidSelectors": UnknownToHost,
    "InvalidParameter": UnknownToHost,
    "InvalidOptions": UnknownToHost,
    "UnsupportedFeature": UnknownToHost,
    "ActionNotSupported": UnknownToHost,
    "CannotProcessFilter": UnknownToHost,
    "DestinationUnreachable": InstanceMissing,
}


@dataclass(frozen=True)
class Fault:
    """What a host said went wrong; ``codes`` from the outside in, WMI's HRESULTs among them."""

    codes: tuple[int, ...]
    subcode: str = ""
    text: str = ""
    provider: str = ""
    detail: str = ""

    @property
    def hresult(self) -> int | None:
        """The innermost number that looks like an HRESULT of WMI or Windows, not of WS-Management."""
        found = [code for code in self.codes if code >> 31 and (code >> 16) & 0x1FFF != 0x33]
        return found[-1] if found else None


def read_fault(body_child: Element) -> Fault:
    """Read an ``s:Fault`` with either kind of detail; what is missing stays empty."""
    subcode = content_of(body_child.find(f"{{{SOAP}}}Code/{{{SOAP}}}Subcode/{{{SOAP}}}Value"))
    text = content_of(body_child.find(f"{{{SOAP}}}Reason/{{{SOAP}}}Text"))
    detail = body_child.find(f"{{{SOAP}}}Detail")
    if detail is None:
        return Fault((), subcode.rpartition(":")[2], text[:_LONGEST_TEXT])
    provider = detail.find(f".//{{{FAULT}}}ProviderFault")
    message = detail.find(f".//{{{FAULT}}}Message")
    own = " ".join("".join(message.itertext()).split()) if message is not None else ""
    own = own or _wmi_text(detail)
    return Fault(
        codes=tuple(_codes(detail)),
        subcode=subcode.rpartition(":")[2],
        text=(own or text)[:_LONGEST_TEXT],
        provider="" if provider is None else provider.get("provider", "")[:200],
        detail=content_of(detail.find(f"{{{WSMAN}}}FaultDetail")).rpartition("/")[2][:200],
    )


def _codes(detail: Element) -> Iterator[int]:
    """Yield each fault's number: attributes of WSManFault, error_Code of MSFT_WmiError."""
    for element in detail.iter():
        namespace, name = split_tag(element.tag)
        number = None
        if name == "WSManFault" and namespace in {FAULT, MICROSOFT}:
            number = _HRESULT.fullmatch(element.get("Code", ""))
        elif name == "error_Code":
            number = _HRESULT.fullmatch(element.text or "")
        if number and int(number[1]) < 2**32:
            yield int(number[1])


def _wmi_text(detail: Element) -> str:
    for element in detail.iter():
        if split_tag(element.tag)[1] in {"error_WindowsErrorMessage", "Message"} and content_of(element):
            return content_of(element)
    return ""


def error_for(fault: Fault, host: str, request: str, right: str) -> HostError:
    """Return the error that a fault is: by its numbers, or where it has none by its subcode.

    ``right`` names what the user needs for this request, should it be denied.
    """
    kind = _kind(fault)
    numbers = ", ".join(f"{code} (0x{code:08X})" for code in fault.codes)
    said = f"{fault.subcode or 'a fault'}{' ' + fault.detail if fault.detail else ''}"
    message = f"{host} answers {request} with {said}{', ' + numbers if numbers else ''}"
    if kind is RightMissing:
        message = f"{host} denies {request}; it needs {right}"
    # repr: the text is the host's, and may try to steer a terminal.
    shown = f": {fault.text!r}." if fault.text else "."
    return kind(
        message + shown,
        host=host,
        request=request,
        code=fault.codes[0] if fault.codes else None,
        codes=fault.codes,
        hresult=fault.hresult,
        subcode=fault.subcode,
        provider=fault.provider,
        host_text=fault.text,
    )


def _kind(fault: Fault) -> type[HostError]:
    for kind, codes in _BY_CODE.items():
        if codes.intersection(fault.codes):
            return kind
    if not fault.codes:
        return _CODE_OF_SUBCODE.get(fault.subcode, HostFault)
    return HostFault
