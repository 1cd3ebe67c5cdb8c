"""A check says which restore points damage has touched, where, and which are whole."""

import pytest
from blake3 import blake3

from tests.clocks import FakeClock
from tests.faults.stores import Flip, tamper
from tests.repositories import (
    CHUNK,
    OTHER_VM,
    VM,
    in_order,
    make_repository,
    names,
    pack_refs,
    random_bytes,
    reopen,
    take,
)
from vmkeep.objectstore.memory import MemoryStore
from vmkeep.progress import Silent
from vmkeep.ranges import ByteRange
from vmkeep.repository.examine.keyed import check
from vmkeep.repository.examine.keyless import check_keyless
from vmkeep.repository.examine.report import PointState, Report, State
from vmkeep.repository.listing import SealedPoint
from vmkeep.repository.packs import Kind, PackRef, PackWriter
from vmkeep.repository.repository import Repository
from vmkeep.repository.slots import STORED

SIZE = 20 * CHUNK + 1024
DISK = random_bytes(51, SIZE)
CHANGED = DISK[: 3 * CHUNK] + random_bytes(52, CHUNK) + DISK[4 * CHUNK :]
OTHER = random_bytes(53, SIZE)
Run = set[PackRef]


class Kept:
    """Two points of one VM that differ in chunk 3, one of another VM; and what each run stored."""

    def __init__(self, clock: FakeClock) -> None:
        self.repository: Repository = make_repository(clock=clock)
        self.store = self.repository.store
        self.stored: list[Run] = []
        self.points: list[SealedPoint] = []
        changes = {"disk": [ByteRange(3 * CHUNK, CHUNK)]}
        for vm, disk, changed in ((VM, DISK, None), (VM, CHANGED, changes), (OTHER_VM, OTHER, None)):
            before = pack_refs(self.store)
            self.points.append(take(self.repository, vm, {"disk": disk}, clock, changes=changed))
            self.stored.append(pack_refs(self.store) - before)

    def packs(self, run: int, prefix: str = "packs/") -> list[str]:
        return sorted(ref.name for ref in self.stored[run] if ref.name.startswith(prefix))

    def check(self, share: float = 1.0) -> Report:
        return check(reopen(self.repository), share, Silent())

    def state(self, report: Report, number: int) -> PointState:
        return {point.id: point for point in report.points}[self.points[number].point.id]

    def states(self, report: Report) -> list[str]:
        return [self.state(report, number).state.value for number in range(3)]


@pytest.fixture
def kept(fake_clock: FakeClock) -> Kept:
    return Kept(fake_clock)


def test_points_are_whole_only_when_their_data_was_read(kept: Kept) -> None:
    assert kept.states(kept.check()) == ["whole", "whole", "whole"]
    assert kept.states(kept.check(0.0)) == ["not examined"] * 3
    report = kept.check(0.01)
    assert report.ok and "not examined" in kept.states(report)
    named = [(point.vm, point.vm_id, point.object) for point in report.points]
    assert named == [(s.point.vm.name, s.point.vm.id, s.name) for s in kept.points]


@pytest.mark.parametrize("how", ["flipped", "gone"])
def test_damage_in_one_runs_only_chunk_touches_that_point_and_that_range(kept: Kept, how: str) -> None:
    [victim] = kept.packs(1)
    if how == "gone":
        kept.store.delete(victim)
    else:
        tamper(kept.store, victim, Flip(8 * 1000))
    report = kept.check()
    assert kept.states(report) == ["whole", "damaged", "whole"]
    [loss] = kept.state(report, 1).losses
    assert (loss.name, loss.bytes, loss.ranges, loss.ranges_left_off) == (
        "disk", CHUNK, ((3 * CHUNK, CHUNK),), 0,
    )  # fmt: skip
    [problem] = [problem for problem in report.problems if problem.object == victim]
    assert problem.points == (kept.points[1].point.id,)


def test_loss_of_what_two_points_share_is_told_of_both(kept: Kept) -> None:
    for name in kept.packs(0):
        kept.store.delete(name)
    report = kept.check(0.0)
    assert kept.states(report) == ["damaged", "damaged", "not examined"]
    assert kept.state(report, 0).losses[0].ranges == ((0, SIZE),)
    assert kept.state(report, 1).losses[0].ranges == ((0, 3 * CHUNK), (4 * CHUNK, SIZE - 4 * CHUNK))
    assert kept.state(report, 1).losses[0].bytes == SIZE - CHUNK
    both = {kept.points[0].point.id, kept.points[1].point.id}
    for name in kept.packs(0):
        assert {point for p in report.problems if p.object == name for point in p.points} == both


@pytest.mark.parametrize("prefix", ["packs/", "maps/"])
def test_damage_below_a_node_that_two_points_share_is_told_of_both(
    fake_clock: FakeClock, prefix: str
) -> None:
    # Both VMs hold the same disk, so they share its map, root and all.
    repository = make_repository(clock=fake_clock)
    for vm in (VM, OTHER_VM):
        take(repository, vm, {"disk": DISK}, fake_clock)
    assert len(names(repository.store, "maps/")) == 1
    tamper(repository.store, in_order(repository.store, prefix)[0], Flip(8 * 40))  # in the first frame
    one, two = check(reopen(repository), 1.0, Silent()).points
    assert (one.vm, two.vm) == (VM.name, OTHER_VM.name)
    assert one.state is two.state is State.DAMAGED
    assert one.losses == two.losses
    assert one.losses[0].ranges == (((0, CHUNK),) if prefix == "packs/" else ((0, SIZE),))


def test_a_frame_among_the_maps_is_no_chunk_whatever_its_id(kept: Kept) -> None:
    # Only a writer with the keys can do that; each frame is right by the id it has in its pack.
    [victim] = kept.packs(1)
    kept.store.delete(victim)
    chunk = CHANGED[3 * CHUNK : 4 * CHUNK]
    writer = PackWriter(kept.store, kept.repository.ring, Kind.NODES)
    writer.append(blake3(chunk, key=kept.repository.ring.chunk_id_key).digest(), chunk, STORED, CHUNK)
    writer.finish()
    assert kept.states(kept.check(0.0)) == ["not examined", "damaged", "not examined"]


def test_a_lost_map_takes_its_whole_disk(kept: Kept) -> None:
    for name in kept.packs(1, "maps/"):
        kept.store.delete(name)
    report = kept.check()
    assert kept.states(report) == ["whole", "damaged", "whole"]
    assert kept.state(report, 1).losses[0].ranges == ((0, SIZE),)


def test_a_damaged_frame_with_a_good_copy_elsewhere_harms_no_point(kept: Kept, fake_clock: FakeClock) -> None:
    [victim] = kept.packs(1)
    content = kept.store.get(victim)
    kept.store.delete(victim)
    take(reopen(kept.repository), OTHER_VM, {"disk": CHANGED}, fake_clock)  # stores the lost chunk again
    kept.store.put(victim, content)
    tamper(kept.store, victim, Flip(8 * 1000))
    report = kept.check()
    assert kept.states(report) == ["whole", "whole", "whole"]
    assert [(p.object, p.points) for p in report.problems if not p.harmless] == [(victim, ())]


def test_many_scattered_losses_are_counted_and_only_some_named(fake_clock: FakeClock) -> None:
    # Every second chunk lies in the pack of the second run.
    repository = make_repository(clock=fake_clock, pack_size=16 << 20)
    chunks = 80
    base = random_bytes(54, chunks * CHUNK)
    take(repository, VM, {"disk": base}, fake_clock)
    first = pack_refs(repository.store)
    pieces = [ByteRange(n * CHUNK, CHUNK) for n in range(0, chunks, 2)]
    changed = bytearray(base)
    for n in range(0, chunks, 2):
        changed[n * CHUNK : (n + 1) * CHUNK] = random_bytes(1000 + n, CHUNK)
    take(repository, VM, {"disk": bytes(changed)}, fake_clock, changes={"disk": pieces})
    for ref in pack_refs(repository.store) - first:
        if ref.name.startswith("packs/"):
            repository.store.delete(ref.name)
    [whole, damaged] = check(reopen(repository), 1.0, Silent()).points
    assert whole.state is State.WHOLE
    [loss] = damaged.losses
    assert loss.bytes == chunks // 2 * CHUNK
    assert loss.ranges == tuple((n * CHUNK, CHUNK) for n in range(0, 32, 2))
    assert loss.ranges_left_off == chunks // 2 - 16


def test_a_point_without_readable_manifest_is_listed_as_damaged(kept: Kept) -> None:
    name = kept.points[0].name
    tamper(kept.store, name, Flip(8 * 60))
    for report in (kept.check(), check_keyless(kept.store, kept.repository.parameters, Silent())):
        [point] = [point for point in report.points if point.id == kept.points[0].point.id]
        assert (point.state, point.vm, point.object) == (State.DAMAGED, None, name)
        assert point.time is not None and point.time[:13] == str(kept.points[0].point.time)[:13].replace(
            " ", "T"
        )


def test_without_keys_points_are_named_and_not_called_whole(kept: Kept) -> None:
    report = check_keyless(kept.store, kept.repository.parameters, Silent())
    assert report.ok
    assert [point.id for point in report.points] == [sealed.point.id for sealed in kept.points]
    assert {point.state for point in report.points} == {State.NOT_EXAMINED}


def test_the_pack_of_a_removed_inventory_is_named(kept: Kept) -> None:
    # No point names a further inventory of a run, but its packs are needed and nobody lists them.
    store = kept.store
    assert isinstance(store, MemoryStore)
    name = kept.points[2].point.inventory
    listing = {name: store.get(name) for name in names(store, "inventory/")}
    store.delete(name)
    report = kept.check()
    named = {p.object for p in report.problems}
    assert set(kept.packs(2)) | set(kept.packs(2, "maps/")) | {name} <= named
    assert not report.ok and len(listing) == 3
    assert kept.states(report) == ["whole", "whole", "whole"]


def test_a_share_is_one_of_the_bytes(fake_clock: FakeClock) -> None:
    # Packs of very different sizes: one run stores 2 MiB, nine others a chunk each.
    repository = make_repository(clock=fake_clock, pack_size=16 << 20)
    base = random_bytes(77, 32 * CHUNK)
    take(repository, VM, {"disk": base}, fake_clock)
    for number in range(9):
        base = random_bytes(78 + number, CHUNK) + base[CHUNK:]
        take(repository, VM, {"disk": base}, fake_clock)
    everything = check(reopen(repository), 1.0, Silent()).bytes_read
    for _ in range(20):  # whatever is drawn
        half = check(reopen(repository), 0.5, Silent()).bytes_read
        assert half >= everything / 2
    assert check(reopen(repository), 0.0, Silent()).bytes_read == 0


def test_a_repository_that_nobody_can_open_is_no_good_one(kept: Kept) -> None:
    assert check_keyless(kept.store, kept.repository.parameters, Silent()).ok
    for name in names(kept.store, "keys/"):
        kept.store.delete(name)
    report = check_keyless(kept.store, kept.repository.parameters, Silent())
    assert [problem.object for problem in report.problems if not problem.harmless] == ["keys/"]
