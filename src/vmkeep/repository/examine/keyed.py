"""Examine a whole repository with its keys: is every restore point complete, is every byte as it was written?

Runs may go on beside it: points are listed first, so that whatever they need
is there when it is looked for, and what seems to have vanished is looked for
once more.
"""

import json
import random
from itertools import accumulate
from typing import NamedTuple

from vmkeep.objectstore.errors import BadObjectName, ObjectMissing
from vmkeep.objectstore.names import is_valid_name
from vmkeep.objectstore.store import Store
from vmkeep.progress import Progress
from vmkeep.repository.box import open_box
from vmkeep.repository.errors import ObjectLost, RepositoryError, Tampered
from vmkeep.repository.examine.presence import (
    BOXES,
    Listed,
    check_plain_objects,
    check_presence,
    drop_vanished,
    in_threads,
    is_well_named,
    list_packs,
    read_inventories,
)
from vmkeep.repository.examine.report import PointState, Report, State, state_by_name
from vmkeep.repository.examine.wholeness import Examiner, Lengths, unreadable_frames
from vmkeep.repository.fetching import fetch
from vmkeep.repository.index import PREFIX as INDEX
from vmkeep.repository.index import Index, decode_index
from vmkeep.repository.journal import PREFIX as RUNS
from vmkeep.repository.journal import Record, read_record
from vmkeep.repository.keys import KeyRing
from vmkeep.repository.listing import POINTS, SEALS, Listing
from vmkeep.repository.manifest import format_time
from vmkeep.repository.packs import Kind, Pack, PackRef
from vmkeep.repository.parameters import Parameters
from vmkeep.repository.reader import Reader
from vmkeep.repository.repository import Repository


def check(repository: Repository, share: float, progress: Progress) -> Report:
    """Examine everything; read the data of a random ``share`` (0 to 1) of the packs.

    Never raises for a finding; all of them are in the report.
    """
    report = Report()
    store, ring, parameters = repository.store, repository.ring, repository.parameters
    check_plain_objects(store, parameters, report)
    listing = _read_listing(repository, report)
    listed = read_inventories(store, parameters, ring, report)
    index = Index()
    lengths = Lengths(parameters.chunk_size)
    try:
        packs = _read_slot_tables(store, ring, parameters, listed, index, lengths, report)
        sample = _sample(packs, share)
        _read_packs(store, ring, parameters, sample, report, progress)
        index.drop_packs(drop_vanished(store, report))
        report.damaged = report.packs_named()
        report.verified = frozenset(pack.ref for pack in sample) - report.damaged
        check_presence(store, parameters, ring, listed, report)
        _check_chains(repository, listing, report)
        _check_promises(repository, listing, report)
        _examine_points(
            Reader(store, parameters, ring, index), index, lengths, repository, listing, packs, report
        )
    finally:
        index.close()
    _check_boxes(store, ring, report)
    _check_index(store, ring, {pack.ref: pack.slots for pack in packs}, report)
    return report


def _read_listing(repository: Repository, report: Report) -> Listing:
    """List the points, and see that none is missing that this machine has seen."""
    listing, rolled_back = repository.look()
    for problem in listing.problems:
        name = str(problem.context.get("object", ""))
        report.add(name, problem)
        if name.startswith((POINTS, SEALS)):
            report.unseen.add(name)
    if rolled_back is not None:
        report.add(POINTS, rolled_back)
        report.unseen.add(POINTS)
    return listing


class _KnownPack(NamedTuple):
    """What is kept of a pack: there may be so many that their slot tables do not fit into memory."""

    ref: PackRef
    size: int
    slots: int


def _read_slot_tables(
    store: Store,
    ring: KeyRing,
    parameters: Parameters,
    listed: Listed,
    index: Index,
    lengths: Lengths,
    report: Report,
) -> list[_KnownPack]:
    """Open every pack, tell index and lengths what it holds, and return what can be opened."""
    packs, refs = [], []
    for info in list_packs(store):
        ref = PackRef.from_name(info.name)
        if ref is not None:
            refs.append(ref)
    # Of two copies the one that an inventory lists is found: only what nobody lists at all is told.
    index.avoid(ref.id for ref in refs if ref.name not in listed.names)
    for ref in refs:
        try:
            pack = Pack(store, ring, ref, parameters.chunk_size)
        except (Tampered, ObjectMissing) as error:
            report.add(ref.name, error)
            continue
        index.add_pack(ref, pack.slots)
        lengths.learn(ref, pack.slots)
        packs.append(_KnownPack(ref, pack.size, len(pack.slots)))
    report.packs = len(packs)
    return packs


def _check_chains(repository: Repository, listing: Listing, report: Report) -> None:
    """See that every point's predecessor is there or was forgotten on purpose, and that the numbers agree."""
    numbers = {sealed.digest: sealed.point.number for sealed in listing.points}
    numbers |= {stone.digest: stone.number for stone in listing.forgotten}
    for gap in listing.gaps:
        name = str(gap.context["object"])
        if not _is_sealed(repository, name):
            report.add(name, gap)
            report.unseen.add(name)
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
            wrong = False  # it is missing, or a problem already
        if wrong:
            text = f"the restore point {sealed.name} is number {point.number} of its VM"
            report.add(sealed.name, f"{text}, which its predecessor contradicts.")


def _is_sealed(repository: Repository, name: str) -> bool:
    """Look once more for a point that was not listed: it may be younger than the listing."""
    try:
        return repository.points.load(name) is not None
    except (RepositoryError, ObjectMissing, BadObjectName):
        return False


def _check_promises(repository: Repository, listing: Listing, report: Report) -> None:
    """See that what finished runs and manifests speak of is there."""
    store = repository.store
    forgotten = {stone.name for stone in listing.forgotten}
    known = {sealed.name for sealed in listing.points} | forgotten
    known |= {problem.object for problem in report.problems}
    # All runs, not only those of VMs that still have a point.
    for info in store.list(RUNS):
        try:
            record = read_record(store, repository.ring, info.name)
        except (Tampered, ObjectMissing):
            continue  # every box is examined by itself, and named there
        name = str(record.detail.get("point", ""))
        if record.detail.get("outcome") != "sealed":
            continue
        if name not in known and not _is_sealed(repository, name):
            report.add(name, f"the restore point {name} vanished: run {record.run[:12]} sealed it.")
            report.unseen.add(name)
        _check_run(store, info.name, record, report)
        if name not in forgotten:
            _check_evidence(store, record, report)
    for sealed in listing.points:
        name = sealed.point.inventory
        if not is_valid_name(name) or store.head(name) is None:
            report.add(name, f"the inventory {name} is missing.")


def _check_run(store: Store, last: str, record: Record, report: Report) -> None:
    """See that a run which sealed a point left all of its records: it would not have gone on without one."""
    folder = last.rpartition("/")[0]
    for number in range(record.number):
        name = f"{folder}/{number:06}"
        if store.head(name) is None:
            report.add(name, f"the journal record {name} is missing: later ones of its run are there.")


def _check_evidence(store: Store, record: Record, report: Report) -> None:
    promised = record.detail.get("evidence", [])
    for name in promised if isinstance(promised, list) else []:
        if isinstance(name, str) and is_valid_name(name) and store.head(name) is None:
            report.add(name, f"the evidence {name} is missing: run {record.run[:12]} stored it.")


def _examine_points(
    reader: Reader,
    index: Index,
    lengths: Lengths,
    repository: Repository,
    listing: Listing,
    packs: list[_KnownPack],
    report: Report,
) -> None:
    """Walk the maps of all points; say of each what it is worth, and of each damaged pack who needs it."""
    readable = [pack.ref for pack in packs]
    unreadable = unreadable_frames(
        repository.store, repository.ring, repository.parameters, report.damaged & set(readable), readable
    )
    lost = (report.damaged - set(readable)) | report.gone
    # Of the damaged packs every frame was read: those not in ``unreadable`` are right, here or elsewhere.
    read_through = report.verified | report.damaged
    examiner = Examiner(reader, index, read_through, unreadable, lost, lengths)
    affected: dict[str, list[str]] = {}
    for sealed in listing.points:
        point = sealed.point
        losses, culprits, read = examiner.examine(sealed)
        for loss in losses:
            text = f"{loss.name!r} of restore point {point.id[:12]} is incomplete: {loss.bytes} bytes, "
            text += f"the first of them at offset {loss.ranges[0][0]}, cannot be read back."
            report.add(sealed.name, text)
        for culprit in culprits:
            affected.setdefault(culprit, []).append(point.id)
        state = State.DAMAGED if losses else State.WHOLE if read else State.NOT_EXAMINED
        time = format_time(point.time)
        report.points.append(
            PointState(point.id, point.vm.name, point.vm.id, time, sealed.name, state, tuple(losses))
        )
    for ref in sorted(examiner.unlisted):
        text = f"no inventory lists the pack {ref.name}, which restore points need: an inventory was removed."
        report.add(ref.name, text)
    report.points += _unreadable_points(report)
    report.blame(affected)


def _unreadable_points(report: Report) -> list[PointState]:
    """Return what was a restore point once and is none any more, as far as names tell."""
    listed = {point.object for point in report.points}
    objects = {p.object for p in report.problems if not p.harmless and p.object.startswith((POINTS, SEALS))}
    names = {POINTS + name.removeprefix(SEALS).removeprefix(POINTS) for name in objects}
    return [state_by_name(name, State.DAMAGED) for name in sorted(names - listed) if is_well_named(name)]


def _check_boxes(store: Store, ring: KeyRing, report: Report) -> None:
    for prefix in BOXES:
        for info in store.list(prefix):
            try:
                fields = json.loads(open_box(ring, info.name, fetch(store, info)))
                if not isinstance(fields, dict) or fields.get("version") != 1:
                    report.add(info.name, f"the object {info.name} is of a kind or version nobody wrote.")
            except ObjectMissing:
                continue  # removed since it was listed; what calls for it says so
            except Tampered as error:
                report.add(info.name, error)
            except ValueError:
                report.add(info.name, f"the object {info.name} cannot be understood.")


def _check_index(store: Store, ring: KeyRing, packs: dict[PackRef, int], report: Report) -> None:
    for info in store.list(INDEX):
        try:
            listed, _ = decode_index(open_box(ring, info.name, fetch(store, info)), info.name)
        except ObjectMissing:
            continue
        except Tampered as error:
            report.add(info.name, f"{error.message} It is derived and may be deleted.", harmless=True)
            continue
        for ref, slots in listed:
            if packs.get(ref, slots) != slots:
                report.add(info.name, f"the index object {info.name} contradicts {ref.name}.")


def _sample(packs: list[_KnownPack], share: float) -> list[_KnownPack]:
    """Draw packs until they hold this share of all bytes; they may be of very different sizes."""
    wanted = share * sum(pack.size for pack in packs)
    drawn = random.sample(packs, len(packs))
    before = accumulate((pack.size for pack in drawn), initial=0)
    return [pack for pack, size in zip(drawn, before, strict=False) if size < wanted]


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

    for pack, error in in_threads(verify, packs):
        report.bytes_read += pack.size
        progress.advance(pack.size)
        if error is not None:
            report.add(pack.ref.name, error)
    progress.end()
