"""The facts of one VM: those an inventory gives of it, and no request for anybody else."""

import pytest

from tests.fakes.hyperv_host import Row, TableHost
from tests.fakes.hyperv_rows import (
    MAIL,
    SCSI,
    WEB,
    checkpoint,
    component,
    host_system,
    medium,
    setting_ref,
    settings,
    vm,
    vm_ref,
)
from tests.fakes.wsman_host import fault
from vmkeep.host.hyperv import HyperV, Inventory, VmNotFound, read_vm, take_inventory, with_guests
from vmkeep.model.facts import ReplicationFacts

pytestmark = pytest.mark.quick

SYSTEMS, SETTINGS = "Msvm_ComputerSystem", "Msvm_VirtualSystemSettingData"
MEDIA, DRIVES = "Msvm_StorageAllocationSettingData", "Msvm_ResourceAllocationSettingData"
RELATIONS, APPLIED = "Msvm_ReplicationRelationship", "Msvm_LastAppliedSnapshot"
LOST = "D:\\VMs\\lost.vhdx"


def checkpoint_id(number: int) -> str:
    return f"A1A1A1A1-0000-4000-8000-{number:012}"


def drive(owner: str, place: int, kind: str = "Synthetic Disk Drive", **changed: object) -> Row:
    row: dict[str, object] = {
        "InstanceID": f"Microsoft:{owner}\\{SCSI}\\0\\{place}\\D",
        "ResourceSubType": f"Microsoft:Hyper-V:{kind}",
        "HostResource": None,
        "Parent": None,
    }
    return {**row, **changed}  # type: ignore[dict-item]


def disk(owner: str, place: int, path: str) -> Row:
    return medium(owner, path, InstanceID=f"Microsoft:{owner}\\{SCSI}\\0\\{place}\\L")


def a_host(checkpoints: int = 2, others: int = 1) -> TableHost:
    """A VM with checkpoints, which was reverted once and replicates, beside others with two disks each."""
    host = TableHost()
    names = {MAIL[:-6] + f"{number:06}": f"other-{number}" for number in range(others)}
    tree = [checkpoint_id(number) for number in range(checkpoints)]
    host.rows[SYSTEMS] = [
        host_system(),
        vm(ReplicationMode=1, ReplicationState=3),
        *(vm(vm_id, name) for vm_id, name in names.items()),
    ]
    host.rows[SETTINGS] = [
        settings(),
        *(settings(vm_id, name) for vm_id, name in names.items()),
        *(checkpoint(checkpoint_id=each) for each in tree),
        *(checkpoint(vm_id, checkpoint_id=f"C3{vm_id[2:]}") for vm_id in names),
    ]
    for owner in (WEB, *tree, *names, *(f"C3{vm_id[2:]}" for vm_id in names)):
        host.rows[MEDIA] += [disk(owner, 0, f"D:\\VMs\\{owner}\\a.vhdx"), disk(owner, 1, "D:\\b.vhdx")]
        host.rows[DRIVES] += [drive(owner, 0), drive(owner, 1), drive(owner, 2, "Physical Disk Drive")]
    for name in ("Msvm_VssComponent", "Msvm_HeartbeatComponent"):
        host.rows[name] = [component(), *(component(vm_id, 2, 12) for vm_id in names)]
    host.rows[RELATIONS] = [{"InstanceID": f"Microsoft:{WEB}\\0", "ReplicationState": 10}]
    host.rows[APPLIED] = [{"Antecedent": vm_ref(WEB), "Dependent": setting_ref(each)} for each in tree[:1]]
    for vm_id in names:
        host.rows[RELATIONS].append({"InstanceID": f"Microsoft:{vm_id}\\0", "ReplicationState": 3})
        host.rows[APPLIED].append({"Antecedent": vm_ref(vm_id), "Dependent": setting_ref(f"C3{vm_id[2:]}")})
    host.rows["Win32_Volume"] = [{"Name": "D:\\", "FreeSpace": 5_000_000_000}]
    return host


def taken(host: TableHost) -> Inventory:
    return take_inventory(host.hyperv())


def asked(host: TableHost, seen: Inventory | None = None) -> tuple[HyperV, int]:
    """Read the VM, and see that the inventory says the same of it; return what was spoken over."""
    whole = taken(host)
    speaking = host.hyperv()
    before = host.sent_bytes
    assert read_vm(speaking, WEB, seen or whole) == whole.find(WEB)
    return speaking, host.sent_bytes - before


def test_the_facts_are_those_of_an_inventory() -> None:
    host = a_host()
    asked(host)
    web = read_vm(host.hyperv(), WEB.lower(), taken(host))
    assert web.vm.id == WEB
    assert [each.path for each in web.disks] == [f"D:\\VMs\\{WEB}\\a.vhdx", "D:\\b.vhdx", None]
    assert web.replication == ReplicationFacts("primary", busy=True)
    assert web.last_applied == f"Microsoft:{checkpoint_id(0)}"
    assert [len(each.disks) for each in web.checkpoints] == [3, 3]
    assert web.free_bytes_for_growth == 5_000_000_000


@pytest.mark.parametrize(("checkpoints", "requests"), [(0, 9), (31, 9), (32, 11), (50, 11)])
def test_requests_grow_with_the_checkpoints_of_this_vm_alone(checkpoints: int, requests: int) -> None:
    few, few_bytes = asked(a_host(checkpoints))
    many, many_bytes = asked(a_host(checkpoints, others=60))
    assert few.client.requests == many.client.requests == requests
    assert many_bytes == few_bytes


def test_a_vm_that_has_gone_is_told_even_if_another_is_called_by_its_id() -> None:
    host = a_host()
    seen = taken(host)
    del host.rows[SYSTEMS][1]
    host.rows[SYSTEMS][1]["ElementName"] = WEB
    with pytest.raises(VmNotFound, match=WEB):
        read_vm(host.hyperv(), WEB, seen)


def test_a_vm_that_was_renamed_has_its_new_name() -> None:
    host = a_host()
    seen = taken(host)
    host.rows[SYSTEMS][1]["ElementName"] = "renamed"
    assert read_vm(host.hyperv(), WEB, seen).vm.name == "renamed"


def test_a_vm_that_came_after_the_inventory() -> None:
    host = a_host()
    asked(host, Inventory(taken(host).host, ()))


def test_what_nobody_could_place_stays_told() -> None:
    host = a_host()
    host.rows[MEDIA].append(medium(path=LOST, InstanceID="odd", Parent=path_to(drive(WEB, 1))))
    seen = taken(host)
    assert seen.find(WEB).unread_disks == (f"odd ({LOST})",)
    speaking, _ = asked(host, seen)
    assert speaking.client.requests == 9


def test_what_nobody_could_place_of_a_checkpoint_stays_told() -> None:
    host = a_host()
    parent = path_to(drive(checkpoint_id(1), 1))
    host.rows[MEDIA].append(medium(path=LOST, InstanceID="odd", Parent=parent))
    assert taken(host).find(WEB).checkpoints[1].unread_disks == (f"odd ({LOST})",)
    asked(host)


@pytest.mark.parametrize("owner", [WEB, checkpoint_id(1)])
def test_a_drive_that_seems_empty_is_looked_into_again(owner: str) -> None:
    """A medium of no known form was attached after the inventory: nothing of the VM leads to it."""
    host = a_host()
    seen = taken(host)
    host.rows[DRIVES].append(drive(owner, 7))
    host.rows[MEDIA].append(medium(path=LOST, InstanceID="odd"))
    asked(host, seen)
    web = read_vm(host.hyperv(), WEB, seen)
    told = web.unread_disks if owner == WEB else web.checkpoints[1].unread_disks
    assert told == (f"Microsoft:{owner}\\{SCSI}\\0\\7\\D: may hold odd ({LOST})",)


def test_others_strays_and_empty_drives_cost_nothing() -> None:
    host = a_host()
    host.rows[DRIVES].append(drive(MAIL[:-6] + "000000", 7))
    host.rows[MEDIA].append(medium(path=LOST, InstanceID="odd"))
    speaking, _ = asked(host)
    assert speaking.client.requests == 9


def test_a_vm_without_a_replica_is_not_asked_about_one() -> None:
    host = a_host()
    host.rows[SYSTEMS][1].update(ReplicationMode=0, ReplicationState=0)
    speaking, _ = asked(host)
    assert speaking.client.requests == 8


@pytest.mark.parametrize("code", [0x80041017, 0x80041002, 0x80041003])
def test_a_host_that_does_not_pick_references_lists_them(code: int) -> None:
    """An invalid query, not found, access denied; the list of all is asked for then, and answered."""
    host = a_host()
    host.refused["REFERENCES OF"] = fault(code)
    asked(host)
    assert read_vm(host.hyperv(), WEB, taken(host)).last_applied == f"Microsoft:{checkpoint_id(0)}"


def test_what_the_host_keeps_to_itself_is_unknown_of_one_vm_too() -> None:
    host = a_host()
    optional = ("Msvm_VssComponent", "Msvm_HeartbeatComponent", RELATIONS, APPLIED, "Win32_Volume")
    host.refused.update(dict.fromkeys(optional, fault(5, "w:AccessDenied")))
    asked(host)
    web = read_vm(host.hyperv(), WEB, taken(host))
    assert (web.backup_component, web.last_applied, web.free_bytes_for_growth) == (None, None, None)


def test_guests_are_asked_as_for_an_inventory() -> None:
    host = a_host()
    whole = taken(host)
    web = read_vm(host.hyperv(), WEB, whole)
    assert with_guests(host.hyperv(), [web]) == with_guests(host.hyperv(), [whole.find(WEB)])


def path_to(row: Row) -> str:
    doubled = str(row["InstanceID"]).replace("\\", "\\\\")
    return f'\\\\HV01\\root\\virtualization\\v2:{DRIVES}.InstanceID="{doubled}"'
