"""Say in words what was proven while a restore point was taken."""

import math
from collections.abc import Mapping
from typing import Any


def audit_lines(evidence: Mapping[str, Any]) -> list[str]:
    """Return what the re-read audit shows, the claim first; empty where there was none."""
    audit = evidence.get("reread_audit")
    if not isinstance(audit, dict):
        return []
    replaced = audit.get("replaced_packs") or []
    lines = [_claim(audit), f"chosen by the seed {audit.get('seed')}"]
    return lines + [f"{pack} did not give back what is needed; it was stored again" for pack in replaced]


def _claim(audit: Mapping[str, Any]) -> str:
    chunks, of = int(audit.get("chunks", 0)), int(audit.get("of", 0))
    if not of:
        return "nothing was read, so nothing was read again"
    if chunks == of:
        return f"all {of} chunks that were read were read again: source and repository are equal"
    can_differ = _rounded_up(float(audit.get("at_most", 1.0)))
    return (
        f"{chunks} of {of} chunks were read again, all equal: at most {can_differ} % of what was read "
        f"can differ ({float(audit.get('confidence', 0.0)):.0%} confidence)"
    )


def _rounded_up(share: float) -> str:
    """Return a share in per cent with two digits that count, never less than it is."""
    per_cent = share * 100
    digits = max(0, 1 - math.floor(math.log10(per_cent))) if per_cent > 0 else 0
    return f"{math.ceil(per_cent * 10**digits) / 10**digits:.{digits}f}"
