"""A conversion that goes on, or only begins, when nobody expects it: its reference point does not stay."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.faults.capture.test_strangers import VM, Announced, Stranger, lose
from tests.lab_captures import OWNER, Doors, NotedJournal, QuickClock, doors
from tests.lab_process import Lab, running_lab
from vmkeep.capture import claims
from vmkeep.capture.outcome import left_behind_by
from vmkeep.capture.sweep import NOTHING_SAID, Said, Swept, short_id, sweep
from vmkeep.host.hyperv import CheckpointUnidentified
from vmkeep.host.wsman import HostFault

CONVERT_S = 2.0
# Slow enough for a sweep to come meanwhile.
SCENARIO = f"""
title = "A host that converts slowly"

[host]
name = "HV01"
build = 17763

[behaviour]
convert_s = {CONVERT_S}

[[vm]]
name = "{VM}"
[[vm.disk]]
name = "one"
size_mib = 8
used_mib = 2
"""


class Dead(BaseException):
    """Stands for the end of the process: no clean-up of the hold is run."""


class Dying(NotedJournal):
    """A run that is killed right behind a record about its conversion, and writes nothing any more."""

    def __init__(self, last: str = "hold-asked") -> None:
        super().__init__()
        self._last = last
        self._is_dead = False

    def step(self, name: str, detail: Mapping[str, Any]) -> None:
        if self._is_dead:
            raise Dead
        super().step(name, detail)
        self._is_dead = name == self._last and "hold-held" in self.steps
        if self._is_dead:
            raise Dead


@pytest.fixture
def slow_lab(tmp_path: Path) -> Iterator[Lab]:
    with running_lab(SCENARIO, tmp_path / "state") as lab:
        yield lab


@pytest.fixture
def slow_host(slow_lab: Lab) -> Iterator[Doors]:
    with doors(slow_lab.facts, QuickClock(10.0)) as host:
        yield host


def is_at_work(lab: Lab) -> bool:
    return any(job["state"] in (2, 3, 4) for job in lab.control.ask("state")["jobs"])


@pytest.fixture
def dead_journal(slow_lab: Lab, slow_host: Doors) -> NotedJournal:
    """The journal of a run that was killed while the host converts."""
    slow_host.journal = Dying()
    held = slow_host.hold(VM)
    with pytest.raises(Dead):
        held.release(track=True)
    assert slow_host.journal.steps[-2:] == ["hold-releasing", "hold-asked"]
    assert is_at_work(slow_lab), "the host has ended too early for what is to be shown"
    return slow_host.journal


def test_a_sweep_waits_for_the_conversion_of_a_dead_run_and_removes_its_point(
    slow_lab: Lab, slow_host: Doors, dead_journal: NotedJournal
) -> None:
    stranger = Stranger(slow_lab, slow_host.vm(VM).vm.id)
    records = dead_journal.records
    looked = sweep(slow_host.host, records, OWNER, dry_run=True)
    assert (looked[0].what, looked[0].outcome) == ("VM", "left")
    assert "still making a reference point" in looked[0].why
    swept = sweep(slow_host.host, records, OWNER, note=lambda *record: records.append(record))
    assert [(each.what, each.outcome) for each in swept if each.what == "reference point"] == [
        ("reference point", "removed")
    ]
    assert not is_at_work(slow_lab)
    assert (stranger.points, stranger.checkpoints) == ([], [])
    assert all(each.is_clean for each in swept)


def test_a_sweep_that_dies_meanwhile_has_not_made_the_next_one_forget(
    slow_lab: Lab, slow_host: Doors, dead_journal: NotedJournal
) -> None:
    records = dead_journal.records
    with doors(slow_lab.facts, _Killed()) as killed, pytest.raises(Dead):
        sweep(killed.host, records, OWNER, note=lambda *record: records.append(record))
    assert is_at_work(slow_lab)
    sweep(slow_host.host, records, OWNER, note=lambda *record: records.append(record))
    stranger = Stranger(slow_lab, slow_host.vm(VM).vm.id)
    assert (stranger.points, stranger.checkpoints) == ([], [])


class _Killed(QuickClock):
    """The end of the process at its first wait."""

    def sleep(self, seconds: float) -> None:
        raise Dead


def test_a_lost_conversion_that_begins_a_minute_later_leaves_no_point(lab: Lab, host: Doors) -> None:
    stranger = Stranger(lab, host.vm(VM).vm.id)
    before = stranger.points

    def arrive() -> None:  # what was lost on the way gets there after all
        stranger.convert(stranger.checkpoints[-1])

    def lost() -> None:
        lose(lab, "ConvertToReferencePoint", "close before")

    host.journal = Announced({"convert": lost, "destroy": arrive})
    with host.hold(VM) as held:
        released = held.release(track=True)
    assert released.tracking is None
    assert stranger.points == before
    assert host.ours() == []


def test_after_our_own_removal_a_strangers_point_is_not_what_a_conversion_made(
    lab: Lab, host: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = Stranger(lab, host.vm(VM).vm.id)
    lab.control.ask("fail", at="convert-job")

    def deaf(*_: object) -> None:
        raise HostFault("the host does not list them.")

    with monkeypatch.context() as patched:  # nobody learns what came of the conversion
        patched.setattr(claims, "list_surely", deaf)
        with pytest.raises(HostFault) as told, host.hold(VM) as held:
            held.release(track=True)
    assert any("reference point" in each for each in left_behind_by(told.value))
    assert host.ours() == []
    lab.control.ask("push", seconds=400.0)
    theirs = stranger.mark()
    lab.control.ask("push", seconds=400.0)  # the host forgets who made it
    swept = sweep(host.host, host.journal.records, OWNER)
    assert theirs in stranger.points
    assert [short_id(each.id) for each in swept if each.is_asked] == [theirs.lower()]
    stranger.remove(point=theirs)


def die_converting(host: Doors, last: str) -> None:
    host.journal = Dying(last)
    held = host.hold(VM)
    with pytest.raises(Dead):
        held.release(track=True)
    held._close_own()


def test_a_question_is_asked_again_by_the_next_sweep_until_it_is_answered(lab: Lab, host: Doors) -> None:
    stranger = Stranger(lab, host.vm(VM).vm.id)
    lab.control.ask("fail", at="convert-job")
    die_converting(host, "hold-asked")
    made = stranger.mark()  # as if the conversion that failed had made it
    lab.control.ask("push", seconds=400.0)  # the host forgets its jobs
    records = host.journal.records

    def swept(said: Said = NOTHING_SAID) -> tuple[Swept, ...]:
        return sweep(host.host, records, OWNER, note=lambda *record: records.append(record), said=said)

    for _ in range(3):
        asked = [short_id(each.id) for each in swept() if each.is_asked]
        assert asked == [made.lower()]
    assert all(each.is_clean for each in swept(Said.of([made], [])))
    assert made not in stranger.points


def test_a_conversion_that_arrives_as_a_sweep_dies_is_asked_about_by_the_next(lab: Lab, host: Doors) -> None:
    stranger = Stranger(lab, host.vm(VM).vm.id)
    before = stranger.points
    die_converting(host, "hold-releasing")
    checkpoint = stranger.checkpoints[-1]
    records = host.journal.records

    def note(step: str, detail: Mapping[str, Any]) -> None:
        records.append((step, detail))
        if detail.get("how") == "destroy":
            stranger.convert(checkpoint)  # the run's own call, lost on its way, arrives
            raise Dead

    with pytest.raises(Dead):
        sweep(host.host, records, OWNER, note=note)
    (made,) = set(stranger.points) - set(before)
    swept = sweep(host.host, records, OWNER, note=lambda *record: records.append(record))
    assert [short_id(each.id) for each in swept if each.is_asked] == [made.lower()]
    stranger.remove(point=made)


@pytest.mark.parametrize("effect", [None, "fault after", "close after"])
def test_a_removal_of_ours_whose_answer_says_nothing_makes_no_strangers_point_ours(
    lab: Lab, host: Doors, effect: str | None
) -> None:
    stranger = Stranger(lab, host.vm(VM).vm.id)
    lab.control.ask("fail", at="convert-job")
    die_converting(host, "hold-asked")
    theirs = stranger.mark()
    lab.control.ask("push", seconds=400.0)  # the host forgets its jobs
    if effect is not None:
        lab.control.ask("disturb", effect=effect, action="DestroySnapshot", code=0x800706BE)
    records = host.journal.records
    for _ in range(2):
        swept = sweep(host.host, records, OWNER, note=lambda *record: records.append(record))
        assert [short_id(each.id) for each in swept if each.is_asked] == [theirs.lower()]
    assert host.ours() == []
    stranger.remove(point=theirs)


def test_a_point_that_no_job_names_is_asked_about_when_the_conversion_failed(lab: Lab, host: Doors) -> None:
    stranger = Stranger(lab, host.vm(VM).vm.id)
    before = stranger.points
    lab.control.ask("fail", at="convert-late")
    with pytest.raises(CheckpointUnidentified) as told, host.hold(VM) as held:
        held.release(track=True)
    (made,) = set(stranger.points) - set(before)
    (left,) = left_behind_by(told.value)
    assert made in left
    assert host.ours() == []
    swept = sweep(host.host, host.journal.records, OWNER, said=Said.of([made], []))
    assert all(each.is_clean for each in swept)
    assert stranger.points == before


def let_it_convert(stranger: Stranger, host: Doors, died: str) -> None:
    """Let a run die around its conversion, which the host carries out, or never hears of."""
    die_converting(host, "hold-asked" if died == "with an answer" else "hold-releasing")
    if died == "without an answer":
        stranger.convert(stranger.checkpoints[-1])  # the run's own call, whose answer nobody heard


@pytest.mark.parametrize("effect", ["fault", "close before"])
@pytest.mark.parametrize("died", ["with an answer", "without an answer", "before the call"])
def test_a_sweep_that_is_disturbed_anywhere_concludes_nothing_wrong(
    lab: Lab, host: Doors, died: str, effect: str
) -> None:
    stranger = Stranger(lab, host.vm(VM).vm.id)
    records: list[tuple[str, Mapping[str, Any]]] = []

    def note(step: str, detail: Mapping[str, Any]) -> None:
        records.append((step, detail))

    for after in range(0, 40, 2):
        before = stranger.points
        host.journal = NotedJournal()
        let_it_convert(stranger, host, died)
        lab.control.ask("push", seconds=400.0)  # the host forgets its jobs
        records[:] = host.journal.records
        lab.control.ask("disturb", effect=effect, code=0x800706BE, after=after, times=2)
        for _ in range(9):  # a point cannot be removed while the host still merges
            swept = sweep(host.host, records, OWNER, note=note)
            lab.control.ask("calm")
            if not any(each.outcome == "failed" for each in swept):
                break
        left = {point.lower() for point in set(stranger.points) - set(before)}
        assert left == {short_id(each.id) for each in swept if each.is_asked}, (after, swept)
        assert host.ours() == [], after
        for point in left:
            stranger.remove(point=point)


class AnnouncedToConvert(NotedJournal):
    """Somebody does something as soon as the host has taken the conversion and ended it."""

    def __init__(self, action: Callable[[], None]) -> None:
        super().__init__()
        self._action = action

    def step(self, name: str, detail: Mapping[str, Any]) -> None:
        super().step(name, detail)
        if name == "hold-asked" and "hold-held" in self.steps:
            self._action()


def test_a_new_point_beside_our_checkpoint_may_be_what_a_failed_conversion_made(
    lab: Lab, host: Doors
) -> None:
    stranger = Stranger(lab, host.vm(VM).vm.id)
    made: list[str] = []

    def meanwhile() -> None:
        made.append(stranger.mark())
        lab.control.ask("push", seconds=400.0)  # nobody can tell any more who made it

    lab.control.ask("fail", at="convert-job")
    host.journal = AnnouncedToConvert(meanwhile)
    with pytest.raises(CheckpointUnidentified) as told, host.hold(VM) as held:
        held.release(track=True)
    assert any(made[0] in each for each in left_behind_by(told.value))
    assert host.journal.steps[-1] != "hold-released"
    assert host.ours() == []
    stranger.remove(point=made[0])


@pytest.mark.parametrize("how", ["lost", "busy", "fault"])
def test_a_removal_that_fails_for_a_moment_is_tried_again(lab: Lab, host: Doors, how: str) -> None:
    with pytest.raises(ValueError, match="something else") as told, host.hold(VM):
        if how == "lost":
            lose(lab, "DestroySnapshot", "close before")
        elif how == "busy":
            lab.control.ask("fail", at="destroy-call", code=32775)
        else:
            lab.control.ask("disturb", effect="fault", action="DestroySnapshot", code=0x800706BE)
        raise ValueError("something else")
    assert left_behind_by(told.value) == ()
    assert host.ours() == []
