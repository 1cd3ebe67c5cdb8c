"""Call a method and wait for its job, patiently, and say how it ended.

Hyper-V answers most methods with 4096 and a job. The job is asked until it is
done, first often, later every five seconds. A host keeps a finished job for
about five minutes, and none over a restart: a job that vanished says nothing,
and is answered with :attr:`Outcome.VANISHED`: look at the object itself.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeVar

from vmkeep.clock import Clock, unwatched
from vmkeep.errors import VmkeepError
from vmkeep.host.hyperv.classes import GET_ERROR, Call
from vmkeep.host.hyperv.codes import DONE, HRESULTS, JOB_STARTED, hresults_in, judge, refusal, spelled
from vmkeep.host.hyperv.errors import HyperVError, JobOverdue, OperationFailed
from vmkeep.host.wsman import (
    Argument,
    Client,
    ClocksDisagree,
    ConnectionLost,
    EndpointUnusable,
    EnumerationLost,
    HostBusy,
    HostError,
    HostFault,
    HostNonsense,
    HostNotTrusted,
    HostTimedOut,
    HostUnreachable,
    Instance,
    InstanceMissing,
    LoginImpossible,
    LoginRefused,
    OutcomeUnknown,
    Ref,
    Result,
    RightMissing,
    UnknownToHost,
)

T = TypeVar("T")

_log: Final = logging.getLogger(__name__)

# JobState (hyperv-backup-api.md 2.2): new, starting, running, suspended, shutting down, query pending.
UNDER_WAY: Final = frozenset({2, 3, 4, 5, 6, 12})
_COMPLETED: Final = 7
_COMPLETED_WITH_WARNINGS: Final = 32768
COMPLETED: Final = frozenset({_COMPLETED, _COMPLETED_WITH_WARNINGS})

# What a broken network or a restarting host looks like; a wait outlives it for a while.
SILENCE: Final = (ConnectionLost, EnumerationLost, HostTimedOut, HostUnreachable, HostBusy)
# The part of it after which a method has certainly not run, and may be called again.
NOT_RUN: Final = (HostUnreachable, HostBusy)
# After these a method has certainly not begun: it was refused, or never arrived.
_NOT_BEGUN: Final = (
    *NOT_RUN,
    ClocksDisagree,
    EndpointUnusable,
    HostNotTrusted,
    InstanceMissing,
    LoginImpossible,
    LoginRefused,
    RightMissing,
    UnknownToHost,
)
# Of other faults only these: access denied, not supported, a parameter or an object that is none. A service
# that dies in the middle of a call answers with a fault, too (0x800706BE).
_REFUSED: Final = frozenset({0x80041002, 0x80041003, 0x80041008, 0x80070005, 0x80070032, 0x80070057})
LONGEST_SILENCE_S: Final = 300.0


class Outcome(Enum):
    """How a call ended that did not fail."""

    COMPLETED = "completed"
    WARNED = "completed with warnings"
    VANISHED = "vanished"


class Kind(Enum):
    """What is being waited for: our words for it, and how long it may take in seconds.

    Annex B of hyperv-backup-api.md: a guest is frozen for a minute at most, but
    its writers can take many to prepare; a conversion begins a merge.
    """

    CREATE = ("create the checkpoint", 15 * 60.0)
    CONVERT = ("convert the checkpoint to a reference point", 30 * 60.0)
    DESTROY = ("remove the checkpoint", 30 * 60.0)
    DESTROY_REFERENCE_POINT = ("remove the reference point", 10 * 60.0)
    MODIFY = ("change the checkpoint's settings", 5 * 60.0)
    READ_DISK = ("read a disk's settings", 5 * 60.0)
    READ_CHANGES = ("read a disk's changes", 10 * 60.0)

    def __init__(self, words: str, limit_s: float) -> None:
        self.words = words
        self.limit_s = limit_s


@dataclass(frozen=True)
class Waiting:
    """One look at what is waited for: how far it is, where known, and for how long already."""

    what: str
    waited_s: float
    percent: int | None = None


def _nobody(_: Waiting) -> None:
    return


class Fate:
    """How far a call is known to have come that cannot simply be repeated; in doubt, further.

    ``may_have_run``: it was handed to the network, and nothing proves that the host refused or
    never got it. ``job`` is the id of the one the host answered with; ``accepted`` hears of it
    at once: the place to write it down. ``has_failed``: the host was heard to say that it failed.
    """

    def __init__(self, accepted: Callable[[str], None] | None = None) -> None:
        self.may_have_run = False
        self.job: str | None = None
        self.has_failed = False
        self._accepted = accepted

    def take(self, job: str) -> None:
        """Keep the job, and tell of it."""
        self.job = job.lower()
        if self._accepted is not None:
            self._accepted(job)


@dataclass(frozen=True)
class HyperV:
    """One host as this room speaks to it: a client, a clock, and who hears of waits.

    ``watch`` is called at each look, at least every few seconds: the place to
    renew a lease, and to raise in order to stop waiting (the host goes on).
    ``silence_s`` is how long a silence of the host is outlived: none at the first
    question, which a wrong address or a host that is off never answers.
    """

    client: Client
    clock: Clock
    watch: Callable[[Waiting], None] = _nobody
    silence_s: float = LONGEST_SILENCE_S


@dataclass(frozen=True)
class Done:
    """A call that did not fail; ``job`` is None where none was needed."""

    outcome: Outcome
    result: Result
    job: Ref | None


def perform(
    host: HyperV,
    call: Call,
    arguments: Mapping[str, Argument],
    kind: Kind,
    subject: str,
    fate: Fate | None = None,
) -> Done:
    """Call a service's method and wait until it has ended; ``fate`` is kept for whoever is stopped meanwhile.

    Raises the error its code or HRESULT stands for (:mod:`codes`), JobOverdue,
    and OutcomeUnknown or ActionHappened if the call may have run or did run and
    its answer is lost: then look at the object, and do not call again. One that
    only reads is called again through a silence; HostNonsense if it was answered
    with nonsense twice.
    """
    what = f"{kind.words} of {subject}"
    silence = (*SILENCE, OutcomeUnknown) if call.reads else () if call.is_timed else NOT_RUN
    send = _ask if call.reads else _send
    if not call.reads:
        host.watch(Waiting(kind.words, 0.0))
    try:
        result = outlast(host, lambda: send(host, call, arguments, fate), silence)
    except HostFault as fault:
        raise _from_fault(fault, what) from fault
    if result.return_value == DONE:
        return Done(Outcome.COMPLETED, result, None)
    if result.return_value != JOB_STARTED:
        error = refusal(f"cannot {what}", result.return_value)
        if fate is not None:  # a failure, a timeout, a status unknown refuse nothing
            fate.may_have_run = isinstance(error, OperationFailed)
        raise error
    job = result.ref_or_none("Job") if "Job" in result else None
    if job is None:  # a job that cannot be asked: only the object itself can tell
        return Done(Outcome.VANISHED, result, None)
    try:
        if fate is not None:
            fate.take(job_id(job))
        return Done(wait_for_job(host, job, kind, subject), result, job)
    except VmkeepError as error:
        # Whatever kept us from hearing of the job: the call itself was accepted.
        error.context.setdefault("job", str(job))
        if fate is not None:
            fate.has_failed = "error_code" in error.context
        raise


def _send(host: HyperV, call: Call, arguments: Mapping[str, Argument], fate: Fate | None) -> Result:
    """Send the call; where its fate matters nobody stops the wait for the answer, which names the job."""
    if fate is None:
        return host.client.invoke(call.target, call.method, arguments)
    fate.may_have_run = True
    try:
        with host.client.looking(unwatched):
            return host.client.invoke(call.target, call.method, arguments)
    except _NOT_BEGUN:
        fate.may_have_run = False
        raise
    except HostFault as fault:
        fate.may_have_run = fault.context.get("hresult") not in _REFUSED
        raise


def _ask(host: HyperV, call: Call, arguments: Mapping[str, Argument], fate: Fate | None) -> Result:
    """Send a call that only reads: whether it ran is no matter, but why its answer cannot be had is.

    Raises OutcomeUnknown for a silence. Nonsense is none: it is asked for once more, as a bit may
    have flipped on the way, and is HostNonsense then.
    """
    try:
        return _send(host, call, arguments, fate)
    except (HostNonsense, OutcomeUnknown) as error:
        if isinstance(error.__cause__, SILENCE):
            raise
        _log.info("nonsense, asking once more: %s", error)
    try:
        return _send(host, call, arguments, fate)
    except (HostNonsense, OutcomeUnknown) as error:
        cause = error.__cause__
        if isinstance(cause, SILENCE):
            raise
        why = cause.message if isinstance(cause, HostError) else error.message
        raise HostNonsense(f"the host answers {call.method.name} with nonsense, twice: {why}") from error


def job_id(job: Ref) -> str:
    """Return a job's InstanceID; the whole reference where it has none."""
    return next((str(value) for name, value in job.keys.items() if name.lower() == "instanceid"), str(job))


def wait_for_job(host: HyperV, job: Ref, kind: Kind, subject: str) -> Outcome:
    """Wait until a job has ended. Safe to repeat, also from another process.

    Raises the error of a failed job, and JobOverdue after the kind's limit.
    """
    what = f"{kind.words} of {subject}"
    _log.info("waiting for job %s to %s", job, what)
    started = host.clock.monotonic()
    for state in _looks(host, job, kind, what):
        number = state.integer("JobState")
        if number in UNDER_WAY:
            continue
        waited = host.clock.monotonic() - started
        _log.info("job %s ended after %.1f s in state %d", job, waited, number)
        code = state.integer_or_none("ErrorCode") or 0
        if number == _COMPLETED:
            return Outcome.COMPLETED
        if number == _COMPLETED_WITH_WARNINGS and code == 0:
            _log.warning("job %s completed with warnings: %s", job, _texts_of(state))
            return Outcome.WARNED
        raise _failure(host, job, state, what, code)
    _log.info("job %s is gone; nobody knows how it ended", job)
    return Outcome.VANISHED


def _looks(host: HyperV, job: Ref, kind: Kind, what: str) -> Iterator[Instance]:
    """Yield the job's state again and again; end when the host does not know the job."""
    for waited in pauses(host.clock, kind.limit_s):
        try:
            state = outlast(host, lambda: host.client.get(job))
        except InstanceMissing:
            return
        percent = state.integer_or_none("PercentComplete") if "PercentComplete" in state else None
        host.watch(Waiting(kind.words, waited, percent))
        yield state
    raise JobOverdue(
        f"cannot wait any longer for the host to {what}: {kind.limit_s / 60:.0f} minutes have passed.",
        job=str(job),
    )


def pauses(clock: Clock, limit_s: float, longest_s: float = 5.0) -> Iterator[float]:
    """Yield the seconds waited, at once and then after growing pauses, until the limit has passed.

    Annex B of hyperv-backup-api.md: 0.2 s, growing by half, five seconds at most.
    """
    started = clock.monotonic()
    pause_s = 0.2
    while True:
        waited = clock.monotonic() - started
        yield waited
        if waited >= limit_s:
            return
        clock.sleep(min(pause_s, longest_s, max(0.0, limit_s - waited)))
        pause_s = min(pause_s * 1.5, longest_s)


def outlast(host: HyperV, look: Callable[[], T], silence: tuple[type[HostError], ...] = SILENCE) -> T:
    """Return what a call gives, and repeat it through a silence, of five minutes as a rule.

    ``silence`` names the errors that mean it: by default those of reading calls.
    """
    started = host.clock.monotonic()
    while True:
        try:
            return look()
        except silence as error:
            if host.clock.monotonic() - started >= host.silence_s:
                raise
            _log.warning("the host is silent, asking again: %s", error)
            host.watch(Waiting("hear of the host again", host.clock.monotonic() - started))
            host.clock.sleep(5.0)


def _failure(host: HyperV, job: Ref, state: Instance, what: str, code: int) -> HyperVError:
    """Make the error of a job that ended badly."""
    texts = (*_texts_of(state), *_details_of(host, job))
    hresults = hresults_in(texts)
    meaning, error = judge(code, hresults)
    numbers = ", ".join(spelled(number) for number in (code, *hresults))
    return error(
        f"cannot {what}: the host's job failed with {numbers}: {meaning}.",
        error_code=code,
        hresults=hresults,
        job=str(job),
        host_text=" | ".join(texts),
    )


def _texts_of(state: Instance) -> tuple[str, ...]:
    names = ("ErrorDescription", "ErrorSummaryDescription")
    found = (state.text_or_none(name) for name in names if name in state)
    return tuple(text for text in found if text)


def _details_of(host: HyperV, job: Ref) -> tuple[str, ...]:
    """Return what GetErrorEx adds; nothing where the host cannot say, which must not hide the failure."""
    try:
        answer = host.client.invoke(job, GET_ERROR, {})
        errors = answer.embeddeds("Errors") if answer.return_value == DONE else ()
        found = [
            text
            for item in errors
            for name in ("MessageID", "Message", "ErrorSource", "MessageArguments")
            for text in (item.texts(name) if name in item else ())
        ]
    except HostError as error:
        _log.warning("the host does not give the details of job %s: %s", job, error)
        return ()
    return tuple(found)


def _from_fault(error: HostFault, what: str) -> HostError | HyperVError:
    """Turn a fault with an HRESULT we know into its error; others stay as they are."""
    number = error.context.get("hresult")
    judgement = HRESULTS.get(number) if isinstance(number, int) else None
    if judgement is None or not isinstance(number, int):
        return error
    return judgement.error(
        f"cannot {what}: the host answers {spelled(number)}, {judgement.meaning}.", hresults=(number,)
    )
