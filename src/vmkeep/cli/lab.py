"""`vmkeep lab`: start a simulated Hyper-V host, to try vmkeep without one.

The lab is a program of its own: nothing of it is imported, it is started.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Annotated, Any, Final

import typer

from vmkeep.cli.frame import AsJson, answer, settings, until_stopped
from vmkeep.cli.text import visible
from vmkeep.errors import VmkeepError

app = typer.Typer(help="Simulate a Hyper-V host.", no_args_is_help=True, rich_markup_mode=None)
_PATIENCE_S: Final = 30.0
_LONGEST_LINE: Final = 1 << 16


class LabFailed(VmkeepError):
    """The simulated host did not start, or ended by itself."""

    code = "VK023"
    default_hint = (
        "`python -m vmkeep_lab scenarios` lists the scenarios; choose a free port and a writable folder."
    )


@app.command("serve")
def serve(
    scenario: Annotated[
        str, typer.Option("--scenario", metavar="NAME", help="A scenario's name, or a .toml file.")
    ] = "demo",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Where to listen; 0: any free port.")
    ] = 0,
    state: Annotated[
        Path | None,
        typer.Option(
            "--state", metavar="DIR", help="The folder that holds the host; it is there again next time."
        ),
    ] = None,
    https: Annotated[
        bool, typer.Option("--https", help="Speak HTTPS with a certificate of its own.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Simulate a Hyper-V host on 127.0.0.1 until Ctrl+C.

    Standard output gets the host's block for the configuration (docs/rights.md), and nothing else. Without
    --state the host lies in a temporary folder, which is removed at the end. What the lab is and what
    scenarios there are: docs/lab.md.
    Exit codes: 0 stopped by Ctrl+C or SIGTERM; 1 it could not start, or ended by itself.
    """
    with until_stopped(), _folder(state) as folder, _running(scenario, port, folder, https=https) as lab:
        facts, process = lab
        answer(facts, facts["config"].rstrip("\n").split("\n"))
        sys.stdout.flush()
        end = "" if state else ", which goes at the end"
        _tell(f"{facts['name']} runs in {folder}{end}; stop it with Ctrl+C.")
        process.wait()
        raise LabFailed(f"the simulated host ended by itself, with exit code {process.returncode}.")


@contextmanager
def _folder(state: Path | None) -> Iterator[Path]:
    if state is not None:
        yield state
        return
    with TemporaryDirectory(prefix="vmkeep-lab-") as folder:
        yield Path(folder)


@contextmanager
def _running(
    scenario: str, port: int, state: Path, *, https: bool
) -> Iterator[tuple[dict[str, Any], "subprocess.Popen[str]"]]:
    """Start the lab and yield what it says of itself; end it by closing its standard input."""
    # -P: what lies in the current folder is not imported in the lab's place.
    command = [sys.executable, "-P", "-m", "vmkeep_lab", "serve", f"--scenario={scenario}"]
    command += [f"--state={state}", f"--port={port}", *(["--https"] if https else [])]
    with TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            encoding="utf-8",
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


def _reason(complaints: str) -> str:
    """Return the last line a program wrote, without its name."""
    lines = complaints.strip().splitlines() or ["it does not say why"]
    return lines[-1].removeprefix("vmkeep_lab: ").rstrip(".")


def _tell(line: str) -> None:
    """Print a line for people beside the result."""
    if not settings.quiet and not settings.json:
        print(visible(line), file=sys.stderr, flush=True)
