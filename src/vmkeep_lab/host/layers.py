"""Which files of a disk's tree are still needed, and which merge is owed next: pure, no files touched."""

from collections.abc import Iterable

from vmkeep_lab.host.state import Disk, Frozen, Layer, Merge, Vm


def children(disk: Disk, path: str) -> list[Layer]:
    """Return the layers that stand directly on a file."""
    return [each for each in disk.layers if each.below == path]


def held(vm: Vm, disk: Disk) -> set[str]:
    """Return the files that the VM itself or a checkpoint shows as a disk."""
    frozen = {each.disks[disk.slot].path for each in vm.checkpoints if disk.slot in each.disks}
    return frozen | {disk.leaf}


def chain(disk: Disk, path: str) -> list[str]:
    """Return a file and all below it, top first."""
    below = {each.path: each.below for each in disk.layers}
    files = []
    while path:
        files.append(path)
        path = below[path]
    return files


def unneeded(vm: Vm, disk: Disk) -> list[str]:
    """Return the files that nobody shows and nothing stands on."""
    needed = held(vm, disk)
    return [each.path for each in disk.layers if each.path not in needed and not children(disk, each.path)]


def owed(vm: Vm, disk: Disk) -> Merge | None:
    """Return the merge that is owed: a file that nobody shows takes in the only one that stands on it.

    Two that stand on it keep it: they are branches of the checkpoint tree.
    """
    needed = held(vm, disk)
    for layer in disk.layers:
        above = children(disk, layer.path)
        if layer.path not in needed and len(above) == 1:
            return Merge(disk.slot, child=above[0].path, parent=layer.path)
    return None


def merged(vm: Vm, disk: Disk, merge: Merge) -> None:
    """Note that the child's content now lies in the parent: whoever showed the child shows the parent."""
    if disk.leaf == merge.child:
        disk.leaf = merge.parent
    for frozen in _frozen(vm, disk):
        if frozen.path == merge.child:
            frozen.path = merge.parent
    disk.layers = [each for each in disk.layers if each.path != merge.child]
    for layer in disk.layers:
        if layer.below == merge.child:
            layer.below = merge.parent


def _frozen(vm: Vm, disk: Disk) -> Iterable[Frozen]:
    return (each.disks[disk.slot] for each in vm.checkpoints if disk.slot in each.disks)
