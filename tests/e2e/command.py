"""Run the vmkeep command as a user would: another process, in an environment that holds nothing else."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.forked import VMKEEP, Forked, Program

# No output, no stored byte and no file may ever show it.
CANARY: Final = "canary-7Hq2-parole"
_TIMEOUT_S: Final = 120
# What -v tells of each step: how long it took, and what it was.
_STEP: Final = re.compile(r" *[0-9]+\.[0-9] s  \S.*")


@dataclass(frozen=True)
class Result:
    """How one command ended."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode("utf-8")

    @property
    def json(self) -> Any:
        """The one JSON document on standard output."""
        return json.loads(self.out)


class Vmkeep:
    """The program, started in ``folder`` with its memory in ``folder``/state and the repository ``repo``."""

    def __init__(self, folder: Path, repo: Path, *, state: Path | None = None) -> None:
        self.folder = folder
        self.repo = repo
        self.state = state or folder / "state"

    def environment(self, changes: Mapping[str, str | None] | None = None) -> dict[str, str]:
        given: dict[str, str | None] = {
            **dict(VMKEEP.environment),
            "HOME": str(self.folder),
            "VMKEEP_STATE_DIR": str(self.state),
            "VMKEEP_CACHE_DIR": str(self.folder / "cache"),
            "VMKEEP_REPO": str(self.repo),
            "VMKEEP_PASSWORD": CANARY,
            **(changes or {}),
        }
        return {name: value for name, value in given.items() if value is not None}

    def start(
        self,
        *arguments: object,
        env: Mapping[str, str | None] | None = None,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.PIPE,
        before_exec: Callable[[], None] | None = None,
        program: Program | Sequence[str] = VMKEEP,
    ) -> "subprocess.Popen[bytes]":
        """Start a command and return the running process, forked where that shows no difference."""
        words = [str(each) for each in arguments]
        how: dict[str, Any] = {
            "cwd": self.folder,
            "stdin": stdin,
            "stdout": stdout,
            "stderr": subprocess.PIPE,
        }
        if isinstance(program, Program):
            environment = self.environment({**dict(program.environment), **(env or {})})
            is_plain = before_exec is None and not any(map(_is_terminal, (stdin, stdout)))
            if is_plain and program.can_fork(environment):
                return Forked(program, words, env=environment, **how)
            command = [*program.anew, *words]
        else:
            environment, command = self.environment(env), [sys.executable, *program, *words]
        return subprocess.Popen(command, env=environment, preexec_fn=before_exec, **how)

    def __call__(
        self,
        *arguments: object,
        env: Mapping[str, str | None] | None = None,
        stdin: bytes | None = None,
        before_exec: Callable[[], None] | None = None,
    ) -> Result:
        """Run a command to its end. Whatever it does, no password shows, and no traceback unless asked."""
        process = self.start(
            *arguments,
            env=env,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            before_exec=before_exec,
        )
        try:
            out, err = process.communicate(stdin, timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            raise
        assert CANARY.encode() not in out + err, "the password was printed"
        if "--debug" not in arguments:
            assert b"Traceback" not in err, err.decode()
        return Result(process.returncode, out, err.decode("utf-8", "replace"))

    def ok(
        self, *arguments: object, env: Mapping[str, str | None] | None = None, stdin: bytes | None = None
    ) -> Result:
        """Run a command that must succeed and say nothing on standard error."""
        result = self(*arguments, env=env, stdin=stdin)
        assert (result.code, result.err) == (0, ""), (arguments, result)
        return result

    def tells(self, *arguments: object) -> Result:
        """Run a command that must succeed and tell its steps on standard error, each a line, nothing else."""
        result = self(*arguments)
        *lines, end = result.err.split("\n")
        assert (result.code, end) == (0, "") and lines, (arguments, result)
        assert all(map(_STEP.fullmatch, lines)), (arguments, result)
        return result

    def fails(
        self,
        code: int,
        *arguments: object,
        says: str = "",
        env: Mapping[str, str | None] | None = None,
        stdin: bytes | None = None,
        before_exec: Callable[[], None] | None = None,
    ) -> Result:
        """Run a command that must fail with ``code``, one sentence that holds ``says``, and one hint."""
        result = self(*arguments, env=env, stdin=stdin, before_exec=before_exec)
        assert result.code == code, (arguments, result)
        lines = result.err.splitlines()
        assert len(lines) == 2, result.err
        assert lines[0].startswith("vmkeep: ") and lines[0].endswith((".", "?")), result.err
        assert lines[1].startswith("        ") and lines[1].strip(), result.err
        assert says in lines[0], result.err
        return result

    def backup(self, source: object, *options: object) -> Any:
        """Take a restore point; return the run's summary."""
        return self.ok("backup", source, "--json", *options).json

    def points(self, *arguments: object) -> Any:
        """Return the list of restore points as `points --json` tells it."""
        return self.ok("points", "--json", *arguments).json

    def restore_raw(self, point: str, *options: object) -> bytes:
        """Return the bytes of a restore point's disk as `restore --to -` writes them."""
        return self.ok("restore", point, "--to", "-", *options).out

    def check_all(self) -> None:
        """Read and verify the whole repository; there must be no finding at all."""
        report = self.ok("repo", "check", self.repo, "--read-data", "all", "--json").json
        assert (report["ok"], report["problems"]) == (True, [])


def _is_terminal(stream: int) -> bool:
    return stream >= 0 and os.isatty(stream)
