"""What every back end promises while many use it at once."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.contract.objectstore.places import Place
from vmkeep.objectstore.errors import ObjectMissing
from vmkeep.objectstore.store import Store

pytestmark = pytest.mark.quick

THREADS = 16


def test_each_name_has_exactly_one_winner(place: Place) -> None:
    names = [f"seals/vm/{number:02}" for number in range(20)]
    start = threading.Barrier(THREADS)

    def race(racer: int) -> list[str]:
        store = place.connect() if racer % 2 else place.store
        start.wait()
        return [name for name in names if store.put_if_absent(name, b"racer %d" % racer)]

    with ThreadPoolExecutor(THREADS) as pool:
        won = list(pool.map(race, range(THREADS)))
    winners = {name: racer for racer, its_names in enumerate(won) for name in its_names}
    assert sum(map(len, won)) == len(names)
    assert {name: place.store.get(name) for name in names} == {
        name: b"racer %d" % winners[name] for name in names
    }


def test_of_two_different_puts_one_is_refused(place: Place) -> None:
    start = threading.Barrier(2)

    def race(number: int) -> tuple[int, BaseException | None]:
        start.wait()
        try:
            place.store.put(f"points/{number // 2}", b"attempt %d" % number)
        except Exception as error:  # noqa: BLE001 - judged below
            return number, error
        return number, None

    with ThreadPoolExecutor(2) as pool:
        outcomes = dict(pool.map(race, range(20)))
    for pair in range(10):
        errors = [outcomes[2 * pair], outcomes[2 * pair + 1]]
        assert sorted(type(error).__name__ for error in errors) == ["NoneType", "ObjectExists"]
        winner = 2 * pair + errors.index(None)
        assert place.store.get(f"points/{pair}") == b"attempt %d" % winner


def test_a_reader_never_sees_half_an_object(place: Place) -> None:
    piece = 64 * 1024
    pieces = 8
    names = [f"packs/{number:02}/p" for number in range(24)]
    written = threading.Event()
    seen: set[str] = set()
    halves: list[str] = []

    def content_of(name: str) -> bytes:
        return name[6:8].encode() * (piece // 2)

    def write() -> None:
        try:
            for number, name in enumerate(names):
                if number % 3 == 0:
                    place.store.put(name, content_of(name) * pieces)
                    continue
                writer = place.store.create(name)
                for _ in range(pieces):
                    writer.write(content_of(name))
                writer.commit()
        finally:
            written.set()

    def read(store: Store) -> None:
        last_round = False
        while not last_round:
            last_round = written.is_set()
            for info in store.list("packs/"):
                if info.name in seen:
                    continue
                whole = info.size == piece * pieces and store.get(info.name) == content_of(info.name) * pieces
                (seen.add if whole else halves.append)(info.name)
            for name in names:
                try:
                    tail = store.get_range(name, piece * (pieces - 1), piece)
                except ObjectMissing:
                    break
                if tail != content_of(name):
                    halves.append(name)

    with ThreadPoolExecutor(3) as pool:
        done = [pool.submit(write), *(pool.submit(read, place.connect()) for _ in range(2))]
        for future in done:
            future.result()
    assert halves == []
    assert seen == set(names)


def test_a_listing_shows_what_existed_throughout_whatever_comes_and_goes(place: Place) -> None:
    store = place.store
    lasting = [f"packs/{number % 8:02x}/{number:04}" for number in range(160)]
    passing = [f"packs/{number % 8:02x}/{number:04}-x" for number in range(80)]
    for name in lasting + passing[:40]:
        store.put(name, b"")
    listed = []
    for place_in_listing, info in enumerate(store.list("packs/")):
        listed.append(info.name)
        if place_in_listing < 40:
            store.delete(passing[place_in_listing])
            store.put(passing[40 + place_in_listing], b"")
    assert listed == sorted(set(listed))
    assert set(lasting) <= set(listed) <= set(lasting + passing)


def test_two_listings_at_once_do_not_disturb_each_other(store: Store) -> None:
    names = [f"maps/{number:03}" for number in range(50)]
    for name in names:
        store.put(name, b"")
    pairs = zip(store.list(""), store.list("maps/"), strict=True)
    assert [(one.name, two.name) for one, two in pairs] == [(name, name) for name in names]
