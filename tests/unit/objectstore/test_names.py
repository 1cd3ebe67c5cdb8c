import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vmkeep.objectstore.errors import BadObjectName
from vmkeep.objectstore.names import MAX_NAME, MAX_SEGMENT, validate_name, validate_prefix

pytestmark = pytest.mark.quick

GOOD = [
    "format",
    "packs/ab/0123456789abcdef0123456789abcdef",
    "points/5c8c2f2e-0a5c-4c55-9d8e-000000000001/20260101T000000Z-1a",
    "a..b",
    "_",
    "-",
    "A.B/c-d_e",
    "console",
    "com",
    "com10",
    "nul_",
    "tmpx",
    "a/tmp",
    "x" * MAX_SEGMENT,
    "/".join(["x" * 15] * 15),
]
# After the page named in names.py, and what escapes a folder.
BAD = [
    "", "/", "/a", "a/", "a//b", ".", "..", "a/.", "a/..", "../a", "a/../b", "./a",
    ".hidden", "a/.hidden", "trailing.", "a./b", "space d", "a b", "a\\b", "C:a", "a:b", "a\0", "a\n", "\na",
    "a/b\n", "tilde~1", "caf\u00e9", "a\u202eb", "\uff0e\uff0e/a", "a%2fb", "*", "a?", "con", "CON", "a/Con",
    "nul.txt", "a/NUL.a.b", "aux/b", "COM1", "com0", "lpt9.x", "prn", "tmp", "tmp/a", "TMP/a", "Tmp",
    "x" * (MAX_SEGMENT + 1), "/".join(["x" * 16] * 15),
]  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_a_name_every_back_end_can_keep_is_accepted(name: str) -> None:
    validate_name(name)
    validate_prefix(name + "/")


@pytest.mark.parametrize("name", BAD)
def test_a_name_some_back_end_cannot_keep_is_refused(name: str) -> None:
    with pytest.raises(BadObjectName) as caught:
        validate_name(name)
    assert caught.value.context["name"] == name
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("prefix", ["a", "/", "a//", "../", "tmp/", "a/b", ".git/"])
def test_a_prefix_is_whole_segments(prefix: str) -> None:
    with pytest.raises(BadObjectName):
        validate_prefix(prefix)


def test_the_empty_prefix_means_everything() -> None:
    validate_prefix("")


def test_the_limits_are_what_they_say() -> None:
    assert len("/".join(["x" * 15] * 15)) == MAX_NAME - 1
    assert len("/".join(["x" * 16] * 15)) > MAX_NAME


@given(st.text(alphabet="aZ0.-_/cCoOnN \\", max_size=12))
@example("con/a")
def test_an_accepted_name_is_plain_by_an_independent_reading(name: str) -> None:
    try:
        validate_name(name)
    except BadObjectName:
        return
    for segment in name.split("/"):
        assert segment.strip(".") == segment != ""
        assert all(
            character.isascii() and (character.isalnum() or character in "._-") for character in segment
        )
        assert segment.split(".")[0].lower() not in {"con", "prn", "aux", "nul"}
