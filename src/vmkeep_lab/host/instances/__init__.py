"""The host's state as CIM instances; each class has one function that yields all of them.

Properties that a real host leaves null are left out. Values are checked against the schema by the wire and by
the tests.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from vmkeep_lab.cim import CIMV2, V2, Instance
from vmkeep_lab.host.instances import (
    associations,
    components,
    drives,
    running,
    services,
    settings,
    systems,
    windows,
)
from vmkeep_lab.host.world import World

Builder = Callable[[World], Iterable[Instance]]

BUILDERS: Final[Mapping[tuple[str, str], Builder]] = {
    (V2, "Msvm_ComputerSystem"): systems.all_systems,
    (V2, "Msvm_SummaryInformation"): systems.summaries,
    (V2, "Msvm_VirtualSystemSettingData"): settings.all_settings,
    (V2, "Msvm_VirtualSystemReferencePoint"): settings.reference_points,
    (V2, "Msvm_VirtualSystemExportSettingData"): settings.export_settings,
    (V2, "Msvm_DiskMergeSettingData"): settings.merge_settings,
    (V2, "Msvm_SecuritySettingData"): settings.security_settings,
    (V2, "Msvm_ResourceAllocationSettingData"): drives.allocations,
    (V2, "Msvm_StorageAllocationSettingData"): drives.media,
    (V2, "Msvm_MemorySettingData"): drives.memories,
    (V2, "Msvm_ProcessorSettingData"): drives.processors,
    (V2, "Msvm_VssComponent"): components.vss,
    (V2, "Msvm_KvpExchangeComponent"): components.data_exchange,
    (V2, "Msvm_HeartbeatComponent"): components.heartbeat,
    (V2, "Msvm_ShutdownComponent"): components.shutdown,
    (V2, "Msvm_VssComponentSettingData"): components.vss_settings,
    (V2, "Msvm_ConcreteJob"): running.jobs,
    (V2, "Msvm_StorageJob"): running.storage_jobs,
    (V2, "Msvm_AffectedJobElement"): running.affected,
    (V2, "Msvm_SettingsDefineState"): associations.settings_of_systems,
    (V2, "Msvm_SnapshotOfVirtualSystem"): associations.checkpoints_of_systems,
    (V2, "Msvm_MostCurrentSnapshotInBranch"): associations.newest_in_branch,
    (V2, "Msvm_LastAppliedSnapshot"): associations.last_applied,
    (V2, "Msvm_VirtualSystemSettingDataComponent"): associations.parts_of_settings,
    (V2, "Msvm_ReferencePointOfVirtualSystem"): associations.reference_points_of_systems,
    (V2, "Msvm_SystemDevice"): associations.devices_of_systems,
    (V2, "Msvm_SystemExportSettingData"): associations.export_settings_of_systems,
    (CIMV2, "Win32_OperatingSystem"): windows.operating_system,
    (CIMV2, "Win32_ComputerSystem"): windows.computer_system,
    (CIMV2, "Win32_LogicalDisk"): windows.logical_disks,
    (CIMV2, "Win32_Service"): windows.services,
    (CIMV2, "Win32_NTLogEvent"): windows.log_entries,
    **{(V2, name): services.builder(name) for name in services.NAMES},
}
