"""Keep reading below a rate, whoever reads: what one thread read, all others wait for."""

import re
import threading
from collections.abc import Callable
from typing import Final

from vmkeep.clock import Clock
from vmkeep.errors import UsageError

_RATE: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*(?:([KMGT])(I?B)?|B)?(?:/S)?", re.ASCII)
# As everywhere in vmkeep a K is 1024; who writes KB means 1000.
_BINARY: Final = {unit: 1024**power for power, unit in enumerate("KMGT", 1)}
_DECIMAL: Final = {unit: 1000**power for power, unit in enumerate("KMGT", 1)}
# Whoever waits looks so often whether it is still to read.
_LOOK_S: Final = 0.2
_SMALLEST_READ: Final = 64 << 10


def parse_rate(text: str) -> int:
    """Return bytes per second: ``50M``, ``1.5G``, ``800K``, ``20MiB``, ``100MB/s`` or a plain number.

    Raises UsageError, also for a rate at which nothing would ever be read.
    """
    found = _RATE.fullmatch(text.strip().upper())
    if found is None:
        raise UsageError(f"a rate is a number of bytes per second such as 50M or 1.5G; not {text!r}.")
    number, unit, suffix = found.groups()
    factor = 1 if unit is None else (_DECIMAL if suffix == "B" else _BINARY)[unit]
    rate = int(float(number) * factor)
    if rate < 1:
        raise UsageError(f"at a rate of {text!r} nothing would ever be read.")
    return rate


class Pace:
    """Lets ``rate`` bytes per second pass; thread-safe.

    A read passes as soon as all before it are paid for, and is paid for by those
    after it. So no stretch of time sees more than the rate and one read, nothing is
    saved up while nobody reads, and a wait that took too long delays nobody
    else: the next one's time was set already.
    """

    def __init__(self, rate: int, clock: Clock) -> None:
        self._rate = rate
        self._clock = clock
        self._paid = clock.monotonic()
        self._lock = threading.Lock()

    @property
    def largest_read(self) -> int:
        """How many bytes should be read at once, so that the rate is even: an eighth of a second's."""
        return max(_SMALLEST_READ, self._rate // 8 // _SMALLEST_READ * _SMALLEST_READ)

    def wait(self, count: int, look: Callable[[], None] = lambda: None) -> None:
        """Return when ``count`` bytes may be read; ``look`` is called now and then, and may raise."""
        with self._lock:
            turn = max(self._paid, self._clock.monotonic())
            self._paid = turn + count / self._rate
        look()
        while (left := turn - self._clock.monotonic()) > 0:
            self._clock.sleep(min(left, _LOOK_S))
            look()
