"""What goes onto the wire, beside the canonical requests of hyperv-backup-api.md, Annex A."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

import pytest

from vmkeep.host.wsman import ArgumentRefused, EmbeddedClass, EmbeddedInstance, Method, Ref
from vmkeep.host.wsman.envelope import Effect, Request, envelope

pytestmark = pytest.mark.quick

V2: Final = "root/virtualization/v2"
SERVICE: Final = Ref.singleton(V2, "Msvm_VirtualSystemSnapshotService")
SETTINGS: Final = EmbeddedClass(
    "Msvm_VirtualSystemSnapshotSettingData",
    {"ConsistencyLevel": "uint8", "GuestBackupType": "uint8", "IgnoreNonSnapshottableDisks": "boolean"},
)
CREATE: Final = Method(
    "CreateSnapshot",
    (
        ("AffectedSystem", "reference"),
        ("SnapshotSettings", "string"),
        ("SnapshotType", "uint16"),
        ("ResultingSnapshot", "reference"),
    ),
)
# hyperv-backup-api.md, Annex A; the line breaks inside the CDATA are the page's and taken out.
CANONICAL: Final = Path(__file__).resolve().parents[3] / "data" / "requests" / "create_checkpoint.xml"


def canonical(xml: str) -> str:
    return ElementTree.canonicalize(xml, strip_text=True, rewrite_prefixes=True)


def test_create_snapshot_is_the_canonical_request() -> None:
    settings = EmbeddedInstance(
        SETTINGS, {"ConsistencyLevel": 1, "GuestBackupType": 1, "IgnoreNonSnapshottableDisks": True}
    )
    vm = Ref(V2, "Msvm_ComputerSystem", {"CreationClassName": "Msvm_ComputerSystem", "Name": "VM-GUID"})
    # Given in another order than the MOF's: the declaration decides.
    body = CREATE.input_xml(
        SERVICE.uri, {"SnapshotType": 32768, "SnapshotSettings": settings, "AffectedSystem": vm}
    )
    assert canonical(body) == canonical(CANONICAL.read_text("utf-8"))
    assert "<![CDATA[<INSTANCE" in body


def test_the_header_has_what_the_digest_demands() -> None:
    request = Request(
        action=f"{SERVICE.uri}/CreateSnapshot", resource=SERVICE.uri, effect=Effect.ACTS, selectors="<w:X/>"
    )
    root = ElementTree.fromstring(envelope(request, "https://hv01:5986/wsman", "uuid:ABC", 60.0))
    ns = {
        "s": "http://www.w3.org/2003/05/soap-envelope",
        "a": "http://schemas.xmlsoap.org/ws/2004/08/addressing",
        "w": "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd",
        "p": "http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd",
    }
    understand = "{http://www.w3.org/2003/05/soap-envelope}mustUnderstand"

    def text(path: str) -> str | None:
        return root.findtext(f"s:Header/{path}", None, ns)

    assert text("a:To") == "https://hv01:5986/wsman"
    assert text("a:Action") == f"{SERVICE.uri}/CreateSnapshot"
    assert text("w:ResourceURI") == SERVICE.uri
    assert text("a:ReplyTo/a:Address") == "http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous"
    assert text("a:MessageID") == "uuid:ABC"
    assert text("w:MaxEnvelopeSize") == "512000"
    assert text("w:OperationTimeout") == "PT60.000S"
    for locale in ("w:Locale", "p:DataLocale"):
        found = root.find(f"s:Header/{locale}", ns)
        assert found is not None
        assert found.get(understand) == "false"
    assert len(root.findall("s:Body/*", ns)) == 0
    assert request.title == "Msvm_VirtualSystemSnapshotService.CreateSnapshot"


def test_arrays_are_repeated_and_none_is_left_out() -> None:
    method = Method("Modify", (("Items", "string[]"), ("Path", "string"), ("When", "datetime")))
    one, two = (EmbeddedInstance(SETTINGS, {"ConsistencyLevel": level}) for level in (1, 2))
    body = ElementTree.fromstring(method.input_xml("urn:x", {"Items": [one, two], "Path": None}))
    assert [child.tag for child in body] == ["{urn:x}Items", "{urn:x}Items"]
    inside = [ElementTree.fromstring(child.text or "") for child in body]
    assert [item.findtext("PROPERTY/VALUE") for item in inside] == ["1", "2"]


def test_times_are_spelled_by_place() -> None:
    moment, length = datetime(2026, 3, 1, 2, 3, 4, 5, UTC), timedelta(days=1, minutes=30)
    method = Method("Wait", (("From", "datetime"), ("For", "datetime")))
    body = ElementTree.fromstring(method.input_xml("urn:x", {"From": moment, "For": length}))
    cim = "{http://schemas.dmtf.org/wbem/wscim/1/common}"
    assert [(child[0].tag, child[0].text) for child in body] == [
        (f"{cim}Datetime", "2026-03-01T02:03:04.000005Z"),
        (f"{cim}Interval", "P1DT0H30M0.000000S"),
    ]
    times = EmbeddedClass("T", {"From": "datetime", "For": "datetime"})
    assert EmbeddedInstance(times, {"From": moment, "For": length}).cim_xml == (
        '<INSTANCE CLASSNAME="T"><PROPERTY NAME="From" TYPE="datetime"><VALUE>20260301020304.000005+000'
        '</VALUE></PROPERTY><PROPERTY NAME="For" TYPE="datetime"><VALUE>00000001003000.000000:000</VALUE>'
        "</PROPERTY></INSTANCE>"
    )


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        ("uint8", 256),
        ("uint8", -1),
        ("uint64", 2**64),
        ("sint32", 2**31),
        ("uint16", True),
        ("uint16", "5"),
        ("boolean", 1),
        ("string", 5),
        ("string", ["a"]),
        ("string[]", "a"),
        ("reference", "path"),
        ("datetime", datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None)),
        ("datetime", timedelta(seconds=-1)),
        ("string", "a\x00b"),
        ("string", "\ud800"),
    ],
)
def test_what_does_not_fit_is_refused_before_it_is_sent(declared: str, value: object) -> None:
    with pytest.raises(ArgumentRefused):
        Method("M", (("A", declared),)).input_xml("urn:x", {"A": value})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("declared", "value", "text"),
    [("uint64", 2**64 - 1, "18446744073709551615"), ("sint8", -128, "-128"), ("boolean", False, "false")],
)
def test_the_ends_of_a_range_fit(declared: str, value: int, text: str) -> None:
    body = ElementTree.fromstring(Method("M", (("A", declared),)).input_xml("urn:x", {"A": value}))
    assert body.findtext("{urn:x}A") == text


def test_what_is_not_declared_is_refused() -> None:
    with pytest.raises(ArgumentRefused, match="CreateSnapshot declares no Snapshottype"):
        CREATE.input_xml("urn:x", {"Snapshottype": 2})
    with pytest.raises(ArgumentRefused, match="declares no Consistency"):
        EmbeddedInstance(SETTINGS, {"Consistency": 1})
    for wrong in ("uint128", "text", "string[][]"):
        with pytest.raises(ArgumentRefused, match="not a CIM type"):
            Method("M", (("A", wrong),))
        with pytest.raises(ArgumentRefused, match="not a CIM type"):
            EmbeddedClass("C", {"A": wrong})
    with pytest.raises(ArgumentRefused, match="twice"):
        Method("M", (("A", "string"), ("A", "string")))
