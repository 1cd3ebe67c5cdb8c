"""A program that is forked for a test cannot be told from one that was started."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.command import Vmkeep
from tests.forked import Forked, Program

pytestmark = pytest.mark.quick

SAMPLE = """
import atexit, os, sys, threading
from concurrent.futures import ThreadPoolExecutor

def main():
    print(sys.argv[1:], os.getcwd(), sorted(os.environ), sys.stdin.read(), sys.stdout.encoding)
    print(threading.active_count(), sys.stdout.isatty(), sys.stdout.errors, file=sys.stderr)
    atexit.register(print, "at the end")
    match sys.argv[1]:
        case "open":
            return [open(__file__)] and 0
        case "circle":
            circle = [open(__file__)]
            circle.append(circle)
        case "pool":
            ThreadPoolExecutor(1).submit(print, "from a thread")
        case "raise":
            raise KeyError("raised")
        case "exit":
            sys.exit("exited")
        case "kill":
            os.kill(os.getpid(), 9)
    return 7
"""


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """A program that does what may come out differently."""
    folder = tmp_path_factory.mktemp("sample")
    (folder / "sample_program.py").write_text(SAMPLE)
    environment = {"PYTHONPATH": str(folder), "PYTHONWARNINGS": "error", "LANG": "C.UTF-8"}
    return Program("sample_program", ("sample_program",), tuple(environment.items()))


@pytest.mark.parametrize("what", ["nothing", "open", "circle", "pool", "raise", "exit", "kill"])
def test_what_it_says_and_how_it_ends_are_the_same(sample: Program, tmp_path: Path, what: str) -> None:
    pipe = subprocess.PIPE
    how: dict[str, Any] = {"stdin": pipe, "stdout": pipe, "stderr": pipe, "cwd": tmp_path}
    environment = {**dict(sample.environment), "VMKEEP_X": "ü"}
    found = []
    for process in (
        Forked(sample, [what, "ü"], env=environment, **how),
        subprocess.Popen([*sample.anew, what, "ü"], env=environment, **how),
    ):
        out, err = process.communicate("ß".encode(), timeout=60)
        # Line numbers of what stands around the program differ, and who still had the open file.
        said = [line for line in err.decode().splitlines() if not line.startswith((" ", "Traceback"))]
        found.append((process.returncode, out.decode(), [line for line in said if "ignored" not in line]))
    assert found[0] == found[1]
    codes = {"nothing": 7, "open": 0, "circle": 7, "pool": 7, "raise": 1, "exit": 1, "kill": -signal.SIGKILL}
    assert found[0][0] == codes[what]
    warned = [line for line in found[0][2] if line.startswith("ResourceWarning")]
    assert len(warned) == (what in ("open", "circle"))


@pytest.mark.parametrize(
    "arguments", [["--version"], ["points"], ["backup"], ["no-such"], ["repo", "check", "--json"]]
)
def test_vmkeep_answers_the_same(tmp_path: Path, arguments: list[str]) -> None:
    vmkeep = Vmkeep(tmp_path, tmp_path / "nowhere")
    assert vmkeep(*arguments) == vmkeep(*arguments, env={"PYTHONHASHSEED": "0"})


def test_it_is_a_child_of_ours(sample: Program, tmp_path: Path) -> None:
    pipe = subprocess.PIPE
    with Forked(
        sample, ["nothing"], env=dict(sample.environment), stdin=pipe, stdout=pipe, stderr=pipe
    ) as process:
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert f"PPid:\t{os.getpid()}\n" in status
        process.terminate()
    assert process.returncode == -signal.SIGTERM
