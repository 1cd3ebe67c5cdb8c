"""Take one restore point of a folder or disk source."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from vmkeep import __version__
from vmkeep.backup.audit import Audit, Auditor, Held
from vmkeep.backup.errors import AuditFailed, ChangesUnusable, RepositoryInsideSource, RunRefused
from vmkeep.backup.identity import identify
from vmkeep.capture.folder import FolderHold, HeldDisk, hold
from vmkeep.capture.source import SourceAddress
from vmkeep.clock import Clock
from vmkeep.errors import ExitCode, VmkeepError
from vmkeep.model.consistency import Consistency, Policy
from vmkeep.model.plan import Method, Plan, VmRef
from vmkeep.model.point import Claim, RestorePoint, StoredDisk, StoredFile
from vmkeep.planner.folder import DISKS_LEFT_OUT, decide_folder
from vmkeep.progress import Progress
from vmkeep.ranges import ByteRange, total
from vmkeep.repository.errors import ObjectLost
from vmkeep.repository.journal import PUBLISHING, Journal
from vmkeep.repository.listing import SealedPoint
from vmkeep.repository.manifest import format_time
from vmkeep.repository.publish import publish
from vmkeep.repository.reader import DiskMap
from vmkeep.repository.repository import Repository
from vmkeep.repository.writer import Writer, WrittenMap

_PREFERRED: Final = Policy()
# What is to be read of all disks is in memory at once, in two lists of some 150 bytes a range. Where
# a chain, or the holes of files, are more scattered than that, zeros between are read.
_MOST_RANGES: Final = 1 << 18


@dataclass(frozen=True)
class Request:
    """What the user asked for; ``changes`` is a range list declared as changed since ``parent``.

    ``reread`` is the share of what is read (0 to 1) that the re-read audit
    examines, which is a few hundred chunks at least.
    """

    source: SourceAddress
    policy: Policy = _PREFERRED
    name: str | None = None
    changes: tuple[ByteRange, ...] | None = None
    parent: str | None = None
    reread: float = 0.0
    accept_rollback: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a run achieved: the restore point that now exists, and how the process should end.

    ``warnings`` tell what is wrong besides: disks that were left out, damaged
    points of the same VM, damaged packs that were met, a run that could not be
    closed. ``notes`` tell what is wrong for good: points that vanished.
    """

    sealed: SealedPoint
    plan: Plan
    exit_code: ExitCode
    seconds: float
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


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
            _note_failure(journal, error)
            raise
        # The point exists and is whole, whatever happens now; only what is told about it may not be.
        repository.remember(taken.sealed)
        warnings = taken.warnings + _tell_end(repository, clock, journal, taken.sealed)
    code = ExitCode.PARTIAL if warnings else ExitCode.OK
    seconds = clock.monotonic() - started
    return Outcome(taken.sealed, taken.plan, code, seconds, tuple(warnings), taken.notes)


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
        plan = _decide(request, held, base)
        head = repository.head(listing, vm.id)
        taking = _Taking(request, repository, clock, progress, journal, vm, head, base)
        sealed, audit = taking.take(held, plan)
    warnings = [f"{r.fact} {r.fix}" for r in plan.reasons if r.code == DISKS_LEFT_OUT]
    warnings += [problem.message for problem in listing.problems]
    warnings += [_met_damage(name) for name in audit.replaced_packs]
    if audit.lost:
        warnings.append(_met_damage("something an earlier restore point holds"))
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
        replace(held.facts, other_ids=_other_ids(held, base)),
        request.policy,
        has_earlier_point=base is not None,
        changes_given=request.changes is not None,
    )
    if plan.verdict != "go":
        last = plan.reasons[-1]
        raise RunRefused(f"refused: {last.fact} {plan.reasons[0].effect}", hint=last.fix)
    return plan


def _other_ids(held: FolderHold, base: SealedPoint | None) -> tuple[str, ...]:
    """Name the disks whose identifier differs from that of the same disk in the earlier point."""
    stored = base.point.disks if base is not None else ()
    found = []
    for disk in held.disks:
        before = _same_disk(disk, held.disks, stored)
        now = disk.disk.profile.disk_id
        if before is not None and before.disk_id and now and before.disk_id != str(now):
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


def _met_damage(pack: str) -> str:
    return (
        f"{pack} is damaged or gone; this restore point got what it needs of it from the source again, "
        "others may need it too: run `vmkeep repo check --read-data all`."
    )


def _note_failure(journal: Journal, error: BaseException) -> None:
    why = {"error": type(error).__name__}
    if isinstance(error, VmkeepError):
        why = {"error": error.code, "message": error.message}
    try:
        journal.finish({"outcome": "failed", **why})
    except VmkeepError:
        # The store is what failed; the lease runs out by itself, and the error
        # that matters is the one being raised.
        return


@dataclass(frozen=True)
class _Taking:
    """The part of a run during which the files are held."""

    request: Request
    repository: Repository
    clock: Clock
    progress: Progress
    journal: Journal
    vm: VmRef
    head: tuple[int, str, bytes] | None
    base: SealedPoint | None

    def take(self, held: FolderHold, plan: Plan) -> tuple[SealedPoint, Audit]:
        """Write, read again, check that everything stood still, publish and seal."""
        if self.request.changes is not None and len(held.disks) > 1:
            raise ChangesUnusable(
                f"--changes lists the ranges of one disk, but the source has {len(held.disks)}.",
                hint="Give each disk with disk:FILE, or leave --changes away.",
            )
        at_rest = self.clock.now()
        bases = [self._base_map(disk, held.disks) for disk in held.disks]
        most = max(1, _MOST_RANGES // len(held.disks))
        work = [self._ranges(disk, base, most) for disk, base in zip(held.disks, bases, strict=True)]
        to_read = sum(total(ranges) for ranges in work) + sum(file.source.size() for file in held.files)
        self.progress.begin(f"reading {self.vm.name}", to_read)
        with self.repository.writer(self.journal.run, self.progress) as writer:
            self.journal.step("writing", {"disks": [disk.name for disk in held.disks], "bytes": to_read})
            disks = [self._write_disk(writer, *args) for args in zip(held.disks, work, bases, strict=True)]
            files = self._write_files(writer, held)
            self.progress.end()
            audit = self._audit(writer, held, disks, files)
            # Last before publishing: it also vouches for what the audit read.
            compared = held.check()
            inventory = writer.flush()
            evidence = {
                "hold_check": {"files": compared, "identical": True},
                "changed_ranges": "declared by the user, not verified"
                if self.request.changes is not None
                else "read",
                "reread_audit": audit.evidence(),
                "held_seconds": round((self.clock.now() - at_rest).total_seconds(), 3),
            }

            def manifest(point_id: str) -> RestorePoint:
                point = RestorePoint(
                    id=point_id,
                    run=self.journal.run,
                    vm=self.vm,
                    number=self.head[0] + 1 if self.head else 1,
                    previous=self.head[1:] if self.head else None,
                    parent=self.base.point.id if self.base else None,
                    time=at_rest,
                    finished=self.clock.now(),
                    source=str(self.request.source),
                    method=_chosen(plan)[0],
                    consistency=self._claim(plan),
                    disks=tuple(disk for disk, _ in disks),
                    files=tuple(file for file, _ in files),
                    bytes_read=sum(written.bytes_read for _, written in (*disks, *files)),
                    bytes_stored=writer.bytes_stored,
                    inventory=inventory,
                    program=f"vmkeep {__version__}",
                    evidence=evidence,
                )
                # A run that was buried ends here; whoever buries it later voids the point named here.
                name = self.repository.points.name_of(point)
                self.journal.step(PUBLISHING, {"inventory": inventory, "point": name})
                return point

            inherited = self.base if self.request.changes is not None else None
            repository = self.repository
            sealed = publish(
                repository.store,
                repository.points,
                repository.reader,
                writer,
                self.clock,
                manifest,
                inherited,
            )
            return sealed, audit

    def _audit(
        self,
        writer: Writer,
        held: FolderHold,
        disks: Sequence[tuple[StoredDisk, WrittenMap]],
        files: Sequence[tuple[StoredFile, WrittenMap]],
    ) -> Audit:
        parts = [
            Held(f"the disk {stored.name!r}", disk.disk.read_into, written)
            for disk, (stored, written) in zip(held.disks, disks, strict=True)
        ]
        parts += [
            Held(f"the file {stored.name!r}", file.read_into, written)
            for file, (stored, written) in zip(held.files, files, strict=True)
        ]
        doubtful = self._doubts_parent(held)
        auditor = Auditor(self.repository, writer, self.journal, self.clock, self.progress, doubtful)
        try:
            return auditor.audit(parts, self.request.reread)
        except (AuditFailed, ObjectLost):
            # Where somebody wrote into the source, that is what is to be told.
            held.check()
            raise

    def _doubts_parent(self, held: FolderHold) -> bool:
        """Tell whether changes were declared since a point of another VM, or of a disk with another id."""
        if self.request.changes is None or self.base is None:
            return False
        return self.base.point.vm.id != self.vm.id or bool(_other_ids(held, self.base))

    def _claim(self, plan: Plan) -> Claim:
        promised = _chosen(plan)[1]
        return Claim(str(self.request.policy), promised, promised, plan.reasons)

    def _base_map(self, disk: HeldDisk, disks: Sequence[HeldDisk]) -> DiskMap | None:
        """Return the map of the same disk in the earlier point, if it still has the same size.

        Disks are matched by name; where both points have just one, that one is meant.
        Raises ChangesUnusable when declared changes have nothing to build on.
        """
        same = _same_disk(disk, disks, self.base.point.disks if self.base is not None else ())
        size = disk.disk.profile.size
        if same is not None and same.size == size:
            return self.repository.disk_map(same)
        if self.request.changes is not None:
            what = f"has another size ({same.size} bytes) there" if same else "is not in it"
            raise ChangesUnusable(
                f"--changes builds on the parent restore point, but the disk {disk.name!r} {what}."
            )
        return None

    def _ranges(self, disk: HeldDisk, base: DiskMap | None, most: int) -> list[ByteRange]:
        changes = self.request.changes
        if changes is None or base is None:
            return disk.extents(self.repository.parameters.chunk_size, most)
        size = disk.disk.profile.size
        if changes and changes[-1].end > size:
            raise ChangesUnusable(
                f"--changes names byte {changes[-1].end - 1}, but the disk {disk.name!r} has {size} bytes."
            )
        return list(changes)

    def _write_disk(
        self, writer: Writer, disk: HeldDisk, ranges: Sequence[ByteRange], base: DiskMap | None
    ) -> tuple[StoredDisk, WrittenMap]:
        profile = disk.disk.profile
        inherit = self.request.changes is not None
        written = writer.write_map(disk.disk.read_into, profile.size, ranges, base=base, inherit=inherit)
        self.journal.renew()
        stored = StoredDisk(
            name=disk.name,
            size=profile.size,
            root=written.root,
            format=profile.format,
            kind=profile.kind,
            logical_sector=profile.logical_sector,
            physical_sector=profile.physical_sector,
            block_size=profile.block_size,
            disk_id=str(profile.disk_id) if profile.disk_id else None,
            source=disk.file,
        )
        return stored, written

    def _write_files(self, writer: Writer, held: FolderHold) -> list[tuple[StoredFile, WrittenMap]]:
        written = []
        for file in held.files:
            size = file.source.size()
            stored = writer.write_map(file.read_into, size, [ByteRange(0, size)] if size else [])
            written.append((StoredFile(file.name, file.role, size, stored.root), stored))
            self.journal.renew()
        return written


def _chosen(plan: Plan) -> tuple[Method, Consistency]:
    if plan.method is None or plan.consistency is None:
        raise RunRefused("the plan does not say how to go on.")
    return plan.method, plan.consistency
