"""Examine a whole repository: is every restore point complete, and is every byte as it was written?

With keys everything is proven; without, rot and loss of packs are still found
(whoever stores the repository can do that without being able to read it).
"""

import json
import os
import random
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeVar

from blake3 import blake3

from vmkeep.errors import VmkeepError
from vmkeep.objectstore.errors import ObjectMissing
from vmkeep.objectstore.store import ObjectInfo, Store
from vmkeep.progress import Progress
from vmkeep.repository.box import open_box, verify_box
from vmkeep.repository.condemned import CONDEMNED
from vmkeep.repository.errors import ObjectLost, RepositoryError, Tampered
from vmkeep.repository.fetching import fetch
from vmkeep.repository.index import PREFIX as INDEX
from vmkeep.repository.index import Index, decode_index
from vmkeep.repository.inventory import PREFIX as INVENTORY
from vmkeep.repository.inventory import decode_inventory
from vmkeep.repository.journal import PREFIX as RUNS
from vmkeep.repository.journal import SESSIONS, read_record
from vmkeep.repository.keys import KeyRing, key_infos
from vmkeep.repository.listing import POINTS, SEALS, Listing, SealedPoint
from vmkeep.repository.nodes import Child
from vmkeep.repository.packs import Kind, Pack, PackRef, verify_stored
from vmkeep.repository.parameters import SPECIFICATION_NAME, Parameters
from vmkeep.repository.points import FORGOTTEN
from vmkeep.repository.reader import Reader, map_of
from vmkeep.repository.repository import Repository

_BOXES: Final = (RUNS, SESSIONS, CONDEMNED, FORGOTTEN, "tracking/", "evidence/")
# Names these prefixes hold are known; anything else in the store is a stranger, and named.
_KNOWN: Final = (*_BOXES, POINTS, SEALS, "packs/", "maps/", INDEX, INVENTORY, "keys/", "probe/", "tmp/")


T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: the object, and what is the matter with it.

    ``harmless`` problems cost speed or tidiness, never data.
    """

    object: str
    message: str
    harmless: bool = False


@dataclass
class Report:
    """What an examination covered and found."""

    points: int = 0
    packs: int = 0
    bytes_read: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return all(problem.harmless for problem in self.problems)

    def add(self, name: str, error: VmkeepError | str, *, harmless: bool = False) -> None:
        message = error if isinstance(error, str) else error.message
        problem = Problem(name, message, harmless)
        if problem not in self.problems:
            self.problems.append(problem)


def check(repository: Repository, share: float, progress: Progress, seed: int | None = None) -> Report:
    """Examine everything; read the data of a random ``share`` (0 to 1) of the packs.

    Never raises for a finding; all of them are in the report.
    """
    report = Report()
    store, ring = repository.store, repository.ring
    _check_plain_objects(store, repository.parameters, report)
    index = Index()
    packs = _read_slot_tables(store, ring, repository.parameters, index, report)
    reader = Reader(store, repository.parameters, ring, index)
    listing = repository.points.listing()
    for problem in listing.problems:
        report.add(str(problem.context.get("object", "")), problem)
    report.points = len(listing.points)
    rolled_back = repository.rollback(listing)
    if rolled_back is not None:
        report.add("points/", rolled_back)
    _check_chains(listing, report)
    _check_promises(store, ring, listing, report)
    visited: dict[bytes, bool] = {}
    for sealed in listing.points:
        _check_point(reader, sealed, visited, report)
    _check_inventories(store, repository.parameters, ring, {info.name for info in _packs(store)}, report)
    _check_boxes(store, ring, report)
    _check_index(store, ring, {pack.ref: pack.slots for pack in packs}, report)
    _read_packs(store, ring, repository.parameters, _sample(packs, share, seed), report, progress)
    index.close()
    return report


def check_keyless(store: Store, parameters: Parameters, progress: Progress) -> Report:
    """Examine what can be examined without keys: presence and checksums of all packs."""
    report = Report()
    _check_plain_objects(store, parameters, report)
    _check_boxes_keyless(store, report)
    present = list(_packs(store))
    expected = _check_inventories(store, parameters, None, {info.name for info in present}, report)
    progress.begin("checksums", sum(info.size for info in present))

    def verify(info: ObjectInfo) -> tuple[ObjectInfo, RepositoryError | None]:
        try:
            checksum = verify_stored(store, info.name)
            if expected.get(info.name, checksum) != checksum:
                raise Tampered(f"the pack {info.name} is not the one its inventory lists.", object=info.name)
        except ObjectMissing:
            return info, ObjectLost(f"the pack {info.name} vanished while it was examined.")
        except Tampered as error:
            return info, error
        return info, None

    for info, error in _in_threads(verify, present):
        report.packs += 1
        report.bytes_read += info.size
        progress.advance(info.size)
        if error is not None:
            report.add(info.name, error)
    progress.end()
    return report


def _packs(store: Store) -> Iterator[ObjectInfo]:
    for kind in Kind:
        yield from store.list(kind.prefix)


def _check_plain_objects(store: Store, parameters: Parameters, report: Report) -> None:
    try:
        specification = fetch(store, SPECIFICATION_NAME)
        if blake3(specification).hexdigest() != parameters.specification:
            report.add(SPECIFICATION_NAME, "the copy of the format specification was altered.", harmless=True)
    except ObjectMissing:
        report.add(SPECIFICATION_NAME, "the copy of the format specification is missing.", harmless=True)
    except Tampered as error:
        report.add(SPECIFICATION_NAME, error, harmless=True)
    for info in store.list("keys/"):
        try:
            key_infos(store, only=info.name)
        except RepositoryError as error:
            report.add(info.name, error)
    for info in store.list(""):
        if "/" not in info.name:
            known = info.name in ("format", SPECIFICATION_NAME)
        else:
            known = info.name.startswith(_KNOWN)
        if not known:
            report.add(info.name, f"the object {info.name} is not part of a repository.", harmless=True)


class _KnownPack(NamedTuple):
    """What is kept of a pack: there may be so many that their slot tables do not fit into memory."""

    ref: PackRef
    size: int
    slots: int


def _read_slot_tables(
    store: Store, ring: KeyRing, parameters: Parameters, index: Index, report: Report
) -> list[_KnownPack]:
    """Open every pack, tell the index what it holds, and return what can be opened."""
    packs = []
    for info in _packs(store):
        ref = PackRef.from_name(info.name)
        if ref is None:
            report.add(info.name, f"the object {info.name} has no pack's name.", harmless=True)
            continue
        try:
            pack = Pack(store, ring, ref, parameters.chunk_size)
        except (Tampered, ObjectMissing) as error:
            report.add(info.name, error)
            continue
        index.add_pack(ref, pack.slots)
        packs.append(_KnownPack(ref, pack.size, len(pack.slots)))
    report.packs = len(packs)
    return packs


def _check_chains(listing: Listing, report: Report) -> None:
    """See that every point's predecessor is there or was forgotten on purpose, and that the numbers agree."""
    numbers = {sealed.digest: sealed.point.number for sealed in listing.points}
    numbers |= {stone.digest: stone.number for stone in listing.forgotten}
    reported = {problem.object for problem in report.problems}
    taken: dict[tuple[str, int], str] = {}
    for sealed in listing.points:
        point, previous = sealed.point, sealed.point.previous
        other = taken.setdefault((point.vm.id, point.number), sealed.name)
        if other != sealed.name:
            report.add(sealed.name, f"the restore points {other} and {sealed.name} have the same number.")
        if previous is None:
            wrong = point.number != 1
        elif previous[1] in numbers:
            wrong = point.number != numbers[previous[1]] + 1
        else:
            wrong = False
            if previous[0] not in reported:
                text = f"the restore point {previous[0]} vanished: its successor {point.id[:12]} names it"
                report.add(previous[0], f"{text}, and it was not forgotten.")
        if wrong:
            text = f"the restore point {sealed.name} is number {point.number} of its VM"
            report.add(sealed.name, f"{text}, which its predecessor contradicts.")


def _check_promises(store: Store, ring: KeyRing, listing: Listing, report: Report) -> None:
    """See that what finished runs and manifests speak of is there."""
    known = {sealed.name for sealed in listing.points} | {stone.name for stone in listing.forgotten}
    reported = {problem.object for problem in report.problems}
    # All runs, not only those of VMs that still have a point.
    for info in store.list(RUNS):
        try:
            record = read_record(store, ring, info.name)
        except (Tampered, ObjectMissing):
            continue  # every box is examined by itself, and named there
        name = str(record.detail.get("point", ""))
        if record.detail.get("outcome") == "sealed" and name not in known | reported:
            report.add(name, f"the restore point {name} vanished: run {record.run[:12]} sealed it.")
    for sealed in listing.points:
        if store.head(sealed.point.inventory) is None:
            report.add(sealed.point.inventory, f"the inventory {sealed.point.inventory} is missing.")


def _check_point(reader: Reader, sealed: SealedPoint, visited: dict[bytes, bool], report: Report) -> None:
    """Walk the maps of one point; what an earlier point shares with it is not walked again."""
    for stored in sealed.point.mapped:
        disk = map_of(reader, stored)
        try:
            if disk.root is not None and _walk(reader, disk.root, disk.level, visited):
                disk.refuse_unlisted_exclusions()
        except (RepositoryError, ObjectMissing) as error:
            what = f"{stored.name!r} of restore point {sealed.point.id[:12]} is incomplete"
            report.add(sealed.name, f"{what}: {error.message}")


def _walk(reader: Reader, node_id: bytes, level: int, visited: dict[bytes, bool]) -> bool:
    """Find every node and chunk below a node; return whether something below it is excluded."""
    if node_id in visited:
        return visited[node_id]
    excluding = False
    for child in reader.node(node_id, level):
        if isinstance(child, Child):
            excluding |= child is Child.EXCLUDED
        elif level:
            excluding |= _walk(reader, child, level - 1, visited)
        else:
            reader.locate(child, Kind.CHUNKS)
    # Only now: a node whose part is missing is reported for each point that uses it.
    visited[node_id] = excluding
    return excluding


def _check_inventories(
    store: Store, parameters: Parameters, ring: KeyRing | None, present: set[str], report: Report
) -> dict[str, bytes]:
    """Compare what runs wrote with what is there; return the checksums by name."""
    expected: dict[str, bytes] = {}
    needed: set[str] = set()
    removed: set[str] = set()
    for info in store.list(INVENTORY):
        try:
            inventory = decode_inventory(info.name, fetch(store, info), parameters.repository, ring)
        except (Tampered, ObjectMissing) as error:
            report.add(info.name, error)
            continue
        expected |= {name: checksum for name, _, checksum in inventory.added}
        needed |= {name for name, _, _ in inventory.added} | set(inventory.relied)
        removed |= set(inventory.removed)
    for name in sorted(needed - removed - present):
        report.add(name, f"the pack {name} is missing.")
    return expected


def _check_boxes(store: Store, ring: KeyRing, report: Report) -> None:
    for prefix in _BOXES:
        for info in store.list(prefix):
            try:
                fields = json.loads(open_box(ring, info.name, fetch(store, info)))
                if not isinstance(fields, dict) or fields.get("version") != 1:
                    report.add(info.name, f"the object {info.name} is of a kind or version nobody wrote.")
            except (Tampered, ObjectMissing) as error:
                report.add(info.name, error)
            except ValueError:
                report.add(info.name, f"the object {info.name} cannot be understood.")


def _check_boxes_keyless(store: Store, report: Report) -> None:
    """Find rot in every box, and seals whose manifest is gone."""
    manifests = {info.name.removeprefix(POINTS) for info in store.list(POINTS)}
    for info in store.list(SEALS):
        if info.name.removeprefix(SEALS) not in manifests:
            name = POINTS + info.name.removeprefix(SEALS)
            report.add(
                name, f"the manifest {name} is missing, or was voided: only a key can tell.", harmless=False
            )
    for prefix in (*_BOXES, POINTS, SEALS, INDEX):
        for info in store.list(prefix):
            try:
                verify_box(info.name, fetch(store, info))
            except (Tampered, ObjectMissing) as error:
                report.add(info.name, error, harmless=prefix == INDEX)


def _check_index(store: Store, ring: KeyRing, packs: dict[PackRef, int], report: Report) -> None:
    for info in store.list(INDEX):
        try:
            listed, _ = decode_index(open_box(ring, info.name, fetch(store, info)), info.name)
        except (Tampered, ObjectMissing) as error:
            report.add(info.name, f"{error.message} It is derived and may be deleted.", harmless=True)
            continue
        for ref, slots in listed:
            if packs.get(ref, slots) != slots:
                report.add(info.name, f"the index object {info.name} contradicts {ref.name}.")


def _sample(packs: list[_KnownPack], share: float, seed: int | None) -> list[_KnownPack]:
    count = -(-int(len(packs) * share * 1000) // 1000) if share < 1 else len(packs)
    return random.Random(seed).sample(packs, min(len(packs), max(count, 1 if share > 0 and packs else 0)))


def _read_packs(
    store: Store,
    ring: KeyRing,
    parameters: Parameters,
    packs: list[_KnownPack],
    report: Report,
    progress: Progress,
) -> None:
    progress.begin("reading data", sum(pack.size for pack in packs))

    def verify(known: _KnownPack) -> tuple[_KnownPack, RepositoryError | None]:
        name = known.ref.name
        key = ring.chunk_id_key if known.ref.kind is Kind.CHUNKS else ring.node_id_key
        try:
            Pack(store, ring, known.ref, parameters.chunk_size).verify(key)
        except ObjectMissing:
            return known, ObjectLost(f"the pack {name} vanished while it was examined.")
        except Tampered as error:
            return known, error
        return known, None

    for pack, error in _in_threads(verify, packs):
        report.bytes_read += pack.size
        progress.advance(pack.size)
        if error is not None:
            report.add(pack.ref.name, error)
    progress.end()


def _in_threads(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    # One whole pack a thread is in memory: the number of threads bounds it.
    with ThreadPoolExecutor(max(2, min(4, os.cpu_count() or 2)), thread_name_prefix="vmkeep-check") as pool:
        yield from pool.map(work, items)
