"""A check calls whole what a restore takes, and nothing else: authentic points whose maps do not fit them.

Which map fits is computed here from `docs/format.md` section 7 and the bytes that were stored.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from blake3 import blake3

from tests.clocks import FakeClock
from tests.repositories import (
    CHUNK,
    LEAF,
    OTHER_VM,
    VM,
    from_pieces,
    make_repository,
    random_bytes,
    reopen,
    stored_disk,
    take,
)
from vmkeep.model.point import RestorePoint, StoredDisk, StoredFile
from vmkeep.progress import Silent
from vmkeep.ranges import ByteRange
from vmkeep.repository.box import close_box
from vmkeep.repository.errors import RepositoryError
from vmkeep.repository.examine.keyed import check
from vmkeep.repository.examine.report import PointState, State
from vmkeep.repository.listing import POINTS, SealedPoint, stamp_of
from vmkeep.repository.manifest import encode_manifest
from vmkeep.repository.nodes import Child, Entry, encode_node, fanout
from vmkeep.repository.packs import Kind, PackWriter
from vmkeep.repository.reader import DiskMap
from vmkeep.repository.repository import Repository
from vmkeep.repository.slots import STORED
from vmkeep.restore.pieces import pieces

GIB = 1 << 30
SIZE = 70 * CHUNK + 1024  # two leaves, the last chunk is short
DISK = random_bytes(81, SIZE)


class World:
    """One honest point, whose maps the planted ones share."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.repository: Repository = make_repository(clock=clock)
        self.honest: SealedPoint = take(self.repository, VM, {"d": DISK}, clock)
        self.disk: StoredDisk = self.honest.point.disks[0]

    def plant(self, disks: Sequence[StoredDisk] = (), files: Sequence[StoredFile] = ()) -> str:
        """Seal a point of another VM as whoever has the keys can; return its object's name."""
        ring, point_id = self.repository.ring, os.urandom(16).hex()
        self.clock.advance(60)
        point: RestorePoint = replace(
            self.honest.point,
            id=point_id,
            vm=replace(OTHER_VM, id=point_id, name=point_id),
            time=self.clock.now(),
            disks=tuple(disks),
            files=tuple(files),
        )
        name = f"{POINTS}{ring.vm_key(point.vm.id)}/{stamp_of(point.time)}-{point_id}"
        stored = close_box(ring, name, encode_manifest(point))
        self.repository.store.put(name, stored)
        assert self.repository.points.seal(name, blake3(stored).digest(), self.clock.now())
        return name

    def node(self, level: int, children: Mapping[int, Entry]) -> bytes:
        """Store a map node; return its id."""
        ring = self.repository.ring
        node = encode_node(level, [children.get(i, Child.ZERO) for i in range(fanout(level))])
        assert node is not None
        node_id = blake3(node, key=ring.node_id_key).digest()
        pack = PackWriter(self.repository.store, ring, Kind.NODES)
        pack.append(node_id, node, STORED, len(node))
        pack.finish()
        return node_id

    def check(self, name: str, share: float = 1.0) -> PointState:
        """Return what a check says of one planted point; the honest one is whole whatever lies beside it."""
        report = check(reopen(self.repository), share, Silent())
        states = {point.object: point for point in report.points}
        assert states[self.honest.name].state is (State.WHOLE if share else State.NOT_EXAMINED)
        assert (states[name].state is State.DAMAGED) == (name in {p.object for p in report.problems})
        return states[name]

    def is_restored(self, disk: StoredDisk | StoredFile) -> bool:
        """Tell whether a restore gets all bytes of a disk."""
        try:
            for _ in pieces(reopen(self.repository).disk_map(disk), Silent()):
                pass
        except RepositoryError:
            return False
        return True


@pytest.fixture
def world(fake_clock: FakeClock) -> World:
    return World(fake_clock)


def fits(size: int) -> bool:
    """Tell whether the map of DISK, of which every chunk is stored, is one of a disk of ``size`` bytes."""
    chunks = -(-SIZE // CHUNK)
    last = (chunks - 1) * CHUNK
    return last < size and min(CHUNK, size - last) == SIZE - last


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize(
    "size",
    [
        SIZE, SIZE - 512, SIZE + 512, SIZE - 1024, SIZE - 3 * CHUNK, 70 * CHUNK, 71 * CHUNK, 72 * CHUNK,
        LEAF, LEAF - 512, LEAF + 512, 1536, 512, 2 * LEAF, 0,
    ],
)  # fmt: skip
def test_a_disk_of_another_size_than_its_map(world: World, size: int, share: float) -> None:
    changed = replace(world.disk, size=size)
    state = world.check(world.plant([changed]), share).state
    assert (state is not State.DAMAGED) == fits(size)
    assert world.is_restored(changed) == fits(size)


@pytest.mark.parametrize("size", [SIZE, SIZE - 5, SIZE + 5, CHUNK, 1, 0])
def test_a_file_of_another_size_than_its_map(world: World, size: int) -> None:
    file = StoredFile("y", "configuration", size, world.disk.root)
    assert (world.check(world.plant([world.disk], [file])).state is State.WHOLE) == fits(size)
    assert world.is_restored(file) == fits(size)


def test_what_two_disks_share_is_judged_for_each(world: World) -> None:
    # The honest disk comes first, so all of its subtrees are known when the others are looked at.
    longer = world.plant([replace(world.disk, size=SIZE + LEAF)])
    named = world.check(longer)
    assert [(loss.name, loss.bytes, loss.ranges) for loss in named.losses] == [
        ("d", CHUNK, ((70 * CHUNK, CHUNK),))
    ]


def test_a_short_chunk_in_the_middle_of_a_disk(world: World) -> None:
    reader = world.repository.reader
    first, last = (DiskMap(reader, world.disk.root, SIZE).leaf(n) for n in (0, 1))
    short = last[SIZE // CHUNK - 64]
    leaf = world.node(0, dict(enumerate(first)) | {5: short})
    disk = stored_disk("d", LEAF, world.node(1, {0: leaf}))
    [loss] = world.check(world.plant([disk])).losses
    assert loss.ranges == ((5 * CHUNK, CHUNK),)
    assert not world.is_restored(disk)


@pytest.mark.parametrize("beyond", [Child.EXCLUDED, b"\1" * 32])
def test_children_beyond_the_end(world: World, beyond: Entry) -> None:
    chunk = DiskMap(world.repository.reader, world.disk.root, SIZE).leaf(0)[0]
    leaf = world.node(0, {0: chunk, 3: beyond})
    root = world.node(1, {0: leaf})
    excluded = ((0, 4 * CHUNK, "page file"),)
    disk = replace(stored_disk("d", 3 * CHUNK, root), excluded=excluded)
    assert world.check(world.plant([disk])).state is State.DAMAGED
    assert not world.is_restored(disk)


def _high(world: World, size: int, places: Sequence[int]) -> StoredDisk:
    repository = reopen(world.repository)
    with repository.writer(os.urandom(16).hex()) as writer:
        content = {at: random_bytes(at % 1000, CHUNK) for at in places}
        ranges = [ByteRange(at, CHUNK) for at in places]
        written = writer.write_map(from_pieces(content), size, ranges)
        writer.flush()
    return stored_disk("high", size, written.root)


def test_a_whole_subtree_beyond_the_end(world: World) -> None:
    disk = _high(world, 2 * GIB, [0, 2 * GIB - LEAF])
    assert world.check(world.plant([disk])).state is State.WHOLE
    cut = replace(disk, size=2 * GIB - LEAF)  # still a tree of the same height
    assert world.check(world.plant([cut])).state is State.DAMAGED
    assert not world.is_restored(cut)


def test_a_known_node_in_the_place_of_another_level(world: World) -> None:
    disk = _high(world, 2 * GIB, [0, GIB])
    assert world.check(world.plant([disk])).state is State.WHOLE
    node = DiskMap(world.repository.reader, disk.root, disk.size).reader.node(disk.root or b"", 2)[0]
    assert isinstance(node, bytes)
    for children in ({0: node}, {0: disk.root or b"", 1: node}):
        wrong = replace(disk, size=2048 * GIB, root=world.node(3, children))
        assert world.check(world.plant([disk, replace(wrong, name="wrong")])).state is State.DAMAGED
        assert not world.is_restored(wrong)
        reader = reopen(world.repository).reader
        reader.node(node, 1)
        with pytest.raises(RepositoryError):
            list(DiskMap(reader, wrong.root, wrong.size).leaf_ids())


CHANGES: dict[str, dict[str, Any]] = {
    "ends within a sector": {"size": 70 * CHUNK + 1025},
    "one byte": {"size": 1},
    "ends within a sector of 4096": {"logical_sector": 4096},
    "no sector": {"logical_sector": 0},
    "odd sector": {"logical_sector": 520},
    "huge physical sector": {"physical_sector": 1 << 40},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_disk_no_writer_describes_is_refused_by_all(world: World, change: str) -> None:
    name = world.plant([replace(world.disk, **CHANGES[change])])
    assert world.check(name).state is State.DAMAGED
    assert name in {str(problem.context["object"]) for problem in reopen(world.repository).listing().problems}
