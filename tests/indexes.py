"""A repository of which only the index exists, and what that index must answer.

Nothing but the names of its packs is stored, for the index asks for nothing else. The
objects in `index/` are laid out here by section 12 of the format, and the
right answers come from plain dictionaries.
"""

import os
import random
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.repositories import condemn, make_repository, reopen
from vmkeep.objectstore.memory import MemoryStore
from vmkeep.objectstore.store import Store
from vmkeep.repository.box import close_box
from vmkeep.repository.index import Location
from vmkeep.repository.packs import Kind, PackRef
from vmkeep.repository.repository import Repository


class IndexWorld:
    """Index objects and packs that come and go."""

    def __init__(self, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.store = MemoryStore()
        self.repository = make_repository(self.store)
        self.tables: dict[PackRef, list[bytes]] = {}  # every pack there ever was: ids by slot
        self.objects: dict[str, list[PackRef]] = {}  # those that are stored
        self.packs: set[PackRef] = set()  # those that are stored
        self.condemned: set[PackRef] = set()

    @property
    def folder_name(self) -> str:
        return self.repository.ring.repository.hex()

    def add_pack(self, ids: Sequence[bytes]) -> PackRef:
        ref = PackRef(os.urandom(16), self.random.choice([Kind.CHUNKS, Kind.NODES]))
        self.tables[ref] = list(ids)
        self.packs.add(ref)
        self.store.put(ref.name, b"")
        return ref

    def add_object(self, refs: Sequence[PackRef]) -> str:
        name = f"index/{os.urandom(16).hex()}"
        entries = [
            struct.pack("<16sII", content_id[:16], number, slot)
            for number, ref in enumerate(refs)
            for slot, content_id in enumerate(self.tables[ref])
        ]
        content = struct.pack("<8sII", b"VMKINDX1", len(refs), len(entries))
        content += b"".join(struct.pack("<16sBxxxI", r.id, r.kind, len(self.tables[r])) for r in refs)
        entries.sort(key=lambda entry: entry[:16])
        content += b"".join(entries)
        self.store.put(name, close_box(self.repository.ring, name, content, compress=False))
        self.objects[name] = list(refs)
        return name

    def grow(self, objects: int = 1, *, packs: int = 2, slots: int = 40) -> list[str]:
        """Add index objects over new packs with new ids; return their names."""
        made = []
        for _ in range(objects):
            tables = [[self.random.randbytes(32) for _ in range(slots)] for _ in range(packs)]
            made.append(self.add_object([self.add_pack(ids) for ids in tables]))
        return made

    def remove_object(self, name: str) -> None:
        del self.objects[name]
        self.store.delete(name)

    def remove_pack(self, ref: PackRef) -> None:
        self.packs.discard(ref)
        self.store.delete(ref.name)

    def bring_back_pack(self, ref: PackRef) -> None:
        self.packs.add(ref)
        self.store.put(ref.name, b"")

    def condemn(self, ref: PackRef) -> None:
        if ref not in self.condemned:
            self.condemned.add(ref)
            condemn(self.repository, ref)

    def open(self, cache: Path | None, store: Store | None = None) -> Repository:
        """Open the repository as a new process would."""
        repository = reopen(self.repository, store)
        repository.keep_index_in(cache)
        return repository

    def require_right_answers(self, repository: Repository, ids: Iterable[bytes] | None = None) -> None:
        """Fail unless the index answers by what is listed now."""
        places: dict[bytes, set[Location]] = {}
        known = set()
        for refs in self.objects.values():
            for ref in self.packs.intersection(refs):
                known.add(ref)
                for slot, content_id in enumerate(self.tables[ref]):
                    places.setdefault(content_id, set()).add(Location(ref, slot))
        index = repository.index
        for content_id in ids or {content_id for table in self.tables.values() for content_id in table}:
            right = places.get(content_id, set())
            assert index.find(content_id) in (right if right else [None])
            usable = {place for place in right if place.pack not in self.condemned}
            assert index.find_reusable(content_id) in (usable if usable else [None])
        for content_id in (bytes(32), b"\xff" * 32, self.random.randbytes(32)):
            assert index.find(content_id) is None
        assert set(index.packs) == known
        assert all(index.knows_pack(ref) == (ref in known) for ref in self.tables)


def kept_files(cache: Path) -> list[Path]:
    """Return every file below the cache folder."""
    return sorted(path for path in cache.rglob("*") if not path.is_dir())
