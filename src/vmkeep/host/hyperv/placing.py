"""Give each medium and drive to the VM or checkpoint it belongs to, and tell which could not be placed.

A disk that belongs to nobody would be missing in a restore point without a
word. So each row is placed, is of a kind that is known to be no VM's disk, or is
told: to whoever reads the inventory, and in the facts of the VM that has it or
may have it.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from vmkeep.host.hyperv.classes import MEDIUM
from vmkeep.host.hyperv.disks import (
    DISKS_ONLY,
    disks_of,
    is_passthrough,
    owner_of,
    read_drives,
    read_media,
    slot_of,
)
from vmkeep.host.hyperv.jobs import HyperV, outlast
from vmkeep.host.hyperv.settings import instance_id
from vmkeep.host.wsman import Instance, Ref, ValueRefused
from vmkeep.model.facts import DiskFacts

# What a new disk may be, not a disk (learn.microsoft.com, hyperv_v2, Msvm_ResourceAllocationSettingData,
# PoolID; InstanceIDs of this form are in public recordings). No other form counts as harmless.
_TEMPLATE: Final = re.compile(
    r"Microsoft:Definition\\[0-9A-F]{8}(?:-[0-9A-F]{4}){3}-[0-9A-F]{12}\\(?:Maximum|Minimum|Default|Increment)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Placed:
    """The disks of each VM and checkpoint, by the GUID of its settings in capitals, and what is left.

    ``unread`` says, by the same GUIDs, whose the media may be that stand in ``unassigned``.
    """

    disks: Mapping[str, tuple[DiskFacts, ...]]
    unread: Mapping[str, tuple[str, ...]]
    unassigned: tuple[str, ...]


def place(
    media: Sequence[Instance],
    passthrough: Sequence[Instance],
    owners: Collection[str],
    planned: Collection[str],
    drives: Callable[[], Iterable[Instance]],
) -> Placed:
    """Place all media and pass-through drives of a host.

    ``owners`` are the GUIDs of VMs and checkpoints, ``planned`` those of VMs that are
    being imported: their disks are nobody's yet. ``drives`` lists the drives for
    virtual disks; asked only if there is a medium that nothing else assigns.
    """
    by_owner = disks_of(media, passthrough)
    unread: dict[str, list[str]] = defaultdict(list)
    unassigned, homeless = [], []
    for row in (*media, *passthrough):
        setting = row.text("InstanceID")
        owner = owner_of(setting)
        if owner in owners or owner in planned or is_template(setting):
            continue
        unassigned.append(_told(row))
        holder = owner_of(parent_of(row))
        if holder in owners:
            unread[holder].append(_told(row))
        elif holder not in planned:
            homeless.append(_told(row))
    if homeless:
        for owner, drive in empty_drives(drives(), by_owner):
            if owner in owners:
                unread[owner].append(f"{drive}: may hold {' or '.join(homeless)}")
    return Placed(
        {owner: disks for owner, disks in by_owner.items() if owner in owners},
        {owner: tuple(told) for owner, told in unread.items()},
        tuple(unassigned),
    )


def read_placed(host: HyperV, owner: str) -> tuple[tuple[DiskFacts, ...], tuple[str, ...]]:
    """Ask for the disks of one VM or checkpoint, and for media that may be its and are not among them.

    ``owner`` is the GUID of its settings. Media are asked for by their ids; where a
    drive seems empty, the one it holds is looked for among the parents of all media.
    Two requests, and a listing of the host where a drive is empty. Safe to repeat.
    """
    media, drives = read_media(host, owner), read_drives(host, owner)
    disks = disks_of(media, filter(is_passthrough, drives)).get(owner.upper(), ())
    return disks, _unread(host, owner, disks, drives)


def _unread(
    host: HyperV, owner: str, disks: tuple[DiskFacts, ...], drives: Iterable[Instance]
) -> tuple[str, ...]:
    empty = {drive.upper() for _, drive in empty_drives(drives, {owner.upper(): disks})}
    if not empty:
        return ()
    found = {disk.setting.upper() for disk in disks}
    media = outlast(host, lambda: list(MEDIUM.all(host.client, DISKS_ONLY)))
    return tuple(
        _told(row)
        for row in media
        if row.text("InstanceID").upper() not in found
        and (parent_of(row).upper() in empty or _is_nobodys(row))
    )


def is_template(setting: str) -> bool:
    """Tell whether an InstanceID names one of the host's own templates."""
    return _TEMPLATE.fullmatch(setting) is not None


def parent_of(row: Instance) -> str:
    """Return the InstanceID of the drive that holds a medium, or of a drive's controller; empty if none.

    ``Parent`` is an object path (hyperv-backup-api.md 1.3).
    """
    path = row.text_or_none("Parent")
    try:
        return instance_id(Ref.parse(path)) if path else ""
    except ValueRefused:
        return ""


def _is_nobodys(row: Instance) -> bool:
    """Tell a medium whose id and parent name no settings: it may be in any drive that seems empty."""
    setting = row.text("InstanceID")
    return not owner_of(setting) and not owner_of(parent_of(row)) and not is_template(setting)


def empty_drives(
    drives: Iterable[Instance], disks: Mapping[str, tuple[DiskFacts, ...]]
) -> Iterable[tuple[str, str]]:
    """Yield owner and InstanceID of each drive for virtual disks in whose slot no disk is known."""
    slots = {owner: {disk.slot for disk in of_owner} for owner, of_owner in disks.items()}
    for drive in drives:
        setting = drive.text("InstanceID")
        if slot_of(setting) not in slots.get(owner_of(setting), ()):
            yield owner_of(setting), setting


def _told(row: Instance) -> str:
    return f"{row.text('InstanceID')} ({next(iter(row.texts('HostResource')), 'no file')})"
