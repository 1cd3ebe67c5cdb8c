"""Jobs and what they affect."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from vmkeep_lab.cim import CimValue, Instance, Ref
from vmkeep_lab.host import codes
from vmkeep_lab.host.codes import JobState
from vmkeep_lab.host.instances import names
from vmkeep_lab.host.jobs import Job
from vmkeep_lab.host.world import World

_STATUS: Final = {JobState.COMPLETED: "OK", JobState.EXCEPTION: "Error"}


def jobs(world: World) -> Iterator[Instance]:
    """Yield the jobs of the VM services."""
    yield from (
        job_instance(world, each) for each in world.jobs.all() if each.class_name == "Msvm_ConcreteJob"
    )


def storage_jobs(world: World) -> Iterator[Instance]:
    """Yield the jobs of the image service (section 2.1, GW)."""
    yield from (
        job_instance(world, each) for each in world.jobs.all() if each.class_name == "Msvm_StorageJob"
    )


def job_instance(world: World, job: Job) -> Instance:
    """Return a job as it is now."""
    now = world.clock.monotonic()
    state = job.state(now)
    caption = world.texts.say(f"job_{int(job.type)}")
    values: dict[str, CimValue] = {
        "Cancellable": False,
        "Caption": caption,
        "DeleteOnCompletion": False,
        "Description": caption,
        "ElapsedTime": timedelta(seconds=(job.ended or now) - job.began),
        "ElementName": caption,
        "ErrorCode": job.code,
        "HealthState": 5,
        "InstanceID": job.id,
        "JobRunTimes": 1,
        "JobState": int(state),
        "JobStatus": _STATUS.get(state, "Job is running"),
        "JobType": int(job.type),
        "LocalOrUtcTime": 2,
        "Name": caption,
        "OperationalStatus": [6 if job.failure else 2],
        "PercentComplete": job.percent(now),
        "StartTime": job.submitted,
        "Status": _STATUS.get(state, "OK"),
        "TimeBeforeRemoval": timedelta(seconds=world.behaviour.job_kept_s),
        "TimeOfLastStateChange": job.submitted + timedelta(seconds=(job.ended or now) - job.began),
        "TimeSubmitted": job.submitted,
    }
    if job.failure:
        values["ErrorDescription"] = failure_text(world, job)
        values["ErrorSummaryDescription"] = world.texts.say("job_failed_shortly")
    return Instance(job.class_name, values)


def failure_text(world: World, job: Job) -> str:
    """Return the localised text of a failed job, with the HRESULT in parentheses (failures.md 3.3)."""
    if job.failure is None:
        return ""
    vm = world.state.vm(job.vm_id)
    name = vm.name if vm else world.state.name
    if job.failure.reason == "conflict":
        return world.texts.say("conflict", name=name)
    return world.texts.say(
        "job_failed",
        name=name,
        reason=world.texts.say(job.failure.reason),
        code=f"0x{job.failure.hresult:08X}",
        vm_id=job.vm_id,
    )


def affected(world: World) -> Iterator[Instance]:
    """Yield what jobs affect: the VM from the start, what was made once it is made (fact 2, recorded)."""
    for job in world.jobs.all():
        vm = world.state.vm(job.vm_id)
        if vm:
            yield _affects(job, names.system(vm), codes.EFFECT_UNKNOWN)
        for made in job.made:
            yield _affects(job, made, codes.EFFECT_CREATED)


def _affects(job: Job, element: Ref, effect: int) -> Instance:
    return Instance(
        "Msvm_AffectedJobElement",
        {"AffectedElement": element, "AffectingElement": job.ref, "ElementEffects": [effect]},
    )
