"""What the contract cannot know of a class: its keys, its times, exact widths, embedded instances.

The contract was read from generated code, where every time is a string, every enumeration an int, and no
key is marked. Sources: Microsoft's class pages (learn.microsoft.com/windows/win32/hyperv_v2 and
.../cimwin32prov), the DMTF's CIM schema 2.x for the CIM_ classes, the recordings. Rows marked [B] are
believed and stand in docs/believed.md.
"""

from collections.abc import Mapping
from typing import Final

_SYSTEM: Final = ("CreationClassName", "Name")
_SERVICE: Final = ("CreationClassName", "Name", "SystemCreationClassName", "SystemName")
_DEVICE: Final = ("CreationClassName", "DeviceID", "SystemCreationClassName", "SystemName")

# Inherited, unless a class below has a row of its own. An association without a row: all its references [B].
KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "CIM_System": _SYSTEM,
    "CIM_Service": _SERVICE,
    "CIM_ServiceAccessPoint": _SERVICE,
    "CIM_LogicalDevice": _DEVICE,
    "CIM_ConcreteJob": ("InstanceID",),
    "CIM_SettingData": ("InstanceID",),
    "CIM_Capabilities": ("InstanceID",),
    "CIM_ResourcePool": ("InstanceID",),
    "CIM_Collection": ("InstanceID",),
    "CIM_View": ("InstanceID",),
    "Msvm_VirtualSystemReferencePoint": ("InstanceID", "VirtualSystemIdentifier"),
    "Msvm_ReplicationRelationship": ("InstanceID",),
    "Msvm_ReplicationProvider": ("InstanceID", "Name"),
    "Msvm_MountedStorageImage": ("Lun", "PathId", "PortNumber", "TargetId"),
    "Msvm_LogicalDisk": _DEVICE,
    "Win32_ComputerSystem": ("Name",),
    "Win32_OperatingSystem": ("Name",),
    "Win32_BaseService": ("Name",),
    "Win32_LogicalDisk": ("DeviceID",),
    "Win32_Volume": ("DeviceID",),
    "Win32_Process": ("Handle",),
    "Win32_Share": ("Name",),
    "Win32_NTLogEvent": ("Logfile", "RecordNumber"),
    "Win32_ShadowCopy": ("ID",),
    "Win32_ShadowProvider": ("ID",),
    "Win32_ShadowContext": ("Name",),
    "MSCluster_LogicalElement": ("Name",),
    "MSCluster_Cluster": ("Name",),
    "MSCluster_Node": ("Name",),
}

# Classes with one instance, which Get finds without selectors.
SINGLETONS: Final = frozenset({"Win32_OperatingSystem", "Win32_ComputerSystem"})

# Methods that belong to the class and need no instance (qualifier Static on Microsoft's pages).
STATIC_METHODS: Final = frozenset(
    {
        ("Win32_Process", "Create"),
        ("Win32_ShadowCopy", "Create"),
        ("Win32_ShadowStorage", "Create"),
    }
)

# Strings of the contract that are times or intervals.
_TIMES: Final[Mapping[str, tuple[str, ...]]] = {
    "CIM_ManagedSystemElement": ("InstallDate",),
    "CIM_EnabledLogicalElement": ("TimeOfLastStateChange",),
    "CIM_Job": (
        "ElapsedTime",
        "RunStartInterval",
        "ScheduledStartTime",
        "StartTime",
        "TimeSubmitted",
        "UntilTime",
    ),
    "CIM_ConcreteJob": ("TimeBeforeRemoval", "TimeOfLastStateChange"),
    "CIM_ControlledBy": ("TimeOfDeviceReset",),
    "CIM_Controller": ("TimeOfLastReset",),
    "CIM_MediaAccessDevice": ("TimeOfLastMount",),
    "CIM_Memory": ("ErrorTime",),
    "CIM_BIOSElement": ("ReleaseDate",),
    "CIM_VirtualSystemSettingData": ("AutomaticStartupActionDelay", "CreationTime"),
    "CIM_OperatingSystem": ("LastBootUpTime", "LocalDateTime"),
    "CIM_Process": ("CreationDate", "TerminationDate"),
    "Msvm_ComputerSystem": (
        "LastApplicationConsistentReplicationTime",
        "LastReplicationTime",
        "LastSuccessfulBackupTime",
        "TimeOfLastConfigurationChange",
    ),
    "Msvm_PlannedComputerSystem": ("TimeOfLastConfigurationChange",),
    "Msvm_ReplicationRelationship": (
        "LastApplicationConsistentReplicationTime",
        "LastApplyTime",
        "LastReplicationTime",
    ),
    "Msvm_ReplicationServiceSettingData": ("MonitoringStartTime",),
    "Msvm_ReplicationSettingData": ("AutoResynchronizeIntervalEnd", "AutoResynchronizeIntervalStart"),
    "Msvm_ReplicationStatistics": ("EndStatisticTime", "LastTestFailoverTime", "StartStatisticTime"),
    "Msvm_SummaryInformationBase": ("CreationTime",),
    "Msvm_VHDSnapshotInformation": ("CreationTime",),
    "Msvm_VirtualHardDiskSettingData": ("ParentTimestamp",),
    "Msvm_VirtualHardDiskState": ("Timestamp",),
    "Msvm_VirtualSystemCollection": ("LastApplyTime",),
    "Msvm_VirtualSystemSettingData": ("AutomaticCriticalErrorActionTimeout",),
    "Win32_NTLogEvent": ("TimeGenerated", "TimeWritten"),
}

# Properties whose type the contract does not tell: strings that carry an instance, and odd ones.
_PROPERTIES: Final[Mapping[tuple[str, str], str]] = {
    ("Msvm_KvpExchangeComponent", "GuestExchangeItems"): "string:Msvm_KvpExchangeDataItem[]",
    ("Msvm_KvpExchangeComponent", "GuestIntrinsicExchangeItems"): "string:Msvm_KvpExchangeDataItem[]",
    ("Msvm_KvpExchangeComponentSettingData", "HostExchangeItems"): "string:Msvm_KvpExchangeDataItem[]",
    ("Msvm_KvpExchangeComponentSettingData", "HostOnlyItems"): "string:Msvm_KvpExchangeDataItem[]",
    ("MSCluster_Cluster", "PrivateProperties"): "object:MSCluster_Property",
    ("MSCluster_Node", "PrivateProperties"): "object:MSCluster_Property",
    ("MSCluster_Resource", "PrivateProperties"): "object:MSCluster_Property",
    ("MSCluster_ResourceGroup", "PrivateProperties"): "object:MSCluster_Property",
}

# Enumerations of the contract that are not uint16; that all others are is believed [B].
ENUMERATIONS: Final[Mapping[str, str]] = {
    "Error_CIMStatusCode": "uint32",
    "Job_RunDay": "sint8",
    "Job_RunDayOfWeek": "sint8",
    "Job_RunMonth": "uint8",
    "SummaryInformationBase_VirtualSystemSubType": "string",
    "VirtualSystemSettingData_VirtualSystemSubType": "string",
    "VirtualSystemSnapshotSettingData_ConsistencyLevel": "uint8",
    "VirtualSystemSnapshotSettingData_GuestBackupType": "uint8",
}

# Parameters that carry an embedded instance: by name, where the name always means the same class...
_EMBEDDED_BY_NAME: Final[Mapping[str, str]] = {
    "AuthorizationEntry": "Msvm_ReplicationAuthorizationSettingData",
    "DataItems": "Msvm_KvpExchangeDataItem",
    "Errors": "Msvm_Error",
    "ExportSettingData": "CIM_SettingData",
    "GuestServiceSettings": "CIM_SettingData",
    "MigrationSettingData": "Msvm_VirtualSystemMigrationSettingData",
    "NewResourceSettingData": "CIM_ResourceAllocationSettingData",
    "NewSystemSettingData": "Msvm_VirtualSystemSettingData",
    "ReferencePointSettings": "Msvm_VirtualSystemReferencePointSettingData",
    "ReplicationRelationship": "Msvm_ReplicationRelationship",
    "ReplicationSettingData": "Msvm_ReplicationSettingData",
    "ReplicationStatistics": "Msvm_ReplicationStatistics",
    "ResourceSettings": "CIM_ResourceAllocationSettingData",
    "SecuritySettingData": "Msvm_SecuritySettingData",
    "ServiceSettingData": "CIM_SettingData",
    "SnapshotSettings": "CIM_SettingData",
    "SystemSettings": "Msvm_VirtualSystemSettingData",
    "ComponentSettings": "Msvm_SystemComponentSettingData",
    "VirtualDiskSettingData": "Msvm_VirtualHardDiskSettingData",
}

# ... and one by one: class that declares the method, method, parameter.
_PARAMETERS: Final[Mapping[tuple[str, str, str], str]] = {
    ("CIM_ConcreteJob", "GetError", "Error"): "string:Msvm_Error",
    ("CIM_ConcreteJob", "RequestStateChange", "TimeoutPeriod"): "datetime",
    ("CIM_EnabledLogicalElement", "RequestStateChange", "TimeoutPeriod"): "datetime",
    ("CIM_LogicalDevice", "SetPowerState", "Time"): "datetime",
    ("CIM_ComputerSystem", "SetPowerState", "Time"): "datetime",
    ("CIM_UnitaryComputerSystem", "SetPowerState", "Time"): "datetime",
    ("Msvm_ImageManagementService", "GetVirtualHardDiskSettingData", "SettingData"): (
        "string:Msvm_VirtualHardDiskSettingData"
    ),
    ("Msvm_ImageManagementService", "GetVirtualHardDiskState", "State"): "string:Msvm_VirtualHardDiskState",
    ("Msvm_ImageManagementService", "GetVHDSetInformation", "Information"): ("string:Msvm_VHDSetInformation"),
    ("Msvm_ReplicationService", "ModifyServiceSettings", "SettingData"): (
        "string:Msvm_ReplicationServiceSettingData"
    ),
    ("Msvm_ReplicationService", "GetReplicationStatistics", "ReplicationHealthIssues"): "string:Msvm_Error[]",
    ("Msvm_ReplicationService", "GetReplicationStatisticsEx", "ReplicationHealthIssues"): (
        "string:Msvm_Error[]"
    ),
    ("Msvm_ReplicationService", "Resynchronize", "StartTime"): "datetime",
    ("Msvm_ReplicationService", "StartReplication", "StartTime"): "datetime",
    ("Msvm_VirtualSystemManagementService", "ModifyDiskMergeSettings", "SettingData"): (
        "string:Msvm_DiskMergeSettingData"
    ),
    ("Msvm_VirtualSystemManagementService", "ModifyServiceSettings", "SettingData"): (
        "string:Msvm_VirtualSystemManagementServiceSettingData"
    ),
    ("Msvm_VirtualSystemManagementService", "UpgradeSystemVersion", "UpgradeSettingData"): (
        "string:Msvm_VirtualSystemSettingData"
    ),
    # Returned as objects, not as references.
    ("Msvm_VirtualSystemManagementService", "GetDefinitionFileSummaryInformation", "SummaryInformation"): (
        "object:Msvm_SummaryInformationBase[]"
    ),
    ("Msvm_VirtualSystemManagementService", "GetSummaryInformation", "SummaryInformation"): (
        "object:Msvm_SummaryInformationBase[]"
    ),
    ("Msvm_VssService", "QueryGuestClusterInformation", "GuestClusterInformation"): (
        "object:Msvm_GuestClusterInformation"  # [B]
    ),
    ("Win32_OperatingSystem", "SetDateTime", "LocalDateTime"): "datetime",
    ("Win32_Process", "Create", "ProcessStartupInformation"): "object:Win32_ProcessStartup",
}


def property_fact(class_name: str, name: str) -> str:
    """Return a property's type where the contract does not tell it; empty where it does."""
    if name in _TIMES.get(class_name, ()):
        return "datetime"
    return _PROPERTIES.get((class_name, name), "")


def parameter_fact(class_name: str, method: str, name: str, contract: str) -> str:
    """Return a parameter's type where the contract, which says ``contract``, does not tell it; else empty."""
    fact = _PARAMETERS.get((class_name, method, name), "")
    if not fact and name in _EMBEDDED_BY_NAME and contract in {"string", "string[]"}:
        return contract.replace("string", f"string:{_EMBEDDED_BY_NAME[name]}")
    return fact
