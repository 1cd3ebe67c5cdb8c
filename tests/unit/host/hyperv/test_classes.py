"""Everything that is touched exists, with its types, on two real hosts."""

import json
import re
from pathlib import Path
from typing import Any, Final

import pytest

from tests.architecture.checkout import ROOT
from vmkeep.host.hyperv import classes
from vmkeep.host.wsman import Method

pytestmark = pytest.mark.quick

HOSTS: Final = ("server2019", "server23h2")
_ENUMERATION: Final = re.compile(r"[A-Z]\w*_[A-Z]\w*")
_INTEGER: Final = re.compile(r"[us]int(8|16|32|64)")
_SPELLED: Final = {"bool": "boolean", **{f"int{bits}": f"sint{bits}" for bits in (8, 16, 32, 64)}}


def host_named(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / Path("tests/data/wmi") / f"{name}.json").read_text("utf-8"))
    return found


def fault_of(declared: str, generated: str | None, where: tuple[str, str]) -> str | None:
    """Say what is wrong with one declared type, in the light of the generator's; None if nothing is."""
    name = ".".join(where)
    if generated is None:
        return f"{name} is not there"
    is_array = generated.startswith("[]")
    kind = generated.removeprefix("[]")
    if is_array != declared.endswith("[]"):
        return f"{name} is declared {declared}, and is {generated}"
    ours = declared.removesuffix("[]")
    if _SPELLED.get(kind, kind) == ours:
        return None
    if kind.removeprefix("v2.").startswith(("CIM_", "Msvm_")):
        return None if ours == "reference" else f"{name} is declared {declared}, and is a reference"
    is_imprecise = (_ENUMERATION.fullmatch(kind) and (_INTEGER.fullmatch(ours) or ours == "string")) or (
        kind == "string" and ours == "datetime"
    )
    if is_imprecise and where in classes.TYPES_BY_SOURCE:
        return None
    return f"{name} is declared {declared}, and the generator says {generated}"


def properties_declared() -> list[tuple[str, str, str, str]]:
    read = [(c.namespace, c.name, c.properties) for c in classes.CLASSES]
    written = [(classes.V2, e.name, e.types) for e in classes.EMBEDDED]
    return [
        (namespace, name, prop, kind)
        for namespace, name, properties in [*read, *written]
        for prop, kind in properties.items()
    ]


@pytest.mark.parametrize("host", HOSTS)
def test_every_property_is_there_with_its_type(host: str) -> None:
    table = host_named(host)["classes"]
    assert len(properties_declared()) > 70
    faults = [
        fault
        for namespace, name, prop, kind in properties_declared()
        if (
            fault := fault_of(kind, table.get(name, {"properties": {}})["properties"].get(prop), (name, prop))
        )
        or table[name]["namespace"] != namespace
    ]
    assert not faults, "\n".join(map(str, faults))


@pytest.mark.parametrize("host", HOSTS)
def test_every_method_is_there_with_its_parameters_in_order(host: str) -> None:
    table = host_named(host)["classes"]
    faults: list[str] = []
    for call in classes.CALLS:
        where = f"{call.service}.{call.method.name}"
        spelled = table[call.service]["methods"].get(call.method.name)
        assert spelled is not None, f"{where} is not there"
        parameters = [line.split(" ") for line in spelled]
        types = {name: kind for _, name, kind in parameters}
        order = [name for direction, name, _ in parameters if direction == "in"]
        declared = [name for name, _ in call.method.inputs]
        assert declared == [name for name in order if name in declared], where
        for name, kind in [*call.method.inputs, *call.outputs.items()]:
            faults += filter(None, [fault_of(kind, types.get(name), (where, name))])
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("host", HOSTS)
def test_the_jobs_error_method_is_the_one_the_generator_renamed(host: str) -> None:
    table = host_named(host)["classes"]
    for (class_name, method), generated in classes.METHODS_RENAMED_BY_GENERATOR.items():
        assert method not in table[class_name]["methods"]
        assert table[class_name]["methods"][generated] == [
            f"out {name} []{kind.removesuffix('[]')}" for name, kind in classes.GET_ERROR_OUTPUTS.items()
        ]
    assert Method("GetErrorEx", ()) == classes.GET_ERROR


def test_each_exception_is_needed() -> None:
    """A source is named only where the generator is imprecise."""
    known = {(name, prop) for _, name, prop, _ in properties_declared()}
    known |= {(f"{c.service}.{c.method.name}", name) for c in classes.CALLS for name, _ in c.method.inputs}
    assert set(classes.TYPES_BY_SOURCE) <= known
    table = host_named("server2019")["classes"]
    for name, prop in classes.TYPES_BY_SOURCE:
        if "." not in name:
            generated = table[name]["properties"][prop]
            assert generated == "string" or _ENUMERATION.fullmatch(generated.removeprefix("[]")), (name, prop)


@pytest.mark.parametrize(
    ("declared", "generated", "where"),
    [
        ("uint16", None, ("Msvm_ComputerSystem", "EnabledStatus")),
        ("uint16", "uint32", ("Msvm_ConcreteJob", "ErrorCode")),
        ("uint16", "[]uint16", ("Msvm_ConcreteJob", "ErrorCode")),
        ("string", "CIM_ConcreteJob", ("S.M", "Job")),
        ("datetime", "string", ("Msvm_ConcreteJob", "InstanceID")),
        ("uint16", "ConcreteJob_JobState", ("Msvm_ConcreteJob", "PercentComplete")),
        ("boolean", "ConcreteJob_JobState", ("Msvm_ConcreteJob", "JobState")),
    ],
)
def test_the_comparison_bites(declared: str, generated: str | None, where: tuple[str, str]) -> None:
    assert fault_of(declared, generated, where)
