"""The guests at work: running VMs write to their disks, each at its own rate, from a seed."""

from typing import Final

from vmkeep_lab.host.codes import Power
from vmkeep_lab.host.state import Vm
from vmkeep_lab.host.world import World

_MOST_AT_ONCE: Final = 64  # after a long pause nobody catches up for minutes


class Guests:
    """Lets time pass for the guests; ``advance`` is called with the host's lock held."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._last = world.clock.monotonic()
        self._owed: dict[str, float] = {}
        self.is_paused = False

    def advance(self) -> None:
        """Let every running guest write what it would have since the last call."""
        now = self._world.clock.monotonic()
        passed, self._last = now - self._last, now
        if self.is_paused:
            return
        for vm in self._world.state.vms:
            if vm.power is Power.RUNNING and vm.writes_per_second > 0:
                owed = self._owed.get(vm.id, 0.0) + passed * vm.writes_per_second
                count = min(int(owed), _MOST_AT_ONCE)
                self._owed[vm.id] = min(owed - count, 1.0)
                if count:
                    self.step(vm, count)

    def step(self, vm: Vm, count: int) -> None:
        """Let one guest do ``count`` things on each of its disks."""
        for disk in vm.file_disks:
            self._world.media.write(disk, count)
