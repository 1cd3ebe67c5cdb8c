"""Store the maps of one run, then make its restore point exist: publish, verify, seal.

The order of the writes is the safety of the repository (`docs/format.md`
section 11): a manifest becomes visible before its packs are verified, and only
the seal makes the restore point exist. A crash anywhere leaves packs without a
point, never a point without its packs.
"""

import os
import threading
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from blake3 import blake3

from vmkeep.objectstore.store import Store
from vmkeep.progress import Progress, Silent
from vmkeep.ranges import ByteRange, align_out, complement, normalise, total
from vmkeep.repository.box import close_box
from vmkeep.repository.condemned import blamed_pack, damaged_ranges
from vmkeep.repository.errors import ObjectLost, Tampered
from vmkeep.repository.index import PREFIX as INDEX_PREFIX
from vmkeep.repository.index import Index, encode_index
from vmkeep.repository.inventory import Inventory, encode_inventory, inventory_name
from vmkeep.repository.keys import KeyRing
from vmkeep.repository.leaf_pool import LeafPool
from vmkeep.repository.leaves import Leaf, LeafReader, ReadInto, split_by_leaf
from vmkeep.repository.nodes import Child, Entry
from vmkeep.repository.packs import FinishedPack, Kind, PackRef, PackWriter
from vmkeep.repository.parameters import LEAF_CHUNKS, Parameters
from vmkeep.repository.reader import DiskMap, Reader
from vmkeep.repository.slots import STORED
from vmkeep.repository.tree import TreeBuilder

# An index object after so many packs: what a killed run stored is found by the next one.
_PACKS_PER_INDEX: Final = 64
_NOTHING: Final[Sequence[Entry]] = (Child.ZERO,) * LEAF_CHUNKS


@dataclass(frozen=True)
class WrittenMap:
    """One disk or file as stored by this run; ``read`` are the ranges read for it, in whole chunks.

    ``inherited`` are those taken over unread from an earlier map that holds something.
    """

    root: bytes | None
    size: int
    read: tuple[ByteRange, ...]
    inherited: tuple[ByteRange, ...] = ()

    @property
    def bytes_read(self) -> int:
        return total(self.read)


@dataclass(frozen=True)
class _Source:
    """What was asked of :meth:`Writer.write_map`, kept to store a part again if its pack goes.

    ``base`` is the map that was inherited from; None where there was none.
    """

    read_into: ReadInto
    ranges: tuple[ByteRange, ...]
    base: DiskMap | None
    written: WrittenMap


class Writer:
    """Store disks for one run: :meth:`write_map` may run in several threads at once, one for each disk.

    Reading, hashing and compressing go on side by side; what is new goes into the
    same packs, one leaf after another, under one lock. Everything else is called
    when no disk is being written.

    ``bytes_stored`` counts what this run added to the repository's packs. ``met``
    are the packs found damaged so far that nobody has condemned as that, and
    ``lost_map`` tells that a map was inherited from in vain because a part of it
    is in no pack: what was there was read from the source.

    Leave the ``with`` block without :meth:`flush` and the unfinished packs are dropped.
    """

    def __init__(
        self,
        store: Store,
        parameters: Parameters,
        ring: KeyRing,
        index: Index,
        run: str,
        progress: Progress | None = None,
        damaged: frozenset[bytes] = frozenset(),
        met: Iterable[PackRef] = (),
    ) -> None:
        self.run = run
        self.bytes_stored = 0
        self.met = set(met)
        self._met_before = frozenset(self.met)
        self.lost_map = False
        self._store = store
        self._parameters = parameters
        self._ring = ring
        self._index = index
        self._progress = progress or Silent()
        self._leaves = LeafReader(parameters.chunk_size, ring.chunk_id_key, index)
        self._pool = LeafPool(parameters.leaf_size)
        # Held while something is stored, and while what is known of the packs changes.
        self._storing = threading.RLock()
        self._damaged = damaged | {ref.id for ref in self.met}
        # Whether everything is stored that an earlier map says is.
        self._trusts_maps = not self._damaged
        self._open: dict[Kind, PackWriter] = {}
        self._closing: deque[tuple[PackWriter, Future[FinishedPack]]] = deque()
        self._closer = ThreadPoolExecutor(1, thread_name_prefix="vmkeep-pack")
        self._finished: list[FinishedPack] = []
        self._indexed = 0
        self._inventories = 0
        self._relied: set[PackRef] = set()
        self._sources: list[_Source] = []

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *exc: object) -> None:
        self._pool.close()
        self._closer.shutdown(wait=True, cancel_futures=True)
        unfinished = [*self._open.values(), *(pack for pack, _ in self._closing)]
        # The next run in this process must not take them for stored.
        self._index.drop_packs(pack.ref for pack in unfinished)
        for pack in unfinished:
            pack.abort()

    def write_map(
        self,
        read_into: ReadInto,
        size: int,
        ranges: Sequence[ByteRange],
        *,
        base: DiskMap | None = None,
        inherit: bool = False,
    ) -> WrittenMap:
        """Store ``size`` bytes of which ``ranges`` are read.

        ``inherit``: what lies outside the ranges is taken from ``base`` (same
        size required); otherwise it is zeros, and ``base`` has no influence.
        What is known to be damaged there is read instead, and all of the disk
        where the map of ``base`` itself cannot be read.
        Raises what ``read_into`` raises, or a store error.
        """
        # Only a map that inherits is protected by its parent's manifest. What any other
        # map shares with the parent is relied on like every known chunk, and verified.
        base = base if inherit else None
        written = self._write(read_into, size, ranges, base)
        with self._storing:
            self._sources.append(_Source(read_into, tuple(ranges), base, written))
        return written

    def _write(
        self, read_into: ReadInto, size: int, ranges: Sequence[ByteRange], base: DiskMap | None
    ) -> WrittenMap:
        """Store a map; what cannot be inherited from ``base`` is read."""
        if base is not None and not self._trusts_maps:
            # The sources are at hand: what nobody can read from the repository is read from them.
            again = damaged_ranges(base, self._index, self._damaged)
            base, ranges = (base, normalise([*ranges, *again])) if again is not None else (None, _all(size))
        try:
            return self._build(read_into, size, ranges, base)
        except (Tampered, ObjectLost) as error:
            if base is None:
                raise
            self._meet(error)
            return self._build(read_into, size, _all(size), None)

    def _build(
        self, read_into: ReadInto, size: int, ranges: Sequence[ByteRange], base: DiskMap | None
    ) -> WrittenMap:
        """Read ranges, store the map. Raises Tampered or ObjectLost where ``base`` cannot be read."""
        aligned = align_out(ranges, self._parameters.chunk_size, size)
        tree = TreeBuilder(size, self._parameters.leaf_size, self._put_node, base)
        with closing(self._process(read_into, aligned, base)) as leaves:
            for leaf in leaves:
                self._store_leaf(leaf)
                tree.add_leaf(leaf.number, leaf.entries)
                self._progress.advance(leaf.read)
                del leaf  # what was stored of it must not be in memory until the next one has come
        kept = complement(aligned, size) if base is not None and base.root is not None else []
        return WrittenMap(tree.finish(), size, tuple(aligned), tuple(kept))

    def _meet(self, error: Tampered | ObjectLost) -> None:
        """Build no more on what a map could not be read from."""
        ref = blamed_pack(error)
        with self._storing:
            self._trusts_maps = False
            if ref is None:
                self.lost_map = True
                return
            self.met.add(ref)
            self._leave({ref})
            self._damaged |= {ref.id}

    def _process(
        self, read_into: ReadInto, ranges: Sequence[ByteRange], base: DiskMap | None
    ) -> Generator[Leaf]:
        """Run leaves through the threads; yield them in order, few at a time."""
        trust_base = self._trusts_maps

        def work(number: int, wanted: list[ByteRange]) -> Leaf:
            entries = base.leaf(number) if base is not None else _NOTHING
            return self._leaves.process(read_into, number, wanted, entries, trust_base=trust_base)

        return self._pool.run(
            partial(work, *part) for part in split_by_leaf(ranges, self._parameters.leaf_size)
        )

    def _store_leaf(self, leaf: Leaf) -> None:
        with self._storing:
            self._relied |= leaf.found_in
            for payload in leaf.payloads:
                # Another leaf on its way at the same time may have brought this chunk.
                location = self._index.find_reusable(payload.id)
                if location is not None:
                    self._relied.add(location.pack)
                else:
                    self._append(Kind.CHUNKS, payload.id, payload.data, payload.codec, payload.plain)

    def _put_node(self, level: int, node: bytes) -> bytes:
        node_id = blake3(node, key=self._ring.node_id_key).digest()
        with self._storing:
            location = self._index.find_reusable(node_id)
            if location is None:
                self._append(Kind.NODES, node_id, node, STORED, len(node))
            else:
                self._relied.add(location.pack)
        return node_id

    def _append(self, kind: Kind, content_id: bytes, data: bytes, codec: int, plain: int) -> None:
        pack = self._open.get(kind)
        if pack is None:
            pack = self._open[kind] = PackWriter(self._store, self._ring, kind)
        slot = pack.append(content_id, data, codec, plain)
        self._index.add(pack.ref, slot, content_id)
        if pack.is_full(self._parameters.pack_size):
            self._close_pack(kind)

    def _close_pack(self, kind: Kind) -> None:
        # Making a pack durable takes a while; the next one is filled meanwhile.
        while len(self._closing) > 1:
            self._collect()
        pack = self._open.pop(kind)
        self._closing.append((pack, self._closer.submit(pack.finish)))

    def _collect(self) -> None:
        pack = self._closing[0][1].result()
        self._closing.popleft()
        self._finished.append(pack)
        self._relied.add(pack.ref)
        self.bytes_stored += pack.size
        if len(self._finished) - self._indexed >= _PACKS_PER_INDEX:
            self._write_index()

    def settle(self) -> None:
        """Make the packs written so far durable and readable; no other object speaks of them yet."""
        for kind in list(self._open):
            self._close_pack(kind)
        while self._closing:
            self._collect()

    def flush(self) -> str:
        """Make everything written so far durable; return the name of the inventory."""
        self.settle()
        self._write_index()
        return self._write_inventory()

    def _write_index(self) -> None:
        packs = [(pack.ref, pack.slots) for pack in self._finished[self._indexed :]]
        if packs:
            name = INDEX_PREFIX + os.urandom(16).hex()
            self._store.put(name, close_box(self._ring, name, encode_index(packs), compress=False))
            # All that is needed from here on are names and checksums; slot tables would fill the memory.
            self._finished[self._indexed :] = [
                replace(pack, slots=()) for pack in self._finished[self._indexed :]
            ]
        self._indexed = len(self._finished)

    def _write_inventory(self) -> str:
        name = inventory_name(self.run, self._inventories)
        added = tuple((pack.ref.name, pack.size, pack.checksum) for pack in self._finished)
        own = {pack.ref for pack in self._finished}
        relied = tuple(sorted(ref.name for ref in self._relied - own))
        self._store.put(name, encode_inventory(self._ring, name, Inventory(added, relied, ())))
        self._inventories += 1
        return name

    def rehome(self, lost: set[PackRef]) -> None:
        """Store again, from the sources, whatever of this run lay in packs that went away.

        The sources must still be held: the maps must come out the same.
        Raises ObjectLost when they do not.
        """
        self._leave(lost)
        for source in self._sources:
            # Without the parent, all of an inherited map has to be read.
            ranges = source.ranges if source.base is None else _all(source.written.size)
            self._repeat(source, ranges, None)
        self.flush()

    def store_again(self, damaged: set[PackRef], reader: Reader) -> None:
        """Store again what the maps of this run have in damaged packs or in none.

        Only that is read again, unless parts of a map are among it. For use before
        :meth:`flush`, while the sources are held: the maps must come out the same.
        Raises ObjectLost when they do not.
        """
        self._leave(damaged)
        self._trusts_maps = False
        self._damaged |= {ref.id for ref in damaged}
        for source in self._sources:
            now = DiskMap(reader, source.written.root, source.written.size)
            missing = damaged_ranges(now, self._index, self._damaged)
            if missing is None:  # parts of the map itself: all of its nodes are made again
                self._repeat(source, source.ranges, source.base)
            elif missing:
                self._repeat(source, missing, now)
        self.settle()

    def _leave(self, lost: set[PackRef]) -> None:
        """Build on these packs no more; the next inventory must not say that they are there."""
        self._index.avoid(ref.id for ref in lost)
        self._relied -= lost
        self._indexed -= sum(pack.ref in lost for pack in self._finished[: self._indexed])
        self._finished = [pack for pack in self._finished if pack.ref not in lost]

    def _repeat(self, source: _Source, ranges: Sequence[ByteRange], base: DiskMap | None) -> None:
        again = self._write(source.read_into, source.written.size, ranges, base)
        if again.root != source.written.root:
            raise ObjectLost(
                "data this restore point needs is gone or damaged, and its source has changed meanwhile."
            )

    @property
    def met_while_writing(self) -> frozenset[PackRef]:
        """The damaged packs in which a disk may have found something before another one met them."""
        return frozenset(self.met - self._met_before)

    @property
    def written_packs(self) -> list[PackRef]:
        """The packs this run made durable and still builds on."""
        return [pack.ref for pack in self._finished]

    @property
    def relied_on(self) -> frozenset[PackRef]:
        """The packs in which this run found or wrote something."""
        return frozenset(self._relied)


def _all(size: int) -> tuple[ByteRange, ...]:
    return (ByteRange(0, size),) if size else ()
