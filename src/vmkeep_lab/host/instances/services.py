"""The services, one instance each, that methods are called on."""

from collections.abc import Callable, Iterable
from typing import Final

from vmkeep_lab.cim import Instance
from vmkeep_lab.host.world import World

# Name and ElementName [B]: nobody needs them, Invoke asks for CreationClassName alone (section 5.1, GW).
_SHORT: Final = {
    "Msvm_VirtualSystemManagementService": "vmms",
    "Msvm_VirtualSystemSnapshotService": "vssnapsvc",
    "Msvm_VirtualSystemReferencePointService": "vmrefpointsvc",
    "Msvm_ImageManagementService": "vhdsvc",
    "Msvm_VssService": "vsssvc",
    "Msvm_SecurityService": "securitysvc",
    "Msvm_CollectionManagementService": "collectionmgmtsvc",
    "Msvm_CollectionSnapshotService": "collectionsnapsvc",
    "Msvm_CollectionReferencePointService": "collectionrefpointsvc",
    "Msvm_ReplicationService": "replicationsvc",
    "Msvm_VirtualSystemMigrationService": "migrationsvc",
}
NAMES: Final = tuple(_SHORT)


def builder(class_name: str) -> Callable[[World], Iterable[Instance]]:
    """Return the function that yields a service's only instance."""

    def build(world: World) -> Iterable[Instance]:
        yield Instance(
            class_name,
            {
                "CreationClassName": class_name,
                "ElementName": class_name.removeprefix("Msvm_"),
                "EnabledDefault": 2,
                "EnabledState": 2,
                "HealthState": 5,
                "Name": _SHORT[class_name],
                "OperationalStatus": [2],
                "RequestedState": 12,
                "Started": True,
                "Status": "OK",
                "SystemCreationClassName": "Msvm_ComputerSystem",
                "SystemName": world.state.name,
            },
        )

    return build
