"""A restore point exists when its manifest and its seal are there and verify; nothing else is listed."""

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.clocks import FakeClock
from tests.repositories import (
    CHUNK,
    OTHER_VM,
    VM,
    forget,
    make_repository,
    manifest_of,
    names,
    random_bytes,
    stored_disk,
    take,
)
from vmkeep.model.plan import VmRef
from vmkeep.objectstore.directory import DirectoryStore
from vmkeep.objectstore.errors import StoreUnavailable
from vmkeep.objectstore.memory import MemoryStore
from vmkeep.progress import Silent
from vmkeep.repository.box import close_box
from vmkeep.repository.errors import PublishRefused, Tampered
from vmkeep.repository.examine.keyed import check
from vmkeep.repository.listing import POINTS, SEALS, SealedPoint
from vmkeep.repository.manifest import manifest_fields
from vmkeep.repository.points import Points, seal_name
from vmkeep.repository.repository import Repository

pytestmark = pytest.mark.quick


class World:
    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.store = MemoryStore(clock)
        self.repository: Repository = make_repository(self.store, clock)
        self.points: Points = self.repository.points

    def put(self, vm: VmRef = VM) -> tuple[str, bytes]:
        """Store a manifest that is not sealed yet."""
        self.clock.advance(60)
        return self.points.put(manifest_of(vm, [], self.clock)("ab" * 16))

    def sealed(self, vm: VmRef = VM) -> SealedPoint:
        self.clock.advance(60)
        return take(self.repository, vm, {"disk": random_bytes(1, CHUNK)}, self.clock)

    def box(self, name: str, fields: object) -> bytes:
        return close_box(self.repository.ring, name, json.dumps(fields).encode())

    def listed(self) -> list[str]:
        return [sealed.name for sealed in self.points.listing().points]

    def problems(self) -> list[object]:
        return [problem.context["object"] for problem in self.points.listing().problems]


@pytest.fixture
def world(fake_clock: FakeClock) -> World:
    return World(fake_clock)


def test_unfinished_point_is_invisible_and_no_problem(world: World) -> None:
    world.put()
    assert world.listed() == world.problems() == []


def test_sealed_point_is_visible(world: World) -> None:
    name, digest = world.put()
    assert world.points.seal(name, digest, world.clock.now())
    assert world.points.seal(name, digest, world.clock.now()), "a repeated seal is success"
    (sealed,) = world.points.listing().points
    assert (sealed.name, sealed.digest, sealed.point.vm) == (name, digest, VM)
    assert world.points.listing(VM.id).points == (sealed,)
    assert world.points.listing(OTHER_VM.id).points == ()


def test_name_is_as_specified_and_reveals_nothing(world: World) -> None:
    moment = world.clock.now() + timedelta(seconds=60)
    name, _ = world.put()
    key = world.repository.ring.vm_key(VM.id)
    assert name == f"points/{key}/{moment.strftime('%Y%m%dT%H%M%SZ')}-{'ab' * 16}"
    assert VM.name not in name and VM.id not in name
    assert seal_name(name) == name.replace("points/", "seals/")


def test_void_point_is_invisible_and_cannot_be_sealed(world: World) -> None:
    name, digest = world.put()
    seal = seal_name(name)
    world.store.put(seal, world.box(seal, {"version": 1, "state": "void", "point": name}))
    assert world.points.seal_state(name, digest) == "void"
    assert not world.points.seal(name, digest, world.clock.now())
    assert world.listed() == world.problems() == []
    world.store.delete(name)
    assert world.problems() == [], "what was voided may go without a trace"


def test_seal_that_may_not_outlive_a_power_cut_is_no_success(
    tmp_path: Path, fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = make_repository(DirectoryStore(tmp_path / "store", create=True), fake_clock)
    # Another point's seal: the folder is there.
    first = take(repository, VM, {"disk": random_bytes(1, CHUNK)}, fake_clock)
    fake_clock.advance(60)
    name, digest = repository.points.put(manifest_of(VM, [], fake_clock, previous=first)("ab" * 16))
    folder = (tmp_path / "store" / seal_name(name)).parent
    really_sync, refusals = os.fsync, [2]

    def sync(fd: int) -> None:
        if Path(f"/proc/self/fd/{fd}").readlink() == folder and refusals[0]:
            refusals[0] -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        really_sync(fd)

    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(StoreUnavailable):
        repository.points.seal(name, digest, fake_clock.now())
    assert refusals == [0], "the seal was read back, and its flush asked for once more"
    refusals[0] = 1
    assert repository.points.seal(name, digest, fake_clock.now())
    assert refusals == [0]


SEAL_FIELDS: dict[str, Callable[[str, bytes], object]] = {
    "another point": lambda name, digest: {
        "version": 1, "state": "sealed", "point": name + "0", "digest": digest.hex(),
    },
    "another digest": lambda name, digest: {
        "version": 1, "state": "sealed", "point": name, "digest": "00" * 32,
    },
    "no digest": lambda name, digest: {"version": 1, "state": "sealed", "point": name},
    "unknown state": lambda name, digest: {
        "version": 1, "state": "perhaps", "point": name, "digest": digest.hex(),
    },
    "newer": lambda name, digest: {"version": 2, "state": "sealed", "point": name, "digest": digest.hex()},
    "no object": lambda name, digest: [],
}  # fmt: skip


@pytest.mark.parametrize("what", list(SEAL_FIELDS))
def test_seal_that_says_something_else_makes_no_point(world: World, what: str) -> None:
    name, digest = world.put()
    seal = seal_name(name)
    world.store.put(seal, world.box(seal, SEAL_FIELDS[what](name, digest)))
    assert world.listed() == []
    assert world.problems() in ([seal], [name])
    assert not world.points.seal(name, digest, world.clock.now())


def test_seal_of_another_point_makes_no_point(world: World) -> None:
    first, second = world.sealed(), world.sealed()
    world.store.overwrite(seal_name(second.name), world.store.get(seal_name(first.name)))
    assert world.listed() == [first.name]
    assert world.problems() == [seal_name(second.name)]


def test_swapped_manifests_are_no_points(world: World) -> None:
    first, second = world.sealed(), world.sealed(OTHER_VM)
    one, two = world.store.get(first.name), world.store.get(second.name)
    world.store.overwrite(first.name, two)
    world.store.overwrite(second.name, one)
    assert world.listed() == []
    assert sorted(map(str, world.problems())) == sorted([first.name, second.name])


def test_manifest_replaced_after_the_seal_is_no_point(world: World) -> None:
    # By somebody with the keys: a valid box under the right name, but not what was sealed.
    sealed = world.sealed()
    world.store.overwrite(sealed.name, world.box(sealed.name, {"version": 1}))
    assert world.listed() == []
    changed = replace(sealed.point, bytes_read=99)
    world.store.overwrite(sealed.name, world.box(sealed.name, manifest_fields(changed)))
    assert world.listed() == []
    assert world.problems() == [sealed.name]


def test_manifest_of_another_vm_or_id_under_this_name_is_no_point(world: World) -> None:
    name, _ = world.put()
    for point in (
        manifest_of(OTHER_VM, [], world.clock)("ab" * 16),
        manifest_of(VM, [], world.clock)("cd" * 16),
    ):
        twin = Points(MemoryStore(), world.repository.ring)
        other_name, _ = twin.put(point)
        assert other_name != name
        world.store.overwrite(name, world.box(name, manifest_fields(point)))
        with pytest.raises(Tampered, match=name):
            world.points.load(name)


def test_lost_manifest_is_reported(world: World) -> None:
    first, second = world.sealed(), world.sealed()
    world.store.delete(second.name)
    assert world.listed() == [first.name]
    assert world.problems() == [second.name]


def _bury(world: World, sealed: SealedPoint, **changes: object) -> str:
    name = "forgotten/" + sealed.name.removeprefix(POINTS)
    fields = {
        "version": 1,
        "point": sealed.name,
        "vm": sealed.point.vm.id,
        "number": sealed.point.number,
        "digest": sealed.digest.hex(),
        "previous": None,
    }
    world.store.put(name, world.box(name, fields | changes))
    return name


def test_forgotten_point_is_no_problem_and_remembered(world: World) -> None:
    first, second = world.sealed(), world.sealed()
    _bury(world, second)
    assert world.listed() == [first.name], "from the tombstone on, though seal and manifest are there"
    world.store.delete(seal_name(second.name))
    assert world.listed() == [first.name]
    world.store.delete(second.name)
    assert world.listed() == [first.name]
    assert world.problems() == []
    listing = world.points.listing()
    assert second.digest in listing.digests
    assert listing.head(VM.id) == (2, second.name, second.digest)
    assert listing.head(OTHER_VM.id) is None


def test_forgotten_point_put_back_stays_forgotten(world: World) -> None:
    sealed = world.sealed()
    kept = {name: world.store.get(name) for name in (sealed.name, seal_name(sealed.name))}
    forget(world.repository, sealed)
    for name, content in kept.items():
        world.store.put(name, content)
    assert world.listed() == []


@pytest.mark.parametrize(
    "changes",
    [
        {"point": "points/x"},
        {"digest": "zz"},
        {"digest": "00"},
        {"number": None},
        {"number": 0},
        {"vm": "another"},
        {"previous": 7},
        {"version": 2},
    ],
)
def test_wrong_tombstone_hides_nothing_and_is_reported(world: World, changes: dict[str, object]) -> None:
    sealed = world.sealed()
    stone = _bury(world, sealed, **changes)
    assert world.listed() == [sealed.name]
    assert world.problems() == [stone]


def test_one_damaged_point_does_not_hide_the_others(world: World) -> None:
    points = [world.sealed() for _ in range(4)] + [world.sealed(OTHER_VM)]
    world.store.overwrite(points[1].name, b"junk")
    world.store.overwrite(seal_name(points[2].name), b"junk")
    assert world.listed() == [points[0].name, points[3].name, points[4].name]
    assert world.problems() == [points[1].name, seal_name(points[2].name)]


@pytest.mark.parametrize(("number", "right"), [(1, True), (2, False), (7, False)])
def test_a_point_without_predecessor_is_number_one_or_a_check_says_so(
    world: World, number: int, right: bool
) -> None:
    # `docs/format.md` section 8. Whoever forges the start of a chain has the keys, or a defect.
    point = manifest_of(VM, [], world.clock, inventory="inventory/of-nobody")("ab" * 16)
    name, digest = world.points.put(replace(point, number=number))
    assert world.points.seal(name, digest, world.clock.now())
    told = [p.message for p in check(world.repository, 1.0, Silent()).problems if p.object == name]
    assert [f"is number {number} of its VM" in message for message in told] == ([] if right else [True])


def test_newest_goes_by_number_not_by_clock(world: World) -> None:
    first = world.sealed()
    world.clock.set_now(world.clock.now() - timedelta(days=400))
    second = world.sealed()
    listing = world.points.listing()
    assert [sealed.name for sealed in listing.points] == [second.name, first.name], "oldest first, by time"
    assert listing.newest(VM.id) == second
    assert listing.find(VM.name) == second
    assert listing.newest("nobody") is None


def test_attached_knowledge_comes_back_in_order(world: World) -> None:
    sealed, other = world.sealed(), world.sealed()
    for moment in ("2026-03-02", "2026-03-01", "2026-03-03"):
        world.points.attach("tracking", sealed.name, {"time": moment, "rct": moment[-1]})
    world.points.attach("evidence", sealed.name, {"time": "2026-03-04"})
    world.points.attach("tracking", other.name, {"time": "2026-03-05"})
    found = world.points.attached("tracking", sealed.name)
    assert [fields["rct"] for fields in found] == ["1", "2", "3"]
    assert {(fields["version"], fields["kind"]) for fields in found} == {(1, "tracking")}
    assert len(world.points.attached("evidence", sealed.name)) == 1
    name = names(world.store, f"tracking/{sealed.name.removeprefix(POINTS)}/")[0]
    world.store.overwrite(name, b"junk")
    with pytest.raises(Tampered, match=name):
        world.points.attached("tracking", sealed.name)


@pytest.mark.parametrize("name", ["a\\b", "", "..", "a/b"])
def test_point_no_reader_would_take_is_never_published(world: World, name: str) -> None:
    # A file of this name is possible on Linux; the point would be sealed and then refused for ever.
    point = manifest_of(VM, [stored_disk(name, 5, None)], world.clock)("ab" * 16)
    with pytest.raises(PublishRefused):
        world.points.put(point)
    assert names(world.store, POINTS) == names(world.store, SEALS) == []
