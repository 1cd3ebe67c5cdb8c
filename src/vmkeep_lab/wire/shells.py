"""Remote shells: Create, Command, Receive, Send, Signal, Delete ([MS-WSMV] 3.1.4.5.2, 3.1.4.11-14, 4.7)."""

import base64
import threading
import uuid
from dataclasses import dataclass, field
from typing import Final
from xml.etree.ElementTree import Element

from vmkeep_lab import clock
from vmkeep_lab.cim import CommandResult
from vmkeep_lab.wire.faults import (
    ACTION_NOT_SUPPORTED,
    INVALID_PARAMETER,
    MAX_SHELL_USERS,
    MAX_SHELLS,
    NO_COMMAND,
    OPERATION_TIMED_OUT,
    QUOTA_LIMIT,
    UNEXPECTED_SELECTORS,
    SoapFault,
)
from vmkeep_lab.wire.markup import attribute, text
from vmkeep_lab.wire.names import (
    ANONYMOUS,
    CMD_SHELL,
    COMMAND,
    CREATE,
    DELETE,
    RECEIVE,
    SEND,
    SHELL,
    SIGNAL,
    TRANSFER,
    tag,
)
from vmkeep_lab.wire.provider import Provider
from vmkeep_lab.wire.settings import Settings
from vmkeep_lab.wire.soap import Reply, Request

# An odd number, so that characters of more than one byte are cut between two replies, as on a real host.
BLOCK_BYTES: Final = 32_765
_PROVIDER: Final = "Shell cmd plugin"
_INTERRUPTED: Final = -1073741510  # STATUS_CONTROL_C_EXIT as a signed number


@dataclass
class _Command:
    """A command of a shell: running until ``result`` is there, done when all of it was received."""

    name: str
    ended: threading.Event = field(default_factory=threading.Event)
    result: CommandResult | None = None
    sent: dict[str, int] = field(default_factory=lambda: {"stdout": 0, "stderr": 0})
    finished: set[str] = field(default_factory=set)
    terminated: bool = False


@dataclass
class _Shell:
    name: str
    owner: str
    client: str
    born: float
    used: float
    command: _Command | None = None


class Shells:
    """The remote shells of one service. Safe to use from several threads."""

    def __init__(self, provider: Provider, settings: Settings) -> None:
        self._provider = provider
        self._settings = settings
        self._lock = threading.Lock()
        self._shells: dict[str, _Shell] = {}

    def answer(self, request: Request, owner: str, client: str) -> Reply:
        """Answer one of the shell's actions."""
        if request.resource_uri.lower() != CMD_SHELL:
            raise SoapFault(ACTION_NOT_SUPPORTED, "The action is not supported by the service.")
        if request.action == CREATE:
            return self._create(request, owner, client)
        shell = self._shell(request, owner)
        if request.action == COMMAND:
            return self._command(request, shell)
        if request.action == RECEIVE:
            return self._receive(request, shell)
        if request.action == SEND:
            self._named(shell, _child(request, "Send").find(tag(SHELL, "Stream")))
            return Reply(f"{SEND}Response", f'<rsp:SendResponse xmlns:rsp="{SHELL}"/>', "shell")
        if request.action == SIGNAL:
            return self._signal(request, shell)
        if request.action == DELETE:
            with self._lock:
                self._shells.pop(shell.name.lower(), None)
            if shell.command:
                self._stop(shell.command)
            return Reply(f"{DELETE}Response", "", "shell")
        raise SoapFault(ACTION_NOT_SUPPORTED, "The action is not supported by the service.")

    # --- shells -----------------------------------------------------------------------

    def _create(self, request: Request, owner: str, client: str) -> Reply:
        if request.body is None or request.body.tag != tag(SHELL, "Shell"):
            # Recorded on 2016; older hosts say SchemaValidationError.
            raise SoapFault(INVALID_PARAMETER, "The parameter is incorrect.", provider=_PROVIDER)
        now = clock.monotonic()
        with self._lock:
            self._forget_idle(now)
            if (
                sum(each.owner == owner for each in self._shells.values())
                >= self._settings.max_shells_per_user
            ):
                raise SoapFault(MAX_SHELLS, "The user has reached the maximum of concurrent shells.")
            owners = {each.owner for each in self._shells.values()} | {owner}
            if len(owners) > self._settings.max_concurrent_users:
                raise SoapFault(MAX_SHELL_USERS, "Too many users have shells.")
            shell = _Shell(str(uuid.uuid4()).upper(), owner, client, now, now)
            self._shells[shell.name.lower()] = shell
        idle = self._settings.shell_idle_timeout_ms / 1000
        body = (
            f"<x:ResourceCreated><a:Address>{ANONYMOUS}</a:Address><a:ReferenceParameters>"
            f"<w:ResourceURI>{CMD_SHELL}</w:ResourceURI><w:SelectorSet>"
            f'<w:Selector Name="ShellId">{shell.name}</w:Selector></w:SelectorSet></a:ReferenceParameters>'
            f'</x:ResourceCreated><rsp:Shell xmlns:rsp="{SHELL}"><rsp:ShellId>{shell.name}</rsp:ShellId>'
            f"<rsp:ResourceUri>{CMD_SHELL}</rsp:ResourceUri><rsp:Owner>{text(owner)}</rsp:Owner>"
            f"<rsp:ClientIP>{text(client)}</rsp:ClientIP><rsp:IdleTimeOut>PT{idle:.3f}S</rsp:IdleTimeOut>"
            "<rsp:InputStreams>stdin</rsp:InputStreams><rsp:OutputStreams>stdout stderr</rsp:OutputStreams>"
            "<rsp:ShellRunTime>P0DT0H0M0S</rsp:ShellRunTime>"
            "<rsp:ShellInactivity>P0DT0H0M0S</rsp:ShellInactivity></rsp:Shell>"
        )
        return Reply(f"{TRANSFER}/CreateResponse", body, "shell")

    def _forget_idle(self, now: float) -> None:
        oldest = now - self._settings.shell_idle_timeout_ms / 1000
        for name in [name for name, each in self._shells.items() if each.used < oldest]:
            del self._shells[name]

    def _shell(self, request: Request, owner: str) -> _Shell:
        named = [str(value) for name, value in request.selectors if name.lower() == "shellid"]
        with self._lock:
            self._forget_idle(clock.monotonic())
            found = self._shells.get(named[0].strip().lower()) if named else None
            if found is None or found.owner != owner:
                raise SoapFault(UNEXPECTED_SELECTORS, "The selectors name no shell.")
            found.used = clock.monotonic()
            return found

    # --- commands -----------------------------------------------------------------------

    def _command(self, request: Request, shell: _Shell) -> Reply:
        line = _child(request, "CommandLine")
        command = (line.findtext(tag(SHELL, "Command")) or "").strip()
        arguments = [each.text or "" for each in line.findall(tag(SHELL, "Arguments"))]
        name = line.get("CommandId", "") or str(uuid.uuid4()).upper()
        fresh = _Command(name)
        with self._lock:
            if shell.command and not shell.command.terminated:
                # The former command needs the signal terminate first ([MS-WSMV] n. 121).
                raise SoapFault(QUOTA_LIMIT, "The shell already has a command.", provider=_PROVIDER)
            shell.command = fresh
        threading.Thread(
            target=self._run, args=(fresh, command, arguments), name=f"winrs {name}", daemon=True
        ).start()
        body = (
            f'<rsp:CommandResponse xmlns:rsp="{SHELL}"><rsp:CommandId>{text(name)}</rsp:CommandId>'
            "</rsp:CommandResponse>"
        )
        return Reply(f"{COMMAND}Response", body, "shell")

    def _run(self, command: _Command, line: str, arguments: list[str]) -> None:
        try:
            result = self._provider.run_command(line, arguments)
        except Exception as error:  # noqa: BLE001 - the model's mistake must reach the client, not a dead thread
            result = CommandResult(b"", f"the lab failed: {error!r}\r\n".encode(), 1)
        with self._lock:
            if command.result is None:
                command.result = result
        command.ended.set()

    def _stop(self, command: _Command) -> None:
        with self._lock:
            if command.result is None:
                command.result = CommandResult(exit_code=_INTERRUPTED)
        command.ended.set()

    def _named(self, shell: _Shell, element: Element | None) -> _Command:
        name = "" if element is None else element.get("CommandId", "").strip()
        if not name:
            raise SoapFault(NO_COMMAND, "The request names no command.", provider=_PROVIDER)
        command = shell.command
        if command is None or command.name.lower() != name.lower() or command.terminated:
            raise SoapFault(INVALID_PARAMETER, "The parameter is incorrect.", provider=_PROVIDER)
        return command

    def _receive(self, request: Request, shell: _Shell) -> Reply:
        wanted = _child(request, "Receive").find(tag(SHELL, "DesiredStream"))
        command = self._named(shell, wanted)
        if not command.ended.wait(request.timeout_s) or command.result is None:
            raise SoapFault(OPERATION_TIMED_OUT, "The operation timed out before there was output.")
        result = command.result
        # base64 needs a third more, and the envelope something too.
        room = min(BLOCK_BYTES, request.max_envelope_bytes // 2)
        rows: list[str] = []
        with self._lock:
            for stream, data in (("stdout", result.stdout), ("stderr", result.stderr)):
                start = command.sent[stream]
                block = data[start : start + room]
                room -= len(block)
                command.sent[stream] = start + len(block)
                said = f'Name="{stream}" CommandId={attribute(command.name)}'
                if block:
                    rows.append(f"<rsp:Stream {said}>{base64.b64encode(block).decode()}</rsp:Stream>")
                if command.sent[stream] == len(data) and stream not in command.finished:
                    command.finished.add(stream)
                    rows.append(f'<rsp:Stream {said} End="true"></rsp:Stream>')
            done = len(command.finished) == 2
        state = "Done" if done else "Running"
        code = f"<rsp:ExitCode>{_signed(result.exit_code)}</rsp:ExitCode>" if done else ""
        rows.append(
            f"<rsp:CommandState CommandId={attribute(command.name)} State="
            f'"{SHELL}/CommandState/{state}">{code}</rsp:CommandState>'
        )
        body = f'<rsp:ReceiveResponse xmlns:rsp="{SHELL}">{"".join(rows)}</rsp:ReceiveResponse>'
        return Reply(f"{RECEIVE}Response", body, "shell")

    def _signal(self, request: Request, shell: _Shell) -> Reply:
        asked = _child(request, "Signal")
        command = self._named(shell, asked)
        code = (asked.findtext(tag(SHELL, "Code")) or "").strip().lower()
        if code not in {f"{SHELL}/signal/{name}" for name in ("terminate", "ctrl_c", "ctrl_break")}:
            raise SoapFault(INVALID_PARAMETER, "The parameter is incorrect.", provider=_PROVIDER)
        self._stop(command)
        command.terminated = code.endswith("/terminate")
        return Reply(f"{SIGNAL}Response", f'<rsp:SignalResponse xmlns:rsp="{SHELL}"/>', "shell")


def _child(request: Request, name: str) -> Element:
    if request.body is None or request.body.tag != tag(SHELL, name):
        raise SoapFault(INVALID_PARAMETER, "The parameter is incorrect.", provider=_PROVIDER)
    return request.body


def _signed(code: int) -> int:
    """Return an exit code as the signed number that goes over the wire."""
    return code - (1 << 32) if code >= 1 << 31 else code
