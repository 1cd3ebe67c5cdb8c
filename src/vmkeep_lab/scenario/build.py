"""Make the host that a scenario describes."""

import re
from pathlib import Path
from typing import Final

from vmkeep_lab import clock
from vmkeep_lab.host import checkpoints, configuration, state
from vmkeep_lab.host.codes import CheckpointKind, CheckpointSetting, Consistency, Power, Status
from vmkeep_lab.host.handles import Handles
from vmkeep_lab.host.provider import Host
from vmkeep_lab.host.state import Disk, Guest, HostState, Layer, Vm, numbered_id
from vmkeep_lab.scenario.load import CheckpointPart, DiskPart, Scenario, VmPart

_MIB: Final = 1 << 20
_POWERS: Final = {"running": Power.RUNNING, "off": Power.OFF, "saved": Power.SAVED, "paused": Power.PAUSED}
_SETTINGS: Final = {
    "disabled": CheckpointSetting.DISABLED,
    "production": CheckpointSetting.PRODUCTION,
    "production-only": CheckpointSetting.PRODUCTION_ONLY,
    "standard": CheckpointSetting.STANDARD,
}
_VSS: Final = {
    "ok": Status.OK,
    "degraded": Status.DEGRADED,
    "no-contact": Status.NO_CONTACT,
    "lost": Status.LOST_COMMUNICATION,
    "disabled": Status.OK,
}
_NOT_PLAIN: Final = re.compile(r"[^A-Za-z0-9 _-]+")
_IDE_PLACES: Final = 2


class OtherScenario(Exception):
    """The state folder holds a host that another scenario made."""


def raise_host(scenario: Scenario, folder: Path, handles: Handles | None = None) -> Host:
    """Return the host of a state folder: the one that is there, or a new one with its history.

    A host whose making was killed is refused: its history is not what the scenario tells.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = state.load(folder)
    if known is not None:
        if not known.is_complete:
            raise OtherScenario(f"the host in {folder} was never finished: delete the folder")
        if known.scenario != scenario.name:
            raise OtherScenario(
                f"{folder} holds a host of scenario {known.scenario!r}, not {scenario.name!r}"
            )
        return _with_faults(Host(folder, known, scenario.behaviour, handles), scenario)
    host = Host(folder, _state_of(scenario), scenario.behaviour, handles)
    with host.lock:
        for part, vm in zip(_expanded(scenario.vm), host.world.state.vms, strict=True):
            _live_through(host, part, vm)
        host.world.state.is_complete = host.world.changed = True
    host.advance()
    return _with_faults(host, scenario)


def _with_faults(host: Host, scenario: Scenario) -> Host:
    for fault in scenario.fault:
        named = next((vm.id for vm in host.world.state.vms if vm.name == fault.vm), fault.vm)
        host.world.faults.add(
            type(fault)(fault.at, fault.times, named, fault.code, fault.hresult, fault.reason)
        )
    return host


def _state_of(scenario: Scenario) -> HostState:
    part = scenario.host
    vms = [_vm(scenario, number, each) for number, each in enumerate(_expanded(scenario.vm))]
    return HostState(
        name=part.name,
        build=part.build,
        edition=part.edition,
        locale=part.locale,
        schema=part.schema,
        seed=part.seed,
        booted=clock.now(),
        scenario=scenario.name,
        vms=vms,
    )


def _expanded(parts: list[VmPart]) -> list[VmPart]:
    """Return one part for each VM; all of a row share everything but the name."""
    return [
        VmPart(**{**vars(part), "name": part.name.replace("{n}", f"{n:04d}")})
        for part in parts
        for n in range(1, part.count + 1)
    ]


def _vm(scenario: Scenario, number: int, part: VmPart) -> Vm:
    vm_id = numbered_id(f"{scenario.host.name}/{scenario.host.seed}/vm/{number}")
    plain_name = _NOT_PLAIN.sub("", part.name).strip() or vm_id
    folder = part.folder or rf"C:\VMs\{plain_name}"
    now = clock.now()
    guest = part.guest
    return Vm(
        id=vm_id,
        name=part.name,
        folder=folder,
        generation=part.generation,
        version=part.version,
        power=_POWERS[part.state],
        created=now,
        changed=now,
        guest=Guest(
            family=guest.family,
            name=guest.name,
            version=guest.version,
            vss=_VSS[guest.vss],
            vss_enabled=guest.vss != "disabled",
            writer_failed=guest.writer_failed,
        ),
        disks=[_disk(vm_id, folder, part, place, each) for place, each in enumerate(part.disk)],
        setting=_SETTINGS[part.setting],
        replication=part.replication,
        replication_state=part.replication_state,
        notes=list(part.notes),
        memory_mb=part.memory_mb,
        processors=part.processors,
        writes_per_second=part.writes_per_second,
    )


def _disk(vm_id: str, folder: str, vm: VmPart, place: int, part: DiskPart) -> Disk:
    """Place a disk: two on each IDE channel, all on one SCSI controller."""
    controller, location = divmod(place, _IDE_PLACES) if vm.generation == 1 else (0, place)
    name = part.name if len(vm.disk) == 1 or part.name != "disk" else f"disk{place}"
    path = rf"{folder}\Virtual Hard Disks\{name}.vhdx"
    if part.kind == "passthrough":
        path = rf'\\HOST\root\virtualization\v2:Msvm_DiskDrive.DeviceID="Microsoft:{vm_id}\\{place}"'
    if part.kind == "dvd":
        path = rf"C:\ISO\{name}.iso"
    return Disk(
        controller=controller,
        location=location,
        disk_id=numbered_id(f"{vm_id}/disk/{place}"),
        size=part.size_mib * _MIB,
        leaf=path,
        kind=part.kind,
        fixed=part.fixed,
        used=part.used_mib * _MIB,
        seed=place,
        image=part.image,
        layers=[Layer(path)] if part.kind == "vhdx" else [],
    )


def _live_through(host: Host, part: VmPart, vm: Vm) -> None:
    """Let a VM have the history that the scenario tells; VMs in rows get no files until they are touched."""
    if part.count > 1:
        return
    configuration.write_vm(host.world, vm)
    for disk in vm.file_disks:
        host.world.media.disk(disk)
    for _ in range(part.stranger_reference_points):
        host.guests.step(vm, 5)
        checkpoints.mark(host.world, vm, Consistency.CRASH)
    for each in part.checkpoint:
        _take(host, vm, each)
    if vm.power is not Power.RUNNING:
        for disk in vm.file_disks:
            host.world.media.rest(disk)


def _take(host: Host, vm: Vm, part: CheckpointPart) -> None:
    host.guests.step(vm, part.writes)
    kind = CheckpointKind.RECOVERY if part.owner == "stranger" else CheckpointKind.USER
    made = checkpoints.take(host.world, vm, kind, Consistency.CRASH, part.name, part.memory)
    made.notes = list(part.notes)
