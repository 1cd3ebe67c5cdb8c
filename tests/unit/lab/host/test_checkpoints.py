"""Checkpoints freeze, guests write on, and letting go leaves everything as it was."""

import hashlib
from pathlib import Path

import pytest

from tests.lab_hosts import SMALL, LabHost, id_of
from tests.unit.lab.disks.naive_vhdx import read_chain
from vmkeep_lab.cim import Instance, Ref

pytestmark = pytest.mark.quick


def strangers(lab: LabHost) -> list[tuple[str, str]]:
    """What other products and users have on the host."""
    settings = lab.all("Msvm_VirtualSystemSettingData")
    points = lab.all("Msvm_VirtualSystemReferencePoint")
    shown = [(str(each.values["InstanceID"]), str(each.values["ElementName"])) for each in settings]
    return shown + [(str(each.values["InstanceID"]), "a reference point") for each in points]


def test_frozen_files_hold_the_truth_while_the_guest_writes_on(lab: LabHost) -> None:
    made = lab.checkpoint("one")
    for _ in range(20):
        lab.write("one")
    frozen = lab.paths(made)
    assert [path.rpartition("\\")[2] for path in frozen] == ["system.vhdx", "data.vhdx"]
    truth = {each["disk"]: each for each in lab.truth(id_of(made))}
    assert set(truth) == {"system", "data"}
    for path in frozen:
        data = read_chain([lab.real(path)]).contents()
        expected = truth[lab.real(path).stem]
        assert (len(data), hashlib.sha256(data).hexdigest()) == (expected["size"], expected["sha256"])
    assert all(leaf.endswith(".avhdx") for leaf in lab.leaves("one"))


def test_a_user_s_chain_shows_avhdx_leaves(lab: LabHost) -> None:
    leaf = lab.leaves("chained")[0]
    made = lab.checkpoint("chained")
    assert lab.paths(made) == [leaf]
    disk = lab.host.world.state.vms[1].disks[0]
    assert [each.path for each in disk.layers].index(leaf) == 2
    files = [lab.real(each.path) for each in disk.layers[2::-1]]
    digest = hashlib.sha256(read_chain(files).contents()).hexdigest()
    assert [each["sha256"] for each in lab.truth(id_of(made))] == [digest]


def test_the_whole_round_leaves_the_disks_as_they_were(lab: LabHost) -> None:
    before, files = strangers(lab), sorted(lab.folder.rglob("*.*hdx"))
    leaves = lab.leaves("one")
    made = lab.checkpoint("one")
    lab.write("one", 10)
    now = next(vm for vm in lab.host.world.state.vms if vm.name == "one")
    held = [lab.host.world.media.sha256(disk, disk.leaf) for disk in now.disks]
    point = lab.convert(made)
    lab.settle()
    assert lab.leaves("one") == leaves
    assert sorted(lab.folder.rglob("*.*hdx")) == files
    assert [lab.host.world.media.sha256(disk, disk.leaf) for disk in now.disks] == held
    assert [each for each in strangers(lab) if each[0] != point.key("InstanceID")] == before


def test_a_destroyed_checkpoint_leaves_no_reference_point(lab: LabHost) -> None:
    before = strangers(lab)
    lab.destroy(lab.checkpoint("one"))
    lab.settle()
    assert strangers(lab) == before


def test_a_checkpoint_between_others_goes_without_changing_them(lab: LabHost) -> None:
    theirs = lab.checkpoint("one")
    lab.write("one")
    ours = lab.checkpoint("one")
    lab.write("one")
    lab.destroy(theirs)
    lab.settle()
    assert [path.endswith(".vhdx") for path in lab.paths(ours)] == [True, True]
    truth = {each["disk_id"]: each["sha256"] for each in lab.truth(id_of(ours))}
    vm = lab.host.world.state.vms[0]
    checkpoint = vm.checkpoint(id_of(ours))
    assert checkpoint is not None
    for disk in vm.disks:
        assert lab.host.world.media.sha256(disk, checkpoint.disks[disk.slot].path) == truth[disk.disk_id]


def test_a_tree_is_destroyed_whole(lab: LabHost) -> None:
    vm = lab.host.world.state.vms[1]
    first = Ref.to("Msvm_VirtualSystemSettingData", InstanceID=f"Microsoft:{vm.checkpoints[0].id}")
    service = "Msvm_VirtualSystemSnapshotService"
    lab.job(lab.call(service, "DestroySnapshotTree", SnapshotSettingData=first))
    lab.settle()
    assert vm.checkpoints == []
    assert [path.rpartition("\\")[2] for path in lab.leaves("chained")] == ["c.vhdx"]


def test_going_back_to_a_checkpoint_gives_back_its_bytes(lab: LabHost) -> None:
    vm = lab.host.world.state.vms[1]
    first = vm.checkpoints[0]
    lab.write("chained")
    ref = Ref.to("Msvm_VirtualSystemSettingData", InstanceID=f"Microsoft:{first.id}")
    lab.job(lab.call("Msvm_VirtualSystemSnapshotService", "ApplySnapshot", Snapshot=ref))
    (expected,) = lab.truth(first.id)
    assert lab.host.world.media.sha256(vm.disks[0], vm.disks[0].leaf) == expected["sha256"]
    # The other branch is still there, and is let go of in any order.
    second = Ref.to("Msvm_VirtualSystemSettingData", InstanceID=f"Microsoft:{vm.checkpoints[1].id}")
    assert (
        lab.host.world.media.sha256(vm.disks[0], vm.checkpoints[1].disks["0:0"].path)
        == (lab.truth(vm.checkpoints[1].id)[0]["sha256"])
    )
    lab.destroy(second)
    lab.destroy(ref)
    lab.settle()
    assert lab.host.world.media.sha256(vm.disks[0], vm.disks[0].leaf) == expected["sha256"]
    assert len(vm.disks[0].layers) == 1


def test_a_running_vm_cannot_go_back(lab: LabHost) -> None:
    made = lab.checkpoint("one")
    answer = lab.call("Msvm_VirtualSystemSnapshotService", "ApplySnapshot", Snapshot=made)
    assert answer == {"ReturnValue": 32775}


def test_only_recovery_checkpoints_become_reference_points(lab: LabHost) -> None:
    made = lab.checkpoint("one", kind=2)
    answer = lab.call("Msvm_VirtualSystemSnapshotService", "ConvertToReferencePoint", AffectedSnapshot=made)
    assert answer == {"ReturnValue": 6}


@pytest.mark.parametrize(("level", "reached"), [(1, 1), (2, 2), (0, 2)])
def test_the_level_that_was_reached_stands_in_the_reference_point(
    lab: LabHost, level: int, reached: int
) -> None:
    point = lab.convert(lab.checkpoint("one", level))
    found = lab.one("Msvm_VirtualSystemReferencePoint", InstanceID=point.key("InstanceID"))
    assert found.values["ConsistencyLevel"] == reached
    assert len(lab.rct_ids(point)) == len(found.values["VirtualDiskIdentifiers"] or []) == 2  # type: ignore[arg-type]


def test_an_old_configuration_version_has_no_tracking(tmp_path: Path) -> None:
    lab = LabHost.small(tmp_path, SMALL.replace('name = "one"', 'name = "one"\nversion = "5.0"'))
    point = lab.convert(lab.checkpoint("one"))
    assert lab.rct_ids(point) == []
    lab.host.stop()


def test_a_writer_s_failure_is_followed_by_one_more(lab: LabHost) -> None:
    """Report R3: the counter is cleared only by the failure that follows the cure."""
    guest = lab.host.world.state.vms[0].guest
    guest.writer_failed = True
    codes = [lab.job(lab.begin_checkpoint("one", level=1)).values["ErrorCode"] for _ in range(2)]
    guest.writer_failed = False
    codes += [lab.job(lab.begin_checkpoint("one", level=1)).values["ErrorCode"] for _ in range(3)]
    assert codes == [32768, 32768, 32768, 0, 0]
    assert len(set(lab.events(8229))) == 1  # the same event for all of them
    assert len(lab.events(8229)) == 3


def test_a_crash_level_checkpoint_needs_no_guest(lab: LabHost) -> None:
    lab.host.world.state.vms[0].guest.writer_failed = True
    assert lab.job(lab.begin_checkpoint("one", level=2)).values["ErrorCode"] == 0


def test_disabled_checkpoints(tmp_path: Path) -> None:
    lab = LabHost.small(tmp_path, SMALL.replace('name = "one"', 'name = "one"\nsetting = "disabled"'))
    assert lab.job(lab.begin_checkpoint("one")).values["ErrorCode"] == 32768
    lab.host.stop()


def test_a_replicating_vm_says_that_it_is_busy_with_something_else(lab: LabHost) -> None:
    lab.host.world.state.vms[0].replication_state = 2
    job = lab.job(lab.begin_checkpoint("one"))
    assert job.values["ErrorCode"] == 32768
    assert "conflicting operation" in str(job.values["ErrorDescription"])


def test_a_passthrough_disk_must_be_ignored_on_purpose(tmp_path: Path) -> None:
    disk = '[[vm.disk]]\nsize_mib = 64\nkind = "passthrough"\n\n[[vm]]\nname = "chained"'
    lab = LabHost.small(tmp_path, SMALL.replace('[[vm]]\nname = "chained"', disk))
    assert lab.job(lab.begin_checkpoint("one")).values["ErrorCode"] == 32770
    settings = {"ConsistencyLevel": 2, "IgnoreNonSnapshottableDisks": True}
    answer = lab.call(
        "Msvm_VirtualSystemSnapshotService",
        "CreateSnapshot",
        AffectedSystem=lab.vm_ref("one"),
        SnapshotSettings=Instance("Msvm_VirtualSystemSnapshotSettingData", dict(settings)),
        SnapshotType=32768,
    )
    assert len(lab.paths(lab.made(answer))) == 2
    lab.host.stop()
