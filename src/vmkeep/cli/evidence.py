"""Say in words what was proven while a restore point was taken, and what was not."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from vmkeep.cli.text import rounded

_NOT_WHAT_IT_WAS: Final = "is not what it was at the last restore point, or not known"
# What the codes in evidence.hold.read_all stand for (planner/tracking, capture/tracked).
READ_ALL: Final[Mapping[str, str]] = {
    "rct-no-baseline": "the restore point before left no change tracking behind",
    "rct-point-gone": "the host no longer lists the reference point of the restore point before",
    "rct-disk-unknown": "the disk was not tracked at the last restore point",
    "rct-not-tracked": "the host gave no RCT identifier for it last time",
    "rct-disk-size": f"its size {_NOT_WHAT_IT_WAS}",
    "rct-disk-path": f"its file {_NOT_WHAT_IT_WAS}",
    "rct-checkpoint-tree": f"the VM's tree of checkpoints {_NOT_WHAT_IT_WAS}",
    "rct-last-applied": f"the checkpoint the VM was last taken back to {_NOT_WHAT_IT_WAS}",
    "rct-version": f"the VM's configuration version {_NOT_WHAT_IT_WAS}",
    "rct-replication": f"the VM's part in a replication {_NOT_WHAT_IT_WAS}",
    "rct-lost": "the host did not know the recorded RCT identifier any more",
    "rct-unknown": "the host could not list what changed",
    "rct-unanswered": "the host failed to list what changed",
}


def why_unproven(evidence: Mapping[str, Any], later: Sequence[Mapping[str, Any]]) -> str:
    """Return why the level that was promised is not proven, from what was known at the seal and ``later``."""
    asked = evidence.get("read_back")
    if isinstance(asked, dict) and asked.get("why"):
        return str(asked["why"])
    if not later:
        return "the run ended before the host could confirm it, or what it confirmed was not stored"
    untracked = [each["untracked"] for each in later if isinstance(each.get("untracked"), dict)]
    if untracked:
        return str(untracked[-1].get("fact", "the host does not say why")).rstrip(".")
    if not any(each.get("released") for each in later):
        return "the VM could not be released in order, and only then does the host tell what was reached"
    return "the host does not confirm it"


def read_all_lines(evidence: Mapping[str, Any]) -> list[str]:
    """Return which disks were read as a whole although a restore point was there to build on, and why."""
    hold = evidence.get("hold")
    codes = hold.get("read_all") if isinstance(hold, dict) else None
    if not isinstance(codes, dict):
        return []
    return [
        f"{disk}: {READ_ALL.get(code, 'the reason is known by its code only')} ({code})"
        for disk, code in codes.items()
    ]


def audit_lines(evidence: Mapping[str, Any]) -> list[str]:
    """Return what the re-read audit shows, what it claims first; empty where there was none."""
    audit = evidence.get("reread_audit")
    if not isinstance(audit, dict):
        return []
    replaced = audit.get("replaced_packs") or []
    lines = [_claim(audit), *_inherited_claim(audit), f"chosen by the seed {audit.get('seed')}"]
    return lines + [f"{pack} did not give back what is needed; it was stored again" for pack in replaced]


def reread_of(evidence: Mapping[str, Any]) -> str:
    """Return how much of the source the audit read besides, to stand behind what was read; or nothing."""
    audit = evidence.get("reread_audit")
    read = audit.get("bytes_read") if isinstance(audit, dict) else None
    return f" (and {rounded(int(read))} for the audit)" if read else ""


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


def inherited_lines(evidence: Mapping[str, Any]) -> list[str]:
    """Return what was looked at of the data taken over from the parent; empty where there was none."""
    audit = evidence.get("reread_audit")
    return _inherited_claim(audit) if isinstance(audit, dict) else []


def _inherited_claim(audit: Mapping[str, Any]) -> list[str]:
    inherited = audit.get("inherited")
    if not isinstance(inherited, dict) or not inherited.get("of"):
        return []
    chunks, of = int(inherited.get("chunks", 0)), int(inherited["of"])
    compared = bool(inherited.get("compared_with_source"))
    found = "equal to the source" if compared else "all whole"
    if chunks == of:
        return [f"all {of} chunks taken over from the parent were read back from the repository, {found}"]
    if not chunks:
        return [
            f"nothing of what was taken over from the parent was read back (at most {of} chunks): "
            "all places that were tried hold zeros"
        ]
    unread = "" if compared else "; the source was not read for it"
    return [
        f"of what was taken over from the parent, {chunks} of at most {of} chunks were read back, {found}: "
        f"at most {_rounded_up(float(inherited.get('at_most', 1.0)))} % of it can be damaged "
        f"({float(audit.get('confidence', 0.0)):.0%} confidence){unread}"
    ]


def _rounded_up(share: float) -> str:
    """Return a share in per cent with two digits that count, never less than it is."""
    per_cent = share * 100
    digits = max(0, 1 - math.floor(math.log10(per_cent))) if per_cent > 0 else 0
    return f"{math.ceil(per_cent * 10**digits) / 10**digits:.{digits}f}"
