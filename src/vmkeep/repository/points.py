"""Restore points as stored objects: manifests, seals, tombstones, late knowledge.

`docs/format.md` sections 8 and 9.
"""

import heapq
import json
import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final, Literal

from blake3 import blake3

from vmkeep.model.consistency import Consistency
from vmkeep.model.point import RestorePoint
from vmkeep.objectstore.errors import ObjectMissing, StoreError
from vmkeep.objectstore.store import Store
from vmkeep.repository.box import close_box, open_box
from vmkeep.repository.errors import PublishRefused, RepositoryError, Tampered, Unreadable
from vmkeep.repository.fetching import fetch
from vmkeep.repository.keys import KeyRing
from vmkeep.repository.listing import POINTS, SEALS, Listing, SealedPoint, Tombstone, stamp_of
from vmkeep.repository.manifest import decode_manifest, encode_manifest, format_time

FORGOTTEN: Final = "forgotten/"
_VERSION: Final = 1


class Points:
    """Store, seal and list restore points. A point exists only once it is sealed."""

    def __init__(self, store: Store, ring: KeyRing) -> None:
        self._store = store
        self._ring = ring

    def put(self, point: RestorePoint) -> tuple[str, bytes]:
        """Make the manifest visible; from here on it protects its chunks. Return name and digest."""
        name = self.name_of(point)
        content = encode_manifest(point)
        try:
            decode_manifest(name, content)
        except Tampered as error:
            # Linux allows a backslash in a file name: better no point than one that no reader takes.
            raise PublishRefused(
                f"no reader would take this restore point: {error.message}", hint="Rename what it names."
            ) from error
        stored = close_box(self._ring, name, content)
        self._store.put(name, stored)
        return name, blake3(stored).digest()

    def name_of(self, point: RestorePoint) -> str:
        """Return the name its manifest has, stored or not."""
        return f"{POINTS}{self._ring.vm_key(point.vm.id)}/{stamp_of(point.time)}-{point.id}"

    def seal(self, name: str, digest: bytes, now: datetime) -> bool:
        """Decide that the point exists; False when it was decided otherwise. Safe to repeat.

        Raises a store error when the decision could not be read back, or nobody
        can say whether it will survive a power cut.
        """
        seal = seal_name(name)
        fields = {
            "version": _VERSION,
            "state": "sealed",
            "point": name,
            "digest": digest.hex(),
            "time": format_time(now),
        }
        content = self._box(seal, fields)
        unanswered: StoreError | None = None
        try:
            if self._store.put_if_absent(seal, content):
                return True
        except StoreError as error:
            unanswered = error
        # A lost reply of our own try, or somebody's decision: read which.
        try:
            state = self.seal_state(name, digest)
        except Unreadable:
            raise  # nobody can say what was decided
        except Tampered:
            return False  # junk of somebody without keys counts as void, for collectors too
        if state == "absent" and unanswered is not None:
            raise unanswered
        if state == "sealed" and unanswered is not None:
            # Visible, but the flush after it may be what failed. The store answers only once it is durable.
            self._store.put_if_absent(seal, content)
        return state == "sealed"

    def void(self, name: str, now: datetime) -> None:
        """Decide that the point will not exist, unless it exists; its manifest need not be there yet."""
        seal = seal_name(name)
        fields = {"version": _VERSION, "state": "void", "point": name, "digest": "", "time": format_time(now)}
        self._store.put_if_absent(seal, self._box(seal, fields))

    def seal_state(self, name: str, digest: bytes | None) -> Literal["sealed", "void", "absent"]:
        """Return what was decided about a manifest. Raises Tampered when the seal does not verify."""
        seal = seal_name(name)
        try:
            fields = self._open(seal)
        except ObjectMissing:
            return "absent"
        if fields.get("point") != name or fields.get("state") not in ("sealed", "void"):
            raise Tampered(f"the seal {seal} speaks of another restore point.", object=seal)
        if fields["state"] == "sealed" and digest is not None and fields.get("digest") != digest.hex():
            raise Tampered(f"the manifest {name} is not the one that was sealed.", object=name)
        return "sealed" if fields["state"] == "sealed" else "void"

    def exists(self, name: str) -> bool:
        """Tell whether the manifest is still there (sealed or not)."""
        return self._store.head(name) is not None

    def listing(self, vm_id: str | None = None) -> Listing:
        """Read all restore points (of one VM); what does not verify is reported, not returned."""
        folder = f"{self._ring.vm_key(vm_id)}/" if vm_id is not None else ""
        problems: list[RepositoryError] = []
        forgotten = self._tombstones(folder, problems)
        gone = {stone.name for stone in forgotten}
        sealed_names = {info.name.removeprefix(SEALS) for info in self._store.list(SEALS + folder)}
        found: list[SealedPoint] = []
        manifests = set()
        for info in self._store.list(POINTS + folder):
            manifests.add(info.name.removeprefix(POINTS))
            if info.name.removeprefix(POINTS) not in sealed_names:
                continue  # unfinished: invisible
            if info.name in gone:
                # Half forgotten, or put back by somebody: its packs may be gone.
                continue
            try:
                sealed = self.load(info.name)
            except (Tampered, ObjectMissing) as error:
                problems.append(error if isinstance(error, Tampered) else _vanished(info.name))
                continue
            if sealed is not None:
                found.append(sealed)
        problems += self._lost(sealed_names - manifests)
        found.sort(key=lambda s: (s.point.time, s.point.number, s.point.id))
        return Listing(tuple(found), tuple(forgotten), tuple(problems))

    def load(self, name: str) -> SealedPoint | None:
        """Return a sealed point; None when it was voided. Raises Tampered or ObjectMissing."""
        stored = fetch(self._store, name)
        digest = blake3(stored).digest()
        point = decode_manifest(name, open_box(self._ring, name, stored))
        if name != self.name_of(point):
            raise Tampered(f"the manifest {name} describes another restore point.", object=name)
        return SealedPoint(point, name, digest) if self.seal_state(name, digest) == "sealed" else None

    def _lost(self, stems: set[str]) -> list[RepositoryError]:
        """Report seals whose manifest vanished without having been forgotten."""
        problems: list[RepositoryError] = []
        for stem in sorted(stems):
            try:
                if self.seal_state(POINTS + stem, None) == "sealed" and not self._store.head(
                    FORGOTTEN + stem
                ):
                    problems.append(_vanished(POINTS + stem))
            except Tampered as error:
                problems.append(error)
        return problems

    def _tombstones(self, folder: str, problems: list[RepositoryError]) -> list[Tombstone]:
        found = []
        for info in self._store.list(FORGOTTEN + folder):
            try:
                found.append(self._tombstone(info.name, self._open(info.name)))
            except (Tampered, ObjectMissing, KeyError, ValueError, TypeError):
                problems.append(
                    Tampered(f"the tombstone {info.name} is damaged or forged.", object=info.name)
                )
        return found

    def _tombstone(self, name: str, fields: Mapping[str, Any]) -> Tombstone:
        stem = name.removeprefix(FORGOTTEN)
        stone = Tombstone(POINTS + stem, fields["vm"], fields["number"], bytes.fromhex(fields["digest"]))
        previous = fields["previous"]
        sound = (
            fields["point"] == stone.name
            and stem.startswith(f"{self._ring.vm_key(str(stone.vm_id))}/")
            and type(stone.number) is int
            and stone.number >= 1
            and len(stone.digest) == 32
            and (previous is None or len(bytes.fromhex(previous["digest"])) == 32)
        )
        if not sound:
            raise ValueError("not the tombstone of this point")
        return stone

    def attach(self, kind: Literal["tracking", "evidence"], name: str, fields: Mapping[str, Any]) -> str:
        """Add what was learned after the seal, and return its name; never changes what is there."""
        stem = name.removeprefix(POINTS)
        attached = f"{kind}/{stem}/{os.urandom(16).hex()}"
        self._store.put(attached, self._box(attached, {"version": _VERSION, "kind": kind, **fields}))
        return attached

    def with_attached(self, kind: Literal["tracking", "evidence"], vm_id: str) -> set[str]:
        """Return the names of a VM's points beside which something of this kind lies."""
        listed = self._store.list(f"{kind}/{self._ring.vm_key(vm_id)}/")
        return {POINTS + info.name.removeprefix(f"{kind}/").rpartition("/")[0] for info in listed}

    def consistency_of(self, sealed: SealedPoint) -> Consistency:
        """Return what is proven of a point: its claim, or more, if evidence stored later confirms that.

        Evidence can only raise the claim; what cannot be read raises nothing.
        """
        claim = sealed.point.consistency
        read_back = sealed.point.evidence.get("read_back")
        if not isinstance(read_back, dict) or read_back.get("state") != "pending":
            return claim.got
        try:
            levels = {str(fields.get("consistency")) for fields in self.attached("evidence", sealed.name)}
        except (Tampered, ObjectMissing):
            return claim.got
        return claim.promised if claim.promised.value in levels else claim.got

    def attached(self, kind: Literal["tracking", "evidence"], name: str) -> list[dict[str, Any]]:
        """Return what was added beside a point, oldest first. Raises Tampered."""
        stem = name.removeprefix(POINTS)
        found = [self._open(info.name) for info in self._store.list(f"{kind}/{stem}/")]
        return sorted(found, key=lambda fields: str(fields.get("time", "")))

    def newest_attached(
        self, kind: Literal["tracking", "evidence"], vm_id: str, most: int
    ) -> Iterator[dict[str, Any]]:
        """Yield what was added beside a VM's points, the newest points' first, read as it is asked for.

        It goes by the names of the objects, so the points themselves need not be readable. No more
        than ``most`` objects are read; what cannot be read is passed over.
        """
        listed = self._store.list(f"{kind}/{self._ring.vm_key(vm_id)}/")
        for name in heapq.nlargest(most, (info.name for info in listed)):
            try:
                yield self._open(name)
            except (Tampered, ObjectMissing):
                continue

    def _box(self, name: str, fields: Mapping[str, Any]) -> bytes:
        return close_box(self._ring, name, json.dumps(dict(fields)).encode())

    def _open(self, name: str) -> dict[str, Any]:
        content = open_box(self._ring, name, fetch(self._store, name))
        try:
            fields = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise Tampered(f"the object {name} cannot be understood.", object=name) from error
        if not isinstance(fields, dict) or fields.get("version") != _VERSION:
            raise Tampered(f"the object {name} cannot be understood.", object=name)
        return fields


def seal_name(name: str) -> str:
    """Return the name of the seal that decides about a manifest."""
    return SEALS + name.removeprefix(POINTS)


def _vanished(name: str) -> Tampered:
    return Tampered(f"the restore point {name} was sealed, but its manifest has vanished.", object=name)
