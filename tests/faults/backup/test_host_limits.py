"""Space and time run out while a VM is held, here or on the host: it is let go, and nothing counts."""

import threading
from collections.abc import Callable, Iterator

import pytest

from tests.faults.stores import FaultyStore
from tests.host_runs import SCENARIO, Host, HostState, Meeting, RunClock, host_of, says
from tests.lab_process import Lab, running_lab
from tests.repositories import reopen
from vmkeep.backup.host_run import VmResult, choose, run_host, worst
from vmkeep.backup.vm_run import HostWish, Told
from vmkeep.capture.errors import HoldLimitReached
from vmkeep.capture.limits import HoldLimits
from vmkeep.errors import ExitCode
from vmkeep.host.hyperv import VmBusy, take_inventory
from vmkeep.objectstore.errors import StoreFull
from vmkeep.progress import Silent
from vmkeep.repository.errors import RunAlive


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    with running_lab(SCENARIO, folder / "state") as lab:
        yield lab


@pytest.fixture
def host(lab: Lab) -> Iterator[Host]:
    with host_of(lab) as host:
        yield host
        lab.control.ask("heal")
        lab.control.ask("free", bytes=None)
        host.tidy()


def late(host: Host) -> None:
    host.clock.push(3600.0)


def full(host: Host) -> None:
    host.lab.control.ask("free", bytes=1000)
    host.clock.push(61.0)


@pytest.mark.parametrize("stage", ["reading large", "reading again"])
@pytest.mark.parametrize(
    ("worsen", "limit", "named"), [(late, "deadline", "held for"), (full, "free space", "free")]
)
def test_a_limit_that_is_reached_ends_the_run_with_3_and_nothing_left(
    lab: Lab, host: Host, stage: str, worsen: Callable[[Host], None], limit: str, named: str
) -> None:
    meeting = Meeting(stage, 1, lambda: worsen(host))
    limits = HoldLimits(max_hold_s=1800.0, free_floor=2000)
    with pytest.raises(HoldLimitReached, match=named) as told:
        host.take("large", progress=meeting, limits=limits)
    assert meeting.met
    assert (told.value.exit_code, told.value.context["limit"]) == (ExitCode.PARTIAL, limit)
    assert "'large'" in told.value.message
    says(told.value)
    assert host.opened().listing().points == ()
    assert host.all_closed("large")
    host.is_clean()
    lab.control.ask("free", bytes=None)
    assert host.take("large", limits=limits).exit_code is ExitCode.OK
    host.all_hold(1)
    host.is_clean("large")


def test_the_deadline_holds_while_what_was_taken_over_is_compared(host: Host) -> None:
    host.take("off")
    # By then what was read is compared: a few files in one piece. The rest is what was not read.
    meeting = Meeting("reading again", 3, lambda: late(host))
    limits = HoldLimits(max_hold_s=1800.0, free_floor=0)
    with pytest.raises(HoldLimitReached):
        host.take("off", progress=meeting, limits=limits, reread=1.0)
    assert meeting.met
    host.is_clean("off")
    outcome = host.take("off", limits=limits, reread=1.0)
    assert (outcome.exit_code, outcome.plan.increment) == (ExitCode.OK, "rct")
    host.all_hold(2)


def test_the_deadline_holds_where_the_pace_lets_nothing_pass(host: Host) -> None:
    """At 64 KiB a second the next piece of progress, a leaf of 4 MiB, is a minute away."""
    limits = HoldLimits(max_hold_s=5.0, free_floor=0)
    with pytest.raises(HoldLimitReached) as told:
        host.take("large", limits=limits, limit_read=64 << 10)
    assert 5.0 <= told.value.context["held_s"] < 7.0  # type: ignore[operator]
    assert host.all_closed("large")
    host.is_clean()


@pytest.mark.parametrize(
    ("method", "is_first"), [("GetVirtualHardDiskSettingData", True), ("GetVirtualDiskChanges", False)]
)
def test_the_deadline_ends_the_wait_for_an_answer_of_the_host(
    lab: Lab, host: Host, method: str, is_first: bool
) -> None:
    if not is_first:
        host.take("off")
    pushed: list[float] = []

    def is_held() -> bool:
        return any(c["name"].startswith("vmkeep ") for c in HostState(lab).state("off")["checkpoints"])

    def push_in_the_middle() -> None:
        asked = -1
        while not is_held() or host.doors.host.client.requests != asked:
            asked = host.doors.host.client.requests
            if ended.wait(0.5):
                return
        host.clock.push(3600.0)
        pushed.append(host.clock.monotonic())

    def delay() -> None:
        lab.control.ask("disturb", effect="delay", action=method, seconds=60.0)
        pusher.start()

    ended, pusher = threading.Event(), threading.Thread(target=push_in_the_middle)
    meeting = Meeting("off: create the checkpoint", 0, delay)
    limits = HoldLimits(max_hold_s=1800.0, free_floor=0)
    try:
        with pytest.raises(HoldLimitReached, match="held for") as told:
            host.take("off", progress=meeting, limits=limits)
        let_go = host.clock.monotonic()
    finally:
        ended.set()
        pusher.join()
        lab.control.ask("calm")
    assert told.value.exit_code is ExitCode.PARTIAL
    # The checkpoint is removed and merged by then, too.
    assert let_go - pushed[0] < 10.0
    assert host.all_closed("off")
    host.is_clean(*["off"] * (not is_first))


@pytest.mark.parametrize("room", [20_000, 3_000_000])
def test_a_repository_that_fills_up_leaves_nothing_on_the_host(host: Host, room: int) -> None:
    first = host.take("web")
    host.step("web")
    store = FaultyStore(host.repository.store).fill_after(room)
    with pytest.raises(StoreFull) as told:
        host.take("large", store=store)
    says(told.value)
    host.is_clean("web")
    host.clock.later(hours=1)  # the journal could not be closed either
    outcome = host.take("large")
    assert outcome.exit_code is ExitCode.OK
    assert host.all_closed("large")
    host.all_hold(2)
    host.holds(first.sealed)
    host.is_clean("web", "large")


def test_a_second_run_of_a_vm_gives_way_while_the_first_reads(lab: Lab, host: Host) -> None:
    refused: list[RunAlive] = []

    def second() -> None:
        with host_of(lab, host.clock) as other:  # a connection is for one run
            other.repository = host.repository
            with pytest.raises(RunAlive) as told:
                other.take("large")
            refused.append(told.value)
            other.take("off")

    meeting = Meeting("reading large", 1, second)
    outcome = host.take("large", progress=meeting)
    (error,) = refused
    assert error.exit_code is ExitCode.BUSY
    says(error)
    assert outcome.exit_code is ExitCode.OK
    host.all_hold(2)
    host.is_clean("large", "off")


def test_a_vm_that_another_run_has_waits_behind_the_others(lab: Lab, host: Host) -> None:
    ended: list[VmResult] = []
    waited: list[tuple[str, str]] = []
    told = Told(waiting=lambda vm, why: waited.append((vm.name, why)))

    def second() -> None:
        with host_of(lab, RunClock(speed=2000.0)) as other:
            chosen = choose(take_inventory(other.doors.host), ["large", "off"], every=False)
            with reopen(host.repository, clock=other.clock) as repository:
                run_host(
                    other.doors,
                    chosen,
                    HostWish(),
                    repository,
                    other.clock,
                    Silent(),
                    ended.append,
                    told=told,
                )

    meeting = Meeting("reading large", 1, second)
    assert host.take("large", progress=meeting).exit_code is ExitCode.OK
    assert [(result.vm.name, result.exit_code) for result in ended] == [
        ("off", ExitCode.OK),
        ("large", ExitCode.BUSY),
    ]
    assert isinstance(ended[1].error, RunAlive)
    ((name, why),) = waited
    assert name == "large" and "another run" in why
    host.all_hold(2)
    host.is_clean("large", "off")


def test_a_vm_the_host_is_busy_with_waits_behind_the_others(lab: Lab, host: Host) -> None:
    lab.control.ask("fail", vm="web", at="create-call", code=32775)
    chosen = choose(take_inventory(host.doors.host), ["web", "off"], every=False)
    ended: list[VmResult] = []
    waited: list[str] = []
    told = Told(waiting=lambda vm, why: waited.append(vm.name))
    with host.opened() as repository:
        run_host(host.doors, chosen, HostWish(), repository, host.clock, Silent(), ended.append, told=told)
    assert [(result.vm.name, result.exit_code) for result in ended] == [
        ("off", ExitCode.OK),
        ("web", ExitCode.OK),
    ]
    assert waited == ["web"]
    assert host.all_closed("web")
    host.all_hold(2)
    host.is_clean("web", "off")


@pytest.mark.parametrize(("times", "is_taken"), [(3, True), (1000, False)])
def test_a_host_too_busy_for_a_checkpoint_is_asked_again_for_a_while(
    lab: Lab, host: Host, times: int, is_taken: bool
) -> None:
    lab.control.ask("fail", vm="web", at="create-call", code=32775, times=times)
    began = host.clock.monotonic()
    if is_taken:
        assert host.take("web").exit_code is ExitCode.OK
    else:
        with pytest.raises(VmBusy, match="32775") as told:
            host.take("web")
        says(told.value)
        assert 100.0 < host.clock.monotonic() - began < 300.0
    assert host.all_closed("web")
    host.all_hold(int(is_taken))
    host.is_clean(*["web"] * is_taken)


def test_one_vm_that_reaches_its_limit_never_stops_the_others(lab: Lab, host: Host) -> None:
    chosen = choose(take_inventory(host.doors.host), ["web", "large", "off"], every=False)
    meeting = Meeting("reading large", 1, lambda: late(host))
    wish = HostWish(limits=HoldLimits(max_hold_s=1800.0, free_floor=0))
    told: list[str] = []
    with host.opened() as repository:
        results = run_host(
            host.doors, chosen, wish, repository, host.clock, meeting, lambda each: told.append(each.vm.name)
        )
    assert told == ["web", "large", "off"]
    assert [result.exit_code for result in results] == [ExitCode.OK, ExitCode.PARTIAL, ExitCode.OK]
    assert worst(results) is ExitCode.PARTIAL
    host.all_hold(2)
    host.is_clean("web", "off")
