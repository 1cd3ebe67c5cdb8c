"""Say how the run of one VM ended, for programs and for people."""

from typing import TYPE_CHECKING, Any

from vmkeep.cli.evidence import audit_lines, inherited_lines, reread_of
from vmkeep.cli.frame import settings
from vmkeep.cli.text import rounded

if TYPE_CHECKING:
    from vmkeep.backup.outcome import Outcome


def document_of(outcome: "Outcome") -> dict[str, Any]:
    """Return what a run achieved, as JSON tells it."""
    from vmkeep.repository.manifest import format_time

    point = outcome.sealed.point
    return {
        "point": point.id,
        "id": point.id,
        "vm": point.vm.name,
        "vm_id": point.vm.id,
        "time": format_time(point.time),
        "consistency": outcome.consistency.value,
        "promised": point.consistency.promised.value,
        "increment": outcome.plan.increment,
        "method": point.method,
        "parent": point.parent,
        "bytes_read": point.bytes_read,
        "bytes_reread": point.evidence["reread_audit"]["bytes_read"],
        "bytes_stored": point.bytes_stored,
        "reread_audit": point.evidence["reread_audit"],
        "seconds": round(outcome.seconds, 3),
        "reasons": [vars(reason) for reason in point.consistency.reasons],
        "warnings": list(outcome.warnings),
        "notes": list(outcome.notes),
        "exit_code": int(outcome.exit_code),
    }


def lines_of(outcome: "Outcome", name: str | None = None) -> list[str]:
    """Return what a run achieved, for people; nothing with --quiet. ``name`` stands for the VM's own."""
    from vmkeep.planner.checkpoint import DISKS_EXCLUDED, DISKS_UNREAD, SHUTDOWN_UNPROVEN
    from vmkeep.planner.folder import DISKS_LEFT_OUT

    warned = (DISKS_LEFT_OUT, DISKS_EXCLUDED, DISKS_UNREAD, SHUTDOWN_UNPROVEN)
    told = ("files-only", "guest-not-quiesced", *warned)
    point = outcome.sealed.point
    read = rounded(point.bytes_read) + reread_of(point.evidence)
    lines = [
        f"{name or point.vm.name}: restore point {point.id[:12]}, {outcome.consistency.value}-consistent",
        f"  read {read}, stored {rounded(point.bytes_stored)}, {outcome.seconds:.1f} s",
        f"  {audit_lines(point.evidence)[0]}",
        *(f"  {line}" for line in inherited_lines(point.evidence)),
    ]
    # That files do not tell how their VM was brought to rest is so each time, and of a guest that refused
    # and of what is wanting a warning tells; everything else is news.
    lines += [
        f"  {reason.fact} {reason.effect}"
        for reason in point.consistency.reasons
        if settings.verbose or reason.code not in told
    ]
    return [] if settings.quiet else lines
