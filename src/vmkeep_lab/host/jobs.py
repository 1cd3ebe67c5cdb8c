"""Jobs: what a host does over time, and what it says about it.

A job's work is done when its time is over; until then its VM is busy. Jobs live in the memory of the
management service: a restart forgets them, and five minutes after the end they are gone (section 2.2).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from vmkeep_lab.cim import Ref
from vmkeep_lab.disks import DiskError
from vmkeep_lab.host.codes import JobState, JobType, Returned, Status
from vmkeep_lab.host.hostclock import HostClock

_STARTING_SHARE: Final = 0.1  # of a job's time it is new or starting


class OperationFailed(Exception):
    """A job's work that did not succeed: its ErrorCode, the HRESULT of its text, and why (a text's key)."""

    def __init__(self, code: int, hresult: int, reason: str) -> None:
        super().__init__(f"{reason} (0x{hresult:08X})")
        self.code = code
        self.hresult = hresult
        self.reason = reason


@dataclass
class Job:
    """One job. ``made`` are the elements it created, known only once it is done (fact 2).

    ``busy`` is what its VM shows as second operational status meanwhile.
    """

    id: str
    type: JobType
    vm_id: str
    began: float
    lasts: float
    submitted: datetime
    work: Callable[[], Iterable[Ref]]
    class_name: str = "Msvm_ConcreteJob"
    busy: Status | None = None
    ended: float | None = None
    failure: OperationFailed | None = None
    made: list[Ref] = field(default_factory=list)

    def state(self, now: float) -> JobState:
        """Return the job's state at an instant."""
        if self.ended is not None:
            return JobState.EXCEPTION if self.failure else JobState.COMPLETED
        passed = now - self.began
        if passed < self.lasts * _STARTING_SHARE / 2:
            return JobState.NEW
        return JobState.STARTING if passed < self.lasts * _STARTING_SHARE else JobState.RUNNING

    def percent(self, now: float) -> int:
        """Return how far it is; 100 only when it has ended."""
        if self.ended is not None:
            return 100
        return min(99, int(100 * (now - self.began) / self.lasts)) if self.lasts > 0 else 0

    @property
    def ref(self) -> Ref:
        """Return the reference that methods hand out."""
        return Ref.to(self.class_name, InstanceID=self.id)

    @property
    def code(self) -> int:
        """Return the ErrorCode: 0 unless it failed."""
        return self.failure.code if self.failure else int(Returned.DONE)


class Jobs:
    """The jobs of a host, running and remembered."""

    def __init__(self, clock: HostClock, kept_seconds: float) -> None:
        self._clock: Final = clock
        self._kept: Final = kept_seconds
        self._jobs: dict[str, Job] = {}

    def start(self, job: Job) -> Job:
        """Take a job in; its work is done by ``advance`` once its time is over."""
        self._jobs[job.id] = job
        return job

    def advance(self) -> bool:
        """Do the work of every job that is due, forget the old ones; tell whether anything was done."""
        now = self._clock.monotonic()
        due = [each for each in self._jobs.values() if each.ended is None and now - each.began >= each.lasts]
        for each in due:
            self._finish(each)
        self._jobs = {
            key: each
            for key, each in self._jobs.items()
            if each.ended is None or now - each.ended < self._kept
        }
        return bool(due)

    def _finish(self, job: Job) -> None:
        try:
            job.made = list(job.work())
        except OperationFailed as failure:
            job.failure = failure
        except DiskError as error:
            job.failure = OperationFailed(int(Returned.FAILED), error.code, "unspecified")
        job.ended = self._clock.monotonic()

    def all(self) -> list[Job]:
        """Return the jobs that a client can see."""
        return list(self._jobs.values())

    def running(self, vm_id: str) -> list[Job]:
        """Return the jobs that have a VM now."""
        return [each for each in self._jobs.values() if each.ended is None and each.vm_id == vm_id]

    def find(self, job_id: str) -> Job | None:
        """Return a job by id, in any case, or None once it is forgotten."""
        return next((each for each in self._jobs.values() if each.id.lower() == job_id.lower()), None)

    def forget(self) -> None:
        """Drop all of them: what a restart of the management service does."""
        self._jobs.clear()
