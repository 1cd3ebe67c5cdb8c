"""Everything a host remembers, as records that go to a JSON file and come back the same.

Paths are the host's own (``C:\\VMs\\...``). Ids are GUIDs in upper case, as Hyper-V writes them.
"""

import hashlib
import json
import os
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from vmkeep_lab.host.codes import CheckpointKind, CheckpointSetting, Consistency, Power, Status
from vmkeep_lab.host.records import plain, read


@dataclass
class Layer:
    """One file of a disk's tree: its path, and the file below it (empty for the base)."""

    path: str
    below: str = ""


@dataclass
class Disk:
    """A drive's medium. ``leaf`` is the file that the VM writes; ``layers`` are all files of the tree.

    ``writes`` counts what the guest has done to it. A passthrough disk has a ``leaf`` (the host's physical
    disk) and no files. ``image`` names what it was made with, and so where its guest writes; empty for
    no file system.
    """

    controller: int
    location: int
    disk_id: str
    size: int
    leaf: str
    kind: str = "vhdx"
    fixed: bool = False
    used: int = 0
    seed: int = 0
    layers: list[Layer] = field(default_factory=list)
    writes: int = 0
    image: str = ""

    @property
    def slot(self) -> str:
        """Return what tells the drive from the VM's others."""
        return f"{self.controller}:{self.location}"

    @property
    def is_file(self) -> bool:
        """Tell whether the disk is a file that a checkpoint can freeze."""
        return self.kind == "vhdx"


@dataclass
class Frozen:
    """What a checkpoint holds of one disk: the frozen file, and the RCT id of the instant.

    The id stays hidden until the checkpoint is converted (fact 9); empty where nothing is tracked.
    """

    path: str
    rct_id: str = ""


@dataclass
class Checkpoint:
    """A checkpoint; ``disks`` by slot. ``parent`` is the checkpoint below it, empty for none."""

    id: str
    name: str
    kind: CheckpointKind
    created: datetime
    consistency: Consistency
    disks: dict[str, Frozen]
    parent: str = ""
    notes: list[str] = field(default_factory=list)
    has_memory: bool = False


@dataclass
class ReferencePoint:
    """A baseline for changed ranges: RCT ids by slot; ``slots`` has the disks without RCT, too."""

    id: str
    created: datetime
    consistency: Consistency
    rct_ids: dict[str, str]
    slots: list[str]


@dataclass
class Merge:
    """A merge that is owed: ``child`` into ``parent``. ``attempts`` failed so far."""

    slot: str
    child: str
    parent: str
    attempts: int = 0


@dataclass
class Guest:
    """What runs inside a VM, and how well its integration services answer.

    ``writer_failed``: a VSS writer in the guest fails now. ``counter_leaked``: one failed since vmicvss
    last cleared its counter (report R3).
    """

    family: str = "windows"
    name: str = "Windows Server 2022 Datacenter"
    version: str = "10.0.20348"
    vss: Status = Status.OK
    vss_enabled: bool = True
    writer_failed: bool = False
    counter_leaked: bool = False
    heartbeat: Status = Status.OK


@dataclass
class Vm:
    """A VM. ``now`` is the checkpoint that the running state stands on, empty for none."""

    id: str
    name: str
    folder: str
    generation: int
    version: str
    power: Power
    created: datetime
    changed: datetime
    guest: Guest
    disks: list[Disk]
    setting: CheckpointSetting = CheckpointSetting.PRODUCTION
    checkpoints: list[Checkpoint] = field(default_factory=list)
    reference_points: list[ReferencePoint] = field(default_factory=list)
    now: str = ""
    merges: list[Merge] = field(default_factory=list)
    merging_enabled: bool = True
    replication: int = 0
    replication_state: int = 0
    notes: list[str] = field(default_factory=list)
    memory_mb: int = 1024
    processors: int = 2
    writes_per_second: float = 0.0
    state_changed: datetime | None = None

    def checkpoint(self, checkpoint_id: str) -> Checkpoint | None:
        """Return a checkpoint by id, or None."""
        return next((each for each in self.checkpoints if each.id == checkpoint_id), None)

    def disk(self, slot: str) -> Disk:
        """Return the disk in a slot; KeyError where there is none."""
        for each in self.disks:
            if each.slot == slot:
                return each
        raise KeyError(slot)

    @property
    def file_disks(self) -> list[Disk]:
        """Return the disks that are files, the ones a checkpoint holds."""
        return [each for each in self.disks if each.is_file]

    @property
    def has_tracking(self) -> bool:
        """Tell whether the configuration version knows RCT (section 1.2: 6.2 and later)."""
        return tuple(int(part) for part in self.version.split(".")) >= (6, 2)


@dataclass
class Event:
    """An entry of an event log."""

    number: int
    channel: str
    source: str
    code: int
    time: datetime
    text: str
    vm_id: str = ""
    level: int = 1


@dataclass
class HostState:
    """The host: what it is, what lives on it, and what it logged."""

    name: str
    build: int
    edition: str
    locale: str
    schema: str
    seed: int
    booted: datetime
    scenario: str
    vms: list[Vm] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    issued_ids: int = 0
    is_complete: bool = False

    def vm(self, vm_id: str) -> Vm | None:
        """Return a VM by id, in any case, or None."""
        return next((each for each in self.vms if each.id == vm_id.upper()), None)

    def new_id(self) -> str:
        """Return a GUID that this host never gave before; the same seed gives the same row of them."""
        self.issued_ids += 1
        return numbered_id(f"{self.name}/{self.seed}/{self.issued_ids}")


def numbered_id(text: str) -> str:
    """Return the GUID that a text stands for, in upper case, shaped like a random one."""
    digest = hashlib.sha256(text.encode()).digest()
    return str(uuid.UUID(bytes=digest[:16], version=4)).upper()


STATE_FILE: Final = "host.json"


def load(folder: Path) -> HostState | None:
    """Read the host that a folder holds, or None where it holds none yet."""
    try:
        text = (folder / STATE_FILE).read_text("utf-8")
    except FileNotFoundError:
        return None
    return read(HostState, json.loads(text))


def save(folder: Path, state: HostState) -> None:
    """Write the host so that a lab killed at any moment finds the old one or the new one."""
    unfinished = folder / f"{STATE_FILE}.new"
    unfinished.write_text(json.dumps(plain(state)), "utf-8")
    os.replace(unfinished, folder / STATE_FILE)
