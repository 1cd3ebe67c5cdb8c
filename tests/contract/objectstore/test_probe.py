from collections.abc import Callable

import pytest

from tests.contract.objectstore.places import Place
from tests.faults.stores import CountingStore, FaultyStore, LyingStore, WrappedStore
from vmkeep.objectstore.errors import StoreError, StoreReadOnly, StoreUnavailable
from vmkeep.objectstore.memory import MemoryStore
from vmkeep.objectstore.probe import Probe, probe
from vmkeep.objectstore.store import ObjectData, Store

pytestmark = pytest.mark.quick

GOOD = Probe(put_if_absent=True, read_after_write=True, list_after_write=True)


def test_a_store_that_keeps_its_promises_passes_and_is_left_as_it_was(place: Place) -> None:
    place.store.put("format", b"kept")
    assert probe(place.store) == GOOD
    assert [(info.name, place.store.get(info.name)) for info in place.store.list("")] == [("format", b"kept")]


def test_a_store_that_ignores_the_condition_is_found_out(place: Place) -> None:
    liar = LyingStore(place.store)
    assert probe(liar) == GOOD._replace(put_if_absent=False)
    assert list(place.store.list("")) == []


class TakesSameBytesForARetry(WrappedStore):
    """Grants put-if-absent twice when the bytes are the same, as a careless retry loop does."""

    def put_if_absent(self, name: str, data: ObjectData) -> bool:
        return self.inner.put_if_absent(name, data) or self.inner.get(name) == bytes(data)


def test_a_second_winner_with_the_same_bytes_is_found_out() -> None:
    assert probe(TakesSameBytesForARetry(MemoryStore())) == GOOD._replace(put_if_absent=False)


class ReadsLate(WrappedStore):
    """Writes arrive; every reading shows the state at the connection's beginning, as a cache may."""

    def __init__(self, inner: MemoryStore) -> None:
        super().__init__(inner)
        before = inner.copy()
        self.get, self.get_range = before.get, before.get_range  # type: ignore[method-assign]
        self.head, self.list = before.head, before.list  # type: ignore[method-assign]


def test_a_connection_that_shows_an_old_state_is_found_out() -> None:
    assert probe(ReadsLate(MemoryStore())) == Probe(False, False, False)


class ListsLate(WrappedStore):
    """Reads are current; a listing shows the state at the connection's beginning."""

    def __init__(self, inner: MemoryStore) -> None:
        super().__init__(inner)
        self.list = inner.copy().list  # type: ignore[method-assign]


def test_a_lagging_listing_is_found_out() -> None:
    assert probe(ListsLate(MemoryStore())) == GOOD._replace(list_after_write=False)


class KeepsDeleted(WrappedStore):
    def delete(self, name: str) -> None:
        return


def test_a_delete_without_effect_is_found_out() -> None:
    assert probe(KeepsDeleted(MemoryStore())) == Probe(True, False, False)


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        (lambda inner: FaultyStore(inner).make_read_only(), StoreReadOnly),
        (lambda inner: FaultyStore(inner).fail("put"), StoreUnavailable),
        (lambda inner: FaultyStore(inner).fail("list"), StoreUnavailable),
    ],
)
def test_a_failing_store_is_an_error_not_a_verdict(
    broken: Callable[[Store], Store], error: type[StoreError]
) -> None:
    inner = MemoryStore()
    with pytest.raises(error):
        probe(broken(inner))
    assert list(inner.list("")) == []


def test_a_probe_costs_a_bounded_number_of_requests() -> None:
    counting = CountingStore(MemoryStore())
    probe(counting)
    assert counting.requests.total() <= 20
