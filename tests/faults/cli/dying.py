"""Run backups and restores in processes that are killed for real, and look at what they left.

``python -m tests.faults.cli.dying ORDER`` reads an order (JSON, see :class:`Order`) and prints one JSON line
for each death. It imports the product once and forks for every case: nothing of a
killed process lives on, and a case costs a fraction of a second.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.faults.stores import CountingStore, KillingStore
from vmkeep.backup.run import Request, run
from vmkeep.capture.source import SourceAddress
from vmkeep.clock import SystemClock
from vmkeep.objectstore.directory import DirectoryStore
from vmkeep.objectstore.store import Store
from vmkeep.progress import Silent
from vmkeep.ranges import ByteRange
from vmkeep.repository.examine.keyed import check
from vmkeep.repository.listing import SealedPoint
from vmkeep.repository.repository import Repository
from vmkeep.restore.files import restore_point, stream_disk
from vmkeep.secrets import Secret

# What changes a file system; both the store and the restore use no other calls to do so.
CALLS: Final = (
    "write",
    "pwrite",
    "pwritev",
    "link",
    "rename",
    "replace",
    "unlink",
    "fsync",
    "ftruncate",
    "mkdir",
)
_DIED: Final = -signal.SIGKILL


@dataclass(frozen=True)
class Order:
    """``base`` holds ``repo`` and ``state``; they are copied to ``work`` for each case.

    ``kind``: "requests" kills a backup before and after each request that
    changes the store, "calls" before each ``step``-th system call that changes
    a file, "restore" the same for a restore.
    """

    kind: str
    base: str
    work: str
    source: str
    password: str
    step: int = 1
    changes: list[list[int]] | None = None
    parent: str | None = None


def open_repository(order: Order, place: Path, wrap: Callable[[Store], Store] | None = None) -> Repository:
    store: Store = DirectoryStore(place / "repo")
    wrapped = store if wrap is None else wrap(store)
    return Repository.open(wrapped, Secret(order.password), SystemClock(), place / "state")


def take(order: Order, place: Path, wrap: Callable[[Store], Store] | None = None) -> SealedPoint:
    """Take one restore point, as the command line would."""
    changes = None if order.changes is None else tuple(ByteRange(*pair) for pair in order.changes)
    request = Request(SourceAddress.parse(order.source), changes=changes, parent=order.parent)
    with open_repository(order, place, wrap) as repository:
        return run(request, repository, SystemClock(), Silent()).sealed


def bring_back(order: Order, place: Path) -> None:
    """Restore the newest point into ``place``/back, disks as raw files."""
    with open_repository(order, place) as repository:
        point = repository.listing().points[-1].point
        restore_point(repository, point, place / "back", "raw", None, Silent())


class _Digest:
    """Takes a disk's bytes and keeps their checksum."""

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return len(data)

    def flush(self) -> None:
        return


def survey(order: Order, place: Path) -> dict[str, Any]:
    """Tell which points exist and what they hold; then take another one and examine everything."""
    with open_repository(order, place) as repository:
        listing = repository.listing()
        found = {
            "problems": [problem.message for problem in listing.problems],
            "points": {sealed.point.id: _digests(repository, sealed) for sealed in listing.points},
        }
    sealed = take(order, place)
    with open_repository(order, place) as repository:
        report = check(repository, 1.0, Silent())
        return found | {
            "next": _digests(repository, sealed),
            "next_number": sealed.point.number,
            "check": [problem.message for problem in report.problems],
            "listed_then": len(repository.listing().points),
        }


def _digests(repository: Repository, sealed: SealedPoint) -> list[str]:
    digests = []
    for disk in sealed.point.disks:
        out = _Digest()
        stream_disk(repository, disk, out, Silent())  # type: ignore[arg-type]
        digests.append(out.sha256.hexdigest())
    return digests


def die_at_call(at: int) -> None:
    """From here on, kill this process instead of making the ``at``-th call of CALLS; 0: only count."""
    counted = [0]

    def watched(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        counted[0] += 1
        if counted[0] == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    for name in CALLS:
        setattr(os, name, partial(watched, getattr(os, name)))
    die_at_call.counted = counted  # type: ignore[attr-defined]


def in_child(work: Callable[[], Any]) -> tuple[int, Any]:
    """Run ``work`` in a process of its own; return its exit status (negative: the signal) and its result."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.close(reader)
            result = json.dumps(work())
            with os.fdopen(writer, "w") as out:
                out.write(result)
            code = 0
        except BaseException:  # noqa: BLE001 - a child must never go on as the parent
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), json.loads(text) if text else None


def _count_requests(order: Order, place: Path) -> int:
    stores: list[CountingStore] = []

    def count(store: Store) -> Store:
        stores.append(CountingStore(store))
        return stores[-1]

    take(order, place, count)
    return stores[0].mutations


def _count_calls(work: Callable[[Order, Path], object], order: Order, place: Path) -> int:
    die_at_call(0)
    work(order, place)
    counted: list[int] = die_at_call.counted  # type: ignore[attr-defined]
    return counted[0]


def _killed_at_call(work: Callable[[Order, Path], object], order: Order, place: Path, at: int) -> None:
    die_at_call(at)
    work(order, place)


def _fresh(order: Order) -> Path:
    place = Path(order.work)
    if place.exists():
        shutil.rmtree(place)
    shutil.copytree(order.base, place)
    return place


def _succeeded(code: int, result: Any) -> Any:
    if code:
        raise SystemExit(f"what should have succeeded ended with {code}")
    return result


def deaths(order: Order) -> Iterator[dict[str, Any]]:
    """Kill, look, tell; once for each place."""
    if order.kind == "requests":
        count = _succeeded(*in_child(lambda: _count_requests(order, _fresh(order))))
        for at in range(1, count + 1):
            for when in ("before", "after"):
                place = _fresh(order)
                wrap: Any = partial(KillingStore, at=at, when=when)
                code, _ = in_child(lambda p=place, w=wrap: take(order, p, w).name)  # type: ignore[misc]
                yield {"at": at, "when": when, "killed": code == _DIED, **_surveyed(order, place)}
        return
    work = take if order.kind == "calls" else bring_back
    count = _succeeded(*in_child(lambda: _count_calls(work, order, _fresh(order))))
    for at in range(1, count + 1, order.step):
        place = _fresh(order)
        code, _ = in_child(lambda p=place, a=at: _killed_at_call(work, order, p, a))  # type: ignore[misc]
        told = {"at": at, "of": count, "killed": code == _DIED}
        if order.kind == "calls":
            yield told | _surveyed(order, place)
        else:
            yield told | {"left": _left(place / "back"), "again": _repeated(order, place)}


def _surveyed(order: Order, place: Path) -> dict[str, Any]:
    result: dict[str, Any] = _succeeded(*in_child(lambda: survey(order, place)))
    return result


def _left(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _repeated(order: Order, place: Path) -> dict[str, str]:
    """Restore again into the same folder, as it was left."""
    _succeeded(*in_child(lambda: bring_back(order, place)))
    return _left(place / "back")


if __name__ == "__main__":
    for case in deaths(Order(**json.loads(Path(sys.argv[1]).read_text()))):
        print(json.dumps(case), flush=True)
