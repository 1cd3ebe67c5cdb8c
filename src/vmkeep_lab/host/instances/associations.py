"""What belongs to what (section 1.2)."""

from collections.abc import Iterator

from vmkeep_lab.cim import CimValue, Instance, Ref
from vmkeep_lab.host.instances import components, drives, names
from vmkeep_lab.host.state import Checkpoint, Vm
from vmkeep_lab.host.world import World


def settings_of_systems(world: World) -> Iterator[Instance]:
    """Join each VM with its realised settings."""
    for vm in world.state.vms:
        yield _join(
            "Msvm_SettingsDefineState", ManagedElement=names.system(vm), SettingData=names.settings(vm.id)
        )


def checkpoints_of_systems(world: World) -> Iterator[Instance]:
    """Join each VM (antecedent) with its checkpoints (dependent)."""
    for vm in world.state.vms:
        for each in vm.checkpoints:
            yield _depends("Msvm_SnapshotOfVirtualSystem", names.system(vm), names.settings(each.id))


def newest_in_branch(world: World) -> Iterator[Instance]:
    """Join each VM with the checkpoint that its running state stands on."""
    yield from (_depends("Msvm_MostCurrentSnapshotInBranch", *pair) for pair in _standing(world))


def last_applied(world: World) -> Iterator[Instance]:
    """Join each VM with the checkpoint that was applied last, or taken since [B]."""
    yield from (_depends("Msvm_LastAppliedSnapshot", *pair) for pair in _standing(world))


def _standing(world: World) -> Iterator[tuple[Ref, Ref]]:
    for vm in world.state.vms:
        if vm.now:
            yield names.system(vm), names.settings(vm.now)


def parts_of_settings(world: World) -> Iterator[Instance]:
    """Join the settings of VMs and checkpoints with their controllers, drives, media and so on."""
    for vm in world.state.vms:
        for owner, checkpoint in names.owners(vm):
            for part in _parts(world, vm, owner, checkpoint):
                ref = Ref.to(part.class_name, InstanceID=str(part.values["InstanceID"]))
                yield _join(
                    "Msvm_VirtualSystemSettingDataComponent",
                    GroupComponent=names.settings(owner),
                    PartComponent=ref,
                )


def _parts(world: World, vm: Vm, owner: str, checkpoint: Checkpoint | None) -> Iterator[Instance]:
    yield from drives.allocations_of(world, vm, owner, checkpoint)
    yield from drives.media_of(world, vm, owner, checkpoint)


def reference_points_of_systems(world: World) -> Iterator[Instance]:
    """Join each VM with its reference points."""
    for vm in world.state.vms:
        for point in vm.reference_points:
            yield _depends(
                "Msvm_ReferencePointOfVirtualSystem", names.system(vm), names.reference_point(vm, point)
            )


def devices_of_systems(world: World) -> Iterator[Instance]:
    """Join each VM with its integration components."""
    keys = ("CreationClassName", "DeviceID", "SystemCreationClassName", "SystemName")
    for build in (components.vss, components.heartbeat, components.shutdown, components.data_exchange):
        for part in build(world):
            vm = world.state.vm(str(part.values["SystemName"]))
            if vm:
                ref = Ref.to(part.class_name, **{key: str(part.values[key]) for key in keys})
                yield _join("Msvm_SystemDevice", GroupComponent=names.system(vm), PartComponent=ref)


def export_settings_of_systems(world: World) -> Iterator[Instance]:
    """Join each VM with the template of its export."""
    for vm in world.state.vms:
        template = Ref.to("Msvm_VirtualSystemExportSettingData", InstanceID=names.settings_id(vm.id))
        yield _join("Msvm_SystemExportSettingData", ManagedElement=names.system(vm), SettingData=template)


def _depends(class_name: str, antecedent: Ref, dependent: Ref) -> Instance:
    return _join(class_name, Antecedent=antecedent, Dependent=dependent)


def _join(class_name: str, **ends: Ref) -> Instance:
    values: dict[str, CimValue] = dict(ends)
    return Instance(class_name, values)
