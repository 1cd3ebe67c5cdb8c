"""Let somebody look whether a hold may go on, while data is read."""

import threading
from collections.abc import Callable

from vmkeep.progress import Progress


class WatchedProgress:
    """Passes progress on, and calls ``watch`` with each step, from one thread at a time.

    What ``watch`` raises ends the work that made progress.
    """

    def __init__(self, progress: Progress, watch: Callable[[], None]) -> None:
        self._progress = progress
        self._watch = watch
        self._lock = threading.Lock()

    def begin(self, label: str, total_bytes: int | None) -> None:
        self._progress.begin(label, total_bytes)

    def advance(self, done_bytes: int) -> None:
        self._progress.advance(done_bytes)
        if self._lock.acquire(blocking=False):
            try:
                self._watch()
            finally:
                self._lock.release()

    def end(self) -> None:
        self._progress.end()
