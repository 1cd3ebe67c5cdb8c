"""Rows of a small Hyper-V host, with the values of a real one (recordings, hyperv-backup-api.md 1)."""

from datetime import UTC, datetime
from typing import Final

from tests.fakes.hyperv_host import Epr, Row, embedded

WEB: Final = "5E0A5A4F-9A4B-4C5D-8E6F-0123456789AB"
MAIL: Final = "7C1B2D3E-1111-4222-8333-ABCDEF012345"
CHECKPOINT: Final = "A1A1A1A1-0000-4000-8000-000000000001"
SCSI: Final = "D1D1D1D1-2222-4333-8444-555555555555"
IDE: Final = "83F8638B-8DCA-4152-9EDA-2CA8B33039B4"
CREATED: Final = datetime(2026, 3, 29, 0, 31, tzinfo=UTC)
VHD: Final = "Microsoft:Hyper-V:Virtual Hard Disk"


def vm(vm_id: str = WEB, name: str = "web", **changed: object) -> Row:
    """A running VM; its caption is translated, as on the recorded host."""
    row: dict[str, object] = {
        "Caption": "仮想マシン",
        "CreationClassName": "Msvm_ComputerSystem",
        "Name": vm_id,
        "ElementName": name,
        "EnabledState": 2,
        "HealthState": 5,
        "OperationalStatus": [2],
        "InstallDate": datetime(2026, 1, 1, tzinfo=UTC),
        "ReplicationMode": 0,
        "ReplicationState": 0,
    }
    return {**row, **changed}  # type: ignore[dict-item]


def host_system(name: str = "HV01") -> Row:
    """The host's own entry, as recorded: no GUID, no date."""
    return vm(name, name, InstallDate=None, ReplicationMode=None, ReplicationState=None)


def settings(vm_id: str = WEB, name: str = "web", **changed: object) -> Row:
    """The realised settings of a generation 2 VM."""
    row: dict[str, object] = {
        "InstanceID": f"Microsoft:{vm_id}",
        "ElementName": name,
        "VirtualSystemIdentifier": vm_id,
        "VirtualSystemType": "Microsoft:Hyper-V:System:Realized",
        "VirtualSystemSubType": "Microsoft:Hyper-V:SubType:2",
        "Version": "10.0",
        "UserSnapshotType": 3,
        "Parent": None,
        "CreationTime": datetime(2026, 1, 1, tzinfo=UTC),
        "Notes": [],
        "ConfigurationDataRoot": f"D:\\VMs\\{name}",
        "ConfigurationFile": f"Virtual Machines\\{vm_id}.vmcx",
        "SnapshotDataRoot": f"D:\\VMs\\{name}",
    }
    return {**row, **changed}  # type: ignore[dict-item]


def checkpoint(vm_id: str = WEB, checkpoint_id: str = CHECKPOINT, **changed: object) -> Row:
    """The settings of a recovery checkpoint that nobody has renamed."""
    row = settings(
        vm_id,
        "web - (3/29/2026 - 12:31:00 AM)",
        InstanceID=f"Microsoft:{checkpoint_id}",
        VirtualSystemType="Microsoft:Hyper-V:Snapshot:Recovery",
        CreationTime=CREATED,
        ConfigurationDataRoot="D:\\VMs\\web",
        ConfigurationFile=f"Snapshots\\{checkpoint_id}.vmcx",
    )
    return {**row, **changed}  # type: ignore[dict-item]


def medium(owner: str = WEB, path: str = "D:\\VMs\\web\\system.vhdx", **changed: object) -> Row:
    """A virtual disk at the first place of a SCSI controller."""
    row: dict[str, object] = {
        "InstanceID": f"Microsoft:{owner}\\{SCSI}\\0\\0\\L",
        "ResourceSubType": VHD,
        "HostResource": [path],
        "PersistentReservationsSupported": False,
    }
    return {**row, **changed}  # type: ignore[dict-item]


def component(vm_id: str = WEB, enabled: int = 2, status: int = 2) -> Row:
    """An integration component; its second status says nothing we use."""
    return {"SystemName": vm_id, "EnabledState": enabled, "OperationalStatus": [status, 32775]}


def kvp(vm_id: str, **pairs: str) -> Row:
    """What a guest tells the host about itself."""
    texts = dict.fromkeys(("Caption", "ElementName"), "Key-Value Pair Exchange Data Item")
    texts["Description"] = "Microsoft Key-Value Pair Exchange Data Item"
    items = [
        embedded(
            "Msvm_KvpExchangeDataItem", {**texts, "InstanceID": None, "Name": name, "Data": data, "Source": 2}
        )
        for name, data in pairs.items()
    ]
    return {"SystemName": vm_id, "GuestIntrinsicExchangeItems": items}


def setting_ref(guid: str) -> Epr:
    return Epr("Msvm_VirtualSystemSettingData", (("InstanceID", f"Microsoft:{guid}"),))


def job_ref(number: str, class_name: str = "Msvm_ConcreteJob") -> Epr:
    return Epr(class_name, (("InstanceID", number),))


def vm_ref(vm_id: str) -> Epr:
    return Epr("Msvm_ComputerSystem", (("CreationClassName", "Msvm_ComputerSystem"), ("Name", vm_id)))


def job(number: str = "J1", state: int = 4, **changed: object) -> Row:
    """A job that runs."""
    row: dict[str, object] = {
        "InstanceID": number,
        "JobState": state,
        "PercentComplete": 40,
        "ErrorCode": 0,
        "ErrorDescription": None,
        "ErrorSummaryDescription": None,
    }
    return {**row, **changed}  # type: ignore[dict-item]


def affected(job_number: str, element: Epr, effect: int = 5) -> Row:
    """A row of the association between a job and what it touched."""
    return {"AffectedElement": element, "AffectingElement": job_ref(job_number), "ElementEffects": [effect]}


def reference_point(point_id: str, vm_id: str = WEB, **changed: object) -> Row:
    """A reference point of one disk."""
    row: dict[str, object] = {
        "InstanceID": point_id,
        "VirtualSystemIdentifier": vm_id,
        "ElementName": "web",
        "ConsistencyLevel": 1,
        "ReferencePointType": 2,
        "VirtualDiskIdentifiers": [f"Microsoft:{vm_id}\\{SCSI}\\0\\0\\L"],
        "ResilientChangeTrackingIdentifiers": ["rctX:1"],
    }
    return {**row, **changed}  # type: ignore[dict-item]


def point_ref(point_id: str, vm_id: str = WEB) -> Epr:
    return Epr(
        "Msvm_VirtualSystemReferencePoint", (("InstanceID", point_id), ("VirtualSystemIdentifier", vm_id))
    )
