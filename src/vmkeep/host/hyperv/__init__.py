"""Speak Hyper-V's typed WMI of one host: inventory, checkpoints, reference points, changed ranges.

Nouns: HyperV (a host as this room speaks to it), Inventory, CheckpointFacts,
Owner (the mark of ours), ReferencePoint, Tracking, MergeState. Everything that
is touched is declared in `classes`. Nothing in here knows repositories or reads
disk files; policy, journals and retries of refused calls are the caller's.
"""

from vmkeep.host.hyperv.changes import changed_ranges
from vmkeep.host.hyperv.checkpoints import (
    CheckpointWish,
    Went,
    create_checkpoint,
    destroy_checkpoint,
    is_there,
    list_recovery_checkpoints,
    list_unmarked,
    mark_checkpoint,
    read_checkpoint,
)
from vmkeep.host.hyperv.created import SeenJob, list_jobs
from vmkeep.host.hyperv.disks import DiskFile, detailed, read_disk_file, with_details
from vmkeep.host.hyperv.errors import (
    ChainAtRisk,
    ChangesUnknown,
    CheckpointMissing,
    CheckpointsDisabled,
    CheckpointUnidentified,
    FileInUse,
    GuestNotQuiesced,
    HostDenied,
    HostOutOfSpace,
    HyperVError,
    JobOverdue,
    ListsIncomplete,
    MergeUnfinished,
    NotOurs,
    NotSupported,
    OperationFailed,
    RequestRefused,
    ServiceLogonMissing,
    SettingIgnored,
    TrackingLost,
    VmAmbiguous,
    VmBusy,
    VmNotFound,
)
from vmkeep.host.hyperv.hosttime import read_host_time
from vmkeep.host.hyperv.inventory import Inventory, take_inventory, with_guests
from vmkeep.host.hyperv.jobs import Fate, HyperV, Outcome, Waiting
from vmkeep.host.hyperv.joining import is_foreign
from vmkeep.host.hyperv.merging import MergeState, layers_of, read_merge, wait_for_merge
from vmkeep.host.hyperv.one_vm import read_vm
from vmkeep.host.hyperv.owners import Owner
from vmkeep.host.hyperv.reference_points import (
    ReferencePoint,
    Tracking,
    convert_checkpoint,
    destroy_reference_point,
    list_reference_points,
    list_surely,
    tracking_of,
)
from vmkeep.host.hyperv.states import PowerState, is_gone, read_power_state
from vmkeep.host.hyperv.volumes import read_free_bytes

__all__ = [
    "ChainAtRisk",
    "ChangesUnknown",
    "CheckpointMissing",
    "CheckpointUnidentified",
    "CheckpointWish",
    "CheckpointsDisabled",
    "DiskFile",
    "Fate",
    "FileInUse",
    "GuestNotQuiesced",
    "HostDenied",
    "HostOutOfSpace",
    "HyperV",
    "HyperVError",
    "Inventory",
    "JobOverdue",
    "ListsIncomplete",
    "MergeState",
    "MergeUnfinished",
    "NotOurs",
    "NotSupported",
    "OperationFailed",
    "Outcome",
    "Owner",
    "PowerState",
    "ReferencePoint",
    "RequestRefused",
    "SeenJob",
    "ServiceLogonMissing",
    "SettingIgnored",
    "Tracking",
    "TrackingLost",
    "VmAmbiguous",
    "VmBusy",
    "VmNotFound",
    "Waiting",
    "Went",
    "changed_ranges",
    "convert_checkpoint",
    "create_checkpoint",
    "destroy_checkpoint",
    "destroy_reference_point",
    "detailed",
    "is_foreign",
    "is_gone",
    "is_there",
    "layers_of",
    "list_jobs",
    "list_recovery_checkpoints",
    "list_reference_points",
    "list_surely",
    "list_unmarked",
    "mark_checkpoint",
    "read_checkpoint",
    "read_disk_file",
    "read_free_bytes",
    "read_host_time",
    "read_merge",
    "read_power_state",
    "read_vm",
    "take_inventory",
    "tracking_of",
    "wait_for_merge",
    "with_details",
    "with_guests",
]
