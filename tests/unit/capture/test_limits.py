"""The limits of a hold: the deadline to the second, the host asked seldom, and never in its silence."""

import pytest

from tests.clocks import FakeClock
from tests.fakes.hyperv_host import TableHost
from vmkeep.capture.errors import HoldLimitReached
from vmkeep.capture.limits import HoldLimits, LimitWatch
from vmkeep.clock import WatchedClock

pytestmark = pytest.mark.quick


def watch_of(host: TableHost, **limits: float) -> LimitWatch:
    watch = LimitWatch(host.hyperv(), HoldLimits(**limits), "web")  # type: ignore[arg-type]
    watch.paths = ("C:\\VMs\\web.avhdx",)
    return watch


def asked(host: TableHost, watch: LimitWatch, looks: int, every_s: float) -> int:
    """How often the host hears a question while somebody looks so often."""
    questions: list[object] = []
    host.before = questions.append
    for _ in range(looks):
        watch.look()
        host.clock.advance(every_s)
    return len(questions)


def test_however_often_one_looks_the_host_is_asked_every_five_seconds() -> None:
    host = TableHost()
    host.rows["Win32_Volume"] = [{"Name": "C:\\", "FreeSpace": 1 << 40}]
    watch = watch_of(host)
    assert asked(host, watch, looks=1000, every_s=0.01) == 2
    assert watch.least_free == 1 << 40


def test_a_host_that_is_slow_to_answer_has_its_pause_too() -> None:
    host = TableHost()
    host.rows["Win32_Volume"] = [{"Name": "C:\\", "FreeSpace": 1 << 40}]
    watch = watch_of(host)
    questions: list[float] = []

    def slowly(_: object) -> None:
        questions.append(host.clock.monotonic())
        host.clock.advance(20.0)

    host.before = slowly
    for _ in range(400):
        watch.look()
        host.clock.advance(0.1)
    first, second, *_ = questions
    assert second - first >= 25.0


@pytest.mark.parametrize(("passed_s", "is_over"), [(9.9, False), (10.0, True)])
def test_the_deadline_counts_from_the_beginning_and_asks_nobody(passed_s: float, is_over: bool) -> None:
    host = TableHost()
    watch = watch_of(host, max_hold_s=10.0)
    host.clock.advance(passed_s)
    host.before = lambda question: pytest.fail("nobody is to be asked")
    if not is_over:
        watch.glance()
        return
    with pytest.raises(HoldLimitReached, match="'web' has been held for 10 seconds") as told:
        watch.glance()
    assert told.value.context["limit"] == "deadline"


def test_a_clock_that_is_watched_waits_as_long_and_looks_once_a_second() -> None:
    clock, looks = FakeClock(), list[float]()
    began = clock.monotonic()
    WatchedClock(clock, lambda: looks.append(clock.monotonic() - began)).sleep(2.5)
    assert clock.monotonic() - began == pytest.approx(2.5)
    assert looks == pytest.approx([0.0, 1.0, 2.0, 2.5])
