"""A command imports what it needs, and typer's values come out the same without its validation library."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

import vmkeep
import vmkeep.cli
import vmkeep.cli.plain_values

pytestmark = pytest.mark.quick

_LARGE = ("pydantic", "ssl", "http.client", "urllib.request", "rich")


@pytest.mark.parametrize(
    "arguments", [["points", "-r", "nowhere"], ["backup", "disk:none", "-r", "nowhere"], ["--version"]]
)
def test_short_commands_import_nothing_large(arguments: list[str], tmp_path: Path) -> None:
    script = (
        "import sys\nfrom vmkeep.cli import main\n"
        f"main({arguments!r})\nprint([name for name in {_LARGE!r} if name in sys.modules])"
    )
    source = str(Path(vmkeep.__file__).parents[1])
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": source, "VMKEEP_PASSWORD": "x"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.splitlines()[-1] == "[]", ended.stdout


class Colour(StrEnum):
    red = "red"
    blue = "blue"


def _sample(seen: list[object]) -> Callable[..., None]:
    def sample(
        word: str,
        other: Annotated[str | None, typer.Option()] = None,
        path: Annotated[Path | None, typer.Option()] = None,
        present: Annotated[Path | None, typer.Option(exists=True)] = None,
        count: Annotated[int, typer.Option(min=1)] = 5,
        colour: Annotated[Colour | None, typer.Option()] = None,
        flag: Annotated[bool, typer.Option("--flag")] = False,
        many: Annotated[list[Path] | None, typer.Option()] = None,
        parsed: Annotated[str, typer.Option(parser=str.upper)] = "",
    ) -> None:
        seen.extend([word, other, path, present, count, colour, flag, many, parsed])

    return sample


def _run(*arguments: str) -> list[Any]:
    seen: list[Any] = []
    app = typer.Typer()
    app.command()(_sample(seen))
    typer.main.get_command(app).main(list(arguments), standalone_mode=False)
    return seen


def test_values_have_the_types_that_were_declared() -> None:
    assert _run("w") == ["w", None, None, None, 5, None, False, None, ""]
    given = ("--other", "", "--path", "p/q", "--count", "7", "--colour", "blue", "--flag", "--many", "a")
    seen = _run("w", *given, "--many", "b", "--parsed", "abc")
    assert seen == ["w", "", Path("p/q"), None, 7, Colour.blue, True, [Path("a"), Path("b")], "ABC"]
    assert isinstance(seen[2], Path)


@pytest.mark.parametrize(
    "wrong", [["--count", "x"], ["--count", "0"], ["--colour", "green"], ["--present", "not/there"]]
)
def test_wrong_values_are_refused(wrong: list[str]) -> None:
    with pytest.raises(typer.BadParameter):
        _run("w", *wrong)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_modules_are_imported_ends_without_a_word(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    # The library stands in the way of everything that follows, and lets nobody pass.
    (tmp_path / "typer.py").write_text("print('importing', flush=True)\ninput()\n")
    source = str(Path(vmkeep.__file__).parents[1])
    started = subprocess.Popen(
        [sys.executable, "-m", "vmkeep", "points"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{source}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "importing\n"
    started.send_signal(number)
    _, said = started.communicate(timeout=60)
    assert (started.returncode, said) == (code, "")


def test_handlers_of_whoever_calls_main_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert vmkeep.cli.main(["--version"]) == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
