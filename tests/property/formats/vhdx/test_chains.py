"""Random chains of files against a model that is plain bytes."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.generators import vhdx_bytes as gen
from vmkeep.formats.disk import Disk
from vmkeep.formats.mapping import map_disk
from vmkeep.formats.parents import ParentReference
from vmkeep.formats.source import BytesSource
from vmkeep.formats.vhdx import VhdxDisk, open_vhdx
from vmkeep.ranges import ByteRange, normalise

pytestmark = pytest.mark.quick

BLOCK = gen.MIB
CHILD_STATES = (gen.NOT_PRESENT, gen.UNDEFINED, gen.ZERO, gen.UNMAPPED, gen.FULL, gen.PARTIAL)
BASE_STATES = CHILD_STATES[:-1]
PATTERNS = ("none", "all", "first", "last", "sparse", "dense", "runs", "alternate")


@dataclass(frozen=True)
class Recipe:
    """One chain, base first: sizes in sectors, states of some blocks; all data comes from the seed."""

    sector: int
    sizes: tuple[int, ...]
    states: tuple[dict[int, tuple[int, str]], ...]
    with_log: bool
    seed: int


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Draw a seed and expand it evenly: drawn one by one, partly present neighbours hardly ever come."""
    seed = draw(st.integers(0, 2**32))
    rng = random.Random(seed)
    sector = rng.choice([512, 4096])
    per_block = BLOCK // sector
    # Either a small disk, or one whose interesting blocks lie around the end of a chunk.
    base_block = rng.choice([0, 0, gen.chunk_ratio(BLOCK, sector) - 2]) if sector == 512 else 0
    depth = draw(st.integers(1, 4))
    sizes = []
    states = []
    for layer in range(depth):
        rest = rng.choice([1, per_block - 1, per_block, rng.randrange(1, per_block)])
        sizes.append((base_block + rng.randrange(4)) * per_block + rest)
        choices, weights = (CHILD_STATES, (4, 1, 2, 1, 3, 9)) if layer else (BASE_STATES, (1, 1, 1, 1, 6))
        states.append(
            {
                n: (rng.choices(choices, weights)[0], rng.choice(PATTERNS))
                for n in range(base_block, -(-sizes[-1] // per_block))
            }
        )
    return Recipe(sector, tuple(sizes), tuple(states), draw(st.booleans()), seed)


def sectors_of(pattern: str, count: int, rng: random.Random) -> frozenset[int]:
    choose: dict[str, Callable[[], set[int]]] = {
        "none": set,
        "all": lambda: set(range(count)),
        "first": lambda: {0},
        "last": lambda: {count - 1},
        "sparse": lambda: set(rng.sample(range(count), 5)),
        "dense": lambda: set(range(count)) - set(rng.sample(range(count), 5)),
        "runs": lambda: {
            s for a in rng.sample(range(count), 6) for s in range(a, min(a + rng.randrange(40), count))
        },
        "alternate": lambda: set(range(0, count, 2)),
    }
    return frozenset(choose[pattern]())


class Model:
    """What a guest sees of each layer: block number to bytes, everything else zeros."""

    def __init__(self, sector: int) -> None:
        self._sector = sector
        self.size = 0
        self.blocks: dict[int, bytes] = {}

    def block(self, n: int) -> bytes:
        return self.blocks.get(n, bytes(BLOCK))

    def overlay(self, size: int, blocks: dict[int, gen.Block]) -> "Model":
        """Return the next layer: a straight reading of the table of states."""
        above = Model(self._sector)
        above.size = size
        for n in range(-(-size // BLOCK)):
            block = blocks.get(n, gen.Block(gen.NOT_PRESENT))
            below = self.blocks.get(n)
            if block.state == gen.FULL:
                content = bytearray(block.data)
            elif block.state == gen.PARTIAL:
                content = bytearray(below or bytes(BLOCK))
                for s in block.here:
                    at = s * self._sector
                    content[at : at + self._sector] = block.data[at : at + self._sector]
            elif block.state == gen.NOT_PRESENT and below is not None:
                content = bytearray(below)
            else:
                continue
            # Nothing lies beyond the end of a layer, also when its child is larger.
            used = min(BLOCK, size - n * BLOCK)
            above.blocks[n] = bytes(content[:used]).ljust(BLOCK, b"\0")
        return above

    def read(self, offset: int, length: int) -> bytes:
        out = b""
        while length:
            n, within = divmod(offset, BLOCK)
            step = min(length, BLOCK - within)
            out += self.block(n)[within : within + step]
            offset, length = offset + step, length - step
        return out


def build(recipe: Recipe) -> tuple[VhdxDisk, Model, dict[int, gen.Block], list[gen.Made]]:
    """Return the disk, its model, the blocks of its uppermost layer, and the files, base first."""
    rng = random.Random(recipe.seed)
    model = Model(recipe.sector)
    files: list[gen.Made] = []
    blocks: dict[int, gen.Block] = {}
    for layer, states in enumerate(recipe.states):
        blocks = {}
        for n, (state, pattern) in states.items():
            data = rng.randbytes(BLOCK) if state in (gen.FULL, gen.PARTIAL) else b""
            here = sectors_of(pattern, BLOCK // recipe.sector, rng) if state == gen.PARTIAL else frozenset()
            stale = state in (gen.UNDEFINED, gen.UNMAPPED, gen.ZERO) and rng.random() < 0.5
            blocks[n] = gen.Block(state, data, here, stale)
        size = recipe.sizes[layer] * recipe.sector
        made = gen.make_vhdx(
            disk_size=size,
            sector=recipe.sector,
            blocks=blocks,
            has_parent=layer > 0,
            locator=[("parent_linkage", str(UUID(int=layer))), ("relative_path", "p.vhdx")]
            if layer
            else None,
            write_guid=UUID(int=layer + 1),
            log_guid=gen.LOG_GUID if recipe.with_log else gen.NO_LOG,
            seed=recipe.seed + layer,
        )
        if recipe.with_log:
            move_into_log(made, rng)
        files.append(made)
        model = model.overlay(size, blocks)

    def open_layer(layer: int) -> VhdxDisk:
        def find(reference: ParentReference) -> Disk:
            assert reference.identities == (UUID(int=layer),)
            return open_layer(layer - 1)

        return open_vhdx(BytesSource(files[layer].data, f"layer{layer}"), find)

    return open_layer(len(files) - 1), model, blocks, files


def move_into_log(made: gen.Made, rng: random.Random) -> None:
    """Put the truth of some table pages into the log, at any place of the ring, and nonsense in place."""
    pages = {made.bat, made.metadata, *(made.entry_at(n) // 4096 * 4096 for n in made.places)}
    start = rng.randrange(256) * 4096
    entries = {}
    at, number = start, rng.randrange(1, 2**40)
    for offset in sorted(pages):
        writes = [gen.data_write(offset, made.page(offset))]
        entries[at % gen.MIB] = gen.log_entry(number, start, writes, padding=4096 * rng.randrange(3))
        at, number = at + len(entries[at % gen.MIB]), number + 1
        made.put(offset, rng.randbytes(4096))
    made.put(made.log, bytes(gen.ring_of(entries)))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(recipes(), st.data())
def test_a_chain_reads_like_its_model(recipe: Recipe, data: st.DataObject) -> None:
    disk, model, _, _ = build(recipe)
    size = model.size
    low = min(recipe.states[-1], default=0) * BLOCK
    assert disk.profile.size == size
    assert disk.read_at(low, size - low) == model.read(low, size - low)

    for _ in range(10):
        start = data.draw(st.integers(low, size))
        end = data.draw(st.integers(start, size))
        assert disk.read_at(start, end - start) == model.read(start, end - start)

    start = data.draw(st.integers(low, size))
    end = data.draw(st.integers(start, size))
    for low_at, high_at in ((0, size), (start, end)):
        found = list(disk.extents(low_at, high_at))
        assert all(a.end < b.offset for a, b in pairwise(found))
        assert all(low_at <= r.offset < r.end <= high_at for r in found)
        outside = max(low_at, low)
        for r in [*found, None]:
            stop = r.offset if r is not None else high_at
            if outside < stop:
                assert not any(model.read(outside, stop - outside))
            outside = max(outside, r.end) if r is not None else outside
    assert not [f for f in disk.check() if f.severity == "error"]


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(recipes())
def test_what_a_layer_does_not_decide_is_its_parents(recipe: Recipe) -> None:
    disk, model, blocks, _ = build(recipe)
    if disk.parent is None:
        assert [tuple(r) for r in disk.layer_extents()] == [(0, model.size)]
        return
    low = min(recipe.states[-1], default=0) * BLOCK
    own = bytearray(model.size - low)
    for r in disk.layer_extents(low):
        own[r.offset - low : r.end - low] = b"\1" * r.length
    seen = disk.read_at(low, model.size - low)
    shared = max(min(disk.parent.profile.size, model.size) - low, 0)
    below = (disk.parent.read_at(low, shared) if shared else b"").ljust(model.size - low, b"\0")
    sector = recipe.sector
    for at in range(0, model.size - low, sector):
        if not own[at]:
            assert seen[at : at + sector] == below[at : at + sector]
    expected = bytearray(model.size - low)
    for n, block in blocks.items():
        start = n * BLOCK - low
        if block.state in (gen.UNDEFINED, gen.ZERO, gen.UNMAPPED, gen.FULL):
            expected[start : start + BLOCK] = b"\1" * len(expected[start : start + BLOCK])
        elif block.state == gen.PARTIAL:
            for s in block.here:
                at = start + s * sector
                expected[at : at + sector] = b"\1" * len(expected[at : at + sector])
    assert own == expected


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(recipes(), st.data())
def test_each_byte_lies_where_the_map_says(recipe: Recipe, data: st.DataObject) -> None:
    disk, model, _, files = build(recipe)
    low = min(recipe.states[-1], default=0) * BLOCK
    pieces = list(map_disk(disk))
    assert (pieces[0].start, pieces[-1].end) == (0, model.size)
    for piece, right in pairwise(pieces):
        assert piece.end == right.start and piece.joined(right) is None
    for piece in pieces:
        start = max(piece.start, low)  # in front of it nothing was ever written
        if piece.kind == "zero":
            assert piece.place is None
            assert start >= piece.end or not any(model.read(start, piece.end - start))
            continue
        assert piece.kind == "data" and piece.place is not None and piece.start >= low
        layer = len(files) - 1 - piece.depth
        assert piece.file == f"layer{layer}"
        stored = files[layer].data[piece.place : piece.place + piece.end - piece.start]
        assert stored == model.read(piece.start, piece.end - piece.start)

    start = data.draw(st.integers(low, model.size))
    end = data.draw(st.integers(start, model.size))
    cut = [
        piece._replace(
            start=max(piece.start, start),
            end=min(piece.end, end),
            place=None if piece.place is None else piece.place + max(start - piece.start, 0),
        )
        for piece in pieces
        if piece.start < end and start < piece.end
    ]
    assert list(map_disk(disk, start, end)) == (cut if start < end else [])


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(recipes())
def test_the_map_of_a_layer_leaves_to_its_parent_what_the_layer_does_not_decide(recipe: Recipe) -> None:
    disk, model, _, _ = build(recipe)
    pieces = list(map_disk(disk, layer_only=True))
    assert (pieces[0].start, pieces[-1].end) == (0, model.size)
    assert all(piece.end == right.start for piece, right in pairwise(pieces))
    assert {piece.depth for piece in pieces} == {0}
    own = [ByteRange(piece.start, piece.end - piece.start) for piece in pieces if piece.kind != "parent"]
    assert normalise(own) == list(disk.layer_extents())
    # What it decides is the same whether or not its parent is asked for the rest.
    decided = [piece for piece in map_disk(disk) if piece.depth == 0 and piece.kind == "data"]
    assert decided == [piece for piece in pieces if piece.kind == "data"]
