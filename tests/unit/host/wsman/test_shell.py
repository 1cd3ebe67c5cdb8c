"""Programs on the host: the order of requests, streams cut anywhere, and no shell left behind."""

import base64

import pytest

from tests.fakes.wsman_host import NS, Question, Reply, fault
from tests.fakes.wsman_script import Breaking, Scripted
from vmkeep.host.wsman import (
    ArgumentRefused,
    Client,
    ConnectionLost,
    Endpoint,
    HostBusy,
    HostFault,
    HostNonsense,
    HostTimedOut,
    OutcomeUnknown,
)

pytestmark = pytest.mark.quick

STATE = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell/CommandState"
CREATED = (
    "<x:ResourceCreated><a:Address>http://hv01</a:Address><a:ReferenceParameters><w:SelectorSet>"
    '<w:Selector Name="ShellId">S-1</w:Selector></w:SelectorSet></a:ReferenceParameters></x:ResourceCreated>'
)
# What Windows sends since 2008 R2: a description of the shell instead of a reference.
DESCRIBED = "<rsp:Shell><rsp:ShellId>S-1</rsp:ShellId><rsp:Owner>LAB\\tester</rsp:Owner></rsp:Shell>"
STARTED = "<rsp:CommandResponse><rsp:CommandId>C-1</rsp:CommandId></rsp:CommandResponse>"
SIGNALLED, DELETED = "<rsp:SignalResponse/>", ""


def printed(stream: str, data: bytes) -> str:
    return f'<rsp:Stream Name="{stream}" CommandId="C-1">{base64.b64encode(data).decode()}</rsp:Stream>'


def received(inside: str, code: int | None = None) -> str:
    state = f'<rsp:CommandState CommandId="C-1" State="{STATE}/Running"/>'
    if code is not None:
        state = (
            f'<rsp:Stream Name="stdout" CommandId="C-1" End="true"/><rsp:CommandState CommandId="C-1" '
            f'State="{STATE}/Done"><rsp:ExitCode>{code}</rsp:ExitCode></rsp:CommandState>'
        )
    return f"<rsp:ReceiveResponse>{inside}{state}</rsp:ReceiveResponse>"


def client(script: Scripted) -> Client:
    return Client(Endpoint(address="hv01"), script.clock, transport=script)


def verbs(asked: list[Question]) -> list[str]:
    return [question.action.rpartition("/")[2] for question in asked]


@pytest.mark.parametrize("created", [CREATED, DESCRIBED])
def test_a_command_from_begin_to_end(created: str) -> None:
    umlaut = "Größe".encode()
    slow = fault(2150858793, "w:TimedOut")
    script = Scripted(
        [
            created,
            STARTED,
            received(printed("stdout", umlaut[:3]) + printed("stderr", b"e")),
            slow,
            received(printed("stdout", umlaut[3:]), code=-1),
            SIGNALLED,
            DELETED,
        ]
    )
    output = client(script).run("vssadmin", ["list", "writers"])
    assert output.exit_code == -1
    assert output.stdout == umlaut
    assert output.text == "Größe"
    assert output.stderr == b"e"
    assert verbs(script.asked) == ["Create", "Command", "Receive", "Receive", "Receive", "Signal", "Delete"]
    create, command = script.asked[:2]
    options = {option.get("Name"): option.text for option in create.root.findall(".//w:Option", NS)}
    assert options == {"WINRS_NOPROFILE": "TRUE", "WINRS_CODEPAGE": "65001"}
    assert command.root.findtext(".//w:Selector[@Name='ShellId']", None, NS) == "S-1"
    assert command.root.findtext(".//rsp:CommandLine/rsp:Command", None, NS) == "vssadmin"
    arguments = [argument.text for argument in command.root.findall(".//rsp:Arguments", NS)]
    assert arguments == ["list", "writers"]


@pytest.mark.parametrize("broken", [HostFault("x"), HostBusy("x"), HostNonsense("x")])
def test_the_shell_is_deleted_after_a_failure(broken: HostFault) -> None:
    replies = [fault(1359)] if isinstance(broken, HostFault) else [fault(2150859174)] * 6
    if isinstance(broken, HostNonsense):
        replies = [Reply(received("", 0), action="urn:other")]
    script = Scripted([CREATED, STARTED, *replies, DELETED])
    with pytest.raises(type(broken)):
        client(script).run("vssadmin")
    assert verbs(script.asked)[-1] == "Delete"


def test_a_shell_that_cannot_be_deleted_does_not_hide_the_error() -> None:
    script = Scripted([CREATED, fault(5, "w:AccessDenied"), fault(1359)])
    with pytest.raises(Exception, match="needs the right Execute") as raised:
        client(script).run("vssadmin")
    assert any("S-1 could not be deleted" in note for note in raised.value.__notes__)


def test_output_that_was_lost_is_not_asked_for_again() -> None:
    script = Breaking([], [CREATED, STARTED, DELETED])
    replies = script.send

    def breaking(content: bytes, wait_s: float) -> object:
        if b"/Receive<" in content:
            raise ConnectionLost("broke")
        return replies(content, wait_s)

    script.send = breaking  # type: ignore[method-assign, assignment]
    with pytest.raises(OutcomeUnknown, match="what it printed is lost"):
        client(script).run("vssadmin")
    assert verbs(script.asked) == ["Create", "Command", "Delete"]


def test_a_command_that_takes_too_long_is_ended() -> None:
    script = Scripted([CREATED, STARTED])
    running = received("")

    def forever(content: bytes, wait_s: float) -> object:
        verb = Question(content.decode()).action.rpartition("/")[2]
        script.clock.advance(30)
        bodies = {"Create": CREATED, "Command": STARTED, "Receive": running}
        script._replies = iter([bodies.get(verb, "")])
        return Scripted.send(script, content, wait_s)

    script.send = forever  # type: ignore[method-assign, assignment]
    with pytest.raises(HostTimedOut, match="ended after 100 s"):
        client(script).run("vssadmin", limit_s=100)
    assert verbs(script.asked) == ["Create", "Command", "Receive", "Receive", "Receive", "Signal", "Delete"]


@pytest.mark.parametrize("word", ['a"b', "a%PATH%", "a\nb", "", "a\\", "a!b", "a\x00b"])
def test_words_that_cmd_would_obey_are_refused(word: str) -> None:
    script = Scripted([])
    with pytest.raises(ArgumentRefused):
        client(script).run("vssadmin", [word])
    assert script.asked == []


@pytest.mark.parametrize(
    ("word", "spelled"),
    [
        ("C:\\a b\\c", '"C:\\a b\\c"'),
        ("a&b|c>d", '"a&b|c>d"'),
        ("{66841cd4-6ded}", "{66841cd4-6ded}"),
        ("/x:1", "/x:1"),
    ],
)
def test_words_are_quoted_for_cmd(word: str, spelled: str) -> None:
    script = Scripted([CREATED, STARTED, received("", 0), SIGNALLED, DELETED])
    client(script).run("vssadmin", [word])
    assert script.asked[1].root.findtext(".//rsp:Arguments", None, NS) == spelled


@pytest.mark.parametrize("answer", ["<rsp:Shell/>", "", "<x:ResourceCreated/>"])
def test_a_shell_without_a_name(answer: str) -> None:
    with pytest.raises(HostNonsense):
        client(Scripted([answer])).run("vssadmin")


def test_an_end_without_an_exit_code_is_not_zero() -> None:
    done = (
        f'<rsp:ReceiveResponse><rsp:CommandState CommandId="C-1" State="{STATE}/Done"/></rsp:ReceiveResponse>'
    )
    with pytest.raises(OutcomeUnknown):
        client(Scripted([CREATED, STARTED, done, DELETED])).run("vssadmin")
