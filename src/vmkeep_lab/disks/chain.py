"""How the files of a disk name and find each other, and who of them answers for a range."""

import ntpath
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from vmkeep_lab.disks.errors import ChainCycle, DiskCorrupt, ParentChanged, ParentNotFound
from vmkeep_lab.disks.layer import BELOW, Layer
from vmkeep_lab.disks.metadata import ParentLocator
from vmkeep_lab.disks.vhdx_file import derived_guid

_DEEPEST = 64


class Extent(NamedTuple):
    """A range of a disk and the bytes of the layer that hold it; zeros where there is no layer."""

    offset: int
    length: int
    layer: Layer | None
    place: int


def resolve(layers: Sequence[Layer], offset: int, length: int) -> Iterator[Extent]:
    """Yield what a range consists of, seen from the first of the layers (child before parent)."""
    top, below = layers[0], layers[1:]
    for segment in top.segments(offset, length):
        if segment.place >= 0:
            yield Extent(segment.offset, segment.length, top, segment.place)
        elif segment.place == BELOW and below:
            # A shorter parent ends in zeros (vhdx-vhd-spec.md 6).
            inside = max(0, min(segment.length, below[0].size - segment.offset))
            yield from resolve(below, segment.offset, inside)
            if inside < segment.length:
                yield Extent(segment.offset + inside, segment.length - inside, None, 0)
        else:
            yield Extent(segment.offset, segment.length, None, 0)


def locator_of(linkage: UUID, parent: Path, child: Path, host_path: str, volume_path: str) -> ParentLocator:
    """Return how a child names its parent; ``host_path`` is the parent's as the host knows it."""
    volume = volume_path or _volume_path(host_path)
    return ParentLocator(linkage, relative_path(parent, child), host_path, volume)


def relative_path(parent: Path, child: Path) -> str:
    """Return where a parent lies as seen from its child's folder, in the host's way of writing."""
    relative = os.path.relpath(parent, child.parent).replace("/", "\\")
    return relative if relative.startswith("..") else f".\\{relative}"


def _volume_path(host_path: str) -> str:
    drive, rest = ntpath.splitdrive(host_path)
    return f"\\\\?\\Volume{{{derived_guid('volume', drive.upper())}}}{rest}"


def open_chain(leaf: Path, *, through_log: bool, seed: object) -> list[Layer]:
    """Open a file and all its ancestors, child first, each found by the relative path of its child."""
    layers = [Layer(leaf, through_log=through_log, seed=seed)]
    try:
        while (locator := layers[-1].locator) is not None:
            path = Path(os.path.normpath(layers[-1].path.parent / locator.relative_path.replace("\\", "/")))
            if not locator.relative_path or not path.is_file():
                raise ParentNotFound(f"{layers[-1].path.name} names {locator.relative_path!r} as its parent")
            if any(path.samefile(layer.path) for layer in layers):
                raise ChainCycle(f"{path.name} is its own ancestor")
            if len(layers) == _DEEPEST:
                raise DiskCorrupt(f"more than {_DEEPEST} layers")
            layers.append(Layer(path, through_log=through_log, seed=seed))
            check_parent(layers[-2], layers[-1])
    except BaseException:
        for layer in layers:
            layer.file.abandon()
        raise
    return layers


def check_parent(child: Layer, parent: Layer) -> None:
    """Refuse a parent that is not the file the child was made from, or has changed since."""
    if child.locator is None or not child.locator.allows(parent.data_write_guid):
        raise ParentChanged(f"{parent.path.name} is not what {child.path.name} was made from")
    if child.metadata.logical_sector != parent.metadata.logical_sector:
        raise DiskCorrupt(f"{child.path.name} and {parent.path.name} differ in the size of sectors")
