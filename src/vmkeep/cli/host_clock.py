"""How far a host's clock is from this machine's, as far as that matters to people."""

from typing import Final

from vmkeep.clock import Clock
from vmkeep.model.facts import HostFacts

# Kerberos lets nobody in beyond five minutes (failures.md 4.6, kerberos_time_skew).
MOST_SKEW_S: Final = 300


def skew_s(host: HostFacts, clock: Clock) -> float | None:
    """Return by how many seconds the host's clock is ahead; None where it has not told its time.

    To be asked at once when the facts have come.
    """
    return None if host.now is None else (host.now - clock.now()).total_seconds()


def skew_told(seconds: float) -> str:
    """Say how far the host's clock is ahead or behind."""
    return f"the host's clock is {abs(seconds):.0f} s {'ahead' if seconds > 0 else 'behind'}"


def clock_warning(host: HostFacts, clock: Clock) -> str | None:
    """Return what to warn of where the two clocks are so far apart that times of restore points mislead."""
    skew = skew_s(host, clock)
    if skew is None or abs(skew) <= MOST_SKEW_S:
        return None
    return (
        f"{skew_told(skew)} of this machine's, by which restore points bear their time; "
        "repair NTP on the machine that is wrong."
    )
