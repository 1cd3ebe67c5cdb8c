"""Whatever ids a host gives its media and drives, one VM's facts are those that an inventory has of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.hyperv_host import Row, TableHost
from tests.fakes.hyperv_rows import MAIL, SCSI, WEB, checkpoint, medium, settings, vm
from vmkeep.host.hyperv import read_vm, take_inventory

pytestmark = pytest.mark.quick

MEDIA, DRIVES = "Msvm_StorageAllocationSettingData", "Msvm_ResourceAllocationSettingData"
OF_WEB, OF_MAIL = "A1A1A1A1-0000-4000-8000-000000000001", "A1A1A1A1-0000-4000-8000-000000000002"
NOBODY = "E5E5E5E5-0000-4000-8000-000000000005"
KINDS = ("Virtual Hard Disk", "Virtual CD/DVD Disk", "Something New")
DRIVE_KINDS = ("Synthetic Disk Drive", "Physical Disk Drive", "Synthetic DVD Drive")

owners = st.sampled_from([WEB, MAIL, OF_WEB, OF_MAIL, NOBODY, WEB.lower(), f"{WEB}0"])
rests = st.one_of(
    st.builds("\\{}\\0\\{}\\{}".format, st.just(SCSI), st.integers(0, 3), st.sampled_from(["L", "D"])),
    st.sampled_from(["", "\\nvme\\1", f"\\{SCSI}\\A", "\\"]),
)
ids = st.one_of(
    st.builds("Microsoft:{}{}".format, owners, rests),
    st.sampled_from(["odd", f"Microsoft:Definition\\{NOBODY}\\Default", "\\%_' odd"]),
)


def path_to(setting: str) -> str:
    escaped = setting.replace("\\", "\\\\")
    return f'\\\\HV01\\root\\virtualization\\v2:{DRIVES}.InstanceID="{escaped}"'


parents = st.one_of(st.none(), st.just("not a path"), ids.map(path_to))


@st.composite
def media(draw: st.DrawFn) -> Row:
    kind = f"Microsoft:Hyper-V:{draw(st.sampled_from(KINDS))}"
    return medium(InstanceID=draw(ids), ResourceSubType=kind, Parent=draw(parents))


@st.composite
def drives(draw: st.DrawFn) -> Row:
    kind = f"Microsoft:Hyper-V:{draw(st.sampled_from(DRIVE_KINDS))}"
    return {"InstanceID": draw(ids), "ResourceSubType": kind, "HostResource": None, "Parent": draw(parents)}


@pytest.mark.slow
@given(st.lists(media(), max_size=8), st.lists(drives(), max_size=6))
def test_one_vm_is_what_an_inventory_says_of_it(some_media: list[Row], some_drives: list[Row]) -> None:
    host = TableHost()
    host.rows["Msvm_ComputerSystem"] = [vm(), vm(MAIL, "web")]
    host.rows["Msvm_VirtualSystemSettingData"] = [
        settings(),
        settings(MAIL, "web"),
        checkpoint(checkpoint_id=OF_WEB),
        checkpoint(MAIL, checkpoint_id=OF_MAIL),
    ]
    host.rows[MEDIA], host.rows[DRIVES] = some_media, some_drives
    whole = take_inventory(host.hyperv())
    for each in whole.vms:
        assert read_vm(host.hyperv(), each.vm.id, whole) == each
