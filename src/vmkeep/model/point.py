"""A restore point: our complete image of one VM at one moment, as stored data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from vmkeep.model.consistency import Consistency, Reason
from vmkeep.model.plan import VmRef


@dataclass(frozen=True)
class StoredDisk:
    """One disk of a restore point: where its map starts and what else a guest could notice.

    Sizes in bytes. ``root`` is None for a disk of zeros; with ``size`` it
    proves the content. ``excluded`` holds (offset, length, reason).
    """

    name: str
    size: int
    root: bytes | None
    format: str
    kind: str
    logical_sector: int
    physical_sector: int
    block_size: int | None
    disk_id: str | None
    source: str
    excluded: tuple[tuple[int, int, str], ...] = ()


@dataclass(frozen=True)
class StoredFile:
    """One file of the VM that is no disk: configuration, memory; ``name`` is relative with ``/``."""

    name: str
    role: str
    size: int
    root: bytes | None


@dataclass(frozen=True)
class Claim:
    """What was asked about consistency, what was promised, what was proven by then, and why not better.

    ``got`` is what was proven when the manifest was written: what a host confirms after the
    seal comes on top (:meth:`Points.consistency_of`). The name is the format's.
    """

    asked: str
    promised: Consistency
    got: Consistency
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True)
class RestorePoint:
    """The manifest of a restore point; ``docs/format.md`` section 8 describes each field."""

    id: str
    run: str
    vm: VmRef
    number: int
    previous: tuple[str, bytes] | None
    parent: str | None
    time: datetime
    finished: datetime
    source: str
    method: str
    consistency: Claim
    disks: tuple[StoredDisk, ...]
    files: tuple[StoredFile, ...]
    bytes_read: int
    bytes_stored: int
    inventory: str
    program: str
    evidence: Mapping[str, Any] = field(default_factory=dict)

    @property
    def mapped(self) -> "tuple[StoredDisk | StoredFile, ...]":
        """Everything of the point that has a map: disks, then files."""
        return (*self.disks, *self.files)
