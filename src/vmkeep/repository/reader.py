"""Read what is stored: frames by id, maps as trees, disks as bytes; all verified.

A reader never guesses: bytes come back only after their frame was
authenticated and their id recomputed.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from vmkeep.model.point import StoredDisk, StoredFile
from vmkeep.objectstore.errors import ObjectMissing
from vmkeep.objectstore.store import Store
from vmkeep.ranges import ByteRange, clip, normalise, total
from vmkeep.repository.errors import ObjectLost, Tampered
from vmkeep.repository.index import Index, Location
from vmkeep.repository.keys import KeyRing
from vmkeep.repository.nodes import Child, Entry, decode_node, leaves_below, root_level
from vmkeep.repository.packs import Kind, Pack, PackRef
from vmkeep.repository.parameters import FANOUT, LEAF_CHUNKS, Parameters
from vmkeep.repository.slots import Slot

# Called with a place (a position, an offset) and what belongs there.
Take = Callable[[int, bytes], None]
# (slot of a pack, position among the ids asked for), ascending.
_Wanted = list[tuple[int, int]]

_PACKS_KEPT: Final = 24
_NODES_KEPT: Final = 64


class Reader:
    """Fetch frames by id; thread-safe. Needs no protection from a collector, only from forget."""

    def __init__(self, store: Store, parameters: Parameters, ring: KeyRing, index: Index) -> None:
        self._store = store
        self._ring = ring
        self._index = index
        self.parameters = parameters
        self._packs: OrderedDict[PackRef, Pack] = OrderedDict()
        self._nodes: OrderedDict[tuple[bytes, int], list[Entry]] = OrderedDict()
        self._lock = threading.Lock()
        self._refreshing = threading.Lock()
        self._asked: dict[PackRef, Tampered | None] = {}
        self._asked_all = False

    def chunks(self, ids: Sequence[bytes]) -> list[bytes]:
        """Return the chunks with these ids, in order. Raises ObjectLost or Tampered."""
        found = [b""] * len(ids)
        self.each_chunk(ids, found.__setitem__)
        return found

    def each_chunk(self, ids: Sequence[bytes], take: Take) -> None:
        """Give each chunk to ``take`` with its position in ``ids``, verified, in the order of the packs.

        None is kept: what was decoded a moment ago is still in the processor's
        cache. Raises ObjectLost or Tampered.
        """
        self._frames(ids, Kind.CHUNKS, self._ring.chunk_id_key, take)

    def node(self, node_id: bytes, level: int) -> list[Entry]:
        """Return the children of one map node. Raises ObjectLost or Tampered."""
        with self._lock:
            known = self._nodes.get((node_id, level))
            if known is not None:
                self._nodes.move_to_end((node_id, level))
                return known
        found = [b""]
        self._frames([node_id], Kind.NODES, self._ring.node_id_key, found.__setitem__)
        children = decode_node(level, found[0], f"map node {node_id.hex()[:12]}")
        if level:
            with self._lock:
                self._nodes[node_id, level] = children
                if len(self._nodes) > _NODES_KEPT:
                    self._nodes.popitem(last=False)
        return children

    def _frames(self, ids: Sequence[bytes], kind: Kind, key: bytes, take: Take) -> None:
        by_pack: dict[PackRef, list[tuple[int, int]]] = {}
        location: Location | None = None
        for position, content_id in enumerate(ids):
            location = self._next_to(location, content_id) or self.locate(content_id, kind)
            by_pack.setdefault(location.pack, []).append((location.slot, position))
        for ref, wanted in by_pack.items():

            def prove(position: int, content: bytes, ref: PackRef = ref) -> None:
                if blake3(content, key=key).digest() != ids[position]:
                    raise Tampered(f"a frame of {ref.name} does not hold what its id says.", object=ref.name)
                take(position, content)

            wanted.sort()
            self._read(ref, wanted, ids, prove)

    def _next_to(self, location: Location | None, content_id: bytes) -> Location | None:
        """Return the slot after ``location`` if the frame lies there: most do, and the index is slower."""
        pack = self._packs.get(location.pack) if location is not None else None
        if location is None or pack is None or location.slot + 1 >= len(pack.slots):
            return None
        if pack.slots[location.slot + 1].id != content_id:
            return None
        return Location(location.pack, location.slot + 1)

    def locate(self, content_id: bytes, kind: Kind) -> Location:
        """Return where a frame lies by the index, or by all slot tables. Raises ObjectLost."""
        location = self._known(content_id, kind)
        # The index is derived: it may lag behind, and it may be wrong even about packs it knows.
        for learn in (self.refresh, self._ask_all):
            if location is None and not self._asked_all:
                learn()
                location = self._known(content_id, kind)
        if location is not None:
            return location
        what = "chunk" if kind is Kind.CHUNKS else "map node"
        unreadable = ", ".join(
            sorted(ref.name for ref, error in list(self._asked.items()) if error is not None)
        )
        raise ObjectLost(
            f"the {what} {content_id.hex()[:16]} is in no pack of the repository"
            + (f" that can be read; damaged: {unreadable}." if unreadable else "."),
            id=content_id.hex(),
        )

    def _known(self, content_id: bytes, kind: Kind) -> Location | None:
        location = self._index.find(content_id)
        return location if location is not None and location.pack.kind is kind else None

    def _read(self, ref: PackRef, wanted: _Wanted, ids: Sequence[bytes], take: Take) -> None:
        try:
            self._read_slots(ref, wanted, ids, take)
        except (ObjectMissing, _Misplaced) as error:
            # The pack went while we had its place in mind (its live frames were
            # moved before), or the index was wrong about it.
            self._correct(ref, error)
            for _, position in wanted:
                self._read_moved(position, ids, ref.kind, take)
        except Tampered:
            self._read_around_damage(ref, wanted, ids, take)

    def _read_around_damage(self, ref: PackRef, wanted: _Wanted, ids: Sequence[bytes], take: Take) -> None:
        """Read frame by frame, and what is damaged from other packs; raise what is wrong if they lack it."""
        damaged: dict[int, Tampered] = {}
        for slot, position in wanted:
            try:
                self._read_slots(ref, [(slot, position)], ids, take)
            except Tampered as error:
                damaged[position] = error
            except ObjectMissing as error:
                self._correct(ref, error)
                self._read_moved(position, ids, ref.kind, take)
        copies = self._other_copies({ids[position] for position in damaged}, ref)
        for position, damage in damaged.items():
            if ids[position] not in copies:
                raise damage
            take(position, copies[ids[position]])

    def _other_copies(self, wanted: set[bytes], damaged: PackRef) -> dict[bytes, bytes]:
        """Return what can be read of the wanted frames from other packs; asks every pack, needed rarely."""
        found: dict[bytes, bytes] = {}
        for ref in sorted(stored_packs(self._store)):
            if ref.kind is not damaged.kind or ref == damaged or len(found) == len(wanted):
                continue
            try:
                pack = self.pack(ref)
                slots = [n for n, slot in enumerate(pack.slots) if slot.id in wanted and slot.id not in found]
                for slot, content in zip(slots, pack.read(slots), strict=True):
                    found[pack.slots[slot].id] = bytes(content)
            except (Tampered, ObjectMissing):
                continue  # this one does not help either
        return found

    def _read_moved(self, position: int, ids: Sequence[bytes], kind: Kind, take: Take) -> None:
        tried: set[PackRef] = set()
        while True:
            location = self.locate(ids[position], kind)
            try:
                return self._read_slots(location.pack, [(location.slot, position)], ids, take)
            except (ObjectMissing, _Misplaced) as error:
                if location.pack in tried:
                    name = location.pack.name
                    raise ObjectLost(f"the pack {name} is missing.", object=name) from error
                tried.add(location.pack)
                self._correct(location.pack, error)

    def _correct(self, ref: PackRef, error: "ObjectMissing | _Misplaced") -> None:
        if isinstance(error, _Misplaced):
            self._index.drop_packs([ref])
            self._index.add_pack(ref, error.slots)
        else:
            self.forget_pack(ref)

    def _read_slots(self, ref: PackRef, wanted: _Wanted, ids: Sequence[bytes], take: Take) -> None:
        pack = self.pack(ref)
        positions: dict[int, list[int]] = {}
        for slot, position in wanted:
            if slot >= len(pack.slots) or pack.slots[slot].id != ids[position]:
                raise _Misplaced(pack.slots)
            positions.setdefault(slot, []).append(position)
        for slot, content in pack.contents(list(positions)):
            for position in positions[slot]:
                take(position, content)

    def pack(self, ref: PackRef) -> Pack:
        """Return an opened pack. Raises ObjectMissing or Tampered."""
        with self._lock:
            pack = self._packs.get(ref)
            if pack is not None:
                self._packs.move_to_end(ref)
                return pack
        pack = Pack(self._store, self._ring, ref, self.parameters.chunk_size)
        with self._lock:
            self._packs[ref] = pack
            if len(self._packs) > _PACKS_KEPT:
                self._packs.popitem(last=False)
        return pack

    def forget_pack(self, ref: PackRef) -> None:
        """Look for what this pack held elsewhere from now on."""
        self._index.drop_packs([ref])
        with self._lock:
            self._packs.pop(ref, None)
            # What this pack hid in the index has to be asked for again.
            self._asked.clear()
            self._asked_all = False

    def refresh(self) -> list[Tampered]:
        """Learn the packs the index does not know, drop those that are gone; return what cannot be read."""
        with self._refreshing:
            present = stored_packs(self._store)
            self._index.drop_packs(set(self._index.packs) - present)
            return self._ask({ref for ref in present if not self._index.knows_pack(ref)})

    def _ask_all(self) -> None:
        # Once is enough until a pack is missed: what a reader needs was there before it began.
        with self._refreshing:
            self._ask(stored_packs(self._store))
            self._asked_all = True

    def _ask(self, refs: set[PackRef]) -> list[Tampered]:
        for ref in sorted(refs):
            if ref in self._asked:
                continue
            try:
                self._index.add_pack(ref, self.pack(ref).slots)
                self._asked[ref] = None
            except Tampered as error:
                self._asked[ref] = error
            except ObjectMissing:
                continue  # deleted between the listing and the reading
        return [error for error in self._asked.values() if error is not None]


class _Misplaced(Exception):
    """The index and a slot table contradict each other; ``slots`` is the table, which is right."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        super().__init__()
        self.slots = slots


def stored_packs(store: Store) -> set[PackRef]:
    """List the packs of both kinds."""
    found = (PackRef.from_name(info.name) for kind in Kind for info in store.list(kind.prefix))
    return {ref for ref in found if ref is not None}


@dataclass(frozen=True)
class DiskMap:
    """The stored bytes of one disk or file; ``root`` None reads as zeros. Thread-safe.

    ``excluded`` is the range list the manifest names: only there may content be
    missing on purpose, and a map that leaves out anything else is refused.
    """

    reader: Reader
    root: bytes | None
    size: int
    excluded: tuple[ByteRange, ...] = ()

    @property
    def level(self) -> int:
        return root_level(self.size, self.reader.parameters.leaf_size)

    def children(self, node_id: bytes, level: int, offset: int) -> list[Entry]:
        """Return the children of the node that covers the disk from ``offset`` on.

        Raises ObjectLost, or Tampered also for a child beyond the end of the disk.
        """
        children = self.reader.node(node_id, level)
        room = max(0, -(-(self.size - offset) // self.child_size(level)))
        beyond = children[room:]
        if beyond.count(Child.ZERO) != len(beyond):
            raise Tampered(
                f"the map of a disk goes on beyond its end at offset {self.size}.", offset=self.size
            )
        return children

    def child_size(self, level: int) -> int:
        """Return how many bytes a child of a node of ``level`` covers."""
        parameters = self.reader.parameters
        return parameters.leaf_size * leaves_below(level - 1) if level else parameters.chunk_size

    def chunk_length(self, offset: int) -> int:
        """Return how long the chunk at ``offset`` has to be: the last one is as long as the remainder."""
        return min(self.reader.parameters.chunk_size, self.size - offset)

    def leaf(self, number: int) -> list[Entry]:
        """Return the 64 entries of one leaf."""
        return self.node_at(0, number) or [Child.ZERO] * LEAF_CHUNKS

    def leaves(self) -> Iterator[tuple[int, list[Entry]]]:
        """Yield (number, entries) of each leaf that holds something, ascending."""
        for number, leaf_id in self.leaf_ids():
            yield number, self._leaf(number, leaf_id)

    def _leaf(self, number: int, leaf_id: bytes) -> list[Entry]:
        return self.children(leaf_id, 0, number * self.reader.parameters.leaf_size)

    def leaf_ids(self) -> Iterator[tuple[int, bytes]]:
        """Yield (number, node id) of each stored leaf, ascending."""
        if self.root is not None:
            yield from self._walk(self.root, self.level, 0)

    def _walk(self, node_id: bytes, level: int, first: int) -> Iterator[tuple[int, bytes]]:
        below = leaves_below(level - 1)
        children = self.children(node_id, level, first * self.reader.parameters.leaf_size)
        for i, child in enumerate(children):
            if isinstance(child, Child):
                continue
            if level == 1:
                yield first + i, child
            else:
                yield from self._walk(child, level - 1, first + i * below)

    def all_ids(self) -> Iterator[tuple[Kind, bytes]]:
        """Yield the id of every node and chunk of this map; some may come more than once."""
        if self.root is not None:
            yield from self._walk_ids(self.root, self.level, 0)

    def _walk_ids(self, node_id: bytes, level: int, offset: int) -> Iterator[tuple[Kind, bytes]]:
        yield Kind.NODES, node_id
        for i, child in enumerate(self.children(node_id, level, offset)):
            if isinstance(child, Child):
                continue
            if level:
                yield from self._walk_ids(child, level - 1, offset + i * self.child_size(level))
            else:
                yield Kind.CHUNKS, child

    def node_at(self, level: int, number: int) -> list[Entry] | None:
        """Return the children of the ``number``-th node of a level; None where nothing is stored."""
        entry: Entry = Child.ZERO if self.root is None else self.root
        offset = number * leaves_below(level) * self.reader.parameters.leaf_size
        for at in range(self.level, level, -1):
            if isinstance(entry, Child):
                return None
            child_size = self.child_size(at)
            start = offset // (child_size * FANOUT) * child_size * FANOUT
            entry = self.children(entry, at, start)[(offset - start) // child_size]
        return None if isinstance(entry, Child) else self.children(entry, level, offset)

    def pieces(self, number: int, entries: Sequence[Entry] | None = None) -> list[tuple[int, bytes]]:
        """Return (offset, bytes) of each stored chunk of one leaf, verified, ascending."""
        found: list[tuple[int, bytes]] = []
        children = self.leaf(number) if entries is None else entries
        self._each_piece(number, children, lambda offset, content: found.append((offset, content)))
        return sorted(found)

    def leaf_into(self, number: int, leaf_id: bytes, memory: memoryview) -> list[ByteRange]:
        """Put one leaf into ``memory``, verified; return which ranges of the disk are there now, ascending.

        What lies between them was not touched; it reads as zeros.
        """
        start = number * self.reader.parameters.leaf_size
        ranges: list[ByteRange] = []

        def put(offset: int, content: bytes) -> None:
            memory[offset - start : offset - start + len(content)] = content
            ranges.append(ByteRange(offset, len(content)))

        self._each_piece(number, self._leaf(number, leaf_id), put)
        return normalise(ranges)

    def _each_piece(self, number: int, children: Sequence[Entry], take: Take) -> None:
        """Give each stored chunk of a leaf to ``take``, with its offset on the disk, in any order."""
        chunk = self.reader.parameters.chunk_size
        first = number * LEAF_CHUNKS
        self._refuse_unlisted_exclusions(first, children)
        offsets = [(first + i) * chunk for i, entry in enumerate(children) if not isinstance(entry, Child)]

        def place(position: int, content: bytes) -> None:
            offset = offsets[position]
            if len(content) != self.chunk_length(offset):
                raise Tampered(
                    f"the map of a disk holds a chunk of a wrong length at offset {offset}.", offset=offset
                )
            take(offset, content)

        self.reader.each_chunk([entry for entry in children if not isinstance(entry, Child)], place)

    def refuse_unlisted_exclusions(self) -> None:
        """Raise Tampered when the map leaves out something its manifest does not exclude."""
        for number, children in self.leaves():
            self._refuse_unlisted_exclusions(number * LEAF_CHUNKS, children)

    def _refuse_unlisted_exclusions(self, first: int, children: Sequence[Entry]) -> None:
        if Child.EXCLUDED not in children:
            return
        chunk = self.reader.parameters.chunk_size
        for i, child in enumerate(children):
            low = (first + i) * chunk
            high = min(low + chunk, self.size)
            if child is Child.EXCLUDED and total(clip(self.excluded, low, high)) != high - low:
                raise Tampered(
                    f"the map of a disk leaves out bytes at offset {low} that its manifest does not exclude.",
                    offset=low,
                )

    def read_at(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset`` on, cut at the end of the disk."""
        length = max(0, min(length, self.size - offset))
        leaf = self.reader.parameters.leaf_size
        out = bytearray(length)
        chunk = self.reader.parameters.chunk_size
        for number in range(offset // leaf, -(-(offset + length) // leaf) if length else 0):
            entries = list(self.leaf(number))
            for i in range(LEAF_CHUNKS):  # fetch only what is asked for
                at = (number * LEAF_CHUNKS + i) * chunk
                if at + chunk <= offset or at >= offset + length:
                    entries[i] = Child.ZERO
            for at, content in self.pieces(number, entries):
                low, high = max(at, offset), min(at + len(content), offset + length)
                out[low - offset : high - offset] = content[low - at : high - at]
        return bytes(out)


def map_of(reader: Reader, stored: StoredDisk | StoredFile) -> DiskMap:
    """Return the stored bytes of one disk or file of a manifest."""
    left_out = stored.excluded if isinstance(stored, StoredDisk) else ()
    excluded = normalise(ByteRange(offset, length) for offset, length, _ in left_out)
    return DiskMap(reader, stored.root, stored.size, tuple(excluded))
