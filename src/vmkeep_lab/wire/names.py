"""Names of the protocol: namespaces, actions, resource URIs, dialects ([MS-WSMV] 2.2.1, 3.1.4.1)."""

from typing import Final

SOAP: Final = "http://www.w3.org/2003/05/soap-envelope"
ADDRESSING: Final = "http://schemas.xmlsoap.org/ws/2004/08/addressing"
ENUMERATION: Final = "http://schemas.xmlsoap.org/ws/2004/09/enumeration"
TRANSFER: Final = "http://schemas.xmlsoap.org/ws/2004/09/transfer"
WSMAN: Final = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"
MICROSOFT: Final = "http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd"
FAULT: Final = "http://schemas.microsoft.com/wbem/wsman/1/wsmanfault"
BINDING: Final = "http://schemas.dmtf.org/wbem/wsman/1/cimbinding.xsd"
CIM_COMMON: Final = "http://schemas.dmtf.org/wbem/wscim/1/common"
SHELL: Final = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell"
IDENTITY: Final = "http://schemas.dmtf.org/wbem/wsman/identity/1/wsmanidentity.xsd"
CONFIG: Final = "http://schemas.microsoft.com/wbem/wsman/1/config"
XSI: Final = "http://www.w3.org/2001/XMLSchema-instance"
XML: Final = "http://www.w3.org/XML/1998/namespace"
WMI_ERROR: Final = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/MSFT_WmiError"

ANONYMOUS: Final = f"{ADDRESSING}/role/anonymous"
FAULT_DETAIL: Final = "http://schemas.dmtf.org/wbem/wsman/1/wsman/faultDetail/"
WSMAN_FAULT_ACTION: Final = "http://schemas.dmtf.org/wbem/wsman/1/wsman/fault"

GET: Final = f"{TRANSFER}/Get"
PUT: Final = f"{TRANSFER}/Put"
CREATE: Final = f"{TRANSFER}/Create"
DELETE: Final = f"{TRANSFER}/Delete"
ENUMERATE: Final = f"{ENUMERATION}/Enumerate"
PULL: Final = f"{ENUMERATION}/Pull"
RELEASE: Final = f"{ENUMERATION}/Release"
COMMAND: Final = f"{SHELL}/Command"
RECEIVE: Final = f"{SHELL}/Receive"
SEND: Final = f"{SHELL}/Send"
SIGNAL: Final = f"{SHELL}/Signal"

WMI: Final = "http://schemas.microsoft.com/wbem/wsman/1/wmi/"
CMD_SHELL: Final = f"{SHELL}/cmd"

WQL: Final = "http://schemas.microsoft.com/wbem/wsman/1/WQL"
ASSOCIATION_FILTER: Final = "http://schemas.dmtf.org/wbem/wsman/1/cimbinding/associationFilter"
SELECTOR_FILTER: Final = "http://schemas.dmtf.org/wbem/wsman/1/wsman/SelectorFilter"


def tag(namespace: str, name: str) -> str:
    """Return an element's name as ElementTree writes it."""
    return f"{{{namespace}}}{name}"
