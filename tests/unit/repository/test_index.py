"""The index finds what it was told, wherever it keeps it, and forgets what it should."""

import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmkeep.repository import sorted_entries
from vmkeep.repository.errors import Tampered
from vmkeep.repository.index import Index, Location, decode_index, encode_index
from vmkeep.repository.packs import Kind, PackRef
from vmkeep.repository.slots import STORED, Slot

pytestmark = pytest.mark.quick

PACKS = [PackRef(bytes([n]) * 16, Kind.CHUNKS) for n in range(8)]


def _slot(content_id: bytes) -> Slot:
    return Slot(content_id, 32, 17, 1, STORED)


def _id(seed: int) -> bytes:
    return random.Random(seed).randbytes(32)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Index]:
    """An index that writes a sorted run after 50 entries and merges them beyond three."""
    index = Index(tmp_path, spill_entries=50, max_runs=3)
    yield index
    index.close()


def test_unknown_ids_are_unknown() -> None:
    index = Index()
    assert index.find(_id(1)) is None
    index.add(PACKS[0], 7, _id(1))
    assert index.find(_id(1)) == Location(PACKS[0], 7)
    assert index.find(_id(2)) is None
    assert index.knows_pack(PACKS[0]) and not index.knows_pack(PACKS[1])


def test_everything_is_found_after_it_was_written_out(small: Index, tmp_path: Path) -> None:
    places = {_id(n): Location(PACKS[n % 8], n) for n in range(3000)}
    for content_id, place in places.items():
        small.add(place.pack, place.slot, content_id)
    assert 1 <= small.runs <= 3
    assert {content_id: small.find(content_id) for content_id in places} == places
    assert all(small.find(_id(n)) is None for n in range(3000, 3500))
    assert len(small) == 3000
    small.close()
    assert list(tmp_path.iterdir()) == [], "the files have no names: a killed process leaves none"


def test_later_answer_wins_also_over_written_ones(small: Index) -> None:
    for turn, pack in enumerate(PACKS[:3]):
        for n in range(60):
            small.add(pack, turn, _id(n))
    assert {small.find(_id(n)) for n in range(60)} == {Location(PACKS[2], 2)}
    for n in range(1000, 1400):  # enough to merge all runs into one
        small.add(PACKS[4], n, _id(n))
    assert {small.find(_id(n)) for n in range(60)} == {Location(PACKS[2], 2)}


def test_ids_that_begin_alike_across_pages(tmp_path: Path) -> None:
    # Fences hold 8 bytes; three pages of 170 entries start with the same ones.
    index = Index(tmp_path, spill_entries=700, max_runs=3)
    ids = [bytes([5] * 8) + struct.pack(">Q", n) + bytes(16) for n in range(600)]
    ids += [bytes([4] * 8) + struct.pack(">Q", n) + bytes(16) for n in range(60)]
    ids += [bytes([6] * 8) + struct.pack(">Q", n) + bytes(16) for n in range(40)]
    random.Random(3).shuffle(ids)
    for n, content_id in enumerate(ids):
        index.add(PACKS[0], n, content_id)
    assert index.runs == 1
    assert [index.find(content_id) for content_id in ids] == [Location(PACKS[0], n) for n in range(700)]
    for missing in (700, 1 << 40):
        assert index.find(bytes([5] * 8) + struct.pack(">Q", missing) + bytes(16)) is None
    index.close()


def test_key_that_occurs_across_two_entries_is_not_found(tmp_path: Path) -> None:
    # The bytes of a key may stand in a page by accident, not at the start of an entry.
    index = Index(tmp_path, spill_entries=2)
    first = bytes(8) + b"\1" * 8
    index.add(PACKS[0], 0x01010101, first + bytes(16))
    index.add(PACKS[0], 5, b"\2" * 32)
    assert index.runs == 1
    accidental = first[8:] + struct.pack("<II", 0, 0x01010101)
    assert index.find(accidental + bytes(16)) is None
    index.close()


@pytest.mark.parametrize("written", [False, True])
def test_dropped_pack_is_forgotten(tmp_path: Path, written: bool) -> None:
    index = Index(tmp_path, spill_entries=10 if written else 1000)
    for n in range(40):
        index.add(PACKS[n % 2], n, _id(n))
    index.drop_packs([PACKS[1], PACKS[7]])
    assert [index.find(_id(n)) for n in range(40)] == [
        None if n % 2 else Location(PACKS[0], n) for n in range(40)
    ]
    assert index.packs == [PACKS[0]]
    assert not index.knows_pack(PACKS[1])
    index.add_pack(PACKS[1], [_slot(_id(1))])
    assert index.find(_id(1)) == Location(PACKS[1], 0)
    assert index.find(_id(3)) is None, "what it held before does not come back by itself"
    for n in range(100, 400):  # merged runs forget it too
        index.add(PACKS[2], n, _id(n))
    assert index.find(_id(3)) is None
    index.close()


def test_older_place_shows_when_the_later_is_dropped(small: Index) -> None:
    small.add(PACKS[0], 1, _id(1))
    for n in range(100, 150):
        small.add(PACKS[2], n, _id(n))
    small.add(PACKS[1], 2, _id(1))
    small.drop_packs([PACKS[1]])
    assert small.find(_id(1)) == Location(PACKS[0], 1)


@pytest.mark.parametrize("known_before", [True, False])
def test_avoided_pack_is_for_readers_only(known_before: bool) -> None:
    index = Index()
    if not known_before:
        index.avoid([PACKS[0].id])
    index.add(PACKS[0], 1, _id(1))
    if known_before:
        index.avoid([PACKS[0].id])
    assert index.find(_id(1)) == Location(PACKS[0], 1)
    assert index.find_reusable(_id(1)) is None
    index.add(PACKS[1], 2, _id(1))
    assert index.find_reusable(_id(1)) == Location(PACKS[1], 2)
    index.add(PACKS[0], 1, _id(1))
    assert index.find_reusable(_id(1)) == Location(PACKS[1], 2), "an avoided pack hides no good one"


def test_avoided_pack_does_not_hide_a_written_place(small: Index) -> None:
    small.add(PACKS[1], 2, _id(1))
    for n in range(100, 150):
        small.add(PACKS[2], n, _id(n))
    small.avoid([PACKS[0].id])
    small.add(PACKS[0], 1, _id(1))
    assert small.find_reusable(_id(1)) == Location(PACKS[1], 2)


def _tables() -> list[tuple[PackRef, list[Slot]]]:
    return [(PACKS[k], [_slot(_id(100 * k + n)) for n in range(k * 5)]) for k in range(4)]


def test_index_object_round_trip() -> None:
    tables = _tables()
    index = Index()
    index.add_encoded(encode_index(tables), "index/x", PACKS)
    for ref, slots in tables:
        assert index.knows_pack(ref)
        for n, slot in enumerate(slots):
            assert index.find(slot.id) == Location(ref, n)


def test_bytes_of_an_index_object() -> None:
    nodes = PackRef(b"\7" * 16, Kind.NODES)
    content = encode_index([(PACKS[1], [_slot(b"\5" * 32), _slot(b"\3" * 32)]), (nodes, [_slot(b"\4" * 32)])])
    assert content == (
        b"VMKINDX1" + struct.pack("<II", 2, 3)
        + b"\1" * 16 + b"\1\0\0\0" + struct.pack("<I", 2)
        + b"\7" * 16 + b"\2\0\0\0" + struct.pack("<I", 1)
        + b"\3" * 16 + struct.pack("<II", 0, 1)
        + b"\4" * 16 + struct.pack("<II", 1, 0)
        + b"\5" * 16 + struct.pack("<II", 0, 0)
    )  # fmt: skip


def test_packs_that_are_gone_are_left_out() -> None:
    index = Index()
    index.add_encoded(encode_index(_tables()), "index/x", {PACKS[1], PACKS[3]})
    assert index.packs == [PACKS[1], PACKS[3]]
    assert index.find(_id(200)) is None
    assert index.find(_id(300)) == Location(PACKS[3], 0)


def test_damaged_index_object_is_refused() -> None:
    good = encode_index(_tables())
    wrong_pack = bytearray(good)
    wrong_pack[-8:-4] = struct.pack("<I", 4)
    for content in (
        b"",
        good[:10],
        good[:-1],
        good + b"\0",
        b"VMKINDX2" + good[8:],
        good[:8] + struct.pack("<II", 0xFFFFFFFF, 0xFFFFFFFF) + good[16:],
        good[:32] + b"\3" + good[33:],
        bytes(wrong_pack),
    ):
        with pytest.raises(Tampered, match="index/x"):
            Index().add_encoded(content, "index/x", PACKS)
    packs, entries = decode_index(good, "index/x")
    assert [slots for _, slots in packs] == [0, 5, 10, 15]
    assert len(entries) == 30 * 24


def _large_objects(count: int) -> list[tuple[list[PackRef], dict[bytes, Location], bytes]]:
    """Index objects of two packs and 60 entries each; a third of them is in the next object too."""
    made = []
    for k in range(count):
        refs = [PackRef(struct.pack(">QQ", k, n), Kind.CHUNKS) for n in range(2)]
        ids = [_id(40 * k + n) for n in range(60)]
        tables = [(refs[n], [_slot(content_id) for content_id in ids[n::2]]) for n in range(2)]
        places = {i: Location(refs[n % 2], n // 2) for n, i in enumerate(ids)}
        made.append((refs, places, encode_index(tables)))
    return made


@pytest.mark.parametrize("count", [1, 3, 30, 200])
def test_large_index_objects_are_found(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorted_entries, "_MERGED_AT_ONCE", 70)  # merged in many steps
    index = Index(tmp_path, spill_entries=100, max_runs=3)
    objects = _large_objects(count)
    right: dict[bytes, set[Location]] = {}
    for refs, places, content in objects:
        index.add_encoded(content, "index/x", refs)
        for content_id, place in places.items():
            right.setdefault(content_id, set()).add(place)
    index.add(PACKS[0], 9, _id(1))
    for content_id, allowed in right.items():
        assert index.find(content_id) in (allowed if content_id != _id(1) else {Location(PACKS[0], 9)})
    assert index.find(_id(1 << 40)) is None
    assert index.runs <= 3
    gone = {ref for refs, _, _ in objects[1::2] for ref in refs}
    index.drop_packs(gone)
    for content_id, allowed in right.items():
        found = index.find(content_id)
        assert found is None or found.pack not in gone
        if len(allowed) == 1 and content_id != _id(1):
            assert found == (None if next(iter(allowed)).pack in gone else next(iter(allowed)))
    for n in range(100_000, 100_500):
        index.add(PACKS[1], n, _id(n))
    assert all(index.find(_id(n)) == Location(PACKS[1], n) for n in range(100_000, 100_500))
    index.close()
    assert list(tmp_path.iterdir()) == []


def test_large_index_object_of_an_avoided_pack_hides_no_good_one(tmp_path: Path) -> None:
    index = Index(tmp_path, spill_entries=100, max_runs=3)
    (refs, places, content), (other_refs, others, other) = _large_objects(2)
    index.avoid([ref.id for ref in other_refs])
    index.add_encoded(content, "index/x", refs)
    index.add_encoded(other, "index/y", other_refs)
    assert all(index.find_reusable(content_id) == place for content_id, place in places.items())
    avoided = {content_id: place for content_id, place in others.items() if content_id not in places}
    assert all(index.find(content_id) == place for content_id, place in avoided.items())
    assert not any(index.find_reusable(content_id) for content_id in avoided)
    index.close()


@pytest.mark.parametrize("spill_entries", [30, 100])
def test_index_object_naming_an_unknown_pack_teaches_nothing(spill_entries: int, tmp_path: Path) -> None:
    refs, places, content = _large_objects(1)[0]
    index = Index(tmp_path, spill_entries=spill_entries)
    with pytest.raises(Tampered, match="index/x"):
        index.add_encoded(content[:-8] + struct.pack("<I", 2) + content[-4:], "index/x", refs)
    assert not any(index.find(content_id) for content_id in places)
    assert not any(index.knows_pack(ref) for ref in refs)
