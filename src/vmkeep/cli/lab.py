"""`vmkeep lab`: start a simulated Hyper-V host, to try vmkeep without one.

The lab is a program of its own: nothing of it is imported, it is started.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import TimeoutExpired
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from vmkeep.cli.frame import AsJson, answer, settings, until_stopped
from vmkeep.cli.programs import LabFailed, running_lab
from vmkeep.cli.text import visible
from vmkeep.clock import LOOK_S

app = typer.Typer(help="Simulate a Hyper-V host.", no_args_is_help=True, rich_markup_mode=None)


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
    with until_stopped(), _folder(state) as folder, running_lab(scenario, port, folder, https=https) as lab:
        facts, process = lab
        answer(facts, facts["config"].rstrip("\n").split("\n"))
        sys.stdout.flush()
        end = "" if state else ", which goes at the end"
        _tell(f"{facts['name']} runs in {folder}{end}; stop it with Ctrl+C.")
        # Never without an end: a signal right before the system call would be heard of only after it.
        while process.poll() is None:
            with suppress(TimeoutExpired):
                process.wait(LOOK_S)
        raise LabFailed(f"the simulated host ended by itself, with exit code {process.returncode}.")


@contextmanager
def _folder(state: Path | None) -> Iterator[Path]:
    if state is not None:
        yield state
        return
    with TemporaryDirectory(prefix="vmkeep-lab-") as folder:
        yield Path(folder)


def _tell(line: str) -> None:
    """Print a line for people beside the result."""
    if not settings.quiet and not settings.json:
        print(visible(line), file=sys.stderr, flush=True)
