"""Measure how long a large index takes to open and to search, without the packs it speaks of.

``make`` writes a folder with index objects as a writer makes them (each 64 packs of
2048 frames) and empty files for the packs; it can be repeated with a larger number.
``measure`` opens it in this process, looks things up, and prints one line of JSON.

    python tools/bench_index.py make /tmp/ix --objects 152      # 20 million entries
    python tools/bench_index.py measure /tmp/ix                  # without a copy
    python tools/bench_index.py measure /tmp/ix --cache /tmp/c   # the first time makes the copy
"""

import argparse
import json
import random
import struct
import time
from pathlib import Path

from vmkeep.clock import SystemClock
from vmkeep.objectstore.directory import DirectoryStore
from vmkeep.repository.box import close_box
from vmkeep.repository.index import PREFIX
from vmkeep.repository.keys import KeyRing
from vmkeep.repository.packs import Kind, PackRef
from vmkeep.repository.parameters import Parameters
from vmkeep.repository.repository import Repository

REPOSITORY, MASTER = bytes(range(16)), bytes(range(32))
PARAMETERS = Parameters(
    repository=REPOSITORY, created="2026-01-01T00:00:00Z", chunk_size=1 << 16, pack_size=1 << 26
)


def ids(number: int, count: int) -> list[bytes]:
    """Return the first 16 bytes of the ids in one object, ascending; the same at every call."""
    content = random.Random(number).randbytes(16 * count)
    return sorted(content[at : at + 16] for at in range(0, len(content), 16))


def make(folder: Path, objects: int, packs: int, slots: int) -> None:
    """Add the objects that are missing."""
    store = DirectoryStore(folder, create=True)
    ring = KeyRing(MASTER, REPOSITORY)
    entry = struct.Struct("<16sII")
    for number in range(objects):
        name = PREFIX + number.to_bytes(16, "big").hex()
        if store.head(name) is not None:
            continue
        refs = [PackRef(random.Random(f"{number} {n}").randbytes(16), Kind.CHUNKS) for n in range(packs)]
        for ref in refs:
            path = folder / ref.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        head = b"".join(struct.pack("<16sBxxxI", ref.id, ref.kind, slots) for ref in refs)
        places = [(pack, slot) for pack in range(packs) for slot in range(slots)]
        random.Random(-number).shuffle(places)
        entries = b"".join(
            entry.pack(key, *place) for key, place in zip(ids(number, packs * slots), places, strict=True)
        )
        content = struct.pack("<8sII", b"VMKINDX1", packs, packs * slots) + head + entries
        store.put(name, close_box(ring, name, content, compress=False))


def measure(folder: Path, cache: Path | None, objects: int, count: int) -> dict[str, object]:
    """Open the index, search it, and return seconds, processor time for each look-up, megabytes."""
    store = DirectoryStore(folder)
    repository = Repository(store, PARAMETERS, KeyRing(MASTER, REPOSITORY), SystemClock(), None, "")
    if cache is not None:
        repository.keep_index_in(cache)
    start, cpu = time.perf_counter(), time.process_time()
    index = repository.index
    opened, cpu = time.perf_counter(), time.process_time() - cpu
    index.find(bytes(32))
    first = time.perf_counter()
    chosen = random.Random(1)
    known = []
    for number in sorted(chosen.sample(range(objects), min(objects, 10))):
        known += chosen.sample(ids(number, count), min(count, 2000))
    chosen.shuffle(known)
    unknown = [chosen.randbytes(16) for _ in known]
    times = []
    for keys, there in ((known, True), (unknown, False)):
        begin = time.process_time()
        found = [index.find(key) is not None for key in keys]
        times.append((time.process_time() - begin) / len(keys) * 1e6)
        if found != [there] * len(keys):
            raise SystemExit("the index gave a wrong answer")
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "entries": len(index),
        "open_s": round(opened - start, 4),
        "open_cpu_s": round(cpu, 4),
        "first_look_up_s": round(first - opened, 2),
        "found_cpu_us": round(times[0], 1),
        "not_found_cpu_us": round(times[1], 1),
        "rss_mb": int(status["VmRSS"].split()[0]) // 1024,
        "peak_mb": int(status["VmHWM"].split()[0]) // 1024,
        "warnings": repository.warnings,
    }


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("action", choices=["make", "measure"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--objects", type=int, default=152)
    parser.add_argument("--packs", type=int, default=64, help="of each object")
    parser.add_argument("--slots", type=int, default=2048, help="of each pack")
    arguments = parser.parse_args()
    if arguments.action == "make":
        make(arguments.folder, arguments.objects, arguments.packs, arguments.slots)
    else:
        count = arguments.packs * arguments.slots
        print(json.dumps(measure(arguments.folder, arguments.cache, arguments.objects, count)))


if __name__ == "__main__":
    main()
