"""Decide whether a host's change tracking may be trusted for a disk (RCT), or all of it must be read.

RCT answers questions it should refuse: after a VM went back to a checkpoint it
lists too little. So what was recorded with the last restore point is compared with
what is found now, and any difference, and anything unknown, means reading everything.
The tree of checkpoints is that of the time before our own checkpoint is made:
while it exists it stands in the tree itself, and as the one last applied.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from vmkeep.model.consistency import Reason
from vmkeep.model.facts import DiskFacts, VmFacts

_EFFECT: Final = "All of the disk is read; what differs is stored."
_NO_FIX: Final = "Nothing: the next run can use change tracking again if nothing else happens."


@dataclass(frozen=True)
class TrackedVm:
    """What of a VM must not have changed; None is unknown.

    ``tree`` holds (checkpoint, its parent or empty) in the order of the ids.
    ``last_applied`` is empty where there is no checkpoint that could be it.
    """

    tree: tuple[tuple[str, str], ...] | None
    last_applied: str | None
    configuration_version: str | None
    replication: str | None

    @classmethod
    def of(cls, vm: VmFacts) -> Self:
        """Take it from the facts of a moment at which no checkpoint of ours exists."""
        tree = tuple(sorted((checkpoint.id, checkpoint.parent or "") for checkpoint in vm.checkpoints))
        nothing_to_apply = None if tree else ""
        return cls(tree, vm.last_applied or nothing_to_apply, vm.configuration_version, vm.replication.mode)


@dataclass(frozen=True)
class TrackedDisk:
    """What of a disk must not have changed, and the RCT identifier to count from; None is unknown."""

    disk_id: str | None
    size: int | None
    path: str | None
    rct_id: str | None = None

    @classmethod
    def of(cls, disk: DiskFacts) -> Self:
        """Take it from a disk of the frozen checkpoint; its path is the file the VM wrote to until then."""
        return cls(disk.disk_id, disk.virtual_size, disk.path)


@dataclass(frozen=True)
class TrackingRecord:
    """What is stored with a restore point so that the next one can read changed ranges only."""

    reference_point: str
    vm: TrackedVm
    disks: tuple[TrackedDisk, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON's own types."""
        fields = asdict(self)
        tree = self.vm.tree
        fields["vm"]["tree"] = None if tree is None else [list(pair) for pair in tree]
        return {**fields, "disks": list(fields["disks"])}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote. Raises ValueError for anything else."""
        try:
            vm = fields["vm"]
            tree = vm["tree"]
            return cls(
                _text(fields["reference_point"]),
                TrackedVm(
                    None if tree is None else tuple((_text(own), _text(parent)) for own, parent in tree),
                    *(_maybe(vm[key]) for key in ("last_applied", "configuration_version", "replication")),
                ),
                tuple(_disk(disk) for disk in fields["disks"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a record of change tracking: {error!r}") from error


def why_not_tracked(previous: TrackingRecord | None, vm: TrackedVm, disk: TrackedDisk) -> Reason | None:
    """Return why all of a disk must be read, or None if RCT may be asked with the recorded identifier."""
    if previous is None:
        return read_all("rct-no-baseline", "No earlier restore point left change tracking behind.")
    before = recorded(previous, disk)
    if before is None:
        return read_all("rct-disk-unknown", "The disk was not part of the last restore point's tracking.")
    if before.rct_id is None:
        return read_all("rct-not-tracked", "The host gave no RCT identifier for the disk last time.")
    for code, look, what in _RULES:
        was, now = look(previous.vm, before), look(vm, disk)
        if was is None or now is None:
            return read_all(code, f"{what} is not known, so nobody can tell whether it is what it was.")
        if was != now:
            return read_all(code, f"{what} is not what it was: {_short(was)} then, {_short(now)} now.")
    return None


def recorded(previous: TrackingRecord, disk: TrackedDisk) -> TrackedDisk | None:
    """Return what was recorded of the disk with this identifier; None if no or more than one disk had it."""
    same = [each for each in previous.disks if each.disk_id is not None and each.disk_id == disk.disk_id]
    return same[0] if len(same) == 1 else None


def read_all(code: str, fact: str, fix: str = _NO_FIX) -> Reason:
    """Say why all of a disk is read."""
    return Reason(code, fact, _EFFECT, fix)


_Look = Callable[[TrackedVm, TrackedDisk], object]
_RULES: Final[Sequence[tuple[str, _Look, str]]] = (
    ("rct-disk-size", lambda vm, disk: disk.size, "The size of the disk"),
    ("rct-disk-path", lambda vm, disk: disk.path, "The file of the disk"),
    ("rct-checkpoint-tree", lambda vm, disk: vm.tree, "The VM's tree of checkpoints"),
    ("rct-last-applied", lambda vm, disk: vm.last_applied, "The checkpoint the VM was last taken back to"),
    ("rct-version", lambda vm, disk: vm.configuration_version, "The VM's configuration version"),
    ("rct-replication", lambda vm, disk: vm.replication, "The VM's part in a replication"),
)


def _short(value: object) -> str:
    return f"{len(value)} checkpoints" if isinstance(value, tuple) else repr(value)


def _disk(fields: Mapping[str, Any]) -> TrackedDisk:
    size = fields["size"]
    if size is not None and (not isinstance(size, int) or isinstance(size, bool)):
        raise TypeError(f"{size!r} is no size")
    disk_id, path, rct_id = (_maybe(fields[key]) for key in ("disk_id", "path", "rct_id"))
    return TrackedDisk(disk_id, size, path, rct_id)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _maybe(value: object) -> str | None:
    return None if value is None else _text(value)
