"""A replay answers what was recorded, in the recorded order, and refuses the rest (docs/trace.md)."""

from typing import Final
from xml.etree import ElementTree

import pytest

from vmkeep_lab.replay import Exchange, Replay, TraceError
from vmkeep_lab.wire.service import Answer

pytestmark = pytest.mark.quick

TRANSFER: Final = "http://schemas.xmlsoap.org/ws/2004/09/transfer"
ENUMERATION: Final = "http://schemas.xmlsoap.org/ws/2004/09/enumeration"
URI: Final = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2"
NS: Final = {
    "s": "http://www.w3.org/2003/05/soap-envelope",
    "a": "http://schemas.xmlsoap.org/ws/2004/08/addressing",
    "w": "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd",
    "f": "http://schemas.microsoft.com/wbem/wsman/1/wsmanfault",
}
GET, PULL = f"{TRANSFER}/Get", f"{ENUMERATION}/Pull"
CALL: Final = f"{URI}/Msvm_X/Do"
DECLARED: Final = " ".join(f'xmlns:{prefix}="{uri}"' for prefix, uri in NS.items() if prefix != "f")
FIRST, SECOND = "uuid:11111111-0000-4000-8000-000000000001", "uuid:22222222-0000-4000-8000-000000000002"


def asked(
    action: str = GET,
    body: str = "",
    uri: str = f"{URI}/Msvm_X",
    message_id: str = FIRST,
    more: str = "",
    selectors: str = '<w:Selector Name="A">1</w:Selector><w:Selector Name="B">x</w:Selector>',
) -> str:
    return (
        f"<s:Envelope {DECLARED}><s:Header><a:To>http://hv01:5985/wsman</a:To>"
        f"<w:ResourceURI>{uri}</w:ResourceURI><a:Action>{action}</a:Action>"
        f"<a:MessageID>{message_id}</a:MessageID>{more}<w:SelectorSet>{selectors}</w:SelectorSet>"
        f"</s:Header><s:Body>{body}</s:Body></s:Envelope>"
    )


def told(text: str = "one", message_id: str = FIRST) -> str:
    return (
        f'<s:Envelope xmlns:s="{NS["s"]}" xmlns:a="{NS["a"]}"><s:Header><a:Action>{GET}Response</a:Action>'
        f"<a:RelatesTo>{message_id}</a:RelatesTo></s:Header><s:Body><x>{text}</x></s:Body></s:Envelope>"
    )


def replay(*pairs: tuple[str, str], status: int = 200) -> Replay:
    return Replay(
        [Exchange(number, request, status, reply) for number, (request, reply) in enumerate(pairs, 1)]
    )


def ask(host: Replay, request: str, user: str = "admin") -> Answer:
    return host.answer(request.encode(), None, user, "127.0.0.1")


def said(answer: Answer) -> str:
    return ElementTree.fromstring(answer.body).findtext(".//x", "")


def refusal(answer: Answer) -> str:
    """The message of a fault, which must have its code, too."""
    root = ElementTree.fromstring(answer.body)
    assert answer.status == 500
    fault = root.find(".//f:WSManFault", NS)
    assert fault is not None and fault.get("Code") == "1359"
    return root.findtext(".//s:Reason/s:Text", "", NS)


# Each is the question of `asked()` in another spelling.
BODY: Final = f'<p:Do_INPUT xmlns:p="{URI}/Msvm_X"><p:A c="1" b="2">t</p:A></p:Do_INPUT>'
INSTANCE: Final = (
    '<p:S xmlns:p="u">&lt;INSTANCE CLASSNAME="X"&gt;'
    '&lt;PROPERTY NAME="N" TYPE="string"/&gt;&lt;/INSTANCE&gt;</p:S>'
)


@pytest.mark.parametrize(
    ("recorded", "again"),
    [
        (asked(), asked(message_id=SECOND)),
        (
            asked(),
            asked(
                more="<w:OperationTimeout>PT5S</w:OperationTimeout><w:MaxEnvelopeSize>1</w:MaxEnvelopeSize>"
            ),
        ),
        (asked(), asked().replace("hv01:5985", "127.0.0.1:9")),
        (asked(), asked(uri=f"{URI}/MSVM_x")),
        (
            asked(),
            asked(selectors='<w:Selector Name="b">X</w:Selector>\n<w:Selector Name="a">1</w:Selector>'),
        ),
        (
            asked(CALL, BODY),
            asked(CALL, BODY.replace("<p:", "<q:").replace("</p:", "</q:").replace(":p=", ":q=")),
        ),
        (asked(CALL, BODY), asked(CALL, BODY.replace('c="1" b="2"', 'b="2"  c="1"').replace("><", ">\n <"))),
        (
            asked(CALL, INSTANCE),
            asked(CALL, INSTANCE.replace('"string"/', '"string"&gt;&lt;/PROPERTY').replace('"X"', "'X'")),
        ),
    ],
)
def test_the_same_question_in_another_spelling(recorded: str, again: str) -> None:
    assert said(ask(replay((recorded, told())), again)) == "one"


@pytest.mark.parametrize(
    "other",
    [
        asked(PULL),
        asked(uri=f"{URI}/Msvm_Y"),
        asked(selectors='<w:Selector Name="A">1</w:Selector>'),
        asked(selectors='<w:Selector Name="A">2</w:Selector><w:Selector Name="B">x</w:Selector>'),
        asked(body="<x/>"),
        asked(more='<w:OptionSet><w:Option Name="o">1</w:Option></w:OptionSet>'),
    ],
)
def test_another_question_is_refused(other: str) -> None:
    assert "nowhere" in refusal(ask(replay((asked(), told())), other))


@pytest.mark.parametrize(
    ("old", "new"),
    [("p:A", "p:B"), (">t<", ">T<"), ('c="1"', 'c="2"'), ("Msvm_X", "Msvm_Y"), ("</p:A>", "</p:A><p:A/>")],
)
def test_a_body_that_says_something_else_is_another_question(old: str, new: str) -> None:
    host = replay((asked(CALL, BODY), told()))
    assert "Do of Msvm_X" in refusal(ask(host, asked(CALL, BODY.replace(old, new))))


def test_repeats_get_the_recorded_replies_in_their_order() -> None:
    host = replay(
        (asked(), told("one")), (asked(PULL), told("other")), (asked(message_id=SECOND), told("two", SECOND))
    )
    assert [said(ask(host, asked())) for _ in range(4)] == ["one", "two", "two", "two"]
    assert said(ask(host, asked(PULL))) == "other"


def test_a_call_is_not_made_up_beyond_what_was_recorded() -> None:
    host = replay((asked(CALL, BODY), told("one")))
    assert said(ask(host, asked(CALL, BODY))) == "one"
    assert "no more than 1 times: Do of Msvm_X" in refusal(ask(host, asked(CALL, BODY)))


@pytest.mark.parametrize("recorded_id", [FIRST, FIRST.upper(), "strange.*(id"])
def test_a_reply_relates_to_whoever_asks_now(recorded_id: str) -> None:
    host = replay((asked(message_id=recorded_id), told(message_id=recorded_id)))
    reply = ElementTree.fromstring(ask(host, asked(message_id="uuid:now\\1&amp;")).body)
    assert reply.findtext(".//a:RelatesTo", "", NS) == "uuid:now\\1&"


def test_status_and_missing_bodies_come_as_they_were() -> None:
    assert ask(replay((asked(), ""), status=503), asked()) == Answer(503, b"")
    assert ask(replay((asked(), told()), status=500), asked()).status == 500


def test_a_stranger_learns_nothing() -> None:
    assert ask(replay((asked(), told())), asked(), user="") == Answer(401)


@pytest.mark.parametrize("sent", ["", "<x/>", "<s:Envelope", "<!DOCTYPE x><x/>"])
def test_what_is_no_envelope_is_answered_without_one(sent: str) -> None:
    assert ask(replay((asked(), told())), sent) == Answer(400)


@pytest.mark.parametrize("request_", ["", "(13 bytes that are not XML)", "<x/>", "\ud800"])
def test_a_trace_whose_requests_are_none_is_refused(request_: str) -> None:
    with pytest.raises(TraceError, match="exchange 1 is no envelope"):
        replay((request_, told()))


def test_deep_instances_end_nobody() -> None:
    inner = "x"
    for _ in range(40):
        inner = f"<INSTANCE>{inner}</INSTANCE>".replace("&", "&amp;").replace("<", "&lt;")
    host = replay((asked(CALL, f"<p>{inner}</p>"), told()))
    assert said(ask(host, asked(CALL, f"<p>{inner}</p>"))) == "one"


# --- names that were made up -------------------------------------------------------------------------


def marking(name: str, of: str = "Microsoft:1", size: str = "5") -> str:
    inner = (
        f'<INSTANCE CLASSNAME="S"><PROPERTY NAME="I"><VALUE>{of}</VALUE></PROPERTY>'
        f'<PROPERTY NAME="N"><VALUE>{name}</VALUE></PROPERTY></INSTANCE>'
    ).replace("<", "&lt;")
    return asked(CALL, f'<p:Do_INPUT xmlns:p="u"><p:S>{inner}</p:S><p:Z>{size}</p:Z></p:Do_INPUT>')


LISTED: Final = "name-7</x><y>&lt;VALUE&gt;name-7&lt;/VALUE&gt;</y><z>name-77, name-7</z><x>"


def test_a_name_that_was_made_up_may_be_another() -> None:
    host = replay(
        (marking("name-7"), told()), (asked(), told(LISTED)), (marking("name-7", size="6"), told("two"))
    )
    assert said(ask(host, marking("run &amp;amp; 1"))) == "one"
    reply = ElementTree.fromstring(ask(host, asked()).body)
    assert reply.findtext(".//x") == "run & 1"
    assert reply.findtext(".//y") == "<VALUE>run &amp; 1</VALUE>"
    assert reply.findtext(".//z") == "name-77, name-7", "what only looks like it stays"
    assert said(ask(host, marking("run &amp;amp; 1", size="6"))) == "two"


def test_each_made_up_name_stands_for_one() -> None:
    host = replay((marking("name-7"), told()), (marking("name-8"), told("two")))
    assert said(ask(host, marking("first"))) == "one"
    assert "no more than 1 times" in refusal(ask(host, marking("first")))
    assert said(ask(host, marking("second"))) == "two"
    assert "nowhere" in refusal(ask(host, marking("third")))


@pytest.mark.parametrize(
    "given", [marking("other", of="Microsoft:2"), marking("other", size="6"), marking("", size="5")]
)
def test_nothing_else_is_taken_for_something_else(given: str) -> None:
    host = replay((marking("name-7"), told()))
    assert "nowhere" in refusal(ask(host, given))
    assert said(ask(host, marking("other"))) == "one", "and nothing was learned from it"


def test_a_name_that_the_host_told_was_not_made_up() -> None:
    host = replay((asked(), told("name-7")), (marking("name-7"), told("two")))
    assert "nowhere" in refusal(ask(host, marking("other")))
    assert said(ask(host, marking("name-7"))) == "two"


def test_a_list_is_not_asked_for_by_other_names() -> None:
    listing = "<n:Enumerate xmlns:n='e'>name-7</n:Enumerate>"
    action = f"{ENUMERATION}/Enumerate"
    host = replay((asked(action, listing), told()))
    assert "nowhere" in refusal(ask(host, asked(action, listing.replace("name-7", "other"))))
