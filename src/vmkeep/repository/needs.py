"""What visible points need of packs that are to go, judged by the rules for whoever deletes.

`docs/format.md` section 11: first the condemnations are read, then the points are
listed; sealed, unfinished and void ones count alike; another copy counts
only in a pack that nobody condemned and whose bytes have been read and verified.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Self

import zstandard
from blake3 import blake3

from vmkeep.objectstore.errors import ObjectMissing, ObjectShort
from vmkeep.repository.box import open_box
from vmkeep.repository.condemned import condemned_packs
from vmkeep.repository.errors import RepositoryError, Tampered
from vmkeep.repository.examine.wholeness import read_frames
from vmkeep.repository.fetching import fetch
from vmkeep.repository.index import Index
from vmkeep.repository.listing import POINTS
from vmkeep.repository.manifest import decode_manifest
from vmkeep.repository.nodes import Child
from vmkeep.repository.packs import Kind, Pack, PackRef, PackWriter
from vmkeep.repository.reader import Reader, map_of, stored_packs
from vmkeep.repository.repository import Repository
from vmkeep.repository.slots import STORED, ZSTD


class Needs:
    """Finds out which of the ``broken`` packs no visible point needs; condemn them before.

    ``verified`` are the packs whose every byte was read since.
    """

    def __init__(
        self, repository: Repository, verified: frozenset[PackRef], broken: Sequence[PackRef]
    ) -> None:
        self._repository = repository
        self._broken = broken
        self._index = Index()
        store = repository.store
        avoided = condemned_packs(store) | {ref.id for ref in broken}
        self._present = stored_packs(store)
        self._holders = {ref for ref in verified & self._present if ref.id not in avoided}
        self._index.avoid(ref.id for ref in self._present - self._holders)
        self._reader = Reader(store, repository.parameters, repository.ring, self._index)
        self._walked: set[bytes] = set()
        self._unheld: dict[bytes, Kind] = {}
        self._unknown: list[str] = []
        """Points of which it cannot be told what they need."""
        self.to_copy: dict[PackRef, set[bytes]] = {}
        """Frames to be copied before the pack that has them goes."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._index.close()

    def settle(self, kept: dict[str, str]) -> list[PackRef]:
        """Return the packs that can go once ``to_copy`` is copied; say in ``kept`` why the others stay."""
        self._reader.refresh()
        self._mark()
        if self._unknown:
            names = ", ".join(name.rpartition("-")[2][:12] for name in self._unknown[:5])
            more = f" and {len(self._unknown) - 5} more" if len(self._unknown) > 5 else ""
            reason = f"nobody can tell what restore points need of which a part is lost: {names}{more}."
            kept |= dict.fromkeys((ref.name for ref in self._broken), reason)
            return []
        tables = {ref: self._table(ref) for ref in self._broken}
        lost = set(self._unheld)
        for ref, table in tables.items():
            good = self._read(ref, lost & (table or set()))
            lost -= good
            if good:
                self.to_copy[ref] = good
        for ref, table in tables.items():
            # What a pack had whose table is gone nobody knows: perhaps all that is lost.
            needed = lost if table is None else lost & table
            if needed:
                kept[ref.name] = f"restore points need {len(needed)} frames that no intact pack has."
        return [ref for ref in self._broken if ref.name not in kept]

    def _mark(self) -> None:
        """Find what visible points need and no holder has."""
        repository = self._repository
        for info in repository.store.list(POINTS):
            try:
                stored = fetch(repository.store, info)
                point = decode_manifest(info.name, open_box(repository.ring, info.name, stored))
            except ObjectMissing:
                continue  # forgotten just now
            except Tampered:
                self._unknown.append(info.name)
                continue
            whole = True
            for item in point.mapped:
                disk = map_of(self._reader, item)
                if disk.root is not None:
                    whole &= self._walk(disk.root, disk.level)
            if not whole:
                self._unknown.append(info.name)

    def _walk(self, node_id: bytes, level: int) -> bool:
        """Note what is needed below a node; False when a part of the map cannot be read."""
        if node_id in self._walked:
            return True
        self._note(node_id, Kind.NODES)
        try:
            children = self._reader.node(node_id, level)
        except (RepositoryError, ObjectMissing, ObjectShort):
            return False
        whole = True
        for child in children:
            if isinstance(child, Child):
                continue
            if level:
                whole &= self._walk(child, level - 1)
            else:
                self._note(child, Kind.CHUNKS)
        if whole:
            self._walked.add(node_id)
        return whole

    def _note(self, content_id: bytes, kind: Kind) -> None:
        location = self._index.find_reusable(content_id)
        if location is None or location.pack.kind is not kind or location.pack not in self._holders:
            self._unheld[content_id] = kind

    def _table(self, ref: PackRef) -> set[bytes] | None:
        """Return the ids of a pack's frames; None when nobody can tell them."""
        repository = self._repository
        try:
            pack = Pack(repository.store, repository.ring, ref, repository.parameters.chunk_size)
        except (Tampered, ObjectMissing):
            return None
        return {slot.id for slot in pack.slots}

    def _read(self, ref: PackRef, wanted: set[bytes]) -> set[bytes]:
        repository = self._repository
        if not wanted:
            return set()
        return read_frames(repository.store, repository.ring, repository.parameters, ref, wanted)[0]


def copy_frames(
    repository: Repository, wanted: Mapping[PackRef, Iterable[bytes]]
) -> list[tuple[str, int, bytes]]:
    """Store frames again in new packs, read these back, and return what an inventory says of them.

    Raises Tampered when a frame or a copy is not what its id says; nothing may be deleted then.
    """
    added = []
    for kind in Kind:
        sources = {ref: set(ids) for ref, ids in wanted.items() if ref.kind is kind and ids}
        done: set[bytes] = set()
        writer: PackWriter | None = None
        try:
            for ref, ids in sources.items():
                for content_id, content in _frames(repository, ref, ids - done):
                    writer = writer or PackWriter(repository.store, repository.ring, kind)
                    packed = zstandard.ZstdCompressor(level=3).compress(content)
                    codec, payload = (ZSTD, packed) if len(packed) < len(content) else (STORED, content)
                    writer.append(content_id, payload, codec, len(content))
                    done.add(content_id)
                    if writer.is_full(repository.parameters.pack_size):
                        added.append(_finish(repository, writer))
                        writer = None
            if writer is not None:
                added.append(_finish(repository, writer))
                writer = None
        finally:
            if writer is not None:
                writer.abort()
    return added


def _frames(repository: Repository, ref: PackRef, ids: set[bytes]) -> Iterable[tuple[bytes, bytes]]:
    ring = repository.ring
    key = ring.chunk_id_key if ref.kind is Kind.CHUNKS else ring.node_id_key
    pack = Pack(repository.store, ring, ref, repository.parameters.chunk_size)
    for number, slot in enumerate(pack.slots):
        if slot.id in ids:
            content = bytes(pack.read([number])[0])
            if blake3(content, key=key).digest() != slot.id:
                raise Tampered(f"a frame of {ref.name} does not hold what its id says.", object=ref.name)
            yield slot.id, content


def _finish(repository: Repository, writer: PackWriter) -> tuple[str, int, bytes]:
    finished = writer.finish()
    ring = repository.ring
    key = ring.chunk_id_key if finished.ref.kind is Kind.CHUNKS else ring.node_id_key
    Pack(repository.store, ring, finished.ref, repository.parameters.chunk_size).verify(key)
    return finished.ref.name, finished.size, finished.checksum
