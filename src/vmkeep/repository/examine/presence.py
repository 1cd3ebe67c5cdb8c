"""What must be there, as far as names, inventories and public checksums tell. `docs/format.md` section 10.

Runs go on while somebody looks: what promises something is always read before
what it promises, and whatever seems to be missing is looked for once more.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, TypeVar

from blake3 import blake3

from vmkeep.objectstore.errors import ObjectMissing
from vmkeep.objectstore.store import ObjectInfo, Store
from vmkeep.repository.condemned import CONDEMNED
from vmkeep.repository.errors import Tampered
from vmkeep.repository.examine.report import Report
from vmkeep.repository.fetching import fetch
from vmkeep.repository.index import PREFIX as INDEX
from vmkeep.repository.inventory import PREFIX as INVENTORY
from vmkeep.repository.inventory import decode_inventory
from vmkeep.repository.journal import PREFIX as RUNS
from vmkeep.repository.journal import SESSIONS
from vmkeep.repository.keys import PREFIX as KEYS
from vmkeep.repository.keys import KeyRing, key_infos
from vmkeep.repository.listing import POINTS, SEALS
from vmkeep.repository.packs import Kind, PackRef
from vmkeep.repository.parameters import SPECIFICATION_NAME, Parameters
from vmkeep.repository.points import FORGOTTEN

LATE: Final = ("tracking/", "evidence/")
BOXES: Final = (RUNS, SESSIONS, CONDEMNED, FORGOTTEN, *LATE)
# Names these prefixes hold are known; anything else in the store is a stranger, and named.
_KNOWN: Final = (*BOXES, POINTS, SEALS, "packs/", "maps/", INDEX, INVENTORY, KEYS, "probe/", "tmp/")
_ID: Final = "[0-9a-f]{32}"
_STEM: Final = f"{_ID}/[0-9]{{8}}T[0-9]{{6}}Z-{_ID}"
# What comes behind each prefix, packs aside: section 2.
_SHAPES: Final = {
    **dict.fromkeys((POINTS, SEALS, FORGOTTEN), _STEM),
    **dict.fromkeys(LATE, f"{_STEM}/{_ID}"),
    **dict.fromkeys((SESSIONS, CONDEMNED, INDEX, KEYS), _ID),
    INVENTORY: rf"{_ID}(\.[1-9][0-9]*)?",
    RUNS: f"{_ID}/{_ID}/[0-9]{{6,}}",
}
_NAMES: Final = re.compile("|".join(f"{prefix}(?:{shape})" for prefix, shape in _SHAPES.items()))
# Nobody looks here for more than what is well named: anything else is only untidy.
_HARMLESS: Final = (*(kind.prefix for kind in Kind), INDEX)
_WELL_NAMED: Final = (*_SHAPES, *_HARMLESS)

T = TypeVar("T")
R = TypeVar("R")


def check_plain_objects(store: Store, parameters: Parameters, report: Report) -> None:
    """Examine what is not encrypted, and name what does not belong to a repository."""
    try:
        specification = fetch(store, SPECIFICATION_NAME)
        if blake3(specification).hexdigest() != parameters.specification:
            report.add(
                SPECIFICATION_NAME,
                "spec.md, the copy of the format specification, was altered.",
                harmless=True,
            )
    except ObjectMissing:
        report.add(
            SPECIFICATION_NAME, "spec.md, the copy of the format specification, is missing.", harmless=True
        )
    except Tampered as error:
        report.add(SPECIFICATION_NAME, error, harmless=True)
    keys, problems = key_infos(store)
    for problem in problems:
        report.add(str(problem.context.get("object", "")), problem)
    if not keys:
        report.add(
            KEYS, "no key is left in keys/ that could be read: nobody can open this repository any more."
        )
    for info in store.list(""):
        if "/" not in info.name:
            known = info.name in ("format", SPECIFICATION_NAME)
        else:
            known = info.name.startswith(_KNOWN)
        if not known:
            report.add(info.name, f"the object {info.name} is not part of a repository.", harmless=True)
        elif info.name.startswith(_WELL_NAMED) and not is_well_named(info.name):
            text = f"the object {info.name} has no name that belongs there."
            report.add(info.name, text, harmless=info.name.startswith(_HARMLESS))
    _check_strangers(store, report)


def is_well_named(name: str) -> bool:
    """Tell whether an object of this name can be what its prefix says; no other name may be built upon."""
    return _NAMES.fullmatch(name) is not None or PackRef.from_name(name) is not None


def _check_strangers(store: Store, report: Report) -> None:
    # Only a folder can hold what is no object at all; the listing above has just met it.
    count: int = getattr(store, "foreign", 0)
    named: tuple[str, ...] = getattr(store, "foreign_names", ())
    for name in named:
        text = f"{name!r} is no object (a link, a device, or of a name no object has): it is left alone."
        report.add(name, text, harmless=True)
    if count > len(named):
        report.add("", f"{count - len(named)} more entries of the folder are no objects.", harmless=True)


def list_packs(store: Store) -> Iterator[ObjectInfo]:
    """Yield the objects that are packs by their names."""
    for kind in Kind:
        yield from (info for info in store.list(kind.prefix) if PackRef.from_name(info.name) is not None)


@dataclass
class Listed:
    """What all inventories together say of packs; ``checksums`` by name."""

    checksums: dict[str, bytes] = field(default_factory=dict)
    relied: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)

    @property
    def names(self) -> set[str]:
        """The packs some run wrote or relied on."""
        return self.relied | self.checksums.keys()


def read_inventories(store: Store, parameters: Parameters, ring: KeyRing | None, report: Report) -> Listed:
    """Read all inventories; with keys also prove who wrote them."""
    listed = Listed()
    for info in store.list(INVENTORY):
        try:
            inventory = decode_inventory(info.name, fetch(store, info), parameters.repository, ring)
        except (Tampered, ObjectMissing) as error:
            report.add(info.name, error)
            continue
        listed.checksums |= {name: checksum for name, _, checksum in inventory.added}
        listed.relied |= set(inventory.relied)
        listed.removed |= set(inventory.removed)
    return listed


def check_presence(
    store: Store, parameters: Parameters, ring: KeyRing | None, listed: Listed, report: Report
) -> None:
    """Compare what is there now with what the inventories, read before, say must be there."""
    missing = listed.names - listed.removed - {info.name for info in list_packs(store)}
    if missing:
        # An inventory says "removed" before the pack goes.
        missing -= read_inventories(store, parameters, ring, report).removed
    gone = {name for name in missing if store.head(name) is None}
    for name in sorted(gone):
        report.add(name, f"the pack {name} is missing.")
    report.gone = frozenset(ref for ref in map(PackRef.from_name, gone) if ref is not None)


def drop_vanished(store: Store, report: Report) -> set[PackRef]:
    """Take back what was said of packs that were removed while they were examined; return these.

    Whether they are missed is for the inventories and the restore points to say.
    """
    vanished = {ref for ref in report.packs_named() if store.head(ref.name) is None}
    names = {ref.name for ref in vanished}
    report.problems = [problem for problem in report.problems if problem.object not in names]
    return vanished


def in_threads(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield the results of ``work``, in order."""
    # One whole pack a thread is in memory: the number of threads bounds it.
    with ThreadPoolExecutor(max(2, min(4, os.cpu_count() or 2)), thread_name_prefix="vmkeep-check") as pool:
        yield from pool.map(work, items)
