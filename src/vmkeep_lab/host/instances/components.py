"""What of the integration services a host sees (section 1.4)."""

from collections.abc import Iterator
from typing import Final

from vmkeep_lab.cim import CimScalar, CimValue, Instance
from vmkeep_lab.host.codes import Power, Status
from vmkeep_lab.host.state import Vm, numbered_id
from vmkeep_lab.host.world import World

_FROM_GUEST: Final = 2  # Source of a data item [B]
_ENABLED: Final = 2
_DISABLED: Final = 3


def vss(world: World) -> Iterator[Instance]:
    """Yield the backup component of each VM; its name differs by version and language (report R1)."""
    for vm in world.state.vms:
        state = _ENABLED if vm.guest.vss_enabled else _DISABLED
        yield _component(world, vm, "Msvm_VssComponent", "backup_service", vm.guest.vss, state)


def heartbeat(world: World) -> Iterator[Instance]:
    """Yield the heartbeat of each VM."""
    for vm in world.state.vms:
        yield _component(world, vm, "Msvm_HeartbeatComponent", "heartbeat_service", vm.guest.heartbeat)


def shutdown(world: World) -> Iterator[Instance]:
    """Yield the shutdown component of each VM."""
    for vm in world.state.vms:
        yield _component(world, vm, "Msvm_ShutdownComponent", "shutdown_service", vm.guest.heartbeat)


def data_exchange(world: World) -> Iterator[Instance]:
    """Yield the data exchange of each VM; the guest's own items only while it runs."""
    for vm in world.state.vms:
        found = _component(
            world, vm, "Msvm_KvpExchangeComponent", "data_exchange_service", vm.guest.heartbeat
        )
        items: list[CimScalar] = [
            Instance("Msvm_KvpExchangeDataItem", {"Name": name, "Data": text, "Source": _FROM_GUEST})
            for name, text in _intrinsic(vm)
        ]
        found.values["GuestIntrinsicExchangeItems"] = items
        yield found


def _intrinsic(vm: Vm) -> list[tuple[str, str]]:
    """Return the items a guest tells by itself; the names are believed (section 1.4)."""
    if vm.power is not Power.RUNNING or vm.guest.heartbeat is not Status.OK:
        return []
    major, minor, build = (*vm.guest.version.split("."), "0", "0")[:3]
    return [
        ("FullyQualifiedDomainName", f"{vm.id[:8].lower()}.example.test"),
        ("OSName", vm.guest.name),
        ("OSVersion", f"{major}.{minor}.{build}"),
        ("OSBuildNumber", build),
        ("OSPlatformId", "2" if vm.guest.family == "windows" else "268435456"),
        ("ProcessorArchitecture", "9"),
        ("IntegrationServicesVersion", "10.0.20348"),
        ("NetworkAddressIPv4", "192.0.2.10"),
    ]


def vss_settings(world: World) -> Iterator[Instance]:
    """Yield the switch of each VM's backup component."""
    for vm in world.state.vms:
        state = _ENABLED if vm.guest.vss_enabled else _DISABLED
        yield Instance(
            "Msvm_VssComponentSettingData",
            {"EnabledState": state, "InstanceID": rf"Microsoft:{vm.id}\{numbered_id('backup component')}"},
        )


def _component(
    world: World, vm: Vm, class_name: str, key: str, status: Status, state: int = _ENABLED
) -> Instance:
    """Return one component; without a running guest there is nobody to contact."""
    shown = status if vm.power is Power.RUNNING else Status.NO_CONTACT
    values: dict[str, CimValue] = {
        "Caption": world.texts.say(key),
        "CreationClassName": class_name,
        "Description": world.texts.say(key),
        "DeviceID": rf"Microsoft:{vm.id}\{numbered_id(class_name)}",
        "ElementName": world.texts.say(key),
        "EnabledDefault": _ENABLED,
        "EnabledState": state,
        "HealthState": 5,
        "OperationalStatus": [int(shown)],
        "RequestedState": 12,
        "StatusDescriptions": [world.texts.say(f"status_{int(shown)}")],
        "SystemCreationClassName": "Msvm_ComputerSystem",
        "SystemName": vm.id,
    }
    return Instance(class_name, values)
