"""List a host's VMs with all that is cheap to know, in a number of requests that does not grow with the VMs.

Whole classes are read, with the properties that are needed, and joined (:mod:`joining`).
The same of one VM alone: :mod:`one_vm`.
What costs much is asked for only about the VMs that are chosen: a disk's
VirtualDiskId and size (:func:`disks.with_details`, a request each), and what a
guest tells of itself (:func:`with_guests`, ten kilobytes each).
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from vmkeep.host.hyperv import classes
from vmkeep.host.hyperv.disks import DISK_DRIVES_ONLY, DISKS_ONLY, PASSTHROUGH_ONLY
from vmkeep.host.hyperv.errors import VmAmbiguous, VmNotFound
from vmkeep.host.hyperv.guests import exchange_items, guest_facts
from vmkeep.host.hyperv.jobs import HyperV, outlast
from vmkeep.host.hyperv.joining import GUID, Joined, by_system, vm_facts
from vmkeep.host.hyperv.placing import Placed, place
from vmkeep.host.hyperv.settings import guid_of, is_checkpoint, is_planned
from vmkeep.host.hyperv.volumes import free_bytes
from vmkeep.host.wsman import HostError, HostFault, Instance, RightMissing, UnknownToHost, quoted
from vmkeep.model.facts import Edition, HostFacts, VmFacts
from vmkeep.model.names import did_you_mean

_log: Final = logging.getLogger(__name__)

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
            raise self._missing(text)
        if len(found) > 1:
            ids = ", ".join(vm.vm.id for vm in found)
            raise VmAmbiguous(f"{len(found)} VMs of the host are called {text!r}: {ids}.", name=text)
        return found[0]

    def of(self, vm_id: str) -> VmFacts:
        """Return the VM of this id, whatever others are called. Raises VmNotFound."""
        found = next((vm for vm in self.vms if vm.vm.id == vm_id.upper()), None)
        if found is None:
            raise self._missing(vm_id)
        return found

    def some_names(self) -> str:
        """Return the names of the first VMs, for people."""
        names = ", ".join(repr(vm.vm.name) for vm in self.vms[:_NAMES_TOLD])
        return (names or "none") + (" and more" if len(self.vms) > _NAMES_TOLD else "")

    def _missing(self, text: str) -> VmNotFound:
        meant = did_you_mean(text, (vm.vm.name for vm in self.vms)) or f"; it has {self.some_names()}."
        return VmNotFound(f"the host has no VM called {text!r}{meant}", name=text)


def take_inventory(host: HyperV, *, repository: str | None = None) -> Inventory:
    """Ask a host for itself and all its VMs. Safe to repeat; nothing is changed.

    ``repository`` is the id whose recovery checkpoints are ours; without one, all
    of them are strangers'.
    """
    lists = Lists(host)
    systems = [system for system in lists.rows(classes.COMPUTER_SYSTEM) if is_vm(system)]
    settings = lists.rows(classes.SETTINGS)
    placed = _placed(lists, systems, settings)
    joined = Joined.of(
        repository,
        settings,
        placed,
        backup=lists.maybe(classes.BACKUP_COMPONENT),
        heartbeat=lists.maybe(classes.HEARTBEAT_COMPONENT),
        replication=lists.maybe(classes.REPLICATION),
        applied=lists.maybe(classes.LAST_APPLIED),
        free=free_bytes(lists.maybe(classes.VOLUME), lambda: lists.maybe(classes.LOGICAL_DISK)),
    )
    vms = sorted((vm_facts(system, joined) for system in systems), key=lambda vm: (vm.vm.name, vm.vm.id))
    facts = _host_facts(lists)
    unanswered = {name: str(error) for name, error in lists.unanswered.items()}
    return Inventory(facts, tuple(vms), unanswered, placed.unassigned)


def with_guests(host: HyperV, vms: Sequence[VmFacts]) -> tuple[VmFacts, ...]:
    """Return the VMs with what their guests tell of themselves; unchanged where the host will not say."""
    lists = Lists(host)
    pairs: dict[str, dict[str, str]] = {}
    for start in range(0, len(vms), _GUESTS_AT_ONCE):
        batch = vms[start : start + _GUESTS_AT_ONCE]
        where = " OR ".join(f"SystemName = {quoted(vm.vm.id)}" for vm in batch)
        rows = by_system(lists.maybe(classes.KVP_COMPONENT, where))
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
    if GUID.fullmatch(name):
        return True
    if system.moment_or_none("InstallDate") is not None:
        # No passing trouble: should it be a VM, nobody protects it.
        _log.error("the host lists %r, which was installed like a VM and has no GUID; it is left out.", name)
    return False


class Lists:
    """Read classes, whole or in part, and remember which the host would not list."""

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


def _host_facts(lists: Lists) -> HostFacts:
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


def _placed(lists: Lists, systems: Iterable[Instance], settings: Sequence[Instance]) -> Placed:
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
