"""Make, mark, list and remove recovery checkpoints, of which only ours are ever touched.

What may be repeated after a crash: everything but :func:`create_checkpoint`,
which always makes another one; after a crash around it, :func:`list_unmarked`
lists what it may have left. Marking a marked checkpoint and removing a removed one do nothing.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, Literal

from vmkeep.host.hyperv.classes import (
    CHECKPOINT_SETTINGS,
    CREATE_CHECKPOINT,
    DESTROY_CHECKPOINT,
    MODIFY_SETTINGS,
    NAME_AND_NOTES,
    RECOVERY,
    SETTINGS,
)
from vmkeep.host.hyperv.created import is_among, named_by_host
from vmkeep.host.hyperv.errors import (
    CheckpointMissing,
    CheckpointsDisabled,
    CheckpointUnidentified,
    HyperVError,
    ListsIncomplete,
    NotOurs,
    OperationFailed,
    SettingIgnored,
    VmBusy,
)
from vmkeep.host.hyperv.jobs import Fate, HyperV, Kind, Outcome, outlast, pauses, perform
from vmkeep.host.hyperv.owners import Owner
from vmkeep.host.hyperv.placing import read_placed
from vmkeep.host.hyperv.settings import (
    REALISED,
    RECOVERY_CHECKPOINT,
    checkpoint_of,
    checkpoint_setting_of,
    guid_of,
)
from vmkeep.host.hyperv.states import is_gone, obstacle_of, read_power_state, vm_ref
from vmkeep.host.wsman import (
    ActionHappened,
    Argument,
    EmbeddedInstance,
    HostError,
    Instance,
    InstanceMissing,
    OutcomeUnknown,
    quoted,
)
from vmkeep.model.facts import CheckpointFacts

APPLICATION: Final = 1
CRASH: Final = 2
_GUEST_BACKUP: Final = {"full": 1, "copy": 2}
_UNTIL_GONE_S: Final = 60.0


@dataclass(frozen=True)
class CheckpointWish:
    """What a recovery checkpoint should be like.

    ``consistency``: 1, the guest's VSS or daemon brings it to rest; 2, it does
    not notice. ``guest_backup`` full lets the guest's applications truncate
    their logs. ``skip_other_disks`` takes the checkpoint although disks of the VM
    cannot be part of it (pass-through); they are left out then.
    """

    consistency: Literal[1, 2]
    guest_backup: Literal["copy", "full"] = "copy"
    skip_other_disks: bool = False


def list_recovery_checkpoints(host: HyperV, vm_id: str) -> tuple[CheckpointFacts, ...]:
    """List a VM's recovery checkpoints, everybody's, without their disks. Safe to repeat.

    Raises ListsIncomplete where the list proves nothing.
    """
    rows = list_settings(host, vm_id)
    return tuple(checkpoint_of(row) for row in rows if row.text("VirtualSystemType") == RECOVERY_CHECKPOINT)


def read_checkpoint(host: HyperV, vm_id: str, checkpoint_id: str) -> CheckpointFacts:
    """Read one checkpoint with its disks, whose paths are the frozen files. Raises CheckpointMissing."""
    return _read(host, vm_id, checkpoint_id, with_disks=True)


def is_there(host: HyperV, vm_id: str, checkpoint_id: str) -> bool:
    """Tell whether a checkpoint still exists. Safe to repeat. Raises ListsIncomplete."""
    return _find(host, vm_id, checkpoint_id) is not None


def list_settings(host: HyperV, vm_id: str) -> list[Instance]:
    """List the settings of a VM and of its checkpoints; none if the VM is gone (:func:`is_gone`).

    Raises ListsIncomplete where its own are not among them: then nothing can be told from what is not.
    """
    where = f"VirtualSystemIdentifier = {quoted(vm_id)}"
    rows = outlast(host, lambda: list(SETTINGS.all(host.client, where)))
    if not any(row.text("VirtualSystemType") == REALISED for row in rows) and not is_gone(host, vm_id):
        raise ListsIncomplete("the host does not list the settings of the VM, and not that it is gone.")
    return rows


def _find(host: HyperV, vm_id: str, checkpoint_id: str) -> Instance | None:
    """Read the settings of a checkpoint; one answer that there are none is not believed."""
    try:
        return outlast(host, lambda: host.client.get(SETTINGS.ref(checkpoint_id)))
    except InstanceMissing:
        rows = list_settings(host, vm_id)
        return next((row for row in rows if is_among(row.text("InstanceID"), [checkpoint_id])), None)


def create_checkpoint(
    host: HyperV,
    vm_id: str,
    wish: CheckpointWish,
    *,
    known_before: Collection[str],
    name: str | None = None,
    fate: Fate | None = None,
) -> CheckpointFacts:
    """Make a recovery checkpoint and return it with its disks, not yet marked as ours.

    Only what the host names as made by this call is returned. ``name`` is what people
    call the VM. ``known_before`` holds the ids of the VM's recovery checkpoints before
    the call: write them down first. ``fate`` tells how far it came, whatever happens. Never repeat
    it without looking, but after HostBusy and HostUnreachable that know of no job: then
    nothing was asked. Raises the error the host's codes stand for, CheckpointsDisabled,
    JobOverdue; OutcomeUnknown, ActionHappened and CheckpointUnidentified where the host
    does not say what it has made: :func:`list_unmarked` lists what that may be.
    """
    settings = EmbeddedInstance(
        CHECKPOINT_SETTINGS,
        {
            "ConsistencyLevel": wish.consistency,
            "GuestBackupType": _GUEST_BACKUP[wish.guest_backup],
            "IgnoreNonSnapshottableDisks": wish.skip_other_disks,
        },
    )
    arguments: dict[str, Argument] = {
        "AffectedSystem": vm_ref(vm_id),
        "SnapshotSettings": settings,
        "SnapshotType": RECOVERY,
    }
    called = f"VM {vm_id}" if name is None else f"the VM {name!r} ({vm_id.lower()})"
    try:
        done = perform(host, CREATE_CHECKPOINT, arguments, Kind.CREATE, called, fate)
    except HyperVError as error:
        raise _refined(host, vm_id, error) from error
    if done.outcome is Outcome.VANISHED:
        raise OutcomeUnknown(
            f"the job that should make a checkpoint of {called} is gone; nobody knows its end."
        )
    for found in named_by_host(host, done, SETTINGS.name, "ResultingSnapshot"):
        checkpoint = _read(host, vm_id, found, with_disks=True)
        if _is_new(checkpoint, vm_id, known_before):
            return checkpoint
    raise CheckpointUnidentified(f"the host made a checkpoint of {called} and does not say which.")


def list_unmarked(host: HyperV, vm_id: str, *, known_before: Collection[str]) -> tuple[CheckpointFacts, ...]:
    """List the recovery checkpoints that were not there before, and bear nobody's mark and no notes.

    A call of ours may have made one of them and another program the others: none of them
    is anybody's by that alone. Safe to repeat.
    """
    return tuple(
        checkpoint
        for checkpoint in list_recovery_checkpoints(host, vm_id)
        if not is_among(checkpoint.id, known_before)
        and Owner.of(checkpoint.name) is None
        and not checkpoint.notes
    )


def mark_checkpoint(host: HyperV, checkpoint: CheckpointFacts, owner: Owner) -> CheckpointFacts:
    """Name a checkpoint as ours, with notes that say how it goes away, and read both back.

    Safe to repeat. Raises NotOurs if it meanwhile has another name than
    ``checkpoint``, and SettingIgnored if the name did not stick.
    """
    now = _read(host, checkpoint.vm_id, checkpoint.id)
    if now.name == owner.name:
        return _with_disks_of(now, checkpoint)
    if now.name != checkpoint.name or now.kind != "recovery":
        raise NotOurs(f"checkpoint {checkpoint.id} is now called {now.name!r}, not {checkpoint.name!r}.")
    wanted = EmbeddedInstance(
        NAME_AND_NOTES, {"InstanceID": now.id, "ElementName": owner.name, "Notes": owner.notes}
    )
    try:
        perform(host, MODIFY_SETTINGS, {"SystemSettings": wanted}, Kind.MODIFY, checkpoint.id)
    except (OutcomeUnknown, ActionHappened):
        pass  # whether it ran is read below
    marked = _read(host, checkpoint.vm_id, checkpoint.id)
    if marked.name != owner.name:
        raise SettingIgnored(
            f"checkpoint {checkpoint.id} was to be called {owner.name!r}, and is {marked.name!r}."
        )
    return _with_disks_of(marked, checkpoint)


class Went(Enum):
    """How a checkpoint went that was to be removed."""

    BY_US = "by our call, as the host says"
    PERHAPS_BY_US = "after a call of ours whose answer says nothing"
    OTHERWISE = "before any call of ours that may have run"


def destroy_checkpoint(host: HyperV, checkpoint: CheckpointFacts, fate: Fate | None = None) -> Went:
    """Remove a recovery checkpoint and wait until it is gone; its merge goes on (:mod:`merging`).

    Safe to repeat. ``checkpoint`` is the one that was judged to be ours: raises NotOurs
    if name or kind are no longer those. ``fate`` tells, whatever is raised, whether the call may have run.
    """
    fate = fate or Fate()
    try:
        now = _read(host, checkpoint.vm_id, checkpoint.id)
    except CheckpointMissing:
        return Went.OTHERWISE
    if (now.name, now.kind, now.vm_id) != (checkpoint.name, "recovery", checkpoint.vm_id):
        raise NotOurs(
            f"checkpoint {checkpoint.id} is now called {now.name!r} ({now.kind}), "
            f"not {checkpoint.name!r} (recovery)."
        )
    arguments = {"AffectedSnapshot": SETTINGS.ref(now.id)}
    try:
        perform(host, DESTROY_CHECKPOINT, arguments, Kind.DESTROY, now.name, fate)
    except (OutcomeUnknown, ActionHappened):
        pass  # whether it ran is read below
    except (HyperVError, InstanceMissing):
        if is_there(host, now.vm_id, now.id):
            raise
    else:
        _wait_until_gone(host, now)
        return Went.BY_US
    _wait_until_gone(host, now)
    return Went.PERHAPS_BY_US if fate.may_have_run else Went.OTHERWISE


def _wait_until_gone(host: HyperV, checkpoint: CheckpointFacts) -> None:
    """Wait until a checkpoint that is being removed is no longer listed.

    Raises OperationFailed if the VM is at rest and the checkpoint is still there.
    """
    quiet_since: float | None = None
    for waited in pauses(host.clock, Kind.DESTROY.limit_s):
        if not is_there(host, checkpoint.vm_id, checkpoint.id):
            return
        if read_power_state(host, checkpoint.vm_id).phase is not None:
            quiet_since = None
            continue
        quiet_since = waited if quiet_since is None else quiet_since
        if waited - quiet_since >= _UNTIL_GONE_S:
            break
    raise OperationFailed(f"the host removed the checkpoint {checkpoint.name!r}, and it is still there.")


def _read(host: HyperV, vm_id: str, checkpoint_id: str, *, with_disks: bool = False) -> CheckpointFacts:
    row = _find(host, vm_id, checkpoint_id)
    if row is None:
        raise CheckpointMissing(f"the checkpoint {checkpoint_id} is not there any more.")
    if not with_disks:
        return checkpoint_of(row)
    return checkpoint_of(row, *read_placed(host, guid_of(checkpoint_id)))


def _with_disks_of(checkpoint: CheckpointFacts, other: CheckpointFacts) -> CheckpointFacts:
    return replace(checkpoint, disks=other.disks, unread_disks=other.unread_disks)


def _is_new(checkpoint: CheckpointFacts, vm_id: str, known_before: Collection[str]) -> bool:
    is_its = checkpoint.kind == "recovery" and checkpoint.vm_id == vm_id.upper()
    return is_its and not is_among(checkpoint.id, known_before)


def _refined(host: HyperV, vm_id: str, error: HyperVError) -> HyperVError:
    """Say more than the host's code does, where the state of the VM explains it: disabled, or busy."""
    where = f"VirtualSystemIdentifier = {quoted(vm_id)} AND VirtualSystemType = {quoted(REALISED)}"
    try:
        settings = list(SETTINGS.all(host.client, where))
        system = host.client.get(vm_ref(vm_id))
    except HostError:  # the refusal itself says more than these questions
        return error
    if any(checkpoint_setting_of(row) == "disabled" for row in settings):
        disabled = CheckpointsDisabled(f"{error.message.rstrip('.')}; checkpoints are disabled.")
        return disabled.with_facts_of(error)
    # A conflict comes as a plain failure, too (hyperv-backup-api.md 2.6).
    if type(error) is OperationFailed and (obstacle := obstacle_of(system)):
        return VmBusy(f"{error.message.rstrip('.')}; {obstacle} is under way.").with_facts_of(error)
    return error
