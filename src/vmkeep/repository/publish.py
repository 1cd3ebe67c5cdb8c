"""Make a restore point exist: manifest, verification, seal, in the only safe order.

Steps 3 to 6 of a writer in the deletion protocol: the manifest becomes visible
first, so that every collector which lists after that spares its chunks; then
the packs are verified; only then the seal decides.
"""

import os
from collections.abc import Callable
from typing import Final

from vmkeep.clock import Clock
from vmkeep.model.point import RestorePoint
from vmkeep.objectstore.store import Store
from vmkeep.repository.errors import PublishRefused
from vmkeep.repository.packs import PackRef
from vmkeep.repository.points import Points, SealedPoint
from vmkeep.repository.reader import DiskMap, Reader
from vmkeep.repository.writer import Writer

CONDEMNED: Final = "condemned/"
_ATTEMPTS: Final = 3
# Beyond so many packs one listing is cheaper than a question for each.
_ASK_EACH: Final = 200


def publish(
    store: Store,
    points: Points,
    reader: Reader,
    writer: Writer,
    clock: Clock,
    manifest: Callable[[str], RestorePoint],
    inherited_from: SealedPoint | None,
) -> SealedPoint:
    """Publish, verify and seal a restore point; return it once it exists.

    ``manifest`` gives the point for a fresh id. The capture must still be held:
    what was removed meanwhile is stored again from it. ``inherited_from`` is
    the parent whose subtrees the maps share. Raises PublishRefused, ObjectLost
    or a store error; then the point does not exist.
    """
    for _ in range(_ATTEMPTS):
        point = manifest(os.urandom(16).hex())
        name, digest = points.put(point)
        # From here on every collector sees the manifest; what went before is looked for now.
        lost = _lost(store, set(writer.relied_on))
        if inherited_from is not None and not points.exists(inherited_from.name):
            lost |= _lost(store, _packs_of(reader, point))
        if lost:
            writer.rehome(lost)
        if points.seal(name, digest, clock.now()):
            return SealedPoint(point, name, digest)
    raise PublishRefused("three restore points in a row were declared void before they were sealed.")


def condemned_packs(store: Store) -> set[str]:
    """Return the names of condemned packs' ids, in hex; forged records only cost an upload."""
    return {info.name.removeprefix(CONDEMNED) for info in store.list(CONDEMNED)}


def _lost(store: Store, relied: set[PackRef]) -> set[PackRef]:
    """Return the packs that are condemned or gone. Condemnations are read first, existence second."""
    condemned = condemned_packs(store)
    lost = {ref for ref in relied if ref.id.hex() in condemned}
    rest = relied - lost
    if len(rest) <= _ASK_EACH:
        return lost | {ref for ref in rest if store.head(ref.name) is None}
    present = {info.name for kind in ("packs/", "maps/") for info in store.list(kind)}
    return lost | {ref for ref in rest if ref.name not in present}


def _packs_of(reader: Reader, point: RestorePoint) -> set[PackRef]:
    """Return every pack that holds something of a point; walks whole maps, needed rarely."""
    found = set()
    maps = [(disk.root, disk.size) for disk in point.disks] + [(file.root, file.size) for file in point.files]
    for root, size in maps:
        for kind, content_id in DiskMap(reader, root, size).all_ids():
            found.add(reader.locate(content_id, kind).pack)
    return found
