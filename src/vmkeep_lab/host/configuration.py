"""The configuration files of a VM and of its checkpoints: stand-ins with the right names.

Their bytes are not Hyper-V's format, which is undocumented; they are the same for the same VM and moment, so
that a restored copy can be compared.
"""

import hashlib
from pathlib import PureWindowsPath
from typing import Final

from vmkeep_lab.host.codes import Power
from vmkeep_lab.host.state import Checkpoint, Vm
from vmkeep_lab.host.world import World

GUEST_STATE_SINCE: Final = 16299  # .vmgs exists since 1709 (section 1.2)
_CONFIGURATION_BYTES: Final = 48 << 10
_STATE_BYTES: Final = 160 << 10
_MEMORY_BYTES: Final = 1 << 20


def configuration_file(vm: Vm) -> str:
    """Return the VM's configuration file, relative to its folder (section 1.2)."""
    return rf"Virtual Machines\{vm.id}.vmcx"


def checkpoint_file(checkpoint: Checkpoint) -> str:
    """Return a checkpoint's configuration file, relative to the VM's folder (2.3 step 5, BA and NX)."""
    return rf"Snapshots\{checkpoint.id}.vmcx"


def suffixes(world: World) -> tuple[str, ...]:
    """Return the kinds of configuration file that this host writes."""
    return (".vmcx", ".vmrs", ".vmgs") if world.state.build >= GUEST_STATE_SINCE else (".vmcx", ".vmrs")


def write_vm(world: World, vm: Vm) -> None:
    """Write a VM's own files; the run-time state is large while the VM is saved."""
    _write(world, vm, configuration_file(vm), f"{vm.id}/{vm.changed}", vm.power is Power.SAVED)


def write_checkpoint(world: World, vm: Vm, checkpoint: Checkpoint) -> None:
    """Write a checkpoint's files."""
    _write(world, vm, checkpoint_file(checkpoint), checkpoint.id, checkpoint.has_memory)


def delete_checkpoint(world: World, vm: Vm, checkpoint: Checkpoint) -> None:
    """Delete a checkpoint's files."""
    first = PureWindowsPath(vm.folder, checkpoint_file(checkpoint))
    for suffix in suffixes(world):
        world.places.real(str(first.with_suffix(suffix))).unlink(missing_ok=True)


def _write(world: World, vm: Vm, name: str, seed: str, has_memory: bool) -> None:
    first = PureWindowsPath(vm.folder, name)
    for suffix in suffixes(world):
        size = _CONFIGURATION_BYTES if suffix == ".vmcx" else _STATE_BYTES
        if has_memory and suffix == ".vmrs":
            size += _MEMORY_BYTES
        place = world.places.real(str(first.with_suffix(suffix)))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(_bytes(f"{seed}{suffix}", size))


def _bytes(seed: str, size: int) -> bytes:
    """Return bytes that look like nothing, the same for the same seed."""
    head = f"vmkeep_lab {seed}\n".encode()
    return head + hashlib.shake_128(head).digest(size - len(head))
