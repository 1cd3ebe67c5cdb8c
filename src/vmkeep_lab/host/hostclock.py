"""The host's own clock, which a test may push forward."""

from datetime import datetime, timedelta

from vmkeep_lab import clock


class HostClock:
    """Real time plus what it was pushed by; so five minutes pass without five minutes of waiting."""

    def __init__(self) -> None:
        self._pushed = 0.0

    def now(self) -> datetime:
        """Return the host's time in UTC."""
        return clock.now() + timedelta(seconds=self._pushed)

    def monotonic(self) -> float:
        """Return seconds that never go backwards."""
        return clock.monotonic() + self._pushed

    def push(self, seconds: float) -> None:
        """Let time pass at once."""
        if seconds < 0:
            raise ValueError("time does not go backwards")
        self._pushed += seconds
