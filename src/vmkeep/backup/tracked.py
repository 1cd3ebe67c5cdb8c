"""Find what an increment of a VM may rest on: the newest restore point, and the tracking stored beside it."""

from collections.abc import Collection
from dataclasses import dataclass

from vmkeep.planner.tracking import TrackingRecord
from vmkeep.repository.errors import Tampered
from vmkeep.repository.listing import Listing, SealedPoint
from vmkeep.repository.repository import Repository


@dataclass(frozen=True)
class Baseline:
    """The newest point of a VM, and its tracking where it has one that can be read.

    ``reference_point`` is the newest one that any point's tracking names: it lies
    on the host until a newer one is durable, whether the newest point rests on it or not.
    """

    base: SealedPoint | None = None
    tracking: TrackingRecord | None = None
    reference_point: str | None = None

    @property
    def durable(self) -> Collection[str]:
        """The reference points that stored tracking rests on: no sweep may take them."""
        return (self.reference_point,) if self.reference_point is not None else ()


def find_baseline(repository: Repository, listing: Listing, vm_id: str) -> Baseline:
    """Return what the next run of a VM builds on; ``listing`` holds its points."""
    base = listing.newest(vm_id)
    with_tracking = repository.points.with_attached("tracking", vm_id)
    for sealed in sorted(listing.points, key=lambda each: each.point.number, reverse=True):
        if sealed.name not in with_tracking:
            continue
        record = _newest(repository, sealed)
        if record is not None:
            is_base = base is not None and sealed.name == base.name
            return Baseline(base, record if is_base else None, record.reference_point)
    return Baseline(base)


def _newest(repository: Repository, sealed: SealedPoint) -> TrackingRecord | None:
    """Return the last tracking record stored beside a point; None if none can be read: all is read then."""
    try:
        found = repository.points.attached("tracking", sealed.name)
        return TrackingRecord.from_json(found[-1]) if found else None
    except (Tampered, ValueError):
        return None
