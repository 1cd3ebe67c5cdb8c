"""Merging a layer into its parent, step by step, while the guest goes on."""

from collections.abc import Callable
from dataclasses import replace
from threading import RLock

from vmkeep_lab.disks.errors import BadRequest, LayerInUse
from vmkeep_lab.disks.layer import Layer
from vmkeep_lab.disks.vhdx import MIB, NOT_PRESENT, UNDEFINED, UNMAPPED, ZERO

_PIECE = 4 * MIB


class Merge:
    """A merge under way; until it is finished, every layer above the parent reads as before.

    The order is that of [MS-VHDX] note 12: first the child allows the
    parent's next DataWriteGuid (``parent_linkage2``), then the parent gets
    it, then data moves. Stopped or killed at any point, the chain opens and
    reads right, and the merge may start again. Only the parent alone is of
    no use any more from the first step on.
    """

    def __init__(
        self, child: Layer, parent: Layer, lock: RLock, finish: Callable[["Merge", bool], None]
    ) -> None:
        if child.locator is None or child.size != parent.size:
            raise BadRequest("only a layer of its parent's size can be merged")
        self.child = child
        self.parent = parent
        self.names = child.locator
        self._lock = lock
        self._finish = finish
        self._is_over = False
        geometry = child.metadata.geometry
        self._block_bytes = geometry.block_bytes
        self._pending = {block for block in range(geometry.blocks) if child.state(block) != NOT_PRESENT}
        self.total = len(self._pending)
        next_guid = parent.file.next_data_write_guid()
        child.set_locator(replace(child.locator, linkage=parent.data_write_guid, linkage2=next_guid))
        parent.file.begin(visible=True, data_write_guid=next_guid)

    @property
    def percent(self) -> int:
        """Tell how far the merge is; a guest that writes can take it back, and 100 is the end alone."""
        if self._is_over:
            return 100
        return 99 * (self.total - len(self._pending)) // max(1, self.total)

    def step(self, blocks: int = 16) -> bool:
        """Move some blocks; True when nothing was left and the child's file is gone."""
        with self._lock:
            if self._is_over:
                raise LayerInUse("this merge is over")
            for block in sorted(self._pending)[:blocks]:
                self._move(block)
                self._pending.discard(block)
            if self._pending:
                return False
            self._is_over = True
            self._finish(self, True)
            return True

    def fail(self) -> None:
        """Stop half way, as a host does that cannot go on: all files stay, and are clean."""
        with self._lock:
            if not self._is_over:
                self._is_over = True
                self._finish(self, False)

    def note(self, offset: int, length: int) -> None:
        """Take notice that the child was written, so that this moves again."""
        blocks = [block for block, _, _ in self.child.blocks(offset, length)]
        self._pending.update(blocks)
        self.total = max(self.total, len(self._pending))

    def _move(self, block: int) -> None:
        offset, length = block * self.child.metadata.block_size, self._block_bytes(block)
        state = self.child.state(block)
        if state in {ZERO, UNDEFINED, UNMAPPED}:
            self.parent.zero(offset, length, unmap=state == UNMAPPED)
            return
        for segment in self.child.segments(offset, length):
            for start in range(0, segment.length if segment.place >= 0 else 0, _PIECE):
                count = min(_PIECE, segment.length - start)
                data = self.child.read_place(segment.place + start, count)
                self.parent.write(segment.offset + start, data)
