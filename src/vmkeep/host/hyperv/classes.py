"""Declare every WMI class, property and method that is touched: the whole of what a host must have.

Reading goes through these declarations: a class is enumerated with exactly its
declared properties, so an undeclared one cannot be used. A test compares all of
it with the classes of two real hosts. Where a declared type differs from what
their generator wrote, :data:`TYPES_BY_SOURCE` says on whose word.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from vmkeep.host.wsman import Client, EmbeddedClass, Instance, Method, Ref

V2: Final = "root/virtualization/v2"
CIMV2: Final = "root/cimv2"
CLUSTER: Final = "root/mscluster"


@dataclass(frozen=True)
class WmiClass:
    """A class whose instances are read: the properties we ask for with their CIM types, and its keys."""

    name: str
    namespace: str
    properties: Mapping[str, str]
    keys: tuple[str, ...] = ()

    def all(self, client: Client, where: str = "") -> Iterator[Instance]:
        """Yield the instances, or those a WQL condition picks, with the declared properties only."""
        return client.enumerate(self.name, self.namespace, properties=tuple(self.properties), where=where)

    def ref(self, *values: str) -> Ref:
        """Address one instance by the values of its keys."""
        return Ref(self.namespace, self.name, dict(zip(self.keys, values, strict=True)))


@dataclass(frozen=True)
class Call:
    """A method of a service class, with what it gives back beside its number.

    ``reads``: it changes nothing, so that it may be called again where its answer was lost.
    ``is_timed``: its caller writes down when it is called, and so calls again himself.
    """

    service: str
    method: Method
    outputs: Mapping[str, str] = field(default_factory=dict)
    reads: bool = False
    is_timed: bool = False

    @property
    def target(self) -> Ref:
        """The one instance of the service."""
        return Ref.singleton(V2, self.service)


# --- virtual machines ------------------------------------------------------------------

COMPUTER_SYSTEM: Final = WmiClass(
    "Msvm_ComputerSystem",
    V2,
    {
        "CreationClassName": "string",
        "Name": "string",
        "ElementName": "string",
        "EnabledState": "uint16",
        "HealthState": "uint16",
        "OperationalStatus": "uint16[]",
        "InstallDate": "datetime",
        "ReplicationMode": "uint16",
        "ReplicationState": "uint16",
    },
    keys=("CreationClassName", "Name"),
)

SETTINGS: Final = WmiClass(
    "Msvm_VirtualSystemSettingData",
    V2,
    {
        "InstanceID": "string",
        "ElementName": "string",
        "VirtualSystemIdentifier": "string",
        "VirtualSystemType": "string",
        "VirtualSystemSubType": "string",
        "Version": "string",
        "UserSnapshotType": "uint16",
        "Parent": "string",
        "CreationTime": "datetime",
        "Notes": "string[]",
        "ConfigurationDataRoot": "string",
        "ConfigurationFile": "string",
        "SnapshotDataRoot": "string",
    },
    keys=("InstanceID",),
)

LAST_APPLIED: Final = WmiClass(
    "Msvm_LastAppliedSnapshot", V2, {"Antecedent": "reference", "Dependent": "reference"}
)

# --- disks -----------------------------------------------------------------------------

DRIVE: Final = WmiClass(
    "Msvm_ResourceAllocationSettingData",
    V2,
    {
        "InstanceID": "string",
        "ResourceSubType": "string",
        "HostResource": "string[]",
        "Parent": "string",
    },
    keys=("InstanceID",),
)

MEDIUM: Final = WmiClass(
    "Msvm_StorageAllocationSettingData",
    V2,
    {
        "InstanceID": "string",
        "ResourceSubType": "string",
        "HostResource": "string[]",
        "Parent": "string",
        "PersistentReservationsSupported": "boolean",
    },
    keys=("InstanceID",),
)

DISK_SETTINGS: Final = EmbeddedClass(
    "Msvm_VirtualHardDiskSettingData",
    {
        "VirtualDiskId": "string",
        "Type": "uint16",
        "Format": "uint16",
        "MaxInternalSize": "uint64",
        "BlockSize": "uint32",
        "LogicalSectorSize": "uint32",
        "PhysicalSectorSize": "uint32",
        "ParentPath": "string",
    },
)

# --- what the guest says ---------------------------------------------------------------

_COMPONENT: Final = {
    "SystemName": "string",
    "EnabledState": "uint16",
    "OperationalStatus": "uint16[]",
}
BACKUP_COMPONENT: Final = WmiClass("Msvm_VssComponent", V2, _COMPONENT)
HEARTBEAT_COMPONENT: Final = WmiClass("Msvm_HeartbeatComponent", V2, _COMPONENT)
KVP_COMPONENT: Final = WmiClass(
    "Msvm_KvpExchangeComponent", V2, {"SystemName": "string", "GuestIntrinsicExchangeItems": "string[]"}
)
KVP_ITEM: Final = EmbeddedClass("Msvm_KvpExchangeDataItem", {"Name": "string", "Data": "string"})

REPLICATION: Final = WmiClass(
    "Msvm_ReplicationRelationship", V2, {"InstanceID": "string", "ReplicationState": "uint16"}
)

# --- the host --------------------------------------------------------------------------

OPERATING_SYSTEM: Final = WmiClass(
    "Win32_OperatingSystem",
    CIMV2,
    {
        "CSName": "string",
        "BuildNumber": "string",
        "ProductType": "uint32",
        "LocalDateTime": "datetime",
        "LastBootUpTime": "datetime",
    },
)
VOLUME: Final = WmiClass("Win32_Volume", CIMV2, {"Name": "string", "FreeSpace": "uint64"})
# For whoever may not list volumes; it has no mount points.
LOGICAL_DISK: Final = WmiClass("Win32_LogicalDisk", CIMV2, {"DeviceID": "string", "FreeSpace": "uint64"})
CLUSTER_NAME: Final = WmiClass("MSCluster_Cluster", CLUSTER, {"Name": "string"})

# --- jobs ------------------------------------------------------------------------------

_JOB: Final = {
    "InstanceID": "string",
    "JobState": "uint16",
    "PercentComplete": "uint16",
    "ErrorCode": "uint16",
    "ErrorDescription": "string",
    "ErrorSummaryDescription": "string",
}
JOB: Final = WmiClass("Msvm_ConcreteJob", V2, _JOB, keys=("InstanceID",))
# The image service's jobs are of another class (hyperv-backup-api.md 2.1, seen by go-wsman).
STORAGE_JOB: Final = WmiClass("Msvm_StorageJob", V2, _JOB, keys=("InstanceID",))
# When a job worked, to tell what it can have made; asked for rarely.
JOB_TIMES: Final = WmiClass(
    "Msvm_ConcreteJob",
    V2,
    {
        "InstanceID": "string",
        "JobState": "uint16",
        "StartTime": "datetime",
        "TimeOfLastStateChange": "datetime",
    },
    keys=("InstanceID",),
)
GET_ERROR: Final = Method("GetErrorEx", ())
GET_ERROR_OUTPUTS: Final = {"Errors": "string[]"}
JOB_ERROR: Final = EmbeddedClass(
    "Msvm_Error",
    {"MessageID": "string", "Message": "string", "MessageArguments": "string[]", "ErrorSource": "string"},
)
AFFECTED_ELEMENT: Final = WmiClass(
    "Msvm_AffectedJobElement",
    V2,
    {"AffectedElement": "reference", "AffectingElement": "reference", "ElementEffects": "uint16[]"},
)
CREATED: Final = 5  # ElementEffects "Create", in a real host's recording

# --- checkpoints and reference points ----------------------------------------------------

RECOVERY: Final = 32768  # SnapshotType of a recovery checkpoint (hyperv-backup-api.md section 0, fact 1)

CHECKPOINT_SETTINGS: Final = EmbeddedClass(
    "Msvm_VirtualSystemSnapshotSettingData",
    {"ConsistencyLevel": "uint8", "GuestBackupType": "uint8", "IgnoreNonSnapshottableDisks": "boolean"},
)
# What is changed of a checkpoint's settings: the key, and what people see.
NAME_AND_NOTES: Final = EmbeddedClass(
    "Msvm_VirtualSystemSettingData", {"InstanceID": "string", "ElementName": "string", "Notes": "string[]"}
)

REFERENCE_POINT: Final = WmiClass(
    "Msvm_VirtualSystemReferencePoint",
    V2,
    {
        "InstanceID": "string",
        "VirtualSystemIdentifier": "string",
        "ElementName": "string",
        "ConsistencyLevel": "uint16",
        "ReferencePointType": "uint16",
        "VirtualDiskIdentifiers": "string[]",
        "ResilientChangeTrackingIdentifiers": "string[]",
    },
    keys=("InstanceID", "VirtualSystemIdentifier"),
)

_CHECKPOINTS: Final = "Msvm_VirtualSystemSnapshotService"
_REFERENCE_POINTS: Final = "Msvm_VirtualSystemReferencePointService"
_IMAGES: Final = "Msvm_ImageManagementService"
_STARTED: Final = {"Job": "reference"}

# ResultingSnapshot and ResultingReferencePoint are in and out; they are never sent, and may come back.
CREATE_CHECKPOINT: Final = Call(
    _CHECKPOINTS,
    Method(
        "CreateSnapshot",
        (("AffectedSystem", "reference"), ("SnapshotSettings", "string"), ("SnapshotType", "uint16")),
    ),
    {**_STARTED, "ResultingSnapshot": "reference"},
    is_timed=True,
)
DESTROY_CHECKPOINT: Final = Call(
    _CHECKPOINTS, Method("DestroySnapshot", (("AffectedSnapshot", "reference"),)), _STARTED
)
CONVERT_CHECKPOINT: Final = Call(
    _CHECKPOINTS,
    Method("ConvertToReferencePoint", (("AffectedSnapshot", "reference"),)),
    {**_STARTED, "ResultingReferencePoint": "reference"},
    is_timed=True,
)
DESTROY_REFERENCE_POINT: Final = Call(
    _REFERENCE_POINTS, Method("DestroyReferencePoint", (("AffectedReferencePoint", "reference"),)), _STARTED
)
MODIFY_SETTINGS: Final = Call(
    "Msvm_VirtualSystemManagementService",
    Method("ModifySystemSettings", (("SystemSettings", "string"),)),
    _STARTED,
)
READ_DISK_SETTINGS: Final = Call(
    _IMAGES,
    Method("GetVirtualHardDiskSettingData", (("Path", "string"),)),
    {**_STARTED, "SettingData": "string"},
    reads=True,
)
READ_DISK_CHANGES: Final = Call(
    _IMAGES,
    Method(
        "GetVirtualDiskChanges",
        (("Path", "string"), ("LimitId", "string"), ("ByteOffset", "uint64"), ("ByteLength", "uint64")),
    ),
    {
        **_STARTED,
        "ProcessedByteLength": "uint64",
        "ChangedByteOffsets": "uint64[]",
        "ChangedByteLengths": "uint64[]",
    },
    reads=True,
)

# --- all of it, for the comparison with real hosts -----------------------------------------

CLASSES: Final = (
    COMPUTER_SYSTEM,
    SETTINGS,
    LAST_APPLIED,
    DRIVE,
    MEDIUM,
    BACKUP_COMPONENT,
    HEARTBEAT_COMPONENT,
    KVP_COMPONENT,
    REPLICATION,
    OPERATING_SYSTEM,
    VOLUME,
    LOGICAL_DISK,
    CLUSTER_NAME,
    JOB,
    STORAGE_JOB,
    JOB_TIMES,
    AFFECTED_ELEMENT,
    REFERENCE_POINT,
)
EMBEDDED: Final = (DISK_SETTINGS, KVP_ITEM, JOB_ERROR, CHECKPOINT_SETTINGS, NAME_AND_NOTES)
CALLS: Final = (
    CREATE_CHECKPOINT,
    DESTROY_CHECKPOINT,
    CONVERT_CHECKPOINT,
    DESTROY_REFERENCE_POINT,
    MODIFY_SETTINGS,
    READ_DISK_SETTINGS,
    READ_DISK_CHANGES,
)

# The generator writes datetimes as strings and enumerations by name, and it renamed methods whose
# purpose it guessed. What we declare instead, and on whose word.
_DOCS: Final = "learn.microsoft.com/windows/win32/hyperv_v2, the page of the class"
TYPES_BY_SOURCE: Final[Mapping[tuple[str, str], str]] = {
    ("Msvm_ComputerSystem", "EnabledState"): _DOCS,
    ("Msvm_ComputerSystem", "HealthState"): _DOCS,
    ("Msvm_ComputerSystem", "OperationalStatus"): _DOCS,
    ("Msvm_ComputerSystem", "InstallDate"): "contract/recordings: cim:Datetime",
    ("Msvm_VirtualSystemSettingData", "VirtualSystemSubType"): "hyperv-backup-api.md 1.2: a string",
    ("Msvm_VirtualSystemSettingData", "CreationTime"): _DOCS,
    ("Msvm_VssComponent", "EnabledState"): _DOCS,
    ("Msvm_VssComponent", "OperationalStatus"): _DOCS,
    ("Msvm_HeartbeatComponent", "EnabledState"): _DOCS,
    ("Msvm_HeartbeatComponent", "OperationalStatus"): _DOCS,
    ("Msvm_ConcreteJob", "JobState"): _DOCS,
    ("Msvm_StorageJob", "JobState"): _DOCS,
    ("Msvm_ConcreteJob", "StartTime"): _DOCS,
    ("Msvm_ConcreteJob", "TimeOfLastStateChange"): _DOCS,
    ("Msvm_AffectedJobElement", "ElementEffects"): _DOCS,
    ("Msvm_VirtualSystemSnapshotSettingData", "ConsistencyLevel"): "believed, docs/believed.md",
    ("Msvm_VirtualSystemSnapshotSettingData", "GuestBackupType"): "believed, docs/believed.md",
    ("Msvm_VirtualSystemSnapshotService.CreateSnapshot", "SnapshotType"): _DOCS,
    ("Win32_OperatingSystem", "LocalDateTime"): "learn.microsoft.com, Win32_OperatingSystem",
    ("Win32_OperatingSystem", "LastBootUpTime"): "learn.microsoft.com, Win32_OperatingSystem",
}
# The generator calls GetErrorEx SetPropertyCancellable (its output Errors[] gives it away).
METHODS_RENAMED_BY_GENERATOR: Final[Mapping[tuple[str, str], str]] = {
    ("Msvm_ConcreteJob", "GetErrorEx"): "SetPropertyCancellable",
    ("Msvm_StorageJob", "GetErrorEx"): "SetPropertyCancellable",
}
