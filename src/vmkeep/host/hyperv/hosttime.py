"""Ask what time it is by the host's own clock."""

from datetime import datetime

from vmkeep.host.hyperv.classes import OPERATING_SYSTEM
from vmkeep.host.hyperv.jobs import HyperV, outlast


def read_host_time(host: HyperV) -> datetime | None:
    """Return the host's time now; None where it does not tell. Safe to repeat.

    Ages of checkpoints are compared with it, never with our clock.
    """
    rows = outlast(host, lambda: list(OPERATING_SYSTEM.all(host.client)))
    return rows[0].moment_or_none("LocalDateTime") if rows else None
