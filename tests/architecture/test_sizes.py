"""No file or function too long to be read in one sitting."""

import ast
from collections.abc import Iterator
from typing import Final

import pytest

from tests.architecture.checkout import files_in, project_files, text_of, tree_of

pytestmark = pytest.mark.quick

LONGEST_FILE: Final = 800
# The aim is below 50; the machine stops what nobody can defend.
LONGEST_FUNCTION: Final = 80


def long_functions(tree: ast.Module, limit: int) -> Iterator[tuple[str, int, int]]:
    """Yield name, line and length of each function whose body is longer than ``limit`` lines.

    The docstring counts; the signature does not: a command declares its options there.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.body[0].lineno + 1
            if length > limit:
                yield node.name, node.lineno, length


def test_no_source_file_is_too_long() -> None:
    sources = [p for p in project_files() if p.suffix in {".py", ".sh"} or p.name in {"dev", "lock", "run"}]
    assert len(sources) > 5
    faults = [f"{p}: {lines} lines" for p in sources if (lines := text_of(p).count("\n")) > LONGEST_FILE]
    assert not faults, "\n".join(faults)


def test_no_function_is_too_long() -> None:
    faults = [
        f"{path}:{line}: {name} has {length} lines"
        for path in files_in("src", "tools")
        for name, line, length in long_functions(tree_of(path), LONGEST_FUNCTION)
    ]
    assert not faults, "\n".join(faults)


def test_the_measure_bites() -> None:
    body = "        x = 1\n" * 5
    source = (
        f"class A:\n    async def short(self):\n        pass\n    def long(\n        self,\n    ):\n{body}"
    )
    assert list(long_functions(ast.parse(source), 4)) == [("long", 4, 5)]
    assert list(long_functions(ast.parse(source), 5)) == []
