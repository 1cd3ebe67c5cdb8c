"""What others do on a host between a death and a sweep stays, however often sweeps are repeated."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.faults.cli.gate import Death, When
from tests.faults.cli.host_stage import KILLED, SOURCE, VM, HostStage, host_stage
from tests.lab_process import ForeignClient, embedded, reference, text

RECORDS: Final = "put_if_absent runs/"
# The number of the record, from 1, that is written before the run does what it says.
STEPS: Final = ("begun", "claimed", "prepared", "asked", "made", "held", "writing", "publishing")
_HOUR_S: Final = 3600.0
_RECOVERY: Final = 32768
_BUSY: Final = "32775"
_TRIES: Final = 500
# A host that is at rest for five minutes has stopped merging: between two of its tries.
_SPEED: Final = 500.0


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[HostStage]:
    with host_stage(tmp_path, merge_retry_s=2.0) as stage:
        stage.renew()
        yield stage


class Stranger:
    """Another product that protects the same VM, and leaves its checkpoint the name it got."""

    def __init__(self, stage: HostStage) -> None:
        self._stage = stage
        self._vm = {"CreationClassName": "Msvm_ComputerSystem", "Name": stage.strangers[VM]["id"]}

    def _finish(self, service: str, method: str, *parameters: str, patient: bool = True) -> None:
        client = ForeignClient(self._stage.lab)
        try:
            for _ in range(_TRIES):
                answer = client.call(service, method, *parameters)
                if answer["ReturnValue"] != _BUSY:
                    break
                time.sleep(0.02)  # a merge that fails is tried again just now
            if patient:
                client.finish(answer)
        finally:
            client.close()

    def hold(self, *, patient: bool = True) -> None:
        """Make a checkpoint, and wait for it unless ``patient`` is off."""
        self._finish(
            "Msvm_VirtualSystemSnapshotService",
            "CreateSnapshot",
            reference("AffectedSystem", "Msvm_ComputerSystem", **self._vm),
            embedded(
                "SnapshotSettings", "Msvm_VirtualSystemSnapshotSettingData", ConsistencyLevel=("uint8", 2)
            ),
            text("SnapshotType", _RECOVERY),
            patient=patient,
        )

    def mark(self) -> None:
        self._finish(
            "Msvm_VirtualSystemReferencePointService",
            "CreateReferencePoint",
            reference("AffectedSystem", "Msvm_ComputerSystem", **self._vm),
            text("ReferencePointType", 1),
        )


def the_nth(step: str) -> int:
    return STEPS.index(step) + 1


def held_by_others(stage: HostStage) -> dict[str, list[str]]:
    """The checkpoints and reference points of the VM."""
    vm: dict[str, Any] = stage.host()[VM]
    return {what: [each["id"] for each in vm[what]] for what in ("checkpoints", "reference_points")}


def test_a_strangers_unmarked_checkpoint_made_long_after_a_death_stays(stage: HostStage) -> None:
    # Nothing was asked of the host; only that it would be is written down.
    assert stage.backup(Death(the_nth("prepared"), "after", of=RECORDS)).code == KILLED
    stage.lab.control.ask("push", seconds=_HOUR_S)
    Stranger(stage).hold()
    before = stage.host()
    ended = stage.run("sweep", SOURCE)
    assert ended.code == 0, ended
    assert stage.host() == before


# What the run leaves: a checkpoint that nobody has marked, one that is about to be converted, a reference
# point that nobody has heard of. Its last records are releasing, asked, released, tracked and finished.
LEFT: Final[dict[str, tuple[str, int, When]]] = {
    "unmarked": ("made", 0, "before"),
    "to be converted": ("", 4, "after"),
    "converted": ("", 2, "before"),
}


@pytest.mark.parametrize("left", LEFT)
def test_a_sweep_that_is_repeated_takes_nothing_a_stranger_has_made_since(
    stage: HostStage, left: str
) -> None:
    assert stage.backup().code == 0
    records = sum(message.startswith(RECORDS) for message in stage.messages)
    step, from_the_end, when = LEFT[left]
    at = the_nth(step) if step else records - from_the_end
    stage.renew()
    stage.lab.control.ask("fail", at="merge", times=1_000_000, vm=VM)
    assert stage.backup(Death(at, when, of=RECORDS)).code == KILLED
    first = stage.run("sweep", SOURCE, speed=_SPEED)
    assert first.code == 3, first
    stranger = Stranger(stage)
    stranger.mark()
    stranger.hold()
    theirs = held_by_others(stage)
    again = stage.run("sweep", SOURCE, speed=_SPEED)
    assert again.code == 3, again.err  # the merge is still owed
    assert held_by_others(stage) == theirs
    stage.lab.control.ask("heal")
    stage.lab.control.ask("merge", vm=VM)
    last = stage.run("sweep", SOURCE)
    assert last.code == 0, last
    assert held_by_others(stage) == theirs
    assert stage.host()[VM]["merges"] == []
