"""Strict reading of answers, and the table of what is asked again."""

import pytest

from tests.fakes.wsman_host import Reply, fault
from tests.fakes.wsman_script import Breaking, Scripted
from vmkeep.errors import VmkeepError
from vmkeep.host.wsman import (
    Client,
    ConnectionLost,
    Endpoint,
    EnvelopeTooLarge,
    HostBusy,
    HostFault,
    HostNonsense,
    HostTimedOut,
    InstanceMissing,
    Method,
    OutcomeUnknown,
    Ref,
    RightMissing,
    UnknownToHost,
)

pytestmark = pytest.mark.quick

CIMV2 = "root/cimv2"
URI = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/cimv2/Win32_X"
INSTANCE = f'<q:Win32_X xmlns:q="{URI}"><q:Id>1</q:Id></q:Win32_X>'
REF = Ref(CIMV2, "Win32_X", {"Id": "1"})
DONE = f'<q:Do_OUTPUT xmlns:q="{URI}"><q:ReturnValue>4096</q:ReturnValue></q:Do_OUTPUT>'
DO = Method("Do")


def client(script: Scripted) -> Client:
    return Client(Endpoint(address="hv01"), script.clock, transport=script)


def test_get() -> None:
    script = Scripted([INSTANCE])
    asking = client(script)
    assert asking.get(REF).integer("Id") == 1
    assert asking.requests == 1
    assert (
        script.asked[0].root.findtext(
            ".//w:Selector[@Name='Id']", None, {"w": "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"}
        )
        == "1"
    )


def test_invoke_returns_its_number_and_values() -> None:
    result = client(Scripted([DONE])).invoke(REF, DO)
    assert result.return_value == 4096
    assert result.ref_or_none("Job") if "Job" in result else True
    assert repr(result) == "<Result Win32_X.Do, 1 properties>"


@pytest.mark.parametrize(
    ("reply", "complaint"),
    [
        (Reply(INSTANCE, relates_to="uuid:other"), "relates to 'uuid:other'"),
        (Reply(INSTANCE, relates_to=""), "relates to ''"),
        (
            Reply(INSTANCE, action="http://schemas.xmlsoap.org/ws/2004/09/transfer/Get"),
            "the answer's action is",
        ),
        (Reply(INSTANCE + INSTANCE), "holds 2 elements"),
        (Reply(""), "with nothing"),
        (Reply(INSTANCE, status=500), "without a fault came with HTTP status 500"),
        (Reply(content=b"<html><body>Proxy</body></html>"), "is <html> and not a SOAP"),
        (Reply(content=b"\xff\xfe<\x00"), "is not UTF-8"),
        (Reply(content=b"<s:Envelope"), "not well-formed"),
        (Reply(content=b"<!DOCTYPE html><html/>"), "has a document type"),
        (
            Reply(content=b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'),
            "has a document type",
        ),
        (Reply(content=b"<!-- x --><!DOCTYPE a><a/>"), "is not XML"),
        (
            Reply(content=b'<Envelope xmlns="http://schemas.xmlsoap.org/soap/envelope/"><Body/></Envelope>'),
            "not a SOAP 1.2 envelope",
        ),
        (Reply("<q:Win32_X xmlns:q='urn:other'/>"), "an instance came as"),
        (Reply(content=b"", status=200), "HTTP status 200"),
        (Reply(content=b"", status=302), "HTTP status 302"),
        (Reply(content=b"", status=404), "HTTP status 404"),
        (Reply(content=b"", status=407), "HTTP status 407"),
    ],
)
def test_nonsense_is_called_so(reply: Reply, complaint: str) -> None:
    script = Scripted([reply])
    with pytest.raises(HostNonsense) as raised:
        client(script).get(REF)
    assert complaint in raised.value.message
    assert len(script.asked) == 1


@pytest.mark.parametrize(
    "reply",
    [
        Reply(DONE, relates_to="uuid:other"),
        Reply(""),
        Reply("<x/>"),
        Reply(content=b"<html/>"),
        Reply(content=b"", status=500),
        Reply(content=b"", status=200),
        fault(2150858793),
        Reply(f'<q:Do_OUTPUT xmlns:q="{URI}"/>'),
        Reply(DONE, status=500),
    ],
)
def test_a_method_whose_answer_is_lost_may_have_run(reply: Reply) -> None:
    script = Scripted([reply])
    with pytest.raises(OutcomeUnknown):
        client(script).invoke(REF, DO)
    assert len(script.asked) == 1


@pytest.mark.parametrize(
    ("status", "expected"), [(404, HostNonsense), (403, RightMissing), (413, EnvelopeTooLarge)]
)
def test_a_method_that_was_turned_away_did_not_run(status: int, expected: type[VmkeepError]) -> None:
    with pytest.raises(expected):
        client(Scripted([Reply(content=b"", status=status)])).invoke(REF, DO)


def test_the_right_that_a_method_needs_is_named() -> None:
    with pytest.raises(RightMissing, match=r"GX.*Hyper-V Administrators"):
        client(Scripted([fault(5, "w:AccessDenied")])).invoke(REF, DO)
    with pytest.raises(RightMissing, match=r"GR.*Remote Enable"):
        client(Scripted([fault(5, "w:AccessDenied")])).get(REF)


@pytest.mark.parametrize("busy", [fault(2150859174), fault(2150858815), Reply(content=b"", status=503)])
def test_a_busy_host_is_asked_again_after_longer_and_longer_pauses(busy: Reply) -> None:
    script = Scripted([busy, busy, busy, DONE])
    asking = client(script)
    assert asking.invoke(REF, DO).return_value == 4096
    assert script.clock.slept == [1.0, 2.0, 4.0]
    assert asking.requests == 4
    ids = {question.header("a:MessageID") for question in script.asked}
    assert len(ids) == 4  # each message has its own


def test_patience_ends() -> None:
    script = Scripted([fault(2150859174)] * 6)
    with pytest.raises(HostBusy) as raised:
        client(script).get(REF)
    assert raised.value.context["code"] == 2150859174
    assert script.clock.slept == [1.0, 2.0, 4.0, 8.0, 16.0]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (fault(2150858752), InstanceMissing),
        (fault(2150858778), UnknownToHost),
        (fault(1359), HostFault),
        (fault(2150858793), HostTimedOut),
    ],
)
def test_other_faults_are_final(reply: Reply, expected: type[VmkeepError]) -> None:
    script = Scripted([reply, INSTANCE])
    with pytest.raises(expected):
        client(script).get(REF)
    assert len(script.asked) == 1
    assert script.clock.slept == []


def test_a_lost_connection_is_tried_once_more_for_reading_only() -> None:
    lost = ConnectionLost("broke")
    script = Breaking([lost], [INSTANCE])
    assert client(script).get(REF).integer("Id") == 1
    script = Breaking([lost, lost], [INSTANCE])
    with pytest.raises(ConnectionLost):
        client(script).get(REF)
    assert script.sent == 2
    script = Breaking([lost], [DONE])
    with pytest.raises(OutcomeUnknown, match=r"Win32_X\.Do was sent .* nobody knows"):
        client(script).invoke(REF, DO)
    assert script.sent == 1


def test_a_late_answer_is_not_asked_for_again() -> None:
    script = Breaking([HostTimedOut("late")], [INSTANCE])
    with pytest.raises(HostTimedOut):
        client(script).get(REF)
    script = Breaking([HostTimedOut("late")], [DONE])
    with pytest.raises(OutcomeUnknown):
        client(script).invoke(REF, DO)
    assert script.sent == 1


def test_a_fault_before_the_header_was_read_counts() -> None:
    reply = fault(2150858819)
    reply.relates_to = ""
    with pytest.raises(UnknownToHost):
        client(Scripted([reply])).get(REF)
    reply.relates_to = "uuid:somebody-elses"
    with pytest.raises(HostNonsense):
        client(Scripted([reply])).get(REF)


def test_identify() -> None:
    wsmid = "http://schemas.dmtf.org/wbem/wsman/identity/1/wsmanidentity.xsd"
    body = (
        f'<i:IdentifyResponse xmlns:i="{wsmid}"><i:ProtocolVersion>{wsmid}</i:ProtocolVersion>'
        "<i:ProductVendor>"
        "Microsoft Corporation</i:ProductVendor><i:ProductVersion>OS: 10.0.20348 SP: 0.0 Stack: 3.0"
        "</i:ProductVersion></i:IdentifyResponse>"
    )
    script = Scripted([Reply(body)])
    found = client(script).identify()
    assert (found.vendor, found.version) == ("Microsoft Corporation", "OS: 10.0.20348 SP: 0.0 Stack: 3.0")
    assert script.asked[0].header("a:MessageID") == ""


def test_closing_closes_the_transport() -> None:
    script = Scripted([])
    with client(script):
        pass
    assert script.closed == 1
