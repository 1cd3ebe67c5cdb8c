"""Say of a restore point of a VM how its hold ended: what is wrong, what is left, what is not proven."""

from dataclasses import dataclass
from typing import Any

from vmkeep.backup.audit import Audit
from vmkeep.backup.outcome import met_damage
from vmkeep.capture.outcome import Released, left_behind_by
from vmkeep.errors import VmkeepError
from vmkeep.model.plan import Plan
from vmkeep.model.point import Claim
from vmkeep.planner.checkpoint import DISKS_EXCLUDED, DISKS_UNREAD, SHUTDOWN_UNPROVEN
from vmkeep.repository.listing import SealedPoint


@dataclass
class Sealed:
    """A point that exists, and how its hold ended: what became of it, and what went wrong afterwards."""

    point: SealedPoint
    audit: Audit
    plan: Plan
    claim: Claim
    unannounced: tuple[str, ...] = ()
    """Disks that are not held although the plan did not say so."""
    released: Released | None = None
    evidence: tuple[dict[str, Any], ...] = ()
    trouble: VmkeepError | None = None

    def left(self) -> list[str]:
        """Return what the run has left on the host, or may have."""
        left: list[str] = []
        if self.trouble is not None:
            left += left_behind_by(self.trouble) or (self.trouble.message,)
        if self.released is not None and not self.released.merge.is_done:
            left.append(f"not merged: {self.released.merge.why}")
        return left

    def why_unproven(self) -> str:
        """Say why the level that was promised is not proven."""
        if self.released is not None and self.released.why_untracked is not None:
            return self.released.why_untracked.fact
        if self.released is None and self.trouble is not None:
            return "the VM could not be released, and only then does the host tell what was reached."
        return "the host does not confirm it."

    def warnings(self) -> list[str]:
        """Say what is wrong besides."""
        wanting = (DISKS_EXCLUDED, DISKS_UNREAD, SHUTDOWN_UNPROVEN)
        found = [f"{r.fact} {r.effect} {r.fix}" for r in self.plan.reasons if r.code in wanting]
        found += met_damage(self.audit)
        if self.trouble is not None:
            found += self._troubles(self.trouble)
        found += [f"{label} is a disk of the VM, and is not in the point." for label in self.unannounced]
        return found if self.released is None else found + _ends(self.released)

    def _troubles(self, trouble: VmkeepError) -> list[str]:
        what = "the VM could not be released" if self.released is None else "not all is cleaned up"
        told = f"the point is sealed, but {what}; the next run or `vmkeep sweep` will: {trouble.message}"
        own = trouble.context.get("left_behind")
        left = dict.fromkeys((*(own if isinstance(own, tuple) else ()), *left_behind_by(trouble)))
        return [told, *(f"left behind on the host: {one}" for one in left if one not in told)]


def _ends(released: Released) -> list[str]:
    """Say what is wrong with how the VM was let go."""
    found = []
    if not released.merge.is_done:
        found.append(
            f"the merge of the checkpoint has not ended, and the next run looks again: {released.merge.why}"
        )
    if not released.is_power_equal:
        before, after = released.power_before, released.power_after
        now = "cannot be read" if after is None else f"is {after.word or f'code {after.code}'}"
        found.append(
            f"the VM's power state {now} now; before the run it was {before.word or f'code {before.code}'}."
        )
    return found
