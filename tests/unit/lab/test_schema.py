"""The schemas of two real hosts: inheritance, keys, times, what the contract lost, refusals."""

import pytest

from vmkeep_lab.cim import (
    CIMV2,
    V2,
    WBEM_E_INVALID_CLASS,
    WBEM_E_INVALID_METHOD,
    WBEM_E_INVALID_NAMESPACE,
    WBEM_E_NOT_FOUND,
    WmiError,
)
from vmkeep_lab.schema import CimType, Schema
from vmkeep_lab.schema import keys as known
from vmkeep_lab.schema.classes import INTEGERS

pytestmark = pytest.mark.quick

HOSTS = ("server2019", "server23h2")


@pytest.fixture(scope="module", params=HOSTS)
def schema(request: pytest.FixtureRequest) -> Schema:
    return Schema.load(request.param)


def test_classes_are_found_without_case_and_know_all_they_inherit(schema: Schema) -> None:
    found = schema.find("ROOT\\Virtualization\\V2", "msvm_computersystem")
    assert found.name == "Msvm_ComputerSystem"
    assert found.is_a("CIM_ManagedElement")
    assert not found.is_a("CIM_Job")
    assert found.properties["InstallDate"] == CimType("datetime")
    assert found.properties["OperationalStatus"] == CimType("uint16", is_array=True)
    assert list(found.properties) == sorted(found.properties, key=str.lower)
    assert [each.name for each in found.lineage][-1] == "CIM_ManagedElement"


@pytest.mark.parametrize(
    ("namespace", "name", "keys"),
    [
        # Selectors that appear in recordings or on Microsoft's class pages.
        (V2, "Msvm_ComputerSystem", ("CreationClassName", "Name")),
        (V2, "Msvm_ConcreteJob", ("InstanceID",)),
        (V2, "Msvm_StorageJob", ("InstanceID",)),
        (V2, "Msvm_VirtualSystemSettingData", ("InstanceID",)),
        (V2, "Msvm_StorageAllocationSettingData", ("InstanceID",)),
        (V2, "Msvm_VirtualSystemReferencePoint", ("InstanceID", "VirtualSystemIdentifier")),
        (V2, "Msvm_AffectedJobElement", ("AffectedElement", "AffectingElement")),
        (V2, "Msvm_SnapshotOfVirtualSystem", ("Antecedent", "Dependent")),
        (
            V2,
            "Msvm_ImageManagementService",
            ("CreationClassName", "Name", "SystemCreationClassName", "SystemName"),
        ),
        (
            V2,
            "Msvm_VssComponent",
            ("CreationClassName", "DeviceID", "SystemCreationClassName", "SystemName"),
        ),
        (V2, "Msvm_VirtualHardDiskState", ()),
        (CIMV2, "Win32_Service", ("Name",)),
        (CIMV2, "Win32_ShadowCopy", ("ID",)),
        (CIMV2, "Win32_NTLogEvent", ("Logfile", "RecordNumber")),
        ("root/mscluster", "MSCluster_ResourceGroup", ("Name",)),
    ],
)
def test_keys(schema: Schema, namespace: str, name: str, keys: tuple[str, ...]) -> None:
    assert schema.find(namespace, name).keys == keys


@pytest.mark.parametrize(
    ("class_name", "method"),
    [
        ("Msvm_ComputerSystem", "RequestStateChange"),
        ("Msvm_ComputerSystem", "RequestReplicationStateChange"),
        ("Msvm_ConcreteJob", "GetErrorEx"),
        ("Msvm_ConcreteJob", "KillJob"),
        ("Msvm_StorageJob", "GetErrorEx"),
        ("Msvm_ImageManagementService", "StartService"),
        ("Msvm_MountedStorageImage", "DetachVirtualHardDisk"),
    ],
)
def test_methods_that_the_contract_lost_are_back(schema: Schema, class_name: str, method: str) -> None:
    assert schema.find(V2, class_name).method(method.upper()).name == method


def test_no_setter_of_the_generated_code_is_left(schema: Schema) -> None:
    names = [name for space in schema.namespaces for each in schema.classes(space) for name in each.methods]
    assert "CreateSnapshot" in names
    assert not [name for name in names if name.startswith(("SetProperty", "GetProperty"))]


def test_parameters_have_the_order_and_direction_of_the_mof(schema: Schema) -> None:
    method = schema.find(V2, "Msvm_VirtualSystemSnapshotService").method("CreateSnapshot")
    # learn.microsoft.com, CreateSnapshot method of the Msvm_VirtualSystemSnapshotService class.
    assert [(each.name, each.is_in, each.is_out) for each in method.parameters] == [
        ("AffectedSystem", True, False),
        ("SnapshotSettings", True, False),
        ("SnapshotType", True, False),
        ("ResultingSnapshot", True, True),
        ("Job", False, True),
    ]
    assert method.parameters[0].type == CimType("reference", of="CIM_ComputerSystem")
    assert method.parameters[1].type.is_embedded
    assert method.parameters[2].type == CimType("uint16")
    change = schema.find(V2, "Msvm_ComputerSystem").method("RequestStateChange")
    timeout = change.parameter("timeoutperiod")
    assert timeout is not None
    assert timeout.type == CimType("datetime")


def test_types_of_the_settings_of_a_recovery_checkpoint(schema: Schema) -> None:
    settings = schema.find(V2, "Msvm_VirtualSystemSnapshotSettingData")
    assert settings.property_type("ConsistencyLevel") == CimType("uint8")
    assert settings.property_type("IgnoreNonSnapshottableDisks") == CimType("boolean")
    changes = schema.find(V2, "Msvm_ImageManagementService").method("GetVirtualDiskChanges")
    offsets = changes.parameter("ChangedByteOffsets")
    assert offsets is not None
    assert offsets.type == CimType("uint64", is_array=True)


def test_what_only_one_of_the_hosts_has() -> None:
    older, newer = (Schema.load(name) for name in HOSTS)
    newer.find(V2, "Msvm_ComputerSystem").method("RequestCustomRestore")
    with pytest.raises(WmiError) as refused:
        older.find(V2, "Msvm_ComputerSystem").method("RequestCustomRestore")
    assert refused.value.code == WBEM_E_INVALID_METHOD


def test_what_is_not_there_is_refused_as_a_host_refuses_it(schema: Schema) -> None:
    with pytest.raises(WmiError) as refused:
        schema.find("root/nowhere", "Msvm_ComputerSystem")
    assert refused.value.code == WBEM_E_INVALID_NAMESPACE
    with pytest.raises(WmiError) as refused:
        schema.find(V2, "Msvm_Nothing")
    assert refused.value.code == WBEM_E_INVALID_CLASS
    with pytest.raises(WmiError) as refused:
        schema.find(V2, "Msvm_ComputerSystem").property_type("Nothing")
    assert refused.value.code == WBEM_E_NOT_FOUND


def test_every_row_of_the_tables_is_about_something(schema: Schema) -> None:
    other = Schema.load(HOSTS[1] if schema.host.endswith("2019") else HOSTS[0])
    there = {each.name for one in (schema, other) for space in one.namespaces for each in one.classes(space)}
    assert set(known.KEYS) <= there
    for space in schema.namespaces:
        for each in schema.classes(space):
            assert set(each.keys) <= set(each.properties), each
            for name, kind in each.properties.items():
                assert kind.name in {*INTEGERS, "string", "boolean", "datetime", "reference", "object"}, (
                    each,
                    name,
                )


def test_descendants() -> None:
    found = Schema.load("server2019").find(V2, "CIM_ConcreteJob").descendants
    names = {each.name for each in found}
    assert {"CIM_ConcreteJob", "Msvm_ConcreteJob", "Msvm_StorageJob", "Msvm_MigrationJob"} <= names
    assert "Msvm_ComputerSystem" not in names
