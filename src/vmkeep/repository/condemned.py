"""Packs that will be deleted or are damaged: nobody may rely on them any more. `docs/format.md` section 11.

An increment inherits what it does not read, so it has to find out what of its
parent rests on damaged packs, and read that again from its source.
"""

import json
from datetime import datetime
from typing import Final

from vmkeep.objectstore.errors import ObjectMissing
from vmkeep.objectstore.store import ObjectInfo, Store
from vmkeep.ranges import ByteRange, join_sorted
from vmkeep.repository.box import close_box, open_box
from vmkeep.repository.errors import ObjectLost, Tampered, Unreadable
from vmkeep.repository.fetching import fetch
from vmkeep.repository.index import Index
from vmkeep.repository.inventory import PREFIX as INVENTORY
from vmkeep.repository.inventory import decode_inventory
from vmkeep.repository.keys import KeyRing
from vmkeep.repository.manifest import format_time
from vmkeep.repository.nodes import Child
from vmkeep.repository.packs import Kind, PackRef
from vmkeep.repository.parameters import LEAF_CHUNKS
from vmkeep.repository.reader import DiskMap

CONDEMNED: Final = "condemned/"


def condemned_packs(store: Store) -> set[bytes]:
    """Return the ids of condemned packs; forged records only cost an upload."""
    found = set()
    for info in store.list(CONDEMNED):
        try:
            found.add(bytes.fromhex(info.name.removeprefix(CONDEMNED)))
        except ValueError:
            continue  # the name of no pack
    return found


def condemn_damaged(store: Store, ring: KeyRing, ref: PackRef, run: str, now: datetime) -> None:
    """Record for good that a pack is damaged; a record that is there already stays."""
    name = CONDEMNED + ref.id.hex()
    fields = {"version": 1, "pack": ref.name, "reason": "damaged", "time": format_time(now), "run": run}
    store.put_if_absent(name, close_box(ring, name, json.dumps(fields).encode()))


def blamed_pack(error: Tampered | ObjectLost) -> PackRef | None:
    """Return the pack an error names as its object; None when it names none."""
    return PackRef.from_name(str(error.context.get("object", "")))


def damaged_packs(store: Store, ring: KeyRing) -> frozenset[bytes]:
    """Return the ids of packs condemned as damaged; records that do not verify count as absent.

    One that cannot be read just now counts: it costs reading something again.
    """
    found = set()
    for info in store.list(CONDEMNED):
        try:
            pack = bytes.fromhex(info.name.removeprefix(CONDEMNED))
            if _says_damaged(store, ring, info):
                found.add(pack)
        except (Tampered, ObjectMissing, ValueError, KeyError, TypeError, RecursionError):
            continue
    return frozenset(found)


def _says_damaged(store: Store, ring: KeyRing, info: ObjectInfo) -> bool:
    try:
        fields = json.loads(open_box(ring, info.name, fetch(store, info)))
    except Unreadable:
        return True
    return bool(fields["reason"] == "damaged")


def incomplete_packs(store: Store, repository: bytes, ring: KeyRing) -> frozenset[bytes]:
    """Return the ids of packs that are gone or have another size than their run wrote down."""
    present = {info.name: info.size for kind in Kind for info in store.list(kind.prefix)}
    written: dict[str, int] = {}
    removed: set[str] = set()
    for info in store.list(INVENTORY):
        try:
            inventory = decode_inventory(info.name, fetch(store, info), repository, ring)
        except (Tampered, ObjectMissing):
            continue  # reported by `check`; without it nothing is known about its packs
        written |= {name: size for name, size, _ in inventory.added}
        removed |= set(inventory.removed)
    names = (name for name, size in written.items() if name not in removed and present.get(name) != size)
    return frozenset(ref.id for ref in map(PackRef.from_name, names) if ref is not None)


def damaged_ranges(base: DiskMap, index: Index, damaged: frozenset[bytes]) -> list[ByteRange] | None:
    """Return the ranges of a map whose chunks lie in damaged packs; None when parts of the map itself do."""
    found = []
    chunk = base.reader.parameters.chunk_size
    try:
        nodes = (content_id for kind, content_id in base.all_ids() if kind is Kind.NODES)
        if any(_is_in(index, node_id, damaged) for node_id in nodes):
            return None
        for number, entries in base.leaves():
            for i, entry in enumerate(entries):
                if not isinstance(entry, Child) and _is_in(index, entry, damaged):
                    offset = (number * LEAF_CHUNKS + i) * chunk
                    found.append(ByteRange(offset, min(chunk, base.size - offset)))
    except (Tampered, ObjectLost):
        return None
    return list(join_sorted(found))


def _is_in(index: Index, content_id: bytes, packs: frozenset[bytes]) -> bool:
    location = index.find(content_id)
    return location is None or location.pack.id in packs
