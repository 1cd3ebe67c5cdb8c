"""Hosts of the lab, driven through what the wire asks of them: instances and methods, and a clock to push."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from vmkeep_lab.cim import CIMV2, V2, CimValue, Instance, Ref
from vmkeep_lab.host.provider import Host
from vmkeep_lab.scenario import load, raise_host
from vmkeep_lab.scenario.load import Scenario, parse

MIB = 1 << 20
JOB_STARTED = 4096
INVALID_STATE = 32775
RECOVERY = 32768

EVIL = r"evil\r\n<script>alert(1)</script> [red]x[/red] \u001B[31m \u202Egnp.exe ../../etc"
SMALL = rf"""
title = "two small VMs"

[host]
name = "HV"
seed = 3

[behaviour]
checkpoint_s = 10
merge_s = 5
merge_retry_s = 20

[[vm]]
name = "one"
stranger_reference_points = 1

[[vm.disk]]
name = "system"
size_mib = 8
used_mib = 3

[[vm.disk]]
name = "data"
size_mib = 4
used_mib = 1

[[vm]]
name = "chained"
generation = 1
state = "off"

[[vm.disk]]
name = "c"
size_mib = 6
used_mib = 2

[[vm.checkpoint]]
name = "first"
writes = 8

[[vm.checkpoint]]
name = "second"
writes = 8

[[vm]]
name = "{EVIL}"
state = "off"

[[vm.disk]]
size_mib = 4
used_mib = 1

[[vm.checkpoint]]
name = "OtherBackup_1_recovery"
owner = "stranger"
writes = 4
"""
QUICK: Final = (
    SMALL.replace("checkpoint_s = 10", "checkpoint_s = 0.1")
    .replace("merge_s = 5", "merge_s = 0.1")
    .replace("merge_retry_s = 20", "merge_retry_s = 0.3")
)


class Holders:
    """Says that others hold a file open, where a test put its name."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def holders(self, files: Iterable[Path]) -> list[str]:
        return [f"4711 {each}" for each in files if each.name in self.names]


class LabHost:
    """A host of the lab and the moves of a backup program on it."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self.holders = Holders()
        self.folder = folder
        self.scenario = scenario
        self.host: Host = raise_host(scenario, folder, self.holders)

    @classmethod
    def small(cls, folder: Path, text: str = SMALL) -> "LabHost":
        return cls(parse(text, "small"), folder)

    @classmethod
    def named(cls, folder: Path, name: str) -> "LabHost":
        return cls(load(name), folder)

    # --- reading ----------------------------------------------------------------------------

    def all(self, class_name: str, **wanted: CimValue) -> list[Instance]:
        """Every instance of a class whose properties are as wanted."""
        namespace = CIMV2 if class_name.startswith("Win32_") else V2
        found = self.host.instances(namespace, class_name)
        return [each for each in found if all(each.values.get(k) == v for k, v in wanted.items())]

    def one(self, class_name: str, **wanted: CimValue) -> Instance:
        (found,) = self.all(class_name, **wanted)
        return found

    def vm(self, name: str) -> Instance:
        return self.one("Msvm_ComputerSystem", ElementName=name)

    def vm_id(self, name: str) -> str:
        return str(self.vm(name).values["Name"])

    def vm_ref(self, name: str) -> Ref:
        return Ref.to("Msvm_ComputerSystem", CreationClassName="Msvm_ComputerSystem", Name=self.vm_id(name))

    def paths(self, settings: Ref) -> list[str]:
        """The disk files that a VM or a checkpoint shows, found through the association."""
        parts = self.all("Msvm_VirtualSystemSettingDataComponent", GroupComponent=settings)
        refs = [each.values["PartComponent"] for each in parts]
        ids = [ref.key("InstanceID") for ref in refs if isinstance(ref, Ref)]
        media = self.all("Msvm_StorageAllocationSettingData")
        shown = [each.values["HostResource"] for each in media if each.values["InstanceID"] in ids]
        return [str(path) for paths in shown if isinstance(paths, list) for path in paths]

    def leaves(self, name: str) -> list[str]:
        """The disk files that a VM itself has now."""
        return self.paths(Ref.to("Msvm_VirtualSystemSettingData", InstanceID=f"Microsoft:{self.vm_id(name)}"))

    def real(self, path: str) -> Path:
        return self.host.world.places.real(path)

    def status(self, name: str) -> list[int]:
        return [each for each in as_list(self.vm(name).values["OperationalStatus"]) if isinstance(each, int)]

    def events(self, code: int) -> list[str]:
        return [each.text for each in self.host.world.state.events if each.code == code]

    def truth(self, checkpoint: str = "") -> list[dict[str, Any]]:
        lines = (self.folder / "truth.jsonl").read_text("utf-8").splitlines()
        found = [json.loads(each) for each in lines]
        return [each for each in found if not checkpoint or each["checkpoint"] == checkpoint]

    # --- acting -------------------------------------------------------------------------------

    def call(self, service: str, method: str, /, **arguments: CimValue) -> Mapping[str, CimValue]:
        target = Ref.to(service, CreationClassName=service)
        return self.host.invoke(target, method, arguments)

    def pass_time(self, seconds: float) -> None:
        self.host.world.clock.push(seconds)
        self.host.advance()

    def settle(self) -> None:
        """Let time pass until no merge is owed that can be done."""
        for _ in range(20):
            self.pass_time(25)
            if not any(vm.merges and vm.merging_enabled for vm in self.host.world.state.vms):
                return
        raise AssertionError("the merges do not end")

    def write(self, name: str, count: int = 5) -> None:
        """Let a guest write."""
        vm = self.host.world.state.vm(self.vm_id(name))
        assert vm is not None
        with self.host.lock:
            self.host.guests.step(vm, count)

    def begin_checkpoint(self, name: str, level: int = 2, kind: int = RECOVERY) -> Mapping[str, CimValue]:
        settings = Instance("Msvm_VirtualSystemSnapshotSettingData", {"ConsistencyLevel": level})
        return self.call(
            "Msvm_VirtualSystemSnapshotService",
            "CreateSnapshot",
            AffectedSystem=self.vm_ref(name),
            SnapshotSettings=settings,
            SnapshotType=kind,
        )

    def job(self, result: Mapping[str, CimValue]) -> Instance:
        """The job that a method started, once it has ended."""
        assert result["ReturnValue"] == JOB_STARTED, result
        job = result["Job"]
        assert isinstance(job, Ref)
        self.pass_time(30)
        return self.one(job.class_name, InstanceID=job.key("InstanceID"))

    def made(self, result: Mapping[str, CimValue]) -> Ref:
        """The element that a job made, found as clients find it."""
        done = self.job(result)
        assert (done.values["JobState"], done.values["ErrorCode"]) == (7, 0), done
        rows = self.all("Msvm_AffectedJobElement", AffectingElement=result["Job"], ElementEffects=[5])
        (element,) = [each.values["AffectedElement"] for each in rows]
        assert isinstance(element, Ref)
        return element

    def checkpoint(self, name: str, level: int = 2, kind: int = RECOVERY) -> Ref:
        return self.made(self.begin_checkpoint(name, level, kind))

    def convert(self, checkpoint: Ref) -> Ref:
        return self.made(
            self.call(
                "Msvm_VirtualSystemSnapshotService", "ConvertToReferencePoint", AffectedSnapshot=checkpoint
            )
        )

    def destroy(self, checkpoint: Ref) -> None:
        result = self.call(
            "Msvm_VirtualSystemSnapshotService", "DestroySnapshot", AffectedSnapshot=checkpoint
        )
        assert self.job(result).values["JobState"] == 7

    def rct_ids(self, point: Ref) -> list[str]:
        found = self.one("Msvm_VirtualSystemReferencePoint", InstanceID=point.key("InstanceID"))
        return [str(each) for each in as_list(found.values["ResilientChangeTrackingIdentifiers"])]

    def changes(self, path: str, since: str, size: int, window: int = 0) -> tuple[list[tuple[int, int]], int]:
        """All changed ranges of a disk, read window by window, and how many calls it took."""
        ranges: list[tuple[int, int]] = []
        offset = calls = 0
        while offset < size:
            answer = self.call(
                "Msvm_ImageManagementService",
                "GetVirtualDiskChanges",
                Path=path,
                LimitId=since,
                ByteOffset=offset,
                ByteLength=min(window or size, size - offset),
            )
            assert answer["ReturnValue"] == 0, answer
            starts, lengths = as_list(answer["ChangedByteOffsets"]), as_list(answer["ChangedByteLengths"])
            pairs = zip(starts, lengths, strict=True)
            ranges += [(a, b) for a, b in pairs if isinstance(a, int) and isinstance(b, int)]
            processed = answer["ProcessedByteLength"]
            assert isinstance(processed, int)
            assert processed > 0
            offset += processed
            calls += 1
        return ranges, calls


def as_list(value: CimValue) -> list[Any]:
    assert isinstance(value, list)
    return value


def id_of(settings: Ref) -> str:
    """The GUID of a checkpoint from the reference to its settings."""
    return settings.key("InstanceID").removeprefix("Microsoft:")
