"""A signal at every line of a run that holds a VM: nothing stays on the host, or it is told, and can go.

Python takes a signal between any two lines of its own, and even between two steps of one line. So one is
given at the n-th line, or return, of the modules that hold, release and clean up: by a trace function, in
place of the interpreter. ``VMKEEP_ALL_KILLS=1`` goes through all of them, as far as the sample does not.
"""

import os
import random
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pytest

import vmkeep
from tests.host_runs import Host, RunClock, host_of
from tests.lab_process import Lab, running_lab
from vmkeep import stopping
from vmkeep.backup.host_sweep import sweep_host
from vmkeep.backup.vm_run import Told
from vmkeep.errors import VmkeepError, notes_of

VM: Final = "web"
EVERY: Final = os.environ.get("VMKEEP_ALL_KILLS") == "1"
AT_A_TIME: Final = 50  # with the points of a repository its runs become slower
SCENARIO: Final = """
title = "one VM to protect, and a stranger's things on it"

[host]
name = "HV"
seed = 7

[behaviour]
checkpoint_s = 0.01
convert_s = 0.01
destroy_s = 0.01
reference_s = 0.01
merge_s = 0.01
merge_retry_s = 0.1

[[vm]]
name = "web"
stranger_reference_points = 1
[[vm.disk]]
name = "system"
size_mib = 4
used_mib = 1
[[vm.checkpoint]]
name = "OtherBackup_web_recovery"
owner = "stranger"
writes = 3
"""
_ROOM: Final = Path(vmkeep.__file__).parent
_MODULES: Final = (
    *(f"capture/{name}" for name in ("calls", "checkpoint", "removing", "sweep")),
    *(f"backup/{name}" for name in ("host_sweep", "leftovers", "vm_run")),
    "stopping",
)
_TRACED: Final = frozenset(str(_ROOM / f"{module}.py") for module in _MODULES)
_CONTEXTLIB: Final = sys.modules["contextlib"].__file__
_LEFT: Final = "left behind on the host: "
_UNFINISHED: Final = "the sweep is not finished"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running_lab(SCENARIO, tmp_path_factory.mktemp("lab") / "state") as lab:
        yield lab


@contextmanager
def protected(lab: Lab) -> Iterator[Host]:
    """Open the host with a new repository, in which there is tracking to build on, and later to drop."""
    with host_of(lab, RunClock(speed=200.0)) as host:
        host.take(VM)
        yield host
        host.tidy()


@dataclass
class Moments:
    """Counts the moments of a run, and gives the signal at the ``nth``; 0: at none."""

    nth: int = 0
    count: int = 0
    where: str = ""
    sealed: list[str] = field(default_factory=list)

    @contextmanager
    def of(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self._called)
        try:
            yield
        finally:
            sys.settrace(before)

    def _called(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        return self._met if _is_meant(frame) else None

    def _met(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any]:
        if event in ("line", "return"):
            self.count += 1
            if self.count == self.nth:
                place = Path(frame.f_code.co_filename).stem
                self.where = f"{place}:{frame.f_lineno} {frame.f_code.co_name} ({event}, moment {self.nth})"
                stopping.stop(signal.SIGTERM, frame)
        return self._met


def _is_meant(frame: FrameType) -> bool:
    # What is raised while a generator that nobody needs is thrown away the interpreter ignores.
    if frame.f_code.co_name == "<genexpr>":
        return False
    name = frame.f_code.co_filename
    caller = frame.f_back
    return name in _TRACED or (
        name == _CONTEXTLIB and caller is not None and caller.f_code.co_filename in _TRACED
    )


def take(host: Host, moments: Moments) -> None:
    host.take(VM, told=Told(sealed=lambda _, point: moments.sealed.append(point.point.id)))


def sweep(host: Host, _: Moments | None = None) -> None:
    with host.opened() as repository:
        results = sweep_host(host.doors, repository, None, dry_run=False, ended=lambda _: None)
    assert all(result.is_clean for result in results), results


def leave_something(host: Host) -> None:
    """Let a run fail to let go of its checkpoint: it stays, and the run's journal says so."""
    host.lab.control.ask("fail", at="convert-call", vm=VM, code=32773)
    host.lab.control.ask("fail", at="destroy-call", vm=VM, code=32773, times=2)
    outcome = host.take(VM)
    assert any(_LEFT in warning for warning in outcome.warnings), outcome.warnings
    expire(host)


def expire(host: Host) -> None:
    """Let the leases end: this very process goes on, so that nothing else tells that a run has not."""
    host.clock.later(minutes=31)


@dataclass(frozen=True)
class Case:
    """What a signal is given in, how often, and whether a dead run has left something before."""

    act: Callable[[Host, Moments], None]
    sample: int
    has_dead: bool = True


CASES: Final = {
    "a run": Case(take, 12, has_dead=False),
    "a run that cleans up": Case(take, 4),
    "a sweep": Case(sweep, 4),
}


def stopped_in(case: Case, host: Host, moments: Moments) -> stopping.Stopped | None:
    """Do what the case says and give the signal on the way; return what ended it."""
    try:
        with moments.of():
            case.act(host, moments)
    except stopping.Stopped as stopped:
        return stopped
    return None


def judge(case: Case, host: Host, moments: Moments) -> bool:
    """Give the signal at a moment, see that its word can be believed, and tell whether something was left."""
    if case.has_dead:
        leave_something(host)
    before, untouched = len(host.opened().listing().points), host.remembered()
    stopped = stopped_in(case, host, moments)
    # How often somebody looks is a matter of time: a run may have fewer moments than were counted.
    assert (stopped is not None) == bool(moments.where), "the signal was lost"
    assert host.doors.files.open_handles == 0
    made = [each.point.id for each in host.opened().listing().points[before:]]
    assert sorted(made) == sorted(moments.sealed), "points were not told, or told and not there"
    left = any(_LEFT in note or _UNFINISHED in note for note in notes_of(stopped)) if stopped else False
    expire(host)
    # Who was stopped before he had begun has no word to say of what is older.
    if left or host.remembered() == untouched:
        sweep(host)
    host.is_clean(VM)
    host.take(VM)
    host.is_clean(VM)
    return left


def failures(case: Case, host: Host, chosen: Sequence[int]) -> tuple[list[str], int]:
    """Judge moments one after the other; return what went wrong where, and how often something was left."""
    wrong, left = [], 0
    for nth in chosen:
        moments = Moments(nth)
        try:
            left += judge(case, host, moments)
        except (AssertionError, VmkeepError) as error:
            wrong.append(f"{moments.where}: {type(error).__name__}: {str(error)[:400]}")
            host.lab.control.ask("heal")
            expire(host)
            sweep(host)
            host.take(VM)
    return wrong, left


@pytest.mark.timeout(7200 if EVERY else 900)
@pytest.mark.parametrize("name", CASES)
def test_a_signal_at_any_line_leaves_nothing_without_a_word(
    lab: Lab, handled_signals: None, seed: int, name: str
) -> None:
    case, counted = CASES[name], Moments()
    with protected(lab) as host:
        if case.has_dead:
            leave_something(host)
        assert stopped_in(case, host, counted) is None
        host.is_clean(VM)
    everything = range(1, counted.count + 1)
    chosen = everything if EVERY else sorted(random.Random(seed).sample(everything, case.sample))
    wrong: list[str] = []
    told = 0
    for first in range(0, len(chosen), AT_A_TIME):
        with protected(lab) as host:
            more, left = failures(case, host, chosen[first : first + AT_A_TIME])
        wrong, told = wrong + more, told + left
    print(f"{name}: {len(chosen)} of {counted.count} moments; something was left, and told, at {told}")
    assert not wrong, "\n".join([f"{len(wrong)} of {len(chosen)}", *wrong])
