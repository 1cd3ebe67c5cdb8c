"""Merge what removed checkpoints left, in the background, and retry what failed."""

from vmkeep_lab.disks import DiskError
from vmkeep_lab.host import codes, layers
from vmkeep_lab.host.faults import At
from vmkeep_lab.host.state import Disk, Merge, Vm
from vmkeep_lab.host.world import Attempt, World


def settle(world: World, vm: Vm) -> None:
    """Delete the files that nobody needs and note the merges that are owed; they begin at once."""
    for disk in vm.file_disks:
        while unneeded := layers.unneeded(vm, disk):
            for path in unneeded:
                world.media.delete(disk, path)
            disk.layers = [each for each in disk.layers if each.path not in unneeded]
        _owe(world, vm, disk)
    world.changed = True


def _owe(world: World, vm: Vm, disk: Disk) -> None:
    """Note the next merge of a disk, unless one waits already."""
    if any(each.slot == disk.slot for each in vm.merges):
        return
    merge = layers.owed(vm, disk)
    if merge:
        vm.merges.append(merge)
        begin(world, vm, merge, 0.0)


def begin(world: World, vm: Vm, merge: Merge, after_s: float) -> None:
    """Plan an attempt; nothing begins while merging is switched off for the VM (fact 7)."""
    if not vm.merging_enabled:
        return
    start = world.clock.monotonic() + after_s
    world.attempts[vm.id, merge.slot] = Attempt(start, start + world.behaviour.merge_s)
    if after_s == 0:
        world.log(codes.EVENT_MERGE_STARTED, "merge_started", vm)


def resume(world: World, vm: Vm) -> None:
    """Begin every merge that is owed and not planned: after a restart, or when merging is allowed again."""
    for merge in vm.merges:
        if (vm.id, merge.slot) not in world.attempts:
            begin(world, vm, merge, 0.0)


def stop(world: World, vm: Vm) -> None:
    """Interrupt the VM's merges; they stay owed."""
    if any(vm_id == vm.id for vm_id, _ in world.attempts):
        world.log(codes.EVENT_MERGE_INTERRUPTED, "merge_interrupted", vm)
    world.attempts = {key: each for key, each in world.attempts.items() if key[0] != vm.id}


def advance(world: World) -> None:
    """Do every merge whose time has come; other operations on the VM come first."""
    now = world.clock.monotonic()
    for (vm_id, slot), attempt in list(world.attempts.items()):
        vm = world.state.vm(vm_id)
        if attempt.ends > now or vm is None or world.jobs.running(vm_id):
            continue
        del world.attempts[vm_id, slot]
        for merge in [each for each in vm.merges if each.slot == slot]:
            _attempt(world, vm, merge)


def _attempt(world: World, vm: Vm, merge: Merge) -> None:
    disk = vm.disk(merge.slot)
    files = [world.places.real(merge.child), world.places.real(merge.parent)]
    if fault := world.faults.take(At.MERGE, vm.id):
        _fail(world, vm, merge, fault.hresult, fault.reason)
        return
    if world.handles.holders(files):
        # Any handle that is still open makes the merge fail, again and again (fact 10; failures.md 3.4).
        _fail(world, vm, merge, codes.SHARING_VIOLATION, "sharing_violation")
        return
    try:
        world.media.merge(disk, merge.child)
    except DiskError as error:
        _fail(world, vm, merge, error.code, "unspecified")
        return
    vm.merges.remove(merge)
    layers.merged(vm, disk, merge)
    world.log(codes.EVENT_MERGE_DONE, "merge_done", vm)
    settle(world, vm)


def _fail(world: World, vm: Vm, merge: Merge, hresult: int, reason: str) -> None:
    """Log a merge that failed, and plan the next try."""
    merge.attempts += 1
    text = world.texts.say(reason)
    world.log(codes.EVENT_MERGE_FAILED, "merge_failed", vm, reason=text, code=f"0x{hresult:08X}")
    begin(world, vm, merge, world.behaviour.merge_retry_s)
