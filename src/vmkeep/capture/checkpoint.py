"""Hold one running VM still through a recovery checkpoint, and always let go.

Everything a run changes on the host is in its journal first
(:mod:`vmkeep.capture.states`), so that whoever finds the journal can take it away.
The order is hyperv-backup-api.md 2.3.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Final, Literal, Self, TypeVar

from vmkeep.capture.claims import (
    RECORD_S,
    Asked,
    Claimed,
    Conversion,
    claim_checkpoint,
    claim_point,
    has_settled,
)
from vmkeep.capture.errors import HandlesOpen
from vmkeep.capture.folder import HeldFile
from vmkeep.capture.host_chain import FrozenDisk, identities, open_configuration, open_frozen
from vmkeep.capture.limits import HoldLimits, LimitWatch
from vmkeep.capture.outcome import Problems, Released
from vmkeep.capture.removing import (
    HostTrouble,
    Merge,
    await_merge,
    destroy_ours,
    has_begun,
    layers_above,
    unheard,
    went_by_conversion,
)
from vmkeep.capture.states import ASKED, ASKING, MADE, RELEASING, HoldLog, HoldState, Journal
from vmkeep.capture.tracked import record_of, with_changes
from vmkeep.clock import Clock, WatchedClock
from vmkeep.formats.errors import SourceChanged
from vmkeep.host.files.host_files import HostFiles
from vmkeep.host.hyperv import (
    CheckpointMissing,
    CheckpointUnidentified,
    CheckpointWish,
    HyperV,
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
    read_checkpoint,
    read_host_time,
    read_power_state,
)
from vmkeep.host.hyperv.checkpoints import CRASH
from vmkeep.host.hyperv.jobs import LONGEST_SILENCE_S, NOT_RUN, pauses
from vmkeep.host.wsman import ActionHappened, OutcomeUnknown
from vmkeep.model.consistency import Reason
from vmkeep.model.facts import CheckpointFacts, VmFacts
from vmkeep.planner.tracking import TrackedVm, TrackingRecord, read_all

T = TypeVar("T")

_NO_LIMITS: Final = HoldLimits()
_RUNNING: Final = 2
_ASK_AGAIN_S: Final = 5.0
_HANDLES_CLOSE_S: Final = 30.0
_WRITTEN_ON_HOST: Final = (
    "The file was frozen by this run's checkpoint, so nobody may write to it: find out who does on the host "
    "(another backup, a merge by hand, a mounted disk), then run again."
)


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
    hold = CheckpointHold(host, files, vm, owner, log, clock, previous, limits, replaces)
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

        def watch(waiting: Waiting) -> None:
            self.watch()
            host.watch(waiting)

        self._host = replace(host, clock=WatchedClock(host.clock, self.glance), watch=watch)
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
        # The call for the checkpoint, and a conversion whose end is not known.
        self._asked = Asked(vm.vm.id, (), None)
        self._asked_level: int = 0
        self._converting: Conversion | None = None
        self._is_unheard = False
        self._is_told = False
        self._limit_watch: LimitWatch | None = None
        # Entered as long as a limit that is reached ends whatever is waited for.
        self._watched = ExitStack()
        self._is_watched = False

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
        self._asked = Asked(vm_id, known, None)
        self._power = read_power_state(self._host, vm_id)
        self._asked_level = wish.consistency
        self._evidence |= {"consistency_asked": wish.consistency, "power_before": self._power.code}

        def ask() -> CheckpointFacts:
            self._announce()
            return create_checkpoint(
                self._host,
                vm_id,
                wish,
                known_before=known,
                name=self._vm.vm.name,
                accepted=self._note_job,
            )

        try:
            with self._timed("create"):
                made = self._named_or_claimed(ask)
        except BaseException as error:
            self._clean_failed_creation(error)
            raise
        self.checkpoint = made
        self._limit_watch = LimitWatch(self._host, self._limits, self._vm.vm.name)
        try:
            self._log.note(MADE, checkpoint=made.id)
            self._freeze(made)
        except BaseException as error:
            self._abandon(error)
            raise

    def _named_or_claimed(self, ask: Callable[[], CheckpointFacts]) -> CheckpointFacts:
        """Return what the host says the call has made, or what can be claimed where it does not say."""
        try:
            return self._until_heard(ask)
        except (OutcomeUnknown, ActionHappened, CheckpointUnidentified):
            self._is_unheard = True  # whatever fails while it is looked for
            if not has_settled(self._host, self._asked, patient=True):
                raise
            found = claim_checkpoint(self._host, self._asked)
            if found.ours is None:
                raise
            return read_checkpoint(self._host, found.ours.id)

    def _announce(self) -> None:
        """Write down that the checkpoint is asked for now, by the host's time of just before.

        What is made soon after that time is ours (:mod:`claims`): a record that took long is
        followed by another. Should that take long, too, a checkpoint of ours is left to a person.
        This run itself goes by the time after the record, which others may have used.
        """
        for _ in range(2):
            started, since = self._clock.monotonic(), read_host_time(self._host)
            told = since.isoformat() if since is not None else None
            self._asked = replace(self._asked, since=since, job=None)
            if self.state is None:
                self._log.enter(
                    HoldState.PREPARED,
                    vm=self._vm.vm.id,
                    owner=[self._owner.repository, self._owner.run],
                    known_checkpoints=list(self._asked.known),
                    since=told,
                    power=self._power.code,
                    level=self._asked_level,
                )
            else:
                self._log.note(ASKING, since=told)
            if self._clock.monotonic() - started <= RECORD_S:
                break
        self._asked = replace(self._asked, since=read_host_time(self._host) or self._asked.since)

    def _note_job(self, job: str) -> None:
        """Write down that the host has taken the call: what its job makes is ours."""
        if self._converting is None:
            self._asked = replace(self._asked, job=job.lower())
        else:
            asked = replace(self._converting.asked, job=job.lower())
            self._converting = replace(self._converting, asked=asked)
        self._log.note(ASKED, job=job)

    def _until_heard(self, ask: Callable[[], T]) -> T:
        """Ask again while the host certainly has not heard; each time is announced anew."""
        started = self._clock.monotonic()
        while True:
            try:
                return ask()
            except NOT_RUN as error:
                waited = self._clock.monotonic() - started
                if "job" in error.context or waited >= self._host.silence_s:
                    raise
            self._host.watch(Waiting("hear of the host again", waited))
            self._clock.sleep(_ASK_AGAIN_S)

    def _freeze(self, made: CheckpointFacts) -> None:
        with self._timed("mark"):
            self.checkpoint = mark_checkpoint(self._host, made, self._owner)
            # Not before: a checkpoint that is being named could not be removed, nor be told to be ours.
            self._begin_watch()
            self._power_held = read_power_state(self._host, made.vm_id)
            checkpoint = self.checkpoint
            self._layers = layers_of(self._host, checkpoint)
        self._evidence |= {
            "checkpoint": checkpoint.id,
            "checkpoint_name": checkpoint.name,
            "power_held": self._power_held.code,
        }
        self._log.enter(HoldState.HELD, checkpoint=checkpoint.id, layers=dict(self._layers))
        if self._limit_watch is not None:
            self._limit_watch.paths = tuple(self._layers.values())
        with self._timed("open"):
            self.disks = tuple(open_frozen(self._host, self._host_files, checkpoint))
            self.files = tuple(open_configuration(self._host_files, checkpoint))
            self._start = identities(self.disks, self.files)
        with self._timed("changes"):
            self.disks = with_changes(self._host, made.vm_id, self.disks, self._tracked, self._previous)

    def _clean_failed_creation(self, error: BaseException) -> None:
        """Take away what a failed call has made all the same, if it is certain that it is ours.

        Where that is not certain the journal stays as it is, and a sweep looks again.
        """
        problems, host = Problems(), unheard(self._host)
        found: Claimed[CheckpointFacts] = Claimed()
        if self._asked.job is not None or self._is_unheard or has_begun(error):
            with problems.kept("whether the host made a checkpoint nobody knows"):
                if not has_settled(host, self._asked, patient=True):
                    raise OutcomeUnknown("the host is still making a checkpoint.")
                found = claim_checkpoint(host, self._asked)
        if found.doubtful:
            names = ", ".join(checkpoint.id for checkpoint in found.doubtful)
            problems.told.append(f"whether one of these checkpoints is ours nobody knows: {names}")
        if problems.told:
            problems.tell(error)
            return
        self.checkpoint = found.ours
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
                raise SourceChanged(
                    f"{file!r} was written or replaced while it was read.", hint=_WRITTEN_ON_HOST, file=file
                )
        return len(now)

    def watch(self) -> None:
        """Look whether the hold may go on; for the thread that holds, as often as it likes.

        Asks the host now and then for its free space. Raises HoldLimitReached.
        """
        self._log.renew()
        if self._is_watched and self._limit_watch is not None:
            self._limit_watch.look()

    def glance(self) -> None:
        """Look at the deadline alone, which costs nothing; for any thread. Raises HoldLimitReached."""
        if self._is_watched and self._limit_watch is not None:
            self._limit_watch.glance()

    def _begin_watch(self) -> None:
        """From here on the deadline ends whatever is waited for."""
        self._is_watched = True
        self._watched.enter_context(self._host.client.looking(self.glance))
        self._watched.enter_context(self._host_files.looking(self.glance))
        self.watch()

    def _end_watch(self) -> None:
        """What lets go, or cleans up, is not stopped by what it is there for."""
        self._is_watched = False
        self._watched.close()

    # --- letting go -------------------------------------------------------------------------

    def release(self, track: bool) -> Released:
        """Close everything, let the checkpoint go, wait for the merge, and tell what became of it.

        ``track`` turns the checkpoint into a reference point, the next run's
        baseline; refused, the checkpoint is destroyed and ``why_untracked`` says so.
        A merge that does not end is told, not raised. Raises HandlesOpen before
        anything was changed, and the host's errors while the checkpoint may still be there.
        """
        checkpoint = self._held()
        self._end_watch()
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
        if self._point is not None and why is not None:
            destroy_reference_point(self._host, self._vm.vm.id, self._point.id)
            self._point = None
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
        def ask() -> ReferencePoint:
            known = self._announce_conversion(checkpoint)
            return convert_checkpoint(self._host, checkpoint, known_before=known, accepted=self._note_job)

        try:
            point = self._until_heard(ask)
        except HostTrouble as error:
            found = self._converted_unheard(error, checkpoint)
            self._converting = None
            if found.is_proven:
                return found.ours, None
            what = "did not say which reference point it made" if found.ours else "made no reference point"
            fact = f"The host {what} of the checkpoint ({error.code}): {error.message}"
            return found.ours, read_all("rct-not-converted", fact)
        self._converting = None
        return point, None

    def _announce_conversion(self, checkpoint: CheckpointFacts) -> tuple[str, ...]:
        """Write down that the checkpoint is converted now; return the reference points there are."""
        known: tuple[str, ...] = ()
        disks = sum(disk.kind != "passthrough" for disk in checkpoint.disks)
        is_crash = self._asked_level == CRASH and self._power.code == _RUNNING
        for _ in range(2):
            known = tuple(point.id for point in list_reference_points(self._host, checkpoint.vm_id))
            started, since = self._clock.monotonic(), read_host_time(self._host)
            asked = Asked(checkpoint.vm_id, known, since)
            self._converting = Conversion(asked, checkpoint.id, disks, is_crash)
            self._log.note(
                RELEASING,
                checkpoint=checkpoint.id,
                how="convert",
                known_points=list(known),
                since=since.isoformat() if since is not None else None,
                disks=disks,
            )
            if self._clock.monotonic() - started <= RECORD_S:
                break
        return known

    def _converted_unheard(self, error: Exception, checkpoint: CheckpointFacts) -> Claimed[ReferencePoint]:
        """Find what came of a conversion that failed, or whose end nobody heard: nothing, as a rule.

        Raises CheckpointUnidentified where nobody can tell; then the journal stays as it is.
        """
        if self._converting is None:
            return Claimed()
        # A call that the host refused, or never got, has made nothing, whatever became of the checkpoint.
        has_run = self._converting.asked.job is not None or has_begun(error)
        if not has_run or not went_by_conversion(self._host, checkpoint):
            return Claimed()
        return self._claimed_point(self._host, self._converting)

    @staticmethod
    def _claimed_point(host: HyperV, conversion: Conversion) -> Claimed[ReferencePoint]:
        """Claim the point of a conversion whose checkpoint has gone. Raises CheckpointUnidentified."""
        found = claim_point(host, conversion)
        if found.doubtful:
            ids = tuple(point.id for point in found.doubtful)
            raise CheckpointUnidentified(
                f"whether one of these reference points is ours nobody knows: {', '.join(ids)}.",
                candidates=ids,
            )
        return found

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
        self._end_watch()
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
                if self._converting is None and self._point is None:
                    self._log.note(RELEASING, checkpoint=checkpoint.id, how="destroy")
            with problems.kept(f"the checkpoint {checkpoint.name!r} ({checkpoint.id})"):
                destroy_ours(host, checkpoint, self._owner)
                checkpoint = None
        if checkpoint is not None:
            return  # still there: the journal must not say otherwise
        if self._converting is not None:
            return  # nor that nothing came of a conversion of which nobody knows
        with problems.kept("the journal"):
            self._enter_released()
        merge = await_merge(host, self._vm.vm.id, self._layers, self._limits.abandon_merge_s)
        if not merge.is_done:
            problems.told.append(f"not merged: {merge.why}")

    def _end_conversion(self, host: HyperV, checkpoint: CheckpointFacts) -> None:
        """Find what came of a conversion whose end nobody heard, before the checkpoint is destroyed."""
        if self._converting is None:
            return
        if went_by_conversion(host, checkpoint):
            self._point = self._claimed_point(host, self._converting).ours
        self._converting = None

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        started = self._clock.monotonic()
        try:
            yield
        finally:
            self._seconds[phase] = round(self._clock.monotonic() - started, 3)
