"""Repositories, disks and runs for tests: small, fast, and without the rooms above the repository.

Disks are kept as plain bytes by the tests themselves, so what comes back is
compared with what went in, never with something the repository computed.
"""

import json
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from tests.clocks import FakeClock
from tests.generators.repository_bytes import key_object
from vmkeep.clock import Clock
from vmkeep.model.consistency import Consistency
from vmkeep.model.plan import VmRef
from vmkeep.model.point import Claim, RestorePoint, StoredDisk
from vmkeep.objectstore.memory import MemoryStore
from vmkeep.objectstore.store import Store
from vmkeep.ranges import ByteRange
from vmkeep.repository.box import close_box, open_box
from vmkeep.repository.keys import KeyRing
from vmkeep.repository.listing import POINTS, SealedPoint
from vmkeep.repository.manifest import decode_manifest
from vmkeep.repository.packs import PackRef
from vmkeep.repository.parameters import Parameters
from vmkeep.repository.points import seal_name
from vmkeep.repository.publish import publish
from vmkeep.repository.reader import DiskMap
from vmkeep.repository.repository import Repository
from vmkeep.repository.writer import Writer

CHUNK: Final = 16 << 10
LEAF: Final = 64 * CHUNK
PACK: Final = 64 << 10
VM: Final = VmRef("5a1f0c3e-0000-4000-8000-000000000001", "web")
OTHER_VM: Final = VmRef("5a1f0c3e-0000-4000-8000-000000000002", "db")
BEYOND_LEASE: Final = timedelta(hours=2)

Source = Callable[[int, memoryview], None]


def make_repository(
    store: Store | None = None,
    clock: FakeClock | None = None,
    *,
    chunk_size: int = CHUNK,
    pack_size: int = PACK,
) -> Repository:
    """Return an opened repository whose key object nobody knows the password of: deriving keys takes long."""
    clock = clock or FakeClock()
    store = MemoryStore(clock) if store is None else store
    parameters = Parameters(
        repository=os.urandom(16), created="2026-03-29T00:30:00Z", chunk_size=chunk_size, pack_size=pack_size
    )
    store.put("format", parameters.encode())
    put_key(store, parameters)
    return Repository(store, parameters, KeyRing(os.urandom(32), parameters.repository), clock, None, "")


def put_key(store: Store, parameters: Parameters) -> None:
    """Store a key object as `docs/format.md` section 4 wants it."""
    key_id = os.urandom(16).hex()
    kdf = {"name": "argon2id", "memory_kib": 65536, "iterations": 3, "lanes": 4, "salt": os.urandom(16).hex()}
    record: dict[str, object] = {
        "version": 1,
        "id": key_id,
        "kind": "password",
        "created": parameters.created,
        "kdf": kdf,
        "format": parameters.digest().hex(),
        "nonce": os.urandom(12).hex(),
        "wrapped": os.urandom(48).hex(),
    }
    store.put(f"keys/{key_id}", key_object(record))


def reopen(repository: Repository, store: Store | None = None, clock: Clock | None = None) -> Repository:
    """Return the same repository as a new process would see it: nothing known but the keys."""
    store = repository.store if store is None else store
    parameters = Parameters.decode(store.get("format"), store.address)
    return Repository(store, parameters, repository.ring, clock or FakeClock(), None, "")


def from_bytes(content: bytes) -> Source:
    """Return a disk that holds ``content``."""

    def read_into(offset: int, view: memoryview) -> None:
        assert offset + len(view) <= len(content), "read beyond the end of the disk"
        view[:] = content[offset : offset + len(view)]

    return read_into


def from_pieces(pieces: Mapping[int, bytes]) -> Source:
    """Return a huge disk of zeros with ``pieces`` (offset to bytes) in it."""

    def read_into(offset: int, view: memoryview) -> None:
        end = offset + len(view)
        view[:] = bytes(len(view))
        for at, piece in pieces.items():
            low, high = max(at, offset), min(at + len(piece), end)
            if low < high:
                view[low - offset : high - offset] = piece[low - at : high - at]

    return read_into


def random_bytes(seed: int, length: int) -> bytes:
    """Return bytes that do not compress, the same for the same seed."""
    return random.Random(seed).randbytes(length)


def manifest_of(
    vm: VmRef,
    disks: Sequence[StoredDisk],
    clock: Clock,
    *,
    run: str = "",
    previous: SealedPoint | None = None,
    parent: SealedPoint | None = None,
    inventory: str = "inventory/none",
) -> Callable[[str], RestorePoint]:
    """Return what :func:`publish` asks for: a manifest for a fresh id."""
    at_rest = clock.now()

    def manifest(point_id: str) -> RestorePoint:
        return RestorePoint(
            id=point_id,
            run=run or os.urandom(16).hex(),
            vm=vm,
            number=previous.point.number + 1 if previous else 1,
            previous=(previous.name, previous.digest) if previous else None,
            parent=parent.point.id if parent else None,
            time=at_rest,
            finished=clock.now(),
            source="disk:test",
            method="folder",
            consistency=Claim("preferred", Consistency.CRASH, Consistency.CRASH),
            disks=tuple(disks),
            files=(),
            bytes_read=0,
            bytes_stored=0,
            inventory=inventory,
            program="vmkeep test",
        )

    return manifest


def stored_disk(name: str, size: int, root: bytes | None) -> StoredDisk:
    """Return how a manifest describes one disk."""
    return StoredDisk(name, size, root, "raw", "fixed", 512, 4096, None, None, name)


@dataclass
class Run:
    """One run between its writing and its publishing, so that tests can do things in between."""

    repository: Repository
    writer: Writer
    manifest: Callable[[str], RestorePoint]
    inherited_from: SealedPoint | None
    clock: Clock

    def publish(self) -> SealedPoint:
        """Do what the last part of a run does, and end the writer."""
        repository = self.repository
        with self.writer:
            return publish(
                repository.store,
                repository.points,
                repository.reader,
                self.writer,
                self.clock,
                self.manifest,
                self.inherited_from,
            )


def write(
    repository: Repository,
    vm: VmRef,
    disks: Mapping[str, bytes],
    clock: FakeClock,
    *,
    changes: Mapping[str, Sequence[ByteRange]] | None = None,
    compare: bool = False,
) -> Run:
    """Store disks up to the flush; ``changes``: inherit the rest from the newest point.

    ``compare``: everything is read, and the newest point helps to recognise what is unchanged.
    """
    run = os.urandom(16).hex()
    previous = repository.points.listing(vm.id).newest(vm.id)
    parent = previous if changes is not None or compare else None
    writer = repository.writer(run)
    stored = []
    try:
        for name, content in disks.items():
            base = None
            if parent is not None:
                old = {disk.name: disk for disk in parent.point.disks}[name]
                base = DiskMap(repository.reader, old.root, old.size)
            ranges = [ByteRange(0, len(content))] if changes is None else changes.get(name, [])
            written = writer.write_map(
                from_bytes(content), len(content), ranges, base=base, inherit=changes is not None
            )
            stored.append(stored_disk(name, len(content), written.root))
        inventory = writer.flush()
    except BaseException:
        writer.__exit__()
        raise
    manifest = manifest_of(vm, stored, clock, run=run, previous=previous, parent=parent, inventory=inventory)
    return Run(repository, writer, manifest, parent if changes is not None else None, clock)


def take(
    repository: Repository,
    vm: VmRef,
    disks: Mapping[str, bytes],
    clock: FakeClock,
    *,
    changes: Mapping[str, Sequence[ByteRange]] | None = None,
    compare: bool = False,
) -> SealedPoint:
    """Take a restore point as a run does: journal, write, publish, journal."""
    clock.advance(60)
    journal = repository.journal(vm, os.urandom(16).hex())
    journal.begin({})
    run = write(repository, vm, disks, clock, changes=changes, compare=compare)
    journal.step("publishing")
    sealed = run.publish()
    journal.finish({"outcome": "sealed", "point": sealed.name})
    return sealed


def restore(repository: Repository, sealed: SealedPoint) -> dict[str, bytes]:
    """Return the disks of a point as they read now."""
    return {
        disk.name: DiskMap(repository.reader, disk.root, disk.size).read_at(0, disk.size)
        for disk in sealed.point.disks
    }


def names(store: Store, prefix: str) -> list[str]:
    """Return the names of the stored objects below a prefix."""
    return [info.name for info in store.list(prefix)]


def in_order(store: Store, prefix: str) -> list[str]:
    """Return the names below a prefix, that of the first written first.

    Names are random, so a test that takes one of several chooses by this order.
    """
    assert isinstance(store, MemoryStore)
    return [name for name in store._objects if name.startswith(prefix)]


def pack_refs(store: Store) -> set[PackRef]:
    """Return the stored packs of both kinds."""
    found = {PackRef.from_name(name) for prefix in ("packs/", "maps/") for name in names(store, prefix)}
    return {ref for ref in found if ref is not None}


def packs_of(repository: Repository, sealed: SealedPoint) -> set[PackRef]:
    """Return the packs that hold something of a point."""
    found = set()
    for disk in sealed.point.disks:
        for kind, content_id in DiskMap(repository.reader, disk.root, disk.size).all_ids():
            found.add(repository.reader.locate(content_id, kind).pack)
    return found


def condemn(repository: Repository, ref: PackRef, reason: str = "garbage") -> None:
    """Put the record that a pack will be deleted, as a collector does."""
    name = f"condemned/{ref.id.hex()}"
    content = f'{{"version": 1, "pack": "{ref.name}", "reason": "{reason}"}}'.encode()
    repository.store.put(name, close_box(repository.ring, name, content))


def forget(repository: Repository, sealed: SealedPoint) -> None:
    """Drop a point as `docs/format.md` section 9 says: tombstone, then the seal goes, then the manifest."""
    point = sealed.point
    previous = point.previous and {"name": point.previous[0], "digest": point.previous[1].hex()}
    fields = {
        "version": 1, "point": sealed.name, "vm": point.vm.id, "number": point.number,
        "digest": sealed.digest.hex(), "previous": previous, "time": "2026-03-29T00:30:00Z", "why": "test",
    }  # fmt: skip
    stone = "forgotten/" + sealed.name.removeprefix(POINTS)
    repository.store.put(stone, close_box(repository.ring, stone, json.dumps(fields).encode()))
    repository.store.delete(seal_name(sealed.name))
    repository.store.delete(sealed.name)


def collect(repository: Repository) -> set[PackRef]:
    """Delete every pack that no visible point uses, sealed or not; return what went."""
    fresh = reopen(repository)
    live: set[PackRef] = set()
    for name in names(fresh.store, POINTS):
        point = decode_manifest(name, open_box(fresh.ring, name, fresh.store.get(name)))
        live |= packs_of(fresh, SealedPoint(point, name, b""))
    gone = pack_refs(fresh.store) - live
    for ref in gone:
        fresh.store.delete(ref.name)
    return gone
