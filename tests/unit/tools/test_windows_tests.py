"""The tests left out under Wine are left out by names that exist, each for a reason."""

import re
from pathlib import Path

import pytest

from tools.windows_tests import DESELECTED, ROOT, TESTS, windows_path

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("node", sorted(DESELECTED))
def test_a_name_left_out_exists_among_those_chosen(node: str) -> None:
    file, _, test = node.partition("::")
    text = (ROOT / file).read_text("utf-8")
    assert not test or re.search(rf"^def {re.escape(test.partition('[')[0])}\(", text, re.MULTILINE), node
    assert any(Path(file).is_relative_to(chosen) for chosen in TESTS)
    assert DESELECTED[node]


def test_what_is_chosen_exists() -> None:
    assert [path for path in TESTS if not (ROOT / path).exists()] == []


def test_wine_sees_this_machine_on_a_drive() -> None:
    assert windows_path(Path("/a/b c")) == r"Z:\a\b c"
