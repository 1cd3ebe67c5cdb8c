"""What is waited for stays on one line of the terminal; a step is told when it has ended."""

import io

import pytest

from tests.clocks import FakeClock
from vmkeep.cli.progress import StepsTold, TerminalProgress
from vmkeep.progress import Silent

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("columns", [20, 80])
def test_a_long_label_does_not_wrap(
    columns: int, monkeypatch: pytest.MonkeyPatch, fake_clock: FakeClock
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    out = io.StringIO()
    progress = TerminalProgress(out, fake_clock, color=False)
    progress.begin("web-server: convert the checkpoint of " + "vmkeep " * 20, None)
    line = out.getvalue().removeprefix("\r\x1b[K")
    assert line.startswith("web-server: ") and line.endswith("… ...")
    assert len(line) == columns - 1
    progress.end()
    assert out.getvalue().endswith("\r\x1b[K")


def test_a_step_is_told_once_with_all_the_time_it_took(fake_clock: FakeClock) -> None:
    told: list[str] = []
    steps = StepsTold(Silent(), told.append, fake_clock)
    for label, seconds in [("web: merge", 1.0), ("web: merge (50 %)", 2.5), ("reading web", 4.0)]:
        steps.begin(label, None)
        steps.advance(1)
        fake_clock.sleep(seconds)
    assert told == ["     3.5 s  web: merge"]
    steps.end()
    steps.end()  # nothing is under way any more
    assert told[1:] == ["     4.0 s  reading web"]
