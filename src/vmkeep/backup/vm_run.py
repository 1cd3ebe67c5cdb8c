"""Take one restore point of one VM of a host, as plain code.

Facts, plan, journal, hold, write, check, publish, seal, release, tracking. Order
and reasons: hyperv-backup-api.md 2.3, design section 1.
"""

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal

from vmkeep import stopping
from vmkeep.backup.errors import ChangesUnusable, RunRefused, VmOccupied
from vmkeep.backup.leftovers import HOST, SOURCE, HostNames, clear_leftovers, owner_of, questions, still_owed
from vmkeep.backup.orphans import ORPHANS, find_orphans
from vmkeep.backup.outcome import Outcome, note_failure
from vmkeep.backup.proof import end_of_guest, is_lower, proven_by, what_was_asked
from vmkeep.backup.sealed import Sealed
from vmkeep.backup.taking import DiskWork, Taking, promised_by
from vmkeep.backup.tracked import Baseline, Here, find_baseline
from vmkeep.backup.watched import HoldWatch
from vmkeep.capture.checkpoint import CheckpointHold, hold_vm
from vmkeep.capture.host_chain import FrozenDisk
from vmkeep.capture.limits import HoldLimits
from vmkeep.capture.outcome import note_left_behind
from vmkeep.capture.removing import HostTrouble, destroy_point
from vmkeep.capture.states import HOLDING
from vmkeep.clock import Clock
from vmkeep.errors import ExitCode, VmkeepError, notes_of
from vmkeep.host.files.host_files import HostFiles
from vmkeep.host.hyperv import (
    GuestNotQuiesced,
    HyperV,
    Inventory,
    VmBusy,
    Waiting,
    list_reference_points,
    read_vm,
    take_inventory,
    with_guests,
)
from vmkeep.model.consistency import Consistency, Policy, Reason
from vmkeep.model.facts import VmFacts
from vmkeep.model.plan import Increment, Plan, VmRef
from vmkeep.model.point import Claim
from vmkeep.pace import Pace
from vmkeep.planner.checkpoint import (
    DISKS_EXCLUDED,
    decide_checkpoint,
    excluded,
    lowered,
)
from vmkeep.progress import Progress
from vmkeep.ranges import coarsen
from vmkeep.repository.errors import RunAlive
from vmkeep.repository.journal import Record
from vmkeep.repository.listing import Listing, SealedPoint
from vmkeep.repository.manifest import format_time
from vmkeep.repository.reader import DiskMap
from vmkeep.repository.repository import Repository

_PREFERRED: Final = Policy()
_NO_LIMITS: Final = HoldLimits()
# What is to be read of all disks is in memory at once, some 150 bytes a range.
_MOST_RANGES: Final = 1 << 18
# An obstacle that goes by itself, such as a merge of just now, is waited for so long.
PATIENCE_S: Final = 600.0
_LOOK_AGAIN_S: Final = 5.0
# A host that refuses to make a checkpoint because it is busy (32775) has begun nothing, and tells no
# other way when it is done: it is asked again after these pauses.
_BUSY_PAUSES_S: Final = (2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0)


@dataclass(frozen=True)
class HostWish:
    """What the user asked for, for each VM of a host; ``reread`` as for files.

    ``limit_read`` in bytes a second. ``reread_all``: every allocated byte is read,
    whatever is known to be unchanged.
    """

    policy: Policy = _PREFERRED
    guest_backup: Literal["copy", "full"] = "copy"
    reread: float = 0.0
    reread_all: bool = False
    limits: HoldLimits = _NO_LIMITS
    limit_read: int | None = None


@dataclass(frozen=True)
class Doors:
    """One host as a run needs it: its name in the configuration, its WMI, its files.

    ``computer`` is the name it gives itself; None where it does not tell. ``seen`` is an
    inventory of it, which saves each VM's run one of its own.
    """

    name: str
    host: HyperV
    files: HostFiles
    computer: str | None = None
    seen: Inventory | None = None

    @property
    def names(self) -> HostNames:
        """Both names of the host."""
        return HostNames(self.name, self.computer)


def _unheard(*_: object) -> None:
    return


@dataclass(frozen=True)
class Told:
    """Who hears of the runs while they go on."""

    began: Callable[[VmRef], None] = _unheard
    waiting: Callable[[VmRef, str], None] = _unheard
    """The VM is busy and waited for, once for each reason."""
    sealed: Callable[[VmRef, SealedPoint], None] = _unheard
    """From here on the point exists, however the run ends."""


_NOBODY: Final = Told()


@dataclass(frozen=True)
class _Prepared:
    """What was found out before the VM is touched; ``baseline`` is what an increment could rest on."""

    vm: VmFacts
    plan: Plan
    listing: Listing
    baseline: Baseline


def run_vm(
    doors: Doors,
    vm: VmRef,
    wish: HostWish,
    repository: Repository,
    clock: Clock,
    progress: Progress,
    *,
    patience_s: float = PATIENCE_S,
    told: Told = _NOBODY,
) -> Outcome:
    """Take a restore point of a VM, by the id the host gives it; on any error before the seal none exists.

    Nothing stays on the host but the reference point that the next increment
    rests on. What could not be cleaned up is in the error or the warnings, and in
    the journal, for the next run. A VM that an operation of the host has is waited for,
    ``patience_s`` at most. Raises RunRefused and the errors of the rooms below;
    :func:`is_busy` tells whether it is worth another try. A signal ends what takes long at once,
    and the rest where all is written down; what is left on the host then stands in its notes.
    """
    return _VmRun(doors, vm, wish, repository, clock, progress, patience_s, told).run()


def is_busy(error: BaseException | None) -> bool:
    """Tell whether a run failed only because something else has the VM, and nothing of it was begun."""
    if isinstance(error, VmBusy):
        return "job" not in error.context and not _left_behind(error)
    return isinstance(error, VmOccupied | RunAlive)


class _VmRun:
    """One run of one VM."""

    def __init__(
        self,
        doors: Doors,
        vm: VmRef,
        wish: HostWish,
        repository: Repository,
        clock: Clock,
        progress: Progress,
        patience_s: float,
        told: Told,
    ) -> None:
        self._patience_s = patience_s
        self._told = told
        self._ref = vm
        self._waited_for: set[str] = set()
        self._doors = doors
        self._host = replace(doors.host, watch=self._show)
        self._is_reading = False
        self._host_id = vm.id
        # Written as in exported configurations, so that both kinds of run make points of one VM.
        self._vm = VmRef(vm.id.lower(), vm.name)
        self._wish = wish
        self._repository = repository
        self._clock = clock
        self._progress = progress
        self._journal = repository.journal(self._vm, os.urandom(16).hex())
        self._source = f"hyperv://{doors.name}/{vm.name}"
        self._sealed: Sealed | None = None
        self._owed = False  # whether something of dead runs may still be on the host
        self._left: list[str] = []  # what of this run is on the host, or may be, although it has ended
        self._warnings: list[str] = []
        self._notes: list[str] = []

    def run(self) -> Outcome:
        """Do all of it, with signals held back but where a stop leaves nothing untold."""
        try:
            with stopping.held_back():
                return self._run()
        except stopping.Stopped as stopped:
            for what in self._left:
                note_left_behind(stopped, what)
            raise

    def _run(self) -> Outcome:
        started = self._clock.monotonic()
        dead = self._journal.begin({SOURCE: self._source, HOST: self._doors.computer})
        self._owed = bool(dead)
        with self._journal.kept():
            try:
                with stopping.at_once():
                    listing = self._repository.points.listing(self._vm.id)
                self._clear(dead, listing)
                sealed = self._take(self._prepare(listing))
            except BaseException as error:
                # Closed only where its own records prove that nothing is left on the host.
                is_clean = self._journal.last_step not in HOLDING and not _left_behind(error)
                if self._owed and not is_busy(error):
                    note_left_behind(error, still_owed(self._vm.name))
                if is_clean and self._sealed is None:
                    note_failure(self._journal, error)
                raise
            finally:
                self._progress.end()
            got = self._conclude(sealed)
        if self._is_short_of(sealed, got):
            promised, why = sealed.claim.promised, sealed.why_unproven()
            self._warnings.append(
                f"the point was promised as {promised.value} and is proven as {got.value}: {why}"
            )
        code = ExitCode.PARTIAL if self._warnings else ExitCode.OK
        seconds = self._clock.monotonic() - started
        warnings, notes, left = map(tuple, (self._warnings, self._notes, self._left))
        return Outcome(sealed.point, sealed.plan, got, code, seconds, warnings, notes, left)

    def _show(self, waiting: Waiting) -> None:
        """Say what the host is asked for, unless the progress of reading is being shown.

        Who waits for the host has written down for what: here a signal ends it.
        """
        stopping.look()
        if not self._is_reading:
            percent = f" ({waiting.percent} %)" if waiting.percent is not None else ""
            self._progress.begin(f"{self._vm.name}: {waiting.what}{percent}", None)

    def _is_short_of(self, sealed: Sealed, got: Consistency) -> bool:
        """Tell whether less is proven than was promised, and the policy minds."""
        return is_lower(got, sealed.claim.promised) and self._wish.policy.mode != "any"

    # --- before anything is touched -----------------------------------------------------------

    def _clear(self, dead: Sequence[Sequence[Record]], listing: Listing) -> None:
        """Take away what dead runs of the VM left."""
        if not dead:
            return
        with stopping.at_once():
            durable = self._baseline(listing).durable
        self._progress.begin(f"{self._vm.name}: clean up after {len(dead)} unfinished runs", None)
        cleared = clear_leftovers(
            self._host, self._doors.names, self._repository, self._journal, dead, durable
        )
        for each in cleared:
            removed = [f"{s.what} {s.id}" for s in each.swept if s.outcome == "removed"]
            if removed:
                self._notes.append(f"an unfinished run had left, and this one removed: {', '.join(removed)}.")
            if not each.buried:
                self._warnings.append(
                    f"an unfinished run of {each.vm} is not cleaned up: {each.why.rstrip('.')}."
                )
        self._owed = not all(each.buried for each in cleared)
        asked = questions(cleared, f"hyperv://{self._doors.name}", self._repository)
        self._warnings += [f"only you can decide: {question}." for question in asked]

    def _baseline(self, listing: Listing) -> Baseline:
        def listed() -> list[str]:
            return [point.id for point in list_reference_points(self._host, self._host_id)]

        return find_baseline(self._repository, listing, self._vm.id, Here(self._doors.name, listed))

    def _prepare(self, listing: Listing) -> _Prepared:
        """Take the facts and decide; an obstacle that goes by itself is waited for. Raises RunRefused."""
        with stopping.at_once():
            return self._prepare_now(listing)

    def _prepare_now(self, listing: Listing) -> _Prepared:
        baseline = self._baseline(listing)
        own = self._repository.parameters.repository.hex()
        self._progress.begin(f"{self._vm.name}: take the facts and plan", None)
        seen = self._doors.seen or take_inventory(self._host, repository=own)
        started = self._clock.monotonic()
        while True:
            vm = read_vm(self._host, self._host_id, seen, repository=own)
            (vm,) = with_guests(self._host, [vm])
            plan = decide_checkpoint(
                seen.host,
                vm,
                self._wish.policy,
                has_earlier_point=baseline.base is not None,
                has_tracking=baseline.tracking is not None and not self._wish.reread_all,
            )
            is_patient = self._clock.monotonic() - started < self._patience_s
            if plan.verdict != "wait" or not is_patient:
                break
            self._tell_wait(plan.reasons[-1].fact)
            self._progress.begin(f"{self._vm.name}: wait ({plan.reasons[-1].fact.rstrip('.')})", None)
            self._clock.sleep(_LOOK_AGAIN_S)
            self._journal.renew()
        _require_go(plan)
        self._vm = VmRef(self._vm.id, vm.vm.name)
        return _Prepared(vm, plan, listing, baseline)

    def _tell_wait(self, why: str) -> None:
        if why not in self._waited_for:
            self._waited_for.add(why)
            self._told.waiting(self._ref, why)

    # --- while it is held ---------------------------------------------------------------------

    def _take(self, prepared: _Prepared) -> Sealed:
        """Take the point; a host that is too busy to make a checkpoint is asked again for a while."""
        waited = 0.0
        for pause_s in (*_BUSY_PAUSES_S, None):
            try:
                return self._take_now(prepared)
            except VmBusy as error:
                if not is_busy(error) or pause_s is None or waited + pause_s > self._patience_s:
                    raise
                self._tell_wait(error.message)
            with stopping.at_once():
                self._clock.sleep(pause_s)
            waited += pause_s
            self._journal.renew()
            # What has the VM may leave it otherwise than it was.
            prepared = self._prepare(prepared.listing)
        raise AssertionError("the last attempt returns or raises")

    def _take_now(self, prepared: _Prepared) -> Sealed:
        """Hold the VM by the best way that works, and take the point."""
        try:
            return self._hold(prepared)
        except GuestNotQuiesced as error:
            if prepared.plan.method != "production-checkpoint" or _left_behind(error):
                raise
            plan = lowered(prepared.plan, self._wish.policy, f"The guest refused: {error.message}")
            try:
                _require_go(plan)
            except RunRefused as refused:
                raise refused from error
            told = self._notes if self._wish.policy.mode == "any" else self._warnings
            told.append(
                f"the guest refused, so a standard checkpoint was taken instead: {error.message} {error.hint}"
            )
            return self._hold(replace(self._prepare(prepared.listing), plan=plan))

    def _hold(self, prepared: _Prepared) -> Sealed:
        at_rest = self._clock.now()
        baseline, plan = prepared.baseline, prepared.plan
        sealed: Sealed | None = None
        try:
            with hold_vm(
                self._host,
                self._doors.files,
                prepared.vm,
                1 if plan.method == "production-checkpoint" else 2,
                self._wish.guest_backup,
                owner_of(self._repository, self._journal.run),
                self._journal,
                self._clock,
                baseline.tracking,
                self._wish.limits,
                replaces=baseline.reference_point,
                skip_other_disks=any(reason.code == DISKS_EXCLUDED for reason in plan.reasons),
            ) as held:
                # Whatever happens from here on: the point exists and is whole.
                sealed = self._sealed = self._write(prepared, held, at_rest)
                self._told.sealed(self._ref, sealed.point)
                self._repository.remember(sealed.point)
                self._release(held, sealed, baseline)
        except VmkeepError as error:
            if sealed is None:
                raise
            sealed.trouble = error
        return sealed

    def _write(self, prepared: _Prepared, held: CheckpointHold, at_rest: datetime) -> Sealed:
        baseline, wish = prepared.baseline, self._wish
        plan = _told_of_tracking(prepared.plan, held.disks)
        promised = promised_by(plan)
        # What the host says was reached is known only when the checkpoint has been released.
        proven = Consistency.OFF if held.was_off else Consistency.CRASH
        got = proven if is_lower(proven, promised) else promised
        claim = Claim(str(wish.policy), promised, got, plan.reasons)
        work = self._work(held.disks, baseline.base, reread_all=wish.reread_all)
        is_increment = any(one.inherit for one in work)
        taking = Taking(
            repository=self._repository,
            clock=self._clock,
            progress=self._progress,
            journal=self._journal,
            vm=self._vm,
            head=self._repository.head(prepared.listing, self._vm.id),
            base=baseline.base,
            source=self._source,
            at_rest=at_rest,
            reread=wish.reread,
            # Change tracking may lie (failures.md, rct_silent_gap): a sample of the rest is compared, too.
            doubt_base=is_increment,
            pace=Pace(wish.limit_read, self._clock) if wish.limit_read is not None else None,
            watch=HoldWatch(held.watch, held.glance),
        )

        def observed() -> dict[str, Any]:
            return {
                "hold": held.evidence,
                "read_back": what_was_asked(plan, prepared.vm, was_running=held.was_running),
                **end_of_guest(plan),
            }

        plan = replace(plan, increment=_increment(work, baseline))
        self._is_reading = True
        try:
            sealed, audit = taking.take(held, plan, claim, work, observed)
        except ChangesUnusable as error:
            if not is_increment:
                raise
            self._warnings.append(f"the host's change tracking missed changes: {error.message}")
            plan = _all_read(plan, error)
            claim = replace(claim, reasons=plan.reasons)
            work = self._work(held.disks, baseline.base, reread_all=True)
            taking = replace(taking, doubt_base=False)
            sealed, audit = taking.take(held, plan, claim, work, observed)
        finally:
            self._is_reading = False
        return Sealed(sealed, audit, plan, claim, _unannounced(prepared.vm, held))

    def _work(
        self, disks: Sequence[FrozenDisk], base: SealedPoint | None, *, reread_all: bool
    ) -> list[DiskWork]:
        """Say of each disk what is read, and what it builds on."""
        unit, most = self._repository.parameters.chunk_size, max(1, _MOST_RANGES // len(disks))
        work = []
        for disk in disks:
            before = self._map_before(disk, base)
            if before is not None and disk.changed is not None and not reread_all:
                changed = coarsen(disk.changed, unit, disk.disk.profile.size, most)
                work.append(DiskWork(before, changed, inherit=True))
            else:
                work.append(DiskWork(before, disk.extents(unit, most)))
        return work

    def _map_before(self, disk: FrozenDisk, base: SealedPoint | None) -> DiskMap | None:
        """Return the map of the very same disk in the earlier point, by its identifier and size."""
        profile = disk.disk.profile
        stored = base.point.disks if base is not None else ()
        same = [
            each
            for each in stored
            if profile.disk_id is not None
            and each.disk_id == str(profile.disk_id)
            and each.size == profile.size
        ]
        return self._repository.disk_map(same[0]) if len(same) == 1 else None

    # --- afterwards ---------------------------------------------------------------------------

    def _release(self, held: CheckpointHold, sealed: Sealed, baseline: Baseline) -> None:
        """Let the VM go, store what the next increment needs, and only then drop what the last one needed."""
        self._progress.begin(f"releasing {self._vm.name}", None)
        released = held.release(track=True)
        sealed.released = released
        sealed.evidence = ({"hold": held.evidence},)
        if released.tracking is None:
            return
        new = released.tracking.reference_point
        with _left_if_stopped(new):
            orphans = self._drop_orphans((new, *baseline.durable))
            fields = {"time": format_time(self._clock.now()), "run": self._journal.run, ORPHANS: orphans}
            record = released.tracking.to_json()
            self._repository.points.attach("tracking", sealed.point.name, {**fields, **record})
        with _left_if_stopped(baseline.reference_point):
            held.drop_previous(baseline.reference_point)

    def _drop_orphans(self, needed: Collection[str]) -> list[str]:
        """Drop the reference points of ours that no run can use; return those that stay.

        Before the new tracking is stored: it tells the next run which stay.
        """
        try:
            listed = [point.id for point in list_reference_points(self._host, self._host_id)]
            orphans = find_orphans(self._repository.points, self._vm.id, listed, needed)
        except VmkeepError as error:
            unknown = "whether earlier runs have left reference points on the host is not known"
            self._warnings.append(f"{unknown}, and the next run looks again: {error.message}")
            return []
        stay = []
        for nth, orphan in enumerate(orphans):
            try:
                with _left_if_stopped(*orphans[nth:]):
                    destroy_point(self._host, self._host_id, orphan)
                self._notes.append(f"a reference point that an earlier run had left was removed: {orphan}.")
            except HostTrouble as error:
                what = f"the reference point {orphan}"
                self._warnings.append(
                    f"left behind on the host, and the next run tries again: {what}: {error.message}"
                )
                self._left.append(what)
                stay.append(orphan)
        return stay

    def _conclude(self, sealed: Sealed) -> Consistency:
        """Store the evidence, close the journal if nothing is left to do; return what is proven now."""
        got = proven_by(sealed.point.point, sealed.released)
        self._warnings += sealed.warnings()
        self._left += [*sealed.left(), *([still_owed(self._vm.name)] if self._owed else [])]
        released = sealed.released
        try:
            fields = {
                "time": format_time(self._clock.now()),
                "run": self._journal.run,
                "released": released is not None,
                **{key: value for each in sealed.evidence for key, value in each.items()},
            }
            if got is not sealed.claim.got:
                fields["consistency"] = got.value
            if released is not None and released.why_untracked is not None:
                why = released.why_untracked
                fields["untracked"] = {"code": why.code, "fact": why.fact}
                fact = "" if self._is_short_of(sealed, got) else f"{why.fact} "  # else the warning tells it
                self._notes.append(f"{fact}The next run reads all of the VM; what differs is stored.")
            evidence = [self._repository.points.attach("evidence", sealed.point.name, fields)]
        except VmkeepError as error:
            self._warnings.append(f"the point is sealed, but its evidence is not stored: {error.message}")
            evidence, got = [], sealed.claim.got
        if sealed.trouble is not None or released is None or not released.merge.is_done:
            return got  # the next run finds the journal open, and looks again
        try:
            self._journal.finish({"outcome": "sealed", "point": sealed.point.name, "evidence": evidence})
        except VmkeepError as error:
            self._warnings.append(f"the point is sealed, but its run could not be closed: {error.message}")
        return got


def _require_go(plan: Plan) -> None:
    if plan.verdict == "go":
        return
    last = plan.reasons[-1]
    others = " ".join(reason.fact for reason in plan.reasons[:-1])
    if plan.verdict == "wait":
        raise VmOccupied(f"the VM is busy: {last.fact} {others}".rstrip(), hint=last.fix)
    raise RunRefused(f"refused: {last.fact} {others}".rstrip(), hint=last.fix)


def _unannounced(vm: VmFacts, held: CheckpointHold) -> tuple[str, ...]:
    """Return what is left out besides what the plan said: the checkpoint itself may lack a disk."""
    said = {*(disk.label for disk in excluded(vm)), *vm.unread_disks}
    return tuple(label for label in held.left_out if label not in said)


def _left_behind(error: BaseException) -> bool:
    """Tell whether something may have stayed on the host; the journal must stay open then."""
    notes = notes_of(error)
    return "left_behind" in getattr(error, "context", {}) or any("left behind" in note for note in notes)


@contextmanager
def _left_if_stopped(*points: str | None) -> Iterator[None]:
    """Let a signal that ends the block say that these reference points may be left."""
    try:
        yield
    except stopping.Stopped as stopped:
        for point in points:
            if point is not None:
                note_left_behind(stopped, f"the reference point {point}")
        raise


def _increment(work: Sequence[DiskWork], baseline: Baseline) -> Increment:
    """Name what was done in the end: change tracking was used for one disk at least, or for none."""
    if any(one.inherit for one in work):
        return "rct"
    return "compare" if baseline.base is not None else "full"


def _told_of_tracking(plan: Plan, disks: Sequence[FrozenDisk]) -> Plan:
    """Add why change tracking could not be used, where the plan was to use it."""
    if plan.increment != "rct":
        return plan
    names: dict[Reason, list[str]] = {}
    for disk in disks:
        if disk.why_all is not None:
            names.setdefault(disk.why_all, []).append(disk.name)
    told = (replace(reason, fact=f"{', '.join(of)}: {reason.fact}") for reason, of in names.items())
    return replace(plan, reasons=(*plan.reasons, *told))


def _all_read(plan: Plan, error: ChangesUnusable) -> Plan:
    reason = Reason(
        "rct-contradicted",
        f"The host's change tracking did not tell all changes: {error.message}",
        "Everything was read; what differs was stored.",
        "Find out who writes to the disks behind the host's back; restore points taken with change tracking "
        "before may lack changes: run once with --reread-all and keep older points.",
    )
    return replace(plan, increment="compare", reasons=(*plan.reasons, reason))
