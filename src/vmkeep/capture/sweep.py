"""Take away exactly what a dead run left on a host, by what it wrote down, and nothing of anybody else's.

Safe to repeat, and for any machine that can read the journal. Whether the run is
dead the caller has made sure of. What cannot be proven ours is left and told.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final, Literal, TypeAlias

from vmkeep.capture.removing import HostTrouble, appeared_after, await_merge, destroy_ours, layers_above
from vmkeep.capture.states import MADE, RELEASING, HoldState
from vmkeep.host.hyperv import (
    CheckpointMissing,
    CheckpointUnidentified,
    HyperV,
    Owner,
    VmNotFound,
    convert_checkpoint,
    destroy_reference_point,
    left_unmarked,
    list_recovery_checkpoints,
    read_host_time,
    read_merge,
)
from vmkeep.host.hyperv.jobs import LONGEST_SILENCE_S, Kind
from vmkeep.host.wsman import OutcomeUnknown
from vmkeep.model.facts import CheckpointFacts

_DOUBTFUL: Final = "it cannot be told from another program's"
# So long after the host was asked for its time a run may still have been making a checkpoint: it asks a
# silent host again, and waits for the job. What appears later is another program's.
_MAKING: Final = timedelta(seconds=LONGEST_SILENCE_S + Kind.CREATE.limit_s)

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

    @property
    def is_clean(self) -> bool:
        """Tell whether nothing of this is left."""
        return self.outcome in ("removed", "finished")


@dataclass
class _Trace:
    """What the journal of a run says about one hold."""

    vm_id: str = ""
    known_checkpoints: tuple[str, ...] = ()
    since: datetime | None = None
    checkpoint: str | None = None
    layers: Mapping[str, str] = field(default_factory=dict)
    converting: bool = False
    known_points: tuple[str, ...] = ()
    reference_point: str | None = None
    previous: str | None = None
    state: HoldState | None = None


def _read(records: Sequence[tuple[str, Mapping[str, Any]]]) -> list[_Trace]:
    """Return what each hold of a run wrote down; other rooms' steps and renewed leases mean nothing here."""
    traces: list[_Trace] = []
    states = {state.value: state for state in HoldState}
    for step, detail in records:
        if (step not in states and step not in (MADE, RELEASING)) or detail.get("renewed"):
            continue
        if step == HoldState.PREPARED.value or not traces:
            traces.append(_Trace())
        trace = traces[-1]
        trace.state = states.get(step, trace.state)
        trace.checkpoint = detail.get("checkpoint") or trace.checkpoint
        trace.layers = detail.get("layers") or trace.layers
        trace.reference_point = detail.get("reference_point") or trace.reference_point
        trace.previous = detail.get("previous") or trace.previous
        if step == RELEASING:
            trace.converting = detail["how"] == "convert"
            trace.known_points = tuple(detail.get("known_points", trace.known_points))
        elif step == HoldState.PREPARED.value:
            trace.vm_id = str(detail["vm"])
            trace.known_checkpoints = tuple(detail["known_checkpoints"])
            trace.since = datetime.fromisoformat(detail["since"]) if detail["since"] else None
    return traces


def _forget(_: str, __: Mapping[str, Any]) -> None:
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
    note: Note = _forget,
) -> tuple[Swept, ...]:
    """Remove what the run with these journal records, (step, detail) in order, left of itself on the host.

    ``durable`` names the reference points that the newest stored tracking of a VM
    rests on: they stay. What the run had no time to write down is concluded from what
    was not there before; that holds once, so it goes to ``note`` before anything is
    taken away. ``marked_only``: this is not the host the run wrote of, where a VM of the
    same id may be another one; then only a checkpoint with the run's own mark is
    touched. Failures of the host are data in the answer; only when every item
    :attr:`Swept.is_clean` may the run be buried.
    """
    kept = frozenset(durable)
    traces = _read(records)
    # A step that is added belongs to the last hold; of those before nothing was left when it began.
    notes = [*([_forget] * (len(traces) - 1)), note]
    sweeps = [
        _Sweep(host, owner, trace, kept, dry_run, marked_only, merge_limit_s, noted)
        for trace, noted in zip(traces, notes, strict=False)
    ]
    return tuple(swept for one in sweeps for swept in one.run())


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
    ) -> None:
        self._host = host
        self._owner = owner
        self._trace = trace
        self._durable = durable
        self._dry_run = dry_run
        self._marked_only = marked_only
        self._merge_limit_s = merge_limit_s
        self._note = note
        self._is_converted = False
        self._would_remove = False

    def run(self) -> list[Swept]:
        """Do all of it, checkpoints first; a failure of one thing keeps nothing from the next."""
        if not self._trace.vm_id:  # the first record was lost
            return [Swept("VM", "", "left", "the journal does not say which VM was held")]
        swept: list[Swept] = []
        if self._marked_only:
            # Layers and reference points that were written down are those of the other host.
            self._trace = replace(self._trace, layers={}, reference_point=None, previous=None)
        for part in (self._checkpoints, self._reference_points, self._merge):
            try:
                swept += part()
            except VmNotFound:
                return [*swept, Swept("VM", self._trace.vm_id, "finished", "the VM is not on this host")]
            except HostTrouble as error:
                swept.append(Swept("VM", self._trace.vm_id, "failed", error.message))
        return swept

    # --- checkpoints ------------------------------------------------------------------------

    def _checkpoints(self) -> list[Swept]:
        mine, doubtful = self._find()
        self._is_converted = not mine and self._trace.converting
        swept = [Swept("checkpoint", checkpoint.id, "left", _DOUBTFUL) for checkpoint in doubtful]
        for checkpoint in mine:
            if self._dry_run:
                swept.append(Swept("checkpoint", checkpoint.id, "would be removed"))
                self._would_remove = True
                continue
            try:
                self._write_down(checkpoint)
                was_there = destroy_ours(self._host, checkpoint, self._owner)
                # Gone meanwhile: what the run asked for at last was done just now.
                self._is_converted = self._trace.converting and not was_there
            except HostTrouble as error:
                swept.append(Swept("checkpoint", checkpoint.id, "failed", error.message))
            else:
                swept.append(Swept("checkpoint", checkpoint.id, "removed"))
        return swept

    def _write_down(self, checkpoint: CheckpointFacts) -> None:
        """Tell whoever looks after us which checkpoint we remove, and what has to be merged after it."""
        trace = self._trace
        layers = trace.layers or layers_above(self._host, checkpoint)
        if trace.converting or (trace.checkpoint, trace.layers) != (checkpoint.id, layers):
            self._note(RELEASING, {"checkpoint": checkpoint.id, "how": "destroy", "layers": dict(layers)})
        trace.layers = layers

    def _find(self) -> tuple[list[CheckpointFacts], list[CheckpointFacts]]:
        """Return the checkpoints of the run, and those nobody can tell from a stranger's."""
        listed = list_recovery_checkpoints(self._host, self._trace.vm_id)
        mine = [c for c in listed if Owner.of(c.name) == self._owner or self._is_known(c)]
        if self._marked_only:
            return [c for c in listed if Owner.of(c.name) == self._owner], []
        if mine or self._trace.checkpoint is not None or self._trace.state is not HoldState.PREPARED:
            return mine, []
        # The run died around the call.
        found = self._unmarked(listed)
        return ([], found) if len(found) > 1 or self._trace.since is None else (found, [])

    def _is_known(self, checkpoint: CheckpointFacts) -> bool:
        """Tell whether it is the one the run wrote down, and nobody else has put a mark on it."""
        return checkpoint.id == self._trace.checkpoint and Owner.of(checkpoint.name) is None

    def _unmarked(self, listed: Sequence[CheckpointFacts]) -> list[CheckpointFacts]:
        """Return what the run may have made and not marked; a call of just now is waited for."""
        trace, since = self._trace, self._trace.since
        if since is None:  # nobody can tell how old they are
            known = trace.known_checkpoints
            return [c for c in listed if c.id not in known and Owner.of(c.name) is None and not c.notes]
        now = read_host_time(self._host)
        is_recent = now is None or now - since < _MAKING
        if is_recent and not self._dry_run:
            lost = OutcomeUnknown("the run that made the call has died.")
            return list(appeared_after(self._host, trace.vm_id, trace.known_checkpoints, since, lost))
        known, until = trace.known_checkpoints, since + _MAKING
        return list(left_unmarked(self._host, trace.vm_id, known_before=known, since=since, until=until))

    # --- reference points and merges --------------------------------------------------------

    def _reference_points(self) -> list[Swept]:
        """Drop the point that nothing rests on: the new one, or, if that became durable, the one before."""
        trace = self._trace
        new = trace.reference_point
        swept: list[Swept] = []
        if new is None and self._is_converted and not self._marked_only and trace.state is HoldState.HELD:
            new, swept = self._converted()
        is_durable = trace.state is HoldState.TRACKED or new in self._durable
        unneeded = trace.previous if is_durable else new
        if unneeded is None or unneeded in self._durable:
            return swept
        if self._dry_run:
            return [*swept, Swept("reference point", unneeded, "would be removed")]
        if unneeded not in (trace.reference_point, trace.previous):
            detail = {"checkpoint": trace.checkpoint, "reference_point": new, "layers": dict(trace.layers)}
            self._note(HoldState.RELEASED.value, detail)
        was_there = destroy_reference_point(self._host, trace.vm_id, unneeded)
        return [*swept, Swept("reference point", unneeded, "removed" if was_there else "finished")]

    def _converted(self) -> tuple[str | None, list[Swept]]:
        """Find the reference point of a conversion that the run did not hear the end of."""
        trace = self._trace
        checkpoint = CheckpointFacts(trace.checkpoint or "", trace.vm_id, self._owner.name, "recovery")
        try:
            return convert_checkpoint(self._host, checkpoint, known_before=trace.known_points).id, []
        except CheckpointMissing:
            return None, []  # somebody destroyed it before it was converted
        except CheckpointUnidentified as error:
            candidates = error.context.get("candidates", ())
            ids = candidates if isinstance(candidates, tuple) else ()
            return None, [Swept("reference point", str(point), "left", _DOUBTFUL) for point in ids]

    def _merge(self) -> list[Swept]:
        layers = self._trace.layers
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
