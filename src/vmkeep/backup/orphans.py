"""Find reference points of ours on a host that nothing rests on any more, by what our runs have stored.

A reference point bears no name. What a run has made its tracking and its evidence name, and they lie
in the repository under names of their own: also where the restore point beside them cannot be read,
and where the journal of the run is closed, or lost.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from vmkeep.host.hyperv.created import is_among
from vmkeep.repository.points import Points

ORPHANS: Final = "orphans"
"""The key of a tracking object under which its run names those it could not drop."""

# A stranger's reference point is looked up in vain by each run.
_LOOK_BACK: Final = 16


def find_orphans(
    points: Points, vm_id: str, listed: Collection[str], needed: Collection[str]
) -> tuple[str, ...]:
    """Return which of the reference points that a host lists of a VM our runs have made and none needs.

    Nothing is read where the host lists only what is ``needed``. Else the newest 16 tracking objects
    by name, and then as many of evidence, until all are known to be ours: so a stranger's costs two
    listings and 32 small objects with each run. An older orphan is known by the tracking since, which
    names what its run could not drop; it is lost sight of where 16 later points were made without
    anybody looking. Raises store errors.
    """
    unknown = {point.lower(): point for point in listed if not is_among(point, needed)}
    found = []
    named = _named(points, vm_id)
    while unknown and (own := next(named, None)) is not None:
        orphan = unknown.pop(own.lower(), None)
        found += [orphan] if orphan is not None else []
    return tuple(found)


def _named(points: Points, vm_id: str) -> Iterator[str]:
    """Yield the reference points that runs of a VM say they have made, and read no more than is asked for."""
    for fields in points.newest_attached("tracking", vm_id, _LOOK_BACK):
        left = fields.get(ORPHANS)
        yield from _texts([fields.get("reference_point"), *(left if isinstance(left, list) else [])])
    for fields in points.newest_attached("evidence", vm_id, _LOOK_BACK):
        hold = fields.get("hold")
        yield from _texts([hold.get("reference_point") if isinstance(hold, Mapping) else None])


def _texts(values: list[Any]) -> Iterator[str]:
    return (value for value in values if isinstance(value, str))
