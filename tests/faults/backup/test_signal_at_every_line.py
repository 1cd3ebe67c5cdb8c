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
SAMPLE: Final = 12
AT_A_TIME: Final = 50  # with the points of a repository its runs become slower
LEASE: Final = {"minutes": 31}
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
_MODULES: Final = ("capture/checkpoint", "capture/calls", "capture/removing", "backup/vm_run", "stopping")
_TRACED: Final = frozenset(str(_ROOM / f"{module}.py") for module in _MODULES)
_CONTEXTLIB: Final = sys.modules["contextlib"].__file__
# What is told first is what a person has to know.
_LEFT: Final = "left behind on the host: "


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


@pytest.fixture
def signals() -> Iterator[None]:
    """Put the handlers back that a stop has replaced."""
    before = {number: signal.getsignal(number) for number in stopping.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


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
    name = frame.f_code.co_filename
    caller = frame.f_back
    return name in _TRACED or (
        name == _CONTEXTLIB and caller is not None and caller.f_code.co_filename in _TRACED
    )


def stopped_at(host: Host, moments: Moments) -> stopping.Stopped | None:
    """Take a point and give the signal on the way; return what ended the run."""
    told = Told(sealed=lambda _, point: moments.sealed.append(point.point.id))
    try:
        with moments.of():
            host.take(VM, told=told)
    except stopping.Stopped as stopped:
        return stopped
    return None


def swept(host: Host) -> None:
    """Take away what is left, as another process does."""
    host.clock.later(**LEASE)
    with host.opened() as repository:
        results = sweep_host(host.doors, repository, None, dry_run=False, ended=lambda _: None)
    assert all(result.is_clean for result in results), results


def judge(host: Host, moments: Moments) -> bool:
    """Give the signal at a moment, see that its word can be believed, and tell whether something was left."""
    before = len(host.opened().listing().points)
    stopped = stopped_at(host, moments)
    assert stopped is not None, "the signal was lost"
    assert host.doors.files.open_handles == 0
    made = [each.point.id for each in host.opened().listing().points[before:]]
    assert sorted(made) == sorted(moments.sealed), "points were not told, or told and not there"
    left = [note for note in notes_of(stopped) if _LEFT in note]
    if left:
        swept(host)
    host.is_clean(VM)
    host.clock.later(**LEASE)  # this very process goes on, so that only its lease tells that the run has not
    host.take(VM)
    host.is_clean(VM)
    return bool(left)


def failures(host: Host, chosen: Sequence[int]) -> tuple[list[str], int]:
    """Judge moments one after the other; return what went wrong where, and how often something was left."""
    wrong, left = [], 0
    for nth in chosen:
        moments = Moments(nth)
        try:
            left += judge(host, moments)
        except (AssertionError, VmkeepError) as error:
            wrong.append(f"{moments.where}: {type(error).__name__}: {str(error)[:400]}")
            swept(host)
            host.take(VM)
    return wrong, left


def test_a_signal_at_any_line_leaves_nothing_without_a_word(lab: Lab, signals: None, seed: int) -> None:
    counted = Moments()
    with protected(lab) as host:
        assert stopped_at(host, counted) is None
    everything = range(1, counted.count + 1)
    every = os.environ.get("VMKEEP_ALL_KILLS") == "1"
    chosen = everything if every else sorted(random.Random(seed).sample(everything, SAMPLE))
    wrong: list[str] = []
    told = 0
    for first in range(0, len(chosen), AT_A_TIME):
        with protected(lab) as host:
            more, left = failures(host, chosen[first : first + AT_A_TIME])
        wrong, told = wrong + more, told + left
    print(f"{len(chosen)} of {counted.count} moments; something was left, and told, at {told}")
    assert not wrong, "\n".join([f"{len(wrong)} of {len(chosen)}", *wrong])
