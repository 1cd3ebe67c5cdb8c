"""The list of VMs: joined from whole classes, in few requests, with what is unknown left unknown."""

from datetime import UTC, datetime

import pytest

from tests.fakes.hyperv_host import TableHost
from tests.fakes.hyperv_rows import (
    CHECKPOINT,
    CREATED,
    IDE,
    MAIL,
    SCSI,
    WEB,
    checkpoint,
    component,
    host_system,
    kvp,
    medium,
    setting_ref,
    settings,
    vm,
    vm_ref,
)
from tests.fakes.wsman_host import fault
from vmkeep.host.hyperv import (
    Inventory,
    Owner,
    VmAmbiguous,
    VmNotFound,
    read_free_bytes,
    take_inventory,
    with_guests,
)
from vmkeep.host.wsman import UnknownToHost
from vmkeep.model.facts import GuestFacts, HostFacts, ReplicationFacts

pytestmark = pytest.mark.quick

REPOSITORY = "3f" * 16
BOOTED = datetime(2026, 3, 1, tzinfo=UTC)
NOW = datetime(2026, 3, 29, 0, 30, tzinfo=UTC)


def a_host() -> TableHost:
    """Two VMs on a Japanese host: a running Windows one, and one that is off."""
    host = TableHost()
    host.rows["Msvm_ComputerSystem"] = [host_system(), vm(), vm(MAIL, "mail", EnabledState=3)]
    host.rows["Msvm_VirtualSystemSettingData"] = [
        settings(),
        settings(
            MAIL,
            "mail",
            VirtualSystemSubType="Microsoft:Hyper-V:SubType:1",
            UserSnapshotType=2,
            Version="5.0",
        ),
    ]
    host.rows["Msvm_StorageAllocationSettingData"] = [
        medium(),
        medium(MAIL, "C:\\ClusterStorage\\Volume1\\mail.vhd", InstanceID=f"Microsoft:{MAIL}\\{IDE}\\0\\0\\L"),
    ]
    host.rows["Msvm_VssComponent"] = [component(), component(MAIL, 2, 12)]
    host.rows["Msvm_HeartbeatComponent"] = [component()]
    host.rows["Msvm_KvpExchangeComponent"] = [kvp(WEB, OSName="Windows Server 2022", OSPlatformId="2")]
    host.rows["Win32_OperatingSystem"] = [
        {
            "CSName": "HV01",
            "BuildNumber": "20348",
            "ProductType": 3,
            "LocalDateTime": NOW,
            "LastBootUpTime": BOOTED,
        }
    ]
    host.rows["Win32_Volume"] = [
        {"Name": "C:\\", "FreeSpace": 10},
        {"Name": "D:\\", "FreeSpace": 5_000_000_000},
        {"Name": "C:\\ClusterStorage\\Volume1\\", "FreeSpace": 7_000_000_000},
        {"Name": "\\\\?\\Volume{1}\\", "FreeSpace": None},
    ]
    return host


def taken(host: TableHost, repository: str | None = REPOSITORY) -> Inventory:
    return take_inventory(host.hyperv(), repository=repository)


def test_a_running_windows_vm() -> None:
    host = a_host()
    (web,) = with_guests(host.hyperv(), [taken(host).find("web")])
    assert web.vm.id == WEB
    assert (web.state, web.state_code, web.generation) == ("running", 2, 2)
    assert (web.configuration_version, web.checkpoint_setting) == ("10.0", "production")
    assert (web.backup_component, web.heartbeat) == ("ok", "ok")
    assert web.guest == GuestFacts("windows", "Windows Server 2022", vss_writers=True)
    assert web.replication == ReplicationFacts("none", busy=False)
    assert [(disk.label, disk.kind, disk.path) for disk in web.disks] == [
        ("scsi 0:0", "vhdx", "D:\\VMs\\web\\system.vhdx")
    ]
    assert (web.free_bytes_for_growth, web.checkpoint_files_on_same_volume) == (5_000_000_000, True)
    assert web.configuration is not None
    assert (web.configuration.folder, web.configuration.stem) == ("D:\\VMs\\web\\Virtual Machines", WEB)
    assert (web.foreign_recovery_checkpoint, web.operation_in_progress, web.checkpoints) == (False, None, ())


def test_a_vm_that_is_off() -> None:
    mail = taken(a_host()).find(MAIL.lower())
    assert (mail.vm.name, mail.state, mail.generation) == ("mail", "off", 1)
    assert (mail.checkpoint_setting, mail.backup_component) == ("disabled", "no_contact")
    assert mail.guest == GuestFacts(vss_writers=False)
    assert [(disk.label, disk.kind) for disk in mail.disks] == [("ide 0:0", "vhd")]
    assert (mail.free_bytes_for_growth, mail.checkpoint_files_on_same_volume) == (7_000_000_000, False)


def test_the_host_itself() -> None:
    host = a_host()
    host.refused["MSCluster_Cluster"] = fault(0x8004100E)
    found = taken(host)
    assert found.host == HostFacts("HV01", 20348, "server", clustered=False, now=NOW, booted=BOOTED)
    assert found.unanswered == {}
    assert len(found.vms) == 2, "the host's own entry is no VM"


@pytest.mark.parametrize(
    ("kind", "edition"), [(1, "client"), (2, "server"), (3, "server"), (None, None), (7, None)]
)
def test_editions(kind: int | None, edition: str | None) -> None:
    host = a_host()
    host.rows["Win32_OperatingSystem"][0]["ProductType"] = kind
    assert taken(host).host.edition == edition


def test_a_member_of_a_cluster() -> None:
    host = a_host()
    host.rows["MSCluster_Cluster"] = [{"Name": "CL01"}]
    assert taken(host).host.clustered is True


def test_a_host_that_answers_the_least() -> None:
    """What is kept back is unknown and named; it never looks like a good answer."""
    host = a_host()
    optional = (
        "Msvm_VssComponent",
        "Msvm_HeartbeatComponent",
        "Msvm_ReplicationRelationship",
        "Msvm_LastAppliedSnapshot",
        "Win32_Volume",
        "Win32_OperatingSystem",
        "MSCluster_Cluster",
    )
    host.refused.update(dict.fromkeys(optional, fault(5, "w:AccessDenied")))
    found = taken(host)
    assert set(found.unanswered) == set(optional)
    assert found.host == HostFacts()
    web = found.find("web")
    assert (web.backup_component, web.heartbeat, web.guest) == (None, None, GuestFacts())
    assert (web.free_bytes_for_growth, web.checkpoint_files_on_same_volume) == (None, None)
    assert web.state == "running"


@pytest.mark.parametrize(
    "needed", ["Msvm_ComputerSystem", "Msvm_VirtualSystemSettingData", "Msvm_StorageAllocationSettingData"]
)
def test_a_host_without_the_role_is_refused(needed: str) -> None:
    host = a_host()
    host.refused[needed] = fault(0x80041010)
    with pytest.raises(UnknownToHost):
        taken(host)


def test_a_vm_without_settings_is_listed_with_what_is_known() -> None:
    host = a_host()
    host.rows["Msvm_VirtualSystemSettingData"] = []
    web = taken(host).find("web")
    assert (web.state, web.generation, web.configuration_version, web.configuration) == (
        "running",
        *[None] * 3,
    )


def test_names_need_not_be_unique() -> None:
    host = a_host()
    host.rows["Msvm_ComputerSystem"][2]["ElementName"] = "web"
    with pytest.raises(VmAmbiguous, match=MAIL):
        taken(host).find("web")
    assert taken(host).find(WEB).vm.id == WEB


@pytest.mark.parametrize("name", ["Web", "web ", "", "HV01", "仮想マシン"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(VmNotFound):
        taken(a_host()).find(name)


def test_a_vm_whose_name_is_another_ones_id_does_not_hide_it() -> None:
    host = a_host()
    host.rows["Msvm_ComputerSystem"][2]["ElementName"] = WEB
    assert taken(host).find(WEB).vm.name == "web"


def test_hostile_names_are_kept_as_they_are() -> None:
    hostile = "a\r\n<script>[red]\u202e../x"
    host = a_host()
    host.rows["Msvm_ComputerSystem"][1]["ElementName"] = hostile.replace("\r", "")
    assert taken(host).find(WEB).vm.name == hostile.replace("\r", "")


def test_drives_stand_in_for_volumes() -> None:
    host = a_host()
    host.rows["Win32_Volume"] = []
    host.rows["Win32_LogicalDisk"] = [
        {"DeviceID": "C:", "FreeSpace": 11},
        {"DeviceID": "D:", "FreeSpace": None},
    ]
    found = taken(host)
    assert found.find("mail").free_bytes_for_growth == 11
    assert found.find("web").free_bytes_for_growth is None


@pytest.mark.parametrize(
    ("paths", "free"),
    [
        (["D:\\a.vhdx"], 5_000_000_000),
        (["d:\\a.vhdx", "C:\\ClusterStorage\\volume1\\b.vhdx"], 5_000_000_000),
        (["C:\\ClusterStorage\\Volume10\\b.vhdx"], 10),
        (["\\\\fs\\share\\c.vhdx", "D:\\a.vhdx"], None),
        ([], None),
    ],
)
def test_free_space_is_asked_for_while_a_run_goes_on(paths: list[str], free: int | None) -> None:
    assert read_free_bytes(a_host().hyperv(), paths) == free


# --- checkpoints -------------------------------------------------------------------------

OURS = Owner(REPOSITORY, "a1" * 16).name
FOREIGN = Owner("4e" * 16, "a1" * 16).name
USER = "B2B2B2B2-0000-4000-8000-000000000002"


@pytest.mark.parametrize(
    ("name", "repository", "is_foreign"),
    [
        (OURS, REPOSITORY, False),
        (FOREIGN, REPOSITORY, True),
        ("web - (3/29/2026)", REPOSITORY, True),
        (OURS, None, True),
    ],
)
def test_anybody_elses_recovery_checkpoint_is_foreign(
    name: str, repository: str | None, is_foreign: bool
) -> None:
    host = a_host()
    host.rows["Msvm_VirtualSystemSettingData"].append(checkpoint(ElementName=name))
    assert taken(host, repository).find("web").foreign_recovery_checkpoint is is_foreign


def test_the_tree_of_checkpoints() -> None:
    host = a_host()
    user = checkpoint(
        checkpoint_id=USER,
        ElementName="before the update",
        VirtualSystemType="Microsoft:Hyper-V:Snapshot:Realized",
        CreationTime=datetime(2026, 2, 1, tzinfo=UTC),
        Notes=["first", "second"],
    )
    path = f'\\\\HV01\\root\\virtualization\\v2:Msvm_VirtualSystemSettingData.InstanceID="Microsoft:{USER}"'
    host.rows["Msvm_VirtualSystemSettingData"] += [
        checkpoint(ElementName=OURS, Parent=path),
        user,
        checkpoint(
            checkpoint_id="C3C3C3C3-0000-4000-8000-000000000003",
            VirtualSystemType="Microsoft:Hyper-V:Snapshot:Replica:Standard",
            CreationTime=None,
        ),
    ]
    host.rows["Msvm_VirtualSystemSettingData"][0]["Parent"] = path
    host.rows["Msvm_StorageAllocationSettingData"].append(medium(USER, "D:\\VMs\\web\\old.vhdx"))
    host.rows["Msvm_LastAppliedSnapshot"] = [{"Antecedent": vm_ref(WEB), "Dependent": setting_ref(USER)}]
    web = taken(host).find("web")
    assert [(c.id, c.kind) for c in web.checkpoints] == [
        (f"Microsoft:{USER}", "user"),
        (f"Microsoft:{CHECKPOINT}", "recovery"),
        ("Microsoft:C3C3C3C3-0000-4000-8000-000000000003", "replica"),
    ]
    first, second, _ = web.checkpoints
    assert (first.name, first.notes, first.parent) == ("before the update", ("first", "second"), None)
    assert (second.parent, second.created) == (f"Microsoft:{USER}", CREATED)
    assert first.configuration is not None
    assert (first.configuration.folder, first.configuration.stem) == ("D:\\VMs\\web\\Snapshots", USER)
    assert [disk.path for disk in first.disks] == ["D:\\VMs\\web\\old.vhdx"]
    assert first.disks[0].slot == web.disks[0].slot == f"{SCSI}\\0\\0"
    assert (web.parent, web.last_applied) == (f"Microsoft:{USER}", f"Microsoft:{USER}")
    assert web.foreign_recovery_checkpoint is False
    assert taken(host).find("mail").checkpoints == ()


def test_planned_systems_and_other_settings_are_not_the_vm() -> None:
    host = a_host()
    planned = settings(VirtualSystemType="Microsoft:Hyper-V:System:Planned", Version="1.0")
    host.rows["Msvm_VirtualSystemSettingData"].append(planned)
    web = taken(host).find("web")
    assert (web.configuration_version, web.checkpoints) == ("10.0", ())


def test_what_is_under_way_and_replicated() -> None:
    host = a_host()
    host.rows["Msvm_ComputerSystem"][1].update(
        OperationalStatus=[11, 32773], ReplicationMode=1, ReplicationState=3
    )
    host.rows["Msvm_ReplicationRelationship"] = [
        {"InstanceID": f"Microsoft:{WEB}\\0", "ReplicationState": 3},
        {"InstanceID": f"Microsoft:{WEB}\\1", "ReplicationState": 10},
    ]
    web = taken(host).find("web")
    assert (web.operation_in_progress, web.phase_code) == ("export", 32773)
    assert web.replication == ReplicationFacts("primary", busy=True)


# --- the budget --------------------------------------------------------------------------


@pytest.mark.slow
def test_five_hundred_vms_cost_few_requests() -> None:
    """Design section 9 allows 40, and hopes for 20, of 500 VMs with 2000 disks."""
    host = TableHost()
    ids = [f"{number:08X}-0000-4000-8000-0123456789AB" for number in range(500)]
    names = [f"application-server-{number:03}.branch.example" for number in range(500)]
    host.rows["Msvm_ComputerSystem"] = [host_system(), *map(vm, ids, names)]
    host.rows["Msvm_VirtualSystemSettingData"] = list(map(settings, ids, names))
    host.rows["Msvm_StorageAllocationSettingData"] = [
        medium(
            vm_id,
            f"C:\\ClusterStorage\\Volume{disk}\\VMs\\{name}\\Virtual hard disks\\disk {disk}.vhdx",
            InstanceID=f"Microsoft:{vm_id}\\{SCSI}\\0\\{disk}\\L",
        )
        for vm_id, name in zip(ids, names, strict=True)
        for disk in range(4)
    ]
    told = {
        "FullyQualifiedDomainName": "application-server.branch.example",
        "IntegrationServicesVersion": "10.0.20348",
        "NetworkAddressIPv4": "192.0.2.17",
        "NetworkAddressIPv6": "2001:db8::17;fe80::1234:5678:9abc:def0",
        "OSBuildNumber": "20348",
        "OSMajorVersion": "10",
        "OSMinorVersion": "0",
        "OSName": "Windows Server 2022 Datacenter",
        "OSPlatformId": "2",
        "OSVersion": "10.0.20348",
        "ProcessorArchitecture": "9",
        "ProductType": "3",
        "ServicePackMajor": "0",
        "ServicePackMinor": "0",
        "SuiteMask": "400",
    }
    host.rows["Msvm_KvpExchangeComponent"] = [kvp(vm_id, **told) for vm_id in ids]
    for name in ("Msvm_VssComponent", "Msvm_HeartbeatComponent"):
        host.rows[name] = list(map(component, ids))
    speaking = host.hyperv()
    found = take_inventory(speaking)
    assert len(found.vms) == 500
    assert sum(len(vm.disks) for vm in found.vms) == 2000
    assert speaking.client.requests <= 14, f"{speaking.client.requests} requests, {host.sent_bytes} bytes"
    told_all = with_guests(speaking, found.vms)
    assert {vm.guest.family for vm in told_all} == {"windows"}
    # Also if all guests are asked, which no run does.
    assert speaking.client.requests <= 30, f"{speaking.client.requests} requests, {host.sent_bytes} bytes"


def test_guests_keep_to_themselves_what_the_host_will_not_say() -> None:
    host = a_host()
    host.refused["Msvm_KvpExchangeComponent"] = fault(5, "w:AccessDenied")
    web = taken(host).find("web")
    assert with_guests(host.hyperv(), [web]) == (web,)
    assert web.guest == GuestFacts(vss_writers=True)
