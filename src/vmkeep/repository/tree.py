"""Build the map of one disk from its leaves, sharing what did not change. `docs/format.md` section 7."""

from collections.abc import Callable, Sequence

from vmkeep.repository.nodes import Child, Entry, encode_node, fanout, root_level
from vmkeep.repository.parameters import FANOUT
from vmkeep.repository.reader import DiskMap

PutNode = Callable[[int, bytes], bytes]


class TreeBuilder:
    """Take leaves in ascending order, give the root; memory holds one node per level.

    With ``base`` everything not added is inherited from that map (of the same
    size); without, it reads as zeros. A subtree in which nothing was added is
    never even looked at.
    """

    def __init__(self, size: int, leaf_size: int, put_node: PutNode, base: DiskMap | None) -> None:
        if base is not None and base.size != size:
            raise ValueError("a map is inherited only by a disk of the same size")
        self._top = root_level(size, leaf_size)
        self._put = put_node
        self._base = base
        self._open: dict[int, tuple[int, list[Entry]]] = {}
        self._root: Entry = Child.ZERO if base is None or base.root is None else base.root

    def add_leaf(self, number: int, entries: Sequence[Entry]) -> None:
        """Add one leaf; numbers ascend."""
        self._set(1, number, self._store(0, entries))

    def finish(self) -> bytes | None:
        """Store the nodes still open; return the root id, None for a disk of zeros."""
        for level in range(1, self._top + 1):
            self._close(level)
        return None if isinstance(self._root, Child) else self._root

    def _set(self, level: int, child: int, entry: Entry) -> None:
        number = child // FANOUT
        if level in self._open and self._open[level][0] != number:
            self._close(level)
        if level not in self._open:
            self._open[level] = (number, self._inherited(level, number))
        self._open[level][1][child % FANOUT] = entry

    def _inherited(self, level: int, number: int) -> list[Entry]:
        children = self._base.node_at(level, number) if self._base is not None else None
        return list(children) if children is not None else [Child.ZERO] * fanout(level)

    def _close(self, level: int) -> None:
        if level not in self._open:
            return
        number, children = self._open.pop(level)
        entry = self._store(level, children)
        if level == self._top:
            self._root = entry
        else:
            self._set(level + 1, number, entry)

    def _store(self, level: int, children: Sequence[Entry]) -> Entry:
        node = encode_node(level, children)
        return Child.ZERO if node is None else self._put(level, node)
