"""Name the numbers of Hyper-V's management classes.

Sources, as in the project's reference on this interface: W (microsoft/wmi), D (Microsoft's class pages),
GW (go-wsman, observed on a real host). Section numbers are those of that reference.
"""

from enum import IntEnum, StrEnum
from typing import Final


class Returned(IntEnum):
    """What a method of the management and image services returns (section 2.2, D)."""

    DONE = 0
    JOB_STARTED = 4096
    FAILED = 32768
    ACCESS_DENIED = 32769
    NOT_SUPPORTED = 32770
    TIMEOUT = 32772
    INVALID_PARAMETER = 32773
    SYSTEM_IN_USE = 32774
    INVALID_STATE = 32775
    FILE_NOT_FOUND = 32779


CIM_NOT_SUPPORTED: Final = 1  # the checkpoint and reference point services' own family (section 2.2, D)
CIM_INVALID_PARAMETER: Final = 4
CIM_INVALID_TYPE: Final = 6


class Power(IntEnum):
    """``EnabledState`` of a VM in the v2 namespace, as observed (section 1.1, GW)."""

    RUNNING = 2
    OFF = 3
    SAVED = 6
    PAUSED = 9


class Status(IntEnum):
    """``OperationalStatus``: first element 2 or 11, second the operation that has the VM (section 1.1, D)."""

    OK = 2
    DEGRADED = 3
    IN_SERVICE = 11
    NO_CONTACT = 12
    LOST_COMMUNICATION = 13
    CREATING_CHECKPOINT = 32768
    APPLYING_CHECKPOINT = 32769
    DELETING_CHECKPOINT = 32770
    MERGING = 32772
    EXPORTING = 32773


class JobState(IntEnum):
    """``JobState`` (section 2.2, D and W)."""

    NEW = 2
    STARTING = 3
    RUNNING = 4
    COMPLETED = 7
    EXCEPTION = 10


class JobType(IntEnum):
    """``JobType`` of the jobs that this host has (section 2.2)."""

    MERGE = 50
    EXPORT = 62
    CHECKPOINT = 70
    APPLY = 71
    DESTROY = 72
    MODIFY = 15
    POWER = 20
    CONVERT_TO_REFERENCE_POINT = 200
    CREATE_REFERENCE_POINT = 201
    DESTROY_REFERENCE_POINT = 202


class Consistency(IntEnum):
    """``ConsistencyLevel`` of checkpoint settings and reference points (section 2.1, W)."""

    UNKNOWN = 0
    APPLICATION = 1
    CRASH = 2


class CheckpointKind(StrEnum):
    """What a checkpoint was made for; the value is its ``VirtualSystemType`` (section 1.2, D)."""

    USER = "Microsoft:Hyper-V:Snapshot:Realized"
    RECOVERY = "Microsoft:Hyper-V:Snapshot:Recovery"


REALIZED: Final = "Microsoft:Hyper-V:System:Realized"

TYPE_FULL: Final = 2  # SnapshotType of CreateSnapshot; 32768 is documented nowhere and used by all (fact 1)
TYPE_DISK: Final = 3
TYPE_RECOVERY: Final = 32768


class CheckpointSetting(IntEnum):
    """``UserSnapshotType`` (section 1.2, D)."""

    DISABLED = 2
    PRODUCTION = 3
    PRODUCTION_ONLY = 4
    STANDARD = 5


EFFECT_UNKNOWN: Final = 0
EFFECT_CREATED: Final = 5  # ElementEffects of the element a job made (fact 2, recorded)

REFERENCE_POINT_RCT: Final = 2  # ReferencePointType of the instance (section 2.1: 1 log, 2 RCT)
TRACKING_SINCE_VERSION: Final = (6, 2)  # the first configuration version with RCT (section 1.2)

GUEST_WRITER_FAILED: Final = 0x800423F4  # VSS_E_WRITERERROR_NONRETRYABLE (report R3)
GUEST_UNREACHABLE: Final = 0x80070490
SHARING_VIOLATION: Final = 0x80070020
DISK_FULL: Final = 0x80070070
CHECKPOINTS_DISABLED: Final = 0x80070032

EVENT_MERGE_STARTED: Final = 19070  # failures.md 3.4
EVENT_MERGE_DONE: Final = 19080
EVENT_MERGE_INTERRUPTED: Final = 19090
EVENT_MERGE_FAILED: Final = 19100
EVENT_CHECKPOINT_FAILED: Final = 18012
EVENT_WRITER_REJECTED: Final = 8229
