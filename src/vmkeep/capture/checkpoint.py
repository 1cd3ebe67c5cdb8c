"""Hold one running VM still through a recovery checkpoint, and always let go.

Everything a run changes on the host is in its journal first
(:mod:`vmkeep.capture.states`), so that whoever finds the journal can take it away.
The order is hyperv-backup-api.md 2.3.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, Literal, Self

from vmkeep.capture.errors import HandlesOpen
from vmkeep.capture.folder import HeldFile
from vmkeep.capture.host_chain import FrozenDisk, identities, open_configuration, open_frozen
from vmkeep.capture.limits import HoldLimits, LimitWatch
from vmkeep.capture.outcome import Problems, Released
from vmkeep.capture.removing import (
    HostTrouble,
    Merge,
    appeared_after,
    await_merge,
    destroy_ours,
    has_begun,
    layers_above,
    unheard,
    went_by_conversion,
)
from vmkeep.capture.states import MADE, RELEASING, HoldLog, HoldState, Journal
from vmkeep.capture.tracked import record_of, with_changes
from vmkeep.clock import Clock
from vmkeep.formats.errors import SourceChanged
from vmkeep.host.files.host_files import HostFiles
from vmkeep.host.hyperv import (
    CheckpointMissing,
    CheckpointWish,
    HyperV,
    JobOverdue,
    Owner,
    PowerState,
    ReferencePoint,
    Waiting,
    convert_checkpoint,
    create_checkpoint,
    destroy_reference_point,
    is_there,
    layers_of,
    list_recovery_checkpoints,
    list_reference_points,
    mark_checkpoint,
    read_host_time,
    read_power_state,
)
from vmkeep.host.hyperv.jobs import LONGEST_SILENCE_S, pauses
from vmkeep.host.wsman import HostError, OutcomeUnknown
from vmkeep.model.consistency import Reason
from vmkeep.model.facts import CheckpointFacts, VmFacts
from vmkeep.planner.tracking import TrackedVm, TrackingRecord, read_all

_NO_LIMITS: Final = HoldLimits()
_HANDLES_CLOSE_S: Final = 30.0


def hold_vm(
    host: HyperV,
    files: HostFiles,
    vm: VmFacts,
    consistency: Literal[1, 2],
    guest_backup: Literal["copy", "full"],
    owner: Owner,
    journal: Journal,
    clock: Clock,
    previous: TrackingRecord | None = None,
    limits: HoldLimits = _NO_LIMITS,
    *,
    replaces: str | None = None,
    skip_other_disks: bool = False,
) -> "CheckpointHold":
    """Make a checkpoint of a VM and open what it froze; on any error nothing stays on the host.

    ``vm`` are facts of just now, taken before: the checkpoint of this hold must not
    be among them. ``previous`` is the tracking of the very restore point that the run
    builds on; ``replaces`` the reference point that goes when a new one is durable.
    Raises the errors of host.hyperv, host.files and formats; what could not be
    cleaned up stands in the error's context as ``left_behind``, and the journal must
    then stay open for a sweep.
    """
    log = HoldLog(journal)

    def watch(waiting: Waiting) -> None:
        log.renew()
        host.watch(waiting)

    listening = replace(host, watch=watch)
    hold = CheckpointHold(listening, files, vm, owner, log, clock, previous, limits, replaces)
    hold._make(CheckpointWish(consistency, guest_backup, skip_other_disks))
    return hold


class CheckpointHold:
    """A VM's disks while they stand still. Leave the ``with`` block and the checkpoint is gone.

    :meth:`release` is the regular end; a block that is left without it, by an
    error above all, destroys the checkpoint. Made by :func:`hold_vm` only.
    """

    def __init__(
        self,
        host: HyperV,
        files: HostFiles,
        vm: VmFacts,
        owner: Owner,
        log: HoldLog,
        clock: Clock,
        previous: TrackingRecord | None,
        limits: HoldLimits,
        replaces: str | None,
    ) -> None:
        self.disks: tuple[FrozenDisk, ...] = ()
        self.files: tuple[HeldFile, ...] = ()
        self.checkpoint: CheckpointFacts | None = None
        self._host = host
        self._host_files = files
        self._vm = vm
        self._tracked = TrackedVm.of(vm)
        self._owner = owner
        self._log = log
        self._clock = clock
        self._previous = previous
        self._limits = limits
        self._replaces = replaces
        self._layers: Mapping[str, str] = {}
        self._seconds: dict[str, float] = {}
        self._evidence: dict[str, Any] = {}
        self._point: ReferencePoint | None = None
        # The reference points there were when a conversion began whose end is not known.
        self._converting: list[str] | None = None
        self._is_told = False
        self._limit_watch: LimitWatch | None = None

    @property
    def state(self) -> HoldState | None:
        """Where the hold is."""
        return self._log.state

    @property
    def was_off(self) -> bool:
        """Whether the VM was off right before the checkpoint was made, and right after."""
        return self._power.word == "off" and self._power_held.word == "off"

    @property
    def was_running(self) -> bool:
        """Whether the VM ran right before the checkpoint was made, and after: else no guest took part."""
        return self._power.word == "running" and self._power_held.word == "running"

    @property
    def left_out(self) -> tuple[str, ...]:
        """What of the VM is not held: pass-through disks, such without a file, media nobody could place."""
        held = {disk.facts.slot for disk in self.disks}
        known = [disk.label for disk in self._vm.disks if disk.slot not in held]
        unread = self._vm.unread_disks + (self.checkpoint.unread_disks if self.checkpoint else ())
        return (*known, *dict.fromkeys(unread))

    @property
    def evidence(self) -> dict[str, Any]:
        """What this hold can prove so far, in JSON's own types."""
        reasons = {disk.name: disk.why_all.code for disk in self.disks if disk.why_all is not None}
        watch = self._limit_watch
        return {
            **self._evidence,
            "left_out": list(self.left_out),
            "read_all": reasons,
            "least_free": watch.least_free if watch is not None else None,
            "open_handles": self._host_files.open_handles,
            "seconds": dict(self._seconds),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._abandon(error)

    # --- taking hold ------------------------------------------------------------------------

    def _make(self, wish: CheckpointWish) -> None:
        vm_id = self._vm.vm.id
        known = tuple(c.id for c in list_recovery_checkpoints(self._host, vm_id))
        since = read_host_time(self._host)
        self._power = read_power_state(self._host, vm_id)
        self._evidence |= {"consistency_asked": wish.consistency, "power_before": self._power.code}
        self._log.enter(
            HoldState.PREPARED,
            vm=vm_id,
            owner=[self._owner.repository, self._owner.run],
            known_checkpoints=list(known),
            since=since.isoformat() if since is not None else None,
            power=self._power.code,
        )
        try:
            with self._timed("create"):
                made = create_checkpoint(self._host, vm_id, wish, known_before=known)
        except BaseException as error:
            self._clean_failed_creation(error, known, since)
            raise
        self.checkpoint = made
        try:
            self._log.note(MADE, checkpoint=made.id)
            self._freeze(made)
        except BaseException as error:
            self._abandon(error)
            raise

    def _freeze(self, made: CheckpointFacts) -> None:
        with self._timed("mark"):
            self.checkpoint = mark_checkpoint(self._host, made, self._owner)
            self._power_held = read_power_state(self._host, made.vm_id)
            checkpoint = self.checkpoint
            self._layers = layers_of(self._host, checkpoint)
        self._evidence |= {
            "checkpoint": checkpoint.id,
            "checkpoint_name": checkpoint.name,
            "power_held": self._power_held.code,
        }
        self._log.enter(HoldState.HELD, checkpoint=checkpoint.id, layers=dict(self._layers))
        paths = tuple(self._layers.values())
        self._limit_watch = LimitWatch(self._host, self._limits, self._vm.vm.name, paths)
        with self._timed("open"):
            self.disks = tuple(open_frozen(self._host, self._host_files, checkpoint))
            self.files = tuple(open_configuration(self._host_files, checkpoint))
            self._start = identities(self.disks, self.files)
        with self._timed("changes"):
            self.disks = with_changes(self._host, made.vm_id, self.disks, self._tracked, self._previous)

    def _clean_failed_creation(
        self, error: BaseException, known: tuple[str, ...], since: datetime | None
    ) -> None:
        """Take away what a failed call has made all the same, if it is certain that it is ours.

        Where that is not certain the journal stays as it is, and a sweep looks again.
        """
        problems = Problems()
        found: tuple[CheckpointFacts, ...] = ()
        if has_begun(error):
            with problems.kept("whether the host made a checkpoint nobody knows"):
                if since is None:
                    raise OutcomeUnknown("the host does not tell its time.")
                found = appeared_after(unheard(self._host), self._vm.vm.id, known, since, error)
        if len(found) > 1:
            names = ", ".join(checkpoint.id for checkpoint in found)
            problems.told.append(f"which of these checkpoints is ours nobody knows: {names}")
        if problems.told:
            problems.tell(error)
            return
        self.checkpoint = found[0] if found else None
        self._abandon(error)

    # --- while held -------------------------------------------------------------------------

    def check(self) -> int:
        """Make sure that nothing moved since the hold began; return how many files were compared.

        Raises SourceChanged naming the file, CheckpointMissing when the checkpoint has gone.
        """
        checkpoint = self._held()
        if not is_there(self._host, checkpoint.id):
            raise CheckpointMissing(f"the checkpoint {checkpoint.name!r} is gone while it was read.")
        now = identities(self.disks, self.files)
        for file, identity in self._start.items():
            if now.get(file) != identity:
                raise SourceChanged(f"{file!r} was written or replaced while it was read.", file=file)
        return len(now)

    def watch(self) -> None:
        """Look whether the hold may go on; call it as often as you like, from one thread.

        Raises HoldLimitReached.
        """
        self._log.renew()
        if self._limit_watch is not None:
            self._limit_watch.look()

    # --- letting go -------------------------------------------------------------------------

    def release(self, track: bool) -> Released:
        """Close everything, let the checkpoint go, wait for the merge, and tell what became of it.

        ``track`` turns the checkpoint into a reference point, the next run's
        baseline; refused, the checkpoint is destroyed and ``why_untracked`` says so.
        A merge that does not end is told, not raised. Raises HandlesOpen before
        anything was changed, and the host's errors while the checkpoint may still be there.
        """
        checkpoint = self._held()
        with self._timed("close"):
            self._close()
        why = None if track else read_all("rct-not-wanted", "The run was asked to leave no reference point.")
        if track:
            with self._timed("convert"):
                self._point, why = self._convert(checkpoint)
        if self._point is None:
            with self._timed("destroy"):
                self._log.note(RELEASING, checkpoint=checkpoint.id, how="destroy")
                destroy_ours(self._host, checkpoint, self._owner)
        self._enter_released()
        with self._timed("merge"):
            merge = await_merge(self._host, self._vm.vm.id, self._layers, self._limits.merge_s)
        released = self._released(merge, why)
        self._is_told = True
        return released

    def drop_previous(self, reference_point: str | None) -> bool:
        """Destroy the reference point of the run before; False if there was none.

        To be called when the new tracking is durable, not earlier: until then the
        old reference point is the only baseline.
        """
        new = self._point.id if self._point is not None else None
        self._log.enter(HoldState.TRACKED, reference_point=new, previous=reference_point)
        if reference_point is None:
            return False
        return destroy_reference_point(self._host, self._vm.vm.id, reference_point)

    def _held(self) -> CheckpointFacts:
        if self.checkpoint is None or self.state is not HoldState.HELD:
            raise ValueError(f"the VM {self._vm.vm.name!r} is not held")
        return self.checkpoint

    def _convert(self, checkpoint: CheckpointFacts) -> tuple[ReferencePoint | None, Reason | None]:
        known = [point.id for point in list_reference_points(self._host, checkpoint.vm_id)]
        self._log.note(RELEASING, checkpoint=checkpoint.id, how="convert", known_points=known)
        self._converting = known
        try:
            point = convert_checkpoint(self._host, checkpoint, known_before=known)
        except HostTrouble as error:
            late = self._converted_late(error, checkpoint, known)
            self._converting = None
            if late is not None:
                return late, None
            return None, read_all(
                "rct-not-converted",
                f"The host made no reference point of the checkpoint ({error.code}): {error.message}",
            )
        self._converting = None
        return point, None

    def _converted_late(
        self, error: Exception, checkpoint: CheckpointFacts, known: list[str]
    ) -> ReferencePoint | None:
        """Return what came of a conversion that the host went on with although nobody heard of its end."""
        if not isinstance(error, JobOverdue | HostError) or not went_by_conversion(self._host, checkpoint):
            return None
        try:
            return convert_checkpoint(self._host, checkpoint, known_before=known)
        except CheckpointMissing:
            return None

    def _enter_released(self) -> None:
        self._log.enter(
            HoldState.RELEASED,
            checkpoint=self.checkpoint.id if self.checkpoint is not None else None,
            reference_point=self._point.id if self._point is not None else None,
            previous=self._replaces,
            layers=dict(self._layers),
        )

    def _released(self, merge: Merge, why: Reason | None) -> Released:
        try:
            after: PowerState | None = read_power_state(self._host, self._vm.vm.id)
        except HostTrouble:
            after = None  # the VM was deleted or moved away, or the host is gone: unknown
        reached = self._point.consistency if self._point is not None else None
        self._evidence |= {
            "merged": merge.is_done,
            "merge_trouble": merge.why,
            "power_after": after.code if after is not None else None,
            "reference_point": self._point.id if self._point is not None else None,
            "consistency_reached": reached,
        }
        record = record_of(self._point, self._tracked, self.disks) if self._point is not None else None
        return Released(record, why, merge, self._power, after, reached)

    def _close(self) -> None:
        """Close every file of the VM, and prove that the host has none open for us.

        An open file lets the merge fail (hyperv-backup-api.md section 0, fact 10).
        """
        self._close_own()
        for waited in pauses(self._clock, LONGEST_SILENCE_S):
            is_reachable = self._host_files.end_lost_logins()
            if not self._host_files.open_handles:
                return
            if is_reachable and waited >= _HANDLES_CLOSE_S:
                break
        left = self._host_files.open_handles
        raise HandlesOpen(
            f"{left} files of the VM {self._vm.vm.name!r} may still be open on the host.", handles=left
        )

    def _close_own(self) -> None:
        for disk in self.disks:
            disk.disk.close()
        for file in self.files:
            file.source.close()

    def _abandon(self, error: BaseException | None) -> None:
        """Take everything away that nobody was told of; never hide ``error``, and let nobody stop this.

        After a regular release there is nothing to do.
        """
        host, problems, vm_id = unheard(self._host), Problems(), self._vm.vm.id
        if self.state in (HoldState.PREPARED, HoldState.HELD):
            self._abandon_checkpoint(host, problems)
        if self._point is not None and not self._is_told:
            with problems.kept(f"the reference point {self._point.id}"):
                destroy_reference_point(host, vm_id, self._point.id)
                self._is_told = True
        problems.tell(error)

    def _abandon_checkpoint(self, host: HyperV, problems: Problems) -> None:
        checkpoint = self.checkpoint
        with problems.kept("files of the VM are not closed"):
            self._close_own()
            self._host_files.end_lost_logins()
        if checkpoint is not None:
            with problems.kept("the layers are not known"):
                self._layers = self._layers or layers_above(host, checkpoint)
            # First: the note below would make a sweep forget that there may be a reference point.
            with problems.kept("a reference point of a conversion that was stopped may be left"):
                self._end_conversion(host, checkpoint)
            # Without a journal it has to go all the same: ours it is in any case.
            with problems.kept("the journal"):
                if self._converting is None:
                    self._log.note(RELEASING, checkpoint=checkpoint.id, how="destroy")
            with problems.kept(f"the checkpoint {checkpoint.name!r} ({checkpoint.id})"):
                destroy_ours(host, checkpoint, self._owner)
                checkpoint = None
        if checkpoint is not None:
            return  # still there: the journal must not say otherwise
        with problems.kept("the journal"):
            self._enter_released()
        merge = await_merge(host, self._vm.vm.id, self._layers, self._limits.abandon_merge_s)
        if not merge.is_done:
            problems.told.append(f"not merged: {merge.why}")

    def _end_conversion(self, host: HyperV, checkpoint: CheckpointFacts) -> None:
        """Find what came of a conversion whose end nobody heard, before the checkpoint is destroyed."""
        known = self._converting
        if known is None:
            return
        if went_by_conversion(host, checkpoint):
            self._point = convert_checkpoint(host, checkpoint, known_before=known)
        self._converting = None

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        started = self._clock.monotonic()
        try:
            yield
        finally:
            self._seconds[phase] = round(self._clock.monotonic() - started, 3)
