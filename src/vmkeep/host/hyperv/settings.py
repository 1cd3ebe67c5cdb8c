"""Read a VM's settings and those of its checkpoints: Msvm_VirtualSystemSettingData in our words."""

import ntpath
from collections.abc import Mapping
from typing import Final, Literal

from vmkeep.host.wsman import Instance, Ref, ValueRefused
from vmkeep.model.facts import (
    CheckpointFacts,
    CheckpointKind,
    CheckpointSetting,
    ConfigurationFiles,
    DiskFacts,
)

# VirtualSystemType (hyperv-backup-api.md 1.2).
REALISED: Final = "Microsoft:Hyper-V:System:Realized"
RECOVERY_CHECKPOINT: Final = "Microsoft:Hyper-V:Snapshot:Recovery"
_PLANNED: Final = ("Microsoft:Hyper-V:System:Planned", "Microsoft:Hyper-V:Snapshot:Planned")
_USER_CHECKPOINT: Final = "Microsoft:Hyper-V:Snapshot:Realized"
_REPLICA: Final = "Microsoft:Hyper-V:Snapshot:Replica"
_ANY_CHECKPOINT: Final = "Microsoft:Hyper-V:Snapshot:"

_GENERATIONS: Final[Mapping[str, Literal[1, 2]]] = {
    "microsoft:hyper-v:subtype:1": 1,
    "microsoft:hyper-v:subtype:2": 2,
}
_CHECKPOINT_SETTINGS: Final[Mapping[int, CheckpointSetting]] = {
    2: "disabled",
    3: "production",
    4: "production_only",
    5: "standard",
}


def is_realised(settings: Instance) -> bool:
    """Tell whether these are the settings a VM has now."""
    return (settings.text_or_none("VirtualSystemType") or "").lower() == REALISED.lower()


def is_checkpoint(settings: Instance) -> bool:
    """Tell whether these are the settings of a checkpoint, of any kind."""
    return (settings.text_or_none("VirtualSystemType") or "").lower().startswith(_ANY_CHECKPOINT.lower())


def is_planned(settings: Instance) -> bool:
    """Tell whether these belong to a planned VM: one that is being imported, and runs from no disk yet."""
    system_type = (settings.text_or_none("VirtualSystemType") or "").lower()
    return system_type in (planned.lower() for planned in _PLANNED)


def checkpoint_of(
    settings: Instance, disks: tuple[DiskFacts, ...] = (), unread: tuple[str, ...] = ()
) -> CheckpointFacts:
    """Read a checkpoint."""
    return CheckpointFacts(
        id=settings.text("InstanceID"),
        vm_id=settings.text("VirtualSystemIdentifier").upper(),
        name=settings.text_or_none("ElementName") or "",
        kind=_kind_of(settings.text_or_none("VirtualSystemType") or ""),
        notes=settings.texts("Notes"),
        parent=parent_of(settings),
        created=settings.moment_or_none("CreationTime"),
        configuration=configuration_of(settings),
        disks=disks,
        unread_disks=unread,
    )


def _kind_of(system_type: str) -> CheckpointKind:
    folded = system_type.lower()
    if folded == RECOVERY_CHECKPOINT.lower():
        return "recovery"
    if folded == _USER_CHECKPOINT.lower():
        return "user"
    return "replica" if folded.startswith(_REPLICA.lower()) else "other"


def parent_of(settings: Instance) -> str | None:
    """Return the id of the checkpoint these settings stand on."""
    path = settings.text_or_none("Parent")
    return None if not path else instance_id(Ref.parse(path))


def instance_id(ref: Ref) -> str:
    """Return the InstanceID a reference points to. Raises ValueRefused for one that has none."""
    found = next((value for name, value in ref.keys.items() if name.lower() == "instanceid"), None)
    if not isinstance(found, str):
        raise ValueRefused(f"{ref} has no InstanceID.")
    return found


def guid_of(setting: str) -> str:
    """Return the GUID of ``Microsoft:GUID``, in capitals."""
    return setting.removeprefix("Microsoft:").upper()


def generation_of(settings: Instance) -> Literal[1, 2] | None:
    """Return the VM's generation."""
    return _GENERATIONS.get((settings.text_or_none("VirtualSystemSubType") or "").lower())


def checkpoint_setting_of(settings: Instance) -> CheckpointSetting | None:
    """Return which checkpoints the VM's owner wants; None before 2016 and for unknown numbers."""
    return _CHECKPOINT_SETTINGS.get(settings.integer_or_none("UserSnapshotType") or 0)


def configuration_of(settings: Instance) -> ConfigurationFiles | None:
    r"""Return where the configuration files lie: ``ROOT\Snapshots\GUID.vmcx`` and all of the same stem."""
    root, file = settings.text_or_none("ConfigurationDataRoot"), settings.text_or_none("ConfigurationFile")
    if not root or not file:
        return None
    folder, name = ntpath.split(ntpath.join(root, file))
    return ConfigurationFiles(folder, ntpath.splitext(name)[0])
