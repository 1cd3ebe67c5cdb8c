"""The methods of a host's services; each is a function of the world, the target and the arguments.

What the schema has and this table has not is refused the way a host refuses what it does not support.
"""

from collections.abc import Callable, Mapping
from typing import Final

from vmkeep_lab.cim import Arguments, CimValue, Ref
from vmkeep_lab.host.codes import CIM_NOT_SUPPORTED, Returned
from vmkeep_lab.host.services import (
    checkpoint_service,
    image_service,
    job_methods,
    management_service,
    power,
    reference_point_service,
    windows_services,
)
from vmkeep_lab.host.world import World

Method = Callable[[World, Ref, Arguments], Mapping[str, CimValue]]

METHODS: Final[Mapping[tuple[str, str], Method]] = {
    ("Msvm_VirtualSystemSnapshotService", "CreateSnapshot"): checkpoint_service.create,
    ("Msvm_VirtualSystemSnapshotService", "DestroySnapshot"): checkpoint_service.destroy,
    ("Msvm_VirtualSystemSnapshotService", "DestroySnapshotTree"): checkpoint_service.destroy_tree,
    ("Msvm_VirtualSystemSnapshotService", "ApplySnapshot"): checkpoint_service.apply,
    ("Msvm_VirtualSystemSnapshotService", "ConvertToReferencePoint"): checkpoint_service.convert,
    ("Msvm_VirtualSystemReferencePointService", "CreateReferencePoint"): reference_point_service.create,
    ("Msvm_VirtualSystemReferencePointService", "DestroyReferencePoint"): reference_point_service.destroy,
    ("Msvm_VirtualSystemManagementService", "ModifySystemSettings"): management_service.modify_settings,
    ("Msvm_VirtualSystemManagementService", "ModifyDiskMergeSettings"): management_service.modify_merging,
    ("Msvm_VirtualSystemManagementService", "ModifyGuestServiceSettings"): management_service.modify_guest,
    ("Msvm_VirtualSystemManagementService", "GetSummaryInformation"): management_service.summaries,
    ("Msvm_VirtualSystemManagementService", "ExportSystemDefinition"): management_service.export,
    ("Msvm_ImageManagementService", "GetVirtualDiskChanges"): image_service.changes,
    ("Msvm_ImageManagementService", "GetVirtualHardDiskSettingData"): image_service.setting_data,
    ("Msvm_ImageManagementService", "GetVirtualHardDiskState"): image_service.state,
    ("Msvm_ComputerSystem", "RequestStateChange"): power.request_state,
    ("Msvm_ShutdownComponent", "InitiateShutdown"): power.shut_down,
    ("Msvm_ConcreteJob", "GetError"): job_methods.error,
    ("Msvm_ConcreteJob", "GetErrorEx"): job_methods.errors,
    ("Msvm_ConcreteJob", "RequestStateChange"): job_methods.request_state,
    ("Msvm_StorageJob", "GetError"): job_methods.error,
    ("Msvm_StorageJob", "GetErrorEx"): job_methods.errors,
    ("Win32_Service", "StartService"): windows_services.start,
    ("Win32_Service", "StopService"): windows_services.stop,
}


def unsupported(class_name: str) -> Mapping[str, CimValue]:
    """Return what a method answers that the host has and will not do (section 2.2: two families of codes)."""
    own_family = {"Msvm_VirtualSystemSnapshotService", "Msvm_VirtualSystemReferencePointService"}
    code = CIM_NOT_SUPPORTED if class_name in own_family else int(Returned.NOT_SUPPORTED)
    return {"ReturnValue": code}
