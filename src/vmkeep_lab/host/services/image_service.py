"""``Msvm_ImageManagementService``: what disk files are, and what changed in them (sections 1.3 and 2.1)."""

from typing import Final

from vmkeep_lab.cim import Arguments, CimScalar, CimValue, Instance, Ref
from vmkeep_lab.disks import TrackingIdInvalid, TrackingLost, TrackingOff
from vmkeep_lab.host.codes import JobType, Power, Returned
from vmkeep_lab.host.faults import At
from vmkeep_lab.host.jobs import Job
from vmkeep_lab.host.services.targets import Answer, answer, number, text
from vmkeep_lab.host.state import Disk, Layer, Vm
from vmkeep_lab.host.world import World

_FIXED: Final = 2
_DYNAMIC: Final = 3
_DIFFERENCING: Final = 4
_VHDX: Final = 3


def changes(world: World, _: Ref, arguments: Arguments) -> Answer:
    """GetVirtualDiskChanges: ranges of the virtual disk, in windows that may end early (fact 8).

    An id that is not known is refused with 32773; which code a real host gives nobody has seen.
    """
    found = _layer_of(world, text(arguments, "Path"))
    if found is None:
        return answer(Returned.FILE_NOT_FOUND)
    vm, disk = found[:2]
    offset, length = number(arguments, "ByteOffset"), number(arguments, "ByteLength")
    if offset + length > disk.size or arguments.get("TargetSnapshotId"):
        return answer(Returned.INVALID_PARAMETER)
    if world.faults.take(At.CHANGES_UNKNOWN, vm.id):
        return answer(Returned.INVALID_PARAMETER)
    if world.faults.take(At.CHANGES_JOB, vm.id):
        return _as_job(world, vm)
    if world.faults.take(At.CHANGES_STUCK, vm.id):
        return _ranges([], 0)
    if world.faults.take(At.CHANGES_EMPTY, vm.id):
        return _ranges([], length)
    if world.faults.take(At.CHANGES_INFLATED, vm.id):
        return _ranges([(offset, length)], length)
    try:
        most = world.behaviour.most_ranges
        ranges, covered = world.media.changes(disk, text(arguments, "LimitId"), offset, length, most)
    except (TrackingIdInvalid, TrackingLost, TrackingOff):
        return answer(Returned.INVALID_PARAMETER)
    return _ranges(ranges, covered)


def _ranges(ranges: list[tuple[int, int]], covered: int) -> Answer:
    offsets: list[CimScalar] = [start for start, _ in ranges]
    lengths: list[CimScalar] = [length for _, length in ranges]
    return {
        "ProcessedByteLength": covered,
        "ChangedByteOffsets": offsets,
        "ChangedByteLengths": lengths,
        "ReturnValue": int(Returned.DONE),
    }


def _as_job(world: World, vm: Vm) -> Answer:
    """Answer with a job, which carries no ranges (section 5.4: never observed, and no way to read them)."""
    job = world.jobs.start(
        Job(
            id=world.state.new_id(),
            type=JobType.MODIFY,
            vm_id=vm.id,
            began=world.clock.monotonic(),
            lasts=world.behaviour.reference_s,
            submitted=world.clock.now(),
            work=list,
            class_name="Msvm_StorageJob",
        )
    )
    return {"Job": job.ref, "ReturnValue": int(Returned.JOB_STARTED)}


def setting_data(world: World, _: Ref, arguments: Arguments) -> Answer:
    """GetVirtualHardDiskSettingData: kind, sizes, identity and parent of a file."""
    found = _layer_of(world, text(arguments, "Path"))
    if found is None:
        return answer(Returned.FILE_NOT_FOUND)
    disk, layer = found[1:]
    values: dict[str, CimValue] = {
        "BlockSize": 0 if disk.fixed and not layer.below else 2 << 20,
        "ElementName": layer.path.rpartition("\\")[2],
        "Format": _VHDX,
        "InstanceID": disk.disk_id,
        "IsPmemCompatible": False,
        "LogicalSectorSize": 512,
        "MaxInternalSize": disk.size,
        "Path": layer.path,
        "PhysicalSectorSize": 4096,
        "Type": _DIFFERENCING if layer.below else _FIXED if disk.fixed else _DYNAMIC,
        "VirtualDiskId": disk.disk_id,
    }
    if layer.below:
        values["ParentPath"] = layer.below
    return {"SettingData": Instance("Msvm_VirtualHardDiskSettingData", values), "ReturnValue": 0}


def state(world: World, _: Ref, arguments: Arguments) -> Answer:
    """GetVirtualHardDiskState: the size of the file, and whether somebody has it."""
    found = _layer_of(world, text(arguments, "Path"))
    if found is None:
        return answer(Returned.FILE_NOT_FOUND)
    vm, disk, layer = found
    place = world.places.real(layer.path)
    size = place.stat().st_size if place.exists() else disk.used
    values: dict[str, CimValue] = {
        "Alignment": 0,
        "FileSize": size,
        "FragmentationPercentage": 0,
        "InUse": vm.power is Power.RUNNING,
        "MinInternalSize": disk.used,
        "PhysicalSectorSize": 4096,
    }
    return {"State": Instance("Msvm_VirtualHardDiskState", values), "ReturnValue": 0}


def _layer_of(world: World, path: str) -> tuple[Vm, Disk, Layer] | None:
    """Return the file of a path, compared as Windows does."""
    wanted = path.lower()
    for vm in world.state.vms:
        for disk in vm.file_disks:
            for layer in disk.layers:
                if layer.path.lower() == wanted:
                    return vm, disk, layer
    return None
