"""Jobs: what they give away, when, and for how long."""

from pathlib import Path

import pytest

from tests.lab_hosts import INVALID_STATE, JOB_STARTED, SMALL, LabHost, id_of
from vmkeep_lab.cim import Instance, Ref

pytestmark = pytest.mark.quick


def test_a_started_checkpoint_gives_a_job_and_nothing_else(lab: LabHost) -> None:
    answer = lab.begin_checkpoint("one")
    assert set(answer) == {"Job", "ReturnValue"}  # no ResultingSnapshot (seen on a real host)
    assert answer["ReturnValue"] == JOB_STARTED


def test_the_made_element_is_known_only_when_the_job_is_done(lab: LabHost) -> None:
    answer = lab.begin_checkpoint("one")
    job = answer["Job"]
    assert isinstance(job, Ref)
    before = lab.all("Msvm_AffectedJobElement", AffectingElement=job)
    assert [each.values["ElementEffects"] for each in before] == [[0]]
    assert lab.one("Msvm_ConcreteJob", InstanceID=job.key("InstanceID")).values["JobState"] in (2, 3, 4)
    lab.pass_time(11)
    after = lab.all("Msvm_AffectedJobElement", AffectingElement=job, ElementEffects=[5])
    (made,) = [each.values["AffectedElement"] for each in after]
    assert isinstance(made, Ref)
    settings = lab.one("Msvm_VirtualSystemSettingData", InstanceID=made.key("InstanceID"))
    assert settings.values["VirtualSystemType"] == "Microsoft:Hyper-V:Snapshot:Recovery"


def test_other_jobs_are_in_the_list(lab: LabHost) -> None:
    job = lab.begin_checkpoint("one")["Job"]
    lab.pass_time(11)
    rows = lab.all("Msvm_AffectedJobElement", ElementEffects=[5])
    assert [each.values["AffectingElement"] == job for each in rows].count(True) == 1
    assert len(rows) >= 3


def test_the_states_of_a_job_in_order(lab: LabHost) -> None:
    job = lab.begin_checkpoint("one")["Job"]
    assert isinstance(job, Ref)
    seen = []
    for _ in range(60):
        found = lab.one("Msvm_ConcreteJob", InstanceID=job.key("InstanceID"))
        seen.append(found.values["JobState"])
        lab.pass_time(0.2)
    assert seen == sorted(seen, key=lambda state: [2, 3, 4, 7].index(int(str(state))))
    assert (seen[0], seen[-1]) == (2, 7)


def test_jobs_are_gone_after_five_minutes(lab: LabHost) -> None:
    job = lab.begin_checkpoint("one")["Job"]
    assert isinstance(job, Ref)
    lab.pass_time(11)
    lab.pass_time(290)
    assert lab.all("Msvm_ConcreteJob", InstanceID=job.key("InstanceID"))
    lab.pass_time(15)
    assert lab.all("Msvm_ConcreteJob", InstanceID=job.key("InstanceID")) == []


def test_a_vm_with_a_running_job_refuses_the_next(lab: LabHost) -> None:
    made = lab.checkpoint("one")
    lab.begin_checkpoint("one")
    assert lab.status("one") == [11, 32768]
    assert lab.begin_checkpoint("one") == {"ReturnValue": INVALID_STATE}
    service = "Msvm_VirtualSystemSnapshotService"
    assert lab.call(service, "DestroySnapshot", AffectedSnapshot=made)["ReturnValue"] == INVALID_STATE
    converted = lab.call(service, "ConvertToReferencePoint", AffectedSnapshot=made)
    assert converted["ReturnValue"] == INVALID_STATE
    assert lab.begin_checkpoint("chained")["ReturnValue"] == JOB_STARTED  # another VM is free
    lab.pass_time(11)
    assert lab.status("one") == [2]


def test_a_failed_job_tells_the_code_and_the_hresult_in_the_text(lab: LabHost) -> None:
    vm = lab.host.world.state.vm(lab.vm_id("one"))
    assert vm is not None
    vm.guest.vss_enabled = False
    job = lab.job(lab.begin_checkpoint("one", level=1))
    assert (job.values["JobState"], job.values["ErrorCode"]) == (10, 32768)
    assert "(0x80070490)" in str(job.values["ErrorDescription"])
    ref = Ref.to("Msvm_ConcreteJob", InstanceID=str(job.values["InstanceID"]))
    errors = lab.host.invoke(ref, "GetErrorEx", {})["Errors"]
    assert isinstance(errors, list)
    (error,) = errors
    assert isinstance(error, Instance)
    assert error.values["Message"] == job.values["ErrorDescription"]
    assert lab.all("Msvm_AffectedJobElement", AffectingElement=ref, ElementEffects=[5]) == []


def test_the_text_of_a_failure_is_in_the_language_of_the_host(tmp_path: Path) -> None:
    small = SMALL.replace('name = "HV"', 'name = "HV"\nlocale = "de-DE"')
    german = LabHost.small(tmp_path, small.replace('name = "one"', 'name = "one"\nsetting = "disabled"'))
    job = german.job(german.begin_checkpoint("one"))
    assert "Prüfpunkte wurden deaktiviert. (0x80070032)" in str(job.values["ErrorDescription"])
    assert job.values["Caption"] == "Erstellen eines Prüfpunkts"
    german.host.stop()


def test_a_checkpoint_can_be_renamed_and_a_success_that_did_nothing_shows(lab: LabHost) -> None:
    made = lab.checkpoint("one")

    def rename(to: str) -> None:
        settings = Instance(
            "Msvm_VirtualSystemSettingData",
            {"InstanceID": made.key("InstanceID"), "ElementName": to, "Notes": ["who made it"]},
        )
        answer = lab.call(
            "Msvm_VirtualSystemManagementService", "ModifySystemSettings", SystemSettings=settings
        )
        assert answer == {"ReturnValue": 0}

    rename("vmkeep r1")
    found = lab.one("Msvm_VirtualSystemSettingData", InstanceID=made.key("InstanceID"))
    assert (found.values["ElementName"], found.values["Notes"]) == ("vmkeep r1", ["who made it"])
    rename("")  # zero values count as unset
    found = lab.one("Msvm_VirtualSystemSettingData", InstanceID=made.key("InstanceID"))
    assert found.values["ElementName"] == "vmkeep r1"


def test_a_dead_reference_is_refused(lab: LabHost) -> None:
    made = lab.checkpoint("one")
    lab.destroy(made)
    answer = lab.call("Msvm_VirtualSystemSnapshotService", "DestroySnapshot", AffectedSnapshot=made)
    assert answer == {"ReturnValue": 4}
    assert lab.host.world.state.vm(id_of(made)) is None
