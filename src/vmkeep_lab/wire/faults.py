"""SOAP faults: the table of codes as data, and the envelope's inside.

Code, fault and detail of each row: Microsoft's own Unix server (microsoft/omi), whose table quotes DSP0226,
and recorded faults of Windows hosts; see [MS-WSMV] 2.2.4.43 for WSManFault.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from vmkeep_lab.cim import (
    WBEM_E_ACCESS_DENIED,
    WBEM_E_INVALID_CLASS,
    WBEM_E_INVALID_METHOD,
    WBEM_E_INVALID_NAMESPACE,
    WBEM_E_INVALID_PARAMETER,
    WBEM_E_INVALID_QUERY,
    WBEM_E_NOT_FOUND,
    WBEM_E_PROVIDER_NOT_CAPABLE,
    WmiError,
)
from vmkeep_lab.wire.markup import attribute as quoteattr
from vmkeep_lab.wire.markup import text as escape
from vmkeep_lab.wire.names import (
    ADDRESSING,
    BINDING,
    CIM_COMMON,
    ENUMERATION,
    FAULT,
    FAULT_DETAIL,
    TRANSFER,
    WMI,
    WMI_ERROR,
    WSMAN_FAULT_ACTION,
    XSI,
)

ACCESS_DENIED: Final = 5
INVALID_PARAMETER: Final = 87
RESOURCE_NOT_FOUND: Final = 2150858752
ACTION_NOT_SUPPORTED: Final = 2150858771
INVALID_MESSAGE_INFORMATION_HEADER: Final = 2150858767
MUST_UNDERSTAND: Final = 2150858768
HEADER_REQUIRED: Final = 2150858769
DESTINATION_UNREACHABLE: Final = 2150858770
FILTERING_NOT_SUPPORTED: Final = 2150858776
FILTER_DIALECT: Final = 2150858777
CANNOT_PROCESS_FILTER: Final = 2150858778
INVALID_ENUMERATION_CONTEXT: Final = 2150858779
OPERATION_TIMED_OUT: Final = 2150858793
ACTION_MISMATCH: Final = 2150858801
QUOTA_LIMIT: Final = 2150858815
SCHEMA_VALIDATION: Final = 2150858817
MAX_ENVELOPE_SIZE_EXCEEDED: Final = 2150858824
SELECTOR_LIMIT: Final = 2150858826
UNREPORTABLE_SUCCESS: Final = 2150858829
INTERNAL_ERROR: Final = 1359
ADDRESSING_MODE: Final = 2150858861
FRAGMENT_ACCESS: Final = 2150858870
ENUMERATION_MODE: Final = 2150858871
LOCALE: Final = 2150858886
MINIMUM_ENVELOPE: Final = 2150858878
INSUFFICIENT_SELECTORS: Final = 2150858842
UNEXPECTED_SELECTORS: Final = 2150858843
AMBIGUOUS_SELECTORS: Final = 2150858846
DUPLICATE_SELECTORS: Final = 2150858847
INVALID_TIMEOUT_HEADER: Final = 2150858881
URI_WITHOUT_KEYS: Final = 2150859002
WQL_URI: Final = 2150859003
NO_COMMAND: Final = 2150859141
MAX_OPERATIONS: Final = 2150859174
MAX_SHELL_USERS: Final = 2150859179
MAX_SHELLS: Final = 2150859173
PROVIDER_NOT_CAPABLE: Final = 2150859010
PULL_DIFFERS: Final = 2150859181

_ACTIONS: Final[Mapping[str, str]] = {
    "s": WSMAN_FAULT_ACTION,
    "a": f"{ADDRESSING}/fault",
    "n": f"{ENUMERATION}/fault",
    "x": f"{TRANSFER}/fault",
    "w": WSMAN_FAULT_ACTION,
}


@dataclass(frozen=True)
class Row:
    """How a code looks as a SOAP fault: who is to blame, the subcode with its prefix, the FaultDetail."""

    code: str  # "Sender", "Receiver" or "MustUnderstand"
    subcode: str
    detail: str = ""


# Fault, and the codes that become it with their details.
_TABLE: Final[tuple[tuple[str, str, tuple[tuple[int, str], ...]], ...]] = (
    (
        "Sender",
        "a:DestinationUnreachable",
        (
            (RESOURCE_NOT_FOUND, "InvalidResourceURI"),
            (2150858811, "InvalidResourceURI"),
            (DESTINATION_UNREACHABLE, ""),
        ),
    ),
    (
        "Sender",
        "a:ActionNotSupported",
        ((2150858753, ""), (ACTION_NOT_SUPPORTED, ""), (ACTION_MISMATCH, "ActionMismatch")),
    ),
    (
        "Sender",
        "a:InvalidMessageInformationHeader",
        ((INVALID_MESSAGE_INFORMATION_HEADER, ""), (INVALID_TIMEOUT_HEADER, "InvalidTimeout")),
    ),
    ("MustUnderstand", "", ((MUST_UNDERSTAND, ""),)),
    ("Sender", "a:MessageInformationHeaderRequired", ((HEADER_REQUIRED, ""),)),
    ("Receiver", "a:EndpointUnavailable", ((2150858772, ""),)),
    (
        "Sender",
        "x:InvalidRepresentation",
        (
            (2150858773, ""),
            (2150858838, "InvalidValues"),
            (2150858839, "MissingValues"),
            (2150858840, "InvalidNamespace"),
            (2150858841, "InvalidFragment"),
        ),
    ),
    ("Sender", "n:FilteringNotSupported", ((FILTERING_NOT_SUPPORTED, ""),)),
    ("Sender", "n:FilterDialectRequestedUnavailable", ((FILTER_DIALECT, ""),)),
    ("Sender", "n:CannotProcessFilter", ((CANNOT_PROCESS_FILTER, ""),)),
    ("Receiver", "n:InvalidEnumerationContext", ((INVALID_ENUMERATION_CONTEXT, ""),)),
    ("Receiver", "n:TimedOut", ((2150858780, ""),)),
    ("Receiver", "w:TimedOut", ((OPERATION_TIMED_OUT, ""),)),
    ("Sender", "w:Concurrency", ((2150858802, ""),)),
    ("Sender", "w:AlreadyExists", ((2150858803, ""),)),
    (
        "Sender",
        "w:EncodingLimit",
        (
            (2150858805, ""),
            (2150858823, "MaxEnvelopeSize"),
            (MAX_ENVELOPE_SIZE_EXCEEDED, "MaxEnvelopeSizeExceeded"),
            (2150858825, "ServiceEnvelopeLimit"),
            (SELECTOR_LIMIT, "SelectorLimit"),
            (2150858827, "OptionLimit"),
            (2150858828, "CharacterSet"),
            (UNREPORTABLE_SUCCESS, "UnreportableSuccess"),
            (2150858830, "Whitespace"),
            (MINIMUM_ENVELOPE, "MinimumEnvelopeLimit"),
        ),
    ),
    (
        "Sender",
        "w:InvalidOptions",
        (
            (2150858809, ""),
            (2150858833, "NotSupported"),
            (2150858834, "InvalidName"),
            (2150858835, "InvalidValue"),
        ),
    ),
    (
        "Sender",
        "w:InvalidParameter",
        (
            (INVALID_PARAMETER, "InvalidValue"),
            (2150858810, ""),
            (2150858836, "TypeMismatch"),
            (2150858837, "InvalidName"),
        ),
    ),
    (
        "Sender",
        "w:InvalidSelectors",
        (
            (2150858813, ""),
            (INSUFFICIENT_SELECTORS, "InsufficientSelectors"),
            (UNEXPECTED_SELECTORS, "UnexpectedSelectors"),
            (2150858844, "TypeMismatch"),
            (2150858845, "InvalidValue"),
            (AMBIGUOUS_SELECTORS, "AmbiguousSelectors"),
            (DUPLICATE_SELECTORS, "DuplicateSelectors"),
            (URI_WITHOUT_KEYS, "InsufficientSelectors"),
        ),
    ),
    ("Sender", "w:QuotaLimit", ((QUOTA_LIMIT, ""), (MAX_SHELLS, ""))),
    ("Sender", "w:SchemaValidationError", ((SCHEMA_VALIDATION, ""),)),
    (
        "Sender",
        "w:UnsupportedFeature",
        (
            (2150858818, ""),
            (2150858854, "OperationTimeout"),
            (ADDRESSING_MODE, "AddressingMode"),
            (2150858862, "MaxEnvelopeSize"),
            (FRAGMENT_ACCESS, "FragmentLevelAccess"),
            (ENUMERATION_MODE, "EnumerationMode"),
            (LOCALE, "Locale"),
            (2150858887, "OptionSet"),
        ),
    ),
    ("Sender", "w:InternalError", ((2150858819, "Invalid"),)),
    ("Sender", "w:AccessDenied", ((ACCESS_DENIED, ""),)),
)

ROWS: Final[Mapping[int, Row]] = {
    code: Row(blame, subcode, detail) for blame, subcode, rows in _TABLE for code, detail in rows
}
_OTHER: Final = Row("Receiver", "w:InternalError")

# Refusals of WMI that reach the client as a code of the service (recorded: 752 of 2012 R2, 778 of 2008 R2,
# 010 of 2016); the others arrive as MSFT_WmiError (believed).
_SERVICE_CODES: Final[Mapping[int, int]] = {
    WBEM_E_NOT_FOUND: RESOURCE_NOT_FOUND,
    WBEM_E_INVALID_CLASS: RESOURCE_NOT_FOUND,
    WBEM_E_INVALID_NAMESPACE: RESOURCE_NOT_FOUND,
    WBEM_E_INVALID_METHOD: ACTION_NOT_SUPPORTED,
    WBEM_E_INVALID_QUERY: CANNOT_PROCESS_FILTER,
    WBEM_E_PROVIDER_NOT_CAPABLE: PROVIDER_NOT_CAPABLE,
}
_TEXTS: Final[Mapping[int, str]] = {
    RESOURCE_NOT_FOUND: "The service cannot find the resource identified by the resource URI and selectors.",
    ACTION_NOT_SUPPORTED: "The action is not supported by the service.",
    CANNOT_PROCESS_FILTER: "The data source could not process the filter.",
    PROVIDER_NOT_CAPABLE: "The WMI provider could not perform the requested operation.",
}
# DSP0200's CIM status codes for the commonest refusals.
_CIM_STATUS: Final[Mapping[int, int]] = {
    WBEM_E_ACCESS_DENIED: 2,
    WBEM_E_INVALID_NAMESPACE: 3,
    WBEM_E_INVALID_PARAMETER: 4,
    WBEM_E_INVALID_CLASS: 5,
    WBEM_E_NOT_FOUND: 6,
    WBEM_E_PROVIDER_NOT_CAPABLE: 7,
    WBEM_E_INVALID_QUERY: 15,
    WBEM_E_INVALID_METHOD: 17,
}


@dataclass(frozen=True)
class Provenance:
    """What WMI was doing when it refused: the place, the operation, and what it was about."""

    namespace: str
    operation: str = "GetObject"
    subject: str = ""


class SoapFault(Exception):
    """A request that is answered with a fault."""

    def __init__(self, code: int, message: str, *, provider: str = "", not_understood: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.row = ROWS.get(code, _OTHER)
        self.not_understood = not_understood
        self._provider = provider

    @property
    def action(self) -> str:
        """The reply's a:Action, by the namespace of the subcode."""
        return _ACTIONS[self.row.subcode.partition(":")[0] or "s"]

    def body(self, machine: str, locale: str) -> str:
        """Return the s:Fault element as text."""
        row = self.row
        subcode = f"<s:Subcode><s:Value>{row.subcode}</s:Value></s:Subcode>" if row.subcode else ""
        detail = f"<w:FaultDetail>{FAULT_DETAIL}{row.detail}</w:FaultDetail>" if row.detail else ""
        return (
            f"<s:Fault><s:Code><s:Value>s:{row.code}</s:Value>{subcode}</s:Code>"
            f"<s:Reason><s:Text xml:lang={quoteattr(locale)}>{escape(self.message)} </s:Text></s:Reason>"
            f"<s:Detail>{detail}{self._detail(machine)}</s:Detail></s:Fault>"
        )

    def _detail(self, machine: str) -> str:
        told = f"{escape(self.message)} "
        if self._provider:
            told = (
                f"<f:ProviderFault provider={quoteattr(self._provider)} "
                f'path="%systemroot%\\system32\\winrscmd.dll">{told}</f:ProviderFault>'
            )
        return _wsman_fault(self.code, machine, told)


class WmiFault(SoapFault):
    """The fault that a refusal of WMI becomes."""

    def __init__(self, error: WmiError, provenance: Provenance) -> None:
        code = _SERVICE_CODES.get(error.code, error.code)
        super().__init__(code, _TEXTS.get(code, error.message))
        if error.code == WBEM_E_ACCESS_DENIED:
            self.row = ROWS[ACCESS_DENIED]
        self.error = error
        self._provenance = provenance

    def _detail(self, machine: str) -> str:
        return self._provider_fault(machine) if self.code in _TEXTS else self._wmi_error()

    def _provider_fault(self, machine: str) -> str:
        """Return the form recorded of hosts from 2008 R2 to 2016."""
        inner = _wsman_fault(self.code, machine, f"{escape(self.error.message)} ")
        asked = self._provenance
        status = (
            f'<p:__ExtendedStatus xmlns:xsi="{XSI}" xmlns:p="{WMI}{asked.namespace}/__ExtendedStatus" '
            f'xmlns:cim="{CIM_COMMON}" xsi:type="p:__ExtendedStatus_Type"><p:Description xsi:nil="true"/>'
            f"<p:Operation>{asked.operation}</p:Operation>"
            f"<p:ParameterInfo>{escape(asked.subject)}</p:ParameterInfo>"
            '<p:ProviderName>WinMgmt</p:ProviderName><p:StatusCode xsi:nil="true"/></p:__ExtendedStatus>'
        )
        told = (
            '<f:ProviderFault provider="WMI Provider" path="%systemroot%\\system32\\WsmWmiPl.dll">'
            f"{inner}<f:ExtendedError>{status}</f:ExtendedError></f:ProviderFault>"
        )
        return _wsman_fault(self.code, machine, told)

    def _wmi_error(self) -> str:
        """Return MSFT_WmiError, as recorded of 2012 and later."""
        code = self.error.code
        rows: list[tuple[str, str, str | None]] = [
            ("CIMStatusCode", "UnsignedInt", str(_CIM_STATUS.get(code, 1))),
            ("CIMStatusCodeDescription", "String", None),
            ("ErrorSource", "String", None),
            ("ErrorSourceFormat", "UnsignedShort", "0"),
            ("ErrorType", "UnsignedShort", "0"),
            ("Message", "String", f"{self.error.message} "),
            ("MessageID", "String", f"HRESULT 0x{code:08x}"),
            ("OtherErrorSourceFormat", "String", None),
            ("OtherErrorType", "String", None),
            ("OwningEntity", "String", None),
            ("PerceivedSeverity", "UnsignedShort", "0"),
            ("ProbableCause", "UnsignedShort", "0"),
            ("ProbableCauseDescription", "String", None),
            ("error_Category", "UnsignedInt", "0"),
            ("error_Code", "UnsignedInt", str(code)),
            ("error_Type", "String", "HRESULT"),
            ("error_WindowsErrorMessage", "String", f"{self.error.message} "),
        ]
        told = "".join(
            f'<p:{name} xsi:type="cim:cim{kind}" xsi:nil="true"/>'
            if text is None
            else f'<p:{name} xsi:type="cim:cim{kind}">{escape(text)}</p:{name}>'
            for name, kind, text in rows
        )
        return (
            f'<p:MSFT_WmiError b:IsCIM_Error="true" xmlns:xsi="{XSI}" xmlns:b="{BINDING}" '
            f'xmlns:p="{WMI_ERROR}" xmlns:cim="{CIM_COMMON}" xsi:type="p:MSFT_WmiError_Type">{told}'
            "</p:MSFT_WmiError>"
        )


def _wsman_fault(code: int, machine: str, told: str) -> str:
    return (
        f'<f:WSManFault xmlns:f="{FAULT}" Code="{code}" Machine={quoteattr(machine)}>'
        f"<f:Message>{told}</f:Message></f:WSManFault>"
    )
