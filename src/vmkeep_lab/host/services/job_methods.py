"""What can be asked of a job."""

from vmkeep_lab.cim import WBEM_E_NOT_FOUND, Arguments, CimScalar, Instance, Ref, WmiError
from vmkeep_lab.host.codes import Returned
from vmkeep_lab.host.instances import running
from vmkeep_lab.host.jobs import Job
from vmkeep_lab.host.services.targets import Answer, answer
from vmkeep_lab.host.world import World


def errors(world: World, target: Ref, _: Arguments) -> Answer:
    """GetErrorEx: the errors of a failed job, as embedded Msvm_Error (section 2.2)."""
    job = _job(world, target)
    found: list[CimScalar] = [_error(world, job)] if job.failure else []
    return {"Errors": found, "ReturnValue": 0}


def error(world: World, target: Ref, _: Arguments) -> Answer:
    """GetError: the first of them."""
    job = _job(world, target)
    if not job.failure:
        return answer(Returned.DONE)
    return {"Error": _error(world, job), "ReturnValue": 0}


def request_state(world: World, target: Ref, _: Arguments) -> Answer:
    """RequestStateChange of a job: none of the lab's can be stopped (``Cancellable`` says so)."""
    _job(world, target)
    return answer(Returned.INVALID_STATE)


def _job(world: World, target: Ref) -> Job:
    found = world.jobs.find(dict(target.keys).get("InstanceID", ""))
    if found is None:
        raise WmiError(WBEM_E_NOT_FOUND, "the job is gone")
    return found


def _error(world: World, job: Job) -> Instance:
    hresult = job.failure.hresult if job.failure else 0
    return Instance(
        "Msvm_Error",
        {
            "CIMStatusCode": 1,
            "ErrorSource": job.vm_id,
            "Message": running.failure_text(world, job),
            "MessageArguments": [job.vm_id, f"0x{hresult:08X}"],
            "MessageID": str(hresult),
            "OwningEntity": "Microsoft-Windows-Hyper-V-VMMS",
            "ProbableCause": 0,
        },
    )
