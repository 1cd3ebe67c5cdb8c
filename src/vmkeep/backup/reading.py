"""Read the held sources of one run: several disks at a time, at one pace, and given up together."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Final, Self, TypeVar

from vmkeep.backup.watched import UNWATCHED, HoldWatch
from vmkeep.pace import Pace
from vmkeep.repository.leaves import ReadInto

# Enough to keep a source busy that answers late: each disk has one or two leaves of 4 MiB on their way.
# More would seek more where disks share a spindle, and hold more of them in memory.
DISKS_AT_ONCE: Final = 4
_T = TypeVar("_T")


class ReadGivenUp(Exception):
    """A read is not wanted any more: another one failed, or the run is being ended."""


class SourceReads:
    """All reads of a run's sources, while ``watch`` looks whether they may be held on; made by its thread.

    Leave the ``with`` block and whoever still reads is stopped at the next read.
    """

    def __init__(self, pace: Pace | None, watch: HoldWatch = UNWATCHED) -> None:
        self._pace = pace
        self._watch = watch
        self._thread = threading.get_ident()
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_up()

    def give_up(self) -> None:
        """Let no read begin from here on, and end those that wait for their turn."""
        self._ended.set()

    def of(self, read_into: ReadInto) -> ReadInto:
        """Return the same source, read at the pace of the run."""
        return partial(self._read, read_into)

    def _read(self, read_into: ReadInto, offset: int, buffer: memoryview) -> None:
        self._look()
        if self._pace is None:
            read_into(offset, buffer)
            return
        step = self._pace.largest_read
        for at in range(0, len(buffer), step):
            part = buffer[at : at + step]
            self._pace.wait(len(part), self._look)
            read_into(offset + at, part)

    def _look(self) -> None:
        if self._ended.is_set():
            raise ReadGivenUp
        if threading.get_ident() == self._thread:
            self._watch.fully()
        else:
            self._watch.glance()

    def side_by_side(self, work: Iterable[Callable[[], _T]]) -> list[_T]:
        """Do all of it, a few at a time; return what came of it, in the given order.

        Raises the error that came first, or whatever interrupts the wait; then
        nothing is read any more, and no thread is left.
        """
        failed: list[BaseException] = []

        def attempt(one: Callable[[], _T]) -> _T:
            self._look()
            try:
                return one()
            except BaseException as error:
                failed.append(error)
                self.give_up()
                raise

        with ThreadPoolExecutor(DISKS_AT_ONCE, thread_name_prefix="vmkeep-disk") as pool:
            try:
                futures = [pool.submit(attempt, one) for one in work]
                self._watch.await_all(futures)
            except BaseException:
                self.give_up()
                raise
        if failed:
            raise failed[0]
        return [future.result() for future in futures]
