"""Merging: a phase, and one that fails while somebody still reads."""

import subprocess
import sys

import pytest

from tests.lab_hosts import INVALID_STATE, LabHost
from vmkeep_lab.cim import Instance
from vmkeep_lab.host.handles import ProcessHandles

pytestmark = pytest.mark.quick


def begin_convert(lab: LabHost) -> None:
    made = lab.checkpoint("one")
    lab.write("one")
    lab.call("Msvm_VirtualSystemSnapshotService", "ConvertToReferencePoint", AffectedSnapshot=made)
    lab.pass_time(1)  # the job is over, the merge is not


def test_a_merge_is_a_phase_with_a_status(lab: LabHost) -> None:
    begin_convert(lab)
    assert lab.status("one") == [11, 32772]
    assert all(each.endswith(".avhdx") for each in lab.leaves("one"))
    assert lab.begin_checkpoint("one") == {"ReturnValue": INVALID_STATE}
    lab.settle()
    assert lab.status("one") == [2]
    assert all(each.endswith(".vhdx") for each in lab.leaves("one"))
    assert len(lab.events(19080)) == 2


def test_an_open_handle_makes_it_fail_and_closing_it_heals(lab: LabHost) -> None:
    lab.holders.names = {"system.vhdx"}
    begin_convert(lab)
    lab.pass_time(6)
    assert [("0x80070020" in each) for each in lab.events(19100)] == [True]
    # Nothing goes on now, and yet the disk is not what it was.
    assert lab.status("one") == [2]
    assert [each.endswith(".avhdx") for each in lab.leaves("one")] == [True, False]
    failed = lab.job(lab.begin_checkpoint("one"))
    assert failed.values["ErrorCode"] == 32774
    assert "0x80070020" in str(failed.values["ErrorDescription"])
    assert len(lab.events(19100)) > 1  # it repeats for ever
    lab.holders.names = set()
    lab.settle()
    assert all(each.endswith(".vhdx") for each in lab.leaves("one"))


def test_handles_of_another_process_are_seen_until_they_close(lab: LabHost) -> None:
    path = lab.real(lab.leaves("one")[0])
    reading = "import sys; file = open(sys.argv[1], 'rb'); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", reading, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"open\n"
        held = ProcessHandles().holders([path])
        assert [line.split()[0] for line in held] == [str(reader.pid)]
        reader.communicate(b"")
    assert ProcessHandles().holders([path]) == []


def test_an_export_without_disks_stops_all_merging(lab: LabHost) -> None:
    settings = Instance("Msvm_VirtualSystemExportSettingData", {"CopyVmStorage": False})
    answer = lab.call(
        "Msvm_VirtualSystemManagementService",
        "ExportSystemDefinition",
        ComputerSystem=lab.vm_ref("one"),
        ExportDirectory="C:\\Exports",
        ExportSettingData=settings,
    )
    assert lab.job(answer).values["JobState"] == 7
    begin_convert(lab)
    lab.pass_time(60)
    assert all(each.endswith(".avhdx") for each in lab.leaves("one"))
    switch = lab.one("Msvm_DiskMergeSettingData", EnabledState=0)
    again = Instance(
        "Msvm_DiskMergeSettingData", {"InstanceID": switch.values["InstanceID"], "EnabledState": 1}
    )
    service = "Msvm_VirtualSystemManagementService"
    assert lab.call(service, "ModifyDiskMergeSettings", SettingData=again) == {"ReturnValue": 0}
    lab.settle()
    assert all(each.endswith(".vhdx") for each in lab.leaves("one"))
