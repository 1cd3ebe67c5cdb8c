"""The journal keeps runs of one VM apart, tells dead from alive, and survives what a store does to it."""

import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from tests.clocks import FakeClock
from tests.faults.stores import CountingStore, FaultyStore, Request, WrappedStore
from tests.repositories import OTHER_VM, VM, make_repository, names
from vmkeep.errors import Retry
from vmkeep.objectstore.errors import ObjectUnreadable, StoreUnavailable
from vmkeep.objectstore.memory import MemoryStore
from vmkeep.objectstore.store import Store
from vmkeep.repository import owners as owners_module
from vmkeep.repository.box import close_box, open_box
from vmkeep.repository.errors import RunAlive, RunBuried, Tampered
from vmkeep.repository.journal import FINISHED, LEASE, PUBLISHING, Journal, read_record, read_runs
from vmkeep.repository.keys import KeyRing
from vmkeep.repository.owners import owner_is_gone, this_process
from vmkeep.repository.points import Points

pytestmark = pytest.mark.quick


class World:
    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.store = MemoryStore(clock)
        self.ring: KeyRing = make_repository(self.store, clock).ring
        self._runs = itertools.count(1)

    def journal(self, store: Store | None = None, run: str = "", clock: FakeClock | None = None) -> Journal:
        run = run or f"{next(self._runs):032x}"
        return Journal(store or self.store, self.ring, clock or self.clock, VM, run)

    def runs(self) -> dict[str, list[str]]:
        return {
            records[0].run: [record.step for record in records]
            for records in read_runs(self.store, self.ring, VM.id)
        }


@pytest.fixture
def world(fake_clock: FakeClock) -> World:
    return World(fake_clock)


def test_steps_are_written_before_they_are_taken(world: World) -> None:
    journal = world.journal()
    assert journal.begin({"source": "x"}) == []
    journal.step("holding", {"checkpoint": "c"})
    journal.finish({"outcome": "sealed"})
    (records,) = read_runs(world.store, world.ring, VM.id)
    assert [(r.number, r.step) for r in records] == [
        (0, "begun"),
        (1, "claimed"),
        (2, "holding"),
        (3, FINISHED),
    ]
    assert records[0].detail == {"source": "x"} and records[2].detail == {"checkpoint": "c"}
    assert {r.vm for r in records} == {VM}
    assert {r.lease - r.time for r in records} == {LEASE}
    assert records[0].owner == this_process()
    folder = f"runs/{world.ring.vm_key(VM.id)}/{journal.run}/"
    assert names(world.store, "runs/") == [f"{folder}{n:06}" for n in range(4)]
    session = f"sessions/{journal.run}"
    assert journal.run in open_box(world.ring, session, world.store.get(session)).decode()


def test_second_run_gives_way_while_the_first_lives(world: World) -> None:
    first, second = world.journal(), world.journal()
    first.begin({})
    world.clock.advance(60)
    with pytest.raises(RunAlive) as caught:
        second.begin({})
    assert caught.value.context["run"] == first.run
    assert VM.name in caught.value.message
    assert world.runs() == {first.run: ["begun", "claimed"], second.run: ["begun", FINISHED]}
    first.finish({})
    assert world.journal().begin({}) == []


def test_run_of_another_vm_is_no_matter(world: World) -> None:
    world.journal().begin({})
    other = Journal(world.store, world.ring, world.clock, OTHER_VM, "ff" * 16)
    assert other.begin({}) == []


class _Before(WrappedStore):
    """Does something right before the first request of one verb."""

    def __init__(self, verb: str, inner: Store, other: Callable[[], None]) -> None:
        super().__init__(inner)
        self._verb = verb
        self._other: Callable[[], None] | None = other

    def around(self, request: Request, call: Callable[[], Any]) -> Any:
        if request.verb == self._verb and self._other is not None:
            other, self._other = self._other, None
            other()
        return super().around(request, call)


@pytest.mark.parametrize("seconds", [-60, 0, 60])
@pytest.mark.parametrize("swap", [False, True])
def test_of_two_runs_at_once_exactly_one_goes_on(world: World, seconds: int, swap: bool) -> None:
    # Both have written before either looked; their clocks may differ.
    ids = ["a" * 32, "b" * 32]
    if swap:
        ids.reverse()
    outcomes: dict[str, bool] = {}

    def begin(journal: Journal) -> None:
        try:
            journal.begin({})
            outcomes[journal.run] = True
        except RunAlive:
            outcomes[journal.run] = False

    clock = FakeClock(world.clock.now() + timedelta(seconds=seconds))
    second = world.journal(run=ids[1], clock=clock)
    first = world.journal(_Before("list", world.store, lambda: begin(second)), run=ids[0])
    begin(first)
    # The second had claimed the VM before the first looked, whatever the clocks and ids say.
    assert outcomes == {ids[0]: False, ids[1]: True}


@pytest.mark.parametrize("at", range(1, 7))
@pytest.mark.parametrize("seconds", [-60, 60])
def test_never_do_two_runs_go_on(world: World, at: int, seconds: int) -> None:
    # The other run begins and goes as far as it can before each single request of this one.
    outcomes: list[bool] = []

    def begin(journal: Journal) -> None:
        try:
            journal.begin({})
            outcomes.append(True)
        except RunAlive:
            outcomes.append(False)

    clock = FakeClock(world.clock.now() + timedelta(seconds=seconds))
    second = world.journal(run="b" * 32, clock=clock)

    class Interleaved(WrappedStore):
        requests = 0

        def around(self, request: Request, call: Callable[[], Any]) -> Any:
            self.requests += 1
            if self.requests == at:
                begin(second)
            return super().around(request, call)

    begin(world.journal(Interleaved(world.store), run="a" * 32))
    assert sum(outcomes) == 1


@pytest.mark.parametrize("mine", ["a" * 32, "c" * 32])
def test_of_two_that_claimed_unseen_the_smaller_id_waits_and_the_greater_gives_way(
    world: World, mine: str
) -> None:
    # `docs/format.md` section 11: only the second look may wait, and only for a greater id.
    other = world.journal(run="b" * 32)

    class ClaimsMeanwhile(WrappedStore):
        def around(self, request: Request, call: Callable[[], Any]) -> Any:
            if request.verb.startswith("put") and request.name.endswith(f"{mine}/000001"):
                other.step("begun")  # after this run's first look, before its own claim
                other.step("claimed")
            return super().around(request, call)

    class Waiting(FakeClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if len(self.slept) == 3:
                other.finish({"outcome": "gave way"})

    clock = Waiting(world.clock.now())
    journal = world.journal(ClaimsMeanwhile(world.store), run=mine, clock=clock)
    if mine < other.run:
        assert journal.begin({}) == []
        assert len(clock.slept) == 3, "it goes on as soon as the other is gone"
        assert world.runs()[mine] == ["begun", "claimed"]
        return
    with pytest.raises(RunAlive) as caught:
        journal.begin({})
    assert caught.value.context["run"] == other.run
    assert (clock.slept, world.runs()[mine]) == ([], ["begun", "claimed", FINISHED])


def test_run_under_way_is_not_overtaken_by_a_slow_clock(world: World) -> None:
    first = world.journal()
    first.begin({})
    first.step("holding")
    behind = FakeClock(world.clock.now() - timedelta(minutes=5))
    with pytest.raises(RunAlive):
        world.journal(clock=behind).begin({})


def test_expired_run_is_handed_over_with_its_records(world: World) -> None:
    dead = world.journal()
    dead.begin({"source": "x"})
    dead.step("holding", {"checkpoint": "left behind"})
    world.clock.advance(LEASE.total_seconds() + 1)
    journal = world.journal()
    ((begun, claimed, holding),) = journal.begin({})
    assert (begun.run, holding.detail) == (dead.run, {"checkpoint": "left behind"})
    journal.bury([begun, claimed, holding])
    journal.finish({})
    assert world.runs()[dead.run] == ["begun", "claimed", "holding", FINISHED]
    assert world.journal().begin({}) == []


def test_run_that_wakes_up_after_it_was_buried_cannot_go_on(world: World) -> None:
    sleeper = world.journal()
    sleeper.begin({})
    world.clock.advance(LEASE.total_seconds() + 1)
    journal = world.journal()
    for records in journal.begin({}):
        journal.bury(records)
    with pytest.raises(RunBuried) as caught:
        sleeper.step("releasing")
    assert caught.value.context == {"run": sleeper.run, "by": journal.run}


def test_what_a_sweep_adds_ends_a_runs_writing_and_lends_it_no_life(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper = world.journal()
    sleeper.begin({})
    world.clock.advance(LEASE.total_seconds() + 1)
    sweeping = world.journal()
    (records,) = sweeping.begin({})
    added = sweeping.add_to(records, "holding", {"checkpoint": "left behind"})
    assert (added.run, added.number, added.step) == (sleeper.run, 2, "holding")
    assert added.detail == {"checkpoint": "left behind", "found by": sweeping.run}
    with pytest.raises(RunBuried) as caught:
        sleeper.step("releasing")
    assert caught.value.context == {"run": sleeper.run, "by": sweeping.run}
    sweeping.finish({})
    # The next one, at once and on another machine, finds the run as dead as before, and all of its records.
    monkeypatch.setattr(owners_module, "_boot_id", lambda: "another start")
    later = world.journal()
    ((*_, last),) = later.begin({})
    assert last == added
    with pytest.raises(RunAlive):
        later.bury(records)  # somebody has written since
    later.bury([*records, added])
    assert world.runs()[sleeper.run] == ["begun", "claimed", "holding", FINISHED]


def test_a_run_is_not_cut_off_before_its_lease_ends_by_a_twin_of_its_machine(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machines made from one image share name and /etc/machine-id; only their starts differ."""
    run = world.journal()
    run.begin({})
    monkeypatch.setattr(owners_module, "_boot_id", lambda: "the twin's")
    with pytest.raises(RunAlive):
        world.journal().begin({})
    run.step("writing")


@pytest.mark.parametrize("ahead", [timedelta(days=1), timedelta(days=1000)])
def test_a_run_that_died_while_the_stores_clock_was_ahead_blocks_nobody(
    world: World, ahead: timedelta
) -> None:
    right = world.clock.now()
    world.clock.set_now(right + ahead)
    _written_by(world, this_process() | {"host": "another-machine", "boot": "another"})
    world.clock.set_now(right)
    ((begun, claimed),) = world.journal().begin({})
    assert (begun.step, claimed.step) == ("begun", "claimed")


def test_whoever_buries_voids_the_point_that_was_to_come(world: World) -> None:
    # Also of a process that is known to be gone: what is certain here may be wrong.
    name = f"points/{world.ring.vm_key(VM.id)}/20260101T000000Z-{'ab' * 16}"
    _written_by(world, this_process() | {"pid": _dead_pid(), "start": "1"}, {PUBLISHING: {"point": name}})
    journal = world.journal()
    for records in journal.begin({}):
        journal.bury(records)
    assert Points(world.store, world.ring).seal_state(name, None) == "void"
    assert not Points(world.store, world.ring).seal(name, bytes(32), world.clock.now())


class _Unreadable(WrappedStore):
    """Cannot read one object, so many times."""

    def __init__(self, inner: Store, name: str) -> None:
        super().__init__(inner)
        self.name = name
        self.times = 0

    def get(self, name: str) -> bytes:
        if name == self.name and self.times:
            self.times -= 1
            raise ObjectUnreadable("the disk has a bad sector there.")
        return super().get(name)


def test_a_record_the_store_cannot_read_for_a_moment_is_read_again(world: World) -> None:
    name = f"points/{world.ring.vm_key(VM.id)}/20260101T000000Z-{'ab' * 16}"
    _written_by(world, this_process() | {"boot": "another"}, {PUBLISHING: {"point": name}, "sealing": {}})
    world.clock.advance(LEASE.total_seconds())
    store = _Unreadable(world.store, f"runs/{world.ring.vm_key(VM.id)}/{'ee' * 16}/000002")
    journal = world.journal(store)
    (records,) = journal.begin({})
    store.times = 2
    journal.bury(records)
    assert store.times == 0
    assert Points(world.store, world.ring).seal_state(name, None) == "void"


class _DropsOut(WrappedStore):
    """Reads a folder's objects a few times, then none of them, for so many reads."""

    def __init__(self, inner: Store, folder: str, after: int, times: int) -> None:
        super().__init__(inner)
        self.folder, self.after, self.times = folder, after, times

    def get(self, name: str) -> bytes:
        if name.startswith(self.folder):
            self.after -= 1
            if self.after < 0 and self.times:
                self.times -= 1
                raise ObjectUnreadable("the share has dropped out.")
        return super().get(name)


@pytest.mark.parametrize("how", ["look", "begin"])
@pytest.mark.parametrize(("times", "numbers"), [(5, [0, 1, 2, 3, 4]), (1000, [4])], ids=["a moment", "long"])
def test_a_dead_run_is_known_by_the_record_that_could_be_read_of_it(
    world: World, how: str, times: int, numbers: list[int]
) -> None:
    _written_by(world, this_process() | {"boot": "another"}, {"one": {}, "two": {}, "three": {}})
    world.clock.advance(LEASE.total_seconds())
    folder = f"runs/{world.ring.vm_key(VM.id)}/{'ee' * 16}/"
    # A run that begins has looked at all of it once before, and then looks at the last one first.
    store = _DropsOut(world.store, folder, 1 if how == "look" else 1 + 5 + 1, times)
    journal = world.journal(store)
    (records,) = journal.look()[0] if how == "look" else journal.begin({})
    assert [record.number for record in records] == numbers


def test_lease_counts_to_the_second(world: World) -> None:
    world.journal().begin({})
    world.clock.advance(LEASE.total_seconds() - 1)
    with pytest.raises(RunAlive):
        world.journal().begin({})
    world.clock.advance(1)
    assert len(world.journal().begin({})) == 1


def test_renewals_keep_a_run_alive_and_are_rare(world: World) -> None:
    long = world.journal()
    long.begin({})
    long.step("writing", {"disk": "a"})
    for _ in range(40):
        world.clock.advance(150)
        for _ in range(3):
            long.renew()
        with pytest.raises(RunAlive):
            world.journal().begin({})
    (records,) = [r for r in read_runs(world.store, world.ring, VM.id) if r[0].run == long.run]
    renewals = records[3:]
    assert {r.step for r in renewals} == {"writing"}
    # 100 minutes; a third of the lease is ten.
    assert len(renewals) in range(7, 11)


def test_a_clock_that_is_ahead_takes_nobody_for_dead(world: World) -> None:
    first = world.journal()
    first.begin({})
    ahead = FakeClock(world.clock.now() + timedelta(hours=2))
    with pytest.raises(RunAlive):
        world.journal(clock=ahead).begin({})
    first.step("holding")
    # Nor does it keep a dead one alive: the store's clock tells.
    world.clock.advance(LEASE.total_seconds())
    behind = FakeClock(world.clock.now() - timedelta(hours=2))
    assert [records[0].run for records in world.journal(clock=behind).begin({})] == [first.run]


def test_a_run_somebody_works_on_is_alive_whatever_its_lease_says(world: World) -> None:
    first = world.journal()
    first.begin({})
    with first.kept():
        world.clock.advance(2 * LEASE.total_seconds())
        with pytest.raises(RunAlive):
            world.journal().begin({})
    assert len(world.journal().begin({})) == 1


class _Told(WrappedStore):
    """Tells when a journal record was written."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.written = threading.Event()

    def around(self, request: Request, call: Callable[[], Any]) -> Any:
        result = super().around(request, call)
        if request.name.startswith("runs/") and request.verb.startswith("put"):
            self.written.set()
        return result


def test_the_lease_is_renewed_while_the_work_stands_still(world: World) -> None:
    store = _Told(world.store)
    journal = world.journal(store)
    journal.begin({})
    journal.step("writing")
    with journal.kept(every_s=0.001):
        for _ in range(5):  # one read that takes more than an hour
            store.written.clear()
            world.clock.advance(LEASE.total_seconds() / 2)
            assert store.written.wait(60)
        journal.finish({})
        store.written.clear()
        world.clock.advance(LEASE.total_seconds())
    steps = world.runs()[journal.run]
    assert steps == ["begun", "claimed", *["writing"] * 6, FINISHED]


def _cut_off(world: World, run: str) -> None:
    """Bury a run as somebody would who takes it for dead."""
    (records,) = [r for r in read_runs(world.store, world.ring, VM.id) if r[0].run == run]
    world.journal(run="dd" * 16).bury(records)


def test_a_buried_run_that_works_on_hears_of_it(world: World) -> None:
    journal = world.journal()
    journal.begin({})
    with journal.kept():
        _cut_off(world, journal.run)
        journal.renew()  # nothing to renew yet
        world.clock.advance(LEASE.total_seconds() / 2)
        with pytest.raises(RunBuried, match=VM.name) as caught:
            journal.renew()
    assert caught.value.retry is Retry.LATER and caught.value.hint
    for _ in range(2):
        with pytest.raises(RunBuried):
            journal.step("publishing")
    assert world.runs()[journal.run] == ["begun", "claimed", FINISHED]


@pytest.mark.parametrize("done", [True, False], ids=["reply lost", "request lost"])
def test_no_number_is_left_out_behind_which_a_buried_run_could_go_on(world: World, done: bool) -> None:
    store = FaultyStore(world.store)
    (store.lose_reply if done else store.fail)("put_if_absent", 3, prefix="runs/")
    journal = world.journal(store)
    journal.begin({})
    with pytest.raises(StoreUnavailable):
        journal.step("one")
    _cut_off(world, journal.run)
    with pytest.raises(RunBuried):
        journal.step("one")


def test_a_run_that_goes_on_meanwhile_is_not_buried(world: World) -> None:
    journal = world.journal()
    journal.begin({})
    (records,) = read_runs(world.store, world.ring, VM.id)
    journal.step("next")
    with pytest.raises(RunAlive):
        world.journal().bury(records)
    (late,) = read_runs(world.store, world.ring, VM.id)
    with pytest.raises(RunAlive):
        # Its next record comes between the look and the burial.
        world.journal(_Before("put_if_absent", world.store, lambda: journal.step("more"))).bury(late)
    assert world.runs()[journal.run] == ["begun", "claimed", "next", "more"]


def test_finished_runs_cost_one_request_each_however_many_records_they_have(world: World) -> None:
    for _ in range(40):
        earlier = world.journal()
        earlier.begin({})
        for step in ("writing", "publishing"):
            earlier.step(step)
        earlier.finish({})
    counted = CountingStore(world.store)
    assert world.journal(counted).begin({}) == []
    assert counted.requests["get"] <= 40
    assert counted.requests["head"] == 0
    assert counted.requests["list"] == 2


@pytest.mark.parametrize("done", [True, False], ids=["reply lost", "request lost"])
def test_store_that_stutters_does_not_end_the_journal(world: World, done: bool) -> None:
    store = FaultyStore(world.store)
    (store.lose_reply if done else store.fail)("put_if_absent", 4, prefix="runs/")
    journal = world.journal(store)
    journal.begin({})
    journal.step("one")
    with pytest.raises(StoreUnavailable):
        journal.step("two")
    journal.step("two")
    journal.finish({})
    steps = world.runs()[journal.run]
    assert steps == ["begun", "claimed", "one", *(["two"] if done else []), "two", FINISHED]
    assert world.journal().begin({}) == []


# --- whose process -------------------------------------------------------------------------


def _written_by(
    world: World, owner: dict[str, Any], further: Mapping[str, dict[str, Any]] = MappingProxyType({})
) -> None:
    """Put the first records of a run of another process: two, and ``further`` ones (step and detail)."""
    now = world.clock.now()
    steps = {"begun": {}, "claimed": {}, **further}
    for number, (step, detail) in enumerate(steps.items()):
        fields = {
            "version": 1, "run": "ee" * 16, "vm": {"id": VM.id, "name": VM.name}, "number": number,
            "step": step, "time": now.isoformat(), "lease": (now + LEASE).isoformat(), "owner": owner,
            "detail": detail,
        }  # fmt: skip
        name = f"runs/{world.ring.vm_key(VM.id)}/{'ee' * 16}/{number:06}"
        world.store.put(name, close_box(world.ring, name, json.dumps(fields).encode()))
    world.clock.advance(1)


def _dead_pid() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        return child.pid


def test_dead_process_of_this_machine_is_dead_at_once(world: World) -> None:
    _written_by(world, this_process() | {"pid": _dead_pid(), "start": "1"})
    assert len(world.journal().begin({})) == 1


def _started(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]  # proc(5), field 22


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_living_process_of_this_machine_outlives_its_lease(
    world: World, child: subprocess.Popen[bytes]
) -> None:
    _written_by(world, this_process() | {"pid": child.pid, "start": _started(child.pid)})
    world.clock.advance(10 * LEASE.total_seconds())
    with pytest.raises(RunAlive):
        world.journal().begin({})
    child.kill()
    # Killed, and nobody has asked for its exit status: it still has its number.
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert len(world.journal().begin({})) == 1


def test_reused_process_number_is_another_process(world: World) -> None:
    _written_by(world, this_process() | {"start": "1"})
    assert len(world.journal().begin({})) == 1


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"boot": "another", "pid": 1 << 22, "start": "1"},
        {"host": "another-machine", "boot": "another"},
        {"namespace": "pid:[1]", "pid": 1 << 22, "start": "1"},
        {"boot": "", "pid": 1 << 22, "start": "1"},
        {},
    ],
    ids=["restarted, or a twin", "another machine", "container", "no boot known", "this very process"],
)
def test_what_cannot_be_known_from_here_counts_as_alive(world: World, elsewhere: dict[str, Any]) -> None:
    _written_by(world, this_process() | elsewhere)
    with pytest.raises(RunAlive):
        world.journal().begin({})
    world.clock.advance(LEASE.total_seconds())
    assert len(world.journal().begin({})) == 1, "only the lease tells"


def test_owner_of_no_known_shape_counts_as_alive() -> None:
    assert not owner_is_gone({})
    assert not owner_is_gone({"host": None, "boot": None})


def test_hidden_process_is_not_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    # /proc mounted with hidepid shows nothing of other users' processes.
    monkeypatch.setattr(owners_module, "_process_start", lambda pid: "")
    assert not owner_is_gone(this_process() | {"start": "12345"})
    assert owner_is_gone(this_process() | {"pid": _dead_pid(), "start": "12345"})


def test_where_no_process_can_be_told_leases_decide_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owners_module, "_boot_id", lambda: "")  # as on Windows
    assert not owner_is_gone(this_process() | {"pid": _dead_pid(), "start": "1"})


# --- what is no record ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b'{"run": 1}', b"\xff", b"null", b"[" * 100_000],
    ids=lambda content: content[:10].decode("latin1"),
)
def test_record_that_is_none_is_named_and_keeps_nobody_out(world: World, content: bytes) -> None:
    name = f"runs/{world.ring.vm_key(VM.id)}/{'ee' * 16}/000000"
    world.store.put(name, close_box(world.ring, name, content))
    with pytest.raises(Tampered, match=name):
        read_record(world.store, world.ring, name)
    assert read_runs(world.store, world.ring, VM.id) == []
    assert world.journal().begin({}) == []


def test_damaged_last_record_of_a_dead_run_does_not_keep_it_from_being_closed(world: World) -> None:
    dead = world.journal()
    dead.begin({})
    dead.step("next")
    world.store.overwrite(names(world.store, "runs/")[-1], b"junk")
    world.clock.advance(LEASE.total_seconds() + 1)
    journal = world.journal()
    (records,) = journal.begin({})
    journal.bury(records)
    assert world.runs()[dead.run] == ["begun", "claimed", FINISHED]


def test_records_swapped_are_named(world: World) -> None:
    journal = world.journal()
    journal.begin({})
    one, two = names(world.store, "runs/")
    first, second = world.store.get(one), world.store.get(two)
    world.store.overwrite(one, second)
    world.store.overwrite(two, first)
    for name in (one, two):
        with pytest.raises(Tampered, match=name):
            read_record(world.store, world.ring, name)
