"""What a dead run may have left is claimed by what the host tells; of the rest a person decides."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.faults.cli.gate import Death
from tests.faults.cli.host_stage import KILLED, SOURCE, VM, Ended, HostStage, host_stage
from tests.faults.cli.test_host_strangers import RECORDS, Stranger, held_by_others, the_nth
from tests.lab_process import ForeignClient, reference

_DAY_S: Final = 86_400.0
_JOBS_FORGOTTEN_S: Final = 400.0


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[HostStage]:
    with host_stage(tmp_path) as stage:
        stage.renew()
        yield stage


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[HostStage]:
    """A host that needs 33 minutes for a checkpoint."""
    with host_stage(tmp_path, checkpoint_s=2000.0) as stage:
        stage.renew()
        yield stage


def die_before_asking(stage: HostStage) -> None:
    """Announce a checkpoint that nobody is asked for."""
    assert stage.backup(Death(the_nth("prepared"), "after", of=RECORDS)).code == KILLED


def die_unmarked(stage: HostStage, step: str = "asked") -> None:
    """Leave a checkpoint that the host made and that bears no mark."""
    assert stage.backup(Death(the_nth(step), "before", of=RECORDS)).code == KILLED
    stage.let_jobs_end()


def die_converting(stage: HostStage, from_the_end: int, when: str) -> None:
    """Die around the conversion: the last records are releasing, asked, released, tracked, finished."""
    assert stage.backup().code == 0
    records = sum(message.startswith(RECORDS) for message in stage.messages)
    stage.renew()
    death = Death(records - from_the_end, "after" if when == "after" else "before", of=RECORDS)
    assert stage.backup(death).code == KILLED
    stage.let_jobs_end()


def remove_ours(stage: HostStage) -> None:
    """Let an administrator remove our checkpoint by hand, as its notes say."""
    client = ForeignClient(stage.lab)
    (ours,) = [each for each in stage.host()[VM]["checkpoints"] if each["name"].startswith("vmkeep ")]
    keys = {"InstanceID": f"Microsoft:{ours['id']}"}
    gone = reference("AffectedSnapshot", "Msvm_VirtualSystemSettingData", **keys)
    client.finish(client.call("Msvm_VirtualSystemSnapshotService", "DestroySnapshot", gone))
    client.close()
    stage.let_jobs_end()


def swept(stage: HostStage, *words: object) -> tuple[Ended, dict[str, Any]]:
    """Sweep; return how it ended and its summary."""
    ended = stage.run("sweep", SOURCE, *words, "--json")
    return ended, json.loads(ended.out.splitlines()[-1]) if ended.out else {}


def ids(summary: dict[str, Any]) -> set[str]:
    return {each["id"].removeprefix("Microsoft:") for each in summary["decide"]}


def new_checkpoints(stage: HostStage) -> set[str]:
    now, before = (
        {each["id"] for each in host[VM]["checkpoints"]} for host in (stage.host(), stage.strangers)
    )
    return now - before


# --- checkpoints ----------------------------------------------------------------------------


@pytest.mark.parametrize("again", ["sweep", "backup"])
def test_a_strangers_checkpoint_of_ten_minutes_later_stays(stage: HostStage, again: str) -> None:
    die_before_asking(stage)
    stage.lab.control.ask("push", seconds=600.0)
    Stranger(stage).hold()
    (theirs,) = new_checkpoints(stage)
    ended = stage.run("sweep", SOURCE) if again == "sweep" else stage.backup()
    assert ended.code == 3, ended
    assert f"--not-ours {theirs.lower()}" in ended.err
    assert theirs in new_checkpoints(stage)


def test_a_dead_runs_unmarked_checkpoint_is_ours_by_the_job_that_made_it(stage: HostStage) -> None:
    die_unmarked(stage, "made")
    Stranger(stage).hold()
    ours_and_theirs = new_checkpoints(stage)
    ended, _ = swept(stage)
    assert ended.code == 0, ended
    assert len(new_checkpoints(stage)) == 1 < len(ours_and_theirs)
    # The lab knows in which order they were made.
    made = [each["id"] for each in stage.host()[VM]["checkpoints"]]
    assert new_checkpoints(stage) == {made[-1]}


def test_the_first_after_a_call_that_the_host_took_is_ours_when_its_job_is_forgotten(
    stage: HostStage,
) -> None:
    die_unmarked(stage, "made")
    (ours,) = new_checkpoints(stage)
    Stranger(stage).hold()
    stage.lab.control.ask("push", seconds=_JOBS_FORGOTTEN_S)
    ended, _ = swept(stage)
    assert ended.code == 0, ended
    assert len(new_checkpoints(stage)) == 1
    assert ours not in new_checkpoints(stage)


def test_a_call_that_nobody_heard_of_is_concluded_from_its_moment(stage: HostStage) -> None:
    die_unmarked(stage)
    stage.lab.control.ask("push", seconds=_JOBS_FORGOTTEN_S)
    ended, _ = swept(stage)
    assert ended.code == 0, ended
    stage.judge_host()


@pytest.mark.parametrize("answer", ["ours", "not-ours"])
def test_a_person_decides_and_the_run_is_buried(stage: HostStage, answer: str) -> None:
    die_unmarked(stage)
    (ours,) = new_checkpoints(stage)
    Stranger(stage).hold()
    (theirs,) = new_checkpoints(stage) - {ours}
    stage.lab.control.ask("push", seconds=_JOBS_FORGOTTEN_S)
    before = stage.host()
    dry, told = swept(stage, "--dry-run")
    first, again = swept(stage)
    assert (dry.code, first.code) == (3, 3), (dry, first)
    assert ids(told) == ids(again) == {ours, theirs}
    assert stage.host() == before
    question = next(each for each in again["decide"] if ours in each["id"])
    command = shlex.split(question["ours"] if answer == "ours" else question["not_ours"])
    assert command[:5] == ["vmkeep", "sweep", SOURCE, "--repo", command[4]]
    assert Path(command[4]).samefile(stage.place / "repo")
    words = command[5:]
    if answer == "not-ours":
        words += ["--not-ours", f"Microsoft:{theirs}"]
    would = stage.run("sweep", SOURCE, *words, "--dry-run")
    assert ("would be removed" in would.out) == (answer == "ours")
    assert stage.host() == before
    decided = stage.run("sweep", SOURCE, *words)
    assert decided.code == 0, decided
    assert new_checkpoints(stage) == ({theirs} if answer == "ours" else {ours, theirs})
    last, summary = swept(stage)
    assert (last.code, summary["vms"], summary["decide"]) == (0, [], [])


def test_one_answer_is_remembered_until_the_other_is_given(stage: HostStage) -> None:
    die_unmarked(stage)
    (ours,) = new_checkpoints(stage)
    Stranger(stage).hold()
    (theirs,) = new_checkpoints(stage) - {ours}
    stage.lab.control.ask("push", seconds=_JOBS_FORGOTTEN_S)
    assert stage.run("sweep", SOURCE, "--not-ours", theirs).code == 3
    # Only one is left that may be ours, and it was made at the moment of the call.
    ended, _ = swept(stage)
    assert ended.code == 0, ended
    assert new_checkpoints(stage) == {theirs}


@pytest.mark.parametrize(
    "words",
    [
        ("--ours", "0a1b2c3d-0000-4000-8000-00000000000e"),
        ("--not-ours", "Microsoft:0A1B2C3D-0000-4000-8000-00000000000E"),
    ],
)
def test_an_id_that_nobody_asked_about_is_bad_input(stage: HostStage, words: tuple[str, str]) -> None:
    die_before_asking(stage)
    stage.lab.control.ask("push", seconds=600.0)
    Stranger(stage).hold()
    before = stage.host()
    ended = stage.run("sweep", SOURCE, *words)
    assert ended.code == 2, ended
    (theirs,) = new_checkpoints(stage)
    twice = stage.run("sweep", SOURCE, "--ours", theirs, "--not-ours", theirs)
    assert twice.code == 2, twice
    assert stage.host() == before


def test_a_checkpoint_that_is_being_made_is_no_end(slow: HostStage) -> None:
    stage = slow
    die_before_asking(stage)
    stage.lab.control.ask("push", seconds=3600.0)
    Stranger(stage).hold(patient=False)
    for words in ((), ("--dry-run",)):
        ended, _ = swept(stage, *words)
        assert ended.code == 3, ended
        assert "the host is still making a checkpoint" in ended.err
    stage.lab.control.ask("push", seconds=3600.0)
    assert len(new_checkpoints(stage)) == 1
    ended, _ = swept(stage)
    assert ended.code == 0, ended
    assert len(new_checkpoints(stage)) == 1


def test_a_checkpoint_that_took_the_host_longer_than_anybody_waits_is_left_to_a_person(
    slow: HostStage,
) -> None:
    stage = slow
    assert stage.backup(Death(the_nth("asked"), "after", of=RECORDS)).code == KILLED
    stage.lab.control.ask("push", seconds=2400.0)
    (ours,) = new_checkpoints(stage)
    stage.lab.control.ask("push", seconds=3600.0)
    for _ in range(2):
        ended, summary = swept(stage)
        assert ended.code == 3, ended
        assert ids(summary) == {ours}
    assert stage.run("sweep", SOURCE, "--ours", ours).code == 0
    stage.judge_host()


# --- reference points -----------------------------------------------------------------------


@pytest.mark.parametrize("later_s", [0.0, _DAY_S])
def test_a_strangers_point_after_our_checkpoint_was_removed_by_hand_stays(
    stage: HostStage, later_s: float
) -> None:
    die_converting(stage, 4, "after")
    remove_ours(stage)
    stage.lab.control.ask("push", seconds=later_s)
    Stranger(stage).mark()
    before = held_by_others(stage)
    ended, summary = swept(stage)
    assert ended.code == 3, ended
    assert held_by_others(stage) == before
    (theirs,) = ids(summary)
    assert stage.run("sweep", SOURCE, "--not-ours", theirs).code == 0
    assert held_by_others(stage) == before


def test_a_point_of_ours_is_told_from_a_strangers_by_its_job(stage: HostStage) -> None:
    die_converting(stage, 2, "before")
    ours = stage.our_points()
    Stranger(stage).mark()
    ended, _ = swept(stage)
    assert ended.code == 0, ended
    assert len(stage.our_points()) == 1
    assert not ours & stage.our_points()


def test_of_two_points_a_person_removes_ours(stage: HostStage) -> None:
    die_converting(stage, 2, "before")
    (ours,) = stage.our_points()
    Stranger(stage).mark()
    (theirs,) = stage.our_points() - {ours}
    stage.lab.control.ask("push", seconds=_JOBS_FORGOTTEN_S)
    ended, summary = swept(stage)
    assert (ended.code, ids(summary)) == (3, {ours, theirs}), ended
    decided = stage.run("sweep", SOURCE, "--ours", f"Microsoft:{ours}")
    assert decided.code == 0, decided
    assert stage.our_points() == {theirs}


@pytest.mark.parametrize(("later_s", "code"), [(_DAY_S - 600, 0), (_DAY_S + 600, 3)])
def test_the_only_new_point_is_ours_for_a_day(stage: HostStage, later_s: float, code: int) -> None:
    die_converting(stage, 2, "before")
    ours = stage.our_points()
    stage.lab.control.ask("push", seconds=later_s)
    ended, summary = swept(stage)
    assert ended.code == code, ended
    assert stage.our_points() == (ours if code else set())
    assert ids(summary) == stage.our_points()


# --- VMs that are gone ----------------------------------------------------------------------


@pytest.mark.parametrize("step", ["prepared", "held", "writing"])
def test_a_vm_that_was_deleted_keeps_no_run_open(stage: HostStage, step: str) -> None:
    assert stage.backup(Death(the_nth(step), "after", of=RECORDS)).code == KILLED
    stage.lab.control.ask("power", vm=VM, to="off")
    stage.lab.control.ask("delete", vm=VM)
    ended = stage.run("sweep", SOURCE if step == "held" else f"{SOURCE}/{VM}")
    assert ended.code == 0, ended
    assert "no such VM any more" in ended.out
    last, summary = swept(stage)
    assert (last.code, summary["vms"]) == (0, [])
