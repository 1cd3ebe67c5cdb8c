"""The host's entry, the VMs, and their summaries."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from vmkeep_lab.cim import CimValue, Instance
from vmkeep_lab.host.codes import Power, Status
from vmkeep_lab.host.instances import names
from vmkeep_lab.host.state import Vm
from vmkeep_lab.host.world import World

NEVER: Final = datetime(1601, 1, 1, tzinfo=UTC)
_HEALTHY: Final = 5


def all_systems(world: World) -> Iterator[Instance]:
    """Yield the host's entry and every VM.

    Which properties are null, and that the host has no InstallDate and the computer's name as Name, is as
    recorded on a real host (contract/recordings).
    """
    yield _host(world)
    yield from (_vm(world, each) for each in world.state.vms)


def _host(world: World) -> Instance:
    values: dict[str, CimValue] = {
        "Caption": world.texts.say("host_caption"),
        "CreationClassName": "Msvm_ComputerSystem",
        "Description": world.texts.say("host_description"),
        "ElementName": world.state.name,
        "EnabledDefault": 2,
        "EnabledState": 2,
        "HealthState": _HEALTHY,
        "Name": world.state.name,
        "NumberOfNumaNodes": 1,
        "OperationalStatus": [2],
        "RequestedState": 12,
        "ResetCapability": 1,
        "Status": "OK",
        "StatusDescriptions": ["OK"],
    }
    return Instance("Msvm_ComputerSystem", values)


def _vm(world: World, vm: Vm) -> Instance:
    status = world.status_of(vm)
    runs = vm.power is Power.RUNNING
    started = vm.state_changed or world.state.booted
    uptime = int((world.clock.now() - started).total_seconds() * 1000) if runs else 0
    values: dict[str, CimValue] = {
        "Caption": world.texts.say("vm_caption"),
        "CreationClassName": "Msvm_ComputerSystem",
        "Description": "Microsoft Virtual Machine",  # not translated on the recorded Japanese host
        "ElementName": vm.name,
        "EnabledDefault": 3,
        "EnabledState": int(vm.power),
        "EnhancedSessionModeState": 2 if runs else 3,
        "FailedOverReplicationType": 0,
        "HealthState": _HEALTHY,
        "InstallDate": vm.created,
        "LastApplicationConsistentReplicationTime": NEVER,
        "LastReplicationTime": NEVER,
        "LastReplicationType": 0,
        "Name": vm.id,
        "NumberOfNumaNodes": 1,
        "OnTimeInMilliseconds": max(0, uptime),
        "OperationalStatus": [int(each) for each in status],
        "ReplicationHealth": 0,
        "ReplicationMode": vm.replication,
        "ReplicationState": vm.replication_state,
        "RequestedState": 5,
        "ResetCapability": 1,
        "Status": "OK" if status[0] is Status.OK else "Service",
        "StatusDescriptions": [world.texts.say(f"status_{int(each)}") for each in status],
        "TimeOfLastConfigurationChange": vm.changed,
        "TimeOfLastStateChange": vm.state_changed or NEVER,
    }
    if runs:
        values["ProcessID"] = 4000 + 4 * world.state.vms.index(vm)
    return Instance("Msvm_ComputerSystem", values)


def summaries(world: World) -> Iterator[Instance]:
    """Yield what the management console shows of each VM."""
    yield from (summary(world, each) for each in world.state.vms)


def summary(world: World, vm: Vm) -> Instance:
    """Return a VM's summary (property names W)."""
    status = world.status_of(vm)
    runs = vm.power is Power.RUNNING
    values: dict[str, CimValue] = {
        "ApplicationHealth": 0,
        "CreationTime": vm.created,
        "ElementName": vm.name,
        "EnabledState": int(vm.power),
        "HealthState": _HEALTHY,
        "Heartbeat": int(vm.guest.heartbeat) if runs else int(Status.NO_CONTACT),
        "HostComputerSystemName": world.state.name,
        "InstanceID": names.settings_id(vm.id),
        "MemoryUsage": vm.memory_mb if runs else 0,
        "Name": vm.id,
        "NumberOfProcessors": vm.processors,
        "OperationalStatus": [int(each) for each in status],
        "ReplicationMode": vm.replication,
        "ReplicationState": vm.replication_state,
        "Shielded": False,
        "Snapshots": [names.settings(each.id) for each in vm.checkpoints],
        "StatusDescriptions": [world.texts.say(f"status_{int(each)}") for each in status],
        "Version": vm.version,
        "VirtualSystemSubType": f"Microsoft:Hyper-V:SubType:{vm.generation}",
    }
    if runs:
        values["GuestOperatingSystem"] = vm.guest.name
    return Instance("Msvm_SummaryInformation", values)
