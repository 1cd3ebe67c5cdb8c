"""Find what an increment of a VM may rest on: the newest restore point, and the tracking stored beside it."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from vmkeep.planner.tracking import TrackingRecord
from vmkeep.repository.errors import Tampered
from vmkeep.repository.listing import Listing, SealedPoint
from vmkeep.repository.repository import Repository

# A VM that is never tracked has no record in any of its points: not all of them are asked.
_LOOK_BACK: Final = 4


@dataclass(frozen=True)
class Baseline:
    """The newest point of a VM, and its tracking where it has one that can be read.

    ``reference_point`` is the newest one that any point's tracking names: it lies
    on the host until a newer one is durable, whether the newest point rests on it or not.
    ``orphans`` are those that later points made, whose tracking is gone or cannot be
    read: nothing can rest on them any more.
    """

    base: SealedPoint | None = None
    tracking: TrackingRecord | None = None
    reference_point: str | None = None
    orphans: tuple[str, ...] = ()

    @property
    def durable(self) -> Collection[str]:
        """The reference points that stored tracking rests on: no sweep may take them."""
        return (self.reference_point,) if self.reference_point is not None else ()


def find_baseline(repository: Repository, listing: Listing, vm_id: str) -> Baseline:
    """Return what the next run of a VM builds on; ``listing`` holds its points."""
    base = listing.newest(vm_id)
    with_tracking = repository.points.with_attached("tracking", vm_id)
    orphans: list[str] = []
    newest_first = sorted(listing.points, key=lambda each: each.point.number, reverse=True)
    for age, sealed in enumerate(newest_first):
        record = _newest(repository, sealed) if sealed.name in with_tracking else None
        if record is not None:
            is_base = base is not None and sealed.name == base.name
            return Baseline(base, record if is_base else None, record.reference_point, tuple(orphans))
        if age < _LOOK_BACK:
            orphans += _made(repository, sealed)
    return Baseline(base, orphans=tuple(orphans))


def _newest(repository: Repository, sealed: SealedPoint) -> TrackingRecord | None:
    """Return the last tracking record stored beside a point; None if none can be read: all is read then."""
    try:
        found = repository.points.attached("tracking", sealed.name)
        return TrackingRecord.from_json(found[-1]) if found else None
    except (Tampered, ValueError):
        return None


def _made(repository: Repository, sealed: SealedPoint) -> list[str]:
    """Return the reference points that a point's evidence says its run has made."""
    try:
        holds = [fields.get("hold") for fields in repository.points.attached("evidence", sealed.name)]
    except Tampered:
        return []
    made = [hold.get("reference_point") for hold in holds if isinstance(hold, dict)]
    return [point for point in made if isinstance(point, str)]
