"""What every back end promises, one object and one caller at a time."""

from array import array
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from tests.contract.objectstore.places import Place
from vmkeep.errors import ExitCode
from vmkeep.objectstore.errors import BadObjectName, ObjectExists, ObjectMissing, ObjectShort
from vmkeep.objectstore.store import ObjectData, Store

pytestmark = pytest.mark.quick

CONTENT = bytes(range(256)) * 40
NAME = "packs/ab/0123456789abcdef"


def test_what_was_put_is_seen_by_every_request_of_another_connection(place: Place) -> None:
    place.store.put(NAME, CONTENT)
    other = place.connect()
    assert other.get(NAME) == CONTENT
    assert other.get_range(NAME, 100, 300) == CONTENT[100:400]
    info = other.head(NAME)
    assert info is not None
    assert (info.name, info.size) == (NAME, len(CONTENT))
    assert list(other.list("")) == [info]


def test_modified_is_in_utc_and_about_now(store: Store) -> None:
    store.put(NAME, b"x")
    info = store.head(NAME)
    assert info is not None
    if info.modified is not None:
        assert info.modified.utcoffset() == timedelta(0)
        assert abs(datetime.now(UTC) - info.modified) < timedelta(minutes=5)


@pytest.mark.parametrize(
    "data",
    [b"abcd", bytearray(b"abcd"), memoryview(b"abcd"), memoryview(array("H", [0x6261, 0x6463])), b""],
    ids=["bytes", "bytearray", "memoryview", "wide memoryview", "empty"],
)
def test_any_kind_of_bytes_is_stored_as_its_bytes(store: Store, data: ObjectData) -> None:
    expected = bytes(data)
    store.put("put", data)
    assert store.put_if_absent("decided", data)
    writer = store.create("written")
    writer.write(data)
    writer.commit()
    assert [store.get(name) for name in ("put", "decided", "written")] == [expected] * 3
    info = store.head("written")
    assert info is not None
    assert info.size == len(expected)


def test_a_buffer_used_again_does_not_change_what_was_stored(store: Store) -> None:
    buffer = bytearray(b"first")
    writer = store.create("written")
    writer.write(buffer)
    store.put("put", buffer)
    buffer[:] = b"later"
    writer.commit()
    assert store.get("put") == b"first"
    assert store.get("written") == b"first"


def test_the_same_put_again_is_success(store: Store) -> None:
    store.put(NAME, CONTENT)
    store.put(NAME, CONTENT)
    assert store.get(NAME) == CONTENT


@pytest.mark.parametrize("other", [b"", CONTENT[:-1], CONTENT + b"\0", b"\xff" + CONTENT[1:]])
def test_other_content_under_a_name_is_refused_and_the_first_stays(store: Store, other: bytes) -> None:
    store.put(NAME, CONTENT)
    with pytest.raises(ObjectExists):
        store.put(NAME, other)
    writer = store.create(NAME)
    writer.write(other)
    with pytest.raises(ObjectExists):
        writer.commit()
    assert store.get(NAME) == CONTENT


@pytest.mark.parametrize("second", [b"sealed", b"void"])
def test_a_name_is_decided_once_whatever_the_second_caller_brings(place: Place, second: bytes) -> None:
    assert place.store.put_if_absent("seals/p", b"sealed") is True
    assert place.connect().put_if_absent("seals/p", second) is False
    assert place.store.get("seals/p") == b"sealed"


def test_whoever_is_told_that_a_name_is_taken_finds_its_object(place: Place) -> None:
    # That it is durable as well shows only where a flush can be watched: test_directory.py.
    place.store.put_if_absent("seals/p", b"sealed")
    for connection in (place.store, place.connect()):
        assert connection.put_if_absent("seals/p", b"void") is False
        assert connection.get("seals/p") == b"sealed"
        assert [info.name for info in connection.list("")] == ["seals/p"]


def test_a_put_decides_as_well(store: Store) -> None:
    store.put("seals/p", b"sealed")
    assert store.put_if_absent("seals/p", b"sealed") is False


def test_a_name_can_be_decided_again_after_a_delete(store: Store) -> None:
    assert store.put_if_absent("seals/p", b"one")
    store.delete("seals/p")
    assert store.put_if_absent("seals/p", b"two")
    assert store.get("seals/p") == b"two"


@pytest.mark.parametrize("name", ["packs/cd/y", "packs/ab", "packs", NAME + "/below"])
def test_an_absent_object_is_missing_for_every_request(store: Store, name: str) -> None:
    store.put(NAME, CONTENT)
    for read in (
        lambda: store.get(name),
        lambda: store.get_range(name, 0, 1),
        lambda: store.read_into(name, 0, memoryview(bytearray(1))),
    ):
        with pytest.raises(ObjectMissing):
            read()
    assert store.head(name) is None
    store.delete(name)
    assert store.get(NAME) == CONTENT


def test_deleted_is_gone_for_every_request_of_another_connection(place: Place) -> None:
    place.store.put(NAME, CONTENT)
    other = place.connect()
    assert other.get_range(NAME, 0, 4) == CONTENT[:4]
    place.store.delete(NAME)
    place.store.delete(NAME)
    assert other.head(NAME) is None
    assert list(other.list("")) == []
    with pytest.raises(ObjectMissing):
        other.get(NAME)
    with pytest.raises(ObjectMissing):
        other.get_range(NAME, 0, 4)


SIZE = len(CONTENT)


@pytest.mark.parametrize(
    ("offset", "length"), [(0, SIZE), (0, 1), (SIZE - 1, 1), (SIZE, 0), (0, 0), (4095, 4098)]
)
def test_a_range_within_the_object_is_exact(store: Store, offset: int, length: int) -> None:
    store.put(NAME, CONTENT)
    assert store.get_range(NAME, offset, length) == CONTENT[offset : offset + length]
    buffer = bytearray(b"\xee" * (length + 2))
    store.read_into(NAME, offset, memoryview(buffer)[1 : 1 + length])
    assert buffer == b"\xee" + CONTENT[offset : offset + length] + b"\xee"


@pytest.mark.parametrize(
    ("offset", "length"), [(0, SIZE + 1), (SIZE, 1), (SIZE - 1, 2), (2**62, 1), (2**70, 1), (SIZE + 1, 0)]
)
def test_a_range_beyond_the_end_is_short_never_cut(store: Store, offset: int, length: int) -> None:
    store.put(NAME, CONTENT)
    with pytest.raises(ObjectShort) as caught:
        store.get_range(NAME, offset, length)
    assert caught.value.exit_code == ExitCode.MISMATCH
    with pytest.raises(ObjectShort):
        store.read_into(NAME, offset, memoryview(bytearray(length)))


def test_an_enormous_length_is_short_without_asking_for_the_memory(store: Store) -> None:
    store.put(NAME, CONTENT)
    with pytest.raises(ObjectShort):
        store.get_range(NAME, 0, 2**60)


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, -1)])
def test_a_negative_range_is_a_defect_of_the_caller(store: Store, offset: int, length: int) -> None:
    store.put(NAME, CONTENT)
    with pytest.raises(ValueError, match="negative"):
        store.get_range(NAME, offset, length)


def test_a_negative_offset_is_refused_when_reading_into_a_buffer(store: Store) -> None:
    store.put(NAME, CONTENT)
    with pytest.raises(ValueError, match="negative"):
        store.read_into(NAME, -1, memoryview(bytearray(1)))


BAD_NAME = "packs/../keys"


@pytest.mark.parametrize(
    "request_with",
    [
        lambda store: store.put(BAD_NAME, b""),
        lambda store: store.put_if_absent(BAD_NAME, b""),
        lambda store: store.create(BAD_NAME),
        lambda store: store.get(BAD_NAME),
        lambda store: store.get_range(BAD_NAME, 0, 0),
        lambda store: store.read_into(BAD_NAME, 0, memoryview(bytearray())),
        lambda store: store.head(BAD_NAME),
        lambda store: store.list(BAD_NAME + "/"),
        lambda store: store.list("packs"),
        lambda store: store.list("/"),
        lambda store: store.delete(BAD_NAME),
    ],
)
def test_every_request_refuses_a_bad_name_at_once(
    store: Store, request_with: Callable[[Store], object]
) -> None:
    with pytest.raises(BadObjectName):
        request_with(store)
    assert list(store.list("")) == []


@pytest.mark.parametrize(("first", "second"), [("a/b", "a"), ("a", "a/b"), ("a", "a/b/c"), ("a/b/c", "a")])
def test_a_name_is_never_also_a_folder(store: Store, first: str, second: str) -> None:
    store.put(first, b"1")
    with pytest.raises(BadObjectName):
        store.put(second, b"2")
    with pytest.raises(BadObjectName):
        store.put_if_absent(second, b"2")
    writer = store.create(second)
    writer.write(b"2")
    with pytest.raises(BadObjectName):
        writer.commit()
    assert [info.name for info in store.list("")] == [first]
    assert store.get(first) == b"1"


def test_a_streamed_object_is_invisible_until_committed(place: Place) -> None:
    writer = place.store.create(NAME)
    writer.write(CONTENT[:5000])
    writer.write(CONTENT[5000:])
    other = place.connect()
    assert other.head(NAME) is None
    assert list(other.list("")) == []
    with pytest.raises(ObjectMissing):
        other.get(NAME)
    writer.commit()
    assert other.get(NAME) == CONTENT
    writer.abort()
    assert other.get(NAME) == CONTENT


def test_an_aborted_object_leaves_nothing_and_frees_its_name(store: Store) -> None:
    writer = store.create(NAME)
    writer.write(CONTENT)
    writer.abort()
    writer.abort()
    assert store.head(NAME) is None
    assert list(store.list("")) == []
    store.put(NAME, b"other")
    assert store.get(NAME) == b"other"


@pytest.mark.parametrize("ending", ["commit", "abort"])
def test_a_closed_writer_cannot_be_used_again(store: Store, ending: str) -> None:
    writer = store.create(NAME)
    writer.write(b"once")
    getattr(writer, ending)()
    with pytest.raises(ValueError, match="closed"):
        writer.write(b"more")
    with pytest.raises(ValueError, match="closed"):
        writer.commit()
    assert [store.get(info.name) for info in store.list("")] == ([b"once"] if ending == "commit" else [])


def test_a_writer_whose_commit_was_refused_is_closed(store: Store) -> None:
    writer = store.create(NAME)
    writer.write(b"mine")
    store.put(NAME, b"theirs")
    with pytest.raises(ObjectExists):
        writer.commit()
    with pytest.raises(ValueError, match="closed"):
        writer.commit()
    writer.abort()
    assert store.get(NAME) == b"theirs"


def test_two_writers_of_the_same_content_both_succeed(store: Store) -> None:
    writers = [store.create(NAME), store.create(NAME)]
    for writer in writers:
        writer.write(CONTENT)
    for writer in writers:
        writer.commit()
    assert store.get(NAME) == CONTENT


# Expected order: by the names' bytes, which is Python's order of str for ASCII ('-' < '.' < '/' < '0').
NAMES = ["a-b", "a.b/x", "a/b-", "a/b.c/d", "a/b/c", "a/b0", "a/c", "a0", "B", "b/a", "ab/c", "z"]


def test_a_listing_is_ascending_by_whole_names(store: Store) -> None:
    for size, name in enumerate(NAMES):
        store.put(name, bytes(size))
    assert [(info.name, info.size) for info in store.list("")] == sorted(
        (name, size) for size, name in enumerate(NAMES)
    )


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("a/", ["a/b-", "a/b.c/d", "a/b/c", "a/b0", "a/c"]),
        ("a/b/", ["a/b/c"]),
        ("ab/", ["ab/c"]),
        ("a0/", []),
        ("none/such/", []),
    ],
)
def test_a_prefix_means_whole_segments(store: Store, prefix: str, expected: list[str]) -> None:
    for name in NAMES:
        store.put(name, b"")
    assert [info.name for info in store.list(prefix)] == expected
