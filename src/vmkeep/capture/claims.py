"""Tell what a call of ours has made on a host from what others have: by proof, by conclusion, or not at all.

A checkpoint has no owner until it is marked, a reference point never has one. What was not
there before a call may be another program's. Decision 0017 says what counts as what.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Final, Generic, TypeVar

from vmkeep.host.hyperv import (
    HyperV,
    ReferencePoint,
    SeenJob,
    Waiting,
    is_there,
    list_jobs,
    list_surely,
    list_unmarked,
    read_host_time,
    read_power_state,
)
from vmkeep.host.hyperv.created import LOST_CALL_S, is_among
from vmkeep.host.hyperv.jobs import Kind, pauses
from vmkeep.host.hyperv.states import CREATING_CHECKPOINT, MERGING, MOVING
from vmkeep.host.wsman import OutcomeUnknown
from vmkeep.model.facts import CheckpointFacts

T = TypeVar("T", CheckpointFacts, ReferencePoint)

RECORD_S: Final = 15.0
"""A call follows the host's time it is announced with so soon; after a slower record it is announced anew."""
# The client repeats a call that a host is too busy for, half a minute long (host/wsman/exchange).
_REPEATED_S: Final = 45.0
# So long after that time a call has begun, if ever: it is sent, and a lost one begins within a minute.
_BEGUN: Final = timedelta(seconds=RECORD_S + _REPEATED_S + LOST_CALL_S)
# A guest stands still for a minute at most (hyperv-backup-api.md annex B): most checkpoints are made by then.
_SOON: Final = _BEGUN + timedelta(seconds=60)
_MAKING: Final = timedelta(seconds=Kind.CREATE.limit_s)
_DAY: Final = timedelta(days=1)
# A call that reached the host shows in the VM's state by then.
_UNDER_WAY_S: Final = 5.0
_GUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_APPLICATION: Final = 1


class Verdict(Enum):
    """Whose something is that was not there before."""

    PROVEN = "ours, by what the host says"
    CONCLUDED = "ours, if it is the only one"
    DOUBTFUL = "ours or a stranger's"
    UNLIKE = "a stranger's, unless there is no other and somebody says that it is ours"
    STRANGER = "not ours"


@dataclass(frozen=True)
class Asked:
    """A call as it was written down: ``known`` was there before, ``since`` is the host's time before it.

    ``job`` is the one the host answered with, in lower case; None if nobody heard an answer.
    ``has_failed``: the host was heard to say that it failed.
    """

    vm_id: str
    known: tuple[str, ...]
    since: datetime | None
    job: str | None = None
    has_failed: bool = False


@dataclass(frozen=True)
class Conversion:
    """A conversion as it was written down: of which checkpoint, with how many disks (None: not told).

    ``is_crash_asked``: the checkpoint was made without the guest's taking part, while it ran.
    ``witness`` is a job of before, in lower case: as long as it is listed, all since then are.
    """

    asked: Asked
    checkpoint: str
    disks: int | None = None
    is_crash_asked: bool = False
    witness: str | None = None


@dataclass(frozen=True)
class Claimed(Generic[T]):
    """What a call has made, if that is certain enough; else ``doubtful`` names what nobody can tell.

    ``ours`` may be taken away. Only what ``is_proven`` may be built on.
    """

    ours: T | None = None
    doubtful: tuple[T, ...] = ()
    is_proven: bool = False


# --- checkpoints ----------------------------------------------------------------------------


def may_still_begin(asked: Asked, now: datetime | None) -> bool:
    """Tell whether a call whose answer nobody heard may still be on its way, by the host's clock."""
    return now is None or asked.since is None or now - asked.since < _BEGUN


def has_settled(host: HyperV, asked: Asked, *, patient: bool) -> bool:
    """Tell whether the host makes no checkpoint of the VM any more; a lost call is given a minute to begin.

    ``patient``, for the run that has just called, waits for the end of what is under way.
    """
    is_lost = asked.job is None and (patient or may_still_begin(asked, read_host_time(host)))
    quiet_since: float | None = None
    for waited in pauses(host.clock, Kind.CREATE.limit_s):
        if is_being_made(host, asked):
            quiet_since = None
            if not (patient or is_lost):
                return False
            continue
        quiet_since = waited if quiet_since is None else quiet_since
        if not is_lost or waited - quiet_since >= LOST_CALL_S:
            return True
    return False


def is_being_made(host: HyperV, asked: Asked) -> bool:
    """Tell whether the host is making a checkpoint of the VM now, or still works for our call."""
    if read_power_state(host, asked.vm_id).phase == CREATING_CHECKPOINT:
        return True
    return _is_at_work(host, asked.job)


def claim_checkpoint(host: HyperV, asked: Asked, disowned: Collection[str] = ()) -> Claimed[CheckpointFacts]:
    """Find the unmarked checkpoint that a call of ours has made; ``disowned`` are known not to be it."""
    found = [
        each
        for each in list_unmarked(host, asked.vm_id, known_before=asked.known)
        if not is_among(each.id, disowned)
    ]
    if not found:
        return Claimed()
    jobs, asked = list_jobs(host), _trusted(asked, read_host_time(host))
    judged = [(each, judge_checkpoint(each, asked, jobs)) for each in found]
    return _chosen(_earliest(judged) if asked.job is not None else judged)


def judge_checkpoint(made: CheckpointFacts, asked: Asked, jobs: Sequence[SeenJob]) -> Verdict:
    """Say whose an unmarked checkpoint is, by the jobs that the host still lists, and by the times."""
    maker, own = _maker(jobs, made.id), _job(jobs, asked.job)
    if asked.job is not None and maker is not None:
        return Verdict.PROVEN if maker.id == asked.job else Verdict.STRANGER
    if own is not None:
        return _by_interval(made.created, own)
    if asked.since is None or made.created is None:
        return Verdict.DOUBTFUL
    if _is_before(made.created, asked.since) or (maker and _is_before(maker.began, asked.since)):
        return Verdict.STRANGER
    passed = made.created - asked.since
    if asked.has_failed:
        return _by_age(passed, timedelta(0), _BEGUN + _MAKING)
    if asked.job is not None:  # accepted, and its end is not known: of others, none can have come before
        return _by_age(passed, _BEGUN + _MAKING, _DAY)
    if maker is not None and maker.began is not None:
        return _by_age(maker.began - asked.since, _BEGUN, _BEGUN + _MAKING)
    return _by_age(passed, _SOON, _BEGUN + _MAKING)


def _by_interval(created: datetime | None, own: SeenJob) -> Verdict:
    """Judge by our job's own time, in which the host does nothing else to the VM (32775 while busy)."""
    if created is None or own.began is None or own.ended is None:
        return Verdict.DOUBTFUL
    if _is_before(created, own.began) or _is_before(own.ended, created):
        return Verdict.STRANGER
    is_inside = _last(own.began) <= created and _last(created) <= own.ended
    return Verdict.PROVEN if is_inside else Verdict.DOUBTFUL


def _by_age(passed: timedelta, concluded: timedelta, doubtful: timedelta) -> Verdict:
    if passed <= concluded:
        return Verdict.CONCLUDED
    return Verdict.DOUBTFUL if passed <= doubtful else Verdict.STRANGER


def _earliest(
    judged: Sequence[tuple[CheckpointFacts, Verdict]],
) -> Sequence[tuple[CheckpointFacts, Verdict]]:
    """Leave the first that may be ours: the host began nothing else before it had ended what it accepted."""
    may_be = [each for each in judged if each[1] is not Verdict.STRANGER]
    times = [each.created for each, _ in may_be if each.created is not None]
    if len(times) < len(may_be) or any(verdict is Verdict.PROVEN for _, verdict in may_be):
        return may_be
    return [each for each in may_be if each[0].created == min(times)]


# --- reference points -----------------------------------------------------------------------


def went_by_conversion(host: HyperV, conversion: Conversion, *, patient: bool) -> bool:
    """Wait for the end of a conversion under way, or about to begin; tell whether its checkpoint has gone.

    That the checkpoint has gone is not the end: the reference point may come after it. ``patient``: this
    is the run that has just called. Raises OutcomeUnknown if the host is still at it after half an hour.
    """
    asked = conversion.asked
    is_lost = asked.job is None and (patient or may_still_begin(asked, read_host_time(host)))
    needed_s = LOST_CALL_S if is_lost else _UNDER_WAY_S
    quiet_since: float | None = None
    for waited in pauses(host.clock, Kind.CONVERT.limit_s):
        is_left = is_there(host, asked.vm_id, conversion.checkpoint)
        if is_being_converted(host, asked):
            quiet_since = None
            host.watch(Waiting(Kind.CONVERT.words, waited))
            continue
        if not is_left:
            return True
        quiet_since = waited if quiet_since is None else quiet_since
        if waited - quiet_since >= needed_s:
            return False
    raise OutcomeUnknown("the host is still converting the checkpoint.")


def is_being_converted(host: HyperV, asked: Asked) -> bool:
    """Tell whether the host works on our call, or does anything to the VM but merge, export or move it."""
    phase = read_power_state(host, asked.vm_id).phase
    return phase not in {None, MERGING, *MOVING} or _is_at_work(host, asked.job)


class Became(Enum):
    """What became of the checkpoint of a conversion whose end nobody heard."""

    GONE = "gone, and not by us: converted, or removed by somebody"
    THERE = "still there"
    REMOVED = "removed by us, where it still stood after the conversion's end"
    UNKNOWN = "gone, perhaps by us, and perhaps converted before"


def claim_point(
    host: HyperV, conversion: Conversion, became: Became, disowned: Collection[str] = ()
) -> Claimed[ReferencePoint]:
    """Find the reference point of a conversion whose end nobody heard, once it has ended.

    Only of a checkpoint that went otherwise than by us its point can be concluded; else there
    is what the host itself says to come of the call, and what nobody can tell. What a job made
    that failed is ours, and nothing to build on.
    """
    asked = conversion.asked
    found = [
        each for each in list_surely(host, asked.vm_id) if not is_among(each.id, (*asked.known, *disowned))
    ]
    if not found:
        return Claimed()
    jobs, now = list_jobs(host), read_host_time(host)
    conversion = replace(conversion, asked=_trusted(asked, now))
    if became is Became.GONE:
        claimed = _chosen([(each, judge_point(each, conversion, jobs, now)) for each in found])
    else:
        # A call that nobody heard to be taken has not run where its checkpoint stood, unless it failed.
        has_failed = any(job.has_failed for job in _since(jobs, conversion.asked))
        is_idle = became is not Became.UNKNOWN and asked.job is None and not has_failed
        claimed = _chosen([(each, _beside(each, conversion, jobs, is_idle=is_idle)) for each in found])
    made_by = (_maker(jobs, claimed.ours.id) if claimed.ours else None, _job(jobs, asked.job))
    if any(job is not None and job.has_failed for job in made_by):
        return replace(claimed, is_proven=False)
    return claimed


def _beside(
    made: ReferencePoint, conversion: Conversion, jobs: Sequence[SeenJob], *, is_idle: bool
) -> Verdict:
    """Say whose a new point is where our checkpoint stands, or where we may have removed it ourselves."""
    by_name = _by_name(made, conversion, jobs)
    if is_idle and by_name is not Verdict.PROVEN:
        return Verdict.STRANGER
    return by_name or Verdict.DOUBTFUL


def _by_name(made: ReferencePoint, conversion: Conversion, jobs: Sequence[SeenJob]) -> Verdict | None:
    """Judge by what the host names: the job that made it, or the checkpoint it was made of."""
    asked, maker = conversion.asked, _maker(jobs, made.id)
    if asked.job is not None and maker is not None:
        return Verdict.PROVEN if maker.id == asked.job else Verdict.STRANGER
    named = {guid for setting in made.settings for guid in _GUID.findall(setting.lower())[:1]}
    if named & set(_GUID.findall(conversion.checkpoint.lower())[-1:]):
        return Verdict.PROVEN
    neutral = {asked.vm_id.lower(), *_GUID.findall(made.id.lower())[-1:]}
    # What a host names there is only believed (docs/believed.md): what is not ours by it may be ours.
    return Verdict.UNLIKE if named - neutral else None


def judge_point(
    made: ReferencePoint, conversion: Conversion, jobs: Sequence[SeenJob], now: datetime | None
) -> Verdict:
    """Say whose a new point is, once our checkpoint has gone: by names, jobs and times."""
    by_name = _by_name(made, conversion, jobs)
    if by_name is not None:
        return by_name
    asked, maker = conversion.asked, _maker(jobs, made.id)
    if asked.since is None or now is None or now - asked.since > _DAY:
        return Verdict.DOUBTFUL
    if _is_unlike(made, conversion):
        return Verdict.UNLIKE
    if asked.job is not None:
        own = _job(jobs, asked.job)
        is_over = asked.has_failed or (own is not None and own.is_over)
        return Verdict.DOUBTFUL if is_over else Verdict.CONCLUDED
    if maker is None or maker.began is None:
        return Verdict.DOUBTFUL
    if _is_before(maker.began, asked.since):
        return Verdict.STRANGER
    if maker.began - asked.since > _BEGUN or _others(maker, jobs, asked, until=maker.began):
        return Verdict.DOUBTFUL
    # Only the one job since our call can have taken our checkpoint, if every job since then is listed:
    # the list forgets after five minutes, and all at a restart of the host's service.
    is_only = not _others(maker, jobs, asked) and _job(jobs, conversion.witness) is not None
    return Verdict.PROVEN if is_only else Verdict.CONCLUDED


def _is_unlike(made: ReferencePoint, conversion: Conversion) -> bool:
    """Tell whether a point lists other disks than we held, or a rest of the guest that nobody asked for.

    Neither is proof: disks come and go, and a host may say another level than it was asked for.
    """
    is_higher = conversion.is_crash_asked and made.consistency == _APPLICATION
    return is_higher or (bool(made.settings) and conversion.disks not in (None, len(made.settings)))


def _others(
    maker: SeenJob, jobs: Iterable[SeenJob], asked: Asked, until: datetime | None = None
) -> list[SeenJob]:
    """Return the VM's other jobs that were not over before our call, and may have begun by ``until``."""
    return [job for job in _since(jobs, asked) if job.id != maker.id and not _is_before(until, job.began)]


def _since(jobs: Iterable[SeenJob], asked: Asked) -> Iterator[SeenJob]:
    """Yield the VM's jobs that were not over before our call."""
    for job in jobs:
        is_of_vm = not job.vms or asked.vm_id.lower() in job.vms
        if is_of_vm and not _is_before(job.ended, asked.since):
            yield job


# --- both -----------------------------------------------------------------------------------


def _trusted(asked: Asked, now: datetime | None) -> Asked:
    """Return the call, without its time if the host's clock was set back: then no time proves anything."""
    is_back = now is not None and asked.since is not None and _is_before(now, asked.since)
    return replace(asked, since=None) if is_back else asked


def _last(moment: datetime) -> datetime:
    """Return the last moment that a time may mean: hosts that tell whole seconds cut the rest off."""
    return moment + timedelta(seconds=1) if moment.microsecond == 0 else moment


def _is_before(moment: datetime | None, other: datetime | None) -> bool:
    """Tell whether one was certainly before the other; False where one is not known."""
    return moment is not None and other is not None and _last(moment) <= other and moment < other


def _is_at_work(host: HyperV, job: str | None) -> bool:
    """Tell whether the host still works on a job; one that it lists no more has ended."""
    own = _job(list_jobs(host), job) if job is not None else None
    return own is not None and not own.is_over


def _job(jobs: Iterable[SeenJob], job_id: str | None) -> SeenJob | None:
    return next((job for job in jobs if job.id == job_id), None)


def _maker(jobs: Iterable[SeenJob], made: str) -> SeenJob | None:
    return next((job for job in jobs if made.lower() in job.made), None)


def _chosen(judged: Sequence[tuple[T, Verdict]]) -> Claimed[T]:
    """Claim what is proven, or the only one that may be ours if that is concluded; one call makes one."""

    def those(*verdicts: Verdict) -> tuple[T, ...]:
        return tuple(each for each, verdict in judged if verdict in verdicts)

    proven, likely = those(Verdict.PROVEN), those(Verdict.CONCLUDED, Verdict.DOUBTFUL)
    if len(proven) == 1:
        return Claimed(proven[0], is_proven=True)
    if not proven and len(likely) == 1 and those(Verdict.CONCLUDED):
        return Claimed(likely[0])
    return Claimed(None, proven + likely + those(Verdict.UNLIKE))
