"""Enumerate, Pull, Release: paging, contexts, limits, modes, filters."""

from xml.etree import ElementTree

import pytest

from tests.toy_host import (
    ENUMERATE,
    JOB_ID,
    PULL,
    RELEASE,
    SETTING_ID,
    VM_GUID,
    WMI,
    ToyHost,
    envelope,
    query,
    selectors,
)
from tests.wire_bench import MANY, NS, SYSTEM, Bench, context_of, enumerate_class, fault_of, names_of, pull
from vmkeep_lab.cim import Instance
from vmkeep_lab.wire.settings import Settings

pytestmark = pytest.mark.quick


@pytest.fixture
def bench() -> Bench:
    return Bench()


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
