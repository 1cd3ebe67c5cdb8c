"""Whole runs against a host of the lab, in this process: doors, a repository, and foreign judges.

What is left on the host its own control socket tells, and what a restore point must hold its truth.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from tests.clocks import FakeClock
from tests.fakes.samba import PASSWORD, Samba
from tests.lab_captures import QuickClock, doors
from tests.lab_process import ForeignClient, Lab
from tests.repositories import make_repository, reopen, restore
from vmkeep.backup.outcome import Outcome
from vmkeep.backup.vm_run import Doors, HostWish, Told, run_vm
from vmkeep.capture.limits import HoldLimits
from vmkeep.errors import VmkeepError
from vmkeep.host.files.credentials import Credentials
from vmkeep.host.files.host_files import HostFiles
from vmkeep.host.files.paths import PathMap
from vmkeep.host.hyperv import take_inventory
from vmkeep.objectstore.memory import MemoryStore
from vmkeep.objectstore.store import Store
from vmkeep.progress import Progress, Silent
from vmkeep.repository.examine.keyed import check
from vmkeep.repository.journal import FINISHED, Record, read_runs
from vmkeep.repository.listing import SealedPoint
from vmkeep.repository.repository import Repository
from vmkeep.secrets import Secret

_LONGEST_STOP_S: Final = 120

# web: Windows, no more chunks than the smallest sample of the audit. chained: its administrator's
# checkpoints. off: at rest. large: long enough to be met while it is read.
SCENARIO: Final = r"""
title = "VMs to protect, and strangers' things on all of them"

[host]
name = "HV"
seed = 5

[behaviour]
checkpoint_s = 0.05
convert_s = 0.05
destroy_s = 0.05
reference_s = 0.05
merge_s = 0.05
merge_retry_s = 0.3

[[vm]]
name = "web"
stranger_reference_points = 1
[[vm.disk]]
name = "system"
size_mib = 16
used_mib = 6
[[vm.checkpoint]]
name = "OtherBackup_web_recovery"
owner = "stranger"
writes = 3

[[vm]]
name = "chained"
generation = 1
[[vm.disk]]
name = "chained"
size_mib = 16
used_mib = 4
[[vm.checkpoint]]
name = "first"
writes = 20
[[vm.checkpoint]]
name = "second"
writes = 20

[[vm]]
name = "off"
state = "off"
[[vm.disk]]
name = "off"
size_mib = 16
used_mib = 3

[[vm]]
name = "large"
[[vm.disk]]
name = "one"
size_mib = 64
used_mib = 40
[[vm.disk]]
name = "two"
size_mib = 32
used_mib = 20
"""


class RunClock(QuickClock):
    """A quick clock whose day can be moved on, as when nothing happened for a while."""

    def __init__(self, speed: float = 20.0) -> None:
        super().__init__(speed)
        self._later = timedelta()
        self._due: tuple[float, Callable[[], None]] | None = None
        self._goes = threading.Event()
        self._goes.set()

    def sleep(self, seconds: float) -> None:
        assert self._goes.wait(_LONGEST_STOP_S)
        super().sleep(seconds)
        if self._due is not None and self.monotonic() >= self._due[0]:
            (_, action), self._due = self._due, None
            action()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Let whoever waits wait until the block has ended: its minutes are too quick for real work."""
        self._goes.clear()
        try:
            yield
        finally:
            self._goes.set()

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something when somebody has waited until then."""
        self._due = self.monotonic() + seconds, action

    def now(self) -> datetime:
        return super().now() + self._later

    def later(self, **length: float) -> None:
        self._later += timedelta(**length)
        self.push(timedelta(**length).total_seconds())


class Meeting:
    """Progress that does something once, when ``nth`` pieces of a stage are done; 0: when it begins."""

    def __init__(self, stage: str, nth: int, action: Callable[[], None]) -> None:
        self._stage, self._left, self._action = stage, nth, action
        self._is_here = False
        self._lock = threading.Lock()
        self.met = False

    def begin(self, label: str, total_bytes: int | None) -> None:
        self._is_here = label.startswith(self._stage)
        self._meet()

    def advance(self, done_bytes: int) -> None:
        with self._lock:
            self._left -= self._is_here
        self._meet()

    def end(self) -> None:
        self._is_here = False

    def _meet(self) -> None:
        with self._lock:
            is_now = self._is_here and not self.met and self._left <= 0
            self.met = self.met or is_now
        if is_now:
            self._action()


class HostState:
    """What a lab's host remembers, by its control socket: what no run may change, and what one has left."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.before = self.remembered()

    def step(self, name: str, writes: int = 20) -> None:
        """Let a guest write."""
        self.lab.control.ask("step", vm=name, writes=writes)

    def tidy(self) -> None:
        """Let a stranger take away the reference points of ours, so that the next test begins anew."""
        client = ForeignClient(self.lab)
        for points in self.points_left().values():
            for point in points:
                client.destroy_reference_point(point)
        client.close()

    def remove_ours(self, name: str) -> None:
        """Let an administrator remove the checkpoint of the run that is under way."""
        client = ForeignClient(self.lab)
        (ours,) = [c for c in self.state(name)["checkpoints"] if c["name"].startswith("vmkeep ")]
        client.destroy_checkpoint(ours["id"])
        client.close()

    def state(self, name: str) -> dict[str, Any]:
        """What the host remembers of a VM."""
        vms = self.lab.control.ask("state")["state"]["vms"]
        (found,) = [vm for vm in vms if vm["name"] == name]
        return dict(found)

    def remembered(self) -> dict[str, Any]:
        """What no run may change, by VM: power, others' checkpoints and points, files, merges owed."""
        vms = self.lab.control.ask("state")["state"]["vms"]
        return {vm["id"]: _kept(vm) for vm in vms}

    def points_left(self) -> dict[str, list[str]]:
        """The reference points that were not there at first, by the name of their VM."""
        vms = self.lab.control.ask("state")["state"]["vms"]
        found = {}
        for vm in vms:
            old = self.before[vm["id"]]["points"]
            found[vm["name"]] = [p["id"] for p in vm["reference_points"] if p["id"] not in old]
        return {name: points for name, points in found.items() if points}

    def accept(self) -> None:
        """Take what others did to the host for how it was; our reference points are still ours."""
        ours = {point for points in self.points_left().values() for point in points}
        self.before = self.remembered()
        for kept in self.before.values():
            kept["points"] = [point for point in kept["points"] if point not in ours]

    def is_clean(self, *tracked: str) -> None:
        """See that the host is as it was, but for one reference point of ours on each VM that is tracked."""
        now = self.remembered()
        left = self.points_left()
        ours = {point for points in left.values() for point in points}
        for vm_id, kept in self.before.items():
            points = [point for point in now[vm_id]["points"] if point not in ours]
            assert {**now[vm_id], "points": points} == kept
        assert {name: len(points) for name, points in left.items()} == dict.fromkeys(tracked, 1)

    def truth(self, checkpoint: str) -> list[str]:
        """The lab's digests of the disks at a checkpoint."""
        lines = map(json.loads, Path(self.lab.facts["truth"]).read_text().splitlines())
        return sorted(each["sha256"] for each in lines if each["checkpoint"] == checkpoint)


class Host(HostState):
    """A repository in memory and a lab's host; every run is judged by what the lab says of itself."""

    def __init__(self, lab: Lab, found: Doors, clock: RunClock) -> None:
        super().__init__(lab)
        self.clock = clock
        self.doors = found
        base = make_repository(MemoryStore(clock), FakeClock(), chunk_size=64 << 10, pack_size=2 << 20)
        self.repository: Repository = reopen(base, clock=clock)

    # --- acting -------------------------------------------------------------------------------

    def take(
        self,
        name: str,
        *,
        store: Store | None = None,
        progress: Progress | None = None,
        limits: HoldLimits | None = None,
        files: HostFiles | None = None,
        told: Told | None = None,
        **wishes: Any,
    ) -> Outcome:
        """Take a restore point as a new process would."""
        self.clock.later(seconds=5)
        found = self.doors if files is None else replace(self.doors, files=files)
        seen = take_inventory(found.host)
        vm = seen.find(name).vm
        wish = HostWish(limits=limits or HoldLimits(free_floor=0), **wishes)
        with self.opened(store) as repository:
            return run_vm(
                replace(found, seen=seen),
                vm,
                wish,
                repository,
                self.clock,
                progress or Silent(),
                told=told or Told(),
            )

    def opened(self, store: Store | None = None) -> Repository:
        return reopen(self.repository, store, self.clock)

    # --- judging ------------------------------------------------------------------------------

    def is_clean(self, *tracked: str) -> None:
        super().is_clean(*tracked)
        left = self.points_left()
        for name in tracked:
            stored = self.repository_points(name)
            assert left[name] == [_guid(stored[-1]["reference_point"])]

    def repository_points(self, name: str) -> list[dict[str, Any]]:
        """The tracking records of a VM's points, oldest first."""
        repository = self.opened()
        vm_id = self.state(name)["id"].lower()
        named = sorted(repository.listing().of_vm(vm_id), key=lambda each: each.point.number)
        return [r for each in named for r in repository.points.attached("tracking", each.name)]

    def holds(self, sealed: SealedPoint) -> None:
        """See that a point gives back what the lab says its disks held at its checkpoint."""
        checkpoint = _guid(sealed.point.evidence["hold"]["checkpoint"])
        assert digests_of(restore(self.opened(), sealed)) == self.truth(checkpoint)

    def all_hold(self, count: int) -> None:
        """See that there are so many points, that each holds its truth, and that the repository is whole."""
        repository = self.opened()
        points = repository.listing().points
        assert len(points) == count
        for sealed in points:
            self.holds(sealed)
        problems = {p.object for p in check(repository, 1.0, Silent()).problems if not p.harmless}
        assert problems <= {"spec.md"}  # made without one

    def runs(self, name: str) -> list[list[Record]]:
        """The journals of a VM's runs, in the order they began."""
        found = read_runs(self.repository.store, self.repository.ring, self.state(name)["id"].lower())
        return sorted(found, key=lambda records: records[0].time)

    def all_closed(self, name: str) -> bool:
        """Tell whether nothing waits for a sweep."""
        return all(records[-1].step == FINISHED for records in self.runs(name))


def evidence_of(host: Host, outcome: Outcome) -> dict[str, Any]:
    """What was learned after the seal."""
    return host.opened().points.attached("evidence", outcome.sealed.name)[-1]


def says(error: VmkeepError) -> None:
    """See that an error is one sentence with a next step."""
    assert error.message.endswith("."), error.message
    assert error.hint


def digests_of(disks: dict[str, bytes]) -> list[str]:
    return sorted(hashlib.sha256(content).hexdigest() for content in disks.values())


@contextmanager
def host_of(lab: Lab, clock: RunClock | None = None, **facts: Any) -> Iterator[Host]:
    """Open a lab's host, its files as a mapped folder; ``facts`` say what differs from the lab's own."""
    clock = clock or RunClock()
    with doors({**lab.facts, **facts}, clock) as found:
        yield Host(lab, Doors("lab", found.host, found.files, lab.facts["name"]), clock)


@contextmanager
def shared_by(samba: Samba, lab: Lab, clock: RunClock, port: int | None = None) -> Iterator[HostFiles]:
    """Open the files of a lab that lies in a server's share over SMB, through ``port`` if one is given."""
    (place,) = lab.facts["paths"].values()
    below = Path(place.removeprefix("file://")).relative_to(samba.content)
    account = Credentials(samba.user, Secret(PASSWORD), auth="ntlm")
    paths = PathMap({"C:\\VMs": f"smb://127.0.0.1/C$/{below.as_posix()}"})
    with HostFiles("127.0.0.1", port or samba.port, account, paths, clock=clock) as files:
        yield files


def _kept(vm: dict[str, Any]) -> dict[str, Any]:
    return {
        "power": vm["power"],
        "checkpoints": sorted((c["id"], c["name"], c["parent"], *c["notes"]) for c in vm["checkpoints"]),
        "points": sorted(point["id"] for point in vm["reference_points"]),
        "merges": vm["merges"],
        "layers": {
            f"{d['controller']}:{d['location']}": sorted(x["path"] for x in d["layers"]) for d in vm["disks"]
        },
    }


def _guid(name: str) -> str:
    return name.removeprefix("Microsoft:").rpartition("\\")[2]
