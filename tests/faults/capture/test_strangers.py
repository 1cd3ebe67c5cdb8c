"""What other programs make at the moment of a living run's call is not taken for what the call has made."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

import pytest

import vmkeep_lab
from tests.lab_captures import OWNER, Doors, NotedJournal, QuickClock, doors
from tests.lab_process import ForeignClient, Lab, embedded, reference, running_lab, text
from vmkeep.capture.claims import Asked, claim_checkpoint
from vmkeep.capture.outcome import left_behind_by
from vmkeep.capture.sweep import Swept, sweep
from vmkeep.host.hyperv import CheckpointUnidentified, list_recovery_checkpoints, read_host_time
from vmkeep.host.wsman import OutcomeUnknown

VM: Final = "web-server"
SILENCE_S: Final = 250.0
_RECOVERY: Final = 32768
_BUSY: Final = "32775"
_TRIES: Final = 500


class Meanwhile(QuickClock):
    """Somebody does something while a run waits, once."""

    action: Callable[[], object] | None = None

    def sleep(self, seconds: float) -> None:
        action, self.action = self.action, None
        if action is not None:
            action()
        super().sleep(seconds)


class Announced(NotedJournal):
    """Somebody does something right behind the record of a call, once for each kind of record."""

    def __init__(self, actions: Mapping[str, Callable[[], None]]) -> None:
        super().__init__()
        self._actions = dict(actions)

    def step(self, name: str, detail: Mapping[str, Any]) -> None:
        super().step(name, detail)
        self._actions.pop(detail.get("how", name), lambda: None)()


class Stranger:
    """Another product, or an administrator, at work on the VM."""

    def __init__(self, lab: Lab, vm_id: str) -> None:
        self._lab = lab
        self._vm_id = vm_id

    def _state(self, what: str) -> list[str]:
        vms = self._lab.control.ask("state")["state"]["vms"]
        (vm,) = [vm for vm in vms if vm["id"] == self._vm_id]
        return [each["id"] for each in vm[what]]

    @property
    def checkpoints(self) -> list[str]:
        return self._state("checkpoints")

    @property
    def points(self) -> list[str]:
        return self._state("reference_points")

    def _finish(self, service: str, method: str, *parameters: str) -> None:
        client = ForeignClient(self._lab)
        try:
            for _ in range(_TRIES):
                answer = client.call(service, method, *parameters)
                if answer["ReturnValue"] != _BUSY:
                    break
                time.sleep(0.02)
            if answer["ReturnValue"] != "0":
                client.finish(answer)
        finally:
            client.close()

    @property
    def _system(self) -> str:
        keys = {"CreationClassName": "Msvm_ComputerSystem", "Name": self._vm_id}
        return reference("AffectedSystem", "Msvm_ComputerSystem", **keys)

    def hold(self, notes: str = "") -> str:
        level = embedded(
            "SnapshotSettings", "Msvm_VirtualSystemSnapshotSettingData", ConsistencyLevel=("uint8", 2)
        )
        kind = text("SnapshotType", _RECOVERY)
        self._finish("Msvm_VirtualSystemSnapshotService", "CreateSnapshot", self._system, level, kind)
        made = self.checkpoints[-1]
        if notes:
            settings = (
                '<INSTANCE CLASSNAME="Msvm_VirtualSystemSettingData"><PROPERTY NAME="InstanceID" '
                f'TYPE="string"><VALUE>Microsoft:{made}</VALUE></PROPERTY><PROPERTY.ARRAY NAME="Notes" '
                f'TYPE="string"><VALUE.ARRAY><VALUE>{notes}</VALUE></VALUE.ARRAY></PROPERTY.ARRAY></INSTANCE>'
            )
            parameter = f"<p:SystemSettings>{escape(settings)}</p:SystemSettings>"
            self._finish("Msvm_VirtualSystemManagementService", "ModifySystemSettings", parameter)
        return made

    def mark(self) -> str:
        service, kind = "Msvm_VirtualSystemReferencePointService", text("ReferencePointType", 1)
        self._finish(service, "CreateReferencePoint", self._system, kind)
        return self.points[-1]

    def convert(self, checkpoint: str) -> None:
        self._finish("Msvm_VirtualSystemSnapshotService", "ConvertToReferencePoint", _affected(checkpoint))

    def remove(self, *, checkpoint: str = "", point: str = "") -> None:
        if checkpoint:
            self._finish("Msvm_VirtualSystemSnapshotService", "DestroySnapshot", _affected(checkpoint))
        if point:
            client = ForeignClient(self._lab)
            client.destroy_reference_point(point)
            client.close()


def _affected(checkpoint: str) -> str:
    return reference(
        "AffectedSnapshot", "Msvm_VirtualSystemSettingData", InstanceID=f"Microsoft:{checkpoint}"
    )


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A host that converts slowly enough for somebody to come meanwhile."""
    scenario = (Path(vmkeep_lab.__file__).parent / "scenario" / "demo.toml").read_text("utf-8")
    slow = re.sub(r"convert_s = [0-9.]+", "convert_s = 1.0", scenario)
    assert slow != scenario
    with running_lab(slow, tmp_path_factory.mktemp("slow") / "state") as lab:
        yield lab


@pytest.fixture
def clock() -> Meanwhile:
    return Meanwhile()


@pytest.fixture
def host(lab: Lab, clock: Meanwhile) -> Iterator[Doors]:
    with doors(lab.facts, clock) as host:
        before = host.strangers()
        yield host
        lab.control.ask("calm")
        assert host.strangers() == before
        assert host.ours() == []


@pytest.fixture
def stranger(lab: Lab, host: Doors) -> Stranger:
    return Stranger(lab, host.vm(VM).vm.id)


def lose(lab: Lab, action: str, effect: str) -> None:
    """Break the connection at the next such call, before or after the host has heard it."""
    lab.control.ask("disturb", effect=effect, action=action)


def swept_by_another(host: Doors) -> tuple[Swept, ...]:
    return sweep(host.host, host.journal.records, OWNER)


def test_a_point_whose_call_alone_explains_it_is_built_on(lab: Lab, host: Doors, stranger: Stranger) -> None:
    host.journal = Announced({"convert": lambda: lose(lab, "ConvertToReferencePoint", "close after")})
    with host.hold(VM) as held:
        released = held.release(track=True)
    assert released.tracking is not None
    (ours,) = [f"Microsoft:{each}" for each in stranger.points if each in released.tracking.reference_point]
    assert host.journal.records[-1][1]["reference_point"] == ours
    stranger.remove(point=ours)


def test_a_point_that_the_host_never_named_goes_and_is_not_built_on(
    lab: Lab, host: Doors, stranger: Stranger
) -> None:
    before = stranger.points
    with host.hold(VM) as held:
        lab.control.ask("push", seconds=400.0)  # the host forgets the jobs of before
        lose(lab, "ConvertToReferencePoint", "close after")
        released = held.release(track=True)
    assert released.tracking is None
    assert released.why_untracked is not None and released.why_untracked.code == "rct-not-converted"
    assert stranger.points == before
    assert host.journal.records[-1][1]["reference_point"], "its removal was announced"


@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_of_two_points_of_one_moment_none_is_taken_and_a_person_is_asked(
    lab: Lab, host: Doors, clock: Meanwhile, stranger: Stranger, first: str
) -> None:
    before = stranger.points

    def convert() -> None:
        lose(lab, "ConvertToReferencePoint", "close after")
        if first == "theirs":
            stranger.mark()
        else:
            clock.action = stranger.mark  # as soon as the host has time for it

    host.journal = Announced({"convert": convert})
    with pytest.raises(CheckpointUnidentified) as told, host.hold(VM) as held:
        held.release(track=True)
    new = [each for each in stranger.points if each not in before]
    assert len(new) == 2
    assert any(all(each in line for each in new) for line in left_behind_by(told.value))
    assert host.journal.steps[-1] == "hold-releasing", "a closed journal would be the end of it"
    swept = swept_by_another(host)
    asked = {each.id.removeprefix("Microsoft:") for each in swept if each.is_asked}
    assert asked == set(new)
    for each in new:
        stranger.remove(point=each)


def test_a_strangers_point_beside_our_checkpoint_is_not_what_became_of_it(
    lab: Lab, host: Doors, clock: Meanwhile, stranger: Stranger
) -> None:
    theirs: list[str] = []

    def convert() -> None:
        lose(lab, "ConvertToReferencePoint", "close before")
        clock.action = lambda: theirs.append(stranger.mark())

    host.journal = Announced({"convert": convert})
    with host.hold(VM) as held:
        released = held.release(track=True)
    assert released.tracking is None
    assert released.consistency is None, "their point says nothing of ours"
    assert released.merge.is_done
    assert host.ours() == []
    (point,) = theirs
    assert point in stranger.points
    stranger.remove(point=point)


def test_a_strangers_point_is_no_baseline_where_ours_never_came(
    lab: Lab, host: Doors, clock: Meanwhile, stranger: Stranger
) -> None:
    """Whatever the guest wrote in between, an increment since the stranger's point would not have."""
    theirs: list[str] = []

    def meanwhile() -> None:
        stranger.remove(checkpoint=stranger.checkpoints[-1])
        theirs.append(stranger.mark())

    def convert() -> None:
        lose(lab, "ConvertToReferencePoint", "close before")
        clock.action = meanwhile

    host.journal = Announced({"convert": convert})
    with pytest.raises(CheckpointUnidentified), host.hold(VM) as held:
        held.release(track=True)
    assert theirs[0] in stranger.points
    stranger.remove(point=theirs[0])


def test_a_checkpoint_somebody_removed_leaves_no_baseline(
    lab: Lab, host: Doors, clock: Meanwhile, stranger: Stranger
) -> None:
    def convert() -> None:
        lose(lab, "ConvertToReferencePoint", "close before")
        clock.action = lambda: stranger.remove(checkpoint=stranger.checkpoints[-1])

    host.journal = Announced({"convert": convert})
    with host.hold(VM) as held:
        released = held.release(track=True)
    assert released.tracking is None
    assert released.why_untracked is not None
    assert released.why_untracked.code == "rct-not-converted"
    assert host.journal.records[-1][1]["reference_point"] is None


@pytest.mark.parametrize("notes", ["", "Other job 17, do not touch"])
def test_a_checkpoint_made_in_a_long_silence_is_not_taken(
    lab: Lab, host: Doors, clock: Meanwhile, stranger: Stranger, notes: str
) -> None:
    theirs: list[str] = []

    def meanwhile() -> None:
        lab.control.ask("push", seconds=SILENCE_S)
        clock.push(SILENCE_S)
        theirs.append(stranger.hold(notes))

    lose(lab, "CreateSnapshot", "close before")
    clock.action = meanwhile
    with pytest.raises(OutcomeUnknown) as told:
        host.hold(VM)
    assert theirs[0] in stranger.checkpoints
    is_told = any(theirs[0] in line for line in left_behind_by(told.value))
    assert is_told is (not notes), "what bears notes is nobody's question"
    assert (host.journal.steps[-1] == "hold-released") is bool(notes)
    stranger.remove(checkpoint=theirs[0])


def test_by_a_clock_that_was_set_back_nothing_is_told_from_a_strangers(
    host: Doors, stranger: Stranger
) -> None:
    vm_id = host.vm(VM).vm.id
    known = tuple(each.id for each in list_recovery_checkpoints(host.host, vm_id))
    now = read_host_time(host.host)
    assert now is not None
    made = stranger.hold()
    found = claim_checkpoint(host.host, Asked(vm_id, known, now + timedelta(hours=1)))
    assert found.ours is None
    assert [each.id for each in found.doubtful] == [f"Microsoft:{made}"], "it may be from before, or ours"
    stranger.remove(checkpoint=made)
