"""Measure writing the disks of one run into a fresh repository: one after another, and several at a time.

Disks lie in memory; ``--delay`` makes each MiB that is read of them take so many
milliseconds more, as a network does. Each case is a process of its own, the
rounds alternate, and a line of JSON tells the medians.

    python tools/bench_disks.py --disks 1 --at-once 1 --delay 0    # what one disk costs
    python tools/bench_disks.py                                    # 4 disks, 1 and 4 at a time, 5 ms a MiB
"""

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from vmkeep.clock import SystemClock
from vmkeep.objectstore.directory import DirectoryStore
from vmkeep.ranges import ByteRange
from vmkeep.repository.keys import KeyRing
from vmkeep.repository.parameters import Parameters
from vmkeep.repository.repository import Repository

MIB: Final = 1 << 20
CHUNK: Final = 1 << 16
TEXT: Final = b"".join(b"line %d of a file that is like many others\n" % n for n in range(999))[: CHUNK // 2]
_NOISE: Final = random.Random(5).randbytes(8 * MIB)
PARAMETERS: Final = Parameters(repository=bytes(16), created="2026-01-01T00:00:00Z")


def disk(number: int, size: int, delay_s: float, text: bytes) -> Callable[[int, memoryview], None]:
    """Return a disk whose chunks begin with noise that is nowhere the same, and end with ``text``."""
    noise = _NOISE

    def read_into(offset: int, view: memoryview) -> None:
        first = (number * size + offset) // CHUNK
        for at in range(0, len(view), CHUNK):
            length = min(CHUNK, len(view) - at)
            start = (first + at // CHUNK) * 4099 % (len(noise) - CHUNK)
            view[at : at + length] = noise[start : start + length]
            view[at + length - len(text) : at + length] = text
        if delay_s:
            time.sleep(delay_s * len(view) / MIB)

    return read_into


def measure(disks: int, at_once: int, size: int, delay_s: float, text: bytes) -> dict[str, float]:
    """Write the disks; return wall and processor seconds, and the peak of memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        store = DirectoryStore(Path(folder) / "repo", create=True)
        store.put("format", PARAMETERS.encode())
        ring = KeyRing(bytes(range(32)), PARAMETERS.repository)
        sources = [disk(number, size, delay_s, text) for number in range(disks)]
        with Repository(store, PARAMETERS, ring, SystemClock(), None, "") as repository:
            wall, cpu = time.perf_counter(), time.process_time()
            with repository.writer("ab" * 16) as writer, ThreadPoolExecutor(at_once) as pool:
                whole = [ByteRange(0, size)]
                for written in [pool.submit(writer.write_map, source, size, whole) for source in sources]:
                    written.result()
                writer.flush()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"wall": wall, "cpu": cpu, "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000}


def main() -> None:
    """Run the rounds and print what came out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--disks", type=int, default=4)
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--size", type=int, default=256, help="of each disk, in MiB")
    parser.add_argument("--delay", type=float, default=5.0, help="milliseconds for each MiB read")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--noise", action="store_true", help="nothing can be compressed")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        text = b"" if options.noise else TEXT
        found = measure(options.disks, options.at_once[0], options.size * MIB, options.delay / 1000, text)
        print(json.dumps(found))
        return
    results: dict[int, list[dict[str, float]]] = {at_once: [] for at_once in options.at_once}
    for _ in range(options.rounds):
        for at_once, rounds in results.items():
            case = ["--disks", str(options.disks), "--at-once", str(at_once), "--one"]
            case += ["--size", str(options.size), "--delay", str(options.delay)]
            case += ["--noise"] if options.noise else []
            done = subprocess.run([sys.executable, __file__, *case], stdout=subprocess.PIPE, check=True)
            rounds.append(json.loads(done.stdout))
    for at_once, rounds in results.items():
        medians = {key: round(statistics.median(one[key] for one in rounds), 3) for key in rounds[0]}
        least = {f"least_{key}": round(min(one[key] for one in rounds), 3) for key in ("wall", "cpu")}
        print(json.dumps({"disks": options.disks, "at_once": at_once} | medians | least))


if __name__ == "__main__":
    main()
