"""Read back what a run stored, from the very packs its restore point will rely on."""

from collections.abc import Mapping, Sequence
from typing import Final

from blake3 import blake3

from vmkeep.objectstore.errors import ObjectMissing, ObjectShort
from vmkeep.repository.errors import ObjectLost, Tampered
from vmkeep.repository.index import Location
from vmkeep.repository.nodes import Entry, decode_node
from vmkeep.repository.packs import Kind, PackRef
from vmkeep.repository.reader import Reader

_NODES_KEPT: Final = 64


class ReadBack(Reader):
    """A reader that takes no second copy for the first, and knows nothing it has not read itself.

    A frame that is damaged where this run found or wrote it is an error here,
    although another pack may hold it too: later runs would build on it. Make a
    new one for each look; thread-safe.
    """

    def chunks(self, ids: Sequence[bytes]) -> list[bytes]:
        """Return the chunks with these ids, in order. Raises ObjectLost or Tampered."""
        found, errors = self.fetch(ids, Kind.CHUNKS)
        if errors:
            raise errors[0]
        return [found[content_id] for content_id in ids]

    def node(self, node_id: bytes, level: int) -> list[Entry]:
        """Return the children of one map node. Raises ObjectLost or Tampered."""
        with self._lock:
            known = self._nodes.get((node_id, level))
        if known is not None:
            return known
        found, errors = self.fetch([node_id], Kind.NODES)
        if errors:
            raise errors[0]
        children = decode_node(level, found[node_id], f"map node {node_id.hex()[:12]}")
        if level:  # leaves are asked for once
            with self._lock:
                self._nodes[node_id, level] = children
                if len(self._nodes) > _NODES_KEPT:
                    self._nodes.popitem(last=False)
        return children

    def fetch(
        self, ids: Sequence[bytes], kind: Kind
    ) -> tuple[dict[bytes, bytes], list[Tampered | ObjectLost]]:
        """Return what can be read of the frames, by id, and why the others cannot.

        An error whose pack is to blame has its name as ``object``. One damaged
        frame takes with it what was asked for of the same pack.
        """
        errors: list[Tampered | ObjectLost] = []
        by_pack: dict[PackRef, dict[int, bytes]] = {}
        for content_id in dict.fromkeys(ids):
            try:
                location = self._place(content_id, kind)
                by_pack.setdefault(location.pack, {})[location.slot] = content_id
            except ObjectLost as error:
                errors.append(error)
        found: dict[bytes, bytes] = {}
        for ref, wanted in by_pack.items():
            try:
                found |= self._read_strictly(ref, wanted)
            except (Tampered, ObjectLost) as error:
                errors.append(error)
        return found, errors

    def verify_nodes(self, ref: PackRef) -> None:
        """Read a whole pack of map nodes. Raises Tampered or ObjectLost naming it."""
        try:
            self.pack(ref).verify(self._ring.node_id_key)
        except (ObjectMissing, ObjectShort) as error:
            raise _gone(ref) from error

    def _place(self, content_id: bytes, kind: Kind) -> Location:
        # Where a writer finds it first; what only a parent protects may lie in an avoided pack.
        location = self._index.find_reusable(content_id)
        return location if location is not None else self.locate(content_id, kind)

    def _read_strictly(self, ref: PackRef, wanted: Mapping[int, bytes]) -> dict[bytes, bytes]:
        slots = sorted(wanted)
        try:
            pack = self.pack(ref)
            known = len(pack.slots)
            if any(slot >= known or pack.slots[slot].id != wanted[slot] for slot in slots):
                # The slot table is right, and the pack is not to blame.
                self._index.drop_packs([ref])
                self._index.add_pack(ref, pack.slots)
                raise ObjectLost(f"the index was wrong about {ref.name}.")
            contents = pack.read(slots)
        except (ObjectMissing, ObjectShort) as error:
            raise _gone(ref) from error
        key = self._ring.chunk_id_key if ref.kind is Kind.CHUNKS else self._ring.node_id_key
        found = {}
        for slot, content in zip(slots, contents, strict=True):
            if blake3(content, key=key).digest() != wanted[slot]:
                raise Tampered(f"a frame of {ref.name} does not hold what its id says.", object=ref.name)
            found[wanted[slot]] = content
        return found


def _gone(ref: PackRef) -> ObjectLost:
    return ObjectLost(f"the pack {ref.name} is missing or cut off.", object=ref.name)
