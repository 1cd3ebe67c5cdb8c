"""Spell the ids, references and object paths of a host's instances (sections 1.2 and 1.3)."""

from typing import Final

from vmkeep_lab.cim import Ref
from vmkeep_lab.host.state import Checkpoint, Disk, ReferencePoint, Vm, numbered_id
from vmkeep_lab.host.world import World

IDE_CONTROLLER: Final = "83F8638B-8DCA-4152-9EDA-2CA8B33039B4"  # the same on every host [B]


def system(vm: Vm) -> Ref:
    """Return the reference to a VM."""
    return Ref.to("Msvm_ComputerSystem", CreationClassName="Msvm_ComputerSystem", Name=vm.id)


def host_system(world: World) -> Ref:
    """Return the reference to the host's own entry."""
    return Ref.to("Msvm_ComputerSystem", CreationClassName="Msvm_ComputerSystem", Name=world.state.name)


def settings_id(guid: str) -> str:
    """Return the InstanceID of a VM's settings, or of a checkpoint's: ``Microsoft:<GUID>`` (recorded)."""
    return f"Microsoft:{guid}"


def settings(guid: str) -> Ref:
    """Return the reference to a VM's settings, or to a checkpoint's."""
    return Ref.to("Msvm_VirtualSystemSettingData", InstanceID=settings_id(guid))


def reference_point(vm: Vm, point: ReferencePoint) -> Ref:
    """Return the reference to a reference point; both keys [V: D], the form of the id [B]."""
    return Ref.to(
        "Msvm_VirtualSystemReferencePoint",
        InstanceID=settings_id(point.id),
        VirtualSystemIdentifier=vm.id,
    )


def controller_id(vm: Vm, number: int, owner: str) -> str:
    """Return the InstanceID of a controller among the settings of ``owner``, a VM or a checkpoint."""
    if vm.generation == 1:
        return rf"Microsoft:{owner}\{IDE_CONTROLLER}\{number}"
    return rf"Microsoft:{owner}\{numbered_id(f'{vm.id}/controller/{number}')}\{number}"


def drive_id(vm: Vm, disk: Disk, owner: str) -> str:
    """Return the InstanceID of a drive [B]."""
    return rf"{controller_id(vm, disk.controller, owner)}\{disk.location}\D"


def medium_id(vm: Vm, disk: Disk, owner: str) -> str:
    """Return the InstanceID of a drive's medium [B]."""
    return rf"{controller_id(vm, disk.controller, owner)}\{disk.location}\L"


def allocation(instance_id: str) -> Ref:
    """Return the reference to a controller or drive."""
    return Ref.to("Msvm_ResourceAllocationSettingData", InstanceID=instance_id)


def medium(instance_id: str) -> Ref:
    """Return the reference to a medium."""
    return Ref.to("Msvm_StorageAllocationSettingData", InstanceID=instance_id)


def object_path(world: World, ref: Ref) -> str:
    r"""Return the path as string properties carry it: ``\\HOST\root\virtualization\v2:Class.Key="..."``."""
    namespace, colon, rest = ref.path().partition(":")
    return rf"\\{world.state.name}\{namespace.replace('/', chr(92))}{colon}{rest}"


def owners(vm: Vm) -> list[tuple[str, Checkpoint | None]]:
    """Return whose settings a VM has: its own, and each checkpoint's."""
    return [(vm.id, None), *((each.id, each) for each in vm.checkpoints)]
