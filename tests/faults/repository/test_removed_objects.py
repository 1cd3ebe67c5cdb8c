"""Every single object taken away is missed by a check, or stands here with the reason why it is not."""

import json
from functools import cache
from typing import Final

import pytest

from tests.clocks import FakeClock
from tests.repositories import (
    CHUNK,
    OTHER_VM,
    PACK,
    VM,
    condemn,
    make_repository,
    names,
    pack_refs,
    put_key,
    random_bytes,
    reopen,
    write,
)
from vmkeep.model.plan import VmRef
from vmkeep.objectstore.memory import MemoryStore
from vmkeep.progress import Silent
from vmkeep.ranges import ByteRange
from vmkeep.repository.box import close_box
from vmkeep.repository.examine.keyed import check
from vmkeep.repository.examine.keyless import check_keyless
from vmkeep.repository.examine.report import Report
from vmkeep.repository.listing import SealedPoint
from vmkeep.repository.packs import Kind, PackRef
from vmkeep.repository.repository import Repository

SIZE = 9 * CHUNK + 512
DISK = random_bytes(71, SIZE)
CHANGED = DISK[: 2 * CHUNK] + random_bytes(72, CHUNK) + DISK[3 * CHUNK :]
OTHER = random_bytes(73, SIZE)

# What a check with keys does not miss.
UNMISSED: Final = {
    "sessions/": "a hint for whoever collects; it promises nothing",
    "index/": "derived from the packs",
    "probe/": "means nothing",
    "condemned/": "keeps writers away from a pack; a damaged pack is named by the check itself",
    "keys/": "removing a password, unless it is the last one, is everybody's right who may delete",
    "tracking/": "a hint for the next increment; nothing promises it",
}
# A finished record that is gone looks like a run that was killed right after it had sealed its point.
UNMISSED_RECORD: Final = "the last of its run"
UNMISSED_WITHOUT_KEYS: Final = UNMISSED | {
    "runs/": "what a record promises is encrypted",
    "evidence/": "which run promised it is encrypted",
    "inventory/": "which point names it is encrypted; its packs are noted as listed by nobody",
}


def _take(
    repository: Repository, vm: VmRef, disk: bytes, clock: FakeClock, changed: list[ByteRange] | None = None
) -> SealedPoint:
    """Take a point with everything that a run of the program leaves beside it."""
    clock.advance(60)
    run = write(repository, vm, {"disk": disk}, clock, changes=None if changed is None else {"disk": changed})
    journal = repository.journal(vm, run.manifest("0" * 32).run)
    journal.begin({})
    journal.step("writing")
    journal.step("publishing")
    sealed = run.publish()
    evidence = repository.points.attach("evidence", sealed.name, {"time": str(clock.now())})
    repository.points.attach("tracking", sealed.name, {"time": str(clock.now())})
    journal.finish({"outcome": "sealed", "point": sealed.name, "evidence": [evidence]})
    return sealed


@cache
def _original() -> tuple[Repository, tuple[SealedPoint, ...]]:
    clock = FakeClock()
    repository = make_repository(clock=clock)
    put_key(repository.store, repository.parameters)  # a second one: without any nobody could open it
    points = (
        _take(repository, VM, DISK, clock),
        _take(repository, VM, CHANGED, clock, [ByteRange(2 * CHUNK, CHUNK)]),
        _take(repository, OTHER_VM, OTHER, clock),
    )
    condemn(repository, PackRef(b"\1" * 16, Kind.CHUNKS))
    repository.store.put("probe/leaving", b"x")
    repository.store.put("spec.md", b"not looked at here")
    return repository, points


def _without(name: str | None) -> MemoryStore:
    store = _original()[0].store
    assert isinstance(store, MemoryStore)
    twin = store.copy()
    if name is not None:
        twin.delete(name)
    return twin


def _full(store: MemoryStore) -> Report:
    return check(reopen(_original()[0], store), 0.0, Silent())


def _keyless(store: MemoryStore) -> Report:
    return check_keyless(store, _original()[0].parameters, Silent())


def _said(report: Report, *, alarms: bool = True) -> set[str]:
    return {p.object for p in report.problems if not (alarms and p.harmless)}


def _objects() -> list[str]:
    found = names(_without(None), "")
    assert {name.partition("/")[0] for name in found} == {
        "condemned", "evidence", "format", "index", "inventory", "keys", "maps", "packs", "points", "probe",
        "runs", "seals", "sessions", "spec.md", "tracking",
    }  # fmt: skip
    assert len([name for name in found if name.startswith("packs/")]) > SIZE // PACK
    return [name for name in found if name not in ("format", "spec.md")]


def _is_last_record(name: str) -> bool:
    folder = name.rpartition("/")[0]
    return name.startswith("runs/") and name == names(_without(None), folder + "/")[-1]


def _reason(name: str, table: dict[str, str]) -> str | None:
    return next((why for prefix, why in table.items() if name.startswith(prefix)), None)


def test_every_removed_object_is_missed_with_the_keys() -> None:
    assert _said(_full(_without(None))) == set()
    for name in _objects():
        said = _said(_full(_without(name)))
        if _reason(name, UNMISSED) or _is_last_record(name):
            assert said == set(), f"{name}: more is found than is claimed"
        else:
            expected = {name, name.replace("seals/", "points/")}
            assert said & expected, f"{name} is gone, and only {said} is named"


def test_what_is_missed_without_keys_and_what_cannot_be() -> None:
    assert _said(_keyless(_without(None))) == set()
    for name in _objects():
        said = _said(_keyless(_without(name)))
        if _reason(name, UNMISSED_WITHOUT_KEYS):
            assert said == set(), f"{name}: more is found than is claimed"
        else:
            assert name in said, f"{name} is gone, and only {said} is named"


def test_packs_of_a_removed_inventory_are_noted_without_keys() -> None:
    for name in names(_without(None), "inventory/"):
        notes = [p for p in _keyless(_without(name)).problems if p.message.startswith("no inventory lists")]
        [note] = notes
        assert note.harmless and PackRef.from_name(note.object) in pack_refs(_without(None))


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_point_removed_with_its_seal_is_missed_by_what_was_learned_later(number: int) -> None:
    name = _original()[1][number].name
    store = _without(name)
    store.delete(name.replace("points/", "seals/"))
    assert name in _said(_keyless(store))
    assert name in _said(_full(store))


def test_a_removed_tombstone_is_missed() -> None:
    repository, points = _original()
    forgotten, store = points[1], _without(points[1].name)
    store.delete(forgotten.name.replace("points/", "seals/"))
    assert forgotten.name in _said(_full(store)) and forgotten.name in _said(_keyless(store))
    stone = forgotten.name.replace("points/", "forgotten/")
    fields = {
        "version": 1,
        "point": forgotten.name,
        "vm": forgotten.point.vm.id,
        "number": forgotten.point.number,
        "digest": forgotten.digest.hex(),
        "previous": None,
    }
    store.put(stone, close_box(repository.ring, stone, json.dumps(fields).encode()))
    assert _said(_full(store)) == _said(_keyless(store)) == set()


def test_an_unfinished_point_is_noted_and_alarms_nobody() -> None:
    name = _original()[1][1].name
    store = _without(name.replace("points/", "seals/"))
    for late in [*names(store, "evidence/"), *names(store, "tracking/")]:
        store.delete(late)
    report = _keyless(store)
    assert report.ok and name in _said(report, alarms=False)
    assert name not in {point.object for point in report.points}


def test_swapped_objects_of_one_vm_need_the_keys() -> None:
    first, second = (sealed.name for sealed in _original()[1][:2])
    for one, other in (
        (first, second),
        (first.replace("points/", "seals/"), second.replace("points/", "seals/")),
    ):
        store = _without(None)
        contents = store.get(one), store.get(other)
        store.overwrite(one, contents[1])
        store.overwrite(other, contents[0])
        assert _said(_keyless(store)) == set(), "the specification says that this is out of reach"
        assert _said(_full(store)) & {one, other}
