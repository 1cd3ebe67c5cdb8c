"""End a hold before it harms the host: a deadline, and a floor for the free space under it."""

import logging
from dataclasses import dataclass, replace
from typing import Final

from vmkeep.capture.errors import HoldLimitReached
from vmkeep.host.hyperv import HyperV, HyperVError, read_free_bytes
from vmkeep.host.wsman import HostError

_log: Final = logging.getLogger(__name__)

_ASK_AGAIN_S: Final = 5.0


@dataclass(frozen=True)
class HoldLimits:
    """How long a VM may be held, and what has to stay free where its layers grow.

    ``merge_s`` is how long a regular release waits for the merge, ``abandon_merge_s``
    the same after an error or a signal: who stops a service waits a minute and a half, and
    the next run or sweep goes on with a merge that is owed. Seconds and bytes.
    """

    max_hold_s: float = 12 * 3600.0
    free_floor: int = 1 << 30
    merge_s: float = 12 * 3600.0
    abandon_merge_s: float = 60.0


class LimitWatch:
    """Looks at the limits of one hold, which begins now; ``paths`` are where its layers grow on the host."""

    def __init__(self, host: HyperV, limits: HoldLimits, vm_name: str) -> None:
        # A host that is silent is asked again in a moment, and not waited for in between.
        self._host = replace(host, silence_s=0.0)
        self._limits = limits
        self._vm_name = vm_name
        self.paths: tuple[str, ...] = ()
        self._started = host.clock.monotonic()
        self._asked: float | None = None
        self._is_untold = False
        self.least_free: int | None = None

    def glance(self) -> None:
        """Raise HoldLimitReached when the deadline is reached; for any thread, as often as it likes."""
        held_s = self._host.clock.monotonic() - self._started
        if held_s >= self._limits.max_hold_s:
            raise HoldLimitReached(
                f"the VM {self._vm_name!r} has been held for {_spelled(held_s)}, as long as it may at most; "
                "it was let go, and nothing was taken.",
                hint="Allow more time with --max-hold, or find out what makes reading slow.",
                limit="deadline",
                held_s=held_s,
            )

    def look(self) -> None:
        """Raise HoldLimitReached when a limit is reached; asks the host every five seconds at most."""
        self.glance()
        now = self._host.clock.monotonic()
        if not self.paths or (self._asked is not None and now - self._asked < _ASK_AGAIN_S):
            return
        free = self._free()
        self._asked = self._host.clock.monotonic()  # a host that is slow to answer has its pause, too
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
            found = read_free_bytes(self._host, self.paths)
        except (HyperVError, HostError) as error:
            if not self._is_untold:  # once, however often it is asked in vain
                _log.warning("the host does not tell its free space: %s", error)
            self._is_untold = True
            return None
        self._is_untold = False
        return found


def _left(free: int) -> str:
    return f"only {free >> 20} MiB are" if free >= 1 << 20 else "not even 1 MiB is"


def _spelled(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"
