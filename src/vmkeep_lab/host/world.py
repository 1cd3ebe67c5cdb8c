"""What all parts of a host share: its state, its clock, its jobs, its files, its language."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from vmkeep_lab.host import truth
from vmkeep_lab.host.codes import Status
from vmkeep_lab.host.faults import Faults
from vmkeep_lab.host.handles import Handles
from vmkeep_lab.host.hostclock import HostClock
from vmkeep_lab.host.jobs import Jobs
from vmkeep_lab.host.media import Media
from vmkeep_lab.host.places import Places, stem_of
from vmkeep_lab.host.state import Disk, Event, HostState, Vm
from vmkeep_lab.host.texts import Texts

VMMS_ADMIN: Final = ("Microsoft-Windows-Hyper-V-VMMS-Admin", "Microsoft-Windows-Hyper-V-VMMS")
APPLICATION: Final = ("Application", "VSS")
_MOST_EVENTS: Final = 10_000


@dataclass
class Behaviour:
    """How long things take, in seconds, and where the limits are; a scenario may change each.

    ``most_ranges``: how many changed ranges one answer holds before it stops short of the window asked for.
    """

    checkpoint_s: float = 0.2
    convert_s: float = 0.2
    destroy_s: float = 0.2
    apply_s: float = 0.2
    reference_s: float = 0.1
    rename_s: float = 0.0
    power_s: float = 0.1
    export_s: float = 0.2
    merge_s: float = 0.3
    merge_retry_s: float = 2.0
    guest_timeout_s: float = 0.6
    job_kept_s: float = 300.0
    most_ranges: int = 4096


@dataclass
class Attempt:
    """A try to merge: when it begins and when it is over."""

    begins: float
    ends: float


@dataclass
class World:
    """One host at work.

    Whoever changes ``state`` holds the host's lock, and sets ``changed`` so that it is written down.
    """

    folder: Path
    state: HostState
    behaviour: Behaviour
    clock: HostClock
    jobs: Jobs
    texts: Texts
    places: Places
    media: Media
    handles: Handles
    faults: Faults = field(default_factory=Faults)
    attempts: dict[tuple[str, str], Attempt] = field(default_factory=dict)  # of merges, by VM id and slot
    free_bytes: int | None = None  # what the drives claim; None: what is really free
    changed: bool = False

    def log(
        self, number: int, key: str, vm: Vm | None, where: tuple[str, str] = VMMS_ADMIN, /, **more: object
    ) -> None:
        """Write an event about a VM."""
        channel, source = where
        filling: dict[str, object] = {"name": vm.name, "vm_id": vm.id} if vm else {}
        self.state.events.append(
            Event(
                number=self.state.events[-1].number + 1 if self.state.events else 1,
                channel=channel,
                source=source,
                code=number,
                time=self.clock.now(),
                text=self.texts.say(key, **filling, **more),
                vm_id=vm.id if vm else "",
            )
        )
        del self.state.events[:-_MOST_EVENTS]
        self.changed = True

    def status_of(self, vm: Vm) -> list[Status]:
        """Return ``OperationalStatus``: the operation that has the VM is the second element (section 1.1)."""
        busy = next((each.busy for each in self.jobs.running(vm.id) if each.busy), None)
        if busy is None and self.is_merging(vm):
            busy = Status.MERGING
        return [Status.IN_SERVICE, busy] if busy else [Status.OK]

    def is_merging(self, vm: Vm) -> bool:
        """Tell whether a merge of the VM's disks goes on now; one that waits for its next try does not."""
        now = self.clock.monotonic()
        return any(each.begins <= now for (vm_id, _), each in self.attempts.items() if vm_id == vm.id)

    def is_busy(self, vm: Vm) -> bool:
        """Tell whether an operation has the VM: the next is refused with 32775 (section 2.2, GW)."""
        return len(self.status_of(vm)) > 1

    def testify(self, vm: Vm, disk: Disk, path: str, about: str, kind: str) -> None:
        """Write down what a disk holds as its chain from ``path`` down reads, at this instant."""
        truth.testify(
            self.folder,
            truth.Witness(
                vm=vm.name,
                vm_id=vm.id,
                disk=stem_of(path),
                disk_id=disk.disk_id,
                slot=disk.slot,
                checkpoint=about,
                kind=kind,
                time=self.clock.now(),
                size=disk.size,
                sha256=self.media.sha256(disk, path),
            ),
        )
