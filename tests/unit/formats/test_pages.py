"""Pages of all files share one bound."""

import pytest

from vmkeep.formats.pages import PagePool, Pages

pytestmark = pytest.mark.quick

KIB = 1024


def test_pages_used_last_are_kept_whatever_file_they_are_of() -> None:
    reads: list[tuple[str, int]] = []

    def reader(name: str) -> Pages:
        def read(at: int) -> bytes:
            reads.append((name, at))
            return bytes([1 + at % 255]) * (8 * KIB)

        return Pages(read, pool)

    pool = PagePool(30 * KIB)  # three pages
    one, two = reader("one"), reader("two")
    assert one.get(0) == b"\1" * (8 * KIB)
    one.get(1)
    two.get(0)
    one.get(0)
    assert reads == [("one", 0), ("one", 1), ("two", 0)]
    two.get(1)  # takes the place of the second page of the first file
    one.get(0)
    two.get(0)
    assert len(reads) == 4
    one.get(1)
    assert reads[4:] == [("one", 1)]


def test_a_page_of_zeros_is_nothing_and_takes_no_room() -> None:
    reads: list[int] = []

    def read(at: int) -> bytes:
        reads.append(at)
        return bytes(64 * KIB)

    pages = Pages(read, PagePool(32 * KIB))
    for _ in range(2):
        assert [pages.get(at) for at in range(64)] == [b""] * 64
    assert reads == list(range(64))


def test_many_small_pages_are_counted_with_what_keeping_them_costs() -> None:
    reads: list[int] = []

    def read(at: int) -> bytes:
        reads.append(at)
        return b"\1"

    pages = Pages(read, PagePool(64 * KIB))
    for _ in range(2):
        for at in range(1000):
            pages.get(at)
    assert len(reads) == 2000
