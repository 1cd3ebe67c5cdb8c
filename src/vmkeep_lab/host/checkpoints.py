"""Freeze a VM's disks, and let go: checkpoints, reference points, and going back to a checkpoint."""

from pathlib import PureWindowsPath

from vmkeep_lab.host import codes, configuration, merges
from vmkeep_lab.host.codes import CheckpointKind, Consistency, Power, Status
from vmkeep_lab.host.jobs import OperationFailed
from vmkeep_lab.host.places import folder_of, stem_of
from vmkeep_lab.host.state import Checkpoint, Disk, Frozen, Layer, ReferencePoint, Vm
from vmkeep_lab.host.world import APPLICATION, World


def take(
    world: World, vm: Vm, kind: CheckpointKind, consistency: Consistency, name: str = "", memory: bool = False
) -> Checkpoint:
    """Freeze every disk file where it is and let the VM write on into new ones.

    The truth is written down before anybody can see the checkpoint. A recovery checkpoint has no memory
    (section 4), a user's standard one has.
    """
    checkpoint = Checkpoint(
        id=world.state.new_id(),
        name=name or _default_name(world, vm, kind),
        kind=kind,
        created=world.clock.now(),
        consistency=consistency,
        disks={disk.slot: _freeze(world, vm, disk, kind) for disk in vm.file_disks},
        parent=vm.now,
        has_memory=memory,
    )
    configuration.write_checkpoint(world, vm, checkpoint)
    for slot, frozen in checkpoint.disks.items():
        world.testify(vm, vm.disk(slot), frozen.path, checkpoint.id, kind.name.lower())
    vm.checkpoints.append(checkpoint)
    # It stands in the tree like a user's, with the running state on top [B].
    vm.now = checkpoint.id
    world.changed = True
    return checkpoint


def _freeze(world: World, vm: Vm, disk: Disk, kind: CheckpointKind) -> Frozen:
    """Put a new file on top of a disk's leaf; the leaf is read-only from now on.

    A recovery checkpoint switches change tracking on, where the VM's version knows it (section 2.3).
    """
    path = disk.leaf
    name = f"{stem_of(path)}_{world.state.new_id()}.avhdx"
    new = str(PureWindowsPath(folder_of(path), name))
    is_tracked = kind is CheckpointKind.RECOVERY and vm.has_tracking
    rct_id = world.media.mark(disk) if is_tracked else ""
    world.media.freeze(disk, new)
    disk.layers.append(Layer(new, below=path))
    disk.leaf = new
    return Frozen(path, rct_id)


def _default_name(world: World, vm: Vm, kind: CheckpointKind) -> str:
    key = "checkpoint_name" if kind is CheckpointKind.RECOVERY else "user_checkpoint_name"
    return world.texts.say(key, name=vm.name, time=world.clock.now().strftime("%Y-%m-%d %H:%M:%S"))


def quiesce(world: World, vm: Vm, asked: Consistency) -> Consistency:
    """Bring the guest to rest and return the level reached; OperationFailed where the guest cannot.

    A VM that is off or saved is at rest [B]. The counter of report R3: a writer's failure leaves it set, so
    that the next attempt fails too although the cause is gone, and only that failure clears it.
    """
    if asked is not Consistency.APPLICATION:
        return Consistency.CRASH
    guest = vm.guest
    if vm.power is not Power.RUNNING:
        return Consistency.APPLICATION
    if not guest.vss_enabled or guest.vss not in (Status.OK, Status.DEGRADED):
        raise OperationFailed(codes.Returned.FAILED, codes.GUEST_UNREACHABLE, "guest_unreachable")
    if guest.writer_failed or guest.counter_leaked:
        guest.counter_leaked = guest.writer_failed
        reason = world.texts.say("guest_writer_failed")
        # The same event for both failures, so that events cannot tell them apart (report R3).
        world.log(codes.EVENT_WRITER_REJECTED, "writer_rejected", vm, APPLICATION, reason=reason)
        raise OperationFailed(codes.Returned.FAILED, codes.GUEST_WRITER_FAILED, "guest_writer_failed")
    return Consistency.APPLICATION


def remove(world: World, vm: Vm, checkpoint: Checkpoint) -> None:
    """Forget a checkpoint; those on it stand on its parent now, and its files are merged or deleted."""
    vm.checkpoints.remove(checkpoint)
    for each in vm.checkpoints:
        if each.parent == checkpoint.id:
            each.parent = checkpoint.parent
    if vm.now == checkpoint.id:
        vm.now = checkpoint.parent
    kept = {rct_id for point in vm.reference_points for rct_id in point.rct_ids.values()}
    for slot, frozen in checkpoint.disks.items():
        if frozen.rct_id and frozen.rct_id not in kept:
            world.media.forget(vm.disk(slot), frozen.rct_id)
    configuration.delete_checkpoint(world, vm, checkpoint)
    merges.settle(world, vm)


def descendants(vm: Vm, checkpoint: Checkpoint) -> list[Checkpoint]:
    """Return a checkpoint and all that stand on it, the topmost first."""
    found = [checkpoint]
    for each in found:
        found += [child for child in vm.checkpoints if child.parent == each.id]
    return found[::-1]


def convert(world: World, vm: Vm, checkpoint: Checkpoint) -> ReferencePoint:
    """Turn a recovery checkpoint into a reference point; the checkpoint goes (section 2.1)."""
    rct_ids = {slot: each.rct_id for slot, each in checkpoint.disks.items() if each.rct_id}
    point = _note(world, vm, checkpoint.consistency, rct_ids, sorted(checkpoint.disks))
    remove(world, vm, checkpoint)
    return point


def mark(world: World, vm: Vm, consistency: Consistency) -> ReferencePoint:
    """Make a reference point of this very instant, without a checkpoint."""
    rct_ids = {disk.slot: world.media.mark(disk) for disk in vm.file_disks if vm.has_tracking}
    point = _note(world, vm, consistency, rct_ids, sorted(each.slot for each in vm.file_disks))
    for disk in vm.file_disks:
        world.testify(vm, disk, disk.leaf, point.id, "reference-point")
    return point


def _note(
    world: World, vm: Vm, consistency: Consistency, rct_ids: dict[str, str], slots: list[str]
) -> ReferencePoint:
    point = ReferencePoint(world.state.new_id(), world.clock.now(), consistency, rct_ids, slots)
    vm.reference_points.append(point)
    world.changed = True
    return point


def drop(world: World, vm: Vm, point: ReferencePoint) -> None:
    """Forget a reference point; its RCT ids mean nothing from now on [B]."""
    vm.reference_points.remove(point)
    for slot, rct_id in point.rct_ids.items():
        world.media.forget(vm.disk(slot), rct_id)
    world.changed = True


def apply(world: World, vm: Vm, checkpoint: Checkpoint) -> None:
    """Go back to a checkpoint: what was written since is dropped, and change tracking does not notice.

    RCT ids made since then still answer, and the answer leaves out what going back changed (design 6).
    """
    for slot, frozen in checkpoint.disks.items():
        disk = vm.disk(slot)
        name = f"{stem_of(frozen.path)}_{world.state.new_id()}.avhdx"
        new = str(PureWindowsPath(folder_of(frozen.path), name))
        world.media.revert(disk, frozen.path, new)
        disk.layers = [each for each in disk.layers if each.path != disk.leaf]
        disk.layers.append(Layer(new, below=frozen.path))
        disk.leaf = new
    vm.now = checkpoint.id
    vm.power = Power.SAVED if checkpoint.has_memory else Power.OFF
    merges.stop(world, vm)
    vm.merges.clear()
    merges.settle(world, vm)
