"""The test instruments do what they say; what they do with nothing to do is in test_store."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.objectstore.places import PLACES
from tests.faults.stores import (
    MUTATING,
    CountingStore,
    Crashed,
    CrashingStore,
    Cut,
    Damage,
    FaultyStore,
    Flip,
    LyingStore,
    Remove,
    Request,
    Swap,
    When,
    tamper,
)
from vmkeep.objectstore.errors import ObjectMissing, StoreFull, StoreReadOnly, StoreUnavailable
from vmkeep.objectstore.memory import MemoryStore
from vmkeep.objectstore.store import Store

pytestmark = pytest.mark.quick


def run_of_requests(store: Store) -> None:
    """Four requests that change something, with harmless ones between."""
    store.put("a", b"1")  # 1
    store.head("a")
    assert store.put_if_absent("b", b"22")  # 2
    writer = store.create("c")
    try:
        writer.write(b"33")
        writer.write(b"3")
        writer.commit()  # 3
    finally:
        writer.abort()
    store.get("c")
    store.get_range("b", 0, 1)
    store.delete("a")  # 4


def names_in(store: Store) -> str:
    return "".join(info.name for info in store.list(""))


def test_counting_counts_requests_and_bytes() -> None:
    store = CountingStore(MemoryStore())
    run_of_requests(store)
    assert store.requests == {
        "put": 1, "head": 1, "put_if_absent": 1, "create": 1, "write": 2, "commit": 1, "abort": 1,
        "get": 1, "get_range": 1, "delete": 1,
    }  # fmt: skip
    assert (store.bytes_written, store.bytes_read, store.mutations) == (6, 4, 4)
    assert store.log[:3] == [Request("put", "a", 1), Request("head", "a"), Request("put_if_absent", "b", 2)]


@pytest.mark.parametrize(
    ("at", "when", "left"),
    [
        (1, "before", ""), (1, "after", "a"),
        (2, "before", "a"), (2, "after", "ab"),
        (3, "before", "ab"), (3, "after", "abc"),
        (4, "before", "abc"), (4, "after", "bc"),
    ],
)  # fmt: skip
def test_a_crash_leaves_exactly_what_was_done_until_then(at: int, when: When, left: str) -> None:
    inner = MemoryStore()
    store = CrashingStore(inner, at, when)
    with pytest.raises(Crashed):
        run_of_requests(store)
    assert store.crashed
    assert names_in(inner) == left


def test_a_run_shorter_than_the_plan_does_not_crash() -> None:
    store = CrashingStore(MemoryStore(), at=5)
    run_of_requests(store)
    assert not store.crashed


def test_the_dead_can_do_nothing_not_even_read() -> None:
    inner = MemoryStore()
    store = CrashingStore(inner, at=2)
    writer = store.create("w")
    store.put("a", b"")
    with pytest.raises(Crashed):
        store.delete("a")
    for request in (
        lambda: store.put("late", b""),
        lambda: store.put_if_absent("late", b""),
        lambda: store.create("late"),
        lambda: writer.write(b""),
        writer.commit,
        writer.abort,
        lambda: store.get("a"),
        lambda: store.head("a"),
        lambda: store.list(""),
        lambda: store.delete("a"),
    ):
        with pytest.raises(Crashed):
            request()
    assert names_in(inner) == "a"


def test_a_crash_in_the_middle_of_a_stream_can_be_asked_for() -> None:
    inner = MemoryStore()
    with pytest.raises(Crashed):
        run_of_requests(CrashingStore(inner, at=4, when="after", verbs=MUTATING | {"write"}))
    assert names_in(inner) == "ab"


KILLED = """
import sys
from pathlib import Path
from tests.contract.objectstore.test_instruments import run_of_requests
from tests.faults.stores import KillingStore
from vmkeep.objectstore.directory import DirectoryStore
run_of_requests(KillingStore(DirectoryStore(Path(sys.argv[1])), int(sys.argv[2]), sys.argv[3]))
"""


@pytest.mark.parametrize(
    ("at", "when", "left"), [(2, "after", "ab"), (3, "before", "ab"), (3, "after", "abc")]
)
def test_killing_ends_the_process_at_the_same_place(tmp_path: Path, at: int, when: When, left: str) -> None:
    store = PLACES["directory"](tmp_path).store
    command = [sys.executable, "-c", KILLED, store.address, str(at), when]
    done = subprocess.run(command, env={"PYTHONPATH": ":".join(sys.path)}, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert names_in(store) == left


def test_lying_grants_a_name_twice() -> None:
    inner = MemoryStore()
    liar = LyingStore(inner)
    assert liar.put_if_absent("s", b"1")
    assert liar.put_if_absent("s", b"2")
    assert inner.get("s") == b"2"


def test_a_scripted_failure_strikes_once_where_it_was_told() -> None:
    inner = MemoryStore()
    store = FaultyStore(inner).fail("get", nth=2, prefix="packs/")
    store.put("packs/a", b"1")
    store.put("seals/a", b"2")
    assert store.get("packs/a") + store.get("seals/a") == b"12"
    with pytest.raises(StoreUnavailable):
        store.get("packs/a")
    assert store.get("packs/a") == b"1"


def test_a_failed_request_is_not_done_and_a_lost_reply_is() -> None:
    inner = MemoryStore()
    store = FaultyStore(inner).fail("put", nth=1).lose_reply("put", nth=2).lose_reply("commit")
    with pytest.raises(StoreUnavailable):
        store.put("refused", b"")
    with pytest.raises(StoreUnavailable):
        store.put("done", b"")
    writer = store.create("streamed")
    with pytest.raises(StoreUnavailable):
        writer.commit()
    with pytest.raises(ValueError, match="closed"):
        writer.commit()
    assert [info.name for info in inner.list("")] == ["done", "streamed"]


def test_a_failure_can_last() -> None:
    store = FaultyStore(MemoryStore()).fail("head", nth=2, times=2)
    assert store.head("a") is None
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            store.head("a")
    assert store.head("a") is None


def test_a_full_store_refuses_what_goes_over_and_keeps_nothing_of_it() -> None:
    inner = MemoryStore()
    store = FaultyStore(inner).fill_after(10)
    store.put("a", bytes(6))
    with pytest.raises(StoreFull):
        store.put("b", bytes(5))
    writer = store.create("c")
    writer.write(bytes(3))
    with pytest.raises(StoreFull):
        writer.write(bytes(2))
    with pytest.raises(ValueError, match="closed"):
        writer.commit()
    store.put("d", bytes(1))
    assert names_in(inner) == "ad"


def test_a_read_only_store_can_be_read() -> None:
    inner = MemoryStore()
    inner.put("a", b"1")
    store = FaultyStore(inner).make_read_only()
    for request in (
        lambda: store.put("b", b""),
        lambda: store.put_if_absent("b", b""),
        lambda: store.create("b"),
        lambda: store.delete("a"),
    ):
        with pytest.raises(StoreReadOnly):
            request()
    assert store.get("a") == b"1"
    assert names_in(store) == "a"


def test_instruments_compose() -> None:
    inner = MemoryStore()
    counting = CountingStore(inner)
    store = CrashingStore(FaultyStore(counting).fail("put"), at=3)
    with pytest.raises(StoreUnavailable):
        store.put("a", b"")
    store.put("a", b"")
    with pytest.raises(Crashed):
        store.put("b", b"")
    assert counting.requests == {"put": 1}
    assert names_in(inner) == "a"


@pytest.mark.parametrize("kind", sorted(PLACES))
@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (Flip(0), b"\x01\x00\x80"),
        (Flip(9), b"\x00\x02\x80"),
        (Flip(-1), b"\x00\x00\x00"),
        (Cut(1), b"\x00"),
        (Cut(0), b""),
        (Swap("packs/other"), b"other"),
        (Remove(), None),
    ],
)
def test_tampering_changes_what_is_stored(
    tmp_path: Path, kind: str, how: Damage, expected: bytes | None
) -> None:
    store = PLACES[kind](tmp_path).store
    store.put("packs/one", b"\x00\x00\x80")
    store.put("packs/other", b"other")
    tamper(store, "packs/one", how)
    if expected is None:
        with pytest.raises(ObjectMissing):
            store.get("packs/one")
    else:
        assert store.get("packs/one") == expected
    assert store.get("packs/other") == (b"\x00\x00\x80" if isinstance(how, Swap) else b"other")


def test_tampering_that_changes_nothing_is_refused() -> None:
    store = MemoryStore()
    store.put("a", b"same")
    store.put("b", b"same")
    for how in (Cut(4), Cut(9), Swap("b")):
        with pytest.raises(ValueError, match="leave"):
            tamper(store, "a", how)
