"""Join what a host lists into the facts of its VMs: rows in, facts out, nothing is asked."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

from vmkeep.host.hyperv import classes
from vmkeep.host.hyperv.guests import guest_facts
from vmkeep.host.hyperv.owners import Owner
from vmkeep.host.hyperv.placing import Placed
from vmkeep.host.hyperv.settings import (
    checkpoint_of,
    checkpoint_setting_of,
    configuration_of,
    generation_of,
    guid_of,
    instance_id,
    is_checkpoint,
    is_realised,
    parent_of,
)
from vmkeep.host.hyperv.states import component_state, operation_of, power_state_of, replication_facts
from vmkeep.host.hyperv.volumes import least_free, share_a_volume
from vmkeep.host.wsman import Instance, Ref
from vmkeep.model.facts import CheckpointFacts, ComponentState, VmFacts
from vmkeep.model.plan import VmRef

GUID: Final = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


@dataclass(frozen=True)
class Joined:
    """What was read of one VM or of many, by VM id in capitals; ``free`` bytes by mount point."""

    repository: str | None
    realised: Mapping[str, Instance]
    checkpoints: Mapping[str, tuple[CheckpointFacts, ...]]
    placed: Placed
    backup: Mapping[str, Instance]
    heartbeat: Mapping[str, Instance]
    replication: Mapping[str, tuple[int, ...]]
    applied: Mapping[str, str]
    free: Mapping[str, int]

    @classmethod
    def of(
        cls,
        repository: str | None,
        settings: Sequence[Instance],
        placed: Placed,
        *,
        backup: Iterable[Instance],
        heartbeat: Iterable[Instance],
        replication: Iterable[Instance],
        applied: Iterable[Instance],
        free: Mapping[str, int],
    ) -> Self:
        """Sort rows of their classes by VM; of one VM's rows only, the outcome is that VM's part of all."""
        return cls(
            repository=repository,
            realised={_vm_id(row): row for row in settings if is_realised(row)},
            checkpoints=_checkpoints_by_vm(settings, placed),
            placed=placed,
            backup=by_system(backup),
            heartbeat=by_system(heartbeat),
            replication=_replication_states(replication),
            applied=_last_applied(applied),
            free=free,
        )


def vm_facts(system: Instance, joined: Joined) -> VmFacts:
    """Return all that is known of a VM."""
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


def _component(row: Instance | None) -> ComponentState | None:
    if row is None:
        return None
    return component_state(row.integer_or_none("EnabledState"), row.integers("OperationalStatus"))


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


def by_system(rows: Iterable[Instance]) -> dict[str, Instance]:
    """Return the rows by the VM they are of."""
    return {row.text("SystemName").upper(): row for row in rows}


def _replication_states(rows: Iterable[Instance]) -> dict[str, tuple[int, ...]]:
    """Return the states of each VM's relationships; the VM is the first GUID of their ids (believed)."""
    found: dict[str, tuple[int, ...]] = defaultdict(tuple)
    for row in rows:
        vm_id, state = (
            GUID.search(row.text_or_none("InstanceID") or ""),
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


def _vm_id(settings: Instance) -> str:
    return settings.text("VirtualSystemIdentifier").upper()
