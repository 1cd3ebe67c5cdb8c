"""Run tools/read_repository.py on a repository and keep what it said."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PROGRAM = Path(__file__).parents[3] / "tools" / "read_repository.py"
PASSWORD = "correct horse"


@dataclass(frozen=True)
class Said:
    """Exit code, standard output and the lines about problems and notes."""

    code: int
    out: bytes
    problems: tuple[str, ...]
    notes: tuple[str, ...]


Read = Callable[..., Said]


def run_reader(repository: Path, *arguments: str, password: str | None = PASSWORD) -> Said:
    """Start the program as a person would, with the password in the environment."""
    environment = {key: value for key, value in os.environ.items() if key != "VMKEEP_PASSWORD"}
    if password is not None:
        environment["VMKEEP_PASSWORD"] = password
    command = [sys.executable, str(PROGRAM), str(repository), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=120)
    return said(done.returncode, done.stdout, done.stderr)


def said(code: int, out: bytes, err: bytes) -> Said:
    """Sort lines of standard error; a line that is neither problem nor note stays visible as a problem."""
    lines = err.decode().splitlines()
    notes = tuple(line.removeprefix("note: ") for line in lines if line.startswith("note: "))
    problems = tuple(line.removeprefix("problem: ") for line in lines if not line.startswith("note: "))
    return Said(code, out, problems, notes)
