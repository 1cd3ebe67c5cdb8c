"""Turn drives and media into disks: where attached, which file, which kind; and read one file's settings."""

import ntpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from vmkeep.host.hyperv.classes import DRIVE, MEDIUM, READ_DISK_SETTINGS
from vmkeep.host.hyperv.errors import OperationFailed
from vmkeep.host.hyperv.jobs import HyperV, Kind, outlast, perform
from vmkeep.host.wsman import Instance, quoted
from vmkeep.host.wsman.properties import Properties
from vmkeep.model.facts import DiskFacts, DiskKind

_PASSTHROUGH: Final = "Microsoft:Hyper-V:Physical Disk Drive"
_NO_DISKS: Final = ("Microsoft:Hyper-V:Virtual CD/DVD Disk", "Microsoft:Hyper-V:Virtual Floppy Disk")

# WQL conditions. A medium of a kind nobody knows is a disk until proved otherwise: none is left out silently.
PASSTHROUGH_ONLY: Final = f"ResourceSubType = {quoted(_PASSTHROUGH)}"
_DISK_DRIVE: Final = quoted("Microsoft:Hyper-V:Synthetic Disk Drive")
DISK_DRIVES_ONLY: Final = f"ResourceSubType = {_DISK_DRIVE}"
DRIVES_ONLY: Final = f"({PASSTHROUGH_ONLY} OR {DISK_DRIVES_ONLY})"
DISKS_ONLY: Final = " AND ".join(f"ResourceSubType <> {quoted(kind)}" for kind in _NO_DISKS)

FileFormat = Literal["vhd", "vhdx", "vhd_set"]
FileType = Literal["fixed", "dynamic", "differencing"]

_KINDS: Final[Mapping[str, DiskKind]] = {
    ".vhdx": "vhdx",
    ".avhdx": "vhdx",
    ".vhd": "vhd",
    ".avhd": "vhd",
    ".vhds": "vhd_set",
}
_GUID: Final = r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
_SETTING: Final = re.compile(rf"Microsoft:({_GUID})(?:\\(.*))?", re.DOTALL | re.IGNORECASE)
_PLACE: Final = re.compile(rf"({_GUID}\\\d+\\\d+)(?:\\[DL])?", re.IGNORECASE)
_SLOT: Final = re.compile(rf"({_GUID})\\(\d+)\\(\d+)")
# Every generation 1 VM has its two IDE controllers under this id (believed, docs/believed.md).
_IDE: Final = "83F8638B-8DCA-4152-9EDA-2CA8B33039B4"


_FORMATS: Final[Mapping[int, FileFormat]] = {2: "vhd", 3: "vhdx", 4: "vhd_set"}
_TYPES: Final[Mapping[int, FileType]] = {2: "fixed", 3: "dynamic", 4: "differencing"}


@dataclass(frozen=True)
class DiskFile:
    """What the host says about one disk file: identity, size and sectors in bytes, its parent in a chain."""

    path: str
    disk_id: str | None
    virtual_size: int
    format: FileFormat | None
    type: FileType | None
    block_size: int | None
    logical_sector: int | None
    physical_sector: int | None
    parent_path: str | None


def slot_of(setting: str) -> str:
    r"""Return the part of an InstanceID that names the place: the same in a VM and its checkpoints.

    Believed (docs/believed.md): ``Microsoft:SETTINGS\CONTROLLER\NUMBER\LOCATION\L``,
    where SETTINGS is the VM's or the checkpoint's id and the rest stays. In
    capitals, as WMI compares without case. Of another form, all behind SETTINGS is
    the slot, and without SETTINGS the whole id.
    """
    found = _SETTING.fullmatch(setting)
    rest = (found[2] if found else None) or setting
    place = _PLACE.fullmatch(rest)
    return (place[1] if place else rest).upper()


def owner_of(setting: str) -> str:
    r"""Return the id of the VM or checkpoint whose settings an InstanceID belongs to; empty if none.

    Documented: ``Microsoft:GUID\DEVICE`` for what belongs to a VM (learn.microsoft.com,
    hyperv_v2, the setting data classes, PoolID), whatever DEVICE is.
    """
    found = _SETTING.fullmatch(setting)
    return found[1].upper() if found else ""


def disks_of(media: Iterable[Instance], passthrough: Iterable[Instance]) -> dict[str, tuple[DiskFacts, ...]]:
    """Group media and pass-through drives into the disks of each VM and checkpoint, by its id in capitals.

    A drive without a medium holds no disk. Sorted by slot.
    """
    found: dict[str, list[DiskFacts]] = {}
    for medium in media:
        disk = _virtual_disk(medium)
        found.setdefault(owner_of(disk.setting), []).append(disk)
    for drive in passthrough:
        setting = drive.text("InstanceID")
        path = next(iter(drive.texts("HostResource")), None)
        disk = DiskFacts(slot_of(setting), "", setting, "passthrough", path)
        found.setdefault(owner_of(setting), []).append(disk)
    return {owner: _labelled(disks) for owner, disks in found.items()}


def read_files(host: HyperV, owner: str) -> dict[str, str]:
    """Ask for the disk files of one VM or checkpoint, by slot. Safe to repeat."""
    disks = disks_of(read_media(host, owner), ()).get(owner.upper(), ())
    return {disk.slot: disk.path for disk in disks if disk.path}


def read_drives(host: HyperV, owner: str) -> list[Instance]:
    """Ask for the drives of one VM or checkpoint that hold virtual or physical disks. Safe to repeat."""
    return outlast(host, lambda: list(DRIVE.all(host.client, f"{of_owner(owner)} AND {DRIVES_ONLY}")))


def is_passthrough(drive: Instance) -> bool:
    """Tell a drive that is a physical disk of the host."""
    return (drive.text_or_none("ResourceSubType") or "").lower() == _PASSTHROUGH.lower()


def read_media(host: HyperV, owner: str) -> list[Instance]:
    """Ask for the media of one VM or checkpoint that are disks. Safe to repeat."""
    return outlast(host, lambda: list(MEDIUM.all(host.client, f"{of_owner(owner)} AND {DISKS_ONLY}")))


def of_owner(owner: str) -> str:
    """Return the WQL condition for what belongs to one VM or checkpoint."""
    # A GUID holds neither of LIKE's signs, and what begins with it belongs to these settings.
    return f"InstanceID LIKE {quoted(f'Microsoft:{owner}%')}"


def of_any_owner(owners: Iterable[str]) -> str:
    """Return the WQL condition for what belongs to any of these VMs and checkpoints."""
    return f"({' OR '.join(map(of_owner, owners))})"


def read_disk_file(host: HyperV, path: str) -> DiskFile:
    """Ask the host what one VHD, VHDX or VHD Set file is. Safe to repeat.

    Raises OperationFailed where it does not tell, and the errors of :func:`perform`.
    """
    result = perform(host, READ_DISK_SETTINGS, {"Path": path}, Kind.READ_DISK, path).result
    # A host that answers with a job cannot deliver the output on this protocol.
    found = result.embedded_or_none("SettingData") if "SettingData" in result else None
    size = _integer(found, "MaxInternalSize")
    if found is None or size is None:
        raise OperationFailed(f"the host does not tell the size of {path}.", subject=path)
    return DiskFile(
        path=path,
        disk_id=_text(found, "VirtualDiskId"),
        virtual_size=size,
        format=_FORMATS.get(_integer(found, "Format") or 0),
        type=_TYPES.get(_integer(found, "Type") or 0),
        block_size=_integer(found, "BlockSize") or None,
        logical_sector=_integer(found, "LogicalSectorSize") or None,
        physical_sector=_integer(found, "PhysicalSectorSize") or None,
        parent_path=_text(found, "ParentPath"),
    )


def with_details(host: HyperV, disks: Iterable[DiskFacts]) -> tuple[DiskFacts, ...]:
    """Return the disks with their VirtualDiskId and size: one request each, none for pass-through disks."""
    return tuple(_with_detail(host, disk) for disk in disks)


def _with_detail(host: HyperV, disk: DiskFacts) -> DiskFacts:
    if disk.path is None or disk.kind == "passthrough":
        return disk
    return detailed(disk, read_disk_file(host, disk.path))


def detailed(disk: DiskFacts, file: DiskFile) -> DiskFacts:
    """Return a disk with what the host says about its file."""
    kind = disk.kind if disk.kind == "shared_vhdx" else file.format or disk.kind
    return replace(disk, disk_id=file.disk_id, virtual_size=file.virtual_size, kind=kind)


def _virtual_disk(medium: Instance) -> DiskFacts:
    setting = medium.text("InstanceID")
    path = next(iter(medium.texts("HostResource")), None)
    kind = _KINDS.get(ntpath.splitext(path or "")[1].lower())
    if kind == "vhdx" and medium.boolean_or_none("PersistentReservationsSupported"):
        kind = "shared_vhdx"
    return DiskFacts(slot_of(setting), "", setting, kind, path)


def _labelled(disks: list[DiskFacts]) -> tuple[DiskFacts, ...]:
    """Sort disks by slot and say where each is attached in the words people use.

    SCSI controllers are numbered in the order of their ids, since the host gives no number.
    """
    disks = sorted(disks, key=lambda disk: disk.slot)
    places = {disk.slot: _SLOT.fullmatch(disk.slot) for disk in disks}
    controllers = sorted({place[1] for place in places.values() if place and place[1] != _IDE})
    return tuple(replace(disk, label=_label(disk.slot, places[disk.slot], controllers)) for disk in disks)


def _label(slot: str, place: re.Match[str] | None, controllers: list[str]) -> str:
    if place is None:
        return slot
    controller, number, location = place.groups()
    if controller == _IDE:
        return f"ide {number}:{location}"
    return f"scsi {controllers.index(controller)}:{location}"


def _integer(found: Properties | None, name: str) -> int | None:
    return found.integer_or_none(name) if found is not None and name in found else None


def _text(found: Properties, name: str) -> str | None:
    return (found.text_or_none(name) or None) if name in found else None
