"""What a test needs to capture VMs of a lab in another process: doors, a journal in a file, a quick clock."""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from vmkeep.capture.checkpoint import CheckpointHold, hold_vm
from vmkeep.capture.limits import HoldLimits
from vmkeep.formats.disk import Disk
from vmkeep.host.files.host_files import HostFiles
from vmkeep.host.files.paths import PathMap
from vmkeep.host.hyperv import (
    HyperV,
    Owner,
    Waiting,
    is_foreign,
    list_recovery_checkpoints,
    list_reference_points,
    read_power_state,
    take_inventory,
)
from vmkeep.host.wsman import Client, Endpoint
from vmkeep.model.facts import VmFacts
from vmkeep.planner.tracking import TrackingRecord
from vmkeep.ranges import ByteRange
from vmkeep.secrets import Secret

OWNER = Owner("0123456789abcdef", "fedcba9876543210")
_PIECE = 1 << 20


MANY: Final = 1000
"""More often than anybody tries again."""


class QuickClock:
    """Real time in which a pause costs a part of itself, and counts as the whole."""

    def __init__(self, speed: float = 20.0) -> None:
        self._speed = speed
        self._skipped = 0.0

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic() + self._skipped

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds / self._speed)
        self.push(seconds - seconds / self._speed)

    def push(self, seconds: float) -> None:
        self._skipped += seconds


class NotedJournal:
    """A journal in memory, and in a file for those who come later."""

    def __init__(self, path: Path | None = None) -> None:
        self.records: list[tuple[str, Mapping[str, Any]]] = []
        self.renewed = 0
        self._path = path

    def step(self, name: str, detail: Mapping[str, Any]) -> None:
        line = json.dumps([name, detail])  # what is no JSON would fail in the real one, too
        if self._path is not None:
            with self._path.open("a") as out:
                out.write(line + "\n")
        self.records.append((name, json.loads(line)[1]))

    def renew(self) -> None:
        self.renewed += 1

    @property
    def steps(self) -> list[str]:
        return [name for name, _ in self.records]


def noted(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """Read the records a dead process left."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [(name, detail) for name, detail in map(json.loads, lines)]


@dataclass
class Doors:
    """One host of the lab, as capture sees it; ``facts`` are what the lab said of itself."""

    facts: Mapping[str, Any]
    host: HyperV
    files: HostFiles
    clock: QuickClock
    journal: NotedJournal = field(default_factory=NotedJournal)

    def vm(self, name: str) -> VmFacts:
        """Facts of the VM; the first, where two have the name."""
        vms = take_inventory(self.host, repository=OWNER.repository).vms
        return next(vm for vm in vms if name in (vm.vm.name, vm.vm.id))

    def hold(
        self,
        name: str,
        *,
        consistency: Literal[1, 2] = 2,
        previous: TrackingRecord | None = None,
        limits: HoldLimits | None = None,
        skip_other_disks: bool = False,
    ) -> CheckpointHold:
        return hold_vm(
            self.host,
            self.files,
            self.vm(name),
            consistency,
            "copy",
            OWNER,
            self.journal,
            self.clock,
            previous,
            limits or HoldLimits(free_floor=0),
            replaces=previous.reference_point if previous is not None else None,
            skip_other_disks=skip_other_disks,
        )

    def strangers(self) -> set[tuple[str, ...]]:
        """Everything of others, and every VM's power state: what no run may change."""
        found: set[tuple[str, ...]] = set()
        for vm in take_inventory(self.host, repository=OWNER.repository).vms:
            vm_id = vm.vm.id
            found.add((vm_id, str(read_power_state(self.host, vm_id).code)))
            found |= {(vm_id, c.id, c.name) for c in vm.checkpoints if Owner.of(c.name) is None}
            found |= {(vm_id, point.id) for point in list_reference_points(self.host, vm_id)}
        return found

    def ours(self) -> list[str]:
        """The recovery checkpoints of any run of our repository, and unmarked ones of nobody."""
        vms = take_inventory(self.host).vms
        listed = [c for vm in vms for c in list_recovery_checkpoints(self.host, vm.vm.id)]
        return [c.name for c in listed if not is_foreign(c, OWNER.repository)]

    def truth(self, checkpoint_id: str) -> dict[str, str]:
        """The lab's SHA-256 of each disk at a checkpoint, by VirtualDiskId."""
        lines = map(json.loads, Path(self.facts["truth"]).read_text().splitlines())
        wanted = checkpoint_id.removeprefix("Microsoft:")
        return {each["disk_id"]: each["sha256"] for each in lines if each["checkpoint"] == wanted}


def is_under_way(waiting: Waiting, what: str) -> bool:
    """Tell whether the host is at work: each call is also announced before it is made, with no percentage."""
    return waiting.what.startswith(what) and waiting.percent is not None


@contextmanager
def doors(facts: Mapping[str, Any], clock: QuickClock | None = None) -> Iterator[Doors]:
    """Open a host of the lab: its wire, and its files as a mapped folder."""
    clock = clock or QuickClock()
    endpoint = Endpoint(
        address=facts["address"],
        user=facts["user"],
        password=Secret(Path(facts["password_file"]).read_text().strip()),
        transport=facts["transport"],
        port=facts["port"],
        auth=facts["auth"],
    )
    with (
        Client(endpoint, clock) as client,
        HostFiles(facts["address"], 445, None, PathMap(facts["paths"])) as files,
    ):
        yield Doors(facts, HyperV(client, clock), files, clock)


def sha256_of(disk: Disk) -> str:
    """Hash all the bytes a guest sees."""
    digest = hashlib.sha256()
    for offset in range(0, disk.profile.size, _PIECE):
        digest.update(disk.read_at(offset, min(_PIECE, disk.profile.size - offset)))
    return digest.hexdigest()


def image_of(disk: Disk, ranges: list[ByteRange] | None = None, base: bytearray | None = None) -> bytearray:
    """Copy ranges of a disk over an older image, or its extents over zeros."""
    image = bytearray(disk.profile.size) if base is None else bytearray(base)
    for found in list(disk.extents()) if ranges is None else ranges:
        image[found.offset : found.end] = disk.read_at(found.offset, found.length)
    return image
