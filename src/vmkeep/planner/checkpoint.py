"""Plan a run of one VM on a host of 2016 or later: a production or a standard checkpoint, or none.

Both are the recovery checkpoint; with a production checkpoint the guest is asked
to bring itself to rest. Rules: hyperv-backup-api.md 1 and 2.3, mission R2.
"""

from collections.abc import Iterator
from typing import Final

from vmkeep.model.consistency import Consistency, Policy, Reason
from vmkeep.model.facts import DiskFacts, HostFacts, VmFacts
from vmkeep.model.plan import Increment, Method, Plan

DISKS_EXCLUDED: Final = "disks-excluded"
DISKS_UNREAD: Final = "disks-unread"
SHUTDOWN_UNPROVEN: Final = "shutdown-unproven"
_OLDEST_BUILD: Final = 14393  # Windows Server 2016
_RCT_VERSION: Final = (6, 2)
_BEST_OF: Final = {"linux": " for a Linux guest", "other": " for a guest that is not Windows"}
_AS_AFTER_A_POWER_CUT: Final = "A standard checkpoint is taken: the point is as after a power cut."
# Neither WMI nor the VM's files tell a clean end of a guest from a power cut; the host's log, which
# tells it, needs other rights.
_SHUTDOWN_UNKNOWN: Final = Reason(
    "shutdown-unknown",
    "The VM is off; the host does not tell whether its guest was shut down or lost its power.",
    "If it lost its power, the point is as after a power cut.",
    "Where in doubt, start the VM, and shut it down from inside or take the point while it runs.",
)
# What a checkpoint can freeze; what else a VM has is left out, and told.
_FREEZABLE: Final = frozenset({"vhdx", "vhd"})
_REPLICAS: Final = frozenset({"replica", "test_replica", "extended_replica"})


def decide_checkpoint(
    host: HostFacts, vm: VmFacts, policy: Policy, *, has_earlier_point: bool, has_tracking: bool
) -> Plan:
    """Choose how a VM is brought to rest, and say why not better. An unknown fact counts as the worse.

    ``wait``: the obstacle goes by itself. ``refuse``: only a person or another policy helps.
    A VM that is off is not refused, as nothing better can be had of it; what is required and not
    known is a reason then, SHUTDOWN_UNPROVEN.
    """
    obstacle = next(_obstacles(host, vm), None)
    if obstacle is not None:
        verdict, reason = obstacle
        return Plan("wait" if verdict else "refuse", None, None, "full", (reason,))
    method, promise, reasons = _rest(vm)
    reasons += _told_besides(vm)
    if policy.level is not None and not promise.satisfies(policy.level):
        if promise is not Consistency.OFF:
            whose = _BEST_OF.get(vm.guest.family or "", "") if promise is Consistency.FILESYSTEM else ""
            return Plan("refuse", None, None, "full", (*reasons, _not_met(policy.level, promise, whose)))
        reasons.append(_unproven(policy.level))
    return Plan("go", method, promise, _increment(vm, has_earlier_point, has_tracking), tuple(reasons))


def lowered(plan: Plan, policy: Policy, fact: str) -> Plan:
    """Return the plan for when the guest could not be brought to rest: a standard checkpoint, or nothing."""
    reason = Reason(
        "guest-not-quiesced",
        fact,
        _AS_AFTER_A_POWER_CUT,
        "Look at the guest's VSS writers (Linux: its hypervvssd service and its log), then run again.",
    )
    promise = Consistency.CRASH
    if policy.level is not None and not promise.satisfies(policy.level):
        return Plan("refuse", None, None, "full", (*plan.reasons, reason, _not_met(policy.level, promise)))
    return Plan("go", "standard-checkpoint", promise, plan.increment, (*plan.reasons, reason))


def excluded(vm: VmFacts) -> tuple[DiskFacts, ...]:
    """Return the disks of a VM that no checkpoint freezes."""
    return tuple(disk for disk in vm.disks if disk.kind not in _FREEZABLE or disk.path is None)


def _about_host(host: HostFacts) -> Iterator[Reason]:
    """Yield what of the host itself forbids a checkpoint."""
    nothing = "Nothing is taken."
    if host.edition is None or host.build is None:
        what = "build" if host.edition else "edition"
        fact = f"The host does not tell which {what} of Windows it is."
        yield Reason("host-unknown", fact, nothing, r"Let the account read root\cimv2 (docs/rights.md).")
        return
    if host.edition != "server":
        what = "The host is a desktop edition of Windows."
        yield Reason("edition-unsupported", what, nothing, "Use Windows Server.")
    if host.build < _OLDEST_BUILD:
        yield Reason(
            "host-too-old",
            f"The host's build is {host.build}; recovery checkpoints came with "
            f"Windows Server 2016 ({_OLDEST_BUILD}).",
            nothing,
            "Export the VM and use folder:PATH, until vmkeep supports this host.",
        )


def _obstacles(host: HostFacts, vm: VmFacts) -> Iterator[tuple[bool, Reason]]:
    """Yield what forbids a checkpoint now, the gravest first, and whether it goes by itself."""
    nothing = "Nothing is taken."
    for reason in _about_host(host):
        yield False, reason
    if vm.checkpoint_setting == "disabled":
        yield (
            False,
            Reason(
                "checkpoints-disabled",
                "Checkpoints are switched off for the VM.",
                nothing,
                "Enable checkpoints in the VM's settings (Set-VM -CheckpointType Production).",
            ),
        )
    if not any(disk for disk in vm.disks if disk not in excluded(vm)):
        yield (
            False,
            Reason(
                "no-disk-freezable",
                "The VM has no disk that a checkpoint can freeze.",
                nothing,
                "Protect it from inside the guest, or convert its disks to VHDX.",
            ),
        )
    if vm.operation_in_progress is not None:
        yield (
            True,
            Reason(
                "operation-in-progress",
                f"Another operation is under way on the VM: {vm.operation_in_progress}.",
                nothing,
                "Wait until it ends, then run again.",
            ),
        )
    if vm.replication.busy:
        yield (
            True,
            Reason(
                "replication-busy",
                "Hyper-V Replica is copying the VM.",
                nothing,
                "Run at another time, or pause the replication meanwhile.",
            ),
        )
    if vm.state == "critical":
        yield (
            False,
            Reason(
                "state-critical",
                "The host has stopped the VM in a critical state: its storage is missing or full.",
                nothing,
                "Mend the storage of the host first.",
            ),
        )
    if vm.state is None:
        yield (
            True,
            Reason(
                "state-passing",
                f"The VM is just changing its state (code {vm.state_code}).",
                nothing,
                "Wait until it runs or is off, then run again.",
            ),
        )


def _rest(vm: VmFacts) -> tuple[Method, Consistency, list[Reason]]:
    """Return how the VM is brought to rest, what that promises, and why not more."""
    replica = _why_replica(vm)
    if vm.state == "off" and replica is None:
        return "standard-checkpoint", Consistency.OFF, [_SHUTDOWN_UNKNOWN]
    if replica is not None:
        # Off it is all the time; its disks hold what the primary had at some moment while it ran.
        return "standard-checkpoint", Consistency.CRASH, [replica]
    why = next(_why_not_quiesced(vm), None)
    if why is not None:
        return "standard-checkpoint", Consistency.CRASH, [why]
    if vm.guest.family == "windows":
        return "production-checkpoint", Consistency.APPLICATION, []
    reasons = []
    if vm.guest.family is None:
        reasons.append(
            Reason(
                "guest-unknown",
                "The guest does not tell which operating system it runs.",
                "Its file systems are frozen; that its applications took part cannot be promised.",
                "Enable the data exchange integration service.",
            )
        )
    return "production-checkpoint", Consistency.FILESYSTEM, reasons


def _why_replica(vm: VmFacts) -> Reason | None:
    """Return why the disks may be those of another VM that runs (mission R2); None if they are its own."""
    if vm.replication.mode is None:
        return Reason(
            "replication-unknown",
            "Whether the VM is a replica of another one is not known.",
            _AS_AFTER_A_POWER_CUT,
            "Let the account read the VM's ReplicationMode (Msvm_ComputerSystem).",
        )
    if vm.replication.mode not in _REPLICAS:
        return None
    return Reason(
        "vm-is-replica",
        "The VM is a replica: its disks hold what the primary VM wrote until some moment.",
        _AS_AFTER_A_POWER_CUT,
        "Protect the primary VM, too.",
    )


def _why_not_quiesced(vm: VmFacts) -> Iterator[Reason]:
    """Yield why the guest cannot take part, the gravest first."""
    crash = _AS_AFTER_A_POWER_CUT
    if vm.state == "saved":
        fix = "Start the VM, so that its guest can take part."
        yield Reason("vm-saved", "The VM is saved; its memory is not part of a checkpoint.", crash, fix)
    elif vm.state != "running":
        yield Reason("vm-not-running", f"The VM is {vm.state}.", crash, "Let it run.")
    if vm.checkpoint_setting not in ("production", "production_only"):
        found = vm.checkpoint_setting or "unknown"
        yield Reason(
            "production-switched-off",
            f"The VM's kind of checkpoint is {found}.",
            crash,
            "Choose production checkpoints in its settings.",
        )
    if not _knows_rct(vm):
        yield Reason(
            "version-too-old",
            f"The VM's configuration version is {vm.configuration_version or 'unknown'}; production "
            "checkpoints came with 6.2.",
            crash,
            "Upgrade it while the VM is off (Update-VMVersion).",
        )
    if not vm.guest.vss_writers:
        linux = vm.guest.family == "linux"
        service = "hypervvssd of the guest" if linux else "backup integration service of the guest"
        yield Reason(
            "guest-silent",
            f"The {service} does not answer (state: {vm.backup_component or 'unknown'}).",
            crash,
            "Install and start hyperv-daemons (Debian, Ubuntu: linux-cloud-tools) in the guest."
            if linux
            else "Enable the backup (volume shadow copy) integration service and update it in the guest.",
        )


def _told_besides(vm: VmFacts) -> Iterator[Reason]:
    """Yield what is to be known about the point besides."""
    left_out = excluded(vm)
    if left_out:
        labels = ", ".join(f"{disk.label} ({disk.kind or 'unknown kind'})" for disk in left_out)
        yield Reason(
            DISKS_EXCLUDED,
            f"No checkpoint can freeze {len(left_out)} of the VM's {len(vm.disks)} disks: {labels}.",
            "What they hold is not in the point.",
            "Convert them to VHDX, or protect them from inside the guest.",
        )
    if vm.unread_disks:
        yield Reason(
            DISKS_UNREAD,
            "The host lists media that may be the VM's and that cannot be placed: "
            f"{'; '.join(vm.unread_disks)}.",
            "If they are disks of the VM, what they hold is not in the point.",
            "Run `vmkeep hosts check NAME --report FILE` and report it; protect these disks by another way "
            "until then.",
        )
    if vm.foreign_recovery_checkpoint is not False:
        yield Reason(
            "foreign-checkpoint",
            "Another program's backup checkpoint is on the VM."
            if vm.foreign_recovery_checkpoint
            else "Whether another program's backup checkpoint is on the VM is not known.",
            "It stays untouched; if its owner removes it while this run reads, nothing is taken.",
            "Let no two programs protect one VM at the same time; look for its owner if it stays.",
        )
    if not _knows_rct(vm):
        yield Reason(
            "rct-unsupported",
            f"Change tracking needs configuration version 6.2; the VM has "
            f"{vm.configuration_version or 'an unknown one'}.",
            "Each run reads all of the VM; only what differs is stored.",
            "Upgrade it while the VM is off (Update-VMVersion).",
        )


def _increment(vm: VmFacts, has_earlier_point: bool, has_tracking: bool) -> Increment:
    if not has_earlier_point:
        return "full"
    return "rct" if has_tracking and _knows_rct(vm) else "compare"


def _knows_rct(vm: VmFacts) -> bool:
    parts = (vm.configuration_version or "").split(".")
    known = len(parts) == 2 and all(part.isascii() and part.isdigit() for part in parts)
    return known and (int(parts[0]), int(parts[1])) >= _RCT_VERSION


def _unproven(level: Consistency) -> Reason:
    """Say that a VM that is off does not prove what is required of it."""
    return Reason(
        SHUTDOWN_UNPROVEN,
        f"The policy requires {level.value}; nothing shows that the VM, which is off, was shut down cleanly.",
        "The point is taken, and does not count as what is required.",
        "Take the point while the VM runs; or start it once, shut it down from inside, and ask for "
        f"--consistency required:{Consistency.OFF.value}, preferred or any.",
    )


def _not_met(level: Consistency, promise: Consistency, whose: str = "") -> Reason:
    """Refuse; ``whose`` says for which guests ``promise`` is the best there is."""
    cure = "Lower the policy" if whose else "Remove the cause named above, or lower the policy"
    return Reason(
        "policy-not-met",
        f"The policy requires {level.value}; {promise.value} is the best that can be promised{whose}.",
        "The run is refused; nothing is taken.",
        f"{cure} with --consistency required:{promise.value} or preferred.",
    )
