"""What the checks of a host conclude from what a host shows, one oddity at a time."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.hyperv_host import TableHost, embedded, returns
from tests.fakes.hyperv_rows import (
    CHECKPOINT,
    IDE,
    MAIL,
    SCSI,
    WEB,
    checkpoint,
    host_system,
    medium,
    settings,
    vm,
)
from tests.fakes.wsman_host import fault
from vmkeep.cli.host_checks import examine_inside
from vmkeep.cli.host_verdicts import Check, exit_code_of
from vmkeep.host.files.host_files import HostFiles
from vmkeep.host.files.paths import PathMap

pytestmark = pytest.mark.quick

IMAGES = "Msvm_ImageManagementService"
READ, CHANGES = f"{IMAGES}.GetVirtualHardDiskSettingData", f"{IMAGES}.GetVirtualDiskChanges"
ACCESS_DENIED = fault(5, "w:AccessDenied")
DISK = embedded("Msvm_VirtualHardDiskSettingData", {"MaxInternalSize": 1 << 30, "Format": 3, "Type": 3})


def a_host() -> TableHost:
    """A running VM of generation 2 with a checkpoint, and a VM of generation 1 that is off."""
    host = TableHost()
    host.rows["Msvm_ComputerSystem"] = [host_system(), vm(), vm(MAIL, "mail", EnabledState=3)]
    host.rows["Msvm_VirtualSystemSettingData"] = [
        settings(),
        checkpoint(),
        settings(MAIL, "mail", VirtualSystemSubType="Microsoft:Hyper-V:SubType:1"),
    ]
    host.rows["Msvm_StorageAllocationSettingData"] = [
        medium(path="D:\\VMs\\web\\system_1.avhdx"),
        medium(CHECKPOINT),
        medium(MAIL, "D:\\VMs\\mail\\mail.vhd", InstanceID=f"Microsoft:{MAIL}\\{IDE}\\0\\0\\L"),
    ]
    host.rows["Win32_OperatingSystem"] = [
        {"CSName": "HV01", "BuildNumber": "20348", "ProductType": 3, "LocalDateTime": host.clock.now(),
         "LastBootUpTime": host.clock.now()}
    ]  # fmt: skip
    host.rows["Win32_Volume"] = [{"Name": "D:\\", "FreeSpace": 5_000_000_000}]
    host.on(READ, returns(0, SettingData=DISK))
    host.on(CHANGES, returns(32773))
    return host


@pytest.fixture
def mounted(tmp_path: Path) -> Path:
    """The host's drive D, with the files of both VMs."""
    for name in ("web/system.vhdx", "web/system_1.avhdx", "mail/mail.vhd"):
        (tmp_path / "VMs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "VMs" / name).write_bytes(b"x" * 9000)
    for name, guid in (("web", WEB), ("mail", MAIL)):
        folder = tmp_path / "VMs" / name / "Virtual Machines"
        folder.mkdir()
        (folder / f"{guid}.vmcx").write_bytes(b"y" * 100)
    snapshots = tmp_path / "VMs" / "web" / "Snapshots"
    snapshots.mkdir()
    return tmp_path


def examined(host: TableHost, folder: Path, rules: dict[str, str] | None = None) -> dict[str, Check]:
    paths = PathMap({"D:\\": folder.as_uri()} if rules is None else rules)
    with HostFiles("hv01.invalid", 445, None, paths, clock=host.clock) as files:
        checks = list(examine_inside(host.hyperv(), files, paths, lambda _: None))
    assert len({check.name for check in checks}) == len(checks)
    return {check.name: check for check in checks}


def test_a_host_without_faults(mounted: Path) -> None:
    checks = examined(a_host(), mounted)
    assert {check.state for check in checks.values()} == {"confirmed"}
    assert exit_code_of(list(checks.values())) == 0
    assert checks["read-wmi"].fact.startswith("2 VMs in ")
    # web's disks, web's configuration, mail's disks, mail's configuration, sorted.
    assert [checks[f"folder-{n}"].subject for n in (1, 2, 3, 4)] == [
        "D:\\VMs\\mail", "D:\\VMs\\mail\\Virtual Machines", "D:\\VMs\\web", "D:\\VMs\\web\\Virtual Machines"
    ]  # fmt: skip
    assert checks["folder-1-read"].fact == "4096 bytes of a file of a VM that does not run"
    assert checks["folder-3-read"].fact == "4096 bytes of a parent of a running VM's disk"
    assert checks["folder-4-read"].fact == "100 bytes of a file of a running VM"


def test_nothing_on_the_host_is_changed(mounted: Path) -> None:
    host = a_host()
    examined(host, mounted)
    assert {call.method for call in host.calls} == {READ, CHANGES}


def _set(class_name: str, index: int, **values: Any) -> Callable[[TableHost], None]:
    return lambda host: host.rows[class_name][index].update(values)


def _refuse(class_name: str) -> Callable[[TableHost], None]:
    return lambda host: host.refused.update({class_name: ACCESS_DENIED})


ODDITIES: dict[str, tuple[Callable[[TableHost], None], str, str, str, int]] = {
    "too old": (_set("Win32_OperatingSystem", 0, BuildNumber="9600"), "version", "refuted", "build 9600", 1),
    "no build": (_set("Win32_OperatingSystem", 0, BuildNumber="?"), "version", "refuted", "does not tell", 1),
    "workstation": (_set("Win32_OperatingSystem", 0, ProductType=1), "edition", "refuted", "workstation", 1),
    "no edition": (_set("Win32_OperatingSystem", 0, ProductType=9), "edition", "refuted", "does not tell", 1),
    "free space unknown": (_refuse("Win32_Volume"), "free-space", "unknown", "2 of 2", 3),
    "a class refused": (_refuse("Msvm_VssComponent"), "classes", "refuted", "Msvm_VssComponent", 3),
    "VMs refused": (_refuse("Msvm_ComputerSystem"), "read-wmi", "refuted", "5", 13),
    "points refused": (
        _refuse("Msvm_VirtualSystemReferencePoint"), "reference-points", "refuted", "code 5", 13
    ),
    "invoke refused": (lambda host: host.on(READ, ACCESS_DENIED), "invoke", "refuted", "code 5", 13),
    "invoke denied by Hyper-V": (
        lambda host: host.on(READ, returns(32769)), "invoke", "refuted", "return_code 32769", 13
    ),
    "no answer": (lambda host: host.on(READ, returns(32768)), "image-service", "refuted", "32768", 1),
    "an id never given is known": (
        lambda host: host.on(
            CHANGES,
            returns(0, ProcessedByteLength=1 << 30, ChangedByteOffsets=[], ChangedByteLengths=[]),
        ), "rct", "refuted", "got an answer", 3
    ),
    "ids of another form": (
        _set("Msvm_StorageAllocationSettingData", 0, InstanceID=f"Microsoft:{WEB}\\other"),
        "disk-ids", "refuted", "1 of", 1,
    ),
    "another IDE controller": (
        _set("Msvm_StorageAllocationSettingData", 2, InstanceID=f"Microsoft:{MAIL}\\{SCSI}\\0\\0\\L"),
        "ide", "refuted", "0 with", 3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("oddity", ODDITIES)
def test_an_oddity_is_named_and_counts_as_what_it_is(oddity: str, mounted: Path) -> None:
    disturb, name, state, fact, code = ODDITIES[oddity]
    host = a_host()
    disturb(host)
    checks = examined(host, mounted)
    assert (checks[name].state, exit_code_of(list(checks.values()))) == (state, code), checks
    assert fact in checks[name].fact
    assert checks[name].hint or state == "unknown"
    also = {other for other, check in checks.items() if check.state == "refuted"} - {name}
    assert also <= {"classes"}, also


@pytest.mark.parametrize(
    ("minutes", "state"), [(-6, "refuted"), (-4, "confirmed"), (4, "confirmed"), (6, "refuted")]
)
def test_clocks(minutes: int, state: str, mounted: Path) -> None:
    host = a_host()
    host.rows["Win32_OperatingSystem"][0]["LocalDateTime"] = host.clock.now() + timedelta(minutes=minutes)
    check = examined(host, mounted)["clock"]
    assert (check.state, check.needed) == (state, False)
    assert ("ahead" in check.fact) == (minutes > 0)


def test_a_host_without_vms(mounted: Path) -> None:
    host = a_host()
    for name in ("Msvm_ComputerSystem", "Msvm_VirtualSystemSettingData", "Msvm_StorageAllocationSettingData"):
        host.rows[name] = []
    checks = examined(host, mounted)
    assert checks["invoke"].state == "unknown"
    assert {checks[name].state for name in ("image-service", "rct", "disk-ids", "ide", "files")} == {
        "skipped"
    }
    assert exit_code_of(list(checks.values())) == 3


def test_a_server_that_no_rule_names_is_not_asked(mounted: Path) -> None:
    """The account is shown to no server that only a VM's configuration names."""
    host = a_host()
    host.rows["Msvm_StorageAllocationSettingData"][2]["HostResource"] = ["\\\\nas.invalid\\vms\\mail.vhd"]
    checks = examined(host, mounted)
    assert (checks["folder-1"].subject, checks["folder-1"].error) == ("\\\\nas.invalid\\vms", "HF012")
    assert exit_code_of(list(checks.values())) == 1
    assert "nas" not in checks["folder-1"].fact + checks["folder-1"].hint


def test_without_a_rule_and_an_account_nothing_is_reached_and_one_folder_says_so(mounted: Path) -> None:
    checks = examined(a_host(), mounted, {})
    states = [checks[f"folder-{n}"].state for n in (1, 2, 3, 4)]
    assert states == ["refuted", "skipped", "skipped", "skipped"]
    assert checks["folder-1"].error == "HF002"


def test_a_folder_without_files_is_unknown_and_no_fault(mounted: Path) -> None:
    (mounted / "VMs" / "mail" / "Virtual Machines" / f"{MAIL}.vmcx").unlink()
    checks = examined(a_host(), mounted)
    assert checks["folder-2-read"].state == "unknown"
    assert exit_code_of(list(checks.values())) == 0


def test_facts_and_hints_name_nobody(mounted: Path) -> None:
    """They go into the report; names stay in what is for the screen."""
    for disturb, *_ in ODDITIES.values():
        host = a_host()
        disturb(host)
        for check in examined(host, mounted, {"D:\\VMs\\web": mounted.as_uri()}).values():
            for name in ("D:", "mail", WEB, MAIL, "hv01", "HV01", "tester", str(mounted)):
                assert name not in check.fact + check.hint + check.means, check
