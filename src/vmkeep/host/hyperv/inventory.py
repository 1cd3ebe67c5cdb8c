"""List a host's VMs with all that is cheap to know, in a number of requests that does not grow with the VMs.

Whole classes are read, with the properties that are needed, and joined here.
What costs much is asked for only about the VMs that are chosen: a disk's
VirtualDiskId and size (:func:`disks.with_details`, a request each), and what a
guest tells of itself (:func:`with_guests`, ten kilobytes each).
"""

import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from vmkeep.host.hyperv import classes
from vmkeep.host.hyperv.disks import DISK_DRIVES_ONLY, DISKS_ONLY, PASSTHROUGH_ONLY
from vmkeep.host.hyperv.errors import VmAmbiguous, VmNotFound
from vmkeep.host.hyperv.guests import exchange_items, guest_facts
from vmkeep.host.hyperv.jobs import HyperV, outlast
from vmkeep.host.hyperv.owners import Owner
from vmkeep.host.hyperv.placing import Placed, place
from vmkeep.host.hyperv.settings import (
    checkpoint_of,
    checkpoint_setting_of,
    configuration_of,
    generation_of,
    guid_of,
    instance_id,
    is_checkpoint,
    is_planned,
    is_realised,
    parent_of,
)
from vmkeep.host.hyperv.states import component_state, operation_of, power_state_of, replication_facts
from vmkeep.host.hyperv.volumes import free_bytes, least_free, share_a_volume
from vmkeep.host.wsman import HostError, HostFault, Instance, Ref, RightMissing, UnknownToHost, quoted
from vmkeep.model.facts import CheckpointFacts, ComponentState, Edition, HostFacts, VmFacts
from vmkeep.model.names import did_you_mean
from vmkeep.model.plan import VmRef

_log: Final = logging.getLogger(__name__)

_GUID: Final = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_NAMES_TOLD: Final = 5
_GUESTS_AT_ONCE: Final = 32  # about as many as fill an envelope
_EDITIONS: Final[Mapping[int, Edition]] = {1: "client", 2: "server", 3: "server"}  # Win32 ProductType


@dataclass(frozen=True)
class Inventory:
    """One host and its VMs, sorted by name.

    ``unanswered`` names the classes the host would not list, and why.
    ``unassigned`` names the media and pass-through drives of no known VM or
    checkpoint: a VM that may have one of them says so in ``unread_disks``.
    """

    host: HostFacts
    vms: tuple[VmFacts, ...]
    unanswered: Mapping[str, str] = field(default_factory=dict)
    unassigned: tuple[str, ...] = ()

    def find(self, text: str) -> VmFacts:
        """Return the VM of this id or name. Raises VmNotFound and VmAmbiguous."""
        by_id = [vm for vm in self.vms if vm.vm.id.lower() == text.lower()]
        found = by_id or [vm for vm in self.vms if vm.vm.is_called(text)]
        if not found:
            meant = did_you_mean(text, (vm.vm.name for vm in self.vms)) or f"; it has {self.some_names()}."
            raise VmNotFound(f"the host has no VM called {text!r}{meant}", name=text)
        if len(found) > 1:
            ids = ", ".join(vm.vm.id for vm in found)
            raise VmAmbiguous(f"{len(found)} VMs of the host are called {text!r}: {ids}.", name=text)
        return found[0]

    def some_names(self) -> str:
        """Return the names of the first VMs, for people."""
        names = ", ".join(repr(vm.vm.name) for vm in self.vms[:_NAMES_TOLD])
        return (names or "none") + (" and more" if len(self.vms) > _NAMES_TOLD else "")


def take_inventory(host: HyperV, *, repository: str | None = None) -> Inventory:
    """Ask a host for itself and all its VMs. Safe to repeat; nothing is changed.

    ``repository`` is the id whose recovery checkpoints are ours; without one, all
    of them are strangers'.
    """
    lists = _Lists(host)
    systems = [system for system in lists.rows(classes.COMPUTER_SYSTEM) if is_vm(system)]
    settings = lists.rows(classes.SETTINGS)
    placed = _placed(lists, systems, settings)
    joined = _Joined(
        repository=repository,
        realised={_vm_id(row): row for row in settings if is_realised(row)},
        checkpoints=_checkpoints_by_vm(settings, placed),
        placed=placed,
        backup=_by_system(lists.maybe(classes.BACKUP_COMPONENT)),
        heartbeat=_by_system(lists.maybe(classes.HEARTBEAT_COMPONENT)),
        replication=_replication_states(lists.maybe(classes.REPLICATION)),
        applied=_last_applied(lists.maybe(classes.LAST_APPLIED)),
        free=free_bytes(lists.maybe(classes.VOLUME), lambda: lists.maybe(classes.LOGICAL_DISK)),
    )
    vms = sorted((_vm_facts(system, joined) for system in systems), key=lambda vm: (vm.vm.name, vm.vm.id))
    facts = _host_facts(lists)
    unanswered = {name: str(error) for name, error in lists.unanswered.items()}
    return Inventory(facts, tuple(vms), unanswered, placed.unassigned)


def with_guests(host: HyperV, vms: Sequence[VmFacts]) -> tuple[VmFacts, ...]:
    """Return the VMs with what their guests tell of themselves; unchanged where the host will not say."""
    lists = _Lists(host)
    pairs: dict[str, dict[str, str]] = {}
    for start in range(0, len(vms), _GUESTS_AT_ONCE):
        batch = vms[start : start + _GUESTS_AT_ONCE]
        where = " OR ".join(f"SystemName = {quoted(vm.vm.id)}" for vm in batch)
        rows = _by_system(lists.maybe(classes.KVP_COMPONENT, where))
        pairs.update({vm_id: exchange_items(row) for vm_id, row in rows.items()})
    return tuple(
        replace(vm, guest=guest_facts(pairs.get(vm.vm.id, {}), vm.backup_component, vm.state)) for vm in vms
    )


def is_vm(system: Instance) -> bool:
    """Tell a VM from the host's own entry: a VM's Name is a GUID, the host's is its computer name.

    Captions are translated and tell nothing (hyperv-backup-api.md section 0, fact 6).
    The host's InstallDate is null, too; a VM without one stays a VM, lest it be left unprotected.
    """
    name = system.text("Name")
    if _GUID.fullmatch(name):
        return True
    if system.moment_or_none("InstallDate") is not None:
        _log.warning("the host lists %r, which was installed like a VM and has no GUID; it is left out", name)
    return False


class _Lists:
    """Read whole classes, and remember which the host would not list."""

    def __init__(self, host: HyperV) -> None:
        self._host = host
        self.unanswered: dict[str, HostError] = {}

    def rows(self, listed: classes.WmiClass, where: str = "") -> list[Instance]:
        """Return all instances; a host that cannot list these has no Hyper-V to speak of."""
        return outlast(self._host, lambda: list(listed.all(self._host.client, where)))

    def maybe(self, listed: classes.WmiClass, where: str = "") -> list[Instance]:
        """Return all instances of a class that a host may lack or keep to itself: unknown then, not wrong."""
        try:
            return self.rows(listed, where)
        except (UnknownToHost, RightMissing, HostFault) as error:
            _log.warning("the host does not list %s: %s", listed.name, error)
            self.unanswered[listed.name] = error
            return []


@dataclass(frozen=True)
class _Joined:
    """What was read, by VM id in capitals."""

    repository: str | None
    realised: Mapping[str, Instance]
    checkpoints: Mapping[str, tuple[CheckpointFacts, ...]]
    placed: Placed
    backup: Mapping[str, Instance]
    heartbeat: Mapping[str, Instance]
    replication: Mapping[str, tuple[int, ...]]
    applied: Mapping[str, str]
    free: Mapping[str, int]


def _vm_facts(system: Instance, joined: _Joined) -> VmFacts:
    vm_id = system.text("Name").upper()
    settings = joined.realised.get(vm_id)
    power = power_state_of(system)
    component = _component(joined.backup.get(vm_id))
    checkpoints = joined.checkpoints.get(vm_id, ())
    disks = joined.placed.disks.get(vm_id, ())
    paths = [disk.path for disk in disks if disk.path and disk.kind != "passthrough"]
    mode, state = system.integer_or_none("ReplicationMode"), system.integer_or_none("ReplicationState")
    facts = VmFacts(
        vm=VmRef(vm_id, system.text_or_none("ElementName") or vm_id),
        state=power.word,
        state_code=power.code,
        backup_component=component,
        heartbeat=_component(joined.heartbeat.get(vm_id)),
        guest=guest_facts({}, component, power.word),
        replication=replication_facts(
            mode, (*joined.replication.get(vm_id, ()), *((state,) if state else ()))
        ),
        disks=disks,
        unread_disks=joined.placed.unread.get(vm_id, ()),
        checkpoints=checkpoints,
        last_applied=joined.applied.get(vm_id),
        foreign_recovery_checkpoint=any(is_foreign(c, joined.repository) for c in checkpoints),
        operation_in_progress=operation_of(power.phase),
        phase_code=power.phase,
        free_bytes_for_growth=least_free(paths, joined.free),
    )
    return facts if settings is None else _with_settings(facts, settings, paths, joined.free)


def _with_settings(
    facts: VmFacts, settings: Instance, paths: Iterable[str], free: Mapping[str, int]
) -> VmFacts:
    root = settings.text_or_none("SnapshotDataRoot")
    return replace(
        facts,
        generation=generation_of(settings),
        configuration_version=settings.text_or_none("Version"),
        checkpoint_setting=checkpoint_setting_of(settings),
        checkpoint_files_on_same_volume=share_a_volume([root] if root else [], paths, free),
        parent=parent_of(settings),
        configuration=configuration_of(settings),
        setting=settings.text("InstanceID"),
    )


def is_foreign(checkpoint: CheckpointFacts, repository: str | None) -> bool:
    """Tell whether a recovery checkpoint belongs to somebody else than a run of this repository."""
    owner = Owner.of(checkpoint.name)
    return checkpoint.kind == "recovery" and (owner is None or owner.repository != repository)


def _host_facts(lists: _Lists) -> HostFacts:
    clusters = lists.maybe(classes.CLUSTER_NAME)
    refusal = lists.unanswered.get(classes.CLUSTER_NAME.name)
    if isinstance(refusal, UnknownToHost):  # no such namespace: the host has no clustering
        del lists.unanswered[classes.CLUSTER_NAME.name]
    clustered = None if classes.CLUSTER_NAME.name in lists.unanswered else bool(clusters)
    systems = lists.maybe(classes.OPERATING_SYSTEM)
    if not systems:
        return HostFacts(clustered=clustered)
    system = systems[0]
    build = system.text_or_none("BuildNumber") or ""
    return HostFacts(
        name=system.text_or_none("CSName"),
        build=int(build) if build.isascii() and build.isdigit() and len(build) < 10 else None,
        edition=_EDITIONS.get(system.integer_or_none("ProductType") or 0),
        clustered=clustered,
        now=system.moment_or_none("LocalDateTime"),
        booted=system.moment_or_none("LastBootUpTime"),
    )


def _component(row: Instance | None) -> ComponentState | None:
    if row is None:
        return None
    return component_state(row.integer_or_none("EnabledState"), row.integers("OperationalStatus"))


def _vm_id(settings: Instance) -> str:
    return settings.text("VirtualSystemIdentifier").upper()


def _placed(lists: _Lists, systems: Iterable[Instance], settings: Sequence[Instance]) -> Placed:
    """List all media and pass-through drives, and give each to its VM or checkpoint."""
    vms = {system.text("Name").upper() for system in systems}
    media, passthrough = (
        lists.rows(classes.MEDIUM, DISKS_ONLY),
        lists.rows(classes.DRIVE, PASSTHROUGH_ONLY),
    )

    def place_among(known: Sequence[Instance]) -> Placed:
        return place(
            media,
            passthrough,
            owners=vms | {guid_of(row.text("InstanceID")) for row in known if is_checkpoint(row)},
            planned={guid_of(row.text("InstanceID")) for row in known if is_planned(row)},
            drives=lambda: lists.rows(classes.DRIVE, DISK_DRIVES_ONLY),
        )

    placed = place_among(settings)
    if placed.unassigned:  # perhaps of a checkpoint that was made after the settings were listed
        placed = place_among((*settings, *lists.rows(classes.SETTINGS)))
    if placed.unassigned:
        _log.warning("%d media or drives of the host belong to no VM that is known", len(placed.unassigned))
    return placed


def _checkpoints_by_vm(
    settings: Iterable[Instance], placed: Placed
) -> dict[str, tuple[CheckpointFacts, ...]]:
    """Return each VM's checkpoints with their disks, oldest first."""
    found: dict[str, list[CheckpointFacts]] = defaultdict(list)
    for row in settings:
        if is_checkpoint(row):
            guid = guid_of(row.text("InstanceID"))
            disks, unread = placed.disks.get(guid, ()), placed.unread.get(guid, ())
            found[_vm_id(row)].append(checkpoint_of(row, disks, unread))
    return {vm_id: tuple(sorted(all_of, key=_age)) for vm_id, all_of in found.items()}


def _age(checkpoint: CheckpointFacts) -> tuple[bool, float, str]:
    created = checkpoint.created
    return (created is None, created.timestamp() if created else 0.0, checkpoint.id)


def _by_system(rows: Iterable[Instance]) -> dict[str, Instance]:
    return {row.text("SystemName").upper(): row for row in rows}


def _replication_states(rows: Iterable[Instance]) -> dict[str, tuple[int, ...]]:
    """Return the states of each VM's relationships; the VM is the first GUID of their ids (believed)."""
    found: dict[str, tuple[int, ...]] = defaultdict(tuple)
    for row in rows:
        vm_id, state = (
            _GUID.search(row.text_or_none("InstanceID") or ""),
            row.integer_or_none("ReplicationState"),
        )
        if vm_id and state is not None:
            found[vm_id[0].upper()] += (state,)
    return found


def _last_applied(rows: Iterable[Instance]) -> dict[str, str]:
    """Return the checkpoint each VM was last reverted to; which end is the VM its class tells."""
    found: dict[str, str] = {}
    for row in rows:
        ends = (row.ref("Antecedent"), row.ref("Dependent"))
        systems = [end for end in ends if end.class_name.lower() == classes.COMPUTER_SYSTEM.name.lower()]
        settings = [end for end in ends if end.class_name.lower() == classes.SETTINGS.name.lower()]
        if len(systems) == 1 and len(settings) == 1:
            found[_name_of(systems[0])] = instance_id(settings[0])
    return found


def _name_of(system: Ref) -> str:
    found = next((value for name, value in system.keys.items() if name.lower() == "name"), "")
    return found.upper() if isinstance(found, str) else ""
