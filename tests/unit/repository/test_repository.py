"""A repository is made once, opened with its password, and refuses what it must."""

import pytest

from tests.clocks import FakeClock
from tests.faults.stores import Crashed, CrashingStore, Flip, LyingStore, Request, When, WrappedStore, tamper
from tests.repositories import CHUNK, VM, names, random_bytes, restore, take
from vmkeep.objectstore.errors import StoreUnsupported
from vmkeep.objectstore.memory import MemoryStore
from vmkeep.objectstore.store import ObjectData, ObjectInfo, Store
from vmkeep.repository import keys
from vmkeep.repository.errors import NotARepository, RepositoryExists, Tampered, WrongKey
from vmkeep.repository.parameters import Parameters
from vmkeep.repository.repository import Repository
from vmkeep.secrets import Secret

PASSWORD, RECOVERY = Secret("correct horse"), Secret("AAAA-BBBB")


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_MEMORY_KIB", 64)
    monkeypatch.setattr(keys, "_ITERATIONS", 1)


def _create(store: Store, clock: FakeClock) -> Parameters:
    passwords = {"password": PASSWORD, "recovery": RECOVERY}
    return Repository.create(
        store, passwords, clock, chunk_size=CHUNK, pack_size=1 << 16, repository_id=b"\1" * 16
    )


def test_made_and_opened_with_each_password(fake_clock: FakeClock) -> None:
    store = MemoryStore(fake_clock)
    parameters = _create(store, fake_clock)
    assert [name.split("/")[0] for name in names(store, "")] == ["format", "keys", "keys", "spec.md"]
    content = random_bytes(1, 3 * CHUNK)
    with Repository.open(store, PASSWORD, fake_clock) as repository:
        assert repository.parameters == parameters
        sealed = take(repository, VM, {"disk": content}, fake_clock)
    with Repository.open(store, RECOVERY, fake_clock) as repository:
        assert repository.listing().points == (sealed,)
        assert restore(repository, sealed) == {"disk": content}
        repository.close()
    with pytest.raises(WrongKey):
        Repository.open(store, Secret("wrong"), fake_clock)


def test_second_making_is_refused(fake_clock: FakeClock) -> None:
    store = MemoryStore(fake_clock)
    _create(store, fake_clock)
    before = {name: store.get(name) for name in names(store, "")}
    with pytest.raises(RepositoryExists):
        _create(store, fake_clock)
    assert {name: store.get(name) for name in names(store, "")} == before


def test_place_with_other_files_is_refused(fake_clock: FakeClock) -> None:
    store = MemoryStore(fake_clock)
    store.put("holiday.jpg", b"picture")
    with pytest.raises(RepositoryExists):
        _create(store, fake_clock)
    assert names(store, "") == ["holiday.jpg"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_making_that_died_anywhere_can_be_repeated(fake_clock: FakeClock, when: When) -> None:
    n = 0
    while True:
        n += 1
        store = MemoryStore(fake_clock)
        doomed = CrashingStore(store, n, when)
        try:
            _create(doomed, fake_clock)
        except Crashed:
            pass
        else:
            break
        try:
            Repository.open(store, PASSWORD, fake_clock)
        except NotARepository:
            _create(store, fake_clock)
        Repository.open(store, PASSWORD, fake_clock)
        Repository.open(store, RECOVERY, fake_clock)
    assert n > 5


def test_two_makers_at_once_make_one_repository(fake_clock: FakeClock) -> None:
    store = MemoryStore(fake_clock)

    class Racing(WrappedStore):
        def put_if_absent(self, name: str, data: ObjectData) -> bool:
            if name == "format" and store.head("format") is None:
                second = {"password": Secret("the other's")}
                Repository.create(store, second, fake_clock, repository_id=b"\2" * 16)
            return super().put_if_absent(name, data)

    with pytest.raises(RepositoryExists):
        _create(Racing(store), fake_clock)
    assert Repository.open(store, Secret("the other's"), fake_clock).parameters.repository == b"\2" * 16


def test_store_that_lags_is_refused(fake_clock: FakeClock) -> None:
    class Lagging(WrappedStore):
        def list(self, prefix: str):  # type: ignore[no-untyped-def]
            nothing: list[ObjectInfo] = []
            return iter(nothing)

    with pytest.raises(StoreUnsupported):
        _create(Lagging(MemoryStore(fake_clock)), fake_clock)


def test_store_without_conditional_put_is_refused(fake_clock: FakeClock) -> None:
    with pytest.raises(StoreUnsupported, match="replace"):
        _create(LyingStore(MemoryStore(fake_clock)), fake_clock)
    assert _create(MemoryStore(fake_clock), fake_clock).put_if_absent


def test_flipped_parameters_are_noticed(fake_clock: FakeClock) -> None:
    store = MemoryStore(fake_clock)
    _create(store, fake_clock)
    text = store.get("format")
    digit = text.index(b'"pack_size": 65536') + len(b'"pack_size": ')
    tamper(store, "format", Flip(digit * 8))  # 6 becomes 7
    with pytest.raises(Tampered, match="format"):
        Repository.open(store, PASSWORD, fake_clock)


def test_request_log_of_opening_is_short(fake_clock: FakeClock) -> None:
    store = MemoryStore(fake_clock)
    _create(store, fake_clock)
    requests: list[Request] = []

    class Logging(WrappedStore):
        def around(self, request, call):  # type: ignore[no-untyped-def]
            requests.append(request)
            return super().around(request, call)

    Repository.open(Logging(store), PASSWORD, fake_clock)
    assert {request.name.split("/")[0] for request in requests} == {"format", "keys"}
