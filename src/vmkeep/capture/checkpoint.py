"""Hold one running VM still through a recovery checkpoint, and always let go.

Everything a run changes on the host is in its journal first
(:mod:`vmkeep.capture.states`), so that whoever finds the journal can take it away.
The order is hyperv-backup-api.md 2.3.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Final, Literal, Self

from vmkeep import stopping
from vmkeep.capture.calls import Converting, Creation
from vmkeep.capture.claims import Became, Claimed
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
    destroy_point,
    has_no_vm,
    layers_above,
    unheard,
)
from vmkeep.capture.states import MADE, RELEASING, UNKNOWN, HoldLog, HoldState, Journal
from vmkeep.capture.tracked import record_of, with_changes
from vmkeep.clock import Clock, WatchedClock
from vmkeep.formats.errors import SourceChanged
from vmkeep.host.files.host_files import HostFiles
from vmkeep.host.hyperv import (
    CheckpointMissing,
    CheckpointWish,
    HyperV,
    Owner,
    PowerState,
    ReferencePoint,
    VmNotFound,
    Waiting,
    Went,
    is_there,
    layers_of,
    mark_checkpoint,
    read_power_state,
)
from vmkeep.host.hyperv.jobs import LONGEST_SILENCE_S, pauses
from vmkeep.model.consistency import Reason
from vmkeep.model.facts import CheckpointFacts, VmFacts
from vmkeep.planner.tracking import TrackedVm, TrackingRecord, read_all

_NO_LIMITS: Final = HoldLimits()
_HANDLES_CLOSE_S: Final = 30.0
_IF_MOVED: Final = (
    "nothing, if the VM was deleted; if it was moved, it took its checkpoint along: sweep its new host"
)
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

    To be called with signals held back (:mod:`vmkeep.stopping`), which it looks for itself: one that
    came between the return and the ``with`` block would leave the checkpoint.
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
        # The two calls that make something; what they have made may have to be looked for.
        self._creation: Creation | None = None
        self._converting: Converting | None = None
        self._is_converted = False
        # From then on its going tells nothing of a conversion.
        self._is_perhaps_removed = False
        self._is_conversion_known = False
        # Whether the journal names the checkpoint: then no later sweep takes another one for it.
        self._is_written = False
        self._merge: Merge | None = None
        self._is_told = False
        self._limit_watch: LimitWatch | None = None
        # Entered as long as a limit or a signal ends whatever is waited for.
        self._watched = ExitStack()
        self._is_limited = False
        self._is_stoppable = True

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
        vm = self._vm.vm
        with ExitStack() as watched:
            watched.enter_context(self._host.client.looking(self.glance))
            watched.enter_context(self._host_files.looking(self.glance))
            creation = Creation(self._host, self._log, vm, wish, self._owner)
            self._watched = watched.pop_all()
        self._creation, self._power = creation, creation.power
        self._evidence |= {"consistency_asked": wish.consistency, "power_before": self._power.code}
        try:
            with self._timed("create"):
                self.checkpoint = creation.make()
        except BaseException as error:
            self._clean_failed_creation(creation, error)
            raise
        try:
            self._limit_watch = LimitWatch(self._host, self._limits, vm.name)
            self._log.note(MADE, checkpoint=self.checkpoint.id)
            self._is_written = True
            self._freeze(self.checkpoint)
        except BaseException as error:
            self._abandon(error)
            raise

    def _freeze(self, made: CheckpointFacts) -> None:
        with self._timed("mark"):
            self.checkpoint = mark_checkpoint(self._host, made, self._owner)
            # Not before: a checkpoint that is being named could not be removed, nor be told to be ours.
            self._is_limited = True
            self.watch()
            self._power_held = read_power_state(self._host, made.vm_id)
            checkpoint = self.checkpoint
            self._layers = layers_of(self._host, checkpoint)
        self._evidence |= {
            "checkpoint": checkpoint.id,
            "checkpoint_name": checkpoint.name,
            "power_held": self._power_held.code,
        }
        held = {"checkpoint": checkpoint.id, "layers": dict(self._layers), "previous": self._replaces}
        self._log.enter(HoldState.HELD, **held)
        if self._limit_watch is not None:
            self._limit_watch.paths = tuple(self._layers.values())
        with self._timed("open"):
            self.disks = tuple(open_frozen(self._host, self._host_files, checkpoint))
            self.files = tuple(open_configuration(self._host_files, checkpoint))
            self._start = identities(self.disks, self.files)
        with self._timed("changes"):
            self.disks = with_changes(self._host, made.vm_id, self.disks, self._tracked, self._previous)

    def _clean_failed_creation(self, creation: Creation, error: BaseException) -> None:
        """Take away what a failed call has made all the same, if it is certain that it is ours.

        Where that is not certain the journal stays as it is, and a sweep looks again.
        """
        problems = Problems()
        found: Claimed[CheckpointFacts] = Claimed()
        with problems.kept("whether the host made a checkpoint nobody knows"):
            found = creation.left(self._undisturbed())
        if found.doubtful:
            names = ", ".join(checkpoint.id for checkpoint in found.doubtful)
            problems.told.append(f"whether one of these checkpoints is ours nobody knows: {names}")
        if problems.told:
            self._tell(problems, error)
            return
        self.checkpoint = found.ours
        self._abandon(error)

    # --- while held -------------------------------------------------------------------------

    def check(self) -> int:
        """Make sure that nothing moved since the hold began; return how many files were compared.

        Raises SourceChanged naming the file, CheckpointMissing when the checkpoint has gone, and
        VmNotFound when the VM has.
        """
        checkpoint = self._held()
        if not is_there(self._host, checkpoint.vm_id, checkpoint.id):
            if has_no_vm(self._host, checkpoint.vm_id):
                raise VmNotFound(
                    f"the VM {self._vm.vm.name!r} was deleted while it was read, or moved to another host.",
                    hint="What was read is no restore point. If it was moved, protect it on its new host.",
                )
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

        Asks the host now and then for its free space. Raises HoldLimitReached, and Stopped.
        """
        self._log.renew()
        self.glance()
        if self._is_limited and self._limit_watch is not None:
            self._limit_watch.look()

    def glance(self) -> None:
        """Look at the deadline alone, and for signals, which costs nothing; for any thread."""
        if self._is_stoppable:
            stopping.look()
        if self._is_limited and self._limit_watch is not None:
            self._limit_watch.glance()

    # --- letting go -------------------------------------------------------------------------

    def release(self, track: bool) -> Released:
        """Close everything, let the checkpoint go, wait for the merge, and tell what became of it.

        ``track`` turns the checkpoint into a reference point, the next run's
        baseline; refused, the checkpoint is destroyed and ``why_untracked`` says so.
        A merge that does not end is told, not raised. Raises HandlesOpen before
        anything was changed, and the host's errors while the checkpoint may still be there.
        """
        checkpoint = self._held()
        self._is_limited = False  # what lets go is not stopped by what it is there for
        with self._timed("close"):
            self._close()
        why = None if track else read_all("rct-not-wanted", "The run was asked to leave no reference point.")
        if track:
            with self._timed("convert"):
                why = self._convert(checkpoint)
        if self._point is None:
            with self._timed("destroy"):
                self._log.note(RELEASING, checkpoint=checkpoint.id, how="destroy", **self._doubt())
                self._destroy(self._host, checkpoint)
        self._enter_released()
        if self._point is not None and not self._is_converted:  # its checkpoint may be there all the same
            self._destroy(self._host, checkpoint)
        with self._timed("merge"):
            merge = self._merge = await_merge(self._host, self._vm.vm.id, self._layers, self._limits.merge_s)
        if self._point is not None and why is not None:
            destroy_point(self._host, self._vm.vm.id, self._point.id)
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
        return destroy_point(self._host, self._vm.vm.id, reference_point)

    def _held(self) -> CheckpointFacts:
        if self.checkpoint is None or self.state is not HoldState.HELD:
            raise ValueError(f"the VM {self._vm.vm.name!r} is not held")
        return self.checkpoint

    def _convert(self, checkpoint: CheckpointFacts) -> Reason | None:
        """Turn the checkpoint into a reference point; say why there is none that the next run can build on.

        Raises where nobody can tell what came of it; then the journal stays as it is.
        """
        assert self._creation is not None, "a VM that is held has a checkpoint"
        self._converting = Converting(self._host, self._log, checkpoint, self._creation)
        try:
            self._point = self._converting.make()
            self._is_converted = True
        except HostTrouble as error:
            found = self._converting.left(self._host)
            self._point = found.ours
            if found.is_proven:
                return None
            what = "did not say which reference point it made" if found.ours else "made no reference point"
            fact = f"The host {what} of the checkpoint ({error.code}): {error.message}"
            return read_all("rct-not-converted", fact)
        return None

    def _destroy(self, host: HyperV, checkpoint: CheckpointFacts) -> None:
        """Destroy the checkpoint; where a conversion was quicker after all, find its reference point.

        What had come of a conversion before has been looked for.
        """
        before, self._is_perhaps_removed = self._is_perhaps_removed, True
        went = destroy_ours(host, checkpoint, self._owner)
        self._is_perhaps_removed = before or went is not Went.OTHERWISE
        if went is not Went.BY_US and self._point is None and self._converting is not None:
            self._point = self._left_of_conversion(host)
        self._is_conversion_known = True

    def _left_of_conversion(self, host: HyperV) -> ReferencePoint | None:
        """Find the reference point that a conversion without an answer may have made."""
        assert self._converting is not None, "there was a conversion"
        became = Became.UNKNOWN if self._is_perhaps_removed else None
        return self._converting.left(host, became=became).ours

    def _doubt(self) -> Mapping[str, str]:
        """Return what a record says of a conversion that may have run, until its end is written down."""
        is_open = self._converting is not None and self._converting.may_have_run
        return {"point": UNKNOWN} if is_open else {}

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
        host, problems, vm_id = self._undisturbed(), Problems(), self._vm.vm.id
        is_gone = self.state is HoldState.RELEASED
        if self.state in (HoldState.PREPARED, HoldState.HELD):
            is_gone = self._abandon_checkpoint(host, problems)
        elif is_gone and self._merge is None and not self._is_converted and self.checkpoint is not None:
            is_gone = False  # what a conversion that failed has made is known; its checkpoint may stand
            with problems.kept(f"the checkpoint {self.checkpoint.name!r} ({self.checkpoint.id})"):
                destroy_ours(host, self.checkpoint, self._owner)
                is_gone = True
        if is_gone and self._merge is None:
            self._merge = await_merge(host, vm_id, self._layers, self._limits.abandon_merge_s)
            if not self._merge.is_done:
                problems.told.append(f"not merged: {self._merge.why}")
        if self._point is not None and not self._is_told and self.state is HoldState.HELD:
            problems.told.append(f"the reference point {self._point.id}: its removal cannot be written down")
        elif self._point is not None and not self._is_told:
            with problems.kept(f"the reference point {self._point.id}"):
                destroy_point(host, vm_id, self._point.id)
                self._is_told = True
        self._tell(problems, error)

    def _tell(self, problems: Problems, error: BaseException | None) -> None:
        """Tell what could not be cleaned up; of a VM that is gone, only where it may have gone."""
        if problems.told and has_no_vm(self._undisturbed(), self._vm.vm.id):
            problems.told[:] = [_IF_MOVED]
        problems.tell(error)

    def _abandon_checkpoint(self, host: HyperV, problems: Problems) -> bool:
        """Take the checkpoint away, and find the point that may have come of it; False if it stays."""
        checkpoint = self.checkpoint
        with problems.kept("files of the VM are not closed"):
            self._close_own()
            self._host_files.end_lost_logins()
        if checkpoint is not None:
            with problems.kept("the layers are not known"):
                self._layers = self._layers or layers_above(host, checkpoint)
            is_known = self._converting is None or self._point is not None or self._is_conversion_known
            if self._converting is not None and not is_known:
                # First: what is found when we have removed the checkpoint ourselves, can only be doubtful.
                with problems.kept("a reference point of a conversion that was stopped may be left"):
                    self._point = self._left_of_conversion(host)
                    is_known = True
            may_go = self._point is not None or (self._is_written and not self._doubt())
            with problems.kept("the journal"):
                if self._point is None:
                    self._log.note(RELEASING, checkpoint=checkpoint.id, how="destroy", **self._doubt())
                    may_go = True
            if not may_go:
                # Ours it is; but a later sweep would look for it, or its point, and find another's.
                what = f"the checkpoint {checkpoint.name!r} ({checkpoint.id})"
                problems.told.append(f"{what}: its removal cannot be written down")
                return False
            with problems.kept(f"the checkpoint {checkpoint.name!r} ({checkpoint.id})"):
                if is_known:
                    self._destroy(host, checkpoint)
                else:
                    destroy_ours(host, checkpoint, self._owner)
                checkpoint = None
            if checkpoint is not None:
                return False  # still there: the journal must not say otherwise
            if not is_known:
                return True  # nor that nothing came of a conversion of which nobody knows
        with problems.kept("the journal"):
            self._enter_released()
        return True

    def _undisturbed(self) -> HyperV:
        """Return the host as the clean-up needs it: from here on nobody is told, and nothing stops it."""
        self._is_limited = self._is_stoppable = False
        self._watched.close()
        return unheard(self._host)

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        started = self._clock.monotonic()
        try:
            yield
        finally:
            self._seconds[phase] = round(self._clock.monotonic() - started, 3)
