"""Read our Markdown pages: their code blocks, headings and links.

A block that a test must run is announced by a comment on the line above it::

    <!-- run -->
    ```sh
    vmkeep repo init /tmp/repository
    ```

:func:`runnable_blocks` finds these; the end-to-end tests execute them.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

_FENCE: Final = re.compile(r"^( *)(`{3,}|~{3,})\s*([\w+-]*)(.*)$")
_LINK: Final = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
RUN_MARK: Final = "<!-- run -->"


class Block(NamedTuple):
    """One fenced block; ``line`` is that of its fence, from 1."""

    line: int
    language: str
    text: str
    runnable: bool


def blocks(markdown: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page; raises ValueError for one that is never closed."""
    lines = markdown.splitlines()
    at = 0
    while at < len(lines):
        fence = _FENCE.match(lines[at])
        start = at
        at += 1
        if fence is None:
            continue
        indent, ticks, language = len(fence[1]), fence[2], fence[3]
        body = []
        while at < len(lines) and not re.fullmatch(
            rf" *{re.escape(ticks[0])}{{{len(ticks)},}}\s*", lines[at]
        ):
            body.append(lines[at][min(indent, len(lines[at]) - len(lines[at].lstrip())) :])
            at += 1
        if at == len(lines):
            raise ValueError(f"line {start + 1}: the block is not closed")
        at += 1
        marked = start > 0 and lines[start - 1].strip() == RUN_MARK
        yield Block(start + 1, language, "".join(f"{line}\n" for line in body), marked)


def runnable_blocks(page: Path) -> list[Block]:
    """Return the blocks of a page that a reader may type as they stand, and a test must."""
    return [block for block in blocks(page.read_text("utf-8")) if block.runnable]


def prose(markdown: str) -> str:
    """Return the page without its fenced blocks and code spans; line numbers stay."""
    lines = markdown.splitlines()
    for block in blocks(markdown):
        for number in range(block.line - 1, block.line + block.text.count("\n") + 1):
            lines[number] = ""
    return "\n".join(re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", line) for line in lines)


def links(markdown: str) -> list[str]:
    """Return the targets of all links and pictures outside code."""
    return [match[1] for match in _LINK.finditer(prose(markdown))]


def anchors(markdown: str) -> set[str]:
    """Return the names under which a page's headings can be linked, as GitHub makes them."""
    names: set[str] = set()
    inside = {n for b in blocks(markdown) for n in range(b.line, b.line + b.text.count("\n") + 2)}
    for number, line in enumerate(markdown.splitlines(), 1):
        heading = re.match(r"#{1,6}\s+(.*?)\s*#*$", line)
        if heading is None or number in inside:
            continue
        text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).lower()
        name = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        count = 0
        while (candidate := f"{name}-{count}" if count else name) in names:
            count += 1
        names.add(candidate)
    return names
