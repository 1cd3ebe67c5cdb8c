"""Let somebody look whether a hold may go on, whatever the run waits for."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, Final

from vmkeep.clock import unwatched

# The threads that are waited for look at the clock themselves; this is how late an error of theirs is met.
_SLICE_S: Final = 0.1


@dataclass(frozen=True)
class HoldWatch:
    """Two looks at a hold, of which each may raise, and so end the run."""

    fully: Callable[[], None] = unwatched
    """For the thread of the run alone: it may ask the host, whose connection is for one thread."""
    glance: Callable[[], None] = unwatched
    """For any thread: costs nothing."""

    def await_all(self, futures: Iterable[Future[Any]]) -> None:
        """Wait until all of them are done, well or not, and look meanwhile."""
        left = set(futures)
        while left:
            left = wait(left, timeout=_SLICE_S).not_done
            self.fully()


UNWATCHED: Final = HoldWatch()
