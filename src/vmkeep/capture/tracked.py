"""Ask the host what changed on each frozen disk, where its tracking may be trusted, and say why not."""

from collections.abc import Iterable
from dataclasses import replace

from vmkeep.capture.host_chain import FrozenDisk
from vmkeep.host.hyperv import (
    ChangesUnknown,
    HyperV,
    HyperVError,
    ReferencePoint,
    TrackingLost,
    changed_ranges,
    list_reference_points,
    tracking_of,
)
from vmkeep.host.wsman import HostError
from vmkeep.model.consistency import Reason
from vmkeep.planner.tracking import (
    TrackedDisk,
    TrackedVm,
    TrackingRecord,
    read_all,
    recorded,
    why_not_tracked,
)


def with_changes(
    host: HyperV,
    vm_id: str,
    disks: Iterable[FrozenDisk],
    vm: TrackedVm,
    previous: TrackingRecord | None,
) -> tuple[FrozenDisk, ...]:
    """Return the disks with what changed on each, or the reason why all of it must be read.

    A host that fails to answer costs time, never the run. A host that does not list
    the reference point is not the one that made it, or has lost it: a copy of a VM on
    another host has the same ids, and tracking of its own.
    """
    if previous is not None:
        why = _why_no_point(host, vm_id, previous)
        if why is not None:
            return tuple(replace(disk, why_all=why) for disk in disks)
    return tuple(_with_changes(host, disk, vm, previous) for disk in disks)


def _why_no_point(host: HyperV, vm_id: str, previous: TrackingRecord) -> Reason | None:
    try:
        listed = {point.id.lower() for point in list_reference_points(host, vm_id)}
    except (HyperVError, HostError) as error:
        return _reason(error)
    if previous.reference_point.lower() in listed:
        return None
    return read_all(
        "rct-point-gone",
        "This host does not list the reference point that the last restore point's tracking rests on.",
    )


def _with_changes(
    host: HyperV, disk: FrozenDisk, vm: TrackedVm, previous: TrackingRecord | None
) -> FrozenDisk:
    tracked = _tracked(disk)
    why = why_not_tracked(previous, vm, tracked)
    before = recorded(previous, tracked) if previous is not None else None
    if why is not None or before is None or before.rct_id is None or disk.facts.path is None:
        return replace(disk, why_all=why)
    try:
        size = disk.disk.profile.size
        return replace(disk, changed=tuple(changed_ranges(host, disk.facts.path, before.rct_id, size)))
    except (HyperVError, HostError) as error:
        return replace(disk, why_all=_reason(error))


def _tracked(disk: FrozenDisk) -> TrackedDisk:
    """Take what must not have changed; a size that host and file do not agree on is unknown."""
    found = TrackedDisk.of(disk.facts)
    return found if found.size == disk.disk.profile.size else replace(found, size=None)


def _reason(error: HyperVError | HostError) -> Reason:
    if isinstance(error, TrackingLost):
        code, fact = "rct-lost", "The host does not know the recorded RCT identifier any more"
    elif isinstance(error, ChangesUnknown):
        code, fact = "rct-unknown", "The host cannot list what changed"
    else:
        code, fact = "rct-unanswered", "The host failed to list what changed"
    return read_all(code, f"{fact} ({error.code}): {error.message}")


def record_of(point: ReferencePoint, vm: TrackedVm, disks: Iterable[FrozenDisk]) -> TrackingRecord:
    """Return what the next run needs to ask for the changes since this one."""
    disks = tuple(disks)
    rct_ids = tracking_of(point, [disk.facts for disk in disks]).rct_ids
    tracked = (replace(_tracked(d), rct_id=rct_ids.get(d.facts.disk_id or "")) for d in disks)
    return TrackingRecord(point.id, vm, tuple(tracked))
