"""Controllers, drives and media of VMs and checkpoints, and their memory and processors (section 1.3)."""

from collections.abc import Iterator
from typing import Final

from vmkeep_lab.cim import CimValue, Instance
from vmkeep_lab.host.instances import names
from vmkeep_lab.host.state import Checkpoint, Disk, Vm, numbered_id
from vmkeep_lab.host.world import World

_IDE: Final = (5, "Microsoft:Hyper-V:Emulated IDE Controller")
_SCSI: Final = (6, "Microsoft:Hyper-V:Synthetic SCSI Controller")
_DRIVE: Final = (17, "Microsoft:Hyper-V:Synthetic Disk Drive")
_PHYSICAL: Final = (17, "Microsoft:Hyper-V:Physical Disk Drive")
_DVD_DRIVE: Final = (16, "Microsoft:Hyper-V:Synthetic DVD Drive")
_HARD_DISK: Final = (31, "Microsoft:Hyper-V:Virtual Hard Disk")
_DVD: Final = (31, "Microsoft:Hyper-V:Virtual CD/DVD Disk")


def allocations(world: World) -> Iterator[Instance]:
    """Yield every controller and drive."""
    for vm in world.state.vms:
        for owner, checkpoint in names.owners(vm):
            yield from allocations_of(world, vm, owner, checkpoint)


def allocations_of(world: World, vm: Vm, owner: str, checkpoint: Checkpoint | None) -> Iterator[Instance]:
    """Yield the controllers and drives among one owner's settings."""
    numbers = {0, 1} if vm.generation == 1 else {each.controller for each in vm.disks} | {0}
    for number in sorted(numbers):
        kind, subtype = _IDE if vm.generation == 1 else _SCSI
        yield Instance(
            "Msvm_ResourceAllocationSettingData",
            {
                "Address": str(number),
                "ElementName": world.texts.say("controller", number=number),
                "InstanceID": names.controller_id(vm, number, owner),
                "ResourceSubType": subtype,
                "ResourceType": kind,
            },
        )
    for disk in disks_of(vm, checkpoint):
        yield _drive(world, vm, owner, disk)


def _drive(world: World, vm: Vm, owner: str, disk: Disk) -> Instance:
    kind, subtype = {"passthrough": _PHYSICAL, "dvd": _DVD_DRIVE}.get(disk.kind, _DRIVE)
    controller = names.allocation(names.controller_id(vm, disk.controller, owner))
    values: dict[str, CimValue] = {
        "AddressOnParent": str(disk.location),
        "ElementName": world.texts.say("drive"),
        "InstanceID": names.drive_id(vm, disk, owner),
        "Parent": names.object_path(world, controller),
        "ResourceSubType": subtype,
        "ResourceType": kind,
    }
    if disk.kind == "passthrough":
        values["HostResource"] = [disk.leaf]
    return Instance("Msvm_ResourceAllocationSettingData", values)


def media(world: World) -> Iterator[Instance]:
    """Yield every disk file that a VM or a checkpoint shows."""
    for vm in world.state.vms:
        for owner, checkpoint in names.owners(vm):
            yield from media_of(world, vm, owner, checkpoint)


def media_of(world: World, vm: Vm, owner: str, checkpoint: Checkpoint | None) -> Iterator[Instance]:
    """Yield the disk files among one owner's settings: a checkpoint shows its frozen leaves (section 2.3)."""
    for disk in disks_of(vm, checkpoint):
        if disk.kind == "passthrough":
            continue
        kind, subtype = _DVD if disk.kind == "dvd" else _HARD_DISK
        path = checkpoint.disks[disk.slot].path if checkpoint and disk.is_file else disk.leaf
        drive = names.allocation(names.drive_id(vm, disk, owner))
        yield Instance(
            "Msvm_StorageAllocationSettingData",
            {
                "CachingMode": 1,
                "ElementName": world.texts.say("medium"),
                "HostResource": [path],
                "IgnoreFlushes": False,
                "InstanceID": names.medium_id(vm, disk, owner),
                "Parent": names.object_path(world, drive),
                "PersistentReservationsSupported": disk.kind == "shared",
                "ResourceSubType": subtype,
                "ResourceType": kind,
                "WriteHardeningMethod": 0,
            },
        )


def disks_of(vm: Vm, checkpoint: Checkpoint | None) -> list[Disk]:
    """Return the disks that a VM or a checkpoint has; a DVD or a passthrough disk belongs to both."""
    if checkpoint is None:
        return vm.disks
    return [each for each in vm.disks if each.slot in checkpoint.disks or not each.is_file]


def memories(world: World) -> Iterator[Instance]:
    """Yield the memory of each VM."""
    for vm in world.state.vms:
        for owner, _ in names.owners(vm):
            yield Instance(
                "Msvm_MemorySettingData",
                {
                    "AllocationUnits": "byte * 2^20",
                    "DynamicMemoryEnabled": False,
                    "InstanceID": rf"Microsoft:{owner}\{numbered_id('memory')}",
                    "Limit": vm.memory_mb,
                    "Reservation": vm.memory_mb,
                    "ResourceSubType": "Microsoft:Hyper-V:Memory",
                    "ResourceType": 4,
                    "VirtualQuantity": vm.memory_mb,
                    "VirtualQuantityUnits": "byte * 2^20",
                },
            )


def processors(world: World) -> Iterator[Instance]:
    """Yield the processors of each VM."""
    for vm in world.state.vms:
        for owner, _ in names.owners(vm):
            yield Instance(
                "Msvm_ProcessorSettingData",
                {
                    "InstanceID": rf"Microsoft:{owner}\{numbered_id('processor')}\0",
                    "ResourceSubType": "Microsoft:Hyper-V:Processor",
                    "ResourceType": 3,
                    "VirtualQuantity": vm.processors,
                    "VirtualQuantityUnits": "count",
                },
            )
