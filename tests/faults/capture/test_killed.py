"""A run is killed at each record of its journal; another process sweeps, and the host is as it was."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.lab_captures import OWNER, Doors, noted
from tests.lab_process import ForeignClient, Lab, reference, text
from vmkeep.capture.sweep import sweep
from vmkeep.host.hyperv import destroy_reference_point, list_reference_points

STEPS = [
    "hold-prepared",
    "hold-asked",
    "hold-made",
    "hold-held",
    "hold-releasing",
    "hold-asked to convert",
    "hold-released",
    "hold-tracked",
]
# What the sweep finds, where it does not find the host as it was.
LEFT = {
    ("hold-asked", "before"): "checkpoint",
    ("hold-asked", "after"): "checkpoint",
    ("hold-made", "before"): "checkpoint",
    ("hold-made", "after"): "checkpoint",
    ("hold-held", "before"): "checkpoint",
    ("hold-held", "after"): "checkpoint",
    ("hold-releasing", "before"): "checkpoint",
    ("hold-releasing", "after"): "checkpoint",
    ("hold-asked to convert", "before"): "reference point",
    ("hold-asked to convert", "after"): "reference point",
    ("hold-released", "before"): "reference point",
    ("hold-released", "after"): "reference point",
    ("hold-tracked", "before"): "reference point",
}

_BUSY = "32775"  # invalid state: another job of the VM runs


_UNDER_WAY = (2, 3, 4)


def let_jobs_end(lab: Lab) -> None:
    """Wait until the host has done what the dead run asked for."""
    for _ in range(1000):
        if not any(job["state"] in _UNDER_WAY for job in lab.control.ask("state")["jobs"]):
            return
        time.sleep(0.01)
    raise AssertionError("the host does not come to rest")


def die(lab: Lab, journal: Path, step: str, when: str) -> None:
    """Run a hold in a process that is killed there."""
    command = [sys.executable, "-m", "tests.faults.capture.dying", json.dumps(lab.facts), str(journal)]
    child = subprocess.run(
        [*command, "web-server", str(STEPS.index(step)), when], capture_output=True, text=True, check=False
    )
    assert child.returncode == -signal.SIGKILL, child.stderr


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_sweep_takes_away_what_a_killed_run_left(
    lab: Lab, host: Doors, tmp_path: Path, step: str, when: str
) -> None:
    vm_id = host.vm("web-server").vm.id
    before = {point.id for point in list_reference_points(host.host, vm_id)}
    die(lab, tmp_path / "journal", step, when)
    records = noted(tmp_path / "journal")
    reached = STEPS[: STEPS.index(step) + (when == "after")]
    assert [name for name, _ in records] == [name.removesuffix(" to convert") for name in reached]
    let_jobs_end(lab)
    wanted = LEFT.get((step, when))
    would = sweep(host.host, records, OWNER, dry_run=True)
    assert [each.what for each in would if each.outcome == "would be removed"] == ([wanted] if wanted else [])
    swept = sweep(host.host, records, OWNER)
    assert [each.what for each in swept if each.outcome == "removed"] == ([wanted] if wanted else [])
    assert all(each.is_clean for each in swept)
    again = sweep(host.host, records, OWNER)
    assert all(each.outcome == "finished" for each in again), again
    left = {point.id for point in list_reference_points(host.host, vm_id)} - before
    if (step, when) != ("hold-tracked", "after"):
        assert left == set()
        return
    # The point is durable, and stays: this run was through. The next one builds on it.
    assert len(left) == 1
    (released,) = [detail for name, detail in records if name == "hold-released"]
    released_only = [record for record in records if record[0] != "hold-tracked"]
    assert released["reference_point"] in left
    assert sweep(host.host, released_only, OWNER, durable=left)[-1].is_clean
    assert {point.id for point in list_reference_points(host.host, vm_id)} - before == left
    sweep(host.host, released_only, OWNER)


def make_strangers_point(lab: Lab, vm_id: str) -> None:
    """Let another product make a reference point of its own."""
    client = ForeignClient(lab)
    keys = {"CreationClassName": "Msvm_ComputerSystem", "Name": vm_id}
    for _ in range(300):
        answer = client.call(
            "Msvm_VirtualSystemReferencePointService",
            "CreateReferencePoint",
            reference("AffectedSystem", "Msvm_ComputerSystem", **keys),
            text("ReferencePointType", 1),
        )
        if answer["ReturnValue"] != _BUSY:
            break
        time.sleep(0.1)  # what the dead run began goes on
    client.finish(answer)
    client.close()


# What is left at each: a stranger's point beside the checkpoint, and beside our point, which the host's job
# proves to be ours, or nobody can tell: its job is forgotten, or was never written down.
@pytest.mark.parametrize(
    ("step", "when", "later_s", "told"),
    [
        ("hold-releasing", "after", 0.0, 0),
        ("hold-released", "before", 0.0, 0),
        ("hold-released", "before", 600.0, 2),
        ("hold-asked to convert", "before", 600.0, 2),
    ],
)
def test_a_reference_point_that_may_be_a_strangers_stays_and_is_told(
    lab: Lab, host: Doors, tmp_path: Path, step: str, when: str, later_s: float, told: int
) -> None:
    vm_id = host.vm("web-server").vm.id
    before = {point.id for point in list_reference_points(host.host, vm_id)}
    die(lab, tmp_path / "journal", step, when)
    let_jobs_end(lab)
    ours = {point.id for point in list_reference_points(host.host, vm_id)} - before
    make_strangers_point(lab, vm_id)
    new = {point.id for point in list_reference_points(host.host, vm_id)} - before
    assert len(new - ours) == 1
    lab.control.ask("push", seconds=later_s)
    swept = sweep(host.host, noted(tmp_path / "journal"), OWNER)
    stays = new if told else new - ours
    assert {point.id for point in list_reference_points(host.host, vm_id)} - before == stays
    left = {each.id for each in swept if each.what == "reference point" and each.outcome == "left"}
    assert (left, len(left)) == (new if told else set(), told)
    for point in stays:
        destroy_reference_point(host.host, vm_id, point)


def test_the_point_before_goes_once_the_new_one_is_durable(host: Doors) -> None:
    with host.hold("web-server") as held:
        first = held.release(track=True).tracking
    assert first is not None
    host.journal.records.clear()
    with host.hold("web-server", previous=first) as held:
        second = held.release(track=True).tracking
    assert second is not None
    old, new = first.reference_point, second.reference_point
    (kept,) = [s for s in sweep(host.host, host.journal.records, OWNER, durable=[new]) if s.id == old]
    assert kept.outcome == "removed"
    (gone,) = [s for s in sweep(host.host, host.journal.records, OWNER, durable=[old]) if s.id == new]
    assert gone.outcome == "removed"
