"""Read the facts of one VM by its id: what an inventory says of it, for the price of this VM alone.

Each class is asked for the rows that carry the VM's id, or that of one of its
checkpoints. What no id leads to is a medium in a drive of the VM whose own id has
no known form (:mod:`placing`): only a list of the whole host shows it. So what an
inventory found of that before stays, and a VM with a drive that seems empty is
looked up in a new inventory.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from vmkeep.host.hyperv import classes
from vmkeep.host.hyperv.disks import DISKS_ONLY, DRIVES_ONLY, disks_of, is_passthrough, of_any_owner
from vmkeep.host.hyperv.errors import VmNotFound
from vmkeep.host.hyperv.inventory import Inventory, Lists, take_inventory
from vmkeep.host.hyperv.jobs import HyperV, outlast
from vmkeep.host.hyperv.joining import Joined, vm_facts
from vmkeep.host.hyperv.placing import Placed, empty_drives
from vmkeep.host.hyperv.settings import guid_of, is_checkpoint
from vmkeep.host.hyperv.states import replication_facts, vm_ref
from vmkeep.host.hyperv.volumes import free_bytes
from vmkeep.host.wsman import HostFault, Instance, InstanceMissing, RightMissing, UnknownToHost, quoted
from vmkeep.model.facts import VmFacts

_OWNERS_AT_ONCE: Final = 32  # of a condition's clauses; Hyper-V allows 50 checkpoints of a VM


def read_vm(host: HyperV, vm_id: str, seen: Inventory, *, repository: str | None = None) -> VmFacts:
    """Ask for one VM as :func:`inventory.take_inventory` does for all. Safe to repeat; nothing is changed.

    ``seen`` is an inventory of this host, however old: all that is taken from it is
    which media nobody could place. About ten requests, two more for each 32
    checkpoints, whatever else the host has. Raises VmNotFound if it has gone.
    """
    lists = Lists(host)
    systems = lists.rows(classes.COMPUTER_SYSTEM, f"Name = {quoted(vm_id)}")
    if not systems:
        raise VmNotFound(f"the host has no VM {vm_id} any more.", name=vm_id)
    settings = lists.rows(classes.SETTINGS, f"VirtualSystemIdentifier = {quoted(vm_id)}")
    placed = _placed(lists, vm_id, settings, seen)
    if placed is None:
        return take_inventory(host, repository=repository).of(vm_id)
    of_vm = f"SystemName = {quoted(vm_id)}"
    joined = Joined.of(
        repository,
        settings,
        placed,
        backup=lists.maybe(classes.BACKUP_COMPONENT, of_vm),
        heartbeat=lists.maybe(classes.HEARTBEAT_COMPONENT, of_vm),
        replication=_replication(lists, systems[0], vm_id),
        applied=_applied(host, lists, vm_id),
        free=free_bytes(lists.maybe(classes.VOLUME), lambda: lists.maybe(classes.LOGICAL_DISK)),
    )
    return vm_facts(systems[0], joined)


def _placed(lists: Lists, vm_id: str, settings: Sequence[Instance], seen: Inventory) -> Placed | None:
    """Return the disks of a VM and its checkpoints; None if a drive of theirs may hold what nobody placed."""
    ids = [row.text("InstanceID") for row in settings if is_checkpoint(row)]
    owners = [vm_id.upper(), *map(guid_of, ids)]
    media, drives = [], []
    for mine in _conditions(owners):
        media += lists.rows(classes.MEDIUM, f"{mine} AND {DISKS_ONLY}")
        drives += lists.rows(classes.DRIVE, f"{mine} AND {DRIVES_ONLY}")
    disks = disks_of(media, filter(is_passthrough, drives))
    if any(empty_drives(drives, disks)):
        return None
    return Placed(disks, _unread_before(vm_id, seen), ())


def _conditions(owners: Sequence[str]) -> Iterator[str]:
    for start in range(0, len(owners), _OWNERS_AT_ONCE):
        yield of_any_owner(owners[start : start + _OWNERS_AT_ONCE])


def _unread_before(vm_id: str, seen: Inventory) -> dict[str, tuple[str, ...]]:
    """Return what an inventory told of media that may be a VM's, by the GUIDs of its settings."""
    known = [vm for vm in seen.vms if vm.vm.id == vm_id.upper()]
    of_vm = {vm.vm.id: vm.unread_disks for vm in known}
    return of_vm | {guid_of(each.id): each.unread_disks for vm in known for each in vm.checkpoints}


def _replication(lists: Lists, system: Instance, vm_id: str) -> list[Instance]:
    """Return the relationships of a VM, and perhaps others'; none of a VM that says it has no part in any."""
    if replication_facts(system.integer_or_none("ReplicationMode"), ()).mode == "none":
        return []
    return lists.maybe(classes.REPLICATION, f"InstanceID LIKE {quoted(f'%{vm_id}%')}")


def _applied(host: HyperV, lists: Lists, vm_id: str) -> list[Instance]:
    """Return what says which checkpoint a VM was last reverted to; of all VMs if the host will not pick.

    Believed (docs/believed.md): a host answers REFERENCES OF as it does ASSOCIATORS OF.
    """
    try:
        return outlast(host, lambda: list(host.client.references(vm_ref(vm_id), classes.LAST_APPLIED.name)))
    except (InstanceMissing, UnknownToHost, RightMissing, HostFault):
        return lists.maybe(classes.LAST_APPLIED)
