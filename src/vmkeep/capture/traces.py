"""Read from the journal of a dead run what its last hold had on the host, or was about to have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from vmkeep.capture.claims import Asked, Conversion
from vmkeep.capture.states import ASKED, ASKING, DECIDED, MADE, RELEASING, UNKNOWN, HoldState

_STATES: Final = {state.value: state for state in HoldState}
_STEPS: Final = frozenset({*_STATES, ASKING, ASKED, MADE, RELEASING, DECIDED})
# As the host counts power states and consistency levels.
_RUNNING: Final = 2
_CRASH: Final = 2


@dataclass(frozen=True)
class Trace:
    """What the journal of a run says about its last hold; ids as the run wrote them."""

    vm_id: str = ""
    known_checkpoints: tuple[str, ...] = ()
    since: datetime | None = None
    job: str | None = None
    has_failed: bool = False
    is_crash_asked: bool = False
    checkpoint: str | None = None
    layers: Mapping[str, str] = field(default_factory=dict)
    is_converting: bool = False
    """Whether a conversion may have run, and nobody wrote down what came of it."""
    is_perhaps_removed: bool = False
    """Whether somebody was about to remove the checkpoint after that, for us."""
    converting_since: datetime | None = None
    converting_job: str | None = None
    converting_has_failed: bool = False
    disks: int | None = None
    known_points: tuple[str, ...] = ()
    reference_point: str | None = None
    previous: str | None = None
    disowned: frozenset[str] = frozenset()
    state: HoldState | None = None
    is_whole: bool = True
    """Whether each record said what a record of its kind says; else it counts as lost."""

    @property
    def asked(self) -> Asked:
        """The call for the checkpoint."""
        return Asked(self.vm_id, self.known_checkpoints, self.since, self.job, self.has_failed)

    @property
    def conversion(self) -> Conversion:
        """The conversion that was announced last."""
        since, has_failed = self.converting_since, self.converting_has_failed
        asked = Asked(self.vm_id, self.known_points, since, self.converting_job, has_failed)
        return Conversion(asked, self.checkpoint or "", self.disks, self.is_crash_asked)


def read_trace(records: Sequence[tuple[str, Mapping[str, Any]]]) -> Trace | None:
    """Return what the last hold of a run wrote down as (step, detail); None if it held nothing.

    Of the holds before the last one nothing was left when it began. Other rooms' steps and
    renewed leases mean nothing here.
    """
    trace: Trace | None = None
    for step, detail in records:
        if step not in _STEPS or detail.get("renewed"):
            continue
        if trace is None or step == HoldState.PREPARED.value:
            trace = Trace()
        try:
            told = _told_of_call(trace, step, detail)
        except (KeyError, TypeError, ValueError):
            told = {"is_whole": False}
        objects = {
            key: detail[key]
            for key in ("checkpoint", "layers", "reference_point", "previous")
            if detail.get(key)
        }
        trace = replace(trace, **objects, **told, state=_STATES.get(step, trace.state))
    return trace


def _told_of_call(trace: Trace, step: str, detail: Mapping[str, Any]) -> dict[str, Any]:
    """Return what one record says of a call: when, for what, and whether the host took it."""
    if step == HoldState.PREPARED.value:
        return {
            "vm_id": str(detail["vm"]),
            "known_checkpoints": tuple(detail["known_checkpoints"]),
            "since": _moment(detail),
            "is_crash_asked": (detail.get("power"), detail.get("level")) == (_RUNNING, _CRASH),
        }
    if step == ASKING:
        return {"since": _moment(detail), "job": None}
    if step == ASKED:
        job, has_failed = str(detail["job"]).lower(), bool(detail.get("failed"))
        if trace.is_converting:
            return {"converting_job": job, "converting_has_failed": has_failed}
        return {"job": job, "has_failed": has_failed, "since": _moment(detail) or trace.since}
    if step == RELEASING and detail["how"] == "destroy":
        is_unknown = detail.get("point") == UNKNOWN
        return {"is_converting": is_unknown, "is_perhaps_removed": is_unknown}
    if step == RELEASING:
        return {
            "is_converting": True,
            "known_points": tuple(detail["known_points"]),
            "converting_since": _moment(detail),
            "converting_job": None,
            "converting_has_failed": False,
            "disks": detail.get("disks"),
        }
    if step == DECIDED:
        return {"disowned": trace.disowned | frozenset(detail["not_ours"])}
    return {}


def _moment(detail: Mapping[str, Any]) -> datetime | None:
    since = detail.get("since")
    return datetime.fromisoformat(since) if since else None
