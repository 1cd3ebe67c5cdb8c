"""Take one restore point of a folder or disk source."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from vmkeep.backup.errors import ChangesUnusable, RepositoryInsideSource, RunRefused
from vmkeep.backup.identity import identify
from vmkeep.backup.outcome import Outcome, met_damage, note_failure
from vmkeep.backup.taking import DiskWork, Taking, promised_by
from vmkeep.capture.folder import FolderHold, HeldDisk, hold
from vmkeep.capture.source import SourceAddress
from vmkeep.clock import Clock
from vmkeep.errors import ExitCode, VmkeepError
from vmkeep.model.consistency import Policy
from vmkeep.model.plan import Plan, VmRef
from vmkeep.model.point import Claim, StoredDisk
from vmkeep.pace import Pace
from vmkeep.planner.folder import DISKS_LEFT_OUT, decide_folder
from vmkeep.progress import Progress
from vmkeep.ranges import ByteRange
from vmkeep.repository.journal import Journal
from vmkeep.repository.listing import SealedPoint
from vmkeep.repository.manifest import format_time
from vmkeep.repository.reader import DiskMap
from vmkeep.repository.repository import Repository

_PREFERRED: Final = Policy()
# What is to be read of all disks is in memory at once, in two lists of some 150 bytes a range. Where
# a chain, or the holes of files, are more scattered than that, zeros between are read.
_MOST_RANGES: Final = 1 << 18


@dataclass(frozen=True)
class Request:
    """What the user asked for; ``changes`` is a range list declared as changed since ``parent``.

    ``reread`` is the share of what is read (0 to 1) that the re-read audit
    examines, which is a few hundred chunks at least. ``limit_read``: no more bytes
    per second are read of the source.
    """

    source: SourceAddress
    policy: Policy = _PREFERRED
    name: str | None = None
    changes: tuple[ByteRange, ...] | None = None
    parent: str | None = None
    reread: float = 0.0
    accept_rollback: bool = False
    limit_read: int | None = None


def run(request: Request, repository: Repository, clock: Clock, progress: Progress) -> Outcome:
    """Take a restore point; on any error none exists and nothing stays held.

    Raises RunRefused, ChangesUnusable, and the errors of the rooms below.
    """
    started = clock.monotonic()
    _refuse_own_repository(request.source, repository)
    listing = repository.listing(accept_rollback=request.accept_rollback)
    parent = listing.find(request.parent) if request.parent is not None else None
    vm = identify(request.source, request.name, parent)
    journal = repository.journal(vm, os.urandom(16).hex())
    dead = journal.begin({"source": str(request.source)})
    with journal.kept():
        try:
            # Files are not changed by a run: of one that died here nothing is left but its journal.
            for records in dead:
                journal.bury(records)
            taken = _take(request, repository, clock, progress, journal, vm, parent)
        except BaseException as error:
            note_failure(journal, error)
            raise
        # The point exists and is whole, whatever happens now; only what is told about it may not be.
        repository.remember(taken.sealed)
        warnings = taken.warnings + _tell_end(repository, clock, journal, taken.sealed)
    code = ExitCode.PARTIAL if warnings else ExitCode.OK
    seconds = clock.monotonic() - started
    got = taken.sealed.point.consistency.got
    return Outcome(taken.sealed, taken.plan, got, code, seconds, tuple(warnings), taken.notes)


@dataclass(frozen=True)
class _Taken:
    """A sealed point, and what is wrong besides; ``notes`` change no exit code."""

    sealed: SealedPoint
    plan: Plan
    warnings: list[str]
    notes: tuple[str, ...]


def _take(
    request: Request,
    repository: Repository,
    clock: Clock,
    progress: Progress,
    journal: Journal,
    vm: VmRef,
    parent: SealedPoint | None,
) -> _Taken:
    """Hold the source and take the point."""
    # Only now nobody else adds points of this VM; one may have done so since the first look.
    listing = repository.points.listing(vm.id)
    base = parent or listing.newest(vm.id)
    with hold(request.source) as held:
        at_rest = clock.now()
        plan = _decide(request, held, base)
        work = _work(request, held, base, repository)
        taking = Taking(
            repository=repository,
            clock=clock,
            progress=progress,
            journal=journal,
            vm=vm,
            head=repository.head(listing, vm.id),
            base=base,
            source=str(request.source),
            at_rest=at_rest,
            reread=request.reread,
            doubt_base=_doubts_parent(request, held, base, vm),
            pace=Pace(request.limit_read, clock) if request.limit_read is not None else None,
        )
        promised = promised_by(plan)
        claim = Claim(str(request.policy), promised, promised, plan.reasons)
        sealed, audit = taking.take(held, plan, claim, work)
    warnings = [f"{r.fact} {r.fix}" for r in plan.reasons if r.code == DISKS_LEFT_OUT]
    warnings += [problem.message for problem in listing.problems]
    warnings += met_damage(audit)
    # Nothing brings a vanished point back: ending with another code from now on would hide what is new.
    return _Taken(sealed, plan, warnings, tuple(gap.message for gap in listing.gaps))


def _tell_end(repository: Repository, clock: Clock, journal: Journal, sealed: SealedPoint) -> list[str]:
    """Store the evidence of a sealed point and close its run; return what could not be done."""
    warnings: list[str] = []
    evidence: list[str] = []
    try:
        released = {"time": format_time(clock.now()), "run": journal.run, "released": True}
        evidence.append(repository.points.attach("evidence", sealed.name, released))
    except VmkeepError as error:
        warnings.append(f"the restore point is sealed, but its evidence is not stored: {error.message}")
    try:
        journal.finish({"outcome": "sealed", "point": sealed.name, "evidence": evidence})
    except VmkeepError as error:
        warnings.append(f"the restore point is sealed, but its run could not be closed: {error.message}")
    return warnings


def _decide(request: Request, held: FolderHold, base: SealedPoint | None) -> Plan:
    plan = decide_folder(
        replace(held.facts, unproven=_unproven(held, base)),
        request.policy,
        has_earlier_point=base is not None,
        changes_given=request.changes is not None,
    )
    if plan.verdict != "go":
        last = plan.reasons[-1]
        raise RunRefused(f"refused: {last.fact} {plan.reasons[0].effect}", hint=last.fix)
    return plan


def _unproven(held: FolderHold, base: SealedPoint | None) -> tuple[str, ...]:
    """Name the disks that no identifier shows to be the same as in the earlier point; a raw disk has none."""
    stored = base.point.disks if base is not None else ()
    found = []
    for disk in held.disks:
        before = _same_disk(disk, held.disks, stored)
        now = disk.disk.profile.disk_id
        if before is not None and (now is None or before.disk_id != str(now)):
            found.append(disk.name)
    return tuple(found)


def _same_disk(disk: HeldDisk, disks: Sequence[HeldDisk], stored: Sequence[StoredDisk]) -> StoredDisk | None:
    """Return the disk in an earlier point: the one of its name, or the only one where both have one."""
    if len(stored) == len(disks) == 1:
        return stored[0]
    return next((d for d in stored if d.name == disk.name), None)


def _refuse_own_repository(source: SourceAddress, repository: Repository) -> None:
    # A folder that holds its own repository would grow while it is read.
    place, folder = Path(repository.store.address).resolve(), source.path.resolve()
    if source.kind == "folder" and (place == folder or folder in place.parents):
        raise RepositoryInsideSource(f"the repository {str(place)!r} lies inside the folder to be protected.")


def _work(
    request: Request, held: FolderHold, base: SealedPoint | None, repository: Repository
) -> list[DiskWork]:
    """Say of each disk what is read of it, and what it builds on. Raises ChangesUnusable."""
    if request.changes is not None and len(held.disks) > 1:
        raise ChangesUnusable(
            f"--changes lists the ranges of one disk, but the source has {len(held.disks)}.",
            hint="Give each disk with disk:FILE, or leave --changes away.",
        )
    unit, most = repository.parameters.chunk_size, max(1, _MOST_RANGES // len(held.disks))
    work = []
    for disk in held.disks:
        before = _base_map(request, disk, held.disks, base, repository)
        if request.changes is None or before is None:
            work.append(DiskWork(before, disk.extents(unit, most)))
        else:
            work.append(DiskWork(before, _declared(disk, request.changes), inherit=True))
    return work


def _base_map(
    request: Request,
    disk: HeldDisk,
    disks: Sequence[HeldDisk],
    base: SealedPoint | None,
    repository: Repository,
) -> DiskMap | None:
    """Return the map of the same disk in the earlier point, if it still has the same size.

    Disks are matched by name; where both points have just one, that one is meant.
    Raises ChangesUnusable when declared changes have nothing to build on.
    """
    same = _same_disk(disk, disks, base.point.disks if base is not None else ())
    size = disk.disk.profile.size
    if same is not None and same.size == size:
        return repository.disk_map(same)
    if request.changes is not None:
        what = f"has another size ({same.size} bytes) there" if same else "is not in it"
        raise ChangesUnusable(
            f"--changes builds on the parent restore point, but the disk {disk.name!r} {what}."
        )
    return None


def _declared(disk: HeldDisk, changes: Sequence[ByteRange]) -> list[ByteRange]:
    size = disk.disk.profile.size
    if changes and changes[-1].end > size:
        raise ChangesUnusable(
            f"--changes names byte {changes[-1].end - 1}, but the disk {disk.name!r} has {size} bytes."
        )
    return list(changes)


def _doubts_parent(request: Request, held: FolderHold, base: SealedPoint | None, vm: VmRef) -> bool:
    """Tell whether changes were declared since a point of another VM, or of a disk that may be another."""
    if request.changes is None or base is None:
        return False
    return base.point.vm.id != vm.id or bool(_unproven(held, base))
