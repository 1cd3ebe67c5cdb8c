"""Exit codes, the summary and the report of a host's checks; where they point to exists."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from vmkeep.cli import host_checks, host_folders, host_verdicts
from vmkeep.cli.host_report import report_of
from vmkeep.cli.host_verdicts import (
    Check,
    confirmed,
    exit_code_of,
    failed,
    judged,
    refuted,
    skipped,
    summary_of,
    unknown,
)
from vmkeep.host.files.errors import FileDenied, FileMissing
from vmkeep.host.hyperv import HyperVError, VmAmbiguous, VmNotFound
from vmkeep.host.wsman import HostBusy, LoginRefused, RightMissing

pytestmark = pytest.mark.quick

DOCS = Path(__file__).parents[3] / "docs"
NOW = datetime(2026, 3, 29, tzinfo=UTC)
YES, SKIP = confirmed("a", "m"), skipped("b", "m", "why")


@pytest.mark.parametrize(
    ("checks", "code"),
    [
        ([], 0),
        ([YES, SKIP], 0),
        ([YES, unknown("c", "m", "f", needed=False)], 0),
        ([YES, unknown("c", "m", "f")], 3),
        ([YES, refuted("c", "m", "f", needed=False)], 3),
        ([refuted("c", "m", "f"), unknown("d", "m", "f")], 1),
        ([failed("c", "m", FileMissing("x."))], 1),
        ([failed("c", "m", FileDenied("x.")), refuted("d", "m", "f")], 13),
        ([failed("c", "m", LoginRefused("x."))], 13),
        ([failed("c", "m", RightMissing("x."), needed=False)], 3),
        # A host that is busy has refuted nothing, unless vmkeep did not even get in.
        ([failed("c", "m", HostBusy("x."))], 3),
        ([failed("c", "m", HostBusy("x."), is_final=True)], 1),
        # As with `backup --vm`: what several VMs are called is a matter of the command line.
        ([failed("c", "m", VmAmbiguous("x.")), refuted("d", "m", "f")], 1),
        ([failed("c", "m", VmAmbiguous("x.")), failed("d", "m", FileDenied("x."))], 13),
    ],
)
def test_exit_codes(checks: list[Check], code: int) -> None:
    assert exit_code_of(checks) == code
    can = {0: "can work with this host (", 3: "can work", 1: "cannot work", 13: "cannot work"}[code]
    assert f"vmkeep {can}" in summary_of(checks)


@pytest.mark.parametrize(("error", "code"), [(VmNotFound("x."), 1), (VmAmbiguous("x."), 2)])
def test_a_name_that_means_no_single_vm_says_nothing_about_the_host(error: HyperVError, code: int) -> None:
    checks = [YES, failed("probe-vm", "m", error), SKIP]
    assert exit_code_of(checks) == code
    assert summary_of(checks) == (
        "no VM was probed: the name means none, or several; nothing else that a run needs is refuted "
        "(1 confirmed, 1 refuted, 0 unknown, 1 skipped)."
    )


def test_the_report_obeys_no_sign_and_says_a_hint_once() -> None:
    evil = "a|b <script> [x](y) `z` *b*\n# new \x1b[31m\u202e"
    hint = "do it"
    checks = [
        judged("one", "m", is_so=False, fact=evil, detail="SECRET-NAME", hint=hint, beliefs=(49,)),
        judged("two", "m", is_so=False, fact="f", hint=hint),
        confirmed("three", "m", beliefs=(41,)),
    ]
    told = report_of(checks, "sum", NOW)
    (row,) = [line for line in told.splitlines() if line.startswith("| one")]
    assert len(re.findall(r"(?<!\\)\|", row)) == 6  # five cells
    assert not re.search(r"(?<!\\)[<>`*\[\]]", row)
    assert not set(told) & {"\x1b", "\u202e", "\r"}
    assert "SECRET-NAME" not in told
    assert told.count(hint) == 1
    assert "- one, two: do it" in told
    assert "- row 41: confirmed by three\n- row 49: refuted by one\n" in told


def test_hints_point_to_sections_that_exist() -> None:
    headings = re.findall(r"^#+ (.+)$", (DOCS / "rights.md").read_text("utf-8"), re.MULTILINE)
    sections = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    named = {place for _, place in host_verdicts._RIGHTS}
    source = Path(str(host_checks.__file__)).read_text("utf-8")
    named |= set(re.findall(r"docs/rights\.md#([a-z0-9-]+)", source))
    assert len(named) > 3
    assert named <= sections


def test_beliefs_are_rows_about_what_is_checked() -> None:
    page = (DOCS / "believed.md").read_text("utf-8")
    where = dict(re.findall(r"^\| (\d+) \|[^|]+\| `([^`]+)`", page, re.MULTILINE))
    rows: set[str] = set()
    for file in (host_checks.__file__, host_folders.__file__):
        for found in re.findall(r"\((\d\d),\)", Path(str(file)).read_text("utf-8")):
            rows.add(found)
    assert rows == {"41", "49", "50", "52", "57", "60", "61"}
    assert all(where[row].startswith(("host/hyperv/", "host/wsman/", "host/files/")) for row in rows)
