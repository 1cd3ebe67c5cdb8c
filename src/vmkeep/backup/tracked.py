"""Find what an increment of a VM may rest on: a restore point, and the tracking stored beside it.

A VM's history goes by its id, and two hosts may have a VM of one id: the primary
and the replica of Hyper-V Replica, or a copy. Each has tracking of its own, so each
builds on its own points; the host tells which of two cases there is, since a VM
that moves takes its reference points along (hyperv-backup-api.md 2.7).
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from vmkeep.capture.source import HOST_SCHEME
from vmkeep.planner.tracking import TrackingRecord
from vmkeep.repository.errors import Tampered
from vmkeep.repository.listing import Listing, SealedPoint
from vmkeep.repository.repository import Repository

_FILES: Final = ""


@dataclass(frozen=True)
class Baseline:
    """The newest point of a VM here, and its tracking where it has one that can be read.

    ``reference_point`` is the newest one that any such point's tracking names: it lies
    on the host until a newer one is durable, whether the newest point rests on it or not.
    ``durable`` are the reference points that stored tracking rests on, that one or another
    host's: no sweep may take them.
    """

    base: SealedPoint | None = None
    tracking: TrackingRecord | None = None
    reference_point: str | None = None
    durable: tuple[str, ...] = ()


@dataclass(frozen=True)
class Here:
    """The host of a run: its name in the configuration, and which reference points it lists of the VM."""

    name: str
    lists: Callable[[], Collection[str]]

    def has(self, record: TrackingRecord) -> bool:
        """Ask the host whether the reference point of a record is there."""
        wanted = record.reference_point.lower()
        return any(point.lower() == wanted for point in self.lists())


def find_baseline(repository: Repository, listing: Listing, vm_id: str, here: Here | None = None) -> Baseline:
    """Return what the next run of a VM builds on; ``listing`` holds its points.

    Without ``here`` all its points count, whichever host they are of. The host is asked
    only where a newer point is of another one.
    """
    with_tracking = repository.points.with_attached("tracking", vm_id)
    newest: dict[str, tuple[SealedPoint, TrackingRecord]] = {}
    newest_first = sorted(listing.points, key=lambda each: each.point.number, reverse=True)
    for sealed in newest_first:
        host = _host_of(sealed)
        if host in newest:
            continue
        record = _newest(repository, sealed) if sealed.name in with_tracking else None
        if record is not None:
            newest[host] = sealed, record
    durable = tuple(record.reference_point for _, record in newest.values())
    # Filled newest first.
    mine = next((host for host, (_, record) in newest.items() if _is_here(host, record, here)), None)
    counted = {_FILES, mine, here.name} if here is not None else set(map(_host_of, newest_first))
    own = next((sealed for sealed in newest_first if _host_of(sealed) in counted), None)
    base = own or listing.newest(vm_id)
    if mine is None:
        return Baseline(base, durable=durable)
    tracked, record = newest[mine]
    is_base = base is not None and tracked.name == base.name
    return Baseline(base, record if is_base else None, record.reference_point, durable)


def _is_here(host: str, record: TrackingRecord, here: Here | None) -> bool:
    return here is None or host == here.name or here.has(record)


def _host_of(sealed: SealedPoint) -> str:
    """Return the name of the host a point is of; empty for one of files."""
    scheme, _, rest = sealed.point.source.partition(HOST_SCHEME)
    return _FILES if scheme else rest.partition("/")[0]


def _newest(repository: Repository, sealed: SealedPoint) -> TrackingRecord | None:
    """Return the last tracking record stored beside a point; None if none can be read: all is read then."""
    try:
        found = repository.points.attached("tracking", sealed.name)
        return TrackingRecord.from_json(found[-1]) if found else None
    except (Tampered, ValueError):
        return None
