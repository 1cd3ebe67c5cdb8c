"""Translate a VM's numbers into words: power state, what is under way, components, replication.

The tables are hyperv-backup-api.md sections 1.1 and 1.4. A number that is in
none of them is unknown, never guessed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from vmkeep.host.hyperv.classes import COMPUTER_SYSTEM, SETTINGS
from vmkeep.host.hyperv.errors import VmNotFound
from vmkeep.host.hyperv.jobs import HyperV, outlast
from vmkeep.host.wsman import Instance, InstanceMissing, Ref, quoted
from vmkeep.model.facts import ComponentState, Operation, ReplicationFacts, ReplicationMode, VmState

# Two families of EnabledState are in use, the v2 provider's and the older one; both are accepted.
_STATES: Final[Mapping[int, VmState]] = {
    2: "running",
    3: "off",
    6: "saved",
    9: "paused",
    32768: "paused",
    32769: "saved",
    32779: "saved",  # FastSaved
    **dict.fromkeys(range(32781, 32793), "critical"),
}
_HEALTH_CRITICAL: Final = frozenset({20, 25})  # major failure (low disk space, paused), critical failure

# OperationalStatus[1]: what is being done to the VM.
CREATING_CHECKPOINT: Final = 32768
DELETING_CHECKPOINT: Final = 32770
MERGING: Final = 32772
# A service that starts may list the host before its VMs.
_LOOK_AGAIN_S: Final = 5.0
MOVING: Final = frozenset({32773, 32774, 32778, 32779, 32780})
"""The VM is exported or moved: nothing else is done to it then (32775 while busy)."""
_OPERATIONS: Final[Mapping[int, Operation]] = {
    CREATING_CHECKPOINT: "backup",
    32769: "backup",  # applying a checkpoint: the plan has no word of its own for it, and waits all the same
    DELETING_CHECKPOINT: "merge",
    MERGING: "merge",
    32773: "export",
    32774: "migrate",
    # Believed, docs/believed.md: from the PowerShell enumeration VMOperationalStatus.
    32776: "backup",
    32778: "migrate",
    32779: "migrate",
    32780: "migrate",
}

_COMPONENT_STATES: Final[Mapping[int, ComponentState]] = {
    2: "ok",
    3: "degraded",
    7: "incompatible",
    12: "no_contact",
    13: "lost_contact",
}
_ENABLED: Final = 2
_DISABLED: Final = 3

_REPLICATION_MODES: Final[tuple[ReplicationMode, ...]] = (
    "none",
    "primary",
    "replica",
    "test_replica",
    "extended_replica",
)
# Waiting for the initial copy, resyncing, failing over or back. 3 (replicating) is the normal state.
_REPLICATION_BUSY: Final = frozenset({2, 10, 12, 13})


@dataclass(frozen=True)
class PowerState:
    """A VM's state at one moment, to be compared before and after a run.

    ``word`` is None for a state that is only passed through and for unknown ones.
    """

    code: int
    word: VmState | None
    phase: int | None


def vm_ref(vm_id: str) -> Ref:
    """Address a VM by its id."""
    return COMPUTER_SYSTEM.ref(COMPUTER_SYSTEM.name, vm_id)


def read_power_state(host: HyperV, vm_id: str) -> PowerState:
    """Ask the host for one VM's state now. Raises VmNotFound."""
    try:
        system = outlast(host, lambda: host.client.get(vm_ref(vm_id)))
    except InstanceMissing as error:
        raise VmNotFound(f"the host has no VM {vm_id} any more.") from error
    return power_state_of(system)


def is_gone(host: HyperV, vm_id: str) -> bool:
    """Tell whether the host has no such VM, by its lists, which name the host itself at least.

    One answer that there is none proves nothing: a service that starts gives it, too, and so does
    a host to somebody without rights. What is gone is looked for twice.
    """
    if not _is_missing(host, vm_id):
        return False
    host.clock.sleep(_LOOK_AGAIN_S)
    return _is_missing(host, vm_id)


def _is_missing(host: HyperV, vm_id: str) -> bool:
    try:
        read_power_state(host, vm_id)
    except VmNotFound:
        pass
    else:
        return False
    where = f"VirtualSystemIdentifier = {quoted(vm_id)}"
    systems = outlast(host, lambda: list(COMPUTER_SYSTEM.all(host.client)))
    settings = outlast(host, lambda: list(SETTINGS.all(host.client, where)))
    names = {system.text("Name").upper() for system in systems}
    return bool(names) and vm_id.upper() not in names and not settings


def power_state_of(system: Instance) -> PowerState:
    """Read the state and the phase from a Msvm_ComputerSystem."""
    code = system.integer("EnabledState")
    return PowerState(
        code,
        state_word(code, system.integer_or_none("HealthState")),
        phase_of(system.integers("OperationalStatus")),
    )


def state_word(code: int, health: int | None) -> VmState | None:
    """Name a state; ill health outweighs it."""
    return "critical" if health in _HEALTH_CRITICAL else _STATES.get(code)


def phase_of(operational_status: Sequence[int]) -> int | None:
    """Return the second status, which tells what is being done; None if nothing is."""
    phase = operational_status[1] if len(operational_status) > 1 else 0
    return phase or None


def operation_of(phase: int | None) -> Operation | None:
    """Name what is under way in the words of the plan; anything unknown is some other program's work."""
    return None if phase is None else _OPERATIONS.get(phase, "backup")


def obstacle_of(system: Instance) -> str | None:
    """Say what is being done to a VM now, from its Msvm_ComputerSystem; None if nothing is."""
    operation = operation_of(phase_of(system.integers("OperationalStatus")))
    if operation:
        return f"another operation ({operation})"
    mode, state = system.integer_or_none("ReplicationMode"), system.integer_or_none("ReplicationState")
    busy = replication_facts(mode, () if state is None else (state,)).busy
    return "a copy of Hyper-V Replica" if busy else None


def component_state(enabled: int | None, status: Sequence[int]) -> ComponentState | None:
    """Name the state of an integration component, by its own two numbers."""
    if enabled == _DISABLED:
        return "disabled"
    if enabled != _ENABLED or not status:
        return None
    return _COMPONENT_STATES.get(status[0])


def replication_facts(mode: int | None, states: Sequence[int]) -> ReplicationFacts:
    """Say which part a VM plays, and whether one of its relationships is busy."""
    known = mode is not None and 0 <= mode < len(_REPLICATION_MODES)
    word = _REPLICATION_MODES[mode] if known and mode is not None else None
    if word == "none":
        return ReplicationFacts("none", busy=False)
    return ReplicationFacts(
        word, busy=any(state in _REPLICATION_BUSY for state in states) if states else None
    )
