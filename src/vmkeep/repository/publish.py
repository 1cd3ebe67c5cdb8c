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
from vmkeep.repository.condemned import condemned_packs
from vmkeep.repository.errors import ObjectLost, PublishRefused, Tampered
from vmkeep.repository.listing import SealedPoint
from vmkeep.repository.packs import PackRef
from vmkeep.repository.points import Points
from vmkeep.repository.reader import Reader, map_of, stored_packs
from vmkeep.repository.writer import Writer

_ATTEMPTS: Final = 3
_ROUNDS: Final = 3
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
    or a store error; then the point does not exist (unless the store took the
    seal and answered nobody since).
    """
    for _ in range(_ATTEMPTS):
        point = manifest(os.urandom(16).hex())
        name, digest = points.put(point)
        # From here on every collector sees the manifest; what went before is looked for now.
        _make_whole(store, points, reader, writer, point, inherited_from)
        if points.seal(name, digest, clock.now()):
            return SealedPoint(point, name, digest)
    raise PublishRefused("three restore points in a row were declared void before they were sealed.")


def _make_whole(
    store: Store,
    points: Points,
    reader: Reader,
    writer: Writer,
    point: RestorePoint,
    inherited_from: SealedPoint | None,
) -> None:
    """See that all the visible point needs is stored and stays; store again what does not."""
    lost = _lost(store, set(writer.relied_on))
    readable = True
    if inherited_from is not None and not points.exists(inherited_from.name):
        inherited = _packs_of(reader, point)
        readable = inherited is not None
        lost |= _lost(store, inherited or set())
    rounds = 0
    while lost or not readable:
        if rounds == _ROUNDS:
            raise ObjectLost("packs this restore point needs are removed again and again.")
        writer.rehome(lost)
        # What was stored again may have been found in packs nobody has looked at yet.
        lost, readable = _lost(store, set(writer.relied_on)), True
        rounds += 1


def _lost(store: Store, relied: set[PackRef]) -> set[PackRef]:
    """Return the packs that are condemned or gone. Condemnations are read first, existence second."""
    condemned = condemned_packs(store)
    lost = {ref for ref in relied if ref.id in condemned}
    rest = relied - lost
    if len(rest) <= _ASK_EACH:
        return lost | {ref for ref in rest if store.head(ref.name) is None}
    return lost | (rest - stored_packs(store))


def _packs_of(reader: Reader, point: RestorePoint) -> set[PackRef] | None:
    """Return every pack that holds something of a point, or None when a part is gone already.

    Walks whole maps; needed rarely.
    """
    found = set()
    try:
        for stored in point.mapped:
            for kind, content_id in map_of(reader, stored).all_ids():
                found.add(reader.locate(content_id, kind).pack)
    except (ObjectLost, Tampered):
        return None
    return found
