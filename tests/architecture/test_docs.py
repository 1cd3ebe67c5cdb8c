"""Documents that cannot drift: docstrings, links, shell blocks, the page of errors."""

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import pytest

from tests.architecture.checkout import files_in, project_files, text_of, tree_of
from tests.markdown import anchors, blocks, links, runnable_blocks
from tools.errors_page import PAGE, PageError, error_classes, find_faults, import_everything, render_page
from vmkeep.errors import VmkeepError

pytestmark = pytest.mark.quick

# --- docstrings -------------------------------------------------------------------

# Words that add nothing to a name.
_EMPTY: Final = set(
    [
        "a",
        "an",
        "the",
        "this",
        "that",
        "of",
        "for",
        "to",
        "in",
        "from",
        "with",
        "and",
        "or",
        "it",
        "its",
        "is",
    ]
    + ["are", "new", "given", "class", "function", "return"]
)

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def public_parts(tree: ast.Module, module: str) -> Iterator[tuple[str, Documented, bool]]:
    """Yield name, node and whether a docstring is required, for all that is public in a module.

    Methods may go without (they often implement a documented protocol), but
    what they say is judged.
    """
    yield module, tree, True
    for node in tree.body:
        if not isinstance(
            node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        ) or node.name.startswith("_"):
            continue
        is_overload = any(ast.unparse(d).endswith("overload") for d in node.decorator_list)
        yield node.name, node, not is_overload
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef) and not inner.name.startswith(
                    "_"
                ):
                    yield f"{node.name}.{inner.name}", inner, False


def stems(text: str) -> set[str]:
    """Return the words that mean something, without their endings."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text)
    words = set(re.findall(r"[a-z0-9]+", spaced.lower())) - _EMPTY
    return {re.sub(r"(?<=\w{3})(es|s|ed|ing|e)$", "", word) for word in words}


def docstring_faults(tree: ast.Module, module: str) -> Iterator[str]:
    """Yield what is wrong with the docstrings of one module."""
    for name, node, is_required in public_parts(tree, module):
        docstring = ast.get_docstring(node)
        if not docstring:
            if is_required:
                yield f"{name} has no docstring"
            continue
        first = docstring.partition("\n")[0].rstrip()
        if not first.endswith((".", "?")):
            yield f"{name}: the first line is not one sentence with its full stop: {first!r}"
        if stems(first) <= stems(name):
            yield f"{name}: the docstring only repeats the name: {first!r}"


def test_everything_public_makes_a_promise() -> None:
    faults = [
        f"{path}: {fault}"
        for path in files_in("src", "tools")
        for fault in docstring_faults(tree_of(path), ".".join(path.with_suffix("").parts))
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    "source",
    [
        "x = 1",
        '"""Fine here."""\ndef read_block(): pass',
        '"""Fine here."""\ndef read_block():\n    """Reads the block."""',
        '"""Fine here."""\ndef read_block():\n    """Return bytes that were checked"""',
        '"""Fine here."""\ndef read_block():\n    """Return the bytes,\n    checked."""',
        '"""Fine here."""\nclass BlockTable:\n    x = 1',
        '"""Fine here."""\nclass BlockTable:\n    """Block table."""',
        '"""Fine here."""\nclass A:\n    """Says enough."""\n    def close(self):\n        """Closes it."""',
    ],
)
def test_poor_docstrings_are_found(source: str) -> None:
    assert len(list(docstring_faults(ast.parse(source), "room.module"))) == 1


def test_good_docstrings_pass() -> None:
    source = (
        '"""Tell the time."""\ndef close():\n    """Release the file; safe to repeat."""\ndef _hidden(): pass'
    )
    assert list(docstring_faults(ast.parse(source), "room.clock")) == []


# --- pages --------------------------------------------------------------------------


def pages() -> dict[Path, str]:
    return {
        path: text_of(path) for path in project_files() if path.suffix == ".md" and path.parts[0] != "tests"
    }


def dead_links(page: Path, texts: Mapping[Path, str], exists: frozenset[Path]) -> list[str]:
    """Return the links of one page that lead to no committed file, or to no heading of its page."""
    dead = []
    for link in links(texts[page]):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue  # another site; nothing here may depend on it being up
        place, _, anchor = unquote(link).partition("#")
        target = Path(*_resolved(page.parent / place)) if place else page
        is_there = target in exists or any(target in path.parents for path in exists)
        has_heading = not anchor or target not in texts or anchor in anchors(texts[target])
        if not (is_there and has_heading):
            dead.append(link)
    return dead


def _resolved(path: Path) -> list[str]:
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            if not parts:
                return ["outside the checkout"]
            parts.pop()
        else:
            parts.append(part)
    return parts


def test_links_between_pages_lead_somewhere() -> None:
    texts, exists = pages(), frozenset(project_files())
    assert texts
    faults = [f"{page}: {link}" for page in texts for link in dead_links(page, texts, exists)]
    assert not faults, "\n".join(faults)


def test_dead_links_are_found() -> None:
    page = Path("docs/a.md")
    texts = {
        page: "# One thing\n[1](b.md) [2](b.md#two-things) [3](#one-thing) [4](../README.md) [5](https://x.example)\n"
        "[6](../docs) [7](c.md) [8](b.md#three) [9](#two) [10](../../away.md) ![11](p.svg) `[no](link.md)`\n"
        "```\n[no](link.md)\n```\n",
        Path("docs/b.md"): "## `Two` things\n",
        Path("README.md"): "",
    }
    exists = frozenset(texts)
    assert dead_links(page, texts, exists) == ["c.md", "b.md#three", "#two", "../../away.md", "p.svg"]


def test_shell_blocks_are_shell() -> None:
    shell = shutil.which("sh")
    assert shell
    for page, text in pages().items():
        for block in blocks(text):
            if block.language not in {"sh", "bash", "shell"}:
                continue
            assert block.language == "sh", f"{page}:{block.line}: name the language sh"
            checked = subprocess.run(
                [shell, "-n"], input=block.text, text=True, capture_output=True, check=False
            )
            assert checked.returncode == 0, f"{page}:{block.line}: {checked.stderr}"


def test_blocks_are_read_as_they_stand(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n```sh\nx <&\n```\n<!-- run -->\n```sh\necho 1\n  echo 2\n```\n~~~\n```\n~~~\n")
    found = list(blocks(page.read_text()))
    assert [(b.line, b.language, b.text, b.runnable) for b in found] == [
        (2, "sh", "x <&\n", False),
        (6, "sh", "echo 1\n  echo 2\n", True),
        (10, "", "```\n", False),
    ]
    assert runnable_blocks(page) == [found[1]]
    with pytest.raises(ValueError, match="line 2"):
        list(blocks("a\n```sh\nb\n"))


# --- errors ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classes() -> list[type[VmkeepError]]:
    """The error classes of the product; those of tests, if any, are none of its business."""
    import_everything()
    return [cls for cls in error_classes() if cls.__module__.startswith("vmkeep.")]


def test_the_page_of_errors_is_what_the_classes_say(classes: list[type[VmkeepError]]) -> None:
    written = PAGE.read_text("utf-8")
    assert written == render_page(classes), "stale: run `python tools/errors_page.py --write`"


def test_every_error_is_on_the_page_by_its_code(classes: list[type[VmkeepError]]) -> None:
    """Counted in the sources, not by the classes: a class nobody imports would be missed."""
    declared = [
        ast.literal_eval(node.value)
        for path in files_in("src")
        for cls in ast.walk(tree_of(path))
        if isinstance(cls, ast.ClassDef)
        for node in cls.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and node.value is not None
        and ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target) == "code"
        and isinstance(node.value, ast.Constant)
        and re.fullmatch(r"[A-Z]{2}\d{3}", str(node.value.value))
    ]
    assert sorted(declared) == sorted(cls.code for cls in classes)
    page = PAGE.read_text("utf-8")
    assert [code for code in declared if not code.endswith("000") and f"| {code} |" not in page] == []


def test_contradicting_errors_are_found() -> None:
    def make(name: str, **facts: object) -> type[VmkeepError]:
        # Not a subclass of VmkeepError's own tree: the product's page must not see it.
        base = type("Base", (Exception,), dict(vars(VmkeepError)))
        cls: type[VmkeepError] = type(name, (base,), {"__module__": "sample", "__qualname__": name, **facts})
        return cls

    good = {"__doc__": "A thing is wrong.", "code": "XX001", "default_hint": "Do this."}
    assert find_faults([make("Good", **good)]) == []
    assert find_faults([make("A", **good), make("B", **good)]) == ["code XX001 belongs to sample.A, sample.B"]
    for change in ({"code": "X1"}, {"code": "RP011"}, {"__doc__": None}, {"default_hint": ""}):
        assert len(find_faults([make("Bad", **{**good, **change})])) == 1
    assert find_faults([make("Bare", __doc__="A thing.")]) == ["sample.Bare has no code of its own"]
    with pytest.raises(PageError):
        render_page([make("A", **good), make("B", **good)])
