"""Examine a repository without keys: whoever stores it can look for rot and loss without reading it.

Checksums, inventories and names tell a lot, but they prove nothing against
somebody who rewrites them: `docs/format.md` section 10 says what is out of reach.
"""

from collections.abc import Iterator
from typing import Final

from vmkeep.objectstore.errors import ObjectMissing
from vmkeep.objectstore.store import ObjectInfo, Store
from vmkeep.progress import Progress
from vmkeep.repository.box import verify_box
from vmkeep.repository.errors import ObjectLost, RepositoryError, Tampered
from vmkeep.repository.examine.presence import (
    BOXES,
    LATE,
    Listed,
    check_plain_objects,
    check_presence,
    drop_vanished,
    in_threads,
    is_well_named,
    list_packs,
    read_inventories,
)
from vmkeep.repository.examine.report import Report, State, state_by_name
from vmkeep.repository.fetching import fetch
from vmkeep.repository.index import PREFIX as INDEX
from vmkeep.repository.listing import POINTS, SEALS
from vmkeep.repository.packs import verify_stored
from vmkeep.repository.parameters import Parameters
from vmkeep.repository.points import FORGOTTEN

_SHOWN: Final = 5


def check_keyless(store: Store, parameters: Parameters, progress: Progress) -> Report:
    """Examine what can be examined without keys: checksums, and which objects call for which others."""
    report = Report()
    check_plain_objects(store, parameters, report)
    _check_boxes(store, report)
    sealed = _check_pairs(store, report)
    listed = read_inventories(store, parameters, None, report)
    present = list(list_packs(store))
    _check_packs(store, present, listed, report, progress)
    drop_vanished(store, report)
    check_presence(store, parameters, None, listed, report)
    _note_unlisted({info.name for info in present} - listed.names, report)
    wrong = {problem.object for problem in report.problems if not problem.harmless}
    for stem in sorted(sealed, key=lambda stem: stem.rpartition("/")[2]):
        state = State.DAMAGED if {POINTS + stem, SEALS + stem} & wrong else State.NOT_EXAMINED
        report.points.append(state_by_name(POINTS + stem, state))
    return report


def _check_boxes(store: Store, report: Report) -> None:
    """Find rot in every box."""
    for prefix in (*BOXES, POINTS, SEALS, INDEX):
        for info in store.list(prefix):
            try:
                verify_box(info.name, fetch(store, info))
            except ObjectMissing:
                continue  # removed since it was listed; what calls for it says so
            except Tampered as error:
                report.add(info.name, error, harmless=prefix == INDEX)


def _check_pairs(store: Store, report: Report) -> set[str]:
    """Find objects that call for others which are not there; return the stems of points and their seals.

    What comes later in the life of a point is listed first, so that a point
    made or forgotten meanwhile is not taken for a loss.
    """
    late = {stem.rpartition("/")[0] for prefix in LATE for stem in _stems(store, prefix)}
    seals, manifests, forgotten = (set(_stems(store, prefix)) for prefix in (SEALS, POINTS, FORGOTTEN))

    def lost(prefix: str, stem: str) -> bool:
        return store.head(prefix + stem) is None and store.head(FORGOTTEN + stem) is None

    # Of a run that was buried a void seal stays. A point that was sealed mostly has evidence beside it.
    void = set()
    for stem in sorted((late | seals) - forgotten):
        name, seal = POINTS + stem, SEALS + stem
        if stem not in manifests and lost(POINTS, stem):
            if stem in late:
                report.add(name, f"the manifest {name} is missing: what was learned after its seal is there.")
            elif store.head(seal) is not None:
                void.add(stem)
                text = f"the manifest {name} is missing, or was declared void before it came"
                report.add(name, f"{text}: only a key can tell.", harmless=True)
        if stem in late and stem not in seals and lost(SEALS, stem):
            report.add(seal, f"the seal {seal} is missing: what was learned after it is there.")
    for stem in sorted(manifests - seals - late - forgotten):
        if lost(SEALS, stem):
            text = "has no seal: its run goes on or did not finish, or the seal was removed"
            report.add(
                POINTS + stem, f"the manifest {POINTS + stem} {text}: only a key can tell.", harmless=True
            )
    return (late | seals) - forgotten - void


def _stems(store: Store, prefix: str) -> Iterator[str]:
    """Yield what comes behind the prefix; names that nobody gives are told elsewhere."""
    for info in store.list(prefix):
        if is_well_named(info.name):
            yield info.name.removeprefix(prefix)


def _check_packs(
    store: Store, present: list[ObjectInfo], listed: Listed, report: Report, progress: Progress
) -> None:
    """Compare every byte of every pack with its checksum, and that with the inventory."""
    progress.begin("checksums", sum(info.size for info in present))

    def verify(info: ObjectInfo) -> tuple[ObjectInfo, RepositoryError | None]:
        try:
            checksum = verify_stored(store, info.name)
            if listed.checksums.get(info.name, checksum) != checksum:
                raise Tampered(f"the pack {info.name} is not the one its inventory lists.", object=info.name)
        except ObjectMissing:
            return info, ObjectLost(f"the pack {info.name} vanished while it was examined.")
        except Tampered as error:
            return info, error
        return info, None

    for info, error in in_threads(verify, present):
        report.packs += 1
        report.bytes_read += info.size
        progress.advance(info.size)
        if error is not None:
            report.add(info.name, error)
    progress.end()


def _note_unlisted(names: set[str], report: Report) -> None:
    packs = sorted(names)
    if packs:
        more = f" and {len(packs) - _SHOWN} more" if len(packs) > _SHOWN else ""
        text = "no inventory lists {}{}: their run goes on or did not finish, or an inventory was removed"
        report.add(
            packs[0],
            text.format(", ".join(packs[:_SHOWN]), more) + ": only a key can tell.",
            harmless=True,
        )
