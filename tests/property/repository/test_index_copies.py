"""Whatever happened to the repository and to the copies: with them the index answers as without."""

import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.indexes import IndexWorld, kept_files
from vmkeep.repository import index_cache, sorted_entries

T = TypeVar("T")

STEP = st.one_of(
    st.tuples(st.sampled_from(["grow", "overlap"]), st.integers(1, 60)),
    st.tuples(
        st.sampled_from(
            ["remove object", "replace objects", "remove pack", "bring back", "condemn", "damage", "look"]
        ),
        st.integers(0, 1 << 30),
    ),
    st.just(("forget copies", 0)),
)


@pytest.fixture(scope="module", autouse=True)
def _small() -> Iterator[None]:
    """Many files, and merges of few records at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_cache, "_WORTH_OBJECTS", 2)
        patch.setattr(index_cache, "_GATHERED_BYTES", 40 * 24)
        patch.setattr(index_cache, "_MAX_RUNS", 2)
        patch.setattr(index_cache, "_MAX_COPIES", 3)
        patch.setattr(index_cache, "_RATIO", 1)
        patch.setattr(sorted_entries, "_MERGED_AT_ONCE", 30)
        yield


def _step(world: IndexWorld, cache: Path, what: str, number: int) -> None:
    def pick(of: Collection[T]) -> T:
        return sorted(of)[number % len(of)]  # type: ignore[type-var]

    gone = set(world.tables) - world.packs
    if what == "grow":
        world.grow(number % 4 + 1, packs=2, slots=number)
    elif what == "overlap" and world.tables:
        # The same ids once more: in new packs, and known packs in another object.
        refs = sorted(world.tables)[:: number % 3 + 1][:6]
        ids = [content_id for ref in refs for content_id in world.tables[ref][::2]]
        world.add_object([world.add_pack(ids), *sorted(world.packs)[:number]])
    elif what == "remove object" and world.objects:
        world.remove_object(pick(world.objects))
    elif what == "replace objects" and world.objects:
        old = sorted(world.objects)[: number % 4 + 1]
        refs = sorted({ref for name in old for ref in world.objects[name]} & world.packs)
        world.add_object(refs)
        for name in old:
            world.remove_object(name)
    elif what == "remove pack" and world.packs:
        world.remove_pack(pick(world.packs))
    elif what == "bring back" and gone:
        world.bring_back_pack(pick(gone))
    elif what == "condemn" and world.packs:
        world.condemn(pick(world.packs))
    elif what == "damage" and kept_files(cache):
        path = pick(kept_files(cache))
        content = bytearray(path.read_bytes())
        content[number % len(content)] ^= 1 << number % 8
        path.write_bytes(content)
    elif what == "forget copies":
        shutil.rmtree(cache, ignore_errors=True)


@settings(max_examples=60)
@given(steps=st.lists(STEP, min_size=1, max_size=14), seed=st.integers(0, 1 << 30))
def test_answers_do_not_depend_on_copies(steps: list[tuple[str, int]], seed: int) -> None:
    world = IndexWorld(seed)
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        for what, number in [("grow", 5), *steps, ("look", 0), ("look", 0)]:
            _step(world, cache, what, number)
            for place in (cache, None):
                with world.open(place) as repository:
                    world.require_right_answers(repository)
        assert not [path for path in kept_files(cache) if path.parent.name == "tmp"]
