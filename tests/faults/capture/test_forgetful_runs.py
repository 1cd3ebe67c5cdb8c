"""What a run knows of its own doing it does not forget: nothing of others is taken for what it made."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.faults.capture.test_converting import Dead, die_converting
from tests.faults.capture.test_strangers import VM, Announced, Stranger, lose
from tests.lab_captures import OWNER, Doors, NotedJournal, doors
from tests.lab_process import Lab
from vmkeep.capture.checkpoint import CheckpointHold
from vmkeep.capture.outcome import left_behind_by
from vmkeep.capture.sweep import Swept, short_id, sweep
from vmkeep.errors import VmkeepError
from vmkeep.repository.errors import RunBuried

BROKEN = 0x800706BE
BUSY = 0x80042316  # a fault that means 32774: the removal may run all the same


def swept_quietly(host: Doors) -> tuple[Swept, ...]:
    records = host.journal.records
    return sweep(host.host, records, OWNER, note=lambda *record: records.append(record))


def asked_in(swept: tuple[Swept, ...]) -> list[str]:
    return [short_id(each.id) for each in swept if each.is_asked]


@pytest.mark.parametrize("fails", ["lost", "failed"])
@pytest.mark.parametrize(
    ("effect", "code"), [("fault after", BROKEN), ("close after", 0), ("fault after", BUSY)]
)
def test_a_run_whose_removal_was_not_answered_takes_no_strangers_point_for_its_own(
    lab: Lab, host: Doors, fails: str, effect: str, code: int
) -> None:
    stranger = Stranger(lab, host.vm(VM).vm.id)
    theirs: list[str] = []

    def convert() -> None:
        if fails == "failed":
            lab.control.ask("fail", at="convert-job")
        else:
            lose(lab, "ConvertToReferencePoint", "close before")

    def destroy() -> None:
        theirs.append(stranger.mark())
        lab.control.ask("push", seconds=400.0)  # the host forgets its jobs
        lab.control.ask("disturb", effect=effect, action="DestroySnapshot", code=code)

    host.journal = Announced({"convert": convert, "destroy": destroy})
    with pytest.raises(VmkeepError) as told, host.hold(VM) as held:
        held.release(track=True)
    assert any(theirs[0] in each for each in left_behind_by(told.value))
    assert host.ours() == []
    assert asked_in(swept_quietly(host)) == [theirs[0].lower()]
    stranger.remove(point=theirs[0])


def test_a_sweep_whose_removal_was_answered_with_busy_takes_no_strangers_point_for_the_runs(
    lab: Lab, host: Doors
) -> None:
    stranger = Stranger(lab, host.vm(VM).vm.id)
    lab.control.ask("fail", at="convert-job")
    die_converting(host, "hold-asked")
    theirs = stranger.mark()
    lab.control.ask("push", seconds=400.0)
    lab.control.ask("disturb", effect="fault after", action="DestroySnapshot", code=BUSY)
    assert asked_in(swept_quietly(host)) == [theirs.lower()]
    stranger.remove(point=theirs)


class Then(NotedJournal):
    """A journal in which something happens behind a record, and after which no more can be written."""

    def __init__(self, last: str, happens: Callable[[], None], error: BaseException) -> None:
        super().__init__()
        self._last, self._happens, self._error = last, happens, error
        self._is_over = False

    def step(self, name: str, detail: Mapping[str, Any]) -> None:
        if self._is_over:
            raise self._error
        super().step(name, detail)
        if name == self._last.rpartition(" ")[2] and ("hold-held" in self.steps) == (" " in self._last):
            self._happens()
            self._is_over = True


def nothing() -> None:
    return


def test_between_the_record_and_the_call_nothing_of_others_is_ours(
    lab: Lab, host: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = Stranger(lab, host.vm(VM).vm.id)
    theirs: list[str] = []

    class Meanwhile(NotedJournal):
        def step(self, name: str, detail: Mapping[str, Any]) -> None:
            super().step(name, detail)
            if name == "hold-prepared":
                theirs.append(stranger.hold())
            if name == "hold-asked":
                raise Dead

    before = set(stranger.checkpoints)
    host.journal = Meanwhile()
    with monkeypatch.context() as patched:
        patched.setattr(CheckpointHold, "_clean_failed_creation", lambda *_: None)
        with pytest.raises(Dead):
            host.hold(VM)
    lab.control.ask("push", seconds=1800.0)
    swept = swept_quietly(host)
    assert all(each.is_clean for each in swept), swept
    assert set(stranger.checkpoints) - before == {theirs[0]}
    stranger.remove(checkpoint=theirs[0])


FULL = VmkeepError("no space left on device.")


@pytest.mark.parametrize("how", ["converted", "failed"])
def test_what_cannot_be_written_down_is_not_removed_for_others_to_be_mistaken_for_it(
    lab: Lab, host: Doors, how: str
) -> None:
    stranger = Stranger(lab, host.vm(VM).vm.id)
    before = stranger.points
    if how == "failed":
        lab.control.ask("fail", at="convert-job")
    host.journal = Then("held hold-asked", nothing, FULL)
    with pytest.raises(VmkeepError) as told, host.hold(VM) as held:
        held.release(track=True)
    assert any("cannot be written down" in each for each in left_behind_by(told.value))
    ours = [each for each in stranger.points if each not in before]
    lab.control.ask("push", seconds=7200.0)
    theirs = stranger.mark()  # the other product's daily backup
    lab.control.ask("push", seconds=400.0)
    asked = asked_in(swept_quietly(host))
    assert sorted(asked) == sorted(each.lower() for each in [*ours, theirs])
    assert host.ours() == []
    for point in (*ours, theirs):
        stranger.remove(point=point)


def test_a_checkpoint_whose_removal_cannot_be_written_down_is_left_for_a_sweep(lab: Lab, host: Doors) -> None:
    stranger = Stranger(lab, host.vm(VM).vm.id)
    before = set(stranger.checkpoints)
    host.journal = Then("hold-asked", nothing, FULL)
    with pytest.raises(VmkeepError) as told:
        host.hold(VM)
    assert any("cannot be written down" in each for each in left_behind_by(told.value))
    lab.control.ask("push", seconds=600.0)
    theirs = stranger.hold()
    lab.control.ask("push", seconds=1800.0)
    swept = swept_quietly(host)
    assert set(stranger.checkpoints) - before == {theirs}, swept
    stranger.remove(checkpoint=theirs)


@pytest.mark.parametrize("last", ["hold-asked", "held hold-asked"], ids=["creating", "converting"])
def test_a_run_that_was_buried_while_it_slept_touches_nothing_more(lab: Lab, host: Doors, last: str) -> None:
    stranger = Stranger(lab, host.vm(VM).vm.id)
    before = {*stranger.points, *stranger.checkpoints}
    theirs: list[str] = []

    def sleep() -> None:
        lab.control.ask("push", seconds=600.0)
        records = list(host.journal.records)
        with doors(lab.facts) as other:  # another machine sweeps
            swept = sweep(other.host, records, OWNER, note=lambda *record: records.append(record))
        assert all(each.is_clean for each in swept), swept
        theirs.append(stranger.mark() if "held" in last else stranger.hold())
        lab.control.ask("push", seconds=400.0)

    host.journal = Then(last, sleep, RunBuried("this run was taken for dead."))
    with pytest.raises(RunBuried), host.hold(VM) as held:
        held.release(track=True)
    assert {*stranger.points, *stranger.checkpoints} - before == {theirs[0]}
    stranger.remove(**{"point" if "held" in last else "checkpoint": theirs[0]})


def test_a_creation_that_was_heard_to_fail_explains_no_strangers_checkpoint(lab: Lab, host: Doors) -> None:
    stranger = Stranger(lab, host.vm(VM).vm.id)
    theirs: list[str] = []

    class Failing(NotedJournal):
        def step(self, name: str, detail: Mapping[str, Any]) -> None:
            super().step(name, detail)
            if detail.get("failed"):
                theirs.append(stranger.hold())
                lab.control.ask("push", seconds=400.0)  # the host forgets its jobs

    lab.control.ask("fail", at="create-job", vm=VM)
    host.journal = Failing()
    with pytest.raises(VmkeepError) as told:
        host.hold(VM)
    assert any(theirs[0] in each for each in left_behind_by(told.value))
    assert asked_in(swept_quietly(host)) == [theirs[0].lower()]
    stranger.remove(checkpoint=theirs[0])
