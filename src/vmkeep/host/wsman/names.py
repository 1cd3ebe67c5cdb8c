"""Hold the names of the wire: namespaces, actions, dialects, addresses ([MS-WSMV] 2.2.1)."""

from typing import Final

SOAP: Final = "http://www.w3.org/2003/05/soap-envelope"
ADDRESSING: Final = "http://schemas.xmlsoap.org/ws/2004/08/addressing"
ENUMERATION: Final = "http://schemas.xmlsoap.org/ws/2004/09/enumeration"
TRANSFER: Final = "http://schemas.xmlsoap.org/ws/2004/09/transfer"
WSMAN: Final = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"
MICROSOFT: Final = "http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd"
FAULT: Final = "http://schemas.microsoft.com/wbem/wsman/1/wsmanfault"
CIM: Final = "http://schemas.dmtf.org/wbem/wscim/1/common"
IDENTITY: Final = "http://schemas.dmtf.org/wbem/wsman/identity/1/wsmanidentity.xsd"
SHELL: Final = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell"
XSI: Final = "http://www.w3.org/2001/XMLSchema-instance"

ANONYMOUS: Final = f"{ADDRESSING}/role/anonymous"
WQL: Final = "http://schemas.microsoft.com/wbem/wsman/1/WQL"
WMI: Final = "http://schemas.microsoft.com/wbem/wsman/1/wmi"
# Classes with a major version may come back under the DMTF's address ([MS-WSMV] 3.1.4.1.1).
DMTF_CLASSES: Final = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2"
CMD_SHELL: Final = f"{SHELL}/cmd"
TERMINATE: Final = f"{SHELL}/signal/terminate"

GET: Final = f"{TRANSFER}/Get"
CREATE: Final = f"{TRANSFER}/Create"
DELETE: Final = f"{TRANSFER}/Delete"
ENUMERATE: Final = f"{ENUMERATION}/Enumerate"
PULL: Final = f"{ENUMERATION}/Pull"
RELEASE: Final = f"{ENUMERATION}/Release"
COMMAND: Final = f"{SHELL}/Command"
RECEIVE: Final = f"{SHELL}/Receive"
SIGNAL: Final = f"{SHELL}/Signal"

# The prefixes Windows itself uses; readers go by namespace, never by these.
PREFIXES: Final = {
    "s": SOAP,
    "a": ADDRESSING,
    "n": ENUMERATION,
    "x": TRANSFER,
    "w": WSMAN,
    "p": MICROSOFT,
    "rsp": SHELL,
}


def class_uri(namespace: str, class_name: str) -> str:
    """Return the resource address of a WMI class; ``*`` stands for the whole namespace."""
    return f"{WMI}/{namespace}/{class_name}"
