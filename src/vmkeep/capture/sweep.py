"""Take away exactly what a dead run left on a host, by what it wrote down, and nothing of anybody else's.

Safe to repeat, and for any machine that can read the journal. Whether the run is
dead the caller has made sure of. What cannot be proven ours is left and told.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Self, TypeAlias, TypeVar

from vmkeep.capture.claims import (
    Became,
    Claimed,
    claim_checkpoint,
    claim_point,
    has_settled,
    is_being_converted,
    is_being_made,
    went_by_conversion,
)
from vmkeep.capture.removing import (
    HostTrouble,
    await_merge,
    destroy_ours,
    destroy_point,
    has_no_vm,
    layers_above,
)
from vmkeep.capture.states import DECIDED, RELEASING, UNKNOWN, HoldState
from vmkeep.capture.traces import Trace, read_trace
from vmkeep.host.hyperv import (
    HyperV,
    Owner,
    ReferencePoint,
    Went,
    is_there,
    list_recovery_checkpoints,
    list_reference_points,
    list_unmarked,
    read_merge,
)
from vmkeep.host.hyperv.created import is_among
from vmkeep.model.facts import CheckpointFacts

T = TypeVar("T", CheckpointFacts, ReferencePoint)

_DOUBTFUL: Final = "it cannot be told from another program's"
_LOST: Final = "a record of the run cannot be read, and may have named it"
_LOST_HERE: Final = "a record of the run cannot be read, and this is not the host it worked on"
_BEING_MADE: Final = "the host is still making a checkpoint"
_BEING_CONVERTED: Final = "the host is still making a reference point of the run's checkpoint"
_NO_VM: Final = (
    "the host has no such VM any more, so nothing of the run is there; if it was moved, sweep its new host"
)
NOT_HERE: Final = "the host has no such VM, and may not be the one that the run worked on"

Note: TypeAlias = Callable[[str, Mapping[str, Any]], None]
"""Adds a step to the journal of the dead run, durably: a later sweep finds it among the records."""
What = Literal["checkpoint", "reference point", "merge", "VM"]


@dataclass(frozen=True)
class Swept:
    """What a sweep did about one thing; ``why`` tells why it was left, or what failed."""

    what: What
    id: str
    outcome: Literal["removed", "would be removed", "finished", "left", "failed"]
    why: str = ""
    is_asked: bool = False
    """Whether a person has to say whose it is: :class:`Said`."""

    @property
    def is_clean(self) -> bool:
        """Tell whether nothing of this is left."""
        return self.outcome in ("removed", "finished")


def short_id(object_id: str) -> str:
    r"""Return what is enough to name an object of a host: the GUID behind the last ``:`` or ``\``.

    It needs no quotes in any shell. An id as Hyper-V writes it is taken, too, in any letter case,
    quoted or not.
    """
    return re.split(r"[:\\]", object_id.strip().strip("'\""))[-1].lower()


@dataclass(frozen=True)
class Said:
    """What a person has said that nobody else can tell: by short ids, whose things are.

    ``hosts_gone``: dead runs whose host exists no more.
    """

    ours: frozenset[str] = frozenset()
    not_ours: frozenset[str] = frozenset()
    hosts_gone: frozenset[str] = frozenset()

    @classmethod
    def of(cls, ours: Collection[str], not_ours: Collection[str], hosts_gone: Collection[str] = ()) -> Self:
        """Take ids as a person gives them."""
        runs = frozenset(run.strip().lower() for run in hosts_gone)
        return cls(frozenset(map(short_id, ours)), frozenset(map(short_id, not_ours)), runs)


NOTHING_SAID: Final = Said()


def nothing_noted(_: str, __: Mapping[str, Any]) -> None:
    """Take a step that is written nowhere: of a sweep that changes nothing."""
    return


def sweep(
    host: HyperV,
    records: Sequence[tuple[str, Mapping[str, Any]]],
    owner: Owner,
    *,
    durable: Collection[str] = (),
    dry_run: bool = False,
    marked_only: bool = False,
    is_its_host: bool = True,
    merge_limit_s: float = 3600.0,
    note: Note = nothing_noted,
    said: Said = NOTHING_SAID,
    lost_of: str | None = None,
) -> tuple[Swept, ...]:
    """Remove what the run with these journal records, (step, detail) in order, left of itself on the host.

    ``durable`` names the reference points that the newest stored tracking of a VM
    rests on: they stay. What the run had no time to write down is proven or concluded
    (:mod:`claims`); that holds once, so it goes to ``note`` before anything is taken
    away. Of the rest a person may have ``said`` whose it is. ``marked_only``: this is
    not the host the run wrote of, where a VM of the same id may be another one; then only
    a checkpoint with the run's own mark is touched, or a reference point that it wrote
    down. ``is_its_host``: this is the host the run worked on for certain; else that there is no such VM
    proves nothing (:data:`NOT_HERE`). ``lost_of``: records of the run are lost, and this is its VM;
    then whatever they may have named is left and told, too. Failures of the host are data in the
    answer; only when every item :attr:`Swept.is_clean` may the run be buried.
    """
    trace = read_trace(records)
    if trace is None and lost_of is None:
        return ()
    trace = trace or Trace()
    if not trace.vm_id and lost_of is not None:
        trace = replace(trace, vm_id=lost_of.upper())  # as hosts spell GUIDs
    is_whole = trace.is_whole and lost_of is None
    limits = (dry_run, marked_only, is_its_host, merge_limit_s)
    one = _Sweep(host, owner, trace, tuple(durable), *limits, note, said, is_whole)
    return tuple(one.run())


@dataclass
class _Sweep:
    """One sweep of one run."""

    host: HyperV
    owner: Owner
    trace: Trace
    durable: tuple[str, ...]
    dry_run: bool
    marked_only: bool
    is_its_host: bool
    merge_limit_s: float
    note: Note
    said: Said
    is_whole: bool
    became: Became | None = None
    """Of the checkpoint of a conversion whose end nobody heard; None: not known, so nothing is concluded."""
    unneeded: tuple[str, ...] = ()
    """Reference points to be dropped after the merge: meanwhile the host refuses."""
    would_remove: bool = False
    why_unknown: str = ""
    """Why the layers that have to be merged could not be read."""

    def run(self) -> list[Swept]:
        """Do all of it, checkpoints first; a failure of one thing keeps nothing from the next."""
        vm_id = self.trace.vm_id
        if not vm_id:  # the first record was lost
            return [Swept("VM", "", "left", "the journal does not say which VM was held")]
        if self.marked_only:
            try:
                is_here = self._has_points()
            except HostTrouble as error:
                return [Swept("VM", vm_id, "failed", error.message)]
            if not is_here:  # layers and reference points that were written down are those of the other host
                self.trace = replace(self.trace, layers={}, reference_point=None, previous=None)
        elif has_no_vm(self.host, vm_id):
            if not self.is_its_host:
                return [Swept("VM", vm_id, "left", NOT_HERE)]
            return [Swept("VM", vm_id, "finished", _NO_VM)]
        swept: list[Swept] = []
        for part in (self._checkpoints, self._reference_points):
            swept += self._tried(part)
        if not self.is_whole:
            told = [each.id for each in swept]
            swept += self._tried(lambda: self._unaccounted(told))
        for part in (self._merge, self._drop_all):
            swept += self._tried(part)
        return swept

    def _tried(self, part: Callable[[], list[Swept]]) -> list[Swept]:
        try:
            return part()
        except HostTrouble as error:
            return [Swept("VM", self.trace.vm_id, "failed", error.message)]

    def _has_points(self) -> bool:
        """Tell whether a reference point that the run wrote down is here: then the VM has moved here."""
        written = [each for each in (self.trace.reference_point, self.trace.previous) if each is not None]
        if not written:
            return False
        points = list_reference_points(self.host, self.trace.vm_id)
        return any(is_among(point.id, written) for point in points)

    def _heard(self, found: Claimed[T]) -> tuple[list[T], list[T]]:
        """Return what is ours and what is still doubtful, after a person's word.

        What is not ours is written down for good.
        """
        ours = [each for each in found.doubtful if short_id(each.id) in self.said.ours]
        theirs = [each.id for each in found.doubtful if short_id(each.id) in self.said.not_ours]
        if theirs and not self.dry_run:
            self.note(DECIDED, {"not_ours": theirs})
        if ours:  # whatever else there is has been made by others: one call makes one
            return ours, []
        left = [each for each in found.doubtful if each.id not in theirs]
        return [] if found.ours is None else [found.ours], left

    # --- checkpoints ------------------------------------------------------------------------

    def _checkpoints(self) -> list[Swept]:
        if self._is_converting:
            if self.dry_run and is_being_converted(self.host, self.trace.conversion.asked):
                return [Swept("VM", self.trace.vm_id, "left", _BEING_CONVERTED)]
            self.became = self._look_what_became()
        mine, swept = self._find()
        return swept + [self._remove(checkpoint) for checkpoint in mine]

    @property
    def _is_converting(self) -> bool:
        """Whether a conversion may have run, and nobody wrote down what came of it."""
        is_open = self.trace.is_converting and self.trace.state is HoldState.HELD
        return is_open and not self.marked_only

    def _look_what_became(self) -> Became:
        """Tell what became of the checkpoint, after the conversion's end: before that nothing is removed."""
        conversion = self.trace.conversion
        if self.dry_run:
            has_gone = not is_there(self.host, conversion.asked.vm_id, conversion.checkpoint)
        else:
            has_gone = went_by_conversion(self.host, conversion, patient=False)
        if self.trace.is_perhaps_removed:
            return Became.UNKNOWN
        return Became.GONE if has_gone else Became.THERE

    def _remove(self, checkpoint: CheckpointFacts) -> Swept:
        """Remove a checkpoint of the run, and say what came of it."""
        if self.dry_run:
            self.would_remove = True
            return Swept("checkpoint", checkpoint.id, "would be removed")
        before, self.became = self.became, None
        try:
            self._write_down(checkpoint)
            went = destroy_ours(self.host, checkpoint, self.owner)
            if self._is_converting:
                self.became = self._after_removal(before, went)
        except HostTrouble as error:
            return Swept("checkpoint", checkpoint.id, "failed", error.message)
        return Swept("checkpoint", checkpoint.id, "removed")

    def _after_removal(self, before: Became | None, went: Went) -> Became | None:
        """Tell what became of the checkpoint of a conversion, now that we wanted it to go."""
        if went is Went.BY_US:
            return Became.REMOVED if before is Became.THERE else before
        # Whatever the host was doing: it may have been what the run asked for at last.
        became = self._look_what_became()
        return Became.UNKNOWN if went is Went.PERHAPS_BY_US else became

    def _write_down(self, checkpoint: CheckpointFacts) -> None:
        """Tell whoever looks after us which checkpoint we remove, and what has to be merged after it."""
        trace, layers = self.trace, self.trace.layers
        try:
            layers = layers or layers_above(self.host, checkpoint)
        except HostTrouble as error:  # the checkpoint must go all the same
            self.why_unknown = error.message
        # What comes of a conversion can be told less certainly afterwards, and must not be forgotten.
        point = {"point": UNKNOWN} if self._is_converting else {}
        if point or (trace.checkpoint, trace.layers) != (checkpoint.id, layers):
            detail = {"checkpoint": checkpoint.id, "how": "destroy", "layers": dict(layers), **point}
            self.note(RELEASING, detail)
        self.trace = replace(trace, layers=layers)

    def _find(self) -> tuple[list[CheckpointFacts], list[Swept]]:
        """Return the checkpoints of the run, and what is to be told of those nobody can tell."""
        listed = list_recovery_checkpoints(self.host, self.trace.vm_id)
        marked = [c for c in listed if Owner.of(c.name) == self.owner]
        if self.marked_only:
            return marked, []
        mine = [c for c in listed if c in marked or self._is_known(c)]
        if mine or self.trace.checkpoint is not None or self.trace.state is not HoldState.PREPARED:
            return mine, []
        return self._find_unmarked()  # the run died around the call

    def _is_known(self, checkpoint: CheckpointFacts) -> bool:
        """Tell whether it is the one the run wrote down, and nobody else has put a mark on it."""
        known = self.trace.checkpoint
        return known is not None and is_among(checkpoint.id, [known]) and Owner.of(checkpoint.name) is None

    def _find_unmarked(self) -> tuple[list[CheckpointFacts], list[Swept]]:
        """Find what the run has made and not marked; a call of just now is waited for."""
        asked = self.trace.asked
        if self.dry_run:
            is_settled = not is_being_made(self.host, asked)
        else:
            is_settled = has_settled(self.host, asked, patient=False)
        if not is_settled:
            return [], [Swept("VM", asked.vm_id, "left", _BEING_MADE)]
        mine, doubtful = self._heard(claim_checkpoint(self.host, asked, self.trace.disowned))
        return mine, _asked("checkpoint", doubtful, _DOUBTFUL)

    # --- reference points and merges --------------------------------------------------------

    def _reference_points(self) -> list[Swept]:
        """Find the point that nothing rests on: the new one, or, if that became durable, the one before."""
        trace = self.trace
        new = [trace.reference_point] if trace.reference_point is not None else []
        swept: list[Swept] = []
        if not new and self._is_converting:
            new, swept = self._converted()
            if not new and not swept and self.became is not Became.THERE:
                self._write_down_that_nothing_came()
        previous = [trace.previous] if trace.previous is not None else []
        is_durable = trace.state is HoldState.TRACKED
        if not is_durable and any(is_among(point, self.durable) for point in new):
            is_durable = True
            if previous and not self.dry_run:  # the next run's point will be durable in place of it
                detail = {"reference_point": new[0], "previous": trace.previous}
                self.note(HoldState.TRACKED.value, detail)
        unneeded = [p for p in (previous if is_durable else new) if not is_among(p, self.durable)]
        for point in unneeded:
            self._write_down_point(point)
        self.unneeded = tuple(unneeded)
        return swept

    def _converted(self) -> tuple[list[str], list[Swept]]:
        """Find the reference point of a conversion that the run did not hear the end of."""
        if self.became is None:
            what = "whether the run has made one is not known"
            return [], [Swept("reference point", self.trace.vm_id, "failed", what)]
        disowned = (*self.trace.disowned, *self.durable)  # later runs' own points are new, too
        ours, doubtful = self._heard(claim_point(self.host, self.trace.conversion, self.became, disowned))
        return [point.id for point in ours], _asked("reference point", doubtful, _DOUBTFUL)

    def _write_down_that_nothing_came(self) -> None:
        """Keep later sweeps from asking about points that others have made since."""
        trace = self.trace
        if not self.dry_run and not is_there(self.host, trace.vm_id, trace.conversion.checkpoint):
            detail = {"checkpoint": trace.checkpoint, "reference_point": None, "layers": dict(trace.layers)}
            self.note(HoldState.RELEASED.value, detail)

    def _write_down_point(self, point: str) -> None:
        """Tell whoever looks after us which reference point we remove, unless the run itself did."""
        trace = self.trace
        if not self.dry_run and point not in (trace.reference_point, trace.previous):
            detail = {"checkpoint": trace.checkpoint, "reference_point": point, "layers": dict(trace.layers)}
            self.note(HoldState.RELEASED.value, detail)

    def _drop_all(self) -> list[Swept]:
        return [self._drop(point) for point in self.unneeded]

    def _drop(self, point: str) -> Swept:
        """Destroy a reference point."""
        if self.dry_run:
            return Swept("reference point", point, "would be removed")
        was_there = destroy_point(self.host, self.trace.vm_id, point)
        return Swept("reference point", point, "removed" if was_there else "finished")

    def _merge(self) -> list[Swept]:
        vm_id, layers = self.trace.vm_id, self.trace.layers
        if self.why_unknown:
            return [Swept("merge", vm_id, "failed", f"the layers: {self.why_unknown}")]
        if not layers:
            return []
        names = ", ".join(layers.values())
        if self.dry_run:
            is_done = read_merge(self.host, vm_id, layers).is_done
            if is_done:
                return [Swept("merge", names, "finished")]
            if self.would_remove:
                return []  # what has to be merged is merged when the checkpoint has gone
            return [Swept("merge", names, "left", "not merged")]
        merge = await_merge(self.host, vm_id, layers, self.merge_limit_s)
        return [Swept("merge", names, "finished" if merge.is_done else "failed", merge.why)]

    # --- what lost records may have named ---------------------------------------------------

    def _unaccounted(self, told: Collection[str]) -> list[Swept]:
        """Tell of what lost records may have named: all that is not known to be somebody else's."""
        trace = self.trace
        if self.marked_only:
            return [Swept("VM", trace.vm_id, "left", _LOST_HERE)]
        others = (*told, *trace.disowned)
        unmarked = list_unmarked(self.host, trace.vm_id, known_before=(*trace.known_checkpoints, *others))
        mine, doubtful = self._heard(Claimed(None, tuple(unmarked)))
        swept = [self._remove(checkpoint) for checkpoint in mine] + _asked("checkpoint", doubtful, _LOST)
        # The point of the run before was known, and is ours all the same.
        strange = [each for each in trace.known_points if not is_among(each, [trace.previous or ""])]
        known = (*strange, *self.durable, *self.unneeded, *others)
        points = [p for p in list_reference_points(self.host, trace.vm_id) if not is_among(p.id, known)]
        ours, unknown = self._heard(Claimed(None, tuple(points)))
        for point in ours:
            self._write_down_point(point.id)
        self.unneeded += tuple(point.id for point in ours)
        return swept + _asked("reference point", unknown, _LOST)


def _asked(what: What, doubtful: Sequence[T], why: str) -> list[Swept]:
    """Leave to a person what nobody else can tell."""
    return [Swept(what, each.id, "left", why, is_asked=True) for each in doubtful]
