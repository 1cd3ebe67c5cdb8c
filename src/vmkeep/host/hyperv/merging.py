"""Wait until the layers of a removed checkpoint are merged back into the disks.

While a checkpoint exists, the VM writes each disk to a layer above the frozen
file. After the checkpoint has gone the host merges that layer down by itself,
some time later. It is done when the VM is in no such phase and the layer stands
in no chain of the VM any more; a phase that ended without that has failed
(hyperv-backup-api.md 2.3 step 9; event 19100 tells the same, but reading events
needs other rights). Whoever else makes or removes checkpoints of the VM
meanwhile changes which file is on top, and does not disturb this.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from vmkeep.host.hyperv.disks import read_disk_file, read_files
from vmkeep.host.hyperv.errors import HyperVError, MergeUnfinished
from vmkeep.host.hyperv.jobs import HyperV, Waiting, pauses
from vmkeep.host.hyperv.states import read_power_state
from vmkeep.model.facts import CheckpointFacts

_log: Final = logging.getLogger(__name__)

MERGE_LIMIT_S: Final = 12 * 3600.0
# How long a VM may be at rest with its layers unmerged before we call it failed: the host starts late.
REST_LIMIT_S: Final = 300.0
_LONGEST_PAUSE_S: Final = 15.0
_DEEPEST_CHAIN: Final = 128  # Hyper-V allows 50 checkpoints


@dataclass(frozen=True)
class MergeState:
    """How far a merge is: the host's phase, and the layers that still stand in a chain, by slot."""

    phase: int | None
    unmerged: Mapping[str, str]

    @property
    def is_done(self) -> bool:
        return self.phase is None and not self.unmerged


def layers_of(host: HyperV, checkpoint: CheckpointFacts) -> dict[str, str]:
    """Return the layer just above each frozen file of a checkpoint, by slot: what has to vanish later.

    To be asked, and written down, while the checkpoint exists. A disk that is no
    longer attached, or whose chain does not hold the frozen file (the VM was
    reverted), has none. A request or more for each disk; safe to repeat.
    """
    running = read_files(host, checkpoint.vm_id)
    layers = {}
    for disk in checkpoint.disks:
        top = running.get(disk.slot)
        if top and disk.path and (layer := _above(host, disk.path, top)):
            layers[disk.slot] = layer
    return layers


def read_merge(host: HyperV, vm_id: str, layers: Mapping[str, str]) -> MergeState:
    """Look once whether the layers of :func:`layers_of` are gone. Raises VmNotFound; safe to repeat.

    Chains are followed only while the VM is at rest: during a merge they change.
    """
    phase = read_power_state(host, vm_id).phase
    if phase is not None:
        return MergeState(phase, dict(layers))
    tops = read_files(host, vm_id)
    return MergeState(None, {s: layer for s, layer in layers.items() if _holds(host, tops.get(s, ""), layer)})


def wait_for_merge(
    host: HyperV, vm_id: str, layers: Mapping[str, str], *, limit_s: float = MERGE_LIMIT_S
) -> None:
    """Wait until the layers of :func:`layers_of` are merged, while there is progress. Safe to repeat.

    Raises MergeUnfinished when the VM has been at rest for five minutes with
    layers left, or after ``limit_s``; and VmNotFound.
    """
    rest_since: float | None = None
    fewest = len(layers)
    state = MergeState(None, layers)
    for waited in pauses(host.clock, limit_s, _LONGEST_PAUSE_S):
        state = read_merge(host, vm_id, layers)
        if state.is_done:
            _log.info("the disks of VM %s are merged after %.0f s", vm_id, waited)
            return
        percent = 100 * (len(layers) - len(state.unmerged)) // max(1, len(layers))
        host.watch(Waiting("merge the disks", waited, percent))
        if state.phase is not None or len(state.unmerged) < fewest:
            rest_since = None
        elif rest_since is None:
            rest_since = waited
        elif waited - rest_since >= REST_LIMIT_S:
            raise _unfinished(vm_id, state, "the host stopped merging")
        fewest = min(fewest, len(state.unmerged))
    raise _unfinished(vm_id, state, f"{limit_s / 3600:.0f} hours have passed")


def _unfinished(vm_id: str, state: MergeState, why: str) -> MergeUnfinished:
    files = ", ".join(state.unmerged.values()) or "none known"
    return MergeUnfinished(
        f"the disks of VM {vm_id} are not merged, and {why}; layers left: {files}.",
        phase=state.phase,
        unmerged=dict(state.unmerged),
    )


def _chain(host: HyperV, path: str) -> Iterator[str]:
    """Yield a disk's file and its parents, as the host knows them, each asked for only when it is needed."""
    for _ in range(_DEEPEST_CHAIN):
        yield path
        parent = read_disk_file(host, path).parent_path
        if parent is None:
            return
        path = parent


def _above(host: HyperV, frozen: str, top: str) -> str | None:
    """Return the file whose parent is ``frozen``, on the way down from ``top``."""
    above = None
    for path in _chain(host, top):
        if _is_same(path, frozen):
            return above
        above = path
    return None


def _holds(host: HyperV, top: str, layer: str) -> bool:
    """Tell whether a layer stands in the chain below ``top``; a chain that cannot be read may hold it."""
    try:
        return top != "" and any(_is_same(path, layer) for path in _chain(host, top))
    except HyperVError as error:
        _log.info("the chain of %s cannot be read now: %s", top, error)
        return True


def _is_same(left: str, right: str) -> bool:
    """Compare two Windows paths the way the host does: without case, either slash."""
    return left.replace("/", "\\").lower() == right.replace("/", "\\").lower()
