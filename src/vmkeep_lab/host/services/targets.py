"""Find what a method's arguments mean, and start its job."""

from collections.abc import Callable, Iterable, Mapping

from vmkeep_lab.cim import Arguments, CimValue, Instance, Ref
from vmkeep_lab.host.codes import JobType, Returned, Status
from vmkeep_lab.host.faults import At, Fault
from vmkeep_lab.host.jobs import Job, OperationFailed
from vmkeep_lab.host.state import Checkpoint, ReferencePoint, Vm
from vmkeep_lab.host.world import World

Answer = Mapping[str, CimValue]


def answer(code: int) -> Answer:
    """Return a method's answer that is nothing but a code."""
    return {"ReturnValue": int(code)}


def vm_of(world: World, value: CimValue) -> Vm | None:
    """Return the VM that a reference means, or None where it is dead or means the host."""
    if not isinstance(value, Ref):
        return None
    return world.state.vm(dict(value.keys).get("Name", ""))


def checkpoint_of(world: World, value: CimValue) -> tuple[Vm, Checkpoint] | None:
    """Return the checkpoint that a reference to settings means, or None."""
    guid = _guid(value)
    for vm in world.state.vms:
        found = vm.checkpoint(guid)
        if found:
            return vm, found
    return None


def reference_point_of(world: World, value: CimValue) -> tuple[Vm, ReferencePoint] | None:
    """Return the reference point that a reference means, or None."""
    guid = _guid(value)
    for vm in world.state.vms:
        for point in vm.reference_points:
            if point.id == guid:
                return vm, point
    return None


def _guid(value: CimValue) -> str:
    instance_id = dict(value.keys).get("InstanceID", "") if isinstance(value, Ref) else ""
    return instance_id.rpartition(":")[2].upper()


def number(arguments: Arguments, name: str, default: int = 0) -> int:
    """Return an argument that is a number; the default where it was left out."""
    value = arguments.get(name)
    return value if isinstance(value, int) else default


def text(arguments: Arguments, name: str) -> str:
    """Return an argument that is a text; empty where it was left out."""
    value = arguments.get(name)
    return value if isinstance(value, str) else ""


def setting(arguments: Arguments, name: str, key: str) -> CimValue:
    """Return a property of an argument that is an embedded instance, or None."""
    value = arguments.get(name)
    return value.values.get(key) if isinstance(value, Instance) else None


def start(
    world: World,
    vm: Vm,
    kind: JobType,
    lasts: float,
    work: Callable[[], Iterable[Ref]],
    busy: Status | None = None,
) -> Answer:
    """Start a job and return what the method answers; what it makes is never in the answer (fact 2)."""
    job = world.jobs.start(
        Job(
            id=world.state.new_id(),
            type=kind,
            vm_id=vm.id,
            began=world.clock.monotonic(),
            lasts=lasts,
            submitted=world.clock.now(),
            work=work,
            busy=busy,
        )
    )
    return {"Job": job.ref, "ReturnValue": int(Returned.JOB_STARTED)}


def refused_at(world: World, at: At, vm: Vm) -> Answer | None:
    """Return the answer of a fault that strikes the call itself, or None."""
    fault = world.faults.take(at, vm.id)
    return answer(fault.code) if fault else None


def strike(fault: Fault | None) -> None:
    """Fail the job whose fault this is."""
    if fault:
        raise OperationFailed(fault.code, fault.hresult, fault.reason)
