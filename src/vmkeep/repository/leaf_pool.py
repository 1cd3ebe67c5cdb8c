"""Work on the leaves of several disks in the same few threads, with few leaves in memory."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Lock
from typing import Final

from vmkeep.repository.leaves import Leaf

# As many leaves on their way hide a network's latency; memory grows by two leaves for each, the one
# that is read into and what came of the one before.
_MOST_WORKERS: Final = 6
_MEMORY: Final = 48 << 20


class LeafPool:
    """The threads of one writer; :meth:`run` may be called by several threads, one for each disk.

    There is a worker for each processor, and where these are few some more, which
    wait for sources; with several disks under way all of them are used.
    """

    def __init__(self, leaf_size: int) -> None:
        processors = max(2, min(8, os.cpu_count() or 2))
        workers = max(processors, min(_MOST_WORKERS, _MEMORY // (2 * leaf_size)))
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="vmkeep-leaf")
        # One more is done ahead, one is being stored.
        self._most_of_one = processors + 2
        self._most_of_all = max(workers, self._most_of_one) + 2
        self._disks = 0
        self._lock = Lock()

    def close(self) -> None:
        """End the threads; every :meth:`run` has ended before."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def run(self, calls: Iterable[Callable[[], Leaf]]) -> Generator[Leaf]:
        """Yield what the calls return, in their order; close it early and none of them goes on.

        Raises what a call raises.
        """
        ahead: deque[Future[Leaf]] = deque()
        self._count(1)
        try:
            for call in calls:
                ahead.append(self._pool.submit(call))
                # A disk that begins makes those under way take fewer from here on.
                while len(ahead) >= self._share():
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            self._count(-1)
            # Nobody may read from a source that its owner takes for left alone.
            wait([future for future in ahead if not future.cancel()])

    def _count(self, change: int) -> None:
        with self._lock:
            self._disks += change

    def _share(self) -> int:
        """Return how many leaves one disk may have in memory, with the one that is being stored."""
        return max(2, min(self._most_of_one, self._most_of_all // max(1, self._disks)))
