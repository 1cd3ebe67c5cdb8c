"""Stopping and starting the management service (section 6)."""

from typing import Final

from vmkeep_lab.cim import Arguments, Ref
from vmkeep_lab.host import merges
from vmkeep_lab.host.services.targets import Answer, answer
from vmkeep_lab.host.world import World

_ACCESS_DENIED: Final = 2
_ALREADY_RUNNING: Final = 10


def stop(world: World, target: Ref, _: Arguments) -> Answer:
    """StopService of vmms: running VMs go on, jobs and merges end (section 6)."""
    if dict(target.keys).get("Name", "").lower() != "vmms":
        return answer(_ACCESS_DENIED)
    world.jobs.forget()
    for vm in world.state.vms:
        merges.stop(world, vm)
    return answer(0)


def start(world: World, target: Ref, _: Arguments) -> Answer:
    """StartService of vmms: merges that are owed begin again."""
    if dict(target.keys).get("Name", "").lower() != "vmms":
        return answer(_ALREADY_RUNNING)
    for vm in world.state.vms:
        merges.resume(world, vm)
    return answer(0)
