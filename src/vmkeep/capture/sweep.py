"""Take away exactly what a dead run left on a host, by what it wrote down, and nothing of anybody else's.

Safe to repeat, and for any machine that can read the journal. Whether the run is
dead the caller has made sure of. What cannot be proven ours is left and told.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, Literal, Self, TypeAlias, TypeVar

from vmkeep.capture.claims import (
    Asked,
    Became,
    Claimed,
    Conversion,
    claim_checkpoint,
    claim_point,
    has_settled,
    is_being_converted,
    is_being_made,
    went_by_conversion,
)
from vmkeep.capture.removing import HostTrouble, await_merge, destroy_ours, layers_above
from vmkeep.capture.states import ASKED, ASKING, DECIDED, MADE, RELEASING, UNKNOWN, HoldState
from vmkeep.host.hyperv import (
    HyperV,
    Owner,
    ReferencePoint,
    Went,
    destroy_reference_point,
    is_gone,
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
_STEPS: Final = {state.value: state for state in HoldState}
_NOTES: Final = frozenset({ASKING, ASKED, MADE, RELEASING, DECIDED})
_RUNNING: Final = 2
_CRASH: Final = 2

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
    """What a person has said of things nobody can tell: by their short ids, whose they are."""

    ours: frozenset[str] = frozenset()
    not_ours: frozenset[str] = frozenset()

    @classmethod
    def of(cls, ours: Collection[str], not_ours: Collection[str]) -> Self:
        """Take ids as a person gives them."""
        return cls(frozenset(map(short_id, ours)), frozenset(map(short_id, not_ours)))


NOTHING_SAID: Final = Said()


@dataclass
class _Trace:
    """What the journal of a run says about one hold."""

    vm_id: str = ""
    known_checkpoints: tuple[str, ...] = ()
    since: datetime | None = None
    job: str | None = None
    is_crash_asked: bool = False
    checkpoint: str | None = None
    layers: Mapping[str, str] = field(default_factory=dict)
    converting: bool = False
    is_taken_away: bool = False
    converting_since: datetime | None = None
    converting_job: str | None = None
    disks: int | None = None
    known_points: tuple[str, ...] = ()
    reference_point: str | None = None
    previous: str | None = None
    disowned: frozenset[str] = frozenset()
    state: HoldState | None = None

    @property
    def asked(self) -> Asked:
        """The call for the checkpoint."""
        return Asked(self.vm_id, self.known_checkpoints, self.since, self.job)

    @property
    def conversion(self) -> Conversion:
        """The conversion that was announced last."""
        asked = Asked(self.vm_id, self.known_points, self.converting_since, self.converting_job)
        return Conversion(asked, self.checkpoint or "", self.disks, self.is_crash_asked)


def _read(records: Sequence[tuple[str, Mapping[str, Any]]]) -> list[_Trace]:
    """Return what each hold of a run wrote down; other rooms' steps and renewed leases mean nothing here."""
    traces: list[_Trace] = []
    for step, detail in records:
        if (step not in _STEPS and step not in _NOTES) or detail.get("renewed"):
            continue
        if step == HoldState.PREPARED.value or not traces:
            traces.append(_Trace())
        trace = traces[-1]
        trace.state = _STEPS.get(step, trace.state)
        trace.checkpoint = detail.get("checkpoint") or trace.checkpoint
        trace.layers = detail.get("layers") or trace.layers
        trace.reference_point = detail.get("reference_point") or trace.reference_point
        trace.previous = detail.get("previous") or trace.previous
        _read_call(trace, step, detail)
    return traces


def _read_call(trace: _Trace, step: str, detail: Mapping[str, Any]) -> None:
    """Take from one record what it says of a call: when, for what, and whether the host took it."""
    if step == RELEASING and detail.get("how") == "destroy":
        trace.is_taken_away = trace.converting = detail.get("point") == UNKNOWN
    elif step == RELEASING:
        trace.converting = True
        trace.known_points = tuple(detail.get("known_points", trace.known_points))
        trace.converting_since, trace.converting_job = _moment(detail), None
        trace.disks = detail.get("disks")
    elif step == HoldState.PREPARED.value:
        trace.vm_id = str(detail["vm"])
        trace.known_checkpoints = tuple(detail["known_checkpoints"])
        trace.since = _moment(detail)
        trace.is_crash_asked = detail.get("level") == _CRASH and detail.get("power") == _RUNNING
    elif step == ASKING:
        trace.since, trace.job = _moment(detail), None
    elif step == ASKED and trace.converting:
        trace.converting_job = str(detail["job"]).lower()
    elif step == ASKED:
        trace.job = str(detail["job"]).lower()
    elif step == DECIDED:
        trace.disowned |= frozenset(detail["not_ours"])


def _moment(detail: Mapping[str, Any]) -> datetime | None:
    since = detail.get("since")
    return datetime.fromisoformat(since) if since else None


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
    down. ``lost_of``: records of the run are lost, and this is its VM; then whatever they may
    have named is left and told, too. Failures of the host are data in the answer; only when every item
    :attr:`Swept.is_clean` may the run be buried.
    """
    kept = frozenset(durable)
    traces = _read(records)
    if not traces and lost_of is None:
        return ()
    # Of the holds before the last one nothing was left when it began.
    trace = traces[-1] if traces else _Trace()
    trace.vm_id = trace.vm_id or (lost_of or "").upper()  # as hosts spell GUIDs
    is_whole = lost_of is None
    one = _Sweep(host, owner, trace, kept, dry_run, marked_only, merge_limit_s, note, said, is_whole)
    return tuple(one.run())


class _Sweep:
    """One sweep of one run."""

    def __init__(
        self,
        host: HyperV,
        owner: Owner,
        trace: _Trace,
        durable: frozenset[str],
        dry_run: bool,
        marked_only: bool,
        merge_limit_s: float,
        note: Note,
        said: Said,
        is_whole: bool,
    ) -> None:
        self._host = host
        self._owner = owner
        self._trace = trace
        self._durable = durable
        self._dry_run = dry_run
        self._marked_only = marked_only
        self._merge_limit_s = merge_limit_s
        self._note = note
        self._said = said
        self._is_whole = is_whole
        self._became: Became | None = None  # nobody knows, and nothing may be concluded
        self._went: Went | None = None
        self._would_remove = False
        self._why_unknown = ""

    def run(self) -> list[Swept]:
        """Do all of it, checkpoints first; a failure of one thing keeps nothing from the next."""
        if not self._trace.vm_id:  # the first record was lost
            return [Swept("VM", "", "left", "the journal does not say which VM was held")]
        swept: list[Swept] = []
        if self._marked_only:
            try:
                is_here = self._has_points()
            except HostTrouble as error:
                return [Swept("VM", self._trace.vm_id, "failed", error.message)]
            if not is_here:  # layers and reference points that were written down are those of the other host
                self._trace = replace(self._trace, layers={}, reference_point=None, previous=None)
        elif not self._has_vm():
            return [Swept("VM", self._trace.vm_id, "finished", _NO_VM)]
        for part in (self._checkpoints, self._reference_points, self._merge):
            try:
                swept += part()
            except HostTrouble as error:
                swept.append(Swept("VM", self._trace.vm_id, "failed", error.message))
        if not self._is_whole:
            try:
                swept += self._unaccounted({each.id for each in swept})
            except HostTrouble as error:
                swept.append(Swept("VM", self._trace.vm_id, "failed", error.message))
        return swept

    def _unaccounted(self, told: Collection[str]) -> list[Swept]:
        """Tell of what lost records may have named: all that is not known to be somebody else's."""
        trace = self._trace
        if self._marked_only:
            return [Swept("VM", trace.vm_id, "left", _LOST_HERE)]
        others = (*told, *trace.disowned)
        swept: list[Swept] = []
        unmarked = list_unmarked(self._host, trace.vm_id, known_before=(*trace.known_checkpoints, *others))
        mine, left = self._heard(Claimed(None, tuple(unmarked)))
        swept += [self._remove(checkpoint) for checkpoint in mine]
        swept += [Swept("checkpoint", each.id, "left", _LOST, is_asked=True) for each in left]
        known = (*trace.known_points, *self._durable, *others)
        points = [p for p in list_reference_points(self._host, trace.vm_id) if not is_among(p.id, known)]
        ours, doubtful = self._heard(Claimed(None, tuple(points)))
        swept += [self._drop(point.id) for point in ours]
        return swept + [Swept("reference point", each.id, "left", _LOST, is_asked=True) for each in doubtful]

    def _has_points(self) -> bool:
        """Tell whether a reference point that the run wrote down is here: then the VM has moved here."""
        written = {self._trace.reference_point, self._trace.previous} - {None}
        if not written:
            return False
        return any(point.id in written for point in list_reference_points(self._host, self._trace.vm_id))

    def _has_vm(self) -> bool:
        """Tell whether the VM is there; a host that fails to answer has not said no."""
        try:
            return not is_gone(self._host, self._trace.vm_id)
        except HostTrouble:
            return True

    def _heard(self, found: Claimed[T]) -> tuple[list[T], list[T]]:
        """Return what is ours and what is still doubtful, after a person's word.

        What is not ours is written down for good.
        """
        ours = [each for each in found.doubtful if short_id(each.id) in self._said.ours]
        theirs = [each.id for each in found.doubtful if short_id(each.id) in self._said.not_ours]
        if theirs and not self._dry_run:
            self._note(DECIDED, {"not_ours": theirs})
        if ours:  # whatever else there is has been made by others: one call makes one
            return ours, []
        left = [each for each in found.doubtful if each.id not in theirs]
        return [] if found.ours is None else [found.ours], left

    # --- checkpoints ------------------------------------------------------------------------

    def _checkpoints(self) -> list[Swept]:
        trace = self._trace
        if self._is_converting:
            if self._dry_run and is_being_converted(self._host, trace.conversion.asked):
                return [Swept("VM", trace.vm_id, "left", _BEING_CONVERTED)]
            self._became = self._look_what_became()
        mine, swept = self._find()
        return swept + [self._remove(checkpoint) for checkpoint in mine]

    def _remove(self, checkpoint: CheckpointFacts) -> Swept:
        """Remove a checkpoint of the run, and say what came of it."""
        if self._dry_run:
            self._would_remove = True
            return Swept("checkpoint", checkpoint.id, "would be removed")
        before, self._became = self._became, None
        try:
            self._write_down(checkpoint)
            self._went = destroy_ours(self._host, checkpoint, self._owner)
            self._trace.is_taken_away |= self._went is Went.PERHAPS_BY_US
            if self._went is Went.BY_US:
                self._became = before
            elif self._is_converting:
                # Whatever the host was doing: it may have been what the run asked for at last.
                self._became = self._look_what_became()
        except HostTrouble as error:
            return Swept("checkpoint", checkpoint.id, "failed", error.message)
        return Swept("checkpoint", checkpoint.id, "removed")

    @property
    def _is_converting(self) -> bool:
        """Whether the run had asked for a conversion, and nobody wrote down what came of it."""
        is_open = self._trace.converting and self._trace.state is HoldState.HELD
        return is_open and not self._marked_only

    def _look_what_became(self) -> Became:
        """Tell what became of the checkpoint, after the conversion's end: before that nothing is removed."""
        conversion = self._trace.conversion
        if self._dry_run:
            has_gone = not is_there(self._host, conversion.asked.vm_id, conversion.checkpoint)
        else:
            has_gone = went_by_conversion(self._host, conversion, patient=False)
        if self._trace.is_taken_away:
            return Became.UNKNOWN
        return Became.GONE if has_gone else Became.THERE

    def _write_down(self, checkpoint: CheckpointFacts) -> None:
        """Tell whoever looks after us which checkpoint we remove, and what has to be merged after it."""
        trace = self._trace
        layers = trace.layers
        try:
            layers = layers or layers_above(self._host, checkpoint)
        except HostTrouble as error:  # the checkpoint must go all the same
            self._why_unknown = error.message
        # What comes of a conversion can be told less certainly afterwards, and must not be forgotten.
        point = {"point": UNKNOWN} if self._is_converting else {}
        if point or (trace.checkpoint, trace.layers) != (checkpoint.id, layers):
            self._note(
                RELEASING, {"checkpoint": checkpoint.id, "how": "destroy", "layers": dict(layers), **point}
            )
        trace.layers = layers

    def _find(self) -> tuple[list[CheckpointFacts], list[Swept]]:
        """Return the checkpoints of the run, and what is to be told of those nobody can tell."""
        listed = list_recovery_checkpoints(self._host, self._trace.vm_id)
        mine = [c for c in listed if Owner.of(c.name) == self._owner or self._is_known(c)]
        if self._marked_only:
            return [c for c in listed if Owner.of(c.name) == self._owner], []
        if mine or self._trace.checkpoint is not None or self._trace.state is not HoldState.PREPARED:
            return mine, []
        return self._find_unmarked()  # the run died around the call

    def _is_known(self, checkpoint: CheckpointFacts) -> bool:
        """Tell whether it is the one the run wrote down, and nobody else has put a mark on it."""
        return checkpoint.id == self._trace.checkpoint and Owner.of(checkpoint.name) is None

    def _find_unmarked(self) -> tuple[list[CheckpointFacts], list[Swept]]:
        """Find what the run has made and not marked; a call of just now is waited for."""
        asked = self._trace.asked
        if self._dry_run:
            is_settled = not is_being_made(self._host, asked)
        else:
            is_settled = has_settled(self._host, asked, patient=False)
        if not is_settled:
            return [], [Swept("VM", asked.vm_id, "left", _BEING_MADE)]
        mine, doubtful = self._heard(claim_checkpoint(self._host, asked, self._trace.disowned))
        return mine, [Swept("checkpoint", each.id, "left", _DOUBTFUL, is_asked=True) for each in doubtful]

    # --- reference points and merges --------------------------------------------------------

    def _reference_points(self) -> list[Swept]:
        """Drop the point that nothing rests on: the new one, or, if that became durable, the one before."""
        trace = self._trace
        new = [trace.reference_point] if trace.reference_point is not None else []
        swept: list[Swept] = []
        if not new and self._is_converting:
            new, swept = self._converted()
            if not new and not swept and (self._became is not Became.THERE or self._went is Went.BY_US):
                self._write_down_that_nothing_came()
        is_durable = trace.state is HoldState.TRACKED or not self._durable.isdisjoint(new)
        previous = [trace.previous] if trace.previous is not None else []
        unneeded = [point for point in (previous if is_durable else new) if point not in self._durable]
        return swept + [self._drop(point) for point in unneeded]

    def _drop(self, point: str) -> Swept:
        """Destroy a reference point; one that the run did not write down is written down first."""
        trace = self._trace
        if self._dry_run:
            return Swept("reference point", point, "would be removed")
        if point not in (trace.reference_point, trace.previous):
            detail = {"checkpoint": trace.checkpoint, "reference_point": point, "layers": dict(trace.layers)}
            self._note(HoldState.RELEASED.value, detail)
        was_there = destroy_reference_point(self._host, trace.vm_id, point)
        return Swept("reference point", point, "removed" if was_there else "finished")

    def _write_down_that_nothing_came(self) -> None:
        """Keep later sweeps from asking about points that others have made since."""
        trace = self._trace
        if not self._dry_run and not is_there(self._host, trace.vm_id, trace.conversion.checkpoint):
            detail = {"checkpoint": trace.checkpoint, "reference_point": None, "layers": dict(trace.layers)}
            self._note(HoldState.RELEASED.value, detail)

    def _converted(self) -> tuple[list[str], list[Swept]]:
        """Find the reference point of a conversion that the run did not hear the end of."""
        # Later runs' own points are new, too.
        disowned = (*self._trace.disowned, *self._durable)
        if self._became is None:
            what = "whether the run has made one is not known"
            return [], [Swept("reference point", self._trace.vm_id, "failed", what)]
        found = claim_point(self._host, self._trace.conversion, self._became, disowned)
        ours, doubtful = self._heard(found)
        told = [Swept("reference point", each.id, "left", _DOUBTFUL, is_asked=True) for each in doubtful]
        return [point.id for point in ours], told

    def _merge(self) -> list[Swept]:
        layers = self._trace.layers
        if self._why_unknown:
            return [Swept("merge", self._trace.vm_id, "failed", f"the layers: {self._why_unknown}")]
        if not layers:
            return []
        names = ", ".join(layers.values())
        if self._dry_run:
            is_done = read_merge(self._host, self._trace.vm_id, layers).is_done
            if is_done:
                return [Swept("merge", names, "finished")]
            if self._would_remove:
                return []  # what has to be merged is merged when the checkpoint has gone
            return [Swept("merge", names, "left", "not merged")]
        merge = await_merge(self._host, self._trace.vm_id, layers, self._merge_limit_s)
        return [Swept("merge", names, "finished" if merge.is_done else "failed", merge.why)]
