"""Make damage harmless for what comes: condemn damaged packs, so that later runs store their content again.

Nothing is removed and nothing that is stored changes: whatever can still be
read from a damaged pack stays readable.
"""

import os

from vmkeep.clock import Clock
from vmkeep.progress import Progress
from vmkeep.repository.check import Report, check
from vmkeep.repository.condemned import condemn_damaged, damaged_packs
from vmkeep.repository.packs import PackRef
from vmkeep.repository.repository import Repository


def repair(
    repository: Repository, clock: Clock, progress: Progress, *, dry_run: bool
) -> tuple[Report, list[str]]:
    """Examine everything and condemn what is damaged; return the report and the packs newly condemned."""
    report = check(repository, 1.0, progress)
    known = damaged_packs(repository.store, repository.ring)
    found = {PackRef.from_name(problem.object) for problem in report.problems if not problem.harmless}
    damaged = sorted(
        ref for ref in found if ref and ref.id not in known and repository.store.head(ref.name) is not None
    )
    run = os.urandom(16).hex()
    for ref in () if dry_run else damaged:
        condemn_damaged(repository.store, repository.ring, ref, run, clock.now())
    return report, [ref.name for ref in damaged]
