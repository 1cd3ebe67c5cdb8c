"""Start the programs under test in processes of their own, without importing everything each time.

Every worker of the tests keeps one process for each program, which has imported it and done nothing else
(tests/fork_server.py); a start forks it. What is started is a child of this process like any other:
its arguments, environment, folder and streams are its own, and so is how it ends.
"""

import atexit
import ctypes
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

_SERVER: Final = Path(__file__).with_name("fork_server.py")
SOURCE_ROOT: Final = Path(__file__).parents[1] / "src"
_SET_CHILD_SUBREAPER: Final = 36  # prctl(2)
_PATIENCE_S: Final = 60
_ONE_AT_A_TIME: Final = threading.Lock()
# All others are the same for all that are forked: an interpreter heeds them when it starts.
_FREE: Final = ("VMKEEP_", "HOME", "TMPDIR", "TZ", "XDG_")


@dataclass(frozen=True)
class Program:
    """A program: the module whose ``main`` it is, what a start imports on its way, its environment."""

    module: str
    imports: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]

    @property
    def anew(self) -> list[str]:
        """The command that starts it in an interpreter of its own."""
        return [sys.executable, "-c", f"import sys; from {self.module} import main; sys.exit(main())"]

    def can_fork(self, environment: Mapping[str, str]) -> bool:
        """Tell whether an environment differs from this only in what is read when it is used."""
        return _fixed(environment) == _fixed(dict(self.environment))


def _fixed(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in environment.items() if not name.startswith(_FREE)}


VMKEEP: Final = Program(
    "vmkeep.cli",
    (
        "cryptography.hazmat.backends.openssl.backend",
        "encodings.idna",
        "vmkeep.backup.host_run",
        "vmkeep.backup.host_sweep",
        "vmkeep.backup.run",
        "vmkeep.cli.app",
        "vmkeep.cli.host_backup",
        "vmkeep.cli.plain_values",
        "vmkeep.host.files.host_files",
        "vmkeep.host.wsman",
        "vmkeep.repository.examine.keyed",
        "vmkeep.restore.files",
    ),
    (
        ("PATH", os.environ["PATH"]),
        ("PYTHONPATH", str(SOURCE_ROOT)),
        # A file left open or a use of what will be removed is a defect: it shows on standard error.
        ("PYTHONWARNINGS", "error"),
        ("LANG", "C.UTF-8"),
    ),
)
# The same with something happening in the middle of it.
MEETING: Final = Program(
    "tests.faults.cli.meeting",
    (*VMKEEP.imports, "tests.faults.cli.meeting"),
    (*VMKEEP.environment, ("PYTHONPATH", f"{SOURCE_ROOT}{os.pathsep}{SOURCE_ROOT.parent}")),
)
LAB: Final = Program("vmkeep_lab.__main__", ("vmkeep_lab.__main__",), tuple(os.environ.items()))


class Forked(subprocess.Popen[Any]):
    """A started process, as subprocess starts one, but for the way it came to be."""

    def __init__(self, program: Program, arguments: Sequence[str], **how: Any) -> None:
        self._program = program
        super().__init__(list(arguments), **how)

    def _execute_child(self, *given: Any) -> None:
        """Do what subprocess does between making the pipes and closing the child's ends of them."""
        arguments, folder, environment, ends = given[0], given[5], given[6], given[10:16]
        streams = [end if end != -1 else number for number, end in enumerate(ends[n] for n in (0, 3, 5))]
        order = {
            "arguments": arguments,
            "folder": str(folder or Path.cwd()),
            "environment": dict(os.environ if environment is None else environment),
        }
        with _ONE_AT_A_TIME:
            self.pid = _server(self._program).fork(order, streams)
        self._child_created = True
        self._close_pipe_fds(*ends)  # type: ignore[attr-defined]


class _Server:
    """The process that is forked."""

    def __init__(self, program: Program) -> None:
        # Who is forked twice becomes our child once its parent has ended.
        assert ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SERVER.read_text("utf-8"), str(theirs.fileno()), program.module]
                + list(program.imports),
                env=dict(program.environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._answers = self._control.makefile("rb")
        assert self._answers.readline() == b"ready\n", f"{program.module} cannot be imported"
        atexit.register(self.close)

    def fork(self, order: Mapping[str, Any], streams: Sequence[int]) -> int:
        """Let a child obey an order with these standard streams; return its process id."""
        text = json.dumps(order).encode() + b"\n"
        sent = socket.send_fds(self._control, [text], streams)
        self._control.sendall(text[sent:])
        return int(self._answers.readline())

    def close(self) -> None:
        self._answers.close()
        self._control.close()
        self._process.wait(_PATIENCE_S)


@cache
def _server(program: Program) -> _Server:
    return _Server(program)
