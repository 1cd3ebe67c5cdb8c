"""``Msvm_VirtualSystemReferencePointService``: baselines for changed ranges (section 2.1)."""

from collections.abc import Iterable

from vmkeep_lab.cim import Arguments, Ref
from vmkeep_lab.host import checkpoints, codes
from vmkeep_lab.host.codes import Consistency, JobType, Returned
from vmkeep_lab.host.faults import At
from vmkeep_lab.host.instances import names
from vmkeep_lab.host.services.targets import (
    Answer,
    answer,
    number,
    reference_point_of,
    setting,
    start,
    strike,
    vm_of,
)
from vmkeep_lab.host.world import World


def create(world: World, _: Ref, arguments: Arguments) -> Answer:
    """CreateReferencePoint: a baseline without a checkpoint.

    Which number means RCT the sources contradict (section 8.3): 1 and 2 both do here, 0 (a log) is not
    supported.
    """
    vm = vm_of(world, arguments.get("AffectedSystem"))
    if vm is None:
        return answer(codes.CIM_INVALID_PARAMETER)
    if number(arguments, "ReferencePointType") not in (1, 2):
        return answer(codes.CIM_NOT_SUPPORTED)
    if world.is_busy(vm):
        return answer(Returned.INVALID_STATE)
    level = setting(arguments, "ReferencePointSettings", "ConsistencyLevel")
    asked = Consistency(level) if isinstance(level, int) and level in (1, 2) else Consistency.UNKNOWN

    def work() -> Iterable[Ref]:
        strike(world.faults.take(At.REFERENCE_JOB, vm.id))
        point = checkpoints.mark(world, vm, checkpoints.quiesce(world, vm, asked))
        return [names.reference_point(vm, point)]

    return start(world, vm, JobType.CREATE_REFERENCE_POINT, world.behaviour.reference_s, work)


def destroy(world: World, _: Ref, arguments: Arguments) -> Answer:
    """DestroyReferencePoint."""
    found = reference_point_of(world, arguments.get("AffectedReferencePoint"))
    if found is None:
        return answer(codes.CIM_INVALID_PARAMETER)
    vm, point = found
    if world.jobs.running(vm.id):
        return answer(Returned.INVALID_STATE)

    def work() -> Iterable[Ref]:
        strike(world.faults.take(At.REFERENCE_JOB, vm.id))
        checkpoints.drop(world, vm, point)
        return []

    return start(world, vm, JobType.DESTROY_REFERENCE_POINT, world.behaviour.reference_s, work)
