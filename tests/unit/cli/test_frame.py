"""What all commands share: text on a terminal, settings, sizes, places."""

import io
import signal
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from tests.clocks import FakeClock
from vmkeep import stopping
from vmkeep.cli import frame
from vmkeep.cli.progress import TerminalProgress
from vmkeep.cli.text import rounded, visible
from vmkeep.errors import UsageError, VmkeepError

pytestmark = pytest.mark.quick


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_nothing_visible_steers_a_terminal(text: str) -> None:
    shown = visible(text)
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    shown.encode("utf-8")


@pytest.mark.parametrize(
    "text", ["web server", "[red]x[/red]", "<b>", "\u30b5\u30fc\u30d0 \u00e4", "C:\\VMs"]
)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (64 << 20, "64.0 MiB"),
        (5 << 40, "5.0 TiB"), (5000 << 40, "5000.0 TiB"),
    ],
)  # fmt: skip
def test_sizes_as_people_read_them(size: int, text: str) -> None:
    assert rounded(size) == text


@pytest.mark.parametrize(
    ("arguments", "rest", "set_"),
    [
        (["-q", "points"], ["points"], {"quiet"}),
        (["points", "--debug", "-v"], ["points"], {"debug", "verbose"}),
        (["points", "--json"], ["points", "--json"], {"json"}),
        (["points", "--no-color", "--quiet", "--verbose"], ["points"], {"no_color", "quiet", "verbose"}),
        (["show", "--", "-q", "--json"], ["show", "--", "-q", "--json"], set()),
        (["backup", "--as=-q"], ["backup", "--as=-q"], set()),
    ],
)
def test_settings_are_taken_from_anywhere(arguments: list[str], rest: list[str], set_: set[str]) -> None:
    assert frame._take_settings(arguments) == rest
    assert {name for name, value in vars(frame.settings).items() if value} == set_
    frame._take_settings([])
    assert not any(vars(frame.settings).values())


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"VMKEEP_STATE_DIR": "x/s", "XDG_STATE_HOME": "y", "HOME": "h"}, "x/s"),
        ({"XDG_STATE_HOME": "y", "HOME": "h"}, "y/vmkeep"),
        ({"HOME": "h"}, "h/.local/state/vmkeep"),
    ],
)
def test_where_this_machine_keeps_its_memory(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    environment: dict[str, str],
    expected: str,
) -> None:
    for name in ("VMKEEP_STATE_DIR", "XDG_STATE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, place in environment.items():
        monkeypatch.setenv(name, str(tmp_path / place))
    assert frame.state_folder() == tmp_path / expected
    assert (tmp_path / expected).is_dir()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("place", [None, "file/below"])
def test_a_machine_without_a_place_for_its_memory_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, place: str | None
) -> None:
    (tmp_path / "file").write_bytes(b"")
    for name in ("VMKEEP_STATE_DIR", "XDG_STATE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    if place is not None:
        monkeypatch.setenv("VMKEEP_STATE_DIR", str(tmp_path / place))
    assert frame.state_folder() is None
    said = capsys.readouterr().err
    assert "would go unnoticed" in said and "VMKEEP_STATE_DIR" in said


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"VMKEEP_CACHE_DIR": "/x/c", "XDG_CACHE_HOME": "/y", "HOME": "/h"}, Path("/x/c")),
        ({"XDG_CACHE_HOME": "/y", "XDG_STATE_HOME": "/z", "HOME": "/h"}, Path("/y/vmkeep")),
        ({"VMKEEP_STATE_DIR": "/x/s", "HOME": "/h"}, Path("/h/.cache/vmkeep")),
        ({}, None),
    ],
)
def test_where_this_machine_keeps_what_saves_time(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: Path | None
) -> None:
    for name in ("VMKEEP_CACHE_DIR", "XDG_CACHE_HOME", "VMKEEP_STATE_DIR", "XDG_STATE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert frame.cache_folder() == expected


def test_progress_shows_share_rate_and_what_is_left() -> None:
    out, clock = io.StringIO(), FakeClock()
    progress = TerminalProgress(out, clock, color=False)
    progress.begin("reading w\x1b[31m", 100 << 20)
    clock.advance(10)
    progress.advance(25 << 20)
    line = out.getvalue().rpartition("\x1b[K")[2]
    assert "25%" in line and "25.0 MiB" in line and "2.5 MiB/s" in line and "0:30 left" in line
    assert "\x1b" not in line  # no colour was asked for, and the label has none of its own
    progress.end()
    assert out.getvalue().endswith("\r\x1b[K")


def test_progress_of_unknown_length_and_beyond_its_end() -> None:
    out, clock = io.StringIO(), FakeClock()
    progress = TerminalProgress(out, clock, color=True)
    progress.begin("reading", None)
    clock.advance(1)
    progress.advance(1 << 20)
    assert "1.0 MiB/s" in out.getvalue()
    progress.begin("reading", 10)
    clock.advance(1)
    progress.advance(20)
    assert "100%" in out.getvalue()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1", 1), ("90s", 90), ("90m", 5400), ("12h", 43_200), ("2d", 172_800), ("0.5h", 1800), ("1.5m", 90)],
)
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert frame.seconds_of(text, "--max-hold") == seconds


@pytest.mark.parametrize(
    "text",
    ["", "0", "0h", "-1h", "+1h", "h", "1w", "1 h", "1h30m", "1e3", "nan", "inf", "\u0661h", "1H", "1h\n"],
)
def test_what_is_no_length_of_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="--max-hold takes a length of time such as 90m") as refused:
        frame.seconds_of(text, "--max-hold")
    assert repr(text) in refused.value.message


def failing(note: str) -> VmkeepError:
    error = VmkeepError("the host is away.")
    error.add_note(note)
    return error


def at_an_error(note: str) -> None:
    """Be stopped while an error with a note ends what holds signals back."""
    with stopping.held_back():
        signal.raise_signal(signal.SIGTERM)
        raise failing(note)


def at_a_handled_error(note: str) -> None:
    """Be stopped while somebody sees to an error with a note."""
    try:
        raise failing(note)
    except VmkeepError:
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("work", [at_an_error, at_a_handled_error])
def test_a_stop_tells_what_the_error_under_way_had_to_say(
    work: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer()
    app.command()(lambda: work("left behind: one"))
    assert frame.run_app(app, []) == 143
    told = capsys.readouterr().err
    assert told.startswith("vmkeep: interrupted; nothing half-written counts.")
    assert told.count("left behind: one") == 1


def test_a_stop_that_leaves_nothing_says_so_and_handlers_are_put_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = [signal.getsignal(number) for number in stopping.SIGNALS]
    app = typer.Typer()
    app.command()(lambda: signal.raise_signal(signal.SIGINT))
    assert frame.run_app(app, []) == 130
    assert "nothing of it stays open or held" in capsys.readouterr().err
    assert [signal.getsignal(number) for number in stopping.SIGNALS] == before
