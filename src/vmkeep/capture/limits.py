"""End a hold before it harms the host: a deadline, and a floor for the free space under it."""

import logging
from dataclasses import dataclass
from typing import Final

from vmkeep.capture.errors import HoldLimitReached
from vmkeep.host.hyperv import HyperV, HyperVError, read_free_bytes
from vmkeep.host.wsman import HostError

_log: Final = logging.getLogger(__name__)

_ASK_AGAIN_S: Final = 60.0


@dataclass(frozen=True)
class HoldLimits:
    """How long a VM may be held, and what has to stay free where its layers grow.

    ``merge_s`` is how long a regular release waits for the merge, ``abandon_merge_s``
    the same after an error. Seconds and bytes.
    """

    max_hold_s: float = 12 * 3600.0
    free_floor: int = 1 << 30
    merge_s: float = 12 * 3600.0
    abandon_merge_s: float = 600.0


class LimitWatch:
    """Looks at the limits of one hold, whose layers grow at ``paths`` of the host."""

    def __init__(self, host: HyperV, limits: HoldLimits, vm_name: str, paths: tuple[str, ...]) -> None:
        self._host = host
        self._limits = limits
        self._vm_name = vm_name
        self._paths = paths
        self._started = host.clock.monotonic()
        self._asked: float | None = None
        self.least_free: int | None = None

    def look(self) -> None:
        """Raise HoldLimitReached when a limit is reached. Asks the host once a minute at most."""
        now = self._host.clock.monotonic()
        held_s = now - self._started
        if held_s >= self._limits.max_hold_s:
            raise HoldLimitReached(
                f"the VM {self._vm_name!r} has been held for {_spelled(held_s)}, as long as it may at most; "
                "it was let go, and nothing was taken.",
                hint="Allow more time with --max-hold, or find out what makes reading slow.",
                limit="deadline",
                held_s=held_s,
            )
        if self._asked is not None and now - self._asked < _ASK_AGAIN_S:
            return
        self._asked = now
        free = self._free()
        if free is None:
            return
        self.least_free = free if self.least_free is None else min(free, self.least_free)
        if free < self._limits.free_floor:
            raise HoldLimitReached(
                f"{_left(free)} free where the VM {self._vm_name!r} writes while it is held, and "
                f"{self._limits.free_floor >> 20} MiB must stay; it was let go, and nothing was taken.",
                hint="Free space on the volumes of the host that hold the VM's disks, then run again.",
                limit="free space",
                free=free,
            )

    def _free(self) -> int | None:
        """Return what is free; None where nobody tells, which ends no hold."""
        try:
            return read_free_bytes(self._host, self._paths)
        except (HyperVError, HostError) as error:
            _log.warning("the host does not tell its free space: %s", error)
            return None


def _left(free: int) -> str:
    return f"only {free >> 20} MiB are" if free >= 1 << 20 else "not even 1 MiB is"


def _spelled(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"
