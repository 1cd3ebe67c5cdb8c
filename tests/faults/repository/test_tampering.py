"""Whoever owns the storage can change every byte: no wrong byte comes back, and what is wrong gets named.

A repository with one object of every kind is damaged in one place; then every
read path is walked. What is restored equals what was stored, or an error or a
problem names the damaged object. `check` names it in any case.
"""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest

from tests.clocks import FakeClock
from tests.faults.stores import Cut, Damage, Flip, Remove, Swap, tamper
from tests.repositories import (
    CHUNK,
    LEAF,
    OTHER_VM,
    VM,
    condemn,
    forget,
    in_order,
    make_repository,
    names,
    random_bytes,
    restore,
    take,
)
from vmkeep.errors import VmkeepError
from vmkeep.objectstore.memory import MemoryStore
from vmkeep.progress import Silent
from vmkeep.ranges import ByteRange
from vmkeep.repository import keys
from vmkeep.repository.box import open_box
from vmkeep.repository.errors import RolledBack
from vmkeep.repository.examine.keyed import check
from vmkeep.repository.examine.keyless import check_keyless
from vmkeep.repository.inventory import decode_inventory
from vmkeep.repository.journal import read_record
from vmkeep.repository.keys import KeyRing
from vmkeep.repository.listing import SealedPoint
from vmkeep.repository.packs import Kind, PackRef
from vmkeep.repository.points import seal_name
from vmkeep.repository.repository import Repository, read_parameters
from vmkeep.secrets import Secret

P = ParamSpec("P")
T = TypeVar("T")
PASSWORD = Secret("correct horse")
TEXT = b"text that compresses " * 2000
BASE = random_bytes(31, 5 * CHUNK) + bytes(LEAF - 5 * CHUNK) + TEXT + random_bytes(32, 496)
LATER = BASE[:CHUNK] + random_bytes(33, CHUNK) + BASE[2 * CHUNK :]
OTHER = BASE[: 3 * CHUNK] + random_bytes(34, CHUNK + 512)
KINDS = (
    "format", "spec.md", "keys/", "packs/", "maps/", "points/", "seals/", "forgotten/", "tracking/",
    "evidence/", "inventory/", "runs/", "sessions/", "condemned/", "index/",
)  # fmt: skip
# Derived or mere hints: damage there must never matter to a reader.
HINTS = ("spec.md", "sessions/", "condemned/", "index/", "inventory/", "runs/", "tracking/", "evidence/")


@dataclass
class Original:
    """The undamaged repository, what its points must give back, and an older state of it."""

    store: MemoryStore
    clock: FakeClock
    contents: dict[str, bytes] = field(default_factory=dict)
    sealed: list[SealedPoint] = field(default_factory=list)
    forgotten: dict[str, bytes] = field(default_factory=dict)


@cache
def _original() -> Original:
    """Make a repository with two VMs, three points, a forgotten one, and an object of every kind."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(keys, "_MEMORY_KIB", 64)
        patched.setattr(keys, "_ITERATIONS", 1)
        clock = FakeClock()
        store = MemoryStore(clock)
        passwords = {"password": PASSWORD, "recovery": Secret("AAAA")}
        Repository.create(
            store, passwords, clock, chunk_size=CHUNK, pack_size=1 << 16, repository_id=b"\x11" * 16
        )
    original = Original(store, clock)
    repository = Repository.open(store, PASSWORD, clock)
    changes = {"disk": [ByteRange(CHUNK, CHUNK)]}
    for vm, content, changed in ((VM, BASE, None), (VM, LATER, changes), (OTHER_VM, OTHER, None)):
        sealed = take(repository, vm, {"disk": content}, clock, changes=changed)
        original.sealed.append(sealed)
        original.contents[sealed.name] = content
        for kind in ("tracking", "evidence"):
            repository.points.attach(kind, sealed.name, {"time": str(clock.now()), "of": sealed.name})
    for _ in range(2):
        _forget_one(repository, original)
    for n in (1, 2):
        condemn(repository, PackRef(bytes([n]) * 16, Kind.CHUNKS))
    return original


def _forget_one(repository: Repository, original: Original) -> None:
    doomed = take(repository, OTHER_VM, {"disk": OTHER}, original.clock)
    for name in (seal_name(doomed.name), doomed.name):
        original.forgotten[name] = original.store.get(name)
    forget(repository, doomed)


@dataclass
class Seen:
    """What a reader got and what it was told."""

    restored: dict[str, bytes] = field(default_factory=dict)
    errors: list[VmkeepError] = field(default_factory=list)

    def note(self, action: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        try:
            return action(*args, **kwargs)
        except VmkeepError as error:
            self.errors.append(error)
            return None

    def names(self, name: str) -> bool:
        return any(name in f"{error.message} {error.context}" for error in self.errors)


@cache
def _ring() -> KeyRing:
    return Repository.open(_original().store, PASSWORD, _original().clock).ring


def _open(store: MemoryStore, clock: FakeClock) -> Repository:
    """Open as everybody does; what the password gives is derived only once if nothing there changed."""
    plain = [*names(_original().store, "keys/"), "format"]
    if any(store.head(name) is None or store.get(name) != _original().store.get(name) for name in plain):
        return Repository.open(store, PASSWORD, clock)
    return Repository(store, read_parameters(store), _ring(), clock, None, "")


def _walk_every_read_path(store: MemoryStore, clock: FakeClock) -> Seen:
    seen = Seen()
    try:
        repository = _open(store, clock)
    except VmkeepError as error:
        seen.errors.append(error)
        return seen
    listing = repository.listing()
    seen.errors.extend(listing.problems)
    points, ring = repository.points, repository.ring
    for sealed in listing.points:
        content = seen.note(restore, repository, sealed)
        if content is not None:
            seen.restored[sealed.name] = content["disk"]
        seen.note(points.attached, "tracking", sealed.name)
        seen.note(points.attached, "evidence", sealed.name)
    for name in names(store, "runs/"):
        seen.note(read_record, store, ring, name)
    for name in names(store, "inventory/"):
        seen.note(decode_inventory, name, store.get(name), ring.repository, ring)
    for prefix in ("sessions/", "condemned/"):
        for name in names(store, prefix):
            seen.note(open_box, ring, name, store.get(name))
    return seen


def _check_names(store: MemoryStore, clock: FakeClock, *, keyless: bool = False) -> set[str]:
    """Return every object `check` complains about."""
    if keyless:
        report = check_keyless(store, read_parameters(store), Silent())
    else:
        report = check(_open(store, clock), 1.0, Silent())
    return {word for problem in report.problems for word in (problem.object, *problem.message.split())}


def _objects(kind: str) -> list[str]:
    if "/" not in kind:
        return [kind]
    return in_order(_original().store, kind)


def _bits(content: bytes, rng: random.Random) -> Iterator[Flip]:
    """Yield one bit of each region: both ends, and places in between."""
    places = {rng.choice((0, 8, 9)), rng.choice((17, 33)), len(content) - 9, len(content) - 41}
    places |= {len(content) - 60, *(rng.randrange(len(content)) for _ in range(3))}
    for place in sorted(place for place in places if 0 <= place < len(content)):
        yield Flip(place * 8 + rng.randrange(8))


def _damages(kind: str, seed: int) -> Iterator[tuple[str, Damage]]:
    rng = random.Random(f"{seed}{kind}")
    objects = _objects(kind)
    for name in rng.sample(objects, min(2, len(objects))):
        content = _original().store.get(name)
        for flip in _bits(content, rng):
            yield name, flip
        # The last byte of a JSON object is a line break that means nothing.
        for length in {0, 31, len(content) // 2, len(content) - 41, len(content) - 2}:
            if 0 <= length < len(content):
                yield name, Cut(length)
        others = [other for other in objects if _original().store.get(other) != content]
        for other in rng.sample(others, min(1, len(others))):
            yield name, Swap(other)
        yield name, Remove()


def test_undamaged_repository_is_found_to_be_so() -> None:
    original = _original()
    assert {name.split("/")[0] for name in names(original.store, "")} == {kind.rstrip("/") for kind in KINDS}
    seen = _walk_every_read_path(original.store.copy(), original.clock)
    assert seen.errors == [] and seen.restored == original.contents
    assert _check_names(original.store.copy(), original.clock) == set()
    # A keyless party cannot tell a void seal from a lost manifest; there is none of these here.
    assert _check_names(original.store.copy(), original.clock, keyless=True) == set()


@pytest.mark.parametrize("kind", KINDS)
def test_damage_never_gives_wrong_bytes_and_is_named(kind: str, seed: int) -> None:
    original = _original()
    for name, how in _damages(kind, seed):
        where = f"{name}: {how}"
        store = original.store.copy()
        tamper(store, name, how)
        seen = _walk_every_read_path(store, original.clock)
        for point, content in seen.restored.items():
            assert content == original.contents[point], f"wrong bytes of {point} after {where}"
        lost = set(original.contents) - set(seen.restored)
        if kind in HINTS:
            assert lost == set(), where
        if lost and not (kind == "seals/" and how == Remove()):
            # What was removed has no name any more where it is missed: what is missing is named.
            assert seen.errors, where
            gone = how == Remove() and kind in ("packs/", "maps/", "format", "keys/")
            assert gone or seen.names(name) or _is_other(seen, how), f"{where}: {seen.errors}"


def _is_other(seen: Seen, how: Damage) -> bool:
    return isinstance(how, Swap) and seen.names(how.other)


# Nothing outside says that one of these was ever there.
UNPROVEN = ("sessions/", "condemned/", "index/", "tracking/", "evidence/", "forgotten/", "runs/", "keys/")


def _is_unproven(kind: str, name: str) -> bool:
    # Of the inventories, only those are missed that a point still names.
    named = {sealed.point.inventory for sealed in _original().sealed}
    return kind in UNPROVEN or (kind == "inventory/" and name not in named)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("format",)])
def test_check_names_every_damage(kind: str, seed: int) -> None:
    original = _original()
    for name, how in _damages(kind, seed):
        if how == Remove() and _is_unproven(kind, name):
            continue
        store = original.store.copy()
        tamper(store, name, how)
        try:
            named = _check_names(store, original.clock)
        except VmkeepError as error:
            assert kind == "keys/" and "keys/" in error.message
            continue
        words = " ".join(named)
        expected = {name, name.replace("seals/", "points/", 1)}
        assert any(word in words for word in expected), f"{name}: {how}: check names only {named}"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "format"])
def test_keyless_check_names_rot(kind: str, seed: int) -> None:
    original = _original()
    for name, how in _damages(kind, seed):
        if isinstance(how, Swap) and kind not in ("packs/", "maps/", "inventory/", "keys/"):
            continue  # a box is bound to its name by the key alone
        if how == Remove() and kind not in ("packs/", "maps/", "points/", "spec.md"):
            continue  # nothing without keys says that it was there
        store = original.store.copy()
        tamper(store, name, how)
        named = " ".join(_check_names(store, original.clock, keyless=True))
        assert name in named or (isinstance(how, Swap) and how.other in named), f"{name}: {how}: {named}"


def test_damaged_parameters_are_never_taken_for_good(seed: int) -> None:
    original = _original()
    for _, how in _damages("format", seed):
        store = original.store.copy()
        tamper(store, "format", how)
        seen = _walk_every_read_path(store, original.clock)
        assert seen.restored in ({}, original.contents), str(how)
        assert seen.restored or seen.names("format") or how == Remove(), f"{how}: {seen.errors}"


def test_one_damaged_key_leaves_the_other(seed: int) -> None:
    original = _original()
    passwords = {"password": PASSWORD, "recovery": Secret("AAAA")}
    for name, how in _damages("keys/", seed):
        if isinstance(how, Swap):
            continue
        store = original.store.copy()
        tamper(store, name, how)
        broken = json.loads(original.store.get(name))["kind"]
        seen = Seen()
        opened = {
            kind
            for kind, password in passwords.items()
            if seen.note(Repository.open, store, password, original.clock) is not None
        }
        assert opened == passwords.keys() - {broken}, f"{name}: {how}"
        assert how == Remove() or seen.names(name), f"{name}: {how}: {seen.errors}"


# --- replay: what was once authentic, put back ---------------------------------------------


def test_forgotten_point_put_back_is_not_listed() -> None:
    original = _original()
    store = original.store.copy()
    for name, content in original.forgotten.items():
        store.put(name, content)
    seen = _walk_every_read_path(store, original.clock)
    assert seen.restored == original.contents


def test_older_object_under_a_newer_ones_name_is_refused() -> None:
    # Everything is bound to its name, so an old object of the same kind is as foreign as any other.
    original = _original()
    for prefix in ("points/", "seals/", "forgotten/", "runs/", "tracking/", "inventory/"):
        older, *_, newer = in_order(original.store, prefix)
        store = original.store.copy()
        store.overwrite(newer, original.store.get(older))
        seen = _walk_every_read_path(store, original.clock)
        assert seen.names(newer), prefix
        assert seen.restored.items() <= original.contents.items()


def test_whole_older_state_is_noticed_by_who_has_seen_a_newer_one(tmp_path: Path) -> None:
    original = _original()
    clock = original.clock
    older = original.store.copy()
    for name in (seal_name(original.sealed[1].name), original.sealed[1].name):
        older.delete(name)
    with Repository.open(original.store.copy(), PASSWORD, clock, tmp_path) as repository:
        repository.listing()
    with Repository.open(older, PASSWORD, clock, tmp_path) as repository, pytest.raises(RolledBack):
        repository.listing()


def test_objects_of_another_repository_are_refused() -> None:
    # The same password, the same VM: only the master key and the id differ.
    original = _original()
    other = make_repository(clock=FakeClock())
    take(other, VM, {"disk": BASE}, FakeClock())
    for prefix in ("points/", "seals/", "packs/", "maps/", "inventory/"):
        name = in_order(original.store, prefix)[0]
        store = original.store.copy()
        store.overwrite(name, other.store.get(in_order(other.store, prefix)[0]))
        seen = _walk_every_read_path(store, original.clock)
        assert seen.restored.items() <= original.contents.items()
        assert seen.names(name) or prefix in ("packs/", "maps/"), prefix
        assert name in " ".join(_check_names(store, original.clock)), prefix


def test_junk_beside_everything_changes_nothing() -> None:
    # Somebody who can only add objects and has no key.
    original = _original()
    store = original.store.copy()
    for prefix in KINDS:
        if prefix.endswith("/"):
            store.put(prefix + "0" * 32, b"junk")
            store.put(prefix + "ff/" + "f" * 32, b"junk")
    for name in names(original.store, "packs/"):
        copy = name.replace("packs/", "maps/", 1)
        store.put(copy, original.store.get(name))
    for name in names(store, "index/"):
        store.delete(name)
    seen = _walk_every_read_path(store, original.clock)
    assert seen.restored == original.contents
