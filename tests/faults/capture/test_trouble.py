"""What goes wrong while a VM is held: it is let go, the first error is told, and nothing is left."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.host_runs import SCENARIO, RunClock, host_of
from tests.lab_captures import MANY, OWNER, Doors, NotedJournal, is_under_way, sha256_of
from tests.lab_process import ForeignClient, Lab, embedded, reference, running_lab, text
from vmkeep.backup.host_sweep import sweep_host
from vmkeep.capture import removing
from vmkeep.capture.checkpoint import CheckpointHold
from vmkeep.capture.errors import HoldLimitReached, LeftBehind
from vmkeep.capture.limits import HoldLimits
from vmkeep.capture.outcome import left_behind_by
from vmkeep.capture.sweep import sweep
from vmkeep.errors import VmkeepError
from vmkeep.host.hyperv import (
    CheckpointMissing,
    CheckpointWish,
    Fate,
    HyperV,
    OperationFailed,
    SettingIgnored,
    VmBusy,
    Waiting,
    Went,
    create_checkpoint,
    destroy_checkpoint,
    destroy_reference_point,
    list_recovery_checkpoints,
    mark_checkpoint,
    wait_for_merge,
)
from vmkeep.host.wsman import OutcomeUnknown
from vmkeep.model.facts import CheckpointFacts

VM = "web-server"


class Interrupted(Exception):
    """Stands for whatever ends a run from outside."""


def test_an_error_in_the_block_is_told_and_the_checkpoint_goes(host: Doors) -> None:
    with pytest.raises(Interrupted) as told, host.hold(VM):
        raise Interrupted
    assert not hasattr(told.value, "__notes__")
    assert host.journal.steps[-2:] == ["hold-releasing", "hold-released"]


def test_a_block_that_is_left_without_release_keeps_nothing(host: Doors) -> None:
    with host.hold(VM) as held:
        held.check()
    with pytest.raises(ValueError, match="is not held"):
        held.release(track=True)


def test_the_journal_is_kept_alive_while_the_host_works(host: Doors) -> None:
    with host.hold(VM) as held:
        held.release(track=False)
    assert host.journal.renewed > 0


@pytest.mark.parametrize(
    ("at", "error"),
    [("create-late", OperationFailed), ("create-job", OperationFailed), ("rename-ignored", SettingIgnored)],
)
def test_a_creation_that_fails_leaves_nothing(lab: Lab, host: Doors, at: str, error: type[Exception]) -> None:
    lab.control.ask("fail", at=at, vm=VM)
    with pytest.raises(error):
        host.hold(VM)
    assert host.journal.steps[-1] == "hold-released"


def test_a_refused_creation_claims_no_checkpoint(lab: Lab, host: Doors) -> None:
    lab.control.ask("fail", at="create-call", vm=VM, code=32775)
    with pytest.raises(VmBusy):
        host.hold(VM)
    assert host.journal.steps == ["hold-prepared", "hold-released"]
    assert host.journal.records[-1][1]["checkpoint"] is None


class Rivals(NotedJournal):
    """Lets another product make its checkpoint between our record and our call; then something happens."""

    def __init__(self, lab: Lab, vm_id: str, then: Mapping[str, Any]) -> None:
        super().__init__()
        self._lab, self._vm_id, self._then = lab, vm_id, then
        self.theirs = ""

    def step(self, name: str, detail: Mapping[str, Any]) -> None:
        super().step(name, detail)
        if name == "hold-prepared":
            client = ForeignClient(self._lab)
            keys = {"CreationClassName": "Msvm_ComputerSystem", "Name": self._vm_id}
            level = embedded(
                "SnapshotSettings", "Msvm_VirtualSystemSnapshotSettingData", ConsistencyLevel=("uint8", 2)
            )
            system = reference("AffectedSystem", "Msvm_ComputerSystem", **keys)
            service = "Msvm_VirtualSystemSnapshotService"
            client.finish(client.call(service, "CreateSnapshot", system, level, text("SnapshotType", 32768)))
            client.close()
            vms = self._lab.control.ask("state")["state"]["vms"]
            (self.theirs,) = [vm["checkpoints"][-1]["id"] for vm in vms if vm["id"] == self._vm_id]
            self._lab.control.ask(**self._then)


@pytest.mark.parametrize(
    "then",
    [
        {"do": "fail", "at": "create-job", "vm": VM},
        {"do": "fail", "at": "create-late", "vm": VM},
        {"do": "disturb", "effect": "close before", "action": "CreateSnapshot"},
    ],
    ids=["our job fails", "our job fails late", "our call never arrives"],
)
def test_what_another_product_made_just_before_a_call_that_failed_stays(
    lab: Lab, host: Doors, then: dict[str, Any]
) -> None:
    vm_id = host.vm(VM).vm.id
    before = {each.id for each in list_recovery_checkpoints(host.host, vm_id)}
    host.journal = journal = Rivals(lab, vm_id, then)
    with pytest.raises((OperationFailed, OutcomeUnknown)):
        host.hold(VM)
    lab.control.ask("calm")
    (theirs,) = [each for each in list_recovery_checkpoints(host.host, vm_id) if each.id not in before]
    assert theirs.id == f"Microsoft:{journal.theirs}"
    assert journal.steps[-1] == "hold-released"
    assert destroy_checkpoint(host.host, theirs) is Went.BY_US


def test_a_call_that_the_host_has_no_time_for_is_announced_anew(lab: Lab, host: Doors) -> None:
    for action in ("CreateSnapshot", "ConvertToReferencePoint"):
        # As often as the client itself repeats it, and once more.
        lab.control.ask("disturb", effect="status", action=action, code=503, times=6)
    with host.hold(VM) as held:
        released = held.release(track=True)
    lab.control.ask("calm")
    assert host.journal.steps == [
        "hold-prepared", "hold-asking", "hold-asked", "hold-made", "hold-held",
        "hold-releasing", "hold-releasing", "hold-asked", "hold-released",
    ]  # fmt: skip
    assert released.tracking is not None
    destroy_reference_point(host.host, host.vm(VM).vm.id, released.tracking.reference_point)


def test_a_creation_that_lasts_longer_than_anybody_waits_is_told_and_not_forgotten(
    tmp_path: Path,
) -> None:
    text_of = SCENARIO.replace("checkpoint_s = 0.05", "checkpoint_s = 2000")
    with running_lab(text_of, tmp_path / "state") as lab:
        with host_of(lab, RunClock(speed=1500.0)) as host, pytest.raises(VmkeepError) as told:
            host.take("large")
        assert any("still making a checkpoint" in each for each in left_behind_by(told.value))
        lab.control.ask("push", seconds=2400)
        with host_of(lab) as after:
            (ours,) = after.state("large")["checkpoints"]
            lab.control.ask("push", seconds=3600)  # the host has forgotten its job by then
            after.repository, after.clock = host.repository, host.clock
            host.clock.later(hours=2)
            swept = sweep_host(after.doors, after.opened(), None, dry_run=False, ended=lambda _: None)
            (cleared,) = [each for vm in swept for each in vm.cleared]
            assert [(each.id, each.is_asked) for each in cleared.swept] == [(f"Microsoft:{ours['id']}", True)]
            assert not cleared.buried


def test_a_run_that_is_stopped_while_the_host_makes_the_checkpoint_waits_for_it(host: Doors) -> None:
    def stop(waiting: Waiting) -> None:
        if is_under_way(waiting, "create"):
            raise Interrupted

    host.host = replace(host.host, watch=stop)
    with pytest.raises(Interrupted):
        host.hold(VM)
    assert host.journal.steps[-1] == "hold-released"


def test_a_run_that_is_stopped_while_the_host_removes_the_checkpoint_waits_for_it(host: Doors) -> None:
    def stop(waiting: Waiting) -> None:
        if is_under_way(waiting, "remove"):
            raise Interrupted

    host.host = replace(host.host, watch=stop)
    with pytest.raises(Interrupted) as told, host.hold(VM) as held:
        held.release(track=False)
    assert getattr(told.value, "__notes__", []) == []
    assert host.journal.steps[-1] == "hold-released"


def test_a_run_that_is_stopped_during_the_conversion_leaves_no_reference_point(host: Doors) -> None:
    """The host goes on converting; what comes of it is nobody's baseline, and goes."""

    def stop(waiting: Waiting) -> None:
        if is_under_way(waiting, "convert"):
            raise Interrupted

    before = host.strangers()
    host.host = replace(host.host, watch=stop)
    with pytest.raises(Interrupted) as told, host.hold(VM) as held:
        held.release(track=True)
    assert getattr(told.value, "__notes__", []) == []
    assert host.journal.steps[-1] == "hold-released"
    assert (host.strangers(), host.ours()) == (before, [])


def test_a_refused_conversion_destroys_the_checkpoint_and_says_why(lab: Lab, host: Doors) -> None:
    lab.control.ask("fail", at="convert-job", vm=VM)
    with host.hold(VM) as held:
        released = held.release(track=True)
    assert released.tracking is None
    assert released.why_untracked is not None
    assert released.why_untracked.code == "rct-not-converted"
    assert released.merge.is_done


def test_what_cannot_be_removed_is_told_beside_the_first_error_and_swept_later(lab: Lab, host: Doors) -> None:
    lab.control.ask("fail", at="destroy-call", vm=VM, times=MANY, code=32775)
    with pytest.raises(Interrupted) as told, host.hold(VM):
        raise Interrupted
    lab.control.ask("heal")
    assert any("left behind" in note for note in told.value.__notes__)
    assert host.journal.steps[-1] == "hold-releasing"
    swept = sweep(host.host, host.journal.records, OWNER)
    assert [each.outcome for each in swept] == ["removed", "finished"]


def test_what_cannot_be_removed_without_an_error_is_an_error(lab: Lab, host: Doors) -> None:
    lab.control.ask("fail", at="destroy-call", vm=VM, times=MANY, code=32775)
    with pytest.raises(LeftBehind), host.hold(VM):
        pass
    lab.control.ask("heal")
    assert all(each.is_clean for each in sweep(host.host, host.journal.records, OWNER))


def test_a_mark_of_ours_that_arrives_as_the_checkpoint_is_removed_is_no_stranger(
    host: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(hyperv: HyperV, checkpoint: CheckpointFacts, fate: Fate) -> Went:
        mark_checkpoint(hyperv, checkpoint, OWNER)
        monkeypatch.setattr(removing, "destroy_checkpoint", destroy_checkpoint)
        return destroy_checkpoint(hyperv, checkpoint, fate)

    made = create_checkpoint(host.host, host.vm(VM).vm.id, CheckpointWish(consistency=1), known_before=())
    monkeypatch.setattr(removing, "destroy_checkpoint", late)
    assert removing.destroy_ours(host.host, made, OWNER) is Went.BY_US
    assert host.ours() == []


def test_a_checkpoint_that_somebody_removed_breaks_the_hold(host: Doors) -> None:
    with host.hold(VM) as held:
        assert held.checkpoint is not None
        destroy_checkpoint(host.host, held.checkpoint)
        with pytest.raises(CheckpointMissing):
            held.check()


def test_a_journal_that_refuses_does_not_keep_the_checkpoint(host: Doors) -> None:
    held = host.hold(VM)

    def refuse(name: str, detail: object) -> None:
        raise OSError(28, "No space left on device")

    host.journal.step = refuse  # type: ignore[method-assign]
    with pytest.raises(OSError, match="No space") as told, held:
        held.release(track=True)
    assert any("the journal" in note for note in told.value.__notes__)


def free(lab: Lab, host: Doors) -> None:
    lab.control.ask("free", bytes=1000)


def late(lab: Lab, host: Doors) -> None:
    host.clock.push(3600.0)


@pytest.mark.parametrize(("worsen", "limit"), [(free, "free space"), (late, "deadline")])
def test_a_hold_ends_at_its_limits(
    lab: Lab, host: Doors, worsen: Callable[[Lab, Doors], None], limit: str
) -> None:
    def read_on(held: CheckpointHold) -> None:
        held.watch()
        worsen(lab, host)
        held.watch()
        host.clock.push(61.0)
        held.watch()

    limits = HoldLimits(max_hold_s=1800.0, free_floor=2000)
    with pytest.raises(HoldLimitReached) as told, host.hold(VM, limits=limits) as held:
        read_on(held)
    assert told.value.context["limit"] == limit
    assert told.value.exit_code == 3


def test_a_merge_that_another_program_hinders_is_told_and_heals(lab: Lab, host: Doors) -> None:
    with host.hold(VM, limits=HoldLimits(free_floor=0, merge_s=20.0)) as held:
        (path,) = [disk.file for disk in held.disks]
        (layer,) = host.journal.records[-1][1]["layers"].values()
        with lab.real(path).open("rb"):
            released = held.release(track=False)
            assert not released.merge.is_done
            assert list(released.merge.unmerged.values()) == [layer]
            assert held.evidence["merged"] is False
    wait_for_merge(host.host, host.vm(VM).vm.id, released.merge.unmerged)
    swept = sweep(host.host, host.journal.records, OWNER)
    assert [(each.what, each.outcome) for each in swept] == [("merge", "finished")]


def test_lost_tracking_has_everything_read_and_says_so(lab: Lab, host: Doors) -> None:
    with host.hold(VM) as held:
        first = held.release(track=True).tracking
    assert first is not None
    lab.control.ask("lose-tracking", vm=VM)
    with host.hold(VM, previous=first) as held:
        assert held.checkpoint is not None
        (disk,) = held.disks
        assert disk.changed is None
        assert disk.why_all is not None
        assert disk.why_all.code == "rct-lost"
        assert held.evidence["read_all"] == {disk.name: "rct-lost"}
        assert [sha256_of(disk.disk)] == list(host.truth(held.checkpoint.id).values())
        held.release(track=False)
    destroy_reference_point(host.host, host.vm(VM).vm.id, first.reference_point)
