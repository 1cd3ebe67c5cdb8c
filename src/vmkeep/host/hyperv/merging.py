"""Wait until the layers of a removed checkpoint are merged back into the disks.

The host merges by itself, some time after a checkpoint is removed or converted.
It is done when the VM is in no such phase and each disk writes to the file it
wrote to before; a phase that ended without that has failed (hyperv-backup-api.md
2.3 step 9; event 19100 tells the same, but reading events needs other rights).
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from vmkeep.host.hyperv.disks import read_disks
from vmkeep.host.hyperv.errors import MergeUnfinished
from vmkeep.host.hyperv.jobs import HyperV, Waiting, pauses
from vmkeep.host.hyperv.states import read_power_state

_log: Final = logging.getLogger(__name__)

MERGE_LIMIT_S: Final = 12 * 3600.0
# How long a VM may be at rest with its layers unmerged before we call it failed: the host starts late.
REST_LIMIT_S: Final = 300.0
_LONGEST_PAUSE_S: Final = 15.0


@dataclass(frozen=True)
class MergeState:
    """How far a merge is: the host's phase, and which slots do not write to the expected file yet."""

    phase: int | None
    unmerged: Mapping[str, str]

    @property
    def is_done(self) -> bool:
        return self.phase is None and not self.unmerged


def read_merge(host: HyperV, vm_id: str, leaves: Mapping[str, str]) -> MergeState:
    """Look once. ``leaves``: slot to the path each disk wrote to before the checkpoint. Raises VmNotFound.

    A disk that is attached to the VM no more has nothing to merge.
    """
    phase = read_power_state(host, vm_id).phase
    now = {disk.slot: disk.path or "" for disk in read_disks(host, vm_id)}
    unmerged = {
        slot: now[slot] for slot, path in leaves.items() if slot in now and not _is_same(now[slot], path)
    }
    return MergeState(phase, unmerged)


def wait_for_merge(
    host: HyperV, vm_id: str, leaves: Mapping[str, str], *, limit_s: float = MERGE_LIMIT_S
) -> None:
    """Wait until :func:`read_merge` says it is done, while it makes progress. Safe to repeat.

    Raises MergeUnfinished when the VM has been at rest for five minutes with
    layers left, or after ``limit_s``; and VmNotFound.
    """
    rest_since: float | None = None
    fewest = len(leaves)
    state = MergeState(None, leaves)
    for waited in pauses(host.clock, limit_s, _LONGEST_PAUSE_S):
        state = read_merge(host, vm_id, leaves)
        if state.is_done:
            _log.info("the disks of VM %s are merged after %.0f s", vm_id, waited)
            return
        percent = 100 * (len(leaves) - len(state.unmerged)) // max(1, len(leaves))
        host.watch(Waiting(f"merge the disks of VM {vm_id}", waited, percent))
        if state.phase is not None or len(state.unmerged) < fewest:
            rest_since = None
        elif rest_since is None:
            rest_since = waited
        elif waited - rest_since >= REST_LIMIT_S:
            raise _unfinished(vm_id, state, "the host stopped merging")
        fewest = min(fewest, len(state.unmerged))
    raise _unfinished(vm_id, state, f"{limit_s / 3600:.0f} hours have passed")


def _unfinished(vm_id: str, state: MergeState, why: str) -> MergeUnfinished:
    files = ", ".join(state.unmerged.values()) or "no file"
    return MergeUnfinished(
        f"the disks of VM {vm_id} are not merged, and {why}; layers left: {files}.",
        phase=state.phase,
        unmerged=dict(state.unmerged),
    )


def _is_same(left: str, right: str) -> bool:
    """Compare two Windows paths the way the host does: without case, either slash."""
    return left.replace("/", "\\").lower() == right.replace("/", "\\").lower()
