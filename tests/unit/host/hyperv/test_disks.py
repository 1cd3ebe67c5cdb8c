"""Disks: slots that a VM shares with its checkpoints, kinds, labels, and one file's settings."""

import pytest

from tests.fakes.hyperv_host import TableHost, embedded, returns
from tests.fakes.hyperv_rows import CHECKPOINT, IDE, SCSI, WEB, medium
from tests.fakes.wsman_host import Reply
from vmkeep.host.hyperv import OperationFailed, read_disk_file, with_details
from vmkeep.host.hyperv.disks import owner_of, slot_of
from vmkeep.host.hyperv.placing import read_placed
from vmkeep.host.wsman import HostNonsense

pytestmark = pytest.mark.quick

READ = "Msvm_ImageManagementService.GetVirtualHardDiskSettingData"
OTHER_SCSI = "E1E1E1E1-2222-4333-8444-555555555555"
DVD = "Microsoft:Hyper-V:Virtual CD/DVD Disk"


def place(owner: str, controller: str, number: int, location: int, last: str = "L") -> str:
    return f"Microsoft:{owner}\\{controller}\\{number}\\{location}\\{last}"


def test_a_vm_its_checkpoint_and_its_drive_share_a_slot() -> None:
    slots = {
        slot_of(place(owner, SCSI, 0, 3, last))
        for owner in (WEB, CHECKPOINT, CHECKPOINT.lower())
        for last in ("L", "D", "l")
    }
    assert slots == {f"{SCSI}\\0\\3"}
    assert owner_of(place(CHECKPOINT.lower(), SCSI, 0, 3)) == CHECKPOINT


def test_an_id_of_another_form_is_its_own_slot() -> None:
    assert slot_of("something else") == "SOMETHING ELSE"
    assert owner_of("something else") == ""


def test_disks_of_one_vm_and_no_other() -> None:
    host = TableHost()
    host.rows["Msvm_StorageAllocationSettingData"] = [
        medium(InstanceID=place(WEB, OTHER_SCSI, 0, 1), HostResource=["D:\\b.vhdx"]),
        medium(InstanceID=place(WEB, IDE, 1, 0), HostResource=["D:\\a.VHD"]),
        medium(InstanceID=place(WEB, SCSI, 0, 0), HostResource=["D:\\c_77.avhdx"]),
        medium(
            InstanceID=place(WEB, SCSI, 0, 63),
            HostResource=["\\\\fs\\s\\set.vhds"],
            PersistentReservationsSupported=True,
        ),
        medium(InstanceID=place(WEB, SCSI, 0, 7), PersistentReservationsSupported=True),
        medium(
            InstanceID=place(WEB, SCSI, 0, 8), HostResource=["D:\\new.pmem"], ResourceSubType="Microsoft:New"
        ),
        medium(InstanceID=place(WEB, IDE, 1, 1), HostResource=["D:\\a.iso"], ResourceSubType=DVD),
        medium(CHECKPOINT),
    ]
    host.rows["Msvm_ResourceAllocationSettingData"] = [
        {
            "InstanceID": place(WEB, SCSI, 0, 2, "D"),
            "ResourceSubType": "Microsoft:Hyper-V:Physical Disk Drive",
            "HostResource": ['\\\\HV01\\root\\virtualization\\v2:Msvm_DiskDrive.DeviceID="x"'],
        },
        {
            "InstanceID": place(WEB, SCSI, 0, 9, "D"),
            "ResourceSubType": "Microsoft:Hyper-V:Synthetic Disk Drive",
            "HostResource": None,
        },
    ]
    found, _ = read_placed(host.hyperv(), WEB)
    assert {disk.label: disk.kind for disk in found} == {
        "ide 1:0": "vhd",
        "scsi 0:0": "vhdx",
        "scsi 0:2": "passthrough",
        "scsi 0:63": "vhd_set",
        "scsi 0:7": "shared_vhdx",
        "scsi 0:8": None,
        "scsi 1:1": "vhdx",
    }
    assert len({disk.slot for disk in found}) == len(found)


def settings_xml(**changed: str | int | None) -> str:
    values: dict[str, str | int | None] = {
        "VirtualDiskId": "AAAAAAAA-0000-4000-8000-000000000001",
        "Type": 4,
        "Format": 3,
        "MaxInternalSize": 137438953472,
        "BlockSize": 2097152,
        "LogicalSectorSize": 512,
        "PhysicalSectorSize": 4096,
        "ParentPath": "D:\\base.vhdx",
    }
    return embedded("Msvm_VirtualHardDiskSettingData", {**values, **changed})


def test_one_file_is_described() -> None:
    host = TableHost()
    host.on(READ, returns(0, SettingData=settings_xml()))
    file = read_disk_file(host.hyperv(), "D:\\leaf.avhdx")
    assert host.calls[0].inputs == {"Path": "D:\\leaf.avhdx"}
    assert (file.disk_id, file.virtual_size) == ("AAAAAAAA-0000-4000-8000-000000000001", 1 << 37)
    assert (file.format, file.type, file.parent_path) == ("vhdx", "differencing", "D:\\base.vhdx")
    assert (file.block_size, file.logical_sector, file.physical_sector) == (2 << 20, 512, 4096)


def test_what_a_file_does_not_have_is_none() -> None:
    host = TableHost()
    unknown = dict.fromkeys(("VirtualDiskId", "BlockSize", "LogicalSectorSize", "PhysicalSectorSize"))
    host.on(READ, returns(0, SettingData=settings_xml(**unknown, ParentPath="", Type=99, Format=99)))
    file = read_disk_file(host.hyperv(), "D:\\old.vhd")
    assert (file.disk_id, file.parent_path, file.type, file.format, file.block_size) == (None,) * 5


@pytest.mark.parametrize("data", [None, settings_xml(MaxInternalSize=None)])
def test_a_file_without_a_size_is_refused(data: str | None) -> None:
    host = TableHost()
    host.on(READ, returns(0, SettingData=data))
    with pytest.raises(OperationFailed, match="size"):
        read_disk_file(host.hyperv(), "D:\\a.vhdx")


def test_a_lost_answer_is_asked_for_again() -> None:
    host = TableHost()
    host.on(READ, Reply("<s:nonsense/>"), returns(0, SettingData=settings_xml()))
    assert read_disk_file(host.hyperv(), "D:\\a.vhdx").virtual_size == 1 << 37
    assert len(host.calls) == 2


def test_nonsense_twice_is_no_silence() -> None:
    host = TableHost()
    host.on(READ, Reply("<s:nonsense/>"))
    with pytest.raises(HostNonsense, match="answers GetVirtualHardDiskSettingData with nonsense"):
        read_disk_file(host.hyperv(), "D:\\a.vhdx")
    assert (len(host.calls), host.clock.slept) == (2, [])


def test_details_are_asked_for_each_disk_with_a_file() -> None:
    host = TableHost()
    host.rows["Msvm_StorageAllocationSettingData"] = [medium()]
    host.rows["Msvm_ResourceAllocationSettingData"] = [
        {
            "InstanceID": place(WEB, SCSI, 0, 2, "D"),
            "ResourceSubType": "Microsoft:Hyper-V:Physical Disk Drive",
            "HostResource": [],
        }
    ]
    host.on(READ, returns(0, SettingData=settings_xml()))
    speaking = host.hyperv()
    virtual, physical = with_details(speaking, read_placed(speaking, WEB)[0])
    assert len(host.calls) == 1
    assert (virtual.disk_id, virtual.virtual_size) == ("AAAAAAAA-0000-4000-8000-000000000001", 1 << 37)
    assert (physical.kind, physical.disk_id, physical.path) == ("passthrough", None, None)
