"""Write what the checks of a host found as Markdown that can be shown to others."""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from vmkeep import __version__
from vmkeep.cli.host_verdicts import Check
from vmkeep.cli.text import visible

# Tells reports from other files, those of earlier versions, too (cli/report_file.py).
TITLE: Final = "# A Hyper-V host, as vmkeep sees it"
# What Markdown would obey, in a table's cell or out of one.
_OBEYED: Final = re.compile(r"([\\`*_\[\]<>|#&])")


def report_of(checks: Sequence[Check], summary: str, now: datetime) -> str:
    """Return the report: states, facts and hints; no name, path or text that could hold one."""
    return "\n".join(_lines(checks, summary, now)) + "\n"


def _lines(checks: Sequence[Check], summary: str, now: datetime) -> Iterator[str]:
    yield TITLE
    yield ""
    yield f"vmkeep {__version__}, {now:%Y-%m-%d}: {summary}"
    yield ""
    yield "| check | state | a yes means | fact | error |"
    yield "|---|---|---|---|---|"
    for check in checks:
        cells = (check.name, check.state, _plain(check.means), _plain(check.fact), check.error)
        yield f"| {' | '.join(cells)} |"
    hints: dict[str, list[str]] = {}
    for check in checks:
        if check.hint and check.state in {"refuted", "unknown"}:
            hints.setdefault(check.hint, []).append(check.name)
    if hints:
        yield ""
        yield "## What to do"
        yield ""
        yield from (f"- {', '.join(names)}: {_plain(hint)}" for hint, names in hints.items())
    beliefs = sorted(
        (row, check.state, check.name)
        for check in checks
        for row in check.beliefs
        if check.state != "skipped"
    )
    if beliefs:
        yield ""
        yield "## Rows of docs/believed.md"
        yield ""
        yield from (f"- row {row}: {state} by {name}" for row, state, name in beliefs)


def _plain(text: str) -> str:
    return _OBEYED.sub(r"\\\1", visible(text))
