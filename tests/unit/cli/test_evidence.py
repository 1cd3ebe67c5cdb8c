"""What is said of a point's evidence claims no more than the evidence holds."""

import re
from pathlib import Path

import pytest

from vmkeep.cli import evidence as room
from vmkeep.cli.evidence import audit_lines, inherited_lines, reread_of

pytestmark = pytest.mark.quick


def _evidence(**inherited: object) -> dict[str, object]:
    audit = {"chunks": 3, "of": 3, "seed": "00", "confidence": 0.95, "at_most": 0.0, "replaced_packs": []}
    return {"reread_audit": audit | ({"inherited": inherited} if inherited else {})}


@pytest.mark.parametrize(
    "evidence", [{}, {"reread_audit": None}, _evidence(), _evidence(chunks=0, of=0, at_most=0.0)]
)
def test_nothing_is_said_of_what_was_not_taken_over(evidence: dict[str, object]) -> None:
    assert inherited_lines(evidence) == []
    assert not any("taken over" in line for line in audit_lines(evidence))


def test_what_the_audit_read_stands_behind_what_was_read() -> None:
    evidence = _evidence()
    assert reread_of(evidence) == ""
    evidence["reread_audit"] = {"bytes_read": 3 << 20}
    assert reread_of(evidence) == " (and 3.0 MiB for the audit)"


def test_a_sample_that_found_nothing_claims_nothing() -> None:
    [line] = inherited_lines(_evidence(chunks=0, of=12345, at_most=1.0))
    assert line.startswith(
        "nothing of what was taken over from the parent was read back (at most 12345 chunks)"
    )
    assert "whole" not in line


def test_shares_are_rounded_up() -> None:
    [line] = inherited_lines(_evidence(chunks=300, of=99_999, at_most=0.009936))
    assert "300 of at most 99999 chunks were read back" in line
    assert "at most 1.00 % of it can be damaged (95% confidence); the source was not read" in line
    assert line in audit_lines(_evidence(chunks=300, of=99_999, at_most=0.009936))


def test_that_the_source_was_read_is_told_where_it_was() -> None:
    [line] = inherited_lines(_evidence(chunks=300, of=99_999, at_most=0.01, compared_with_source=True))
    assert "equal to the source" in line and "not read" not in line


def test_every_reason_for_reading_all_has_words() -> None:
    """The codes as the rooms below spell them."""
    rooms = Path(room.__file__).parents[1]
    texts = [(rooms / name).read_text("utf-8") for name in ("planner/tracking.py", "capture/tracked.py")]
    codes = {code for text in texts for code in re.findall(r'"(rct-[a-z-]+)"', text)}
    assert codes == set(room.READ_ALL)


@pytest.mark.parametrize(
    ("read_back", "later", "why"),
    [
        ({"state": "impossible", "why": "the VM did not run"}, [], "the VM did not run"),
        ({"state": "pending"}, [], "ended before the host could confirm"),
        ({"state": "pending"}, [{"released": False}], "could not be released"),
        ({"state": "pending"}, [{"released": True}], "does not confirm it"),
        ({"state": "pending"}, [{"untracked": {"fact": "No point."}}], "No point"),
    ],
)
def test_why_a_level_is_not_proven(
    read_back: dict[str, str], later: list[dict[str, object]], why: str
) -> None:
    assert why in room.why_unproven({"read_back": read_back}, later)
