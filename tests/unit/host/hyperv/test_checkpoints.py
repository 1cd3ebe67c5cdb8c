"""Recovery checkpoints: made once, found for certain, marked, removed; strangers' never touched."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import pytest

from tests.fakes.hyperv_host import Called, Row, TableHost, returns
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
    setting_ref,
    settings,
    vm,
    vm_ref,
)
from tests.fakes.wsman_host import Reply, fault
from vmkeep.host.hyperv import (
    CheckpointMissing,
    CheckpointsDisabled,
    CheckpointUnidentified,
    CheckpointWish,
    HostDenied,
    NotOurs,
    OperationFailed,
    Owner,
    SettingIgnored,
    VmBusy,
    Went,
    create_checkpoint,
    destroy_checkpoint,
    is_there,
    list_recovery_checkpoints,
    list_unmarked,
    mark_checkpoint,
    read_checkpoint,
)
from vmkeep.host.wsman import ActionHappened, OutcomeUnknown

pytestmark = pytest.mark.quick

CREATE: Final = "Msvm_VirtualSystemSnapshotService.CreateSnapshot"
DESTROY: Final = "Msvm_VirtualSystemSnapshotService.DestroySnapshot"
MODIFY: Final = "Msvm_VirtualSystemManagementService.ModifySystemSettings"
SETTINGS: Final = "Msvm_VirtualSystemSettingData"
STRANGER: Final = "EEEEEEEE-0000-4000-8000-00000000000E"
LATE_STRANGER: Final = "FFFFFFFF-0000-4000-8000-00000000000F"
OURS: Final = Owner("3f" * 16, "a1" * 16)
WISH: Final = CheckpointWish(consistency=1)
LOST: Final = Reply("<s:lost/>")  # an answer that cannot be read: the method may have run


def a_host() -> TableHost:
    """A running VM with a stranger's recovery checkpoint, as in every scenario."""
    host = TableHost()
    host.rows["Msvm_ComputerSystem"] = [vm(), vm(MAIL, "mail")]
    host.rows[SETTINGS] = [settings(), settings(MAIL, "mail"), checkpoint(checkpoint_id=STRANGER)]
    host.rows["Msvm_StorageAllocationSettingData"] = [
        medium(),
        medium(CHECKPOINT),
        medium(STRANGER, "D:\\strange.vhdx"),
    ]
    return host


KNOWN: Final = frozenset({f"Microsoft:{STRANGER}"})


def appear(host: TableHost, *rows: Row) -> None:
    host.rows[SETTINGS] += rows


def creates(
    host: TableHost, *, element: str | None = CHECKPOINT, effect: int = 5
) -> Callable[[Called], Reply]:
    """Do what a real host does: answer with a job, without a result, and let the job name the element."""

    def step(called: Called) -> Reply:
        appear(host, checkpoint())
        host.rows["Msvm_ConcreteJob"] = [job(state=7)]
        host.rows["Msvm_AffectedJobElement"] = [
            affected("other", setting_ref(STRANGER)),
            affected("J1", vm_ref(WEB), 0),
            affected("J1", setting_ref(STRANGER), 0),
        ]
        if element is not None:
            host.rows["Msvm_AffectedJobElement"].append(affected("J1", setting_ref(element), effect))
        return returns(4096, Job=job_ref("J1"))(called)

    return step


def create(host: TableHost, wish: CheckpointWish = WISH) -> str:
    return create_checkpoint(host.hyperv(), WEB, wish, known_before=KNOWN).id


# --- making ------------------------------------------------------------------------------


def test_a_checkpoint_is_found_through_its_job() -> None:
    host = a_host()
    host.on(CREATE, creates(host))
    made = create_checkpoint(host.hyperv(), WEB, WISH, known_before=KNOWN)
    assert (made.id, made.kind, made.vm_id) == (f"Microsoft:{CHECKPOINT}", "recovery", WEB)
    assert [(disk.slot, disk.path) for disk in made.disks] == [(f"{SCSI}\\0\\0", "D:\\VMs\\web\\system.vhdx")]
    assert made.configuration is not None
    assert made.configuration.stem == CHECKPOINT


def test_what_is_asked_for_is_what_annex_a_says() -> None:
    host = a_host()
    host.on(CREATE, creates(host))
    create(host)
    (called,) = host.calls
    assert called.inputs["AffectedSystem"] == {"CreationClassName": "Msvm_ComputerSystem", "Name": WEB}
    assert called.inputs["SnapshotType"] == "32768"
    assert list(called.inputs) == ["AffectedSystem", "SnapshotSettings", "SnapshotType"]
    assert called.inputs["SnapshotSettings"] == (
        '<INSTANCE CLASSNAME="Msvm_VirtualSystemSnapshotSettingData">'
        '<PROPERTY NAME="ConsistencyLevel" TYPE="uint8"><VALUE>1</VALUE></PROPERTY>'
        '<PROPERTY NAME="GuestBackupType" TYPE="uint8"><VALUE>2</VALUE></PROPERTY>'
        '<PROPERTY NAME="IgnoreNonSnapshottableDisks" TYPE="boolean"><VALUE>false</VALUE></PROPERTY>'
        "</INSTANCE>"
    )


def test_other_wishes_are_passed_on() -> None:
    host = a_host()
    host.on(CREATE, creates(host))
    create(host, CheckpointWish(consistency=2, guest_backup="full", skip_other_disks=True))
    text = host.calls[0].inputs["SnapshotSettings"]
    assert '"ConsistencyLevel" TYPE="uint8"><VALUE>2<' in text
    assert '"GuestBackupType" TYPE="uint8"><VALUE>1<' in text
    assert '"IgnoreNonSnapshottableDisks" TYPE="boolean"><VALUE>true<' in text


def says_nothing(host: TableHost) -> None:
    with pytest.raises(CheckpointUnidentified):
        create(host)


def test_a_result_in_the_reply_is_believed() -> None:
    host = a_host()

    def at_once(called: Called) -> Reply:
        appear(host, checkpoint())
        return returns(0, ResultingSnapshot=setting_ref(CHECKPOINT))(called)

    host.on(CREATE, at_once)
    assert create(host) == f"Microsoft:{CHECKPOINT}"


def test_a_result_that_was_there_before_is_not_believed_nor_is_what_is_new() -> None:
    host = a_host()

    def at_once(called: Called) -> Reply:
        appear(host, checkpoint())
        return returns(0, ResultingSnapshot=setting_ref(STRANGER))(called)

    host.on(CREATE, at_once)
    says_nothing(host)


def test_a_job_that_names_a_stranger_is_not_believed() -> None:
    host = a_host()
    host.on(CREATE, creates(host, element=STRANGER))
    says_nothing(host)


@pytest.mark.parametrize("effect", [0, 2, 3])
def test_other_effects_of_the_job_name_nothing(effect: int) -> None:
    host = a_host()
    host.on(CREATE, creates(host, effect=effect))
    says_nothing(host)


@pytest.mark.parametrize(
    "row",
    [
        affected("J1", setting_ref(LATE_STRANGER), 0),
        affected("other", setting_ref(LATE_STRANGER), 5),
    ],
)
def test_only_what_this_job_created_is_evidence(row: Row) -> None:
    host = a_host()

    def step(called: Called) -> Reply:
        answer = creates(host)(called)
        appear(host, checkpoint(checkpoint_id=LATE_STRANGER))
        host.rows["Msvm_AffectedJobElement"].insert(0, row)
        return answer

    host.on(CREATE, step)
    assert create(host) == f"Microsoft:{CHECKPOINT}"


@pytest.mark.parametrize(
    "changed",
    [{"VirtualSystemType": "Microsoft:Hyper-V:Snapshot:Realized"}, {"VirtualSystemIdentifier": MAIL}],
)
def test_a_job_that_names_something_else_is_not_believed(changed: Row) -> None:
    host = a_host()

    def step(called: Called) -> Reply:
        answer = creates(host, element=LATE_STRANGER)(called)
        appear(host, {**checkpoint(checkpoint_id=LATE_STRANGER), **changed})
        return answer

    host.on(CREATE, step)
    says_nothing(host)


def test_with_the_jobs_evidence_another_new_one_does_not_matter() -> None:
    host = a_host()

    def step(called: Called) -> Reply:
        appear(host, checkpoint(checkpoint_id=LATE_STRANGER))
        return creates(host)(called)

    host.on(CREATE, step)
    assert create(host) == f"Microsoft:{CHECKPOINT}"


def test_nothing_made_and_nothing_said_is_an_error() -> None:
    host = a_host()
    host.on(CREATE, returns(0))
    with pytest.raises(CheckpointUnidentified):
        create(host)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (LOST, OutcomeUnknown),
        (returns(4096, Job=job_ref("gone")), OutcomeUnknown),
        (fault(2150858829), ActionHappened),
    ],
)
def test_after_a_lost_answer_nothing_is_taken_for_ours(answer: Reply, error: type[Exception]) -> None:
    host = a_host()

    def step(called: Called) -> Reply:
        appear(host, checkpoint())
        return answer if isinstance(answer, Reply) else answer(called)

    host.on(CREATE, step)
    with pytest.raises(error):
        create(host)
    assert len(host.calls) == 1, "never called twice"


def test_busy_is_said_and_may_be_repeated() -> None:
    host = a_host()
    host.on(CREATE, returns(32775))
    with pytest.raises(VmBusy):
        create(host)


def test_disabled_checkpoints_are_recognised_by_the_setting() -> None:
    host = a_host()
    host.rows[SETTINGS][0]["UserSnapshotType"] = 2
    host.rows[SETTINGS][1]["UserSnapshotType"] = 3
    host.on(CREATE, returns(32768))
    with pytest.raises(CheckpointsDisabled) as caught:
        create(host)
    assert caught.value.context["return_code"] == 32768
    assert "Set-VM" in caught.value.hint


@pytest.mark.parametrize(
    "changed",
    [{"OperationalStatus": [11, 32773]}, {"ReplicationMode": 1, "ReplicationState": 10}],
)
@pytest.mark.parametrize("code", [2, 32768])
def test_a_failure_of_a_busy_vm_is_a_conflict(changed: Row, code: int) -> None:
    host = a_host()
    host.rows["Msvm_ComputerSystem"][0].update(changed)
    host.on(CREATE, returns(code))
    with pytest.raises(VmBusy, match="under way") as caught:
        create(host)
    assert caught.value.context["return_code"] == code


def test_a_busy_vm_does_not_hide_another_reason() -> None:
    host = a_host()
    host.rows["Msvm_ComputerSystem"][0]["OperationalStatus"] = [11, 32773]
    host.on(CREATE, returns(32769))
    with pytest.raises(HostDenied):
        create(host)


def test_another_vms_setting_does_not_matter() -> None:
    host = a_host()
    host.rows[SETTINGS][1]["UserSnapshotType"] = 2
    host.on(CREATE, returns(32768))
    with pytest.raises(OperationFailed):
        create(host)


# --- what a crash leaves -----------------------------------------------------------------


def test_what_a_dead_run_may_have_left_is_listed() -> None:
    host = a_host()
    appear(host, checkpoint())
    left = list_unmarked(host.hyperv(), WEB, known_before=KNOWN)
    assert [item.id for item in left] == [f"Microsoft:{CHECKPOINT}"]


@pytest.mark.parametrize(
    "changed",
    [
        {"ElementName": OURS.name},
        {"ElementName": Owner("4e" * 16, "a1" * 16).name},
        {"Notes": ["Made by another product"]},
        {"VirtualSystemType": "Microsoft:Hyper-V:Snapshot:Realized"},
        {"VirtualSystemIdentifier": MAIL},
        {"InstanceID": f"Microsoft:{STRANGER.lower()}"},
    ],
)
def test_what_a_dead_run_cannot_have_left_is_not(changed: Row) -> None:
    host = a_host()
    host.rows[SETTINGS] = [settings(), {**checkpoint(), **changed}]
    assert list_unmarked(host.hyperv(), WEB, known_before=KNOWN) == ()


# --- marking -----------------------------------------------------------------------------


def modifies(host: TableHost) -> Callable[[Called], Reply]:
    """Change name and notes of the checkpoint as asked."""

    def step(called: Called) -> Reply:
        row = next(row for row in host.rows[SETTINGS] if row["InstanceID"] == f"Microsoft:{CHECKPOINT}")
        row.update({"ElementName": OURS.name, "Notes": list(OURS.notes)})
        return returns(0)(called)

    return step


def unmarked(host: TableHost) -> None:
    appear(host, checkpoint())


def test_a_mark_is_written_and_read_back() -> None:
    host = a_host()
    unmarked(host)
    host.on(MODIFY, modifies(host))
    found = read_checkpoint(host.hyperv(), WEB, f"Microsoft:{CHECKPOINT}")
    marked = mark_checkpoint(host.hyperv(), found, OURS)
    assert (marked.name, marked.notes, marked.disks) == (OURS.name, OURS.notes, found.disks)
    text = host.calls[0].inputs["SystemSettings"]
    assert '<INSTANCE CLASSNAME="Msvm_VirtualSystemSettingData">' in text
    assert f'<PROPERTY NAME="InstanceID" TYPE="string"><VALUE>Microsoft:{CHECKPOINT}</VALUE>' in text
    assert f"<VALUE>{OURS.name}</VALUE>" in text
    assert '<PROPERTY.ARRAY NAME="Notes" TYPE="string"><VALUE.ARRAY><VALUE>Made by vmkeep' in text


def test_marking_again_does_nothing() -> None:
    host = a_host()
    appear(host, checkpoint(ElementName=OURS.name))
    found = read_checkpoint(host.hyperv(), WEB, f"Microsoft:{CHECKPOINT}")
    assert mark_checkpoint(host.hyperv(), found, OURS).name == OURS.name
    assert host.calls == []


def test_a_silent_no_op_is_noticed() -> None:
    host = a_host()
    unmarked(host)
    host.on(MODIFY, returns(0))
    found = read_checkpoint(host.hyperv(), WEB, f"Microsoft:{CHECKPOINT}")
    with pytest.raises(SettingIgnored):
        mark_checkpoint(host.hyperv(), found, OURS)


def test_a_lost_answer_to_marking_is_read_back() -> None:
    host = a_host()
    unmarked(host)

    def unheard(called: Called) -> Reply:
        modifies(host)(called)
        return LOST

    host.on(MODIFY, unheard)
    found = read_checkpoint(host.hyperv(), WEB, f"Microsoft:{CHECKPOINT}")
    assert mark_checkpoint(host.hyperv(), found, OURS).name == OURS.name


def test_a_checkpoint_that_somebody_named_meanwhile_is_not_marked() -> None:
    host = a_host()
    appear(host, checkpoint(ElementName="another product"))
    found = read_checkpoint(host.hyperv(), WEB, f"Microsoft:{CHECKPOINT}")
    with pytest.raises(NotOurs):
        mark_checkpoint(host.hyperv(), replace(found, name="as it was"), OURS)
    assert host.calls == []


# --- removing ----------------------------------------------------------------------------


def removes(host: TableHost, answer: Callable[[Called], Reply] | Reply) -> Callable[[Called], Reply]:
    def step(called: Called) -> Reply:
        gone = called.inputs["AffectedSnapshot"]["InstanceID"]
        host.rows[SETTINGS] = [row for row in host.rows[SETTINGS] if row["InstanceID"] != gone]
        return answer if isinstance(answer, Reply) else answer(called)

    return step


@pytest.mark.parametrize(
    "answer", [returns(0), LOST, returns(4096, Job=job_ref("gone")), returns(32775), fault(2150858752)]
)
def test_ours_is_removed_and_nothing_else(answer: Reply) -> None:
    host = a_host()
    appear(host, checkpoint(ElementName=OURS.name))
    host.on(DESTROY, removes(host, answer))
    ours = read_checkpoint(host.hyperv(), WEB, f"Microsoft:{CHECKPOINT}")
    destroy_checkpoint(host.hyperv(), ours)
    assert [c.id for c in list_recovery_checkpoints(host.hyperv(), WEB)] == [f"Microsoft:{STRANGER}"]
    assert destroy_checkpoint(host.hyperv(), ours) is Went.OTHERWISE
    assert len(host.calls) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"ElementName": "renamed by its owner"},
        {"VirtualSystemType": "Microsoft:Hyper-V:Snapshot:Realized"},
        {"VirtualSystemIdentifier": MAIL},
    ],
)
def test_what_is_not_what_was_looked_at_is_not_removed(changed: Row) -> None:
    host = a_host()
    appear(host, checkpoint(ElementName=OURS.name))
    ours = read_checkpoint(host.hyperv(), WEB, f"Microsoft:{CHECKPOINT}")
    host.rows[SETTINGS][-1].update(changed)
    with pytest.raises(NotOurs):
        destroy_checkpoint(host.hyperv(), ours)
    assert host.calls == []


def test_a_checkpoint_that_is_going_is_waited_for() -> None:
    host = a_host()
    appear(host, checkpoint(ElementName=OURS.name))
    ours = read_checkpoint(host.hyperv(), WEB, f"Microsoft:{CHECKPOINT}")
    host.on(DESTROY, returns(0))
    host.rows["Msvm_ComputerSystem"][0]["OperationalStatus"] = [11, 32770]
    began = host.clock.monotonic()

    def before(_: object) -> None:
        if host.clock.monotonic() - began > 300:
            host.rows[SETTINGS] = [row for row in host.rows[SETTINGS] if row["ElementName"] != OURS.name]

    host.before = before
    assert destroy_checkpoint(host.hyperv(), ours) is Went.BY_US
    assert host.clock.monotonic() - began > 300


def test_a_removal_that_did_nothing_is_noticed() -> None:
    host = a_host()
    appear(host, checkpoint(ElementName=OURS.name))
    ours = read_checkpoint(host.hyperv(), WEB, f"Microsoft:{CHECKPOINT}")
    host.on(DESTROY, returns(0))
    with pytest.raises(OperationFailed, match="still there"):
        destroy_checkpoint(host.hyperv(), ours)


def test_reading_what_is_gone() -> None:
    host = a_host()
    assert is_there(host.hyperv(), WEB, f"Microsoft:{STRANGER}")
    assert not is_there(host.hyperv(), WEB, f"Microsoft:{CHECKPOINT}")
    with pytest.raises(CheckpointMissing):
        read_checkpoint(host.hyperv(), WEB, f"Microsoft:{CHECKPOINT}")
