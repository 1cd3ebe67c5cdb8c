"""Tell the time and wait; the only place that asks the operating system for either.

Pure rooms (model, planner, diagnose) get the time as an argument instead.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Protocol

LOOK_S: Final = 1.0
"""Whoever waits for something looks so often whether the wait may go on."""


class Clock(Protocol):
    """What the other rooms may ask about time."""

    def now(self) -> datetime:
        """Return the current time in UTC."""

    def monotonic(self) -> float:
        """Return seconds that never go backwards; only differences mean something."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class SystemClock:
    """The operating system's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class WatchedClock:
    """Another clock, whose every wait is looked through: ``look`` may raise, and so end it."""

    def __init__(self, clock: Clock, look: Callable[[], None]) -> None:
        self._clock = clock
        self._look = look

    def now(self) -> datetime:
        return self._clock.now()

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def sleep(self, seconds: float) -> None:
        sleep_looking(self._clock, seconds, self._look)


def sleep_looking(clock: Clock, seconds: float, look: Callable[[], None]) -> None:
    """Wait, and call ``look`` at least once a second; what it raises ends the wait."""
    if look is unwatched:
        clock.sleep(seconds)
        return
    look()
    while seconds > 0:
        slice_s = min(seconds, LOOK_S)
        clock.sleep(slice_s)
        seconds -= slice_s
        look()


def unwatched() -> None:
    """Look at nothing; the default where nobody watches."""
