"""Changed ranges: never too few, in windows, and the cases in which they lie or are lost."""

from collections.abc import Sequence

import pytest

from tests.lab_hosts import MIB, LabHost, id_of
from vmkeep_lab.cim import Ref

pytestmark = pytest.mark.quick

SIZE = 8 * MIB
SECTOR = 512


def frozen_bytes(lab: LabHost, checkpoint: Ref) -> bytes:
    """The first disk of a checkpoint of VM "one"."""
    vm = lab.host.world.state.vms[0]
    found = vm.checkpoint(id_of(checkpoint))
    assert found is not None
    disk = lab.host.world.media.disk(vm.disks[0])
    return disk.read(0, SIZE, at=lab.real(found.disks["0:0"].path))


def missing(old: bytes, new: bytes, ranges: Sequence[tuple[int, int]]) -> list[int]:
    """Sectors that differ and lie in no range."""
    return [
        at
        for at in range(0, SIZE, SECTOR)
        if old[at : at + SECTOR] != new[at : at + SECTOR]
        and not any(start <= at < start + length for start, length in ranges)
    ]


def test_changes_cover_every_difference_in_windows_of_any_size(lab: LabHost) -> None:
    first = lab.checkpoint("one")
    old = frozen_bytes(lab, first)
    lab.write("one", 12)
    since = lab.rct_ids(lab.convert(first))[0]
    lab.settle()
    second = lab.checkpoint("one")
    new = frozen_bytes(lab, second)
    path = lab.paths(second)[0]
    whole, calls = lab.changes(path, since, SIZE)
    assert missing(old, new, whole) == []
    assert old != new
    assert calls == 1
    assert 0 < sum(length for _, length in whole) < SIZE
    for window in (MIB, 3 * MIB + 512):
        pieces, calls = lab.changes(path, since, SIZE, window)
        assert missing(old, new, pieces) == []
        assert calls > 2
        assert sum(length for _, length in pieces) == sum(length for _, length in whole)


def test_an_answer_with_too_many_ranges_ends_early(lab: LabHost) -> None:
    first = lab.checkpoint("one")
    old = frozen_bytes(lab, first)
    lab.write("one", 30)
    since = lab.rct_ids(lab.convert(first))[0]
    lab.settle()
    second = lab.checkpoint("one")
    lab.host.world.behaviour.most_ranges = 2
    ranges, calls = lab.changes(lab.paths(second)[0], since, SIZE)
    assert calls > 1
    assert missing(old, frozen_bytes(lab, second), ranges) == []


def changes_code(lab: LabHost, path: str, since: str, length: int = SIZE) -> object:
    answer = lab.call(
        "Msvm_ImageManagementService",
        "GetVirtualDiskChanges",
        Path=path,
        LimitId=since,
        ByteOffset=0,
        ByteLength=length,
    )
    return answer["ReturnValue"]


def test_ids_that_are_not_known(lab: LabHost) -> None:
    first = lab.checkpoint("one")
    path = lab.paths(first)[0]
    point = lab.convert(first)
    since, other = lab.rct_ids(point)
    lab.settle()
    assert changes_code(lab, path, since) == 0
    assert changes_code(lab, path.upper(), since) == 0  # paths are compared as Windows does
    assert changes_code(lab, path, other) == 32773
    assert changes_code(lab, path, "nonsense") == 32773
    assert changes_code(lab, path, since, SIZE + 512) == 32773
    assert changes_code(lab, "C:\\VMs\\nothing.vhdx", since) == 32779
    service = "Msvm_VirtualSystemReferencePointService"
    lab.job(lab.call(service, "DestroyReferencePoint", AffectedReferencePoint=point))
    assert changes_code(lab, path, since) == 32773


def test_after_going_back_the_answer_leaves_out_what_changed(lab: LabHost) -> None:
    user = lab.checkpoint("one", kind=2)
    lab.write("one", 20)
    first = lab.checkpoint("one")
    old = frozen_bytes(lab, first)
    since = lab.rct_ids(lab.convert(first))[0]
    lab.settle()
    lab.host.invoke(lab.vm_ref("one"), "RequestStateChange", {"RequestedState": 3})
    lab.settle()
    lab.job(lab.call("Msvm_VirtualSystemSnapshotService", "ApplySnapshot", Snapshot=user))
    lab.settle()
    second = lab.checkpoint("one")
    ranges, _ = lab.changes(lab.paths(second)[0], since, SIZE)
    assert missing(old, frozen_bytes(lab, second), ranges) != []


def test_after_a_power_cut_the_answer_is_coarser_and_not_wrong(lab: LabHost) -> None:
    first = lab.checkpoint("one")
    old = frozen_bytes(lab, first)
    lab.write("one", 5)
    since = lab.rct_ids(lab.convert(first))[0]
    lab.settle()
    path = lab.leaves("one")[0]
    before, _ = lab.changes(path, since, SIZE)
    lab.host.restart(clean=False)
    lab.write("one", 5)
    second = lab.checkpoint("one")
    after, _ = lab.changes(lab.paths(second)[0], since, SIZE)
    assert missing(old, frozen_bytes(lab, second), after) == []
    assert sum(length for _, length in after) > sum(length for _, length in before)


def test_a_reference_point_without_a_checkpoint(lab: LabHost) -> None:
    answer = lab.call(
        "Msvm_VirtualSystemReferencePointService",
        "CreateReferencePoint",
        AffectedSystem=lab.vm_ref("one"),
        ReferencePointType=2,
    )
    point = lab.made(answer)
    assert len(lab.truth(point.key("InstanceID").removeprefix("Microsoft:"))) == 2
    assert lab.changes(lab.leaves("one")[0], lab.rct_ids(point)[0], SIZE) == ([], 1)
    lab.write("one", 1)
    ranges, _ = lab.changes(lab.leaves("one")[0], lab.rct_ids(point)[0], SIZE)
    assert ranges
