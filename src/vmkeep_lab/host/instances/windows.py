"""What ``root/cimv2`` says of the host: version, disks, services, event log."""

import shutil
from collections.abc import Iterator
from typing import Final

from vmkeep_lab.cim import CIMV2, CimValue, Instance
from vmkeep_lab.host.places import Places
from vmkeep_lab.host.world import World

# Build: marketing name (section 1.4, well known).
RELEASES: Final = {14393: "2016", 17763: "2019", 20348: "2022", 25398: "23H2", 26100: "2025"}
_LANGUAGE: Final = {"en-US": 1033, "fr-FR": 1036, "de-DE": 1031, "ja-JP": 1041}
_STANDARD_SERVER: Final = 0x7
_DESKTOP: Final = 0x30
_CLASSIC_LOGS: Final = {"Application", "System"}  # the only ones WMI shows (section 6)


def operating_system(world: World) -> Iterator[Instance]:
    """Yield the operating system; build, kind and language tell hosts apart (section 1.4)."""
    state = world.state
    is_server = state.edition == "server"
    name = (
        f"Microsoft Windows Server {RELEASES[state.build]} Standard"
        if is_server
        else "Microsoft Windows 11 Pro"
    )
    values: dict[str, CimValue] = {
        "BuildNumber": str(state.build),
        "Caption": name,
        "CSName": state.name,
        "CreationClassName": "Win32_OperatingSystem",
        "FreePhysicalMemory": 16 << 20,
        "LastBootUpTime": state.booted,
        "LocalDateTime": world.clock.now(),
        "Locale": f"{_LANGUAGE[state.locale]:04x}",
        "Manufacturer": "Microsoft Corporation",
        "MUILanguages": [state.locale],
        "Name": rf"{name}|C:\Windows|\Device\Harddisk0\Partition4",
        "OSArchitecture": "64-bit",
        "OSLanguage": _LANGUAGE[state.locale],
        "OperatingSystemSKU": _STANDARD_SERVER if is_server else _DESKTOP,
        "ProductType": 3 if is_server else 1,
        "Status": "OK",
        "SystemDrive": "C:",
        "Version": f"10.0.{state.build}",
    }
    yield Instance("Win32_OperatingSystem", values, CIMV2)


def computer_system(world: World) -> Iterator[Instance]:
    """Yield the computer."""
    values: dict[str, CimValue] = {
        "Caption": world.state.name,
        "CreationClassName": "Win32_ComputerSystem",
        "DNSHostName": world.state.name.lower(),
        "HypervisorPresent": True,
        "Manufacturer": "vmkeep",
        "Model": "lab",
        "Name": world.state.name,
        "PartOfDomain": False,
        "Status": "OK",
        "Workgroup": "WORKGROUP",
    }
    yield Instance("Win32_ComputerSystem", values, CIMV2)


def logical_disks(world: World) -> Iterator[Instance]:
    """Yield the drives, with the free space of the file system that the lab's files lie on."""
    for drive in _drives(world.places):
        total, _, free = shutil.disk_usage(world.places.drive(drive))
        values: dict[str, CimValue] = {
            "Caption": f"{drive}:",
            "CreationClassName": "Win32_LogicalDisk",
            "DeviceID": f"{drive}:",
            "DriveType": 3,
            "FileSystem": "NTFS",
            "FreeSpace": world.free_bytes if world.free_bytes is not None else free,
            "Name": f"{drive}:",
            "Size": total,
            "SystemName": world.state.name,
        }
        yield Instance("Win32_LogicalDisk", values, CIMV2)


def _drives(places: Places) -> list[str]:
    return sorted(each.name for each in places.root.iterdir() if each.is_dir())


def services(world: World) -> Iterator[Instance]:
    """Yield the Windows services that matter to backup."""
    for name, display in (
        ("vmms", "Hyper-V Virtual Machine Management"),
        ("VSS", "Volume Shadow Copy"),
        ("WinRM", "Windows Remote Management (WS-Management)"),
        ("LanmanServer", "Server"),
    ):
        values: dict[str, CimValue] = {
            "AcceptStop": True,
            "Caption": display,
            "CreationClassName": "Win32_Service",
            "DisplayName": display,
            "Name": name,
            "StartMode": "Manual" if name == "VSS" else "Auto",
            "Started": name != "VSS",
            "State": "Stopped" if name == "VSS" else "Running",
            "Status": "OK",
            "SystemName": world.state.name,
        }
        yield Instance("Win32_Service", values, CIMV2)


def log_entries(world: World) -> Iterator[Instance]:
    """Yield the classic event logs; Hyper-V's own channels are not among them (section 6)."""
    for event in world.state.events:
        if event.channel in _CLASSIC_LOGS:
            values: dict[str, CimValue] = {
                "ComputerName": world.state.name,
                "EventCode": event.code,
                "EventIdentifier": event.code,
                "EventType": event.level,
                "Logfile": event.channel,
                "Message": event.text,
                "RecordNumber": event.number,
                "SourceName": event.source,
                "TimeGenerated": event.time,
                "TimeWritten": event.time,
            }
            yield Instance("Win32_NTLogEvent", values, CIMV2)
