"""Turn checkpoints into reference points, the baselines of the next increment; read their RCT identifiers.

Reference points carry no owner: who removes one must have written down that it
made it. What may be repeated after a crash: everything; a conversion that
happened already is recognised by what was not there before it.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from vmkeep.host.hyperv.checkpoints import is_there, list_settings
from vmkeep.host.hyperv.classes import (
    CONVERT_CHECKPOINT,
    DESTROY_REFERENCE_POINT,
    REFERENCE_POINT,
    SETTINGS,
)
from vmkeep.host.hyperv.created import after_lost_answer, is_among, named_by_host
from vmkeep.host.hyperv.disks import slot_of
from vmkeep.host.hyperv.errors import CheckpointMissing, CheckpointUnidentified, HyperVError, OperationFailed
from vmkeep.host.hyperv.jobs import Done, Fate, HyperV, Kind, Outcome, outlast, perform
from vmkeep.host.hyperv.states import read_power_state
from vmkeep.host.wsman import ActionHappened, Instance, InstanceMissing, OutcomeUnknown, Ref, quoted
from vmkeep.model.facts import CheckpointFacts, DiskFacts


@dataclass(frozen=True)
class ReferencePoint:
    """One reference point; ``settings`` and ``rct_ids`` belong together pairwise, as the host lists them.

    ``consistency`` is the level that was reached: 1 application, 2 crash; None where the host does not tell.
    """

    id: str
    vm_id: str
    name: str
    consistency: int | None
    settings: tuple[str, ...]
    rct_ids: tuple[str, ...]


@dataclass(frozen=True)
class Tracking:
    """The RCT identifiers of a reference point by VirtualDiskId.

    ``untracked``: the slots of all other disks, and why they have none.
    """

    rct_ids: Mapping[str, str]
    untracked: Mapping[str, str] = field(default_factory=dict)


def list_reference_points(host: HyperV, vm_id: str) -> tuple[ReferencePoint, ...]:
    """List a VM's reference points, everybody's. Safe to repeat."""
    return tuple(_point_of(row) for row in _rows(host, vm_id))


def list_surely(host: HyperV, vm_id: str) -> tuple[ReferencePoint, ...]:
    """List a VM's reference points for somebody who concludes from what is not among them.

    Raises ListsIncomplete where the host does not even list the VM's own settings.
    """
    list_settings(host, vm_id)
    return list_reference_points(host, vm_id)


def convert_checkpoint(
    host: HyperV,
    checkpoint: CheckpointFacts,
    *,
    known_before: Collection[str],
    fate: Fate | None = None,
) -> ReferencePoint:
    """Turn a checkpoint into a reference point; the checkpoint goes, and its merge begins (:mod:`merging`).

    Only what the host names as made by this call is returned. Whether the checkpoint has
    gone the wait for that merge tells: the point's id must not be lost over it.
    ``known_before`` holds the ids of the VM's reference points before the call: write them
    down first. ``fate`` tells how far it came, whatever happens. Raises CheckpointMissing if the
    checkpoint is gone already, and the error the host's codes stand for; OutcomeUnknown,
    ActionHappened and CheckpointUnidentified where the host does not say what it has made.
    """
    if not is_there(host, checkpoint.vm_id, checkpoint.id):
        raise CheckpointMissing(f"the checkpoint {checkpoint.name!r} is gone.")
    arguments = {"AffectedSnapshot": SETTINGS.ref(checkpoint.id)}
    done = perform(host, CONVERT_CHECKPOINT, arguments, Kind.CONVERT, checkpoint.name, fate)
    if done.outcome is Outcome.VANISHED:
        raise OutcomeUnknown(
            f"the job that should convert {checkpoint.name!r} is gone; nobody knows its end."
        )
    point = _of_call(host, done, checkpoint.vm_id, known_before)
    if point is None:
        raise CheckpointUnidentified(f"the host does not say which point it made of {checkpoint.name!r}.")
    return point


def destroy_reference_point(host: HyperV, vm_id: str, point_id: str) -> bool:
    """Remove a reference point; False if it is not there. Safe to repeat.

    The ledger of the caller is the only proof that it is ours. That it is gone is believed
    of no answer but a list of what there is (:func:`list_surely`).
    """
    row = _find(host, vm_id, point_id)
    if row is None:
        return False
    arguments = {"AffectedReferencePoint": _ref_of(row)}
    there = OperationFailed(f"the host removed the reference point {point_id}, and it is still there.")
    try:
        perform(host, DESTROY_REFERENCE_POINT, arguments, Kind.DESTROY_REFERENCE_POINT, point_id)
    except (OutcomeUnknown, ActionHappened):
        _wait_until_gone(host, vm_id, point_id, there)
    except (HyperVError, InstanceMissing):
        if _find(host, vm_id, point_id) is not None:
            raise
    if _find(host, vm_id, point_id) is not None:
        raise there
    return True


def _wait_until_gone(host: HyperV, vm_id: str, point_id: str, there: OperationFailed) -> None:
    """Wait for the end of a removal whose answer was lost. Raises ``there`` if nothing comes of it."""
    after_lost_answer(
        host,
        lambda: read_power_state(host, vm_id).phase is not None,
        lambda: True if _find(host, vm_id, point_id) is None else None,
        Kind.DESTROY_REFERENCE_POINT.limit_s,
        there,
    )


def tracking_of(point: ReferencePoint, disks: Iterable[DiskFacts]) -> Tracking:
    """Map a reference point's RCT identifiers to the disks of its checkpoint, by VirtualDiskId.

    ``disks`` are the checkpoint's, with their VirtualDiskId. Lists of different
    lengths prove nothing about any disk; a disk that is listed twice, or without an
    identifier, is not tracked.
    """
    disks = tuple(disk for disk in disks if disk.kind != "passthrough")
    if len(point.settings) != len(point.rct_ids):
        lengths = f"the host lists {len(point.settings)} disks and {len(point.rct_ids)} RCT identifiers"
        return Tracking({}, {disk.slot: lengths for disk in disks})
    found: dict[str, str] = {}
    untracked: dict[str, str] = {}
    for disk in disks:
        ids = _ids_of(point, disk)
        twice = sum(other.disk_id == disk.disk_id for other in disks) > 1
        if disk.disk_id is None or twice:
            untracked[disk.slot] = "the disk has no VirtualDiskId of its own"
        elif len(ids) != 1:
            untracked[disk.slot] = f"the reference point lists {len(ids)} RCT identifiers for this disk"
        else:
            found[disk.disk_id] = ids[0]
    return Tracking(found, untracked)


def _ids_of(point: ReferencePoint, disk: DiskFacts) -> list[str]:
    """Return what a reference point holds for one disk: by the medium's InstanceID, else by its slot.

    Believed (docs/believed.md): whether VirtualDiskIdentifiers name the media of
    the checkpoint, which is gone by then, or of the VM, nobody wrote down; the
    part behind the first GUID is the same in both.
    """
    pairs = list(zip(point.settings, point.rct_ids, strict=True))
    exact = [rct for setting, rct in pairs if setting.lower() == disk.setting.lower()]
    same_slot = [rct for setting, rct in pairs if slot_of(setting) == disk.slot]
    return [rct for rct in exact or same_slot if rct.strip()]


def _rows(host: HyperV, vm_id: str) -> list[Instance]:
    where = f"VirtualSystemIdentifier = {quoted(vm_id)}"
    return outlast(host, lambda: list(REFERENCE_POINT.all(host.client, where)))


def _find(host: HyperV, vm_id: str, point_id: str) -> Instance | None:
    """Return the row of a point, None if it is surely not there. Raises ListsIncomplete."""

    def look() -> Instance | None:
        rows = _rows(host, vm_id)
        return next((row for row in rows if row.text("InstanceID").lower() == point_id.lower()), None)

    found = look()
    if found is None:
        list_settings(host, vm_id)
        found = look()
    return found


def _ref_of(row: Instance) -> Ref:
    return Ref.of(row, *REFERENCE_POINT.keys)


def _point_of(row: Instance) -> ReferencePoint:
    return ReferencePoint(
        id=row.text("InstanceID"),
        vm_id=row.text("VirtualSystemIdentifier").upper(),
        name=row.text_or_none("ElementName") or "",
        consistency=row.integer_or_none("ConsistencyLevel") or None,
        settings=row.texts("VirtualDiskIdentifiers"),
        rct_ids=row.texts("ResilientChangeTrackingIdentifiers"),
    )


def _of_call(host: HyperV, done: Done, vm_id: str, known_before: Collection[str]) -> ReferencePoint | None:
    """Return the point the call's own evidence names, if it is the VM's and was not there before."""
    for found in named_by_host(host, done, REFERENCE_POINT.name, "ResultingReferencePoint"):
        row = _find(host, vm_id, found)
        if row is not None and not is_among(found, known_before):
            return _point_of(row)
    return None
