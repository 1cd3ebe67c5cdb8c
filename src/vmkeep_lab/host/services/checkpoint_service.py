"""``Msvm_VirtualSystemSnapshotService``: checkpoints made, destroyed, applied, converted (section 2.1)."""

from collections.abc import Callable, Iterable
from typing import Final

from vmkeep_lab.cim import Arguments, Ref
from vmkeep_lab.host import checkpoints, codes
from vmkeep_lab.host.codes import (
    CheckpointKind,
    CheckpointSetting,
    Consistency,
    JobType,
    Power,
    Returned,
    Status,
)
from vmkeep_lab.host.faults import At
from vmkeep_lab.host.instances import names
from vmkeep_lab.host.jobs import OperationFailed
from vmkeep_lab.host.services.targets import (
    Answer,
    answer,
    checkpoint_of,
    number,
    refused_at,
    setting,
    start,
    strike,
    vm_of,
)
from vmkeep_lab.host.state import Checkpoint, Vm
from vmkeep_lab.host.world import World

_REPLICATING: Final = (
    2,
    9,
    10,
)  # ReplicationState while changes are on their way: initial copy, resynchronising


def create(world: World, _: Ref, arguments: Arguments) -> Answer:
    """CreateSnapshot: 2 a user's checkpoint, 32768 a recovery checkpoint (fact 1), 3 not supported here."""
    vm = vm_of(world, arguments.get("AffectedSystem"))
    if vm is None:
        return answer(codes.CIM_INVALID_PARAMETER)
    kind = {codes.TYPE_FULL: CheckpointKind.USER, codes.TYPE_RECOVERY: CheckpointKind.RECOVERY}.get(
        number(arguments, "SnapshotType", codes.TYPE_FULL)
    )
    if kind is None:
        return answer(codes.CIM_INVALID_TYPE)
    if refused := refused_at(world, At.CREATE_CALL, vm):
        return refused
    if world.is_busy(vm):
        return answer(Returned.INVALID_STATE)  # 32775 while an operation has the VM (section 2.2, GW)
    level = setting(arguments, "SnapshotSettings", "ConsistencyLevel")
    asked = Consistency(level) if isinstance(level, int) and level in (1, 2) else Consistency.UNKNOWN
    ignores = setting(arguments, "SnapshotSettings", "IgnoreNonSnapshottableDisks") is True
    return start(
        world,
        vm,
        JobType.CHECKPOINT,
        _time_needed(world, vm, asked),
        lambda: _create(world, vm, kind, asked, ignores),
        Status.CREATING_CHECKPOINT,
    )


def _time_needed(world: World, vm: Vm, asked: Consistency) -> float:
    """Return how long it takes: the second failure of report R3 is a time-out."""
    waits = asked is Consistency.APPLICATION and vm.guest.counter_leaked and not vm.guest.writer_failed
    return world.behaviour.guest_timeout_s if waits else world.behaviour.checkpoint_s


def _create(world: World, vm: Vm, kind: CheckpointKind, asked: Consistency, ignores: bool) -> Iterable[Ref]:
    try:
        strike(world.faults.take(At.CREATE_JOB, vm.id))
        _check_possible(world, vm, ignores)
        if kind is CheckpointKind.USER:
            checkpoint = _take_for_user(world, vm)
        else:
            checkpoint = checkpoints.take(world, vm, kind, checkpoints.quiesce(world, vm, asked))
        strike(world.faults.take(At.CREATE_LATE, vm.id))
    except OperationFailed as failure:
        code = f"0x{failure.hresult:08X}"
        if failure.reason != "conflict":
            reason = world.texts.say(failure.reason)
            world.log(codes.EVENT_CHECKPOINT_FAILED, "checkpoint_failed", vm, reason=reason, code=code)
        raise
    return [names.settings(checkpoint.id)]


def _check_possible(world: World, vm: Vm, ignores: bool) -> None:
    if vm.setting is CheckpointSetting.DISABLED:
        # Believed to hold for recovery checkpoints too (section 1.2).
        raise OperationFailed(Returned.FAILED, codes.CHECKPOINTS_DISABLED, "checkpoints_disabled")
    if vm.replication_state in _REPLICATING:
        raise OperationFailed(Returned.FAILED, 0x80004005, "conflict")  # section 2.6
    if any(each.kind == "shared" for each in vm.disks):
        raise OperationFailed(Returned.NOT_SUPPORTED, 0x80070032, "unspecified")  # section 1.3
    if any(each.kind == "passthrough" for each in vm.disks) and not ignores:
        raise OperationFailed(
            Returned.NOT_SUPPORTED, 0x80070032, "unspecified"
        )  # section 2.1, the flag's sense
    waiting = [world.places.real(each) for merge in vm.merges for each in (merge.child, merge.parent)]
    if waiting and world.handles.holders(waiting):
        # After a merge failed on an open handle the next checkpoint fails too (fact 10).
        raise OperationFailed(Returned.SYSTEM_IN_USE, codes.SHARING_VIOLATION, "sharing_violation")


def _take_for_user(world: World, vm: Vm) -> Checkpoint:
    """Take a user's checkpoint as the VM's setting says: production first, with memory where that fails."""
    runs = vm.power is Power.RUNNING
    if vm.setting is CheckpointSetting.STANDARD:
        return checkpoints.take(world, vm, CheckpointKind.USER, Consistency.CRASH, memory=runs)
    try:
        reached = checkpoints.quiesce(world, vm, Consistency.APPLICATION)
    except OperationFailed:
        if vm.setting is CheckpointSetting.PRODUCTION_ONLY:
            raise
        return checkpoints.take(world, vm, CheckpointKind.USER, Consistency.CRASH, memory=runs)
    return checkpoints.take(world, vm, CheckpointKind.USER, reached)


def destroy(world: World, _: Ref, arguments: Arguments) -> Answer:
    """DestroySnapshot: one checkpoint goes, its files merge in the background."""
    return _on_checkpoint(
        world, arguments, "AffectedSnapshot", lambda vm, each: _start_destroying(world, vm, [each])
    )


def destroy_tree(world: World, _: Ref, arguments: Arguments) -> Answer:
    """DestroySnapshotTree: a checkpoint and all that stand on it."""
    return _on_checkpoint(
        world,
        arguments,
        "SnapshotSettingData",
        lambda vm, each: _start_destroying(world, vm, checkpoints.descendants(vm, each)),
    )


def _start_destroying(world: World, vm: Vm, doomed: list[Checkpoint]) -> Answer:
    if refused := refused_at(world, At.DESTROY_CALL, vm):
        return refused

    def work() -> Iterable[Ref]:
        strike(world.faults.take(At.DESTROY_JOB, vm.id))
        for each in doomed:
            if vm.checkpoint(each.id):
                checkpoints.remove(world, vm, each)
        return []

    return start(world, vm, JobType.DESTROY, world.behaviour.destroy_s, work, Status.DELETING_CHECKPOINT)


def apply(world: World, _: Ref, arguments: Arguments) -> Answer:
    """ApplySnapshot: back to a checkpoint; the VM must be off or saved."""

    def begin(vm: Vm, checkpoint: Checkpoint) -> Answer:
        if vm.power not in (Power.OFF, Power.SAVED):
            return answer(Returned.INVALID_STATE)

        def work() -> Iterable[Ref]:
            checkpoints.apply(world, vm, checkpoint)
            return []

        return start(world, vm, JobType.APPLY, world.behaviour.apply_s, work, Status.APPLYING_CHECKPOINT)

    return _on_checkpoint(world, arguments, "Snapshot", begin)


def convert(world: World, _: Ref, arguments: Arguments) -> Answer:
    """ConvertToReferencePoint: only recovery checkpoints, which go as a side effect (section 2.1)."""

    def begin(vm: Vm, checkpoint: Checkpoint) -> Answer:
        if checkpoint.kind is not CheckpointKind.RECOVERY:
            return answer(codes.CIM_INVALID_TYPE)
        if refused := refused_at(world, At.CONVERT_CALL, vm):
            return refused

        def work() -> Iterable[Ref]:
            strike(world.faults.take(At.CONVERT_JOB, vm.id))
            point = checkpoints.convert(world, vm, checkpoint)
            strike(world.faults.take(At.CONVERT_LATE, vm.id))
            return [names.reference_point(vm, point)]

        return start(
            world,
            vm,
            JobType.CONVERT_TO_REFERENCE_POINT,
            world.behaviour.convert_s,
            work,
            Status.DELETING_CHECKPOINT,
        )

    return _on_checkpoint(world, arguments, "AffectedSnapshot", begin)


def _on_checkpoint(
    world: World, arguments: Arguments, name: str, begin: Callable[[Vm, Checkpoint], Answer]
) -> Answer:
    """Refuse a dead reference and a busy VM, else begin."""
    found = checkpoint_of(world, arguments.get(name))
    if found is None:
        return answer(codes.CIM_INVALID_PARAMETER)
    vm, checkpoint = found
    if world.jobs.running(vm.id):
        return answer(Returned.INVALID_STATE)
    return begin(vm, checkpoint)
