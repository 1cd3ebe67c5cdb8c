"""Take one restore point of what is held: write, read again, look whether it stood still, publish, seal.

The same for files and for a VM on a host: who holds it, and what of it is read, is decided before.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final, Protocol

from vmkeep import __version__, stopping
from vmkeep.backup.audit import Audit, Auditor, Held
from vmkeep.backup.errors import AuditFailed, RunRefused
from vmkeep.backup.reading import SourceReads
from vmkeep.backup.watched import UNWATCHED, HoldWatch
from vmkeep.capture.errors import MISREAD
from vmkeep.capture.folder import HeldDisk, HeldFile
from vmkeep.clock import Clock
from vmkeep.model.consistency import Consistency
from vmkeep.model.plan import Increment, Method, Plan, VmRef
from vmkeep.model.point import Claim, RestorePoint, StoredDisk, StoredFile
from vmkeep.pace import Pace
from vmkeep.progress import Progress
from vmkeep.ranges import ByteRange, total
from vmkeep.repository.errors import ObjectLost
from vmkeep.repository.journal import PUBLISHING, Journal
from vmkeep.repository.listing import SealedPoint
from vmkeep.repository.publish import publish
from vmkeep.repository.reader import DiskMap
from vmkeep.repository.repository import Repository
from vmkeep.repository.writer import Writer, WrittenMap

_CHANGED_RANGES: Final[Mapping[Increment, str]] = {
    "declared": "declared by the user, not verified",
    "rct": "told by the host's change tracking; a sample of the rest was compared with the source",
}


class Hold(Protocol):
    """What is held still while it is read."""

    @property
    def disks(self) -> Sequence[HeldDisk]: ...

    @property
    def files(self) -> Sequence[HeldFile]: ...

    def check(self) -> int:
        """Return how many files were compared and did not move. Raises SourceChanged."""


@dataclass(frozen=True)
class DiskWork:
    """What is read of one disk: these ranges, over what an earlier point holds of it.

    ``inherit``: everything else is taken over from there; otherwise it reads as zeros.
    """

    base: DiskMap | None
    ranges: Sequence[ByteRange]
    inherit: bool = False


@dataclass(frozen=True, kw_only=True)
class Taking:
    """The part of a run during which the source is held."""

    repository: Repository
    clock: Clock
    progress: Progress
    journal: Journal
    vm: VmRef
    head: tuple[int, str, bytes] | None
    base: SealedPoint | None
    source: str
    at_rest: datetime
    reread: float
    doubt_base: bool
    """Whether what is taken over may be of another disk."""
    pace: Pace | None = None
    """How fast the source may be read; None: as fast as it can be."""
    watch: HoldWatch = UNWATCHED

    def take(
        self,
        held: Hold,
        plan: Plan,
        claim: Claim,
        work: Sequence[DiskWork],
        observed: Callable[[], Mapping[str, Any]] = dict,
    ) -> tuple[SealedPoint, Audit]:
        """Write, read again, check that everything stood still, publish and seal.

        ``observed`` tells, right before the manifest is written, what else is evidence.
        """
        with (
            self.repository.writer(self.journal.run, self.progress) as writer,
            SourceReads(self.pace, self.watch) as reads,
        ):
            # What takes long leaves nothing behind. From here to the caller's next line a signal that is
            # held back waits: whoever is told that there is no point must be able to believe it.
            with stopping.at_once():
                disks, files, audit = self._write(writer, reads, held, work)
                # Last before publishing: it also vouches for what the audit read.
                self.watch.fully()
                compared = held.check()
                inventory = writer.flush()
            evidence = {
                "hold_check": {"files": compared, "identical": True},
                "changed_ranges": _CHANGED_RANGES.get(plan.increment, "read"),
                "reread_audit": audit.evidence(),
                "held_seconds": round((self.clock.now() - self.at_rest).total_seconds(), 3),
                **observed(),
            }

            def manifest(point_id: str) -> RestorePoint:
                # For the last time: whatever is published from here on is decided by its seal.
                self.watch.fully()
                point = RestorePoint(
                    id=point_id,
                    run=self.journal.run,
                    vm=self.vm,
                    number=self.head[0] + 1 if self.head else 1,
                    previous=self.head[1:] if self.head else None,
                    parent=self.base.point.id if self.base else None,
                    time=self.at_rest,
                    finished=self.clock.now(),
                    source=self.source,
                    method=method_of(plan),
                    consistency=claim,
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

            inherited = self.base if any(one.inherit for one in work) else None
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
            self.progress.end()
            return sealed, audit

    def _write(
        self, writer: Writer, reads: SourceReads, held: Hold, work: Sequence[DiskWork]
    ) -> tuple[list[tuple[StoredDisk, WrittenMap]], list[tuple[StoredFile, WrittenMap]], Audit]:
        """Read and store everything, and read a part of it again."""
        to_read = sum(total(one.ranges) for one in work) + sum(file.source.size() for file in held.files)
        self.progress.begin(f"reading {self.vm.name}", to_read)
        self.journal.step("writing", {"disks": [disk.name for disk in held.disks], "bytes": to_read})
        with _moved_or_not(held):
            each = zip(held.disks, work, strict=True)
            disks = reads.side_by_side(partial(self._write_disk, writer, reads, *one) for one in each)
            self.watch.fully()
            files = self._write_files(writer, reads, held)
            self.progress.end()
            audit = self._audit(writer, reads, held, disks, files)
        self.progress.begin(f"sealing {self.vm.name}", None)
        return disks, files, audit

    def _audit(
        self,
        writer: Writer,
        reads: SourceReads,
        held: Hold,
        disks: Sequence[tuple[StoredDisk, WrittenMap]],
        files: Sequence[tuple[StoredFile, WrittenMap]],
    ) -> Audit:
        parts = [
            Held(f"the disk {stored.name!r}", reads.of(disk.disk.read_into), written)
            for disk, (stored, written) in zip(held.disks, disks, strict=True)
        ]
        parts += [
            Held(f"the file {stored.name!r}", reads.of(file.read_into), written)
            for file, (stored, written) in zip(held.files, files, strict=True)
        ]
        auditor = Auditor(
            self.repository,
            writer,
            self.journal,
            self.clock,
            self.progress,
            self.doubt_base,
            reads.give_up,
            self.watch,
        )
        return auditor.audit(parts, self.reread)

    def _write_disk(
        self, writer: Writer, reads: SourceReads, disk: HeldDisk, work: DiskWork
    ) -> tuple[StoredDisk, WrittenMap]:
        profile = disk.disk.profile
        source = reads.of(disk.disk.read_into)
        written = writer.write_map(source, profile.size, work.ranges, base=work.base, inherit=work.inherit)
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

    def _write_files(
        self, writer: Writer, reads: SourceReads, held: Hold
    ) -> list[tuple[StoredFile, WrittenMap]]:
        written = []
        for file in held.files:
            size = file.source.size()
            stored = writer.write_map(reads.of(file.read_into), size, [ByteRange(0, size)] if size else [])
            written.append((StoredFile(file.name, file.role, size, stored.root), stored))
            self.journal.renew()
        return written


@contextmanager
def _moved_or_not(held: Hold) -> Iterator[None]:
    """Raise SourceChanged instead, where the source changed and may read wrongly, or not at all, for that."""
    try:
        yield
    except (AuditFailed, ObjectLost, *MISREAD):
        # A file that was cut under the hold reads like a damaged one.
        held.check()
        raise


def method_of(plan: Plan) -> Method:
    """Return how the VM is brought to rest. Raises RunRefused where the plan is not to go on."""
    if plan.method is None:
        raise RunRefused("the plan does not say how to go on.")
    return plan.method


def promised_by(plan: Plan) -> Consistency:
    """Return what the plan promises. Raises RunRefused where it is not to go on."""
    if plan.consistency is None:
        raise RunRefused("the plan does not say how to go on.")
    return plan.consistency
