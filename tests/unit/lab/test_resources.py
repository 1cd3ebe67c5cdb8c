"""Instances and methods through the wire: Get, Put, Create, Delete, Invoke."""

from datetime import UTC, datetime
from xml.etree import ElementTree

import pytest

from tests.toy_host import GET, JOB_ID, SERVICE, VM_GUID, WMI, envelope, selectors
from tests.wire_bench import (
    CHECKPOINT,
    CREATE,
    DELETE,
    NS,
    PUT,
    SYSTEM,
    VM_KEYS,
    Bench,
    enumerate_class,
    invoke,
)
from vmkeep_lab.cim import Instance, Ref

pytestmark = pytest.mark.quick


@pytest.fixture
def bench() -> Bench:
    return Bench()


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
