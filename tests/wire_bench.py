"""A service of the lab with a toy host behind it, asked envelope by envelope."""

from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from tests.toy_host import ENUMERATE, PULL, VM_GUID, WMI, ToyHost, envelope, selectors
from vmkeep_lab.wire.disturbances import Disturbances
from vmkeep_lab.wire.service import Service
from vmkeep_lab.wire.settings import Settings

NS = {
    "s": "http://www.w3.org/2003/05/soap-envelope",
    "a": "http://schemas.xmlsoap.org/ws/2004/08/addressing",
    "n": "http://schemas.xmlsoap.org/ws/2004/09/enumeration",
    "x": "http://schemas.xmlsoap.org/ws/2004/09/transfer",
    "w": "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd",
    "f": "http://schemas.microsoft.com/wbem/wsman/1/wsmanfault",
    "rsp": "http://schemas.microsoft.com/wbem/wsman/1/windows/shell",
}
SYSTEM = f"{WMI}Msvm_ComputerSystem"
MANY = "<w:OptimizeEnumeration/><w:MaxElements>9</w:MaxElements>"
SHELL = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell"
CREATE = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Create"
PUT = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Put"
DELETE = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Delete"
VM_KEYS = selectors(CreationClassName="Msvm_ComputerSystem", Name=VM_GUID)


class Bench:
    """A service with a toy host behind it."""

    def __init__(self, host: ToyHost | None = None, settings: Settings | None = None) -> None:
        self.host = host or ToyHost()
        self.disturbances = Disturbances()
        self.service = Service(self.host, "HV01", settings or Settings(), self.disturbances)

    def ask(self, data: bytes, status: int = 200, user: str = "admin") -> Element:
        """Send an envelope and return the reply's; the status is as said."""
        answer = self.service.answer(data, None, user, "127.0.0.1")
        assert answer.status == status, answer.body.decode()
        return ElementTree.fromstring(answer.body)

    def fault(self, data: bytes) -> tuple[str, str, str]:
        """Send an envelope; return the fault's subcode, detail and code."""
        return fault_of(self.ask(data, 500))


def fault_of(root: Element) -> tuple[str, str, str]:
    detail = root.findtext(".//w:FaultDetail", "", NS).rpartition("/")[2]
    wsman = root.find(".//f:WSManFault", NS)
    code = wsman.attrib["Code"] if wsman is not None else ""
    if not code:
        code = next(each.text or "" for each in root.iter() if each.tag.endswith("}error_Code"))
    subcode = root.findtext(".//s:Subcode/s:Value", "", NS)
    return subcode or root.findtext(".//s:Code/s:Value", "", NS), detail, code


def enumerate_class(name: str = "Msvm_ComputerSystem", inside: str = "") -> bytes:
    return envelope(ENUMERATE, f"{WMI}{name}", f"<n:Enumerate>{inside}</n:Enumerate>")


def pull(context: str, count: int | None = None, headers: str = "", uri: str = SYSTEM) -> bytes:
    most = f"<n:MaxElements>{count}</n:MaxElements>" if count is not None else ""
    body = f"<n:Pull><n:EnumerationContext>{context}</n:EnumerationContext>{most}</n:Pull>"
    return envelope(PULL, uri, body, headers)


def context_of(root: Element) -> str:
    return root.findtext(".//n:EnumerationContext", "", NS)


def names_of(root: Element) -> list[str]:
    return [each.tag.rpartition("}")[2] for each in root.iterfind(".//w:Items/*", NS)]


def invoke(class_name: str, method: str, inside: str = "", keys: str | None = None) -> bytes:
    uri = f"{WMI}{class_name}"
    body = f'<q:{method}_INPUT xmlns:q="{uri}">{inside}</q:{method}_INPUT>'
    keys = selectors(CreationClassName=class_name) if keys is None else keys
    return envelope(f"{uri}/{method}", uri, body, keys)


CHECKPOINT = f"""<q:AffectedSystem><a:Address>x</a:Address><a:ReferenceParameters>
  <w:ResourceURI>{SYSTEM}</w:ResourceURI>{VM_KEYS}</a:ReferenceParameters></q:AffectedSystem>
  <q:SnapshotSettings><![CDATA[<INSTANCE CLASSNAME="Msvm_VirtualSystemSnapshotSettingData"><PROPERTY
  NAME="ConsistencyLevel" TYPE="uint8"><VALUE>1</VALUE></PROPERTY></INSTANCE>]]></q:SnapshotSettings>
  <q:SnapshotType>32768</q:SnapshotType>"""
