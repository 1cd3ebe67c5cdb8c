"""``Msvm_VirtualSystemManagementService``: the settings a backup changes, summaries, export."""

import shutil
from collections.abc import Iterable
from pathlib import PureWindowsPath

from vmkeep_lab.cim import Arguments, Instance, Ref
from vmkeep_lab.host import configuration, layers, merges
from vmkeep_lab.host.codes import JobType, Returned, Status
from vmkeep_lab.host.faults import At
from vmkeep_lab.host.instances import systems
from vmkeep_lab.host.services.targets import (
    Answer,
    answer,
    checkpoint_of,
    refused_at,
    setting,
    start,
    text,
    vm_of,
)
from vmkeep_lab.host.state import Checkpoint, Vm
from vmkeep_lab.host.world import World


def modify_settings(world: World, _: Ref, arguments: Arguments) -> Answer:
    """ModifySystemSettings: name and notes, of VMs and of checkpoints (section 2.1, GW on a real host).

    What is not sent, or sent empty, stays: zero values count as unset (section 5.3, GW).
    """
    instance_id = setting(arguments, "SystemSettings", "InstanceID")
    if not isinstance(instance_id, str):
        return answer(Returned.INVALID_PARAMETER)
    found = checkpoint_of(world, Ref.to("Msvm_VirtualSystemSettingData", InstanceID=instance_id))
    vm = found[0] if found else world.state.vm(instance_id.rpartition(":")[2])
    if vm is None:
        return answer(Returned.INVALID_PARAMETER)
    if refused := refused_at(world, At.RENAME_CALL, vm):
        return refused
    if world.jobs.running(vm.id):
        return answer(Returned.INVALID_STATE)
    target: Vm | Checkpoint = found[1] if found else vm

    def work() -> Iterable[Ref]:
        if not world.faults.take(At.RENAME_IGNORED, vm.id):
            _change(world, vm, target, arguments)
        return []

    if world.behaviour.rename_s > 0:
        return start(world, vm, JobType.MODIFY, world.behaviour.rename_s, work)
    work()
    return answer(Returned.DONE)


def _change(world: World, vm: Vm, target: Vm | Checkpoint, arguments: Arguments) -> None:
    name = setting(arguments, "SystemSettings", "ElementName")
    notes = setting(arguments, "SystemSettings", "Notes")
    if isinstance(name, str) and name:
        target.name = name
    if isinstance(notes, list) and notes:
        target.notes = [str(each) for each in notes]
    vm.changed = world.clock.now()
    world.changed = True


def modify_merging(world: World, _: Ref, arguments: Arguments) -> Answer:
    """ModifyDiskMergeSettings: switch background merging off and on (fact 7)."""
    instance_id = setting(arguments, "SettingData", "InstanceID")
    state = setting(arguments, "SettingData", "EnabledState")
    guid = str(instance_id).removeprefix("Microsoft:").partition("\\")[0]
    vm = world.state.vm(guid)
    if vm is None or state not in (0, 1):
        return answer(Returned.INVALID_PARAMETER)
    vm.merging_enabled = state == 1
    world.changed = True
    if vm.merging_enabled:
        merges.resume(world, vm)
    else:
        merges.stop(world, vm)
    return answer(Returned.DONE)


def modify_guest(world: World, _: Ref, arguments: Arguments) -> Answer:
    """ModifyGuestServiceSettings: switch the backup component of a VM (section 6).

    Whether this clears the counter of report R3 nobody knows; here it does not.
    """
    given = arguments.get("GuestServiceSettings")
    wanted = [each for each in given if isinstance(each, Instance)] if isinstance(given, list) else []
    for each in wanted:
        guid = str(each.values.get("InstanceID")).removeprefix("Microsoft:").partition("\\")[0]
        vm = world.state.vm(guid)
        state = each.values.get("EnabledState")
        if vm is None or each.class_name != "Msvm_VssComponentSettingData" or state not in (2, 3):
            return answer(Returned.INVALID_PARAMETER)
        vm.guest.vss_enabled = state == 2
        world.changed = True
    return answer(Returned.DONE if wanted else Returned.INVALID_PARAMETER)


def summaries(world: World, _: Ref, arguments: Arguments) -> Answer:
    """GetSummaryInformation: of the VMs named by their settings, or of all where none is named.

    Which numbers ask for which property is mostly believed; all of them are answered.
    """
    given = arguments.get("SettingData")
    if isinstance(given, list) and given:
        ids = [dict(each.keys).get("InstanceID", "") for each in given if isinstance(each, Ref)]
        vms = [vm for each in ids if (vm := world.state.vm(each.rpartition(":")[2]))]
    else:
        vms = world.state.vms
    return {"SummaryInformation": [systems.summary(world, each) for each in vms], "ReturnValue": 0}


def export(world: World, _: Ref, arguments: Arguments) -> Answer:
    """ExportSystemDefinition: the trap is that without the disks it stops all merging of the VM (fact 7)."""
    vm = vm_of(world, arguments.get("ComputerSystem"))
    folder = text(arguments, "ExportDirectory")
    if vm is None or not folder:
        return answer(Returned.INVALID_PARAMETER)
    if world.is_busy(vm):
        return answer(Returned.INVALID_STATE)
    with_disks = setting(arguments, "ExportSettingData", "CopyVmStorage") is not False

    def work() -> Iterable[Ref]:
        _copy(world, vm, folder, with_disks)
        if not with_disks:
            vm.merging_enabled = False
            merges.stop(world, vm)
        return []

    return start(world, vm, JobType.EXPORT, world.behaviour.export_s, work, Status.EXPORTING)


def _copy(world: World, vm: Vm, folder: str, with_disks: bool) -> None:
    target = world.places.real(folder) / vm.id
    files = [
        str(PureWindowsPath(vm.folder, configuration.configuration_file(vm)).with_suffix(suffix))
        for suffix in configuration.suffixes(world)
    ]
    if with_disks:
        for disk in vm.file_disks:
            world.media.rest(disk)
            files += layers.chain(disk, disk.leaf)
    target.mkdir(parents=True, exist_ok=True)
    for each in files:
        source = world.places.real(each)
        shutil.copyfile(source, target / source.name)
