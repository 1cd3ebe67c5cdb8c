"""Read a scenario file."""

import tomllib
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Final

from vmkeep_lab.disks import image, image_names
from vmkeep_lab.host.faults import Fault
from vmkeep_lab.host.instances.windows import RELEASES
from vmkeep_lab.host.records import Misfit, read
from vmkeep_lab.host.texts import LOCALES
from vmkeep_lab.host.world import Behaviour

SCHEMAS: Final = ("server2019", "server23h2")


class ScenarioError(ValueError):
    """A scenario that cannot be read; the text names the file and the place."""


@dataclass
class HostPart:
    """``[host]``: what the host is."""

    name: str
    build: int = 20348
    edition: str = "server"
    locale: str = "en-US"
    schema: str = "server2019"
    seed: int = 1


@dataclass
class DiskPart:
    """``[[vm.disk]]``: one disk; ``size_mib`` as the guest sees it, ``used_mib`` of it filled.

    ``image``: a disk with a real file system, one of ``disks.image_names()``; what is filled and written is
    then one file in it, and the rest stays sound.

    ``kind``: vhdx, passthrough, shared, or dvd (an image in the drive, which no checkpoint holds).
    """

    size_mib: int
    name: str = "disk"
    used_mib: int = 0
    fixed: bool = False
    kind: str = "vhdx"
    image: str = ""


@dataclass
class CheckpointPart:
    """``[[vm.checkpoint]]``: a checkpoint taken before the story begins, after ``writes`` of the guest.

    ``owner`` is user, or stranger: another product's recovery checkpoint.
    """

    name: str
    owner: str = "user"
    writes: int = 40
    notes: list[str] = field(default_factory=list)
    memory: bool = False


@dataclass
class GuestPart:
    """``[vm.guest]``: what runs in the VM. ``vss``: ok, degraded, no-contact, lost, or disabled."""

    family: str = "windows"
    name: str = "Windows Server 2022 Datacenter"
    version: str = "10.0.20348"
    vss: str = "ok"
    writer_failed: bool = False


@dataclass
class VmPart:
    """``[[vm]]``: a VM, or ``count`` of them with ``{n}`` in the name.

    ``state``: running, off, saved, paused.

    ``setting``: production, production-only, standard or disabled. ``stranger_reference_points``: how many
    baselines another product holds.
    """

    name: str
    disk: list[DiskPart]
    generation: int = 2
    version: str = "10.0"
    state: str = "running"
    setting: str = "production"
    folder: str = ""
    count: int = 1
    memory_mb: int = 1024
    processors: int = 2
    writes_per_second: float = 0.0
    replication: int = 0
    replication_state: int = 0
    notes: list[str] = field(default_factory=list)
    guest: GuestPart = field(default_factory=GuestPart)
    checkpoint: list[CheckpointPart] = field(default_factory=list)
    stranger_reference_points: int = 0


@dataclass
class Scenario:
    """A whole file."""

    title: str
    host: HostPart
    vm: list[VmPart]
    behaviour: Behaviour = field(default_factory=Behaviour)
    fault: list[Fault] = field(default_factory=list)
    name: str = ""


_CHOICES: Final = {
    "host.edition": ("server", "client"),
    "host.locale": LOCALES,
    "host.schema": SCHEMAS,
    "host.build": tuple(RELEASES),
}
VM_STATES: Final = ("running", "off", "saved", "paused")
SETTINGS: Final = ("disabled", "production", "production-only", "standard")
VSS_STATES: Final = ("ok", "degraded", "no-contact", "lost", "disabled")
DISK_KINDS: Final = ("vhdx", "passthrough", "shared", "dvd")
OWNERS: Final = ("user", "stranger")


def scenario_names() -> list[str]:
    """Return the scenarios that come with the lab."""
    folder = resources.files("vmkeep_lab.scenario")
    return sorted(each.name.removesuffix(".toml") for each in folder.iterdir() if each.name.endswith(".toml"))


def load(name: str) -> Scenario:
    """Read a scenario of the lab by name, or any file by its path (which ends in .toml)."""
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise ScenarioError(f"there is no file {name}")
        return parse(path.read_text("utf-8"), path.stem)
    if name not in scenario_names():
        raise ScenarioError(f"there is no scenario {name!r}; there are {', '.join(scenario_names())}")
    text = resources.files("vmkeep_lab.scenario").joinpath(f"{name}.toml").read_text("utf-8")
    return parse(text, name)


def parse(text: str, name: str) -> Scenario:
    """Read a scenario's text; ScenarioError for anything that it cannot mean."""
    try:
        scenario = read(Scenario, tomllib.loads(text), name)
        _check(scenario)
    except (Misfit, tomllib.TOMLDecodeError) as error:
        raise ScenarioError(f"{name}: {error}") from error
    scenario.name = name
    return scenario


def _check(scenario: Scenario) -> None:
    for place, allowed in _CHOICES.items():
        _choose(place, getattr(scenario.host, place.removeprefix("host.")), allowed)
    for number, vm in enumerate(scenario.vm):
        where = f"vm[{number}]"
        _choose(f"{where}.state", vm.state, VM_STATES)
        _choose(f"{where}.setting", vm.setting, SETTINGS)
        _choose(f"{where}.generation", vm.generation, (1, 2))
        _choose(f"{where}.guest.vss", vm.guest.vss, VSS_STATES)
        if vm.count > 1 and (vm.checkpoint or vm.stranger_reference_points):
            raise Misfit(f"{where} is {vm.count} VMs: they have no history")
        if vm.generation == 1 and len(vm.disk) > 4:
            raise Misfit(f"{where} has more disks than IDE has places")
        for index, disk in enumerate(vm.disk):
            _choose(f"{where}.disk[{index}].kind", disk.kind, DISK_KINDS)
            _choose(f"{where}.disk[{index}].image", disk.image, ("", *image_names()))
            if disk.image and disk.size_mib << 20 != image(disk.image).size:
                raise Misfit(f"{where}.disk[{index}] is not as large as the image {disk.image!r}")
            if not disk.size_mib > 0 or not 0 <= disk.used_mib <= disk.size_mib:
                raise Misfit(f"{where}.disk[{index}] must be larger than what is used of it")
        for index, checkpoint in enumerate(vm.checkpoint):
            _choose(f"{where}.checkpoint[{index}].owner", checkpoint.owner, OWNERS)


def _choose(where: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise Misfit(f"{where} must be one of {', '.join(map(repr, allowed))}, not {value!r}")
