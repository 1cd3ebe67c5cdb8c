"""Say what is proven about a point's consistency, and what the host has still to confirm.

What a checkpoint reached the host tells only when it has become a reference
point: after the seal. So a manifest claims what is known by then, and what the
host confirmed later is stored as evidence, which can only raise the claim.
"""

from typing import Any

from vmkeep.capture.outcome import Released
from vmkeep.host.hyperv.checkpoints import APPLICATION
from vmkeep.model.consistency import Consistency
from vmkeep.model.facts import VmFacts
from vmkeep.model.plan import Plan
from vmkeep.model.point import Claim


def is_lower(one: Consistency, other: Consistency) -> bool:
    """Tell whether a level is weaker than another one."""
    order = list(Consistency)
    return order.index(one) > order.index(other)


def what_was_asked(plan: Plan, vm: VmFacts) -> dict[str, Any]:
    """Return what the manifest says of the level that only a reference point can confirm."""
    if plan.method != "production-checkpoint":
        return {"state": "not needed"}
    return {"state": "pending", "guest": vm.guest.family, "component": vm.backup_component}


def proven_by(claim: Claim, plan: Plan, released: Released | None) -> Consistency:
    """Return the level that is proven when the VM has been released."""
    confirmed = released is not None and released.consistency == APPLICATION
    if plan.method == "production-checkpoint" and confirmed:
        return claim.promised
    return claim.got
