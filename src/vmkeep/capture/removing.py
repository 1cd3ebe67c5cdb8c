"""Take a checkpoint of ours away and see its layers merged: for releases, failures and sweeps alike."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from vmkeep.host.hyperv import (
    CheckpointMissing,
    Fate,
    HyperV,
    HyperVError,
    ListsIncomplete,
    MergeUnfinished,
    NotOurs,
    OperationFailed,
    Owner,
    VmBusy,
    Waiting,
    Went,
    destroy_checkpoint,
    destroy_reference_point,
    is_gone,
    layers_of,
    read_checkpoint,
    read_power_state,
    wait_for_merge,
)
from vmkeep.host.hyperv.jobs import Kind, pauses
from vmkeep.host.hyperv.states import DELETING_CHECKPOINT, MERGING
from vmkeep.host.wsman import HostError, HostFault, InstanceMissing
from vmkeep.model.facts import CheckpointFacts

# For so long a removal that failed is tried again: nobody else may come for a day.
_AGAIN_S: Final = 30.0

HostTrouble = (HyperVError, HostError)
"""What a host can answer that must not keep a run from cleaning up the rest."""


@dataclass(frozen=True)
class Merge:
    """What became of the layers above a checkpoint: all merged, or which are left and why."""

    is_done: bool
    unmerged: Mapping[str, str] = field(default_factory=dict)
    why: str = ""


def await_merge(host: HyperV, vm_id: str, layers: Mapping[str, str], limit_s: float) -> Merge:
    """Wait for the merge of some layers and say how it ended; what the host fails in is data here."""
    try:
        wait_for_merge(host, vm_id, layers, limit_s=limit_s)
    except MergeUnfinished as error:
        left = error.context.get("unmerged")
        return Merge(False, left if isinstance(left, Mapping) else layers, error.message)
    except HostTrouble as error:
        return Merge(False, layers, error.message)
    return Merge(True)


def has_no_vm(host: HyperV, vm_id: str) -> bool:
    """Tell whether a VM is gone from its host; one that fails to answer has not said so."""
    try:
        return is_gone(host, vm_id)
    except HostTrouble:
        return False


def layers_above(host: HyperV, checkpoint: CheckpointFacts) -> Mapping[str, str]:
    """Return the layers that have to vanish after a checkpoint, which still exists; none if it has gone."""
    try:
        return layers_of(host, read_checkpoint(host, checkpoint.vm_id, checkpoint.id))
    except CheckpointMissing:
        return {}


def unheard(host: HyperV) -> HyperV:
    """Return the host with nobody listening: what cleans up must not be stopped by whoever watches."""

    def nobody(_: Waiting) -> None:
        return

    return HyperV(host.client, host.clock, nobody)


def destroy_ours(host: HyperV, checkpoint: CheckpointFacts, owner: Owner) -> Went:
    """Remove a checkpoint that is known to be ours, whether its name got its mark or not.

    It also goes by something that the host was already doing. Safe to repeat, also while the
    host is still at it: it refuses a second call until the first has ended. What fails for a
    moment is tried again for half a minute. Raises NotOurs if its name is neither the one it
    was made with nor our mark.
    """
    missing = Went.OTHERWISE
    trouble: HyperVError | HostError | None = None
    for waited in pauses(host.clock, Kind.DESTROY.limit_s):
        fate = Fate()
        try:
            now = read_checkpoint(host, checkpoint.vm_id, checkpoint.id)
            went = destroy_checkpoint(host, now if now.name == owner.name else checkpoint, fate)
            return missing if went is Went.OTHERWISE else went
        except NotOurs as error:  # unless our mark, on its way from a dead run, has just arrived
            trouble = error
            if read_checkpoint(host, checkpoint.vm_id, checkpoint.id).name != owner.name:
                raise
        except CheckpointMissing:
            return missing
        except (VmBusy, OperationFailed, ListsIncomplete, HostFault, InstanceMissing) as error:
            trouble = error
            if fate.may_have_run:  # a call that failed may run all the same
                missing = Went.PERHAPS_BY_US
            if waited >= _AGAIN_S and not _is_going(host, checkpoint.vm_id):
                raise
        host.watch(Waiting(Kind.DESTROY.words, waited))
    assert trouble is not None, "the loop was gone through"
    raise trouble


def destroy_point(host: HyperV, vm_id: str, point_id: str) -> bool:
    """Remove a reference point of ours; False if it is not there. Safe to repeat.

    What fails for a moment is tried again for half a minute.
    """
    trouble: HyperVError | HostError | None = None
    for waited in pauses(host.clock, _AGAIN_S):
        try:
            return destroy_reference_point(host, vm_id, point_id)
        except (VmBusy, OperationFailed, ListsIncomplete, HostFault, InstanceMissing) as error:
            trouble = error
        host.watch(Waiting(Kind.DESTROY_REFERENCE_POINT.words, waited))
    assert trouble is not None, "the loop was gone through"
    raise trouble


def _is_going(host: HyperV, vm_id: str) -> bool:
    return read_power_state(host, vm_id).phase in (DELETING_CHECKPOINT, MERGING)
