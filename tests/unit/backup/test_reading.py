"""Reads of a run's sources: side by side, at one pace, given up together, and never beyond the end."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Final

import pytest

from tests.clocks import FakeClock
from vmkeep.backup.reading import DISKS_AT_ONCE, ReadGivenUp, SourceReads
from vmkeep.pace import Pace

MIB: Final = 1 << 20
LONG_S: Final = 60.0


def vmkeep_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("vmkeep-")]


class _Source:
    """Counts its reads and fills them with the number of the MiB they begin in."""

    def __init__(self) -> None:
        self.reads: list[tuple[int, int]] = []

    def read_into(self, offset: int, view: memoryview) -> None:
        self.reads.append((offset, len(view)))
        view[:] = bytes([offset // MIB]) * len(view)


def test_results_come_in_the_order_of_the_work() -> None:
    last_began = threading.Event()

    def first() -> str:
        assert last_began.wait(LONG_S), "a few are done at a time"
        return "first"

    def last() -> str:
        last_began.set()
        return "last"

    with SourceReads(None) as reads:
        assert reads.side_by_side([first, last]) == ["first", "last"]
    assert vmkeep_threads() == []


def test_no_more_than_a_few_are_done_at_a_time() -> None:
    lock = threading.Lock()
    all_there = threading.Barrier(DISKS_AT_ONCE)
    now = most = 0

    def work() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        all_there.wait(LONG_S)
        with lock:
            now -= 1

    with SourceReads(None) as reads:
        reads.side_by_side([work] * (3 * DISKS_AT_ONCE))
    assert most == DISKS_AT_ONCE


def test_the_first_error_ends_the_others_and_is_the_one_that_is_told() -> None:
    others_read = threading.Barrier(3)

    def failing() -> None:
        others_read.wait(LONG_S)
        raise OSError("the disk went away") from ValueError("its cable")

    with SourceReads(None) as reads:
        read = reads.of(_Source().read_into)

        def endless() -> None:
            read(0, memoryview(bytearray(1)))
            others_read.wait(LONG_S)
            while True:
                read(0, memoryview(bytearray(1)))

        with pytest.raises(OSError, match="went away") as caught:
            reads.side_by_side([endless, endless, failing])
    assert isinstance(caught.value.__cause__, ValueError)
    assert vmkeep_threads() == []


def test_work_that_had_not_begun_when_another_failed_never_does() -> None:
    began: list[int] = []

    def failing() -> None:
        raise OSError("gone")

    with SourceReads(None) as reads, pytest.raises(OSError, match="gone"):
        all_fail: list[Callable[[], None]] = [failing] * DISKS_AT_ONCE
        late: list[Callable[[], None]] = [partial(began.append, number) for number in range(50)]
        reads.side_by_side(all_fail + late)
    assert began == []
    assert vmkeep_threads() == []


def test_who_waits_for_a_slow_pace_is_let_go_at_once() -> None:
    source = _Source()
    waiting = threading.Event()

    class StandingStill(FakeClock):
        def sleep(self, seconds: float) -> None:
            waiting.set()

    with SourceReads(Pace(1, StandingStill())) as reads:
        read = reads.of(source.read_into)

        def slow() -> None:
            for _ in range(2):
                read(0, memoryview(bytearray(MIB)))

        def failing() -> None:
            assert waiting.wait(LONG_S)
            raise OSError("gone")

        with pytest.raises(OSError, match="gone"):
            reads.side_by_side([slow, failing])
    assert len(source.reads) == 1


def test_nothing_is_read_after_the_block() -> None:
    source = _Source()
    with SourceReads(None) as reads:
        read = reads.of(source.read_into)
    with pytest.raises(ReadGivenUp):
        read(0, memoryview(bytearray(1)))
    assert source.reads == []


def test_a_paced_read_gives_the_same_bytes_in_parts() -> None:
    clock = FakeClock()
    source = _Source()
    buffer = bytearray(4 * MIB + 512)
    with SourceReads(Pace(8 * MIB, clock)) as reads:
        reads.of(source.read_into)(2 * MIB, memoryview(buffer))
    assert source.reads == [(n * MIB, MIB) for n in range(2, 6)] + [(6 * MIB, 512)]
    assert buffer == b"".join(bytes([n]) * MIB for n in range(2, 6)) + bytes([6]) * 512
    assert sum(clock.slept) == pytest.approx(0.5)  # the last part is paid for by the next read
