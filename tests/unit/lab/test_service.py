"""The service, envelope by envelope: headers, paging, filters, methods, faults, shells, disturbances."""

import base64
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest

from tests.toy_host import (
    ENUMERATE,
    GET,
    JOB_ID,
    PULL,
    RELEASE,
    SERVICE,
    SETTING_ID,
    VM_GUID,
    WMI,
    ToyHost,
    envelope,
    query,
    selectors,
)
from vmkeep_lab.cim import Instance, Ref
from vmkeep_lab.wire.disturbances import Disturbance, Disturbances, Effect
from vmkeep_lab.wire.service import Service
from vmkeep_lab.wire.settings import Settings

pytestmark = pytest.mark.quick

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


@pytest.fixture
def bench() -> Bench:
    return Bench()


def enumerate_class(name: str = "Msvm_ComputerSystem", inside: str = "") -> bytes:
    return envelope(ENUMERATE, f"{WMI}{name}", f"<n:Enumerate>{inside}</n:Enumerate>")


def pull(context: str, count: int | None = None, headers: str = "", uri: str = SYSTEM) -> bytes:
    most = f"<n:MaxElements>{count}</n:MaxElements>" if count is not None else ""
    body = f"<n:Pull><n:EnumerationContext>{context}</n:EnumerationContext>{most}</n:Pull>"
    return envelope(PULL, uri, body, headers)


def context_of(root: Element) -> str:
    return root.findtext(".//n:EnumerationContext", "", NS)


# --- replies' headers ----------------------------------------------------------------------


def test_a_reply_relates_to_its_request_and_echoes_the_operation(bench: Bench) -> None:
    headers = "<p:OperationID>uuid:OP</p:OperationID><p:SequenceId>3</p:SequenceId>"
    root = bench.ask(envelope(ENUMERATE, SYSTEM, "<n:Enumerate/>", headers))
    assert root.findtext(".//a:RelatesTo", "", NS) == "uuid:11111111-2222-3333-4444-555555555555"
    assert root.findtext(".//a:Action", "", NS) == f"{ENUMERATE}Response"
    message_id = root.findtext(".//a:MessageID", "", NS)
    assert str(uuid.UUID(message_id.removeprefix("uuid:"))).upper() == message_id.removeprefix("uuid:")
    assert root.attrib["{http://www.w3.org/XML/1998/namespace}lang"] == "ja-JP"
    assert [each.text for each in root.iter() if each.tag.endswith("}OperationID")] == ["uuid:OP"]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (
            "<w:MaxEnvelopeSize>8191</w:MaxEnvelopeSize>",
            ("w:EncodingLimit", "MinimumEnvelopeLimit", "2150858878"),
        ),
        (
            "<w:OperationTimeout>2026-01-01T00:00:00Z</w:OperationTimeout>",
            ("a:InvalidMessageInformationHeader", "InvalidTimeout", "2150858881"),
        ),
        (
            '<w:Locale s:mustUnderstand="true" xml:lang="en-US"/>',
            ("w:UnsupportedFeature", "Locale", "2150858886"),
        ),
        ('<b:Odd s:mustUnderstand="true"/>', ("s:MustUnderstand", "", "2150858768")),
    ],
)
def test_headers_that_are_refused(bench: Bench, headers: str, expected: tuple[str, str, str]) -> None:
    assert bench.fault(envelope(ENUMERATE, SYSTEM, "<n:Enumerate/>", headers)) == expected


def test_what_was_not_understood_is_named(bench: Bench) -> None:
    data = envelope(ENUMERATE, SYSTEM, "<n:Enumerate/>", '<b:Odd s:mustUnderstand="1"/>')
    found = bench.ask(data, 500).find(".//s:NotUnderstood", NS)
    assert found is not None
    assert found.attrib["qname"].endswith(":Odd")


@pytest.mark.parametrize(
    "headers",
    [
        "<w:OperationTimeout>PT9999S</w:OperationTimeout>",
        "<w:MaxEnvelopeSize>99999999999</w:MaxEnvelopeSize>",
        '<w:Locale s:mustUnderstand="false" xml:lang="en-US"/>',
        "<b:Odd/>",
        '<p:SessionId s:mustUnderstand="false">uuid:1</p:SessionId>',
    ],
)
def test_headers_that_are_taken_silently(bench: Bench, headers: str) -> None:
    bench.ask(envelope(ENUMERATE, SYSTEM, "<n:Enumerate/>", headers))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("<a:To>http://host:5985/wsman</a:To>", ""), ("a:MessageInformationHeaderRequired", "2150858769")),
        (
            ("uuid:11111111-2222-3333-4444-555555555555", ""),
            ("a:InvalidMessageInformationHeader", "2150858767"),
        ),
        (("role/anonymous", "elsewhere"), ("w:UnsupportedFeature", "2150858861")),
        (("wmi/root/virtualization", "wmi/root/nowhere"), ("a:DestinationUnreachable", "2150858752")),
        (("Msvm_ComputerSystem", "Msvm_Nothing"), ("a:DestinationUnreachable", "2150858752")),
        (("wsman/1/wmi/", "wsman/1/odd/"), ("a:DestinationUnreachable", "2150858752")),
        (("enumeration/Enumerate", "enumeration/Renew"), ("a:ActionNotSupported", "2150858771")),
    ],
)
def test_addresses_that_are_refused(bench: Bench, change: tuple[str, str], expected: tuple[str, str]) -> None:
    subcode, _, code = bench.fault(enumerate_class().decode().replace(*change).encode())
    assert (subcode, code) == expected


# --- enumerations ----------------------------------------------------------------------------


def test_without_max_elements_a_pull_brings_one_item_and_a_new_context(bench: Bench) -> None:
    first = context_of(bench.ask(enumerate_class()))
    root = bench.ask(pull(first))
    items = root.find(".//n:Items", NS)
    assert items is not None
    assert len(items) == 1
    second = context_of(root)
    assert second not in ("", first)
    assert bench.fault(pull(first)) == ("n:InvalidEnumerationContext", "", "2150858779")
    last = bench.ask(pull(second))
    assert last.find(".//n:EndOfSequence", NS) is not None
    assert last.find(".//n:EnumerationContext", NS) is None
    assert bench.fault(pull(second))[2] == "2150858779"


def test_an_optimised_enumeration_changes_the_namespace_of_its_items(bench: Bench) -> None:
    root = bench.ask(enumerate_class(inside="<w:OptimizeEnumeration/><w:MaxElements>9</w:MaxElements>"))
    items = root.find(".//w:Items", NS)
    assert items is not None
    assert [each.tag for each in items] == [f"{{{SYSTEM}}}Msvm_ComputerSystem"] * 2
    assert root.find(".//w:EndOfSequence", NS) is not None
    assert context_of(root) == ""
    one = bench.ask(enumerate_class(inside="<w:OptimizeEnumeration/>"))
    items = one.find(".//w:Items", NS)
    assert items is not None
    assert len(items) == 1
    assert one.find(".//w:EndOfSequence", NS) is None
    rest = bench.ask(pull(context_of(one), 5))
    assert rest.find(".//n:EndOfSequence", NS) is not None


def test_an_enumeration_of_nothing_ends_at_once(bench: Bench) -> None:
    context = context_of(bench.ask(enumerate_class("Msvm_StorageJob")))
    root = bench.ask(pull(context, uri=f"{WMI}Msvm_StorageJob"))
    items = root.find(".//n:Items", NS)
    assert items is not None
    assert len(items) == 0
    assert root.find(".//n:EndOfSequence", NS) is not None


def test_a_batch_ends_where_the_envelope_is_full() -> None:
    bench = Bench(ToyHost(vms=40))
    limit = "<w:MaxEnvelopeSize>20000</w:MaxEnvelopeSize>"
    data = envelope(ENUMERATE, SYSTEM, "<n:Enumerate/>", limit)
    context = context_of(bench.ask(data))
    counts: list[int] = []
    for _ in range(42):
        answer = bench.service.answer(pull(context, 1000, limit), None, "admin", "")
        assert answer.status == 200
        assert len(answer.body) <= 20000
        root = ElementTree.fromstring(answer.body)
        items = root.find(".//n:Items", NS)
        assert items is not None
        counts.append(len(items))
        if root.find(".//n:EndOfSequence", NS) is not None:
            break
        context = context_of(root)
    assert sum(counts) == 41
    assert 1 < counts[0] < 41


def test_an_item_too_large_is_a_fault_and_the_context_lives_on() -> None:
    host = ToyHost(vms=0)
    host.all = [Instance("Msvm_Error", {})]
    host.all[0] = Instance("Msvm_VirtualSystemSettingData", {"InstanceID": "a", "Notes": ["x" * 30_000]})
    bench = Bench(host)
    uri = f"{WMI}Msvm_VirtualSystemSettingData"
    limit = "<w:MaxEnvelopeSize>8192</w:MaxEnvelopeSize>"
    context = context_of(bench.ask(envelope(ENUMERATE, uri, "<n:Enumerate/>", limit)))
    body = f"<n:Pull><n:EnumerationContext>{context}</n:EnumerationContext></n:Pull>"
    expected = ("w:EncodingLimit", "MaxEnvelopeSizeExceeded", "2150858824")
    assert bench.fault(envelope(PULL, uri, body, limit)) == expected
    assert bench.fault(envelope(PULL, uri, body, limit)) == expected


def test_a_pull_that_differs_from_its_enumerate_is_refused(bench: Bench) -> None:
    context = context_of(bench.ask(enumerate_class()))
    other = "<w:MaxEnvelopeSize>10000</w:MaxEnvelopeSize>"
    assert bench.fault(pull(context, headers=other))[2] == "2150859181"
    bench.ask(pull(context))


def test_a_context_belongs_to_its_user_and_ends_with_its_time_and_its_release() -> None:
    bench = Bench(settings=Settings(enumeration_timeout_ms=0))
    context = context_of(bench.ask(enumerate_class()))
    assert bench.fault(pull(context))[2] == "2150858779"
    bench = Bench()
    context = context_of(bench.ask(enumerate_class()))
    assert fault_of(bench.ask(pull(context), 500, user="other"))[2] == "2150858779"
    release = envelope(
        RELEASE, SYSTEM, f"<n:Release><n:EnumerationContext>{context}</n:EnumerationContext></n:Release>"
    )
    root = bench.ask(release)
    body = root.find("s:Body", NS)
    assert body is not None
    assert len(body) == 0
    assert bench.fault(release)[2] == "2150858779"


def test_modes(bench: Bench) -> None:
    most = "<w:OptimizeEnumeration/><w:MaxElements>9</w:MaxElements>"
    mode = "<w:EnumerationMode>{}</w:EnumerationMode>"
    root = bench.ask(enumerate_class(inside=most + mode.format("EnumerateEPR")))
    found = [
        {each.attrib["Name"]: each.text for each in reference.iterfind(".//w:Selector", NS)}
        for reference in root.iterfind(".//w:Items/a:EndpointReference", NS)
    ]
    assert {"CreationClassName": "Msvm_ComputerSystem", "Name": VM_GUID} in found
    root = bench.ask(enumerate_class(inside=most + mode.format("EnumerateObjectAndEPR")))
    pairs = [[each.tag for each in item] for item in root.iterfind(".//w:Items/w:Item", NS)]
    assert pairs == [[f"{{{SYSTEM}}}Msvm_ComputerSystem", f"{{{NS['a']}}}EndpointReference"]] * 2
    assert bench.fault(enumerate_class(inside=mode.format("Odd"))) == (
        "w:UnsupportedFeature",
        "EnumerationMode",
        "2150858871",
    )


# --- filters ---------------------------------------------------------------------------------


def names_of(root: Element) -> list[str]:
    return [each.tag.rpartition("}")[2] for each in root.iterfind(".//w:Items/*", NS)]


def test_wql(bench: Bench) -> None:
    assert names_of(bench.ask(query(f"SELECT * FROM CIM_ComputerSystem WHERE Name = '{VM_GUID}'"))) == [
        "Msvm_ComputerSystem"
    ]
    projected = bench.ask(query("SELECT Name, EnabledState FROM Msvm_ComputerSystem WHERE EnabledState > 2"))
    assert names_of(projected) == ["XmlFragment"]
    fragment = projected.find(".//w:XmlFragment", NS)
    assert fragment is not None
    # Alphabetical, without the namespace of the class ([MS-WSMV] n. 58, 59).
    assert [(each.tag, each.text) for each in fragment] == [("EnabledState", "3"), ("Name", VM_GUID)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "ASSOCIATORS OF {Msvm_ComputerSystem.CreationClassName='x'}",
            None,
        ),
        (
            f'ASSOCIATORS OF {{Msvm_ConcreteJob.InstanceID="{JOB_ID}"}}',
            ["Msvm_VirtualSystemSettingData"],
        ),
        (
            f'ASSOCIATORS OF {{Msvm_ConcreteJob.InstanceID="{JOB_ID.upper()}"}} WHERE ResultClass=CIM_Job',
            [],
        ),
        (
            f'REFERENCES OF {{Msvm_ConcreteJob.InstanceID="{JOB_ID}"}}',
            ["Msvm_AffectedJobElement"],
        ),
        (
            f'ASSOCIATORS OF {{Msvm_VirtualSystemSettingData.InstanceID="{SETTING_ID}"}}'
            " WHERE AssocClass=Msvm_SettingsDefineState ResultClass=Msvm_ComputerSystem",
            ["Msvm_ComputerSystem"],
        ),
        (
            f'ASSOCIATORS OF {{Msvm_VirtualSystemSettingData.InstanceID="{SETTING_ID}"}}'
            " WHERE Role=AffectedElement",
            ["Msvm_ConcreteJob"],
        ),
    ],
)
def test_association_queries(bench: Bench, text: str, expected: list[str] | None) -> None:
    if expected is None:
        assert bench.fault(query(text))[0] == "a:DestinationUnreachable"
    else:
        assert names_of(bench.ask(query(text))) == expected


def test_the_association_dialect(bench: Bench) -> None:
    dialect = "http://schemas.dmtf.org/wbem/wsman/1/cimbinding/associationFilter"
    address = (
        f"<a:ReferenceParameters><w:ResourceURI>{WMI}Msvm_ConcreteJob</w:ResourceURI>"
        f"{selectors(InstanceID=JOB_ID)}</a:ReferenceParameters>"
    )

    def ask(kind: str, more: str = "") -> list[str]:
        inside = (
            f'{MANY}<w:Filter Dialect="{dialect}"><b:{kind}>'
            f"<b:Object>{address}</b:Object>{more}</b:{kind}></w:Filter>"
        )
        return names_of(bench.ask(envelope(ENUMERATE, f"{WMI}*", f"<n:Enumerate>{inside}</n:Enumerate>")))

    assert ask("AssociatedInstances") == ["Msvm_VirtualSystemSettingData"]
    assert ask("AssociationInstances") == ["Msvm_AffectedJobElement"]
    assert ask("AssociatedInstances", "<b:ResultClassName>CIM_Job</b:ResultClassName>") == []


def test_the_selector_dialect(bench: Bench) -> None:
    dialect = "http://schemas.dmtf.org/wbem/wsman/1/wsman/SelectorFilter"

    def data(**values: str) -> bytes:
        inside = f'<w:Filter Dialect="{dialect}">{selectors(**values)}</w:Filter>'
        return enumerate_class(inside=f"<w:OptimizeEnumeration/><w:MaxElements>9</w:MaxElements>{inside}")

    assert names_of(bench.ask(data(EnabledState="3"))) == ["Msvm_ComputerSystem"]
    assert names_of(bench.ask(data(EnabledState="9"))) == []
    assert bench.fault(data(InstallDate="x"))[2] == "2150858778"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (query("SELECT * FROM Msvm_Nothing"), ("n:CannotProcessFilter", "2150858778")),
        (query("SELECT nonsense"), ("n:CannotProcessFilter", "2150858778")),
        (query("SELECT * FROM Msvm_ComputerSystem WHERE Odd = 1"), ("n:CannotProcessFilter", "2150858778")),
        (
            query("SELECT * FROM A").replace(b"v2/*", b"v2/Msvm_ComputerSystem"),
            ("w:InternalError", "2150859003"),
        ),
        (
            query("SELECT * FROM A").replace(b"1/WQL", b"1/CQL"),
            ("n:FilterDialectRequestedUnavailable", "2150858777"),
        ),
        (envelope(ENUMERATE, f"{WMI}*", "<n:Enumerate/>"), ("n:CannotProcessFilter", "2150858778")),
    ],
)
def test_filters_that_are_refused(bench: Bench, data: bytes, expected: tuple[str, str]) -> None:
    subcode, _, code = bench.fault(data)
    assert (subcode, code) == expected


# --- transfers ---------------------------------------------------------------------------------


def test_get_finds_without_case_and_writes_every_type(bench: Bench) -> None:
    keys = selectors(name=VM_GUID.upper(), CREATIONCLASSNAME="MSVM_COMPUTERSYSTEM")
    found = bench.ask(envelope(GET, SYSTEM, "", keys)).find(f".//{{{SYSTEM}}}InstallDate")
    assert found is not None
    assert [each.text for each in found] == ["2026-10-08T15:15:36.68424Z"]
    job = f"{WMI}Msvm_ConcreteJob"
    root = bench.ask(envelope(GET, job, "", selectors(InstanceID=JOB_ID)))
    elapsed = root.find(f".//{{{job}}}ElapsedTime")
    assert elapsed is not None
    assert [(each.tag, each.text) for each in elapsed] == [
        ("{http://schemas.dmtf.org/wbem/wscim/1/common}Interval", "P0DT0H2M3S")
    ]


def test_embedded_items_are_cim_xml_text(bench: Bench) -> None:
    uri = f"{WMI}Msvm_KvpExchangeComponent"
    items = bench.ask(enumerate_class("Msvm_KvpExchangeComponent", "<w:OptimizeEnumeration/>")).findtext(
        f".//{{{uri}}}GuestIntrinsicExchangeItems", "", NS
    )
    inner = ElementTree.fromstring(items)
    assert inner.attrib["CLASSNAME"] == "Msvm_KvpExchangeDataItem"
    assert inner.findtext("PROPERTY[@NAME='Data']/VALUE") == "A & B <C>"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (selectors(InstanceID="gone"), ("a:DestinationUnreachable", "InvalidResourceURI", "2150858752")),
        ("", ("w:InvalidSelectors", "InsufficientSelectors", "2150859002")),
        (selectors(Odd="1"), ("w:InvalidSelectors", "UnexpectedSelectors", "2150858843")),
        (
            "<w:SelectorSet><w:Selector Name='InstanceID'>a</w:Selector>"
            "<w:Selector Name='instanceid'>b</w:Selector></w:SelectorSet>",
            ("w:InvalidSelectors", "DuplicateSelectors", "2150858847"),
        ),
    ],
)
def test_selectors_that_are_refused(bench: Bench, keys: str, expected: tuple[str, str, str]) -> None:
    assert bench.fault(envelope(GET, f"{WMI}Msvm_ConcreteJob", "", keys)) == expected


def test_a_key_too_few_is_refused_and_a_singleton_needs_none(bench: Bench) -> None:
    assert bench.fault(envelope(GET, SYSTEM, "", selectors(Name=VM_GUID)))[2] == "2150858842"
    uri = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/cimv2/Win32_OperatingSystem"
    root = bench.ask(envelope(GET, uri, ""))
    assert root.findtext(f".//{{{uri}}}BuildNumber") == "17763"


def test_put_changes_what_it_names_and_returns_the_whole(bench: Bench) -> None:
    body = (
        f'<q:Msvm_ComputerSystem xmlns:q="{SYSTEM}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
        '<q:ElementName>new</q:ElementName><q:Status xsi:nil="true"/>'
        "<q:OperationalStatus>2</q:OperationalStatus><q:OperationalStatus>5</q:OperationalStatus></q:Msvm_ComputerSystem>"
    )
    root = bench.ask(envelope(PUT, SYSTEM, body, VM_KEYS))
    assert root.findtext(f".//{{{SYSTEM}}}Name") == VM_GUID
    assert bench.host.changed[0].values == {
        "ElementName": "new",
        "Status": None,
        "OperationalStatus": [2, 5],
        "CreationClassName": "Msvm_ComputerSystem",
        "Name": VM_GUID,
    }
    empty = body.replace(">new<", "><")
    assert bench.fault(envelope(PUT, SYSTEM, empty, VM_KEYS))[2] == str(0x80041008)
    assert bench.fault(envelope(PUT, SYSTEM, "<odd/>", VM_KEYS))[0] == "w:SchemaValidationError"


def test_delete_and_create(bench: Bench) -> None:
    bench.ask(envelope(DELETE, f"{WMI}Msvm_ConcreteJob", "", selectors(InstanceID=JOB_ID)))
    assert bench.host.deleted == [Ref.to("Msvm_ConcreteJob", InstanceID=JOB_ID)]
    uri = f"{WMI}Msvm_ConcreteJob"
    made = bench.ask(envelope(CREATE, uri, f'<q:Msvm_ConcreteJob xmlns:q="{uri}"/>'))
    created = made.find(".//x:ResourceCreated", NS)
    assert created is not None
    assert created[0].tag == f"{{{NS['a']}}}Address"
    assert created.findtext(".//w:Selector", "", NS) == "made"


# --- methods -----------------------------------------------------------------------------------


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


def test_the_canonical_checkpoint_call(bench: Bench) -> None:
    root = bench.ask(invoke(SERVICE, "CreateSnapshot", CHECKPOINT))
    target, method, arguments = bench.host.calls[0]
    assert target == Ref.to(
        SERVICE,
        CreationClassName=SERVICE,
        Name=SERVICE,
        SystemCreationClassName="Msvm_ComputerSystem",
        SystemName="scrubbed-1",
    )
    assert method == "CreateSnapshot"
    assert arguments == {
        "AffectedSystem": Ref.to(
            "Msvm_ComputerSystem", CreationClassName="Msvm_ComputerSystem", Name=VM_GUID
        ),
        "SnapshotSettings": Instance("Msvm_VirtualSystemSnapshotSettingData", {"ConsistencyLevel": 1}),
        "SnapshotType": 32768,
    }
    uri = f"{WMI}{SERVICE}"
    output = root.find(f".//{{{uri}}}CreateSnapshot_OUTPUT")
    assert output is not None
    assert [each.tag.rpartition("}")[2] for each in output] == ["Job", "ReturnValue"]
    # A reference has no EndpointReference around it.
    assert [each.tag.rpartition("}")[2] for each in output[0]] == ["Address", "ReferenceParameters"]
    assert output[1].text == "4096"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        # go-wsman and libvirt saw these of real hosts.
        (
            invoke(
                SERVICE,
                "CreateSnapshot",
                CHECKPOINT.replace("<a:Address>", "<a:EndpointReference><a:Address>").replace(
                    "</a:ReferenceParameters>", "</a:ReferenceParameters></a:EndpointReference>"
                ),
            ),
            "2150858817",
        ),
        (
            invoke(SERVICE, "CreateSnapshot", "<q:SnapshotSettings><q:Tree/></q:SnapshotSettings>"),
            "2150858817",
        ),
        (invoke(SERVICE, "CreateSnapshot", CHECKPOINT, keys=""), str(0x8004102F)),
        # Believed.
        (invoke(SERVICE, "CreateSnapshot", "<q:Odd>1</q:Odd>"), "87"),
        (invoke(SERVICE, "CreateSnapshot", "<q:SnapshotType>65536</q:SnapshotType>"), "87"),
        (invoke(SERVICE, "Nothing"), "2150858771"),
        (invoke(SERVICE, "ApplySnapshot"), str(0x80041001)),
        (invoke(SERVICE, "CreateSnapshot").replace(b"_INPUT", b"_PUT"), "2150858817"),
        (
            invoke(SERVICE, "CreateSnapshot").replace(
                f'"true">{WMI}{SERVICE}<'.encode(), f'"true">{SYSTEM}<'.encode()
            ),
            "2150858801",
        ),
    ],
)
def test_calls_that_are_refused(bench: Bench, data: bytes, expected: str) -> None:
    assert bench.fault(data)[2] == expected


def test_a_mistake_of_the_model_is_an_internal_error(bench: Bench) -> None:
    data = invoke("Msvm_VirtualSystemManagementService", "ModifySystemSettings")
    assert bench.fault(data) == ("w:InternalError", "", "1359")


def test_results_that_are_instances(bench: Bench) -> None:
    root = bench.ask(
        invoke("Msvm_ImageManagementService", "GetVirtualHardDiskSettingData", "<q:Path>C:\\a.vhdx</q:Path>")
    )
    text = next(each.text or "" for each in root.iter() if each.tag.endswith("}SettingData"))
    assert ElementTree.fromstring(text).findtext("PROPERTY[@NAME='BlockSize']/VALUE") == "33554432"
    root = bench.ask(invoke("Msvm_VirtualSystemManagementService", "GetSummaryInformation"))
    summary = next(each for each in root.iter() if each.tag.endswith("}SummaryInformation"))
    assert (
        summary.attrib["{http://www.w3.org/2001/XMLSchema-instance}type"] == "p:Msvm_SummaryInformation_Type"
    )
    assert {each.tag.rpartition("}")[2]: each.text for each in summary}["Heartbeat"] == "2"


def test_changed_ranges_that_do_not_fit_are_a_fault_although_the_call_was_made(bench: Bench) -> None:
    inside = (
        "<q:Path>C:\\a.vhdx</q:Path><q:LimitId>rct</q:LimitId><q:ByteOffset>0</q:ByteOffset>"
        "<q:ByteLength>18446744073709551615</q:ByteLength>"
    )
    data = invoke("Msvm_ImageManagementService", "GetVirtualDiskChanges", inside)
    root = bench.ask(data)
    found = [(each.tag.rpartition("}")[2], each.text) for each in root.iter() if "ByteOffsets" in each.tag]
    assert found == [("ChangedByteOffsets", "0"), ("ChangedByteOffsets", "131072")]
    assert next(e.text for e in root.iter() if "Processed" in e.tag) == "18446744073709551615"
    bench.host.changed_ranges = 0
    assert not [each for each in bench.ask(data).iter() if "Changed" in each.tag]
    bench.host.changed_ranges = 6_000
    assert bench.fault(data)[0] == "w:EncodingLimit"


# --- shells ------------------------------------------------------------------------------------


class ShellBench:
    """A shell opened through the wire."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        body = f'<rsp:Shell xmlns:rsp="{SHELL}"><rsp:InputStreams>stdin</rsp:InputStreams></rsp:Shell>'
        root = bench.ask(envelope(CREATE, f"{SHELL}/cmd", body))
        self.id = root.findtext(".//w:Selector", "", NS)

    def data(self, action: str, inside: str, headers: str = "") -> bytes:
        action = action if action.startswith("http") else f"{SHELL}/{action}"
        return envelope(action, f"{SHELL}/cmd", inside, selectors(ShellId=self.id) + headers)

    def command(self, name: str, *arguments: str) -> bytes:
        rows = "".join(f"<rsp:Arguments>{each}</rsp:Arguments>" for each in arguments)
        line = (
            f'<rsp:CommandLine xmlns:rsp="{SHELL}"><rsp:Command>{name}</rsp:Command>{rows}</rsp:CommandLine>'
        )
        return self.data("Command", line)

    def start(self, name: str, *arguments: str) -> str:
        return self.bench.ask(self.command(name, *arguments)).findtext(".//rsp:CommandId", "", NS)

    def receive(self, command: str, timeout: str = "PT10S") -> bytes:
        stream = f'<rsp:DesiredStream CommandId="{command}">stdout stderr</rsp:DesiredStream>'
        return self.data(
            "Receive",
            f'<rsp:Receive xmlns:rsp="{SHELL}">{stream}</rsp:Receive>',
            f"<w:OperationTimeout>{timeout}</w:OperationTimeout>",
        )

    def signal(self, command: str, code: str = "terminate") -> bytes:
        inside = f"<rsp:Code>{SHELL}/signal/{code}</rsp:Code>"
        return self.data(
            "Signal", f'<rsp:Signal xmlns:rsp="{SHELL}" CommandId="{command}">{inside}</rsp:Signal>'
        )


def received(root: Element) -> tuple[dict[str, bytes], set[str], str, str]:
    """Return streams, ended streams, state and exit code of a Receive."""
    streams: dict[str, bytes] = {}
    ended: set[str] = set()
    for each in root.iterfind(".//rsp:Stream", NS):
        name = each.attrib["Name"]
        streams[name] = streams.get(name, b"") + base64.b64decode(each.text or "")
        if each.get("End") == "true":
            ended.add(name)
    state = root.find(".//rsp:CommandState", NS)
    assert state is not None
    return streams, ended, state.attrib["State"].rpartition("/")[2], state.findtext("rsp:ExitCode", "", NS)


def test_a_command_runs_and_its_exit_code_is_signed(bench: Bench) -> None:
    shell = ShellBench(bench)
    command = shell.start("echo", "a b", "&lt;")
    streams, ended, state, code = received(bench.ask(shell.receive(command)))
    assert streams == {"stdout": b"echo a b <\r\n", "stderr": "エラー".encode()}
    assert ended == {"stdout", "stderr"}
    assert (state, code) == ("Done", "-1073741819")


def test_long_output_comes_in_parts_that_cut_characters(bench: Bench) -> None:
    shell = ShellBench(bench)
    command = shell.start("long")
    parts: list[bytes] = []
    for _ in range(10):
        streams, _, state, _ = received(bench.ask(shell.receive(command)))
        parts.append(streams.get("stdout", b""))
        if state == "Done":
            break
    assert b"".join(parts) == "仮想\r\n".encode() * 20_000
    assert len(parts) > 2
    with pytest.raises(UnicodeDecodeError):
        parts[0].decode()


def test_no_output_in_time_is_a_fault_and_may_be_repeated(bench: Bench) -> None:
    bench.host.may_end.clear()
    shell = ShellBench(bench)
    command = shell.start("slow")
    assert bench.fault(shell.receive(command, "PT0.05S")) == ("w:TimedOut", "", "2150858793")
    bench.host.may_end.set()
    assert received(bench.ask(shell.receive(command)))[2] == "Done"


def test_the_next_command_needs_the_signal_terminate(bench: Bench) -> None:
    shell = ShellBench(bench)
    command = shell.start("one")
    bench.ask(shell.receive(command))
    assert bench.fault(shell.command("two"))[2] == "2150858815"
    bench.ask(shell.signal(command, "Terminate"))
    bench.ask(shell.receive(shell.start("two")))


def test_a_deleted_shell_is_gone_and_a_stranger_never_sees_it(bench: Bench) -> None:
    shell = ShellBench(bench)
    assert fault_of(bench.ask(shell.command("a"), 500, user="other"))[2] == "2150858843"
    bench.ask(shell.data(DELETE, ""))
    assert bench.fault(shell.command("a"))[2] == "2150858843"


def test_shells_are_counted_and_odd_ones_refused() -> None:
    bench = Bench(settings=Settings(max_shells_per_user=2))
    for _ in range(2):
        ShellBench(bench)
    body = f'<rsp:Shell xmlns:rsp="{SHELL}"/>'
    assert bench.fault(envelope(CREATE, f"{SHELL}/cmd", body)) == ("w:QuotaLimit", "", "2150859173")
    # Recorded on 2016: InvalidParameter, code 87, of the provider "Shell cmd plugin".
    root = bench.ask(envelope(CREATE, f"{SHELL}/cmd", "<odd/>"), 500)
    assert fault_of(root)[2] == "87"
    provider = root.find(".//f:ProviderFault", NS)
    assert provider is not None
    assert provider.attrib["provider"] == "Shell cmd plugin"
    assert bench.fault(envelope(GET, f"{SHELL}/cmd", ""))[0] == "a:ActionNotSupported"


def test_an_interrupted_command_is_done(bench: Bench) -> None:
    bench.host.may_end.clear()
    shell = ShellBench(bench)
    command = shell.start("slow")
    bench.ask(shell.signal(command, "ctrl_c"))
    assert received(bench.ask(shell.receive(command)))[2:] == ("Done", "-1073741510")
    bench.host.may_end.set()


def test_a_model_that_fails_in_a_command_says_so(bench: Bench) -> None:
    shell = ShellBench(bench)
    streams, _, _, code = received(bench.ask(shell.receive(shell.start("fail"))))
    assert b"the lab failed" in streams["stderr"]
    assert code == "1"


# --- what is no SOAP, quotas, disturbances -----------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<a/>",
        b"\xff\xfe",
        b"not xml",
        envelope(ENUMERATE, SYSTEM, "<n:Enumerate/>")[:-5],
        b'<!DOCTYPE a [<!ENTITY b "c">]>' + enumerate_class(),
        b"<a>" * 1000,
    ],
)
def test_what_is_no_envelope_gets_a_bare_400(bench: Bench, data: bytes) -> None:
    answer = bench.service.answer(data, None, "admin", "")
    assert (answer.status, answer.body) == (400, b"")


def test_utf_16_is_read(bench: Bench) -> None:
    bench.ask(b"\xff\xfe" + enumerate_class().decode().encode("utf-16-le"))


def test_a_request_larger_than_the_service_allows_is_not_read(bench: Bench) -> None:
    assert bench.service.answer(b" " * 512_001, None, "admin", "").status == 413


def test_identify_tells_strangers_less(bench: Bench) -> None:
    body = '<i:Identify xmlns:i="http://schemas.dmtf.org/wbem/wsman/identity/1/wsmanidentity.xsd"/>'
    data = f'<s:Envelope xmlns:s="{NS["s"]}"><s:Header/><s:Body>{body}</s:Body></s:Envelope>'.encode()
    stranger = ElementTree.tostring(bench.ask(data, user="")).decode()
    known = ElementTree.tostring(bench.ask(data)).decode()
    assert "Microsoft Corporation" in stranger
    assert "OS: 0.0.0 SP: 0.0" in stranger
    assert "SecurityProfiles" not in stranger
    assert "SecurityProfiles" in known
    assert bench.service.answer(enumerate_class(), None, "", "").status == 401


def test_a_quota_of_no_operations_refuses_each() -> None:
    bench = Bench(settings=Settings(max_concurrent_operations_per_user=0))
    # Recorded on a 2012 or later host: the code, of w:InternalError.
    assert bench.fault(enumerate_class()) == ("w:InternalError", "", "2150859174")


@pytest.fixture
def rules() -> Iterator[Disturbances]:
    disturbances = Disturbances(
        [Disturbance(Effect.FAULT, action="Pull", after=1, times=2, code=2150858793)],
    )
    yield disturbances
    disturbances.clear()
    assert disturbances.pick(PULL, SYSTEM) is None


def test_a_rule_hits_what_it_names_as_often_as_it_says(rules: Disturbances) -> None:
    assert rules.pick(ENUMERATE, SYSTEM) is None
    hits = [rules.pick(PULL, SYSTEM) is not None for _ in range(5)]
    assert hits == [False, True, True, False, False]


def test_faults_before_and_after_the_deed(bench: Bench) -> None:
    data = invoke(SERVICE, "CreateSnapshot", CHECKPOINT)
    bench.disturbances.add(Disturbance(Effect.FAULT, action="createsnapshot", code=2150858772))
    assert bench.fault(data) == ("a:EndpointUnavailable", "", "2150858772")
    assert bench.host.calls == []
    bench.disturbances.add(Disturbance(Effect.FAULT_AFTER, resource="SnapshotService", code=2150858829))
    assert bench.fault(data) == ("w:EncodingLimit", "UnreportableSuccess", "2150858829")
    assert len(bench.host.calls) == 1
    bench.ask(data)


def test_a_time_is_read_as_a_parameter_in_each_form(bench: Bench) -> None:
    cim = "http://schemas.dmtf.org/wbem/wscim/1/common"
    for told in (
        f'<c:Datetime xmlns:c="{cim}">2026-10-08T12:00:00Z</c:Datetime>',
        "2026-10-08T12:00:00Z",
        "20261008120000.000000+000",
    ):
        inside = f"<q:RequestedState>7</q:RequestedState><q:TimeoutPeriod>{told}</q:TimeoutPeriod>"
        bench.ask(invoke("Msvm_ComputerSystem", "RequestStateChange", inside, VM_KEYS))
        assert bench.host.calls[-1][2]["TimeoutPeriod"] == datetime(2026, 10, 8, 12, tzinfo=UTC)
