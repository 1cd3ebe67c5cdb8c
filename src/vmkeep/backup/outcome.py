"""Say how the run of one VM ended: what exists now, what is wrong besides, and how the process should end."""

from dataclasses import dataclass

from vmkeep.backup.audit import Audit
from vmkeep.errors import ExitCode, VmkeepError
from vmkeep.model.consistency import Consistency
from vmkeep.model.plan import Plan
from vmkeep.repository.journal import Journal
from vmkeep.repository.listing import SealedPoint


@dataclass(frozen=True)
class Outcome:
    """What a run achieved: the restore point that now exists, and how the process should end.

    ``consistency`` is what is proven of the point at the end of the run.
    ``warnings`` tell what is wrong besides: disks that were left out, damaged
    points of the same VM, damaged packs that were met, what a host could not
    clean up, a run that could not be closed. ``notes`` tell what is wrong for
    good (points that vanished) or was put right (what a dead run had left).
    ``left`` names what is still on the host, or may be; the warnings tell it, too.
    """

    sealed: SealedPoint
    plan: Plan
    consistency: Consistency
    exit_code: ExitCode
    seconds: float
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def met_damage(audit: Audit) -> list[str]:
    """Say which packs did not give back what they should."""
    met = [*audit.replaced_packs, *(["something an earlier restore point holds"] if audit.lost else [])]
    return [
        f"{pack} is damaged or gone; this restore point got what it needs of it from the source again, "
        "others may need it too: run `vmkeep repo check --read-data all`."
        for pack in met
    ]


def note_failure(journal: Journal, error: BaseException) -> None:
    """Close the journal of a run that failed and left nothing behind."""
    why = {"error": type(error).__name__}
    if isinstance(error, VmkeepError):
        why = {"error": error.code, "message": error.message}
    try:
        journal.finish({"outcome": "failed", **why})
    except VmkeepError:
        # The store is what failed; the lease runs out by itself, and the error
        # that matters is the one being raised.
        return
