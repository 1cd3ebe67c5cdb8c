"""Fetch the stored bytes of a disk, some leaves ahead of what is being written."""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from mmap import mmap
from queue import Empty, SimpleQueue
from typing import BinaryIO, Final, NamedTuple

from vmkeep.progress import Progress
from vmkeep.repository.reader import DiskMap

_ZEROS: Final = bytes(4 << 20)


class _Fetched(NamedTuple):
    """One leaf: the memory it was put into, and its stored ranges (offset on the disk, bytes)."""

    memory: memoryview
    ranges: list[tuple[int, memoryview]]


def pieces(disk: DiskMap, progress: Progress) -> Iterator[tuple[int, memoryview]]:
    """Yield the stored ranges in order, joined within a leaf; a few leaves are fetched ahead in threads.

    What is yielded is valid until the next one is asked for.
    """
    threads = max(2, min(8, os.cpu_count() or 2))
    ahead: deque[Future[_Fetched]] = deque()
    free: SimpleQueue[memoryview] = SimpleQueue()
    with ThreadPoolExecutor(threads, thread_name_prefix="vmkeep-restore") as pool:
        try:
            for number, leaf_id in disk.leaf_ids():
                ahead.append(pool.submit(_fetch, disk, number, leaf_id, free))
                if len(ahead) > threads + 1:
                    yield from _handed_out(ahead.popleft().result(), free, progress)
            while ahead:
                yield from _handed_out(ahead.popleft().result(), free, progress)
        finally:
            for future in ahead:
                future.cancel()


def _fetch(disk: DiskMap, number: int, leaf_id: bytes, free: "SimpleQueue[memoryview]") -> _Fetched:
    leaf = disk.reader.parameters.leaf_size
    try:
        memory = free.get_nowait()
    except Empty:
        memory = memoryview(mmap(-1, leaf))  # begins on a page, so that it can be written past the cache
    start = number * leaf
    ranges = disk.leaf_into(number, leaf_id, memory)
    return _Fetched(memory, [(low, memory[low - start : low - start + length]) for low, length in ranges])


def _handed_out(
    fetched: _Fetched, free: "SimpleQueue[memoryview]", progress: Progress
) -> Iterator[tuple[int, memoryview]]:
    for offset, data in fetched.ranges:
        yield offset, data
        progress.advance(len(data))
    free.put(fetched.memory)


def write_zeros(out: BinaryIO, length: int) -> None:
    """Write ``length`` zeros."""
    while length > 0:
        part = min(length, len(_ZEROS))
        out.write(_ZEROS[:part])
        length -= part
