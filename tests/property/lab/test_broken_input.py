"""Whatever arrives, the service answers and lives on."""

import random
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.toy_host import (
    ENUMERATE,
    GET,
    PULL,
    SERVICE,
    WMI,
    ToyHost,
    envelope,
    query,
    selectors,
)
from vmkeep_lab.cim import Ref, WmiError
from vmkeep_lab.schema import Schema
from vmkeep_lab.wire import wql
from vmkeep_lab.wire.disturbances import Disturbances
from vmkeep_lab.wire.embedded import read_instance
from vmkeep_lab.wire.service import Service
from vmkeep_lab.wire.settings import Settings

pytestmark = pytest.mark.quick

SYSTEM = f"{WMI}Msvm_ComputerSystem"
SCHEMA = Schema.load("server2019")
SHELL = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell"
CALL = f"{WMI}{SERVICE}"

SEEDS = (
    envelope(ENUMERATE, SYSTEM, "<n:Enumerate><w:OptimizeEnumeration/></n:Enumerate>"),
    envelope(PULL, SYSTEM, "<n:Pull><n:EnumerationContext>uuid:1</n:EnumerationContext></n:Pull>"),
    query("SELECT Name FROM Msvm_ComputerSystem WHERE NOT (Name LIKE '[a-z]%' OR EnabledState >= 2)"),
    query('ASSOCIATORS OF {Msvm_ConcreteJob.InstanceID="1"} WHERE ResultClass=CIM_Job'),
    envelope(GET, SYSTEM, "", selectors(Name="a", CreationClassName="b")),
    envelope(
        f"{CALL}/CreateSnapshot",
        CALL,
        f'<q:CreateSnapshot_INPUT xmlns:q="{CALL}"><q:AffectedSystem><a:ReferenceParameters>'
        f"<w:ResourceURI>{SYSTEM}</w:ResourceURI></a:ReferenceParameters></q:AffectedSystem>"
        '<q:SnapshotSettings>&lt;INSTANCE CLASSNAME="Msvm_VirtualSystemSnapshotSettingData"&gt;'
        '&lt;PROPERTY NAME="ConsistencyLevel" TYPE="uint8"&gt;&lt;VALUE&gt;1&lt;/VALUE&gt;'
        "&lt;/PROPERTY&gt;&lt;/INSTANCE&gt;</q:SnapshotSettings>"
        "<q:SnapshotType>2</q:SnapshotType></q:CreateSnapshot_INPUT>",
        selectors(CreationClassName=SERVICE) + "<w:OperationTimeout>PT20S</w:OperationTimeout>",
    ),
    envelope(
        "http://schemas.xmlsoap.org/ws/2004/09/transfer/Create",
        f"{SHELL}/cmd",
        f'<r:Shell xmlns:r="{SHELL}"/>',
    ),
)

# Pieces that mean something to one of the readers inside.
PIECES = st.sampled_from(
    [
        b"",
        b"\x00",
        b"<",
        b"&amp;",
        b"&#0;",
        b"</s:Body>",
        b"{",
        b"'",
        b"%",
        b"-1",
        b"99999999999999999999999",
        b"<w:Filter/>",
        b' s:mustUnderstand="true"',
        b"*",
        b"P",
        b"\xff\xfe",
        "仮".encode(),
        b"<n:MaxElements>0</n:MaxElements>",
    ]
)


def service() -> Service:
    return Service(ToyHost(), "HV01", Settings(max_shells_per_user=10_000), Disturbances())


SERVICE_UNDER_TEST = service()


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40), PIECES), min_size=1, max_size=6),
)
def test_mutated_envelopes_get_an_answer(data: bytes, changes: list[tuple[float, int, bytes]]) -> None:
    for place, length, piece in changes:
        start = int(place * len(data))
        data = data[:start] + piece + data[start + length :]
    answer = SERVICE_UNDER_TEST.answer(data, None, "admin", "127.0.0.1")
    assert answer.status in {200, 400, 500}
    if answer.status != 400:
        root = ElementTree.fromstring(answer.body)
        assert root.tag == "{http://www.w3.org/2003/05/soap-envelope}Envelope"
    # The only internal errors are the host's own answers, never a mistake inside the wire.
    assert b"made a mistake" not in answer.body


def test_it_still_works_after_all_that(seed: int) -> None:
    one = service()
    chance = random.Random(seed)
    for _ in range(300):
        data = bytearray(chance.choice(SEEDS))
        for _ in range(chance.randint(1, 20)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        one.answer(bytes(data), chance.choice([None, "utf-8", "utf-16", "odd"]), "admin", "")
    assert one.answer(SEEDS[0], None, "admin", "").status == 200


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=80), st.text(alphabet="SELECT*FROMWHEREANDORNOTLIKE ()='\"%_[]<>a1.,{}", max_size=80))
def test_queries_are_read_or_refused(text: str, near: str) -> None:
    for each in (text, near, f"SELECT * FROM A WHERE {near}", f"ASSOCIATORS OF {{{text}}}"):
        try:
            wql.read(each)
        except WmiError as refused:
            assert refused.code == 0x80041017


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='<>/="INSTANCEPROPERTYVALUE naTYPECLASSNAME&;', max_size=120), st.text(max_size=40))
def test_embedded_instances_are_read_or_refused(near: str, text: str) -> None:
    for each in (near, text, f'<INSTANCE CLASSNAME="Msvm_Error">{near}</INSTANCE>'):
        try:
            read_instance(SCHEMA, "root/virtualization/v2", each)
        except WmiError as refused:
            assert refused.code in {0x80041010, 0x8004102F}


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.from_regex(r"[A-Za-z]\w{0,8}", fullmatch=True), st.text(max_size=20), max_size=4))
def test_object_paths_come_back(keys: dict[str, str]) -> None:
    if not keys:
        return
    ref = Ref("Msvm_ComputerSystem", tuple(sorted(keys.items())))
    assert Ref.from_path(ref.path()) == ref
