"""The service: headers, what is no SOAP, Identify, quotas, disturbances."""

import uuid
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest

from tests.toy_host import ENUMERATE, PULL, SERVICE, envelope
from tests.wire_bench import CHECKPOINT, NS, SYSTEM, Bench, enumerate_class, invoke
from vmkeep_lab.wire.disturbances import Disturbance, Disturbances, Effect
from vmkeep_lab.wire.settings import Settings

pytestmark = pytest.mark.quick


@pytest.fixture
def bench() -> Bench:
    return Bench()


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
