"""A clock that tests move by hand."""

from datetime import UTC, datetime, timedelta


class FakeClock:
    """Stands in for :class:`vmkeep.clock.Clock`; time passes only by ``sleep`` and ``advance``.

    ``monotonic`` starts at a number that is not the epoch, so that code which
    mixes the two kinds of time is caught. ``slept`` lists every wait asked for.
    """

    def __init__(self, start: datetime = datetime(2026, 3, 29, 0, 30, tzinfo=UTC)) -> None:
        if start.tzinfo is None:
            raise ValueError("a clock needs a time zone")
        self._now = start.astimezone(UTC)
        self._monotonic = 1000.0
        self.slept: list[float] = []

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Let time pass without anybody having waited."""
        if seconds < 0:
            raise ValueError("time does not run backwards; use set_now for a clock that is set back")
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds

    def set_now(self, moment: datetime) -> None:
        """Set the wall clock, also back, as an administrator or NTP would; monotonic time stays."""
        self._now = moment.astimezone(UTC)
