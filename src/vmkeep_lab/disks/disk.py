"""The disk of a simulated VM: real VHDX files, read and written as its guest would."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import RLock
from typing import Final, Literal
from uuid import UUID

from vmkeep_lab.disks.chain import Extent, check_parent, locator_of, open_chain, relative_path, resolve
from vmkeep_lab.disks.errors import BadRequest, LayerInUse, NoSuchLayer
from vmkeep_lab.disks.layer import Layer
from vmkeep_lab.disks.merge import Merge
from vmkeep_lab.disks.metadata import Metadata
from vmkeep_lab.disks.tracker import ChangeTracker
from vmkeep_lab.disks.vhdx import MIB, NO_GUID
from vmkeep_lab.disks.vhdx_file import derived_guid

_PIECE: Final = 4 * MIB
_ZEROS: Final = bytes(_PIECE)


class VirtualDisk:
    """One disk: a base and the layers above it, the topmost of which the guest writes.

    All but the leaf are frozen and clean. Threads may share a disk; hold
    ``lock`` to make several calls one instant (a checkpoint of several disks,
    a checkpoint and a tracker's mark).

    ``seed`` flavours the GUIDs to come (see ``VhdxFile``): give each VM its
    own. With ``through_log`` off, metadata is written in place and files in
    use look like clean ones.
    """

    def __init__(self, chain: Sequence[Layer], *, through_log: bool, seed: object) -> None:
        self.lock = RLock()
        self.tracker: ChangeTracker | None = None
        self._through_log = through_log
        self._seed = seed
        self._merge: Merge | None = None
        self._layers: dict[Path, Layer] = {}
        self._parents: dict[Path, Path | None] = {}
        self._leaf = chain[0].path
        self._add_chain(chain)

    @classmethod
    def create(
        cls,
        path: Path,
        size: int,
        *,
        kind: Literal["dynamic", "fixed"] = "dynamic",
        block_size: int = 2 * MIB,
        logical_sector: int = 512,
        physical_sector: int = 4096,
        disk_id: UUID | None = None,
        through_log: bool = True,
        seed: object = "",
    ) -> "VirtualDisk":
        """Make a new, empty disk; an existing file is an error (FileExistsError)."""
        path = Path(os.path.abspath(path))
        identity = disk_id or derived_guid("disk", path.name, size, seed)
        metadata = Metadata(size, block_size, identity, logical_sector, physical_sector, kind == "fixed")
        if size <= 0 or size % logical_sector or size > 64 << 40:
            raise BadRequest(f"a disk of {size} bytes")
        Layer.create(path, metadata, seed=seed)
        return cls.open(path, through_log=through_log, seed=seed)

    @classmethod
    def open(
        cls, leaf: Path, *, others: Iterable[Path] = (), through_log: bool = True, seed: object = ""
    ) -> "VirtualDisk":
        """Open a disk by its leaf, whoever wrote it and however the writer ended.

        ``others``: topmost files of further branches (checkpoints aside of the
        running one). What a killed writer left in a log is finished first.
        """
        chain = open_chain(Path(os.path.abspath(leaf)), through_log=through_log, seed=seed)
        disk = cls(chain, through_log=through_log, seed=seed)
        try:
            for other in others:
                disk._add_chain(open_chain(Path(os.path.abspath(other)), through_log=through_log, seed=seed))
        except BaseException:
            disk.crash()
            raise
        return disk

    # --- what it is ----------------------------------------------------------------------

    @property
    def leaf(self) -> Path:
        """The file the guest writes."""
        return self._leaf

    @property
    def files(self) -> list[Path]:
        """The files of the running chain, leaf first, base last."""
        return [layer.path for layer in self._chain(None)]

    @property
    def all_files(self) -> list[Path]:
        """Every file of the disk, those of other branches too."""
        return list(self._layers)

    @property
    def size(self) -> int:
        return self._layers[self._leaf].size

    @property
    def disk_id(self) -> UUID:
        return self.metadata().disk_id

    def metadata(self, at: Path | None = None) -> Metadata:
        """Return what a layer's file says about itself; the leaf's by default."""
        return self._layer(at).metadata

    def children(self, path: Path) -> list[Path]:
        """Return the layers that rest on another directly."""
        return [child for child, parent in self._parents.items() if parent == path]

    # --- what a guest does -----------------------------------------------------------------

    def read(self, offset: int, length: int, *, at: Path | None = None) -> bytes:
        """Return bytes of the disk as seen from a layer, the leaf by default."""
        with self.lock:
            self._check(offset, length, 1)
            return b"".join(
                bytes(e.length) if e.layer is None else e.layer.read_place(e.place, e.length)
                for e in self.extents(offset, length, at=at)
            )

    def write(self, offset: int, data: bytes) -> None:
        """Write whole sectors."""
        with self.lock:
            self._before_change(offset, len(data))
            self._layers[self._leaf].write(offset, data)

    def zero(self, offset: int, length: int) -> None:
        """Make whole sectors zero, as a guest's WRITE SAME does."""
        with self.lock:
            self._before_change(offset, length)
            self._layers[self._leaf].zero(offset, length)

    def unmap(self, offset: int, length: int) -> None:
        """Trim whole sectors; they read as zeros from then on.

        RCT counts trimmed ranges as changed (vhdx-vhd-spec.md 5, believed).
        """
        with self.lock:
            self._before_change(offset, length)
            self._layers[self._leaf].zero(offset, length, unmap=True)

    def flush(self) -> None:
        """Wait until all that was written is on the medium."""
        with self.lock:
            self._layers[self._leaf].file.flush()

    # --- layers ------------------------------------------------------------------------------

    def checkpoint(
        self, new_leaf: Path, *, host_path: str, volume_path: str = "", block_size: int = 2 * MIB
    ) -> None:
        """Freeze the leaf, left clean, and go on in a new differencing file above it.

        ``host_path`` is where the host knows the present leaf, for the parent
        locator. Give each new file a name of its own, as Hyper-V does: the
        first GUIDs come from it. Hyper-V gives differencing files blocks of 2 MiB whatever the
        parent has (docs/believed.md).
        """
        with self.lock:
            self._refuse_while_merging()
            self._layers[self._leaf].file.end()
            self._leaf = self._add_child(self._leaf, new_leaf, host_path, volume_path, block_size)

    def revert(
        self,
        to: Path,
        new_leaf: Path,
        *,
        host_path: str,
        volume_path: str = "",
        block_size: int = 2 * MIB,
    ) -> None:
        """Apply a checkpoint: go on in a new file above a frozen layer; the leaf's changes are lost.

        The tracker is not told; see ``ChangeTracker.lie_after_revert``.
        """
        with self.lock:
            self._refuse_while_merging()
            if self._layer(to).path == self._leaf:
                raise LayerInUse("the leaf is no checkpoint")
            old = self._leaf
            self._leaf = self._add_child(self._layer(to).path, new_leaf, host_path, volume_path, block_size)
            self._drop(old)

    def discard(self, layer: Path) -> None:
        """Remove a frozen layer that nothing rests on: the end of another branch."""
        with self.lock:
            path = self._layer(layer).path
            if path == self._leaf or self.children(path):
                raise LayerInUse(f"{path.name} is still needed")
            self._drop(path)

    def start_merge(self, layer: Path) -> Merge:
        """Begin to merge a layer into its parent; the parent may have no other child.

        Merging the leaf leaves the parent as the leaf. Its former file is gone
        when the merge is finished: whoever keeps the leaf's name across a
        restart looks whether that file still exists.
        """
        with self.lock:
            self._refuse_while_merging()
            child = self._layer(layer)
            parent = self._parents[child.path]
            if parent is None:
                raise BadRequest("the base has no parent")
            if self.children(parent) != [child.path]:
                raise LayerInUse(f"{parent.name} has other children")
            self._merge = Merge(child, self._layers[parent], self.lock, self._end_merge)
            if child.path != self._leaf:
                child.file.end()
            return self._merge

    def merge(self, layer: Path) -> None:
        """Merge a layer into its parent at one go."""
        merge = self.start_merge(layer)
        while not merge.step():
            pass

    # --- what a judge needs --------------------------------------------------------------------

    def extents(self, offset: int, length: int, *, at: Path | None = None) -> Iterator[Extent]:
        """Yield which file holds what of a range, as seen from a layer."""
        layers = self._chain(at)
        if self._merge is not None and self._merge.parent is layers[0]:
            raise LayerInUse(f"{layers[0].path.name} is being merged into")
        return resolve(layers, offset, length)

    def sha256(self, *, at: Path | None = None) -> str:
        """Return the digest of all bytes of the disk as seen from a layer, the leaf by default.

        The guest waits while the leaf is hashed; beside a frozen layer it goes on.
        """
        if self._layer(at).path == self._leaf:
            with self.lock:
                return self._sha256(at)
        return self._sha256(at)

    def close(self) -> None:
        """Leave all files clean and let them go."""
        with self.lock:
            if self._merge is not None:
                self._merge.fail()
            for layer in self._layers.values():
                layer.file.close()
            if self.tracker is not None:
                self.tracker.close()

    def crash(self) -> None:
        """Let the files go as a host does that loses its power: the leaf stays in use, its log full."""
        with self.lock:
            for layer in self._layers.values():
                layer.file.abandon()
            if self.tracker is not None:
                self.tracker.crash()

    # --- inside --------------------------------------------------------------------------------

    def _layer(self, at: Path | None) -> Layer:
        path = self._leaf if at is None else Path(os.path.abspath(at))
        if path not in self._layers:
            raise NoSuchLayer(f"{path.name} is no layer of this disk")
        return self._layers[path]

    def _chain(self, at: Path | None) -> list[Layer]:
        layers = [self._layer(at)]
        while (parent := self._parents[layers[-1].path]) is not None:
            layers.append(self._layers[parent])
        return layers

    def _check(self, offset: int, length: int, unit: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size or offset % unit or length % unit:
            raise BadRequest(f"{length} bytes at {offset} of a disk of {self.size}")

    def _before_change(self, offset: int, length: int) -> None:
        self._check(offset, length, self.metadata().logical_sector)
        if self.tracker is not None:
            self.tracker.note(offset, length)
        if self._merge is not None and self._merge.child.path == self._leaf:
            self._merge.note(offset, length)

    def _refuse_while_merging(self) -> None:
        if self._merge is not None:
            raise LayerInUse(f"{self._merge.child.path.name} is being merged")

    def _add_child(
        self, parent: Path, child: Path, host_path: str, volume_path: str, block_size: int
    ) -> Path:
        child = Path(os.path.abspath(child))
        below = self._layers[parent]
        old = below.metadata
        locator = locator_of(below.data_write_guid, parent, child, host_path, volume_path)
        metadata = Metadata(
            old.size, block_size, old.disk_id, old.logical_sector, old.physical_sector, locator=locator
        )
        Layer.create(child, metadata, seed=self._seed)
        self._layers[child] = Layer(child, through_log=self._through_log, seed=self._seed)
        self._parents[child] = parent
        return child

    def _add_chain(self, chain: Sequence[Layer]) -> None:
        for layer, parent in zip(chain, [*chain[1:], None], strict=True):
            if layer.path in self._layers:
                layer.file.abandon()  # where branches meet, the file is open already
            else:
                self._layers[layer.path] = layer
                self._parents[layer.path] = parent.path if parent else None

    def _drop(self, path: Path) -> None:
        self._layers.pop(path).file.abandon()
        del self._parents[path]
        path.unlink()

    def _end_merge(self, merge: Merge, is_complete: bool) -> None:
        self._merge = None
        child, parent = merge.child, merge.parent
        if not is_complete:
            parent.file.end()
            return
        for path in self.children(child.path):
            above = self._layers[path]
            relative = relative_path(parent.path, path)
            linkage = parent.data_write_guid
            above.set_locator(replace(merge.names, linkage=linkage, linkage2=NO_GUID, relative_path=relative))
            check_parent(above, parent)
            self._parents[path] = parent.path
            if path != self._leaf:
                above.file.end()
        if child.path == self._leaf:
            self._leaf = parent.path
        else:
            parent.file.end()
        self._drop(child.path)

    def _sha256(self, at: Path | None) -> str:
        digest = hashlib.sha256()
        for start in range(0, self.size, 64 * MIB):
            with self.lock:
                for extent in self.extents(start, min(64 * MIB, self.size - start), at=at):
                    for done in range(0, extent.length, _PIECE):
                        count = min(_PIECE, extent.length - done)
                        if extent.layer is None:
                            digest.update(_ZEROS if count == _PIECE else _ZEROS[:count])
                        else:
                            digest.update(extent.layer.read_place(extent.place + done, count))
        return digest.hexdigest()
