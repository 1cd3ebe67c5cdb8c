"""What is said of a point's evidence claims no more than the evidence holds."""

import pytest

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
