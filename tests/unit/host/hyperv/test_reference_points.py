"""Reference points: converted from ours, found for certain, mapped to disks only beyond doubt."""

from collections.abc import Callable
from typing import Final

import pytest

from tests.fakes.hyperv_host import Called, TableHost, returns
from tests.fakes.hyperv_rows import (
    CHECKPOINT,
    MAIL,
    SCSI,
    WEB,
    affected,
    checkpoint,
    job,
    job_ref,
    medium,
    point_ref,
    reference_point,
    settings,
    vm,
)
from tests.fakes.wsman_host import Reply, fault
from vmkeep.host.hyperv import (
    CheckpointMissing,
    CheckpointUnidentified,
    ListsIncomplete,
    OperationFailed,
    ReferencePoint,
    ServiceLogonMissing,
    VmBusy,
    convert_checkpoint,
    destroy_reference_point,
    list_reference_points,
    tracking_of,
)
from vmkeep.host.hyperv.settings import checkpoint_of
from vmkeep.host.wsman import ActionHappened, Instance, InstanceMissing, OutcomeUnknown
from vmkeep.model.facts import CheckpointFacts, DiskFacts

pytestmark = pytest.mark.quick

CONVERT: Final = "Msvm_VirtualSystemSnapshotService.ConvertToReferencePoint"
DESTROY: Final = "Msvm_VirtualSystemReferencePointService.DestroyReferencePoint"
POINTS: Final = "Msvm_VirtualSystemReferencePoint"
KNOWN: Final = frozenset({"Stranger-1", "Ours-1"})
LOST: Final = Reply("<s:lost/>")


def a_host() -> TableHost:
    """A VM with our checkpoint, our last reference point, and a stranger's."""
    host = TableHost()
    host.rows["Msvm_ComputerSystem"] = [vm(), vm(MAIL, "mail")]
    host.rows["Msvm_VirtualSystemSettingData"] = [settings(), checkpoint()]
    host.rows["Msvm_StorageAllocationSettingData"] = [medium(), medium(CHECKPOINT)]
    host.rows[POINTS] = [
        reference_point("Stranger-1"),
        reference_point("Ours-1"),
        reference_point("Mail-1", MAIL),
    ]
    return host


def ours() -> CheckpointFacts:
    row = {**checkpoint(), "CreationTime": None}
    texts = {
        name: value if value is None or isinstance(value, list) else str(value) for name, value in row.items()
    }
    return checkpoint_of(Instance("Msvm_VirtualSystemSettingData", "root/virtualization/v2", texts))


def converts(
    host: TableHost, answer: Callable[[Called], Reply] | Reply, *, named: str | None = "New-1"
) -> Callable[[Called], Reply]:
    """Turn the checkpoint into a point, as a side effect of which it goes."""

    def step(called: Called) -> Reply:
        host.rows["Msvm_VirtualSystemSettingData"].pop()
        host.rows[POINTS].append(reference_point("New-1"))
        host.rows["Msvm_ConcreteJob"] = [job(state=7)]
        if named is not None:
            host.rows["Msvm_AffectedJobElement"] = [affected("J1", point_ref(named))]
        return answer if isinstance(answer, Reply) else answer(called)

    return step


def convert(host: TableHost) -> str:
    return convert_checkpoint(host.hyperv(), ours(), known_before=KNOWN).id


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (returns(4096, Job=job_ref("J1")), "New-1"),
        (returns(0, ResultingReferencePoint=point_ref("New-1")), None),
    ],
)
def test_what_the_host_names_is_the_point(answer: Reply, named: str | None) -> None:
    host = a_host()
    host.on(CONVERT, converts(host, answer, named=named))
    assert convert(host) == "New-1"
    (called,) = host.called("ConvertToReferencePoint")
    assert called.inputs == {"AffectedSnapshot": {"InstanceID": f"Microsoft:{CHECKPOINT}"}}


@pytest.mark.parametrize(
    ("answer", "named", "error"),
    [
        (returns(4096, Job=job_ref("J1")), "Stranger-1", CheckpointUnidentified),
        (returns(4096, Job=job_ref("J1")), None, CheckpointUnidentified),
        (returns(0, ResultingReferencePoint=point_ref("Ours-1")), None, CheckpointUnidentified),
        (returns(4096, Job=job_ref("gone")), None, OutcomeUnknown),
        (LOST, None, OutcomeUnknown),
        (fault(2150858829), None, ActionHappened),
        (returns(32775), None, VmBusy),
    ],
)
def test_what_is_new_is_not_ours_by_that(answer: Reply, named: str | None, error: type[Exception]) -> None:
    host = a_host()
    host.on(CONVERT, converts(host, answer, named=named))
    with pytest.raises(error):
        convert(host)
    assert len(host.calls) == 1, "never called twice"


def test_a_checkpoint_that_is_gone_for_nothing() -> None:
    host = a_host()
    host.rows["Msvm_VirtualSystemSettingData"].pop()
    with pytest.raises(CheckpointMissing):
        convert(host)
    assert host.calls == []


def test_a_refused_conversion_leaves_the_checkpoint_and_says_why() -> None:
    host = a_host()
    host.on(CONVERT, returns(32775))
    with pytest.raises(VmBusy):
        convert(host)


def test_a_conversion_that_never_ran_says_so() -> None:
    host = a_host()
    host.on(CONVERT, LOST)
    with pytest.raises(OutcomeUnknown):
        convert(host)


def test_a_lost_right_is_explained() -> None:
    """hyperv-backup-api.md 2.5: 0x8007052f on ConvertToReferencePoint."""
    host = a_host()
    host.on("Msvm_ConcreteJob.GetErrorEx", returns(0, Errors=[]))
    host.rows["Msvm_ConcreteJob"] = [job(state=10, ErrorCode=32768, ErrorDescription="失敗 (0x8007052F)")]
    host.on(CONVERT, returns(4096, Job=job_ref("J1")))
    with pytest.raises(ServiceLogonMissing, match="log on as a service"):
        convert(host)


def test_points_are_listed_for_one_vm_with_what_they_hold() -> None:
    host = a_host()
    found = list_reference_points(host.hyperv(), WEB.lower())
    assert [point.id for point in found] == ["Stranger-1", "Ours-1"]
    assert (found[0].consistency, found[0].rct_ids) == (1, ("rctX:1",))


# --- removing ----------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [returns(0), LOST, returns(4096, Job=job_ref("gone")), returns(32775)])
def test_one_point_is_removed(answer: Reply) -> None:
    host = a_host()

    def step(called: Called) -> Reply:
        host.rows[POINTS] = [row for row in host.rows[POINTS] if row["InstanceID"] != "Ours-1"]
        return answer if isinstance(answer, Reply) else answer(called)

    host.on(DESTROY, step)
    assert destroy_reference_point(host.hyperv(), WEB, "ours-1") is True
    assert [row["InstanceID"] for row in host.rows[POINTS]] == ["Stranger-1", "Mail-1"]
    assert host.calls[0].inputs["AffectedReferencePoint"] == {
        "InstanceID": "Ours-1",
        "VirtualSystemIdentifier": WEB,
    }
    assert destroy_reference_point(host.hyperv(), WEB, "Ours-1") is False
    assert len(host.calls) == 1


def test_another_vms_point_is_not_there() -> None:
    host = a_host()
    assert destroy_reference_point(host.hyperv(), WEB, "Mail-1") is False


def test_a_removal_that_did_nothing_is_noticed() -> None:
    host = a_host()
    host.on(DESTROY, returns(0))
    with pytest.raises(OperationFailed, match="still there"):
        destroy_reference_point(host.hyperv(), WEB, "Ours-1")


def test_a_point_that_the_host_calls_unknown_and_lists_is_not_removed() -> None:
    host = a_host()
    host.on(DESTROY, fault(0x80041002))
    with pytest.raises(InstanceMissing):
        destroy_reference_point(host.hyperv(), WEB, "Ours-1")


def test_a_list_without_the_vms_own_settings_does_not_tell_that_a_point_is_gone() -> None:
    host = a_host()
    host.rows[POINTS] = []
    host.rows["Msvm_VirtualSystemSettingData"] = []
    with pytest.raises(ListsIncomplete):
        destroy_reference_point(host.hyperv(), WEB, "Ours-1")


# --- RCT identifiers ---------------------------------------------------------------------


def disk(location: int, disk_id: str | None, owner: str = CHECKPOINT) -> DiskFacts:
    slot = f"{SCSI}\\0\\{location}"
    return DiskFacts(
        slot, f"scsi 0:{location}", f"Microsoft:{owner}\\{slot}\\L", "vhdx", "D:\\a.vhdx", disk_id
    )


def point(*pairs: tuple[str, str]) -> ReferencePoint:
    return ReferencePoint(
        "New-1", WEB, "", 1, tuple(setting for setting, _ in pairs), tuple(rct for _, rct in pairs)
    )


@pytest.mark.parametrize("owner", [WEB, CHECKPOINT, CHECKPOINT.lower()])
def test_identifiers_go_to_their_disks_whoever_they_are_named_after(owner: str) -> None:
    found = tracking_of(
        point(
            (f"Microsoft:{owner}\\{SCSI}\\0\\1\\L", "rct-b"), (f"Microsoft:{owner}\\{SCSI}\\0\\0\\L", "rct-a")
        ),
        [disk(0, "A"), disk(1, "B")],
    )
    assert found.rct_ids == {"A": "rct-a", "B": "rct-b"}
    assert found.untracked == {}


def test_lists_of_different_lengths_prove_nothing() -> None:
    slot = f"{SCSI}\\0\\0"
    uneven = ReferencePoint("New-1", WEB, "", 1, (f"Microsoft:{WEB}\\{slot}\\L",), ("rct-a", "rct-b"))
    found = tracking_of(uneven, [disk(0, "A")])
    assert found.rct_ids == {}
    assert "1 disks and 2" in found.untracked[slot]


@pytest.mark.parametrize(
    ("pairs", "disks"),
    [
        ([], [disk(0, "A")]),
        ([(f"Microsoft:{WEB}\\{SCSI}\\0\\0\\L", " ")], [disk(0, "A")]),
        (
            [(f"Microsoft:{WEB}\\{SCSI}\\0\\0\\L", "r"), (f"Microsoft:{WEB}\\{SCSI}\\0\\0\\L", "s")],
            [disk(0, "A")],
        ),
        ([(f"Microsoft:{WEB}\\{SCSI}\\0\\0\\L", "r")], [disk(0, None)]),
        ([(f"Microsoft:{WEB}\\{SCSI}\\0\\0\\L", "r")], [disk(0, "A"), disk(1, "A")]),
        ([(f"Microsoft:{WEB}\\{SCSI}\\0\\7\\L", "r")], [disk(0, "A")]),
        ([("somebody's disk", "r")], [disk(0, "A")]),
    ],
)
def test_whatever_is_in_doubt_is_not_tracked(pairs: list[tuple[str, str]], disks: list[DiskFacts]) -> None:
    found = tracking_of(point(*pairs), disks)
    assert found.rct_ids == {}
    assert set(found.untracked) == {item.slot for item in disks}


def test_a_disk_that_is_not_tracked_does_not_harm_the_others() -> None:
    found = tracking_of(point((f"Microsoft:{WEB}\\{SCSI}\\0\\0\\L", "rct-a")), [disk(0, "A"), disk(1, "B")])
    assert found.rct_ids == {"A": "rct-a"}
    assert set(found.untracked) == {f"{SCSI}\\0\\1"}
