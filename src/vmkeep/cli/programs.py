"""Start the programs that stand beside this one: the simulated host, its judge, and another vmkeep.

Nothing of the lab is imported: it is a process, reached over pipes and its control socket. Each program
gets this one's environment without its VMKEEP_ variables, and none outlives its ``with`` block.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Final, Self

from vmkeep.errors import VmkeepError

_PATIENCE_S: Final = 30.0
_JUDGING_S: Final = 600.0
_LONGEST_LINE: Final = 1 << 16
_LONGEST_ANSWER: Final = 64 << 20
# -P: what lies in the current folder is not imported in a program's place.
_PYTHON: Final = (sys.executable, "-P", "-m")


class LabFailed(VmkeepError):
    """The simulated host did not start, ended by itself, or did not do what it was asked."""

    code = "VK023"
    default_hint = (
        "`python -m vmkeep_lab scenarios` lists the scenarios; choose a free port and a writable folder."
    )


@contextmanager
def running_lab(
    scenario: str, port: int, state: Path, *, https: bool
) -> Iterator[tuple[dict[str, Any], "subprocess.Popen[str]"]]:
    """Start the lab and yield what it says of itself; end it by closing its standard input.

    A Ctrl+C at the terminal does not reach it: whoever holds a VM on it can let go first.
    """
    command = [*_PYTHON, "vmkeep_lab", "serve", f"--scenario={scenario}", f"--state={state}"]
    command += [f"--port={port}", *(["--https"] if https else [])]
    with TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            encoding="utf-8",
            env=_environment({}),
            start_new_session=True,
        )
        with process:
            assert process.stdin is not None and process.stdout is not None, "both are pipes"
            try:
                line = process.stdout.readline(_LONGEST_LINE)
                if not line:
                    process.wait(_PATIENCE_S)
                    complaints.seek(0)
                    raise LabFailed(f"the simulated host did not start: {_reason(complaints.read())}.")
                yield json.loads(line), process
            finally:
                process.stdin.close()
                try:
                    process.wait(_PATIENCE_S)
                except subprocess.TimeoutExpired:
                    process.kill()


class LabDoor:
    """The lab's control socket (docs/lab.md): what happens to a host that no client can make happen."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_PATIENCE_S)
        self._socket.connect(address)
        self._lines = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._lines.close()
        self._socket.close()

    def ask(self, do: str, **fields: object) -> dict[str, Any]:
        """Ask for something and return the answer. Raises LabFailed when it is refused."""
        self._socket.sendall(json.dumps({"do": do, **fields}).encode() + b"\n")
        line = self._lines.readline(_LONGEST_ANSWER)
        answer: dict[str, Any] = json.loads(line) if line else {"error": "it has ended"}
        if not answer.get("ok"):
            raise LabFailed(f"the simulated host refused {do!r}: {answer.get('error')}.")
        return answer


def judge(truth: Path, files: Sequence[Path]) -> dict[str, Any]:
    """Let the lab's judge compare restored disks with its own record of what the VMs' disks held.

    Its answer: ``identical``, and for each of ``restored`` its ``file`` and the lines of the truth it
    ``equals``. Raises LabFailed when it cannot judge.
    """
    done = subprocess.run(
        [*_PYTHON, "vmkeep_lab", "judge", f"--truth={truth}", "--", *map(str, files)],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=_environment({}),
        stdin=subprocess.DEVNULL,
        timeout=_JUDGING_S,
        check=False,
    )
    if not done.stdout:
        raise LabFailed(f"the lab cannot judge what was restored: {_reason(done.stderr)}.")
    answer: dict[str, Any] = json.loads(done.stdout)
    # Both say the same, or neither is believed.
    return {**answer, "identical": answer["identical"] is True and done.returncode == 0}


@contextmanager
def another_vmkeep(
    arguments: Sequence[str], environment: Mapping[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a vmkeep with ``environment`` for its only VMKEEP_ variables; it is killed at the end."""
    with subprocess.Popen(
        [*_PYTHON, "vmkeep", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=_environment(environment),
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def kill(process: "subprocess.Popen[bytes]") -> bool:
    """End a program as a power cut does, in the middle of whatever it does; False: it had ended already."""
    process.kill()
    return process.wait(_PATIENCE_S) == -signal.SIGKILL


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("VMKEEP_")}
    return {**inherited, **more}


def _reason(complaints: str) -> str:
    """Return the last line a program wrote, without its name."""
    lines = complaints.strip().splitlines() or ["it does not say why"]
    return lines[-1].removeprefix("vmkeep_lab: ").rstrip(".")
