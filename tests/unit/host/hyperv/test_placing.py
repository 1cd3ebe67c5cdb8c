"""Disks whose ids have odd forms: none is lost from its VM without a word."""

import pytest

from tests.fakes.hyperv_host import Row, TableHost
from tests.fakes.hyperv_rows import CHECKPOINT, MAIL, SCSI, WEB, checkpoint, medium, settings, vm
from tests.fakes.wsman_host import Question
from vmkeep.host.hyperv import Inventory, read_checkpoint, take_inventory

pytestmark = pytest.mark.quick

MEDIA, DRIVES = "Msvm_StorageAllocationSettingData", "Msvm_ResourceAllocationSettingData"
POOL = "E5E5E5E5-0000-4000-8000-000000000005"
LOST = "D:\\VMs\\lost.vhdx"
DISK_DRIVE = "Microsoft:Hyper-V:Synthetic Disk Drive"
PHYSICAL = "Microsoft:Hyper-V:Physical Disk Drive"


def drive_id(owner: str = WEB, place: int = 1) -> str:
    return f"Microsoft:{owner}\\{SCSI}\\0\\{place}\\D"


def path_to(setting: str) -> str:
    doubled = setting.replace("\\", "\\\\")
    return f'\\\\HV01\\root\\virtualization\\v2:Msvm_ResourceAllocationSettingData.InstanceID="{doubled}"'


def drive(setting: str, kind: str = DISK_DRIVE, parent: str | None = None) -> Row:
    return {"InstanceID": setting, "ResourceSubType": kind, "HostResource": None, "Parent": parent}


def a_host(*more_media: Row) -> TableHost:
    """Two VMs with a disk each, one of them with a checkpoint, and more media."""
    host = TableHost()
    host.rows["Msvm_ComputerSystem"] = [vm(), vm(MAIL, "mail")]
    host.rows["Msvm_VirtualSystemSettingData"] = [settings(), settings(MAIL, "mail"), checkpoint()]
    own = [medium(), medium(MAIL), medium(CHECKPOINT)]
    for row in own:
        row["Parent"] = path_to(str(row["InstanceID"]).removesuffix("L") + "D")
    host.rows[MEDIA] = [*own, *more_media]
    return host


def taken(host: TableHost) -> Inventory:
    return take_inventory(host.hyperv())


def stray(setting: str = "odd", parent: str | None = None, path: str = LOST) -> Row:
    return medium(path=path, InstanceID=setting, Parent=parent)


@pytest.mark.parametrize(
    ("rest", "slot"),
    [
        ("", f"MICROSOFT:{WEB}"),
        ("\\", f"MICROSOFT:{WEB}\\"),
        ("\\nvme\\7", "NVME\\7"),
        (f"\\{SCSI}\\0\\9\\Q", f"{SCSI}\\0\\9\\Q"),
        (f"\\{SCSI}\\0\\9\\1\\L", f"{SCSI}\\0\\9\\1\\L"),
        (f"\\{SCSI}\\A\\L", f"{SCSI}\\A\\L"),
        ("\\{x}\\0\n1", "{X}\\0\n1"),
    ],
)
@pytest.mark.parametrize("prefix", ["Microsoft", "microsoft"])
def test_whatever_follows_a_vms_id_the_disk_is_the_vms(rest: str, slot: str, prefix: str) -> None:
    odd = stray(f"{prefix}:{WEB}{rest}")
    found = taken(a_host(odd))
    assert found.unassigned == ()
    disk = next(disk for disk in found.find("web").disks if disk.path == LOST)
    assert (disk.slot, disk.label) == (slot.replace("MICROSOFT", prefix.upper()), disk.slot)
    assert len(found.find("mail").disks) == 1


def test_odd_ids_of_one_vm_are_different_disks() -> None:
    """Two places that differ in their last letter only: nothing is cut off an id that is not understood."""
    ids = [f"Microsoft:{WEB}\\port\\{letter}" for letter in "AB"]
    slots = {disk.slot for disk in taken(a_host(*map(stray, ids))).find("web").disks}
    assert len(slots) == 3


@pytest.mark.parametrize("kind", ["Maximum", "Minimum", "Default", "Increment", "default"])
def test_templates_are_no_disks(kind: str) -> None:
    host = a_host(stray(f"Microsoft:Definition\\{POOL}\\{kind}", path=""))
    host.rows[DRIVES] = [drive(f"Microsoft:Definition\\{POOL}\\{kind}", PHYSICAL)]
    found = taken(host)
    assert found.unassigned == ()
    assert {vm.unread_disks for vm in found.vms} == {()}


@pytest.mark.parametrize(
    "setting",
    [
        f"Microsoft:Definition\\{POOL}",
        f"Microsoft:Definition\\{POOL}\\Other",
        "Microsoft:Definition\\x\\Default",
        f"Microsoft:Definition\\{POOL}\\Default\\0",
        f"Microsoft:{POOL}\\{SCSI}\\0\\0\\L",
        f"Microsoft:{WEB}0\\{SCSI}\\0\\0\\L",
        f"{WEB}\\{SCSI}\\0\\0\\L",
        "",
    ],
)
def test_what_nobody_can_place_is_told_for_the_host(setting: str) -> None:
    found = taken(a_host(stray(setting)))
    assert found.unassigned == (f"{setting} ({LOST})",)
    assert [len(vm.disks) for vm in found.vms] == [1, 1]
    assert {vm.unread_disks for vm in found.vms} == {()}, "no drive is empty, so all have what they hold"


def test_a_stray_medium_is_told_for_the_vm_of_its_drive() -> None:
    found = taken(a_host(stray("odd", path_to(drive_id()))))
    assert found.unassigned == (f"odd ({LOST})",)
    assert found.find("web").unread_disks == (f"odd ({LOST})",)
    assert found.find("mail").unread_disks == ()
    assert found.find("web").checkpoints[0].unread_disks == ()


def test_a_stray_medium_of_a_checkpoint() -> None:
    found = taken(a_host(stray("odd", path_to(drive_id(CHECKPOINT)))))
    assert found.find("web").checkpoints[0].unread_disks == (f"odd ({LOST})",)
    assert found.find("web").unread_disks == ()


def test_a_stray_pass_through_drive_is_told_for_the_vm_of_its_controller() -> None:
    host = a_host()
    controller = f"Microsoft:{MAIL}\\{SCSI}\\0"
    host.rows[DRIVES] = [drive("odd", PHYSICAL, path_to(controller))]
    found = taken(host)
    assert found.unassigned == ("odd (no file)",)
    assert found.find("mail").unread_disks == ("odd (no file)",)


@pytest.mark.parametrize("parent", [None, "", "not a path", path_to("odd"), 'x:Msvm_X.DeviceID="1"'])
def test_a_vm_with_an_empty_drive_may_have_the_stray_medium(parent: str | None) -> None:
    host = a_host(stray("odd", parent))
    host.rows[DRIVES] = [drive(drive_id(place=0)), drive(drive_id(MAIL, 0)), drive(drive_id(MAIL, 5))]
    found = taken(host)
    assert found.find("web").unread_disks == (), "its only drive holds a known disk"
    assert found.find("mail").unread_disks == (f"{drive_id(MAIL, 5)}: may hold odd ({LOST})",)


def test_an_empty_drive_alone_is_no_trouble() -> None:
    host = a_host()
    host.rows[DRIVES] = [drive(drive_id(place=5))]
    found = taken(host)
    assert (found.unassigned, found.find("web").unread_disks) == ((), ())


@pytest.mark.parametrize("kind", ["System:Planned", "Snapshot:Planned"])
def test_disks_of_a_planned_vm_are_nobodys_yet(kind: str) -> None:
    host = a_host(stray(f"Microsoft:{POOL}\\{SCSI}\\0\\0\\L"))
    host.rows["Msvm_VirtualSystemSettingData"].append(
        settings(POOL, "coming", VirtualSystemType=f"Microsoft:Hyper-V:{kind}")
    )
    found = taken(host)
    assert (found.unassigned, [len(vm.disks) for vm in found.vms]) == ((), [1, 1])


def test_a_checkpoint_made_meanwhile_is_not_taken_for_a_stray() -> None:
    host = a_host(stray(f"Microsoft:{POOL}\\{SCSI}\\0\\0\\L"))
    coming = checkpoint(checkpoint_id=POOL)

    def happen(question: Question) -> None:
        if MEDIA in question.text:
            rows = host.rows["Msvm_VirtualSystemSettingData"]
            if coming not in rows:
                rows.append(coming)

    host.before = happen
    assert taken(host).unassigned == ()
    assert coming in host.rows["Msvm_VirtualSystemSettingData"]


@pytest.mark.parametrize("strays", [1, 400])
def test_strays_cost_no_request_for_each(strays: int) -> None:
    host = a_host(*(stray(f"odd {number}") for number in range(strays)))
    host.rows[DRIVES] = [drive(drive_id(MAIL, 5))]
    speaking = host.hyperv()
    assert len(take_inventory(speaking).unassigned) == strays
    plain = a_host().hyperv()
    take_inventory(plain)
    assert speaking.client.requests <= plain.client.requests + 4


# --- one checkpoint --------------------------------------------------------------------------


def checkpoint_host(*more_media: Row) -> TableHost:
    host = a_host(*more_media)
    host.rows[DRIVES] = [
        drive(drive_id(CHECKPOINT, 0)),
        drive(drive_id(CHECKPOINT, 1)),
        drive(drive_id(WEB, 7)),
    ]
    return host


@pytest.mark.parametrize(
    "parent", [path_to(drive_id(CHECKPOINT)), path_to(drive_id(CHECKPOINT).lower()), None]
)
def test_a_checkpoints_stray_medium_is_told(parent: str | None) -> None:
    found = read_checkpoint(checkpoint_host(stray("odd", parent)).hyperv(), WEB, f"Microsoft:{CHECKPOINT}")
    assert [disk.label for disk in found.disks] == ["scsi 0:0"]
    assert found.unread_disks == (f"odd ({LOST})",)


@pytest.mark.parametrize(
    "other",
    [
        stray("odd", path_to(drive_id(WEB, 7))),
        stray(f"Microsoft:{WEB}\\{SCSI}\\0\\7\\L"),
        stray(f"Microsoft:Definition\\{POOL}\\Default"),
    ],
)
def test_an_empty_drive_of_a_checkpoint_is_no_trouble(other: Row) -> None:
    found = read_checkpoint(checkpoint_host(other).hyperv(), WEB, f"Microsoft:{CHECKPOINT}")
    assert (len(found.disks), found.unread_disks) == (1, ())


def test_an_odd_id_that_names_its_checkpoint_is_a_disk_of_it() -> None:
    odd = stray(f"Microsoft:{CHECKPOINT}\\nvme\\1", path_to(drive_id(CHECKPOINT)))
    found = read_checkpoint(checkpoint_host(odd).hyperv(), WEB, f"Microsoft:{CHECKPOINT}")
    assert [disk.path for disk in found.disks] == ["D:\\VMs\\web\\system.vhdx", LOST]
    assert found.unread_disks == ()
