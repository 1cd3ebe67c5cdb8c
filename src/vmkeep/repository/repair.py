"""Make damage harmless for what comes, and let go of damaged packs that nobody needs any more.

Condemned packs are built upon no more: later runs store their content again.
Once every visible point finds all it needs elsewhere, such a pack is deleted by
the rules of `docs/format.md` section 11 for whoever deletes.
"""

import os
from dataclasses import dataclass, field
from typing import Final

from vmkeep.clock import Clock
from vmkeep.objectstore.errors import ObjectMissing, StoreError
from vmkeep.progress import Progress
from vmkeep.repository.condemned import condemn_damaged, condemned_packs
from vmkeep.repository.errors import Tampered, Unreadable
from vmkeep.repository.examine.keyed import check
from vmkeep.repository.examine.presence import read_inventories
from vmkeep.repository.examine.report import Report
from vmkeep.repository.inventory import Inventory, encode_inventory, inventory_name
from vmkeep.repository.needs import Needs, copy_frames
from vmkeep.repository.packs import Kind, Pack, PackRef
from vmkeep.repository.repository import Repository

_LOOK_AGAIN_S: Final = 5.0


@dataclass
class Repaired:
    """What was found and what was done, by object name; ``kept`` says why something stays."""

    report: Report
    condemned: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    copied: int = 0
    """Frames that only a damaged pack had, and that could still be read there."""


def repair(repository: Repository, clock: Clock, progress: Progress, *, dry_run: bool) -> Repaired:
    """Examine everything, condemn what is damaged or gone, delete of it what no point needs.

    ``dry_run`` only says what would be done. A crash at any place leaves work
    that the next repair finishes.
    """
    report = check(repository, 1.0, progress)
    repaired = Repaired(report)
    broken = sorted(_broken(repository, report, clock, repaired.kept))
    if not broken:
        return repaired
    run = os.urandom(16).hex()
    known = condemned_packs(repository.store)
    for ref in broken:
        if ref.id not in known:
            repaired.condemned.append(ref.name)
            if not dry_run:
                condemn_damaged(repository.store, repository.ring, ref, run, clock.now())
    # The records are there before anything is listed: a point that shows up later will not rely on these.
    with Needs(repository, report.verified, broken) as needs:
        unneeded = needs.settle(repaired.kept)
        if report.unseen:
            # What is away may come back: a folder that was not mounted, an older copy of the store.
            reason = f"{len(report.unseen)} restore points are missing or damaged here, and may need it."
            repaired.kept |= dict.fromkeys((ref.name for ref in unneeded), reason)
            unneeded = []
        repaired.copied = sum(len(ids) for ids in needs.to_copy.values())
        if dry_run:
            repaired.removed = [ref.name for ref in unneeded]
        else:
            _remove(repository, run, unneeded, copy_frames(repository, needs.to_copy), repaired)
    return repaired


def _broken(repository: Repository, report: Report, clock: Clock, kept: dict[str, str]) -> frozenset[PackRef]:
    """Return the packs that are damaged or gone; say in ``kept`` which ones were only out of reach.

    A condemnation is for good, and a network or a mode may be to blame: a pack
    that cannot be read is read again a little later, and condemned only where
    others of the store can be read.
    """
    doubtful = {ref for ref in report.damaged if ref.name in report.unreadable}
    broken = set(report.damaged | report.gone) - doubtful
    if doubtful:
        clock.sleep(_LOOK_AGAIN_S)
    for ref in sorted(doubtful):
        try:
            _verify(repository, ref)
            kept[ref.name] = "it could not be read at first, and is whole now: look at the storage."
        except Unreadable as error:
            if error.context.get("forbidden"):
                kept[ref.name] = f"it may be whole: {error.message} {error.hint}"
            elif not report.verified:
                kept[ref.name] = "no pack can be read: the storage as a whole may be to blame."
            else:
                broken.add(ref)
        except Tampered:
            broken.add(ref)
        except ObjectMissing:
            continue  # removed meanwhile; the next examination says whether anybody misses it
    return frozenset(broken)


def _verify(repository: Repository, ref: PackRef) -> None:
    ring = repository.ring
    key = ring.chunk_id_key if ref.kind is Kind.CHUNKS else ring.node_id_key
    Pack(repository.store, ring, ref, repository.parameters.chunk_size).verify(key)


def _remove(
    repository: Repository,
    run: str,
    unneeded: list[PackRef],
    added: list[tuple[str, int, bytes]],
    repaired: Repaired,
) -> None:
    """Say that the packs are gone, then let them go: who looks in between misses nothing."""
    store, ring = repository.store, repository.ring
    said = read_inventories(store, repository.parameters, ring, Report()).removed
    removed = tuple(ref.name for ref in unneeded if ref.name not in said)
    if removed or added:
        name = inventory_name(run, 0)
        store.put(name, encode_inventory(ring, name, Inventory(tuple(added), (), removed)))
    for ref in unneeded:
        try:
            store.delete(ref.name)
        except StoreError as error:
            repaired.kept[ref.name] = f"no restore point needs it, but the store keeps it: {error.message}"
        else:
            repaired.removed.append(ref.name)
