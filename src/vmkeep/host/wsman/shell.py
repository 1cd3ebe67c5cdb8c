"""Run one program on a host through a WinRS shell ([MS-WSMV] 3.1.4.5.2)."""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from xml.etree.ElementTree import Element

from vmkeep.host.wsman.envelope import Effect, Request
from vmkeep.host.wsman.errors import (
    ArgumentRefused,
    ConnectionLost,
    HostError,
    HostNonsense,
    HostTimedOut,
    OutcomeUnknown,
)
from vmkeep.host.wsman.exchange import Exchange
from vmkeep.host.wsman.names import (
    CMD_SHELL,
    COMMAND,
    CREATE,
    DELETE,
    RECEIVE,
    SHELL,
    SIGNAL,
    TERMINATE,
    WSMAN,
)
from vmkeep.host.wsman.reading import content_of
from vmkeep.host.wsman.writing import attribute, escaped

_UTF_8: Final = "65001"
_MOST_OUTPUT: Final = 16 * 1024 * 1024
# cmd.exe reads the line: inside quotes it obeys only these. Nothing of ours needs them.
_OBEYED: Final = re.compile(r'[%"!\x00-\x1f]')
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.:\\/={}-]+")
_EXIT_CODE: Final = re.compile(r"-?\d{1,10}", re.ASCII)


@dataclass(frozen=True)
class CommandOutput:
    """What a program printed, as bytes, and how it ended."""

    exit_code: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """What it printed, for people: UTF-8 was asked for, what is none of it is made visible."""
        return self.stdout.decode("utf-8", "backslashreplace")


def run_command(exchange: Exchange, command: str, arguments: Sequence[str], limit_s: float) -> CommandOutput:
    """Run a program in a shell of its own, and delete the shell whatever happens.

    A shell of its own, because a host counts the operations of a shell up and only
    deleting it counts them down (failures.md, finding 7).
    """
    line = _command_line(command, arguments)
    shell = _Shell(exchange, _create_shell(exchange))
    try:
        output = shell.run(line, limit_s)
    except HostError as error:
        try:
            shell.delete()
        except HostError as second:
            error.add_note(f"the shell {shell.id} could not be deleted: {second.message}")
        raise
    shell.delete()
    return output


def _command_line(command: str, arguments: Sequence[str]) -> str:
    inside = "".join(f"<rsp:Arguments>{escaped(_spelled(text))}</rsp:Arguments>" for text in arguments)
    return (
        f"<rsp:CommandLine><rsp:Command>{escaped(_spelled(command))}</rsp:Command>{inside}</rsp:CommandLine>"
    )


def _spelled(word: str) -> str:
    """Write one word so that cmd.exe and the program take it for one word and nothing else."""
    if _OBEYED.search(word) or word.endswith("\\") or not word:
        raise ArgumentRefused(f"{word!r} cannot be given to a program on the host.")
    return word if _PLAIN.fullmatch(word) else f'"{word}"'


def _create_shell(exchange: Exchange) -> str:
    request = Request(
        action=CREATE,
        resource=CMD_SHELL,
        options={"WINRS_NOPROFILE": "TRUE", "WINRS_CODEPAGE": _UTF_8},
        body=(
            "<rsp:Shell><rsp:InputStreams>stdin</rsp:InputStreams>"
            "<rsp:OutputStreams>stdout stderr</rsp:OutputStreams></rsp:Shell>"
        ),
        effect=Effect.READS,  # sent twice, it leaves one idle shell more, which the host removes
    )
    body = exchange.ask(request).body
    found = "" if body is None else _shell_id(body)
    if not found:
        raise HostNonsense(f"{exchange.url} made a shell and does not name it.", host=exchange.url)
    return found


def _shell_id(body: Element) -> str:
    for selector in body.iter(f"{{{WSMAN}}}Selector"):
        if selector.get("Name", "").lower() == "shellid":
            return content_of(selector)
    return next((content_of(element) for element in body.iter(f"{{{SHELL}}}ShellId")), "")


class _Shell:
    """A shell on the host, for one command."""

    def __init__(self, exchange: Exchange, shell_id: str) -> None:
        self.id = shell_id
        self._exchange = exchange
        self._selectors = (
            f'<w:SelectorSet><w:Selector Name="ShellId">{escaped(shell_id)}</w:Selector></w:SelectorSet>'
        )
        self._streams = {"stdout": bytearray(), "stderr": bytearray()}

    def run(self, line: str, limit_s: float) -> CommandOutput:
        """Start the command line, collect what it prints, and acknowledge its end."""
        clock = self._exchange.clock
        deadline = clock.monotonic() + limit_s
        answer = self._ask(COMMAND, Effect.ACTS, line, {"WINRS_CONSOLEMODE_STDIN": "TRUE"})
        command = content_of(answer.find(f"{{{SHELL}}}CommandId") if answer is not None else None)
        if not command:
            raise OutcomeUnknown(f"{self._exchange.url} started a command and does not name it.")
        wanted = (
            f"<rsp:Receive><rsp:DesiredStream CommandId={attribute(command)}>stdout stderr"
            "</rsp:DesiredStream></rsp:Receive>"
        )
        while True:
            try:
                exit_code = self._received(self._ask(RECEIVE, Effect.TAKES, wanted))
            except HostTimedOut:
                exit_code = None  # the host's own fault: nothing was printed meanwhile
            except ConnectionLost as error:
                raise OutcomeUnknown(
                    f"a command runs on {self._exchange.url} and what it printed is lost: {error.message}",
                    host=self._exchange.url,
                ) from error
            if exit_code is not None:
                self._terminate(command)
                return CommandOutput(exit_code, *(bytes(stream) for stream in self._streams.values()))
            if clock.monotonic() >= deadline:
                self._terminate(command)
                raise HostTimedOut(
                    f"a command on {self._exchange.url} was ended after {limit_s:.0f} s.",
                    host=self._exchange.url,
                )

    def delete(self) -> None:
        """Delete the shell and whatever still runs in it."""
        self._exchange.ask(
            Request(action=DELETE, resource=CMD_SHELL, effect=Effect.READS, selectors=self._selectors)
        )

    def _terminate(self, command: str) -> None:
        # After the end as well: until then the host refuses the next command ([MS-WSMV] note 121).
        self._ask(
            SIGNAL,
            Effect.READS,
            f"<rsp:Signal CommandId={attribute(command)}><rsp:Code>{TERMINATE}</rsp:Code></rsp:Signal>",
        )

    def _ask(
        self, action: str, effect: Effect, body: str, options: dict[str, str] | None = None
    ) -> Element | None:
        return self._exchange.ask(
            Request(
                action=action,
                resource=CMD_SHELL,
                selectors=self._selectors,
                effect=effect,
                body=body,
                options=options,
            )
        ).body

    def _received(self, body: Element | None) -> int | None:
        """Take in what was printed, and return the exit code once the command is done."""
        if body is None:
            raise HostNonsense(f"{self._exchange.url} answers Receive with nothing.", host=self._exchange.url)
        for part in body.findall(f"{{{SHELL}}}Stream"):
            stream = self._streams.get(part.get("Name", "").lower())
            if stream is not None:
                stream += self._decoded(part.text or "")
                if len(stream) > _MOST_OUTPUT:
                    raise HostNonsense(f"a command on {self._exchange.url} prints without an end.")
        state = body.find(f"{{{SHELL}}}CommandState")
        if state is None or not state.get("State", "").lower().endswith("/done"):
            return None
        code = content_of(state.find(f"{{{SHELL}}}ExitCode"))
        if not _EXIT_CODE.fullmatch(code):
            raise OutcomeUnknown(f"a command on {self._exchange.url} ended without an exit code.")
        return int(code)

    def _decoded(self, text: str) -> bytes:
        try:
            return base64.b64decode(text, validate=False)
        except binascii.Error as error:
            raise HostNonsense(f"{self._exchange.url} sends output that is not Base64.") from error
