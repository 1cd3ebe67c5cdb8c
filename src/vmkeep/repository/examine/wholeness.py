"""Which restore points are whole, and what do the others lack?

Works on what an examination of the packs has found: where everything lies,
which packs were read and are right, and which frames cannot be read anywhere.
"""

from collections.abc import Container, Iterable
from enum import IntFlag
from typing import Final

from blake3 import blake3

from vmkeep.errors import VmkeepError
from vmkeep.objectstore.errors import ObjectMissing, ObjectShort
from vmkeep.objectstore.store import Store
from vmkeep.repository.errors import ObjectLost, RepositoryError, Tampered
from vmkeep.repository.examine.report import Loss
from vmkeep.repository.index import Index
from vmkeep.repository.keys import KeyRing
from vmkeep.repository.listing import SealedPoint
from vmkeep.repository.nodes import Child, fanout
from vmkeep.repository.packs import Kind, Pack, PackRef
from vmkeep.repository.parameters import Parameters
from vmkeep.repository.reader import DiskMap, Reader, map_of
from vmkeep.repository.slots import Slot

_RANGES_TOLD: Final = 16


def unreadable_frames(
    store: Store, ring: KeyRing, parameters: Parameters, damaged: frozenset[PackRef], packs: Iterable[PackRef]
) -> dict[bytes, str]:
    """Return the ids (with the pack's name) of frames of ``damaged`` packs that no other pack gives back.

    Every frame of these is read by itself; copies are read and verified too.
    """
    bad: dict[bytes, str] = {}
    for ref in sorted(damaged):
        good, wrong = read_frames(store, ring, parameters, ref, None)
        bad |= dict.fromkeys(wrong - good, ref.name)
    for ref in packs if bad else ():
        good, _ = read_frames(store, ring, parameters, ref, bad.keys())
        for content_id in good:
            del bad[content_id]
    return bad


def read_frames(
    store: Store, ring: KeyRing, parameters: Parameters, ref: PackRef, wanted: Container[bytes] | None
) -> tuple[set[bytes], set[bytes]]:
    """Return the ids of a pack's ``wanted`` frames (None: all): those that are right, and the others."""
    key = ring.chunk_id_key if ref.kind is Kind.CHUNKS else ring.node_id_key
    good, wrong = set[bytes](), set[bytes]()
    try:
        pack = Pack(store, ring, ref, parameters.chunk_size)
    except (Tampered, ObjectMissing):
        return set(), set()  # which frames it had, nobody knows
    for number, slot in enumerate(pack.slots):
        if wanted is not None and slot.id not in wanted:
            continue
        try:
            right = blake3(pack.read([number])[0], key=key).digest() == slot.id
        except (Tampered, ObjectMissing, ObjectShort):
            right = False
        (good if right else wrong).add(slot.id)
    return good, wrong


class Lengths:
    """How long each chunk is, by the slot tables.

    Only chunks that are not full are kept: a disk ends in one of them at most.
    """

    def __init__(self, full: int) -> None:
        self._full = full
        self._short: dict[bytes, int] = {}
        self._learned: set[PackRef] = set()

    def learn(self, ref: PackRef, slots: Iterable[Slot]) -> None:
        """Take what one pack says of its frames."""
        self._learned.add(ref)
        if ref.kind is Kind.CHUNKS:
            self._short |= {slot.id: slot.plain for slot in slots if slot.plain != self._full}

    def knows(self, ref: PackRef) -> bool:
        return ref in self._learned

    def of(self, chunk_id: bytes) -> int:
        """Return the length of a chunk that lies in a known pack."""
        return self._short.get(chunk_id, self._full)


class _Below(IntFlag):
    """What is known of everything below a node that lacks nothing."""

    EXCLUDES = 1
    UNREAD = 2
    """Some of it lies in packs that were not read."""


class _Tally:
    """Adds up what is lost of one disk, in ascending order; remembers the first few ranges."""

    def __init__(self) -> None:
        self.total = 0
        self._ranges: list[tuple[int, int]] = []
        self._count = 0
        self._end = -1
        self.found = 0
        """How many times something was added; also a map that lacks no byte may be refused."""

    def add(self, offset: int, length: int) -> None:
        self.found += 1
        if offset != self._end:
            self._count += 1
            if self._count <= _RANGES_TOLD:
                self._ranges.append((offset, length))
        elif self._count <= _RANGES_TOLD:
            self._ranges[-1] = (self._ranges[-1][0], self._ranges[-1][1] + length)
        self._end = offset + length
        self.total += length

    def loss(self, name: str) -> Loss:
        left_off = max(0, self._count - _RANGES_TOLD)
        return Loss(name, self.total, tuple(self._ranges), left_off)


class Examiner:
    """Walks the maps of points; what an earlier point shares with it is not walked again.

    ``read_through`` are the packs of which every frame was read;
    ``unreadable`` are ids that are listed somewhere and cannot be read;
    ``lost`` the packs whose content is unknown, because they are gone or their
    slot tables are damaged. Packs the index avoids are those no inventory lists.
    """

    def __init__(
        self,
        reader: Reader,
        index: Index,
        read_through: frozenset[PackRef],
        unreadable: dict[bytes, str],
        lost: Iterable[PackRef],
        lengths: Lengths,
    ) -> None:
        self._reader = reader
        self._index = index
        self._read_through = read_through
        self._unreadable = unreadable
        self._lost = {kind: {ref.name for ref in lost if ref.kind is kind} for kind in Kind}
        self._lengths = lengths
        # By id, level, and how much of the disk was left for it: whether a subtree
        # fits its place depends on nothing else.
        self._known: dict[bytes, _Below] = {}
        self._asked_for_missing = False
        self.unlisted: set[PackRef] = set()
        """Packs that hold something no listed pack holds."""

    def examine(self, sealed: SealedPoint) -> tuple[list[Loss], set[str], bool]:
        """Return what a point lacks, the packs to blame, and whether all of the point's packs were read."""
        losses, culprits, read = [], set[str](), True
        for stored in sealed.point.mapped:
            disk = map_of(self._reader, stored)
            tally = _Tally()
            below = _Below(0)
            if disk.root is not None:
                below = self._walk(disk, disk.root, disk.level, 0, tally, culprits)
            if not tally.found and _Below.EXCLUDES in below:
                try:
                    disk.refuse_unlisted_exclusions()
                except (RepositoryError, ObjectMissing):
                    tally.add(0, disk.size)  # no reader takes such a map
            if tally.found:
                losses.append(tally.loss(stored.name))
            read &= _Below.UNREAD not in below
        return losses, culprits, read

    def _walk(
        self, disk: DiskMap, node_id: bytes, level: int, offset: int, tally: _Tally, culprits: set[str]
    ) -> _Below:
        """Find every node and chunk below a node that covers the disk from ``offset`` on."""
        child_size = disk.child_size(level)
        room = min(child_size * fanout(level), disk.size - offset)
        place = node_id + bytes([level]) + room.to_bytes(8, "little")
        known = self._known.get(place)
        if known is not None:
            return known
        try:
            children = disk.children(node_id, level, offset)
        except (RepositoryError, ObjectMissing, ObjectShort) as error:
            tally.add(offset, room)
            culprits |= self._blamed(error)
            return _Below(0)
        self._locate(node_id, Kind.NODES)
        before = tally.found
        below = _Below(0)
        for i, child in enumerate(children):
            at = offset + i * child_size
            if isinstance(child, Child):
                if child is Child.EXCLUDED:
                    below |= _Below.EXCLUDES
            elif level:
                below |= self._walk(disk, child, level - 1, at, tally, culprits)
            else:
                below |= self._find_chunk(child, at, disk.chunk_length(at), tally, culprits)
        if tally.found == before:
            # Only then: what lacks something is told for each point that needs it.
            self._known[place] = below
        return below

    def _blamed(self, error: VmkeepError) -> set[str]:
        """Return the packs to blame for a node that cannot be taken; none for one that does not fit."""
        if not isinstance(error, Tampered):
            return self._lost[Kind.NODES]
        named = str(error.context.get("object", ""))
        return {named} if named else set()

    def _find_chunk(
        self, chunk_id: bytes, offset: int, length: int, tally: _Tally, culprits: set[str]
    ) -> _Below:
        culprit = self._unreadable.get(chunk_id)
        if culprit is not None:
            culprits.add(culprit)
            tally.add(offset, length)
            return _Below(0)
        pack = self._locate(chunk_id, Kind.CHUNKS)
        if pack is None:
            culprits |= self._lost[Kind.CHUNKS]
            tally.add(offset, length)
            return _Below(0)
        if self._length(chunk_id, pack) != length:
            tally.add(offset, length)
        return _Below(0) if pack in self._read_through else _Below.UNREAD

    def _length(self, chunk_id: bytes, pack: PackRef) -> int | None:
        if not self._lengths.knows(pack):  # it came while we looked
            try:
                self._lengths.learn(pack, self._reader.pack(pack).slots)
            except (Tampered, ObjectMissing):
                return None
        return self._lengths.of(chunk_id)

    def _locate(self, content_id: bytes, kind: Kind) -> PackRef | None:
        location = self._index.find_reusable(content_id)
        if location is None:
            location = self._index.find(content_id)
            if location is not None:
                self.unlisted.add(location.pack)
        if location is not None and location.pack.kind is kind:
            return location.pack
        if self._asked_for_missing:
            return None
        try:
            # Moved while we looked, perhaps: asks every pack, once.
            return self._reader.locate(content_id, kind).pack
        except ObjectLost:
            self._asked_for_missing = True
            return None
