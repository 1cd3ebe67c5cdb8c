"""Cut the lab's schemas from the contract: the classes that a program for backup and recovery can meet.

    python tools/make_lab_schema.py CONTRACT_DIR

reads wmi-server2019.json and wmi-server23h2.json there and writes src/vmkeep_lab/schema/*.json, in which
"cut" names what was left out. The contract comes from generated Go code (microsoft/wmi, MIT), read by a
pattern that loses two things, which are put back here from the same code: the first method of a class that
has properties (it stands under the name of a property's setter), and parameters marked as optional.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

OUT: Final = Path(__file__).parent.parent / "src" / "vmkeep_lab" / "schema"

# Namespaces kept, and the classes of each: those that match, with all they descend from.
KEPT: Final[Mapping[str, str]] = {
    "root/virtualization/v2": r"(?:Msvm|CIM)_(?!.*(?:Indication|ClassCreation|ClassDeletion|ClassModification"
    r"|Metric|WiFi|3d|3D)).+",
    "root/cimv2": r"(?:CIM|Win32)_.+",
    "root/mscluster": r"MSCluster_(?:Cluster|ClusterSharedVolume"
    r"|ClusterSharedVolumeTo(?:Node|Resource)|ClusterTo(?:ClusterSharedVolume|Node|Resource|ResourceGroup)|Node|NodeToActive(?:Group|Resource)|Property"
    r"|Resource|ResourceGroup|ResourceGroupToResource|ResourceType)",
}

# The first method of a class, lost under the name of the setter of its first property.
FIRST_METHODS: Final[Mapping[str, str]] = {
    "CIM_ComputerSystem": "SetPowerState",
    "CIM_ConcreteJob": "RequestStateChange",
    "CIM_EnabledLogicalElement": "RequestStateChange",
    "CIM_Job": "KillJob",
    "CIM_LogicalDevice": "SetPowerState",
    "CIM_MediaAccessDevice": "LockMedia",
    "CIM_OperatingSystem": "Reboot",
    "CIM_Service": "StartService",
    "CIM_TPM": "RequestTPMStateChange",
    "CIM_USBDevice": "GetDescriptor",
    "CIM_UnitaryComputerSystem": "SetPowerState",
    "Msvm_CollectionReferencePointExportJob": "GetErrorEx",
    "Msvm_ComputerSystem": "RequestReplicationStateChange",
    "Msvm_ConcreteJob": "GetErrorEx",
    "Msvm_CopyFileToGuestJob": "GetErrorEx",
    "Msvm_Keyboard": "PressKey",
    "Msvm_MigrationJob": "GetErrorEx",
    "Msvm_MountedStorageImage": "DetachVirtualHardDisk",
    "Msvm_Ps2Mouse": "GetButtonState",
    "Msvm_StorageJob": "GetErrorEx",
    "Msvm_SyntheticMouse": "GetButtonState",
    "Msvm_VirtualSystemMigrationService": "CheckVirtualSystemIsMigratable",
    "Msvm_VirtualSystemReferencePointExportJob": "GetErrorEx",
    "Win32_BaseService": "PauseService",
    "Win32_ComputerSystem": "Rename",
    "Win32_LogicalDisk": "Chkdsk",
    "Win32_OperatingSystem": "Win32Shutdown",
    "Win32_Process": "Create",
    "Win32_Service": "GetSecurityDescriptor",
    "Win32_ShadowCopy": "Create",
    "Win32_ShadowStorage": "Create",
    "Win32_Volume": "Chkdsk",
}

# Classes whose methods the contract tells wrongly beyond repair, and nobody needs.
WITHOUT_METHODS: Final = frozenset({"MSCluster_ResourceGroup", "Win32_Share"})

# Parameters marked as optional, lost: they come last in the generated code.
OPTIONAL: Final[Mapping[tuple[str, str], tuple[str, str, str]]] = {
    ("CIM_EnabledLogicalElement", "RequestStateChange"): ("in", "TimeoutPeriod", "datetime"),
    ("CIM_TPM", "RequestTPMStateChange"): ("in", "TimeoutPeriod", "datetime"),
    ("Msvm_ComputerSystem", "RequestReplicationStateChange"): ("in", "TimeoutPeriod", "datetime"),
    ("Msvm_ComputerSystem", "RequestReplicationStateChangeEx"): ("in", "TimeoutPeriod", "datetime"),
}

SCALARS: Final = {
    "string": "string",
    "bool": "boolean",
    **{f"uint{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    **{f"int{bits}": f"sint{bits}" for bits in (8, 16, 32, 64)},
}
_CLASS: Final = re.compile(r"(?:v2\.)?((?:Msvm|CIM|Win32|MSCluster)_\w+)")


def typed(text: str) -> str:
    """Return the schema's name of a type: ``uint64[]``, ``reference:CIM_Job``, ``enum:Job_JobState``."""
    item = text.removeprefix("[]")
    found = _CLASS.fullmatch(item)
    name = SCALARS.get(item) or (f"reference:{found[1]}" if found else f"enum:{item}")
    return name + "[]" * text.startswith("[]")


def methods(name: str, facts: Mapping[str, Any], lost: list[str]) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield a class's methods with their parameters; name in ``lost`` what cannot be put back."""
    if name in WITHOUT_METHODS:
        lost.append(f"{name}: its methods")
        return
    for spelled, parameters in sorted(facts["methods"].items()):
        method = FIRST_METHODS[name] if spelled.startswith("SetProperty") else spelled
        rows = [[each["direction"], each["name"], typed(each["type"])] for each in parameters]
        if (name, method) in OPTIONAL:
            rows.append(list(OPTIONAL[name, method]))
        yield method, rows


def cut(namespace: str, classes: Mapping[str, Any], lost: list[str]) -> dict[str, Any]:
    """Return the classes of a namespace that are kept."""
    kept = {name for name in classes if re.fullmatch(KEPT[namespace], name)}
    for name in list(kept):
        while (name := classes[name]["parent"]) in classes:
            kept.add(name)
    lost.extend(f"{namespace}:{name}" for name in sorted(set(classes) - kept))
    result: dict[str, Any] = {}
    for name in sorted(kept):
        facts = classes[name]
        entry: dict[str, Any] = {"parent": facts["parent"] if facts["parent"] in kept else None}
        if facts["properties"]:
            entry["properties"] = {key: typed(kind) for key, kind in sorted(facts["properties"].items())}
        if found := dict(methods(name, facts, lost)):
            entry["methods"] = found
        result[name] = entry
    return result


def written(facts: Mapping[str, Any]) -> str:
    """Return the file's text: one line a class, so that a difference can be read."""
    rows = [f'"host": {json.dumps(facts["host"])}', f'"source": {json.dumps(facts["source"])}']
    for space, classes in facts["namespaces"].items():
        lines = ",\n".join(
            f"  {json.dumps(name)}: {json.dumps(each, separators=(',', ':'))}"
            for name, each in classes.items()
        )
        rows.append(f"{json.dumps(space)}: {{\n{lines}\n}}")
    head, spaces = rows[:2], rows[2:]
    cut_rows = json.dumps(facts["cut"])
    return (
        "{" + ",\n".join(head) + ',\n"namespaces": {\n' + ",\n".join(spaces) + f'}},\n"cut": {cut_rows}\n}}\n'
    )


def main(folder: Path) -> None:
    """Write both schemas."""
    for name in ("server2019", "server23h2"):
        contract = json.loads((folder / f"wmi-{name}.json").read_text("utf-8"))
        lost: list[str] = []
        spaces = {space: cut(space, contract["namespaces"][space]["classes"], lost) for space in KEPT}
        lost.extend(f"{space}: all" for space in contract["namespaces"] if space not in KEPT)
        facts = {"host": contract["host"], "source": contract["source"], "namespaces": spaces, "cut": lost}
        (OUT / f"{name}.json").write_text(written(facts), "utf-8")
        print(f"{name}: {sum(map(len, spaces.values()))} classes kept, {len(lost)} names cut")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
