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
from vmkeep.model.point import RestorePoint


def is_lower(one: Consistency, other: Consistency) -> bool:
    """Tell whether a level is weaker than another one."""
    order = list(Consistency)
    return order.index(one) > order.index(other)


def end_of_guest(plan: Plan) -> dict[str, Any]:
    """Return what the manifest says of how a VM's guest ended that was off; nothing of others."""
    return {"shutdown": {"state": "unknown"}} if plan.consistency is Consistency.OFF else {}


def what_was_asked(plan: Plan, vm: VmFacts, *, was_running: bool) -> dict[str, Any]:
    """Return what the manifest says of the level that only a reference point can confirm.

    A host confirms it for a VM that was turned off meanwhile, too, in which no guest took part.
    """
    if plan.method != "production-checkpoint":
        return {"state": "not needed"}
    if not was_running:
        return {"state": "impossible", "why": "the VM did not run when the checkpoint was made"}
    return {"state": "pending", "guest": vm.guest.family, "component": vm.backup_component}


def proven_by(point: RestorePoint, released: Released | None) -> Consistency:
    """Return the level that is proven when the VM has been released."""
    claim = point.consistency
    is_awaited = point.evidence.get("read_back", {}).get("state") == "pending"
    confirmed = released is not None and released.consistency == APPLICATION
    return claim.promised if is_awaited and confirmed else claim.got
