"""The settings of VMs and checkpoints, reference points, and the small settings around them."""

from collections.abc import Iterator
from datetime import timedelta

from vmkeep_lab.cim import CimValue, Instance
from vmkeep_lab.host import codes
from vmkeep_lab.host.codes import CheckpointKind, Power
from vmkeep_lab.host.configuration import GUEST_STATE_SINCE, checkpoint_file, configuration_file
from vmkeep_lab.host.instances import names
from vmkeep_lab.host.state import Checkpoint, Vm, numbered_id
from vmkeep_lab.host.world import World


def all_settings(world: World) -> Iterator[Instance]:
    """Yield each VM's realised settings and each checkpoint's."""
    for vm in world.state.vms:
        for _, checkpoint in names.owners(vm):
            yield settings_of(world, vm, checkpoint)


def settings_of(world: World, vm: Vm, checkpoint: Checkpoint | None) -> Instance:
    """Return the settings of a VM, or of one of its checkpoints (section 1.2)."""
    file = checkpoint_file(checkpoint) if checkpoint else configuration_file(vm)
    below = checkpoint.parent if checkpoint else vm.now
    values: dict[str, CimValue] = {
        "AutomaticRecoveryAction": 3,
        "AutomaticShutdownAction": 3,
        "AutomaticSnapshotsEnabled": world.state.edition == "client",
        "AutomaticStartupAction": 3,
        "AutomaticStartupActionDelay": timedelta(0),
        "BIOSGUID": f"{{{numbered_id(f'{vm.id}/firmware')}}}",
        "ConfigurationDataRoot": vm.folder,
        "ConfigurationFile": file,
        "ConfigurationID": vm.id,
        "CreationTime": checkpoint.created if checkpoint else vm.created,
        "ElementName": checkpoint.name if checkpoint else vm.name,
        "IncrementalBackupEnabled": True,
        "InstanceID": names.settings_id(checkpoint.id if checkpoint else vm.id),
        "IsAutomaticSnapshot": False,
        "IsSaved": checkpoint.has_memory if checkpoint else vm.power is Power.SAVED,
        "LogDataRoot": vm.folder,
        "Notes": list(checkpoint.notes if checkpoint else vm.notes),
        "SnapshotDataRoot": vm.folder,
        "SuspendDataRoot": vm.folder,
        "SwapFileDataRoot": vm.folder,
        "UserSnapshotType": int(vm.setting),
        "Version": vm.version,
        "VirtualNumaEnabled": True,
        "VirtualSystemIdentifier": vm.id,
        "VirtualSystemSubType": f"Microsoft:Hyper-V:SubType:{vm.generation}",
        "VirtualSystemType": checkpoint.kind.value if checkpoint else codes.REALIZED,
    }
    if below:
        values["Parent"] = names.object_path(world, names.settings(below))
    if world.state.build >= GUEST_STATE_SINCE:
        values["GuestStateDataRoot"] = vm.folder
        values["GuestStateFile"] = file.removesuffix(".vmcx") + ".vmgs"
    if vm.generation == 2:
        values["SecureBootEnabled"] = True
    if checkpoint and checkpoint.kind is CheckpointKind.RECOVERY:
        values["AutomaticSnapshotsEnabled"] = False
    return Instance("Msvm_VirtualSystemSettingData", values)


def reference_points(world: World) -> Iterator[Instance]:
    """Yield every reference point, whoever made it.

    The arrays are parallel, and shorter on the side of the RCT ids where a disk has none (section 2.1). It
    has no name: whether a checkpoint's name survives the conversion nobody knows (section 8.7).
    """
    for vm in world.state.vms:
        for point in vm.reference_points:
            ids = [point.rct_ids[slot] for slot in point.slots if slot in point.rct_ids]
            values: dict[str, CimValue] = {
                "ConsistencyLevel": int(point.consistency),
                "HasAssociatedData": False,
                "InstanceID": names.settings_id(point.id),
                "ReferencePointType": codes.REFERENCE_POINT_RCT,
                "ResilientChangeTrackingIdentifiers": list(ids),
                "VirtualDiskIdentifiers": [names.medium_id(vm, vm.disk(slot), vm.id) for slot in point.slots],
                "VirtualSystemIdentifier": vm.id,
            }
            yield Instance("Msvm_VirtualSystemReferencePoint", values)


def export_settings(world: World) -> Iterator[Instance]:
    """Yield the template of an export's settings, one a VM (section 2.1)."""
    for vm in world.state.vms:
        values: dict[str, CimValue] = {
            "CopySnapshotConfiguration": 0,
            "CopyVmRuntimeInformation": True,
            "CopyVmStorage": True,
            "CreateVmExportSubdirectory": True,
            "InstanceID": names.settings_id(vm.id),
        }
        yield Instance("Msvm_VirtualSystemExportSettingData", values)


def merge_settings(world: World) -> Iterator[Instance]:
    """Yield whether a VM's disks are merged in the background (section 2.1)."""
    for vm in world.state.vms:
        yield Instance(
            "Msvm_DiskMergeSettingData",
            {
                "EnabledState": int(vm.merging_enabled),
                "InstanceID": rf"{names.settings_id(vm.id)}\DiskMergeSettings",
            },
        )


def security_settings(world: World) -> Iterator[Instance]:
    """Yield each VM's security settings: no VM of the lab is shielded."""
    for vm in world.state.vms:
        for owner, _ in names.owners(vm):
            yield Instance(
                "Msvm_SecuritySettingData",
                {
                    "EncryptStateAndVmMigrationTraffic": False,
                    "InstanceID": rf"{names.settings_id(owner)}\{numbered_id('security')}",
                    "ShieldingRequested": False,
                    "TpmEnabled": False,
                },
            )
