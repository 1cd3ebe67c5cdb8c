"""The file behind --changes: what it may look like, and what it may not."""

import json
from pathlib import Path

import pytest

from vmkeep.backup.changes import read_changes
from vmkeep.backup.errors import ChangesUnusable
from vmkeep.ranges import ByteRange

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[]", []),
        ("[[0, 512]]", [(0, 512)]),
        ('{"ranges": [[512, 1], [0, 512]], "disk": "x"}', [(0, 513)]),
        ("[[9, 0], [4, 4], [0, 6], [8, 1]]", [(0, 9)]),
        ("[[4611686018427387904, 1]]", [(1 << 62, 1)]),
        ("\n [ [ 1 , 2 ] ] \n", [(1, 2)]),
    ],
)
def test_ranges_are_sorted_and_joined(tmp_path: Path, content: str, expected: list[tuple[int, int]]) -> None:
    file = tmp_path / "changes.json"
    file.write_text(content)
    assert read_changes(file) == [ByteRange(*pair) for pair in expected]


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[", b"\xff", b"null", b"5", b'"x"', b"{}", b'{"ranges": 5}', b"[1]", b"[[1]]", b"[[1, 2, 3]]",
        b"[[-1, 2]]", b"[[1, -2]]", b"[[1.0, 2]]", b'[["1", 2]]', b"[[true, 2]]", b"[[null, 2]]",
        b'[{"offset": 1, "length": 2}]', b"[" * 100_000, b"[[1e400, 1]]", b"[[NaN, 1]]",
    ],
)  # fmt: skip
def test_everything_else_is_refused_by_the_file_s_name(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "changes.json"
    file.write_bytes(content)
    with pytest.raises(ChangesUnusable, match=r"changes\.json"):
        read_changes(file)


def test_the_first_wrong_entry_is_named(tmp_path: Path) -> None:
    file = tmp_path / "changes.json"
    file.write_text(json.dumps([[0, 1]] * 41 + [[0]]))
    with pytest.raises(ChangesUnusable, match="entry 41"):
        read_changes(file)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ChangesUnusable, match="cannot read"):
            read_changes(path)
