"""Remote shells through the wire."""

import base64
from xml.etree.ElementTree import Element

import pytest

from tests.toy_host import GET, envelope, selectors
from tests.wire_bench import CREATE, DELETE, NS, SHELL, Bench, fault_of
from vmkeep_lab.wire.settings import Settings

pytestmark = pytest.mark.quick


@pytest.fixture
def bench() -> Bench:
    return Bench()


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


def test_the_users_of_shells_are_counted() -> None:
    bench = Bench(settings=Settings(max_concurrent_users=1))
    ShellBench(bench)
    data = envelope(CREATE, f"{SHELL}/cmd", f'<rsp:Shell xmlns:rsp="{SHELL}"/>')
    assert fault_of(bench.ask(data, 500, user="other"))[2] == "2150859179"


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
