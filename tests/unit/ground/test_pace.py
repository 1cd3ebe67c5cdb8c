"""Reading at a limited rate: what a rate may be called, and what a fake clock sees of the waits."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.clocks import FakeClock
from vmkeep.errors import ExitCode, UsageError
from vmkeep.pace import Pace, parse_rate

pytestmark = pytest.mark.quick
MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("1", 1),
        ("1048576", 1048576),
        ("800K", 819200),
        ("50M", 52428800),
        ("50m", 52428800),
        ("1.5G", 1610612736),
        ("20MiB", 20971520),
        ("20 MiB", 20971520),
        ("100MB", 100_000_000),
        ("100MB/s", 100_000_000),
        ("512B", 512),
        ("0.5K", 512),
        ("2T", 2199023255552),
    ],
)
def test_a_rate_is_read_as_people_write_it(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["0", "0M", "0.0G", "0.4", "0.000000001K"])
def test_a_rate_of_nothing_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="nothing would ever be read") as caught:
        parse_rate(text)
    assert caught.value.exit_code is ExitCode.USAGE


@pytest.mark.parametrize("text", ["", "M", "-1", "50Q", "1e6", "5 0M", "50%", "inf", "nan", "٣M", "9" * 400])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="number of bytes per second"):
        parse_rate(text)


def test_a_read_is_paid_for_by_the_next() -> None:
    clock = FakeClock()
    pace = Pace(10 * MIB, clock)
    pace.wait(5 * MIB)
    assert clock.slept == []
    pace.wait(MIB)
    assert sum(clock.slept) == pytest.approx(0.5)
    # Much more than a second's worth: it waits in proportion, not for a bucket that never gets so full.
    pace.wait(100 * MIB)
    pace.wait(MIB)
    assert sum(clock.slept) == pytest.approx(0.5 + 0.1 + 10)


def test_nothing_is_saved_up_while_nobody_reads() -> None:
    clock = FakeClock()
    pace = Pace(MIB, clock)
    clock.advance(3600)
    for _ in range(4):
        pace.wait(MIB)
    assert sum(clock.slept) == pytest.approx(3)


class _SleepyClock(FakeClock):
    """Every wait takes a bit longer than asked for, as on a busy machine."""

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds + 0.004)


def test_waits_that_take_too_long_add_up_to_nothing() -> None:
    clock = _SleepyClock()
    pace = Pace(MIB, clock)
    start = clock.monotonic()
    for _ in range(1001):
        pace.wait(MIB // 10)
    assert clock.monotonic() - start == pytest.approx(100, abs=0.02)


def test_whoever_waits_can_be_told_to_stop() -> None:
    clock = FakeClock()
    pace = Pace(1, clock)
    pace.wait(1000)
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks > 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        pace.wait(1, look)
    assert sum(clock.slept) < 1


@pytest.mark.parametrize("rate", [1, 1000, 800 << 10, 8 * MIB, 50 * MIB, 10 << 30])
def test_reads_are_cut_so_that_the_rate_is_even(rate: int) -> None:
    largest = Pace(rate, FakeClock()).largest_read
    assert largest % (64 << 10) == 0  # no sector is read in two parts
    assert largest == 64 << 10 or largest <= rate / 8


@given(
    rate=st.integers(1 << 16, 1 << 30),
    reads=st.lists(st.tuples(st.floats(0, 5), st.integers(1, 1 << 20)), min_size=1, max_size=40),
)
def test_no_stretch_of_time_sees_more_than_the_rate_and_one_read(
    rate: int, reads: list[tuple[float, int]]
) -> None:
    clock = FakeClock()
    pace = Pace(rate, clock)
    passed: list[tuple[float, int]] = []
    for idle, count in reads:
        clock.advance(idle)
        pace.wait(count)
        passed.append((clock.monotonic(), count))
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            stretch = passed[last][0] - passed[first][0]
            read = sum(count for _, count in passed[first : last + 1])
            # Times around a thousand seconds have a precision of some 1e-13 s, and waits add up.
            assert read <= rate * (stretch + 1e-9) + passed[last][1] + 1


class _OneAtATime(FakeClock):
    """A fake clock whose waits do not overlap, so that none of them gets lost between threads."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()

    def sleep(self, seconds: float) -> None:
        with self._lock:
            super().sleep(seconds)


def test_all_threads_share_one_rate() -> None:
    clock = _OneAtATime()
    pace = Pace(MIB, clock)
    start = clock.monotonic()

    def read() -> None:
        for _ in range(10):
            pace.wait(MIB)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.monotonic() - start >= 39 - 1e-6
