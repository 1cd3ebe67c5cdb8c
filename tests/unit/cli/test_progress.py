"""What is waited for stays on one line of the terminal, so that it can be taken away again."""

import io

import pytest

from tests.clocks import FakeClock
from vmkeep.cli.progress import TerminalProgress

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
