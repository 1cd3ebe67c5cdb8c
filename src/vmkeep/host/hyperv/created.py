"""Find out what a call has made: by its job's association, and by what was not there before.

A reply with a job names no result, and a job names what it made only once it has
ended, for five minutes (hyperv-backup-api.md section 0, fact 2). So each finder
takes what was there before the call, and believes nothing that was.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar

from vmkeep.host.hyperv.classes import AFFECTED_ELEMENT, COMPUTER_SYSTEM, CREATED, JOB_TIMES
from vmkeep.host.hyperv.jobs import COMPLETED, UNDER_WAY, Done, HyperV, Outcome, outlast, pauses
from vmkeep.host.hyperv.settings import instance_id
from vmkeep.host.wsman import Ref, ValueRefused

T = TypeVar("T")

# How long a call whose answer was lost may sleep in the host before it begins.
LOST_CALL_S: Final = 60.0


@dataclass(frozen=True)
class SeenJob:
    """A job that the host still lists: when it worked, by the host's clock, on which VMs, and what it made.

    ``ended`` is None while it is at work, and where the host does not tell. ``has_failed``: it ended
    otherwise than it should. Ids in lower case; ``vms`` is empty where the host does not tell.
    """

    id: str
    is_over: bool
    began: datetime | None
    ended: datetime | None
    vms: frozenset[str]
    made: frozenset[str]
    has_failed: bool = False


def list_jobs(host: HyperV) -> tuple[SeenJob, ...]:
    """List the jobs of the last five minutes, everybody's, and what each has made. Safe to repeat.

    The associations are read last: a job that ends meanwhile is seen at work, and with
    what it made, never as one that made nothing.
    """
    jobs = outlast(host, lambda: list(JOB_TIMES.all(host.client)))
    vms: dict[str, set[str]] = {}
    made: dict[str, set[str]] = {}
    for row in outlast(host, lambda: list(AFFECTED_ELEMENT.all(host.client))):
        try:
            job, element = instance_id(row.ref("AffectingElement")).lower(), row.ref("AffectedElement")
            if CREATED in row.integers("ElementEffects"):
                made.setdefault(job, set()).add(instance_id(element).lower())
            elif element.class_name.lower() == COMPUTER_SYSTEM.name.lower():
                vms.setdefault(job, set()).update(
                    str(value).lower() for name, value in element.keys.items() if name.lower() == "name"
                )
        except ValueRefused:  # an element of another kind
            continue
    found = []
    for row in jobs:
        job, state = row.text("InstanceID").lower(), row.integer("JobState")
        is_over = state not in UNDER_WAY
        began, ended = row.moment_or_none("StartTime"), row.moment_or_none("TimeOfLastStateChange")
        seen = SeenJob(
            job,
            is_over,
            began,
            ended if is_over else None,
            frozenset(vms.get(job, ())),
            frozenset(made.get(job, ())),
            is_over and state not in COMPLETED,
        )
        found.append(seen)
    return tuple(found)


def is_among(setting: str, known: Iterable[str]) -> bool:
    """Tell whether an InstanceID is one of those known; letter case means nothing."""
    return setting.lower() in {other.lower() for other in known}


def named_by_host(host: HyperV, done: Done, class_name: str, result_name: str) -> Iterator[str]:
    """Yield the InstanceIDs of what the host says a call has made, its job's association first.

    The reply's own reference comes last: it is absent where a job was started,
    and goes by no other evidence.
    """
    refs = list(_affected(host, done.job)) if done.job and done.outcome is not Outcome.VANISHED else []
    if result_name in done.result:
        found = done.result.ref_or_none(result_name)
        refs += [found] if found else []
    for ref in refs:
        if ref.class_name.lower() == class_name.lower():
            yield instance_id(ref)


def _affected(host: HyperV, job: Ref) -> Iterator[Ref]:
    """Yield what a job created: association rows of this job with the effect "create".

    The whole class is read, as it was on the recorded host: it holds the jobs of five minutes.
    """
    wanted = instance_id(job).lower()
    for row in outlast(host, lambda: list(AFFECTED_ELEMENT.all(host.client))):
        if CREATED not in row.integers("ElementEffects"):
            continue
        try:
            affecting = instance_id(row.ref("AffectingElement")).lower()
        except ValueRefused:  # an element of another kind, of somebody else's job
            continue
        if affecting == wanted:
            yield row.ref("AffectedElement")


def after_lost_answer(
    host: HyperV,
    is_under_way: Callable[[], bool],
    look: Callable[[], T | None],
    limit_s: float,
    error: Exception,
) -> T:
    """Wait for what a call may have made whose answer was lost, and return it.

    Raises ``error`` again if nothing is under way and nothing has appeared for a minute.
    """
    quiet_since: float | None = None
    for waited in pauses(host.clock, limit_s):
        if is_under_way():
            quiet_since = None
            continue
        found = look()
        if found is not None:
            return found
        quiet_since = waited if quiet_since is None else quiet_since
        if waited - quiet_since >= LOST_CALL_S:
            break
    raise error
