"""Starting, stopping and saving VMs."""

from collections.abc import Iterable
from typing import Final

from vmkeep_lab.cim import Arguments, Ref
from vmkeep_lab.host import configuration, merges
from vmkeep_lab.host.codes import JobType, Power, Returned
from vmkeep_lab.host.services.targets import Answer, answer, number, start, vm_of
from vmkeep_lab.host.state import Vm
from vmkeep_lab.host.world import World

# RequestedState: what the VM becomes, and from which states (section 4, D).
_CHANGES: Final = {
    2: (Power.RUNNING, {Power.OFF, Power.SAVED, Power.PAUSED}),
    3: (Power.OFF, {Power.RUNNING, Power.SAVED, Power.PAUSED}),
    6: (Power.SAVED, {Power.RUNNING, Power.PAUSED}),
    9: (Power.PAUSED, {Power.RUNNING}),
}


def request_state(world: World, target: Ref, arguments: Arguments) -> Answer:
    """RequestStateChange of a VM; 32775 where its state does not allow it."""
    vm = vm_of(world, target)
    if vm is None:
        return answer(Returned.INVALID_PARAMETER)
    change = _CHANGES.get(number(arguments, "RequestedState"))
    if change is None:
        return answer(Returned.NOT_SUPPORTED)
    wanted, allowed = change
    if vm.power not in allowed or world.jobs.running(vm.id):
        return answer(Returned.INVALID_STATE)

    def work() -> Iterable[Ref]:
        turn(world, vm, wanted)
        return []

    return start(world, vm, JobType.POWER, world.behaviour.power_s, work)


def shut_down(world: World, target: Ref, _: Arguments) -> Answer:
    """InitiateShutdown of a guest's shutdown component."""
    vm = world.state.vm(dict(target.keys).get("SystemName", ""))
    if vm is None or vm.power is not Power.RUNNING:
        return answer(Returned.INVALID_STATE)
    turn(world, vm, Power.OFF)
    return answer(Returned.DONE)


def turn(world: World, vm: Vm, power: Power) -> None:
    """Give a VM another state; its merges are interrupted and begin again (failures.md 4.3)."""
    vm.power = power
    vm.state_changed = vm.changed = world.clock.now()
    if power is not Power.RUNNING:
        for disk in vm.file_disks:
            world.media.rest(disk)
    merges.stop(world, vm)
    configuration.write_vm(world, vm)
    merges.resume(world, vm)
    world.changed = True
