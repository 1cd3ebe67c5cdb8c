"""Say when two requests ask the same (docs/trace.md, "What a replay compares")."""

from dataclasses import dataclass
from typing import Final
from xml.etree.ElementTree import Element

from vmkeep_lab.wire.markup import BadMarkup, parse
from vmkeep_lab.wire.names import (
    ADDRESSING,
    ENUMERATE,
    GET,
    IDENTITY,
    PULL,
    RECEIVE,
    RELEASE,
    WSMAN,
    tag,
)
from vmkeep_lab.wire.soap import open_envelope, relates_to

_READING: Final = frozenset({GET, ENUMERATE, PULL, RELEASE, RECEIVE})
_INSTANCE: Final = "<INSTANCE"

Canonical = tuple[object, ...]


@dataclass(frozen=True)
class Question:
    """A request without what differs between two that ask the same.

    ``frame`` is all of it but the ``texts`` of its body. ``message_id`` is what its reply relates to, and
    ``reads`` tells that asking once more changes nothing; neither is compared.
    """

    frame: Canonical
    texts: tuple[str, ...]
    title: str
    message_id: str
    reads: bool

    @classmethod
    def read(cls, data: bytes, encoding: str | None = None) -> "Question":
        """Read an envelope; NotSoap where it is none."""
        header, body, children = open_envelope(data, encoding)
        action = (header.findtext(tag(ADDRESSING, "Action")) or "").strip()
        uri = (header.findtext(tag(WSMAN, "ResourceURI")) or "").strip()
        identifies = body is not None and body.tag == tag(IDENTITY, "Identify")
        named = [_named(header.find(tag(WSMAN, name))) for name in ("SelectorSet", "OptionSet")]
        texts: list[str] = []
        trees = tuple(_without_texts(_tree(child), texts) for child in children)
        return cls(
            frame=(action, uri.lower(), *named, trees),
            texts=tuple(texts),
            title="Identify" if identifies else f"{action.rpartition('/')[2]} of {uri.rpartition('/')[2]}",
            message_id=relates_to(header),
            reads=identifies or action in _READING,
        )


def _named(holder: Element | None) -> Canonical:
    """Return selectors or options: their order means nothing, nor does letter case ([MS-WSMV] 3.1.4.1.2)."""
    found = [
        (
            each.get("Name", "").lower(),
            _folded(_tree(each)) if len(each) else (each.text or "").strip().lower(),
        )
        for each in (holder if holder is not None else ())
    ]
    return tuple(sorted(found, key=repr))


Tree = tuple[str, Canonical, "str | Tree", "tuple[Tree, ...]"]


def _tree(element: Element, *, is_instance: bool = False) -> Tree:
    """Return names, attributes, texts and children; blanks around a text mean nothing."""
    text = (element.text or "").strip()
    inside: str | Tree = text
    if text.startswith(_INSTANCE) and not is_instance:
        try:
            inside = _tree(parse(text.encode("utf-8")), is_instance=True)
        except BadMarkup:
            inside = text
    return (
        element.tag,
        tuple(sorted(element.attrib.items())),
        inside,
        tuple(_tree(child, is_instance=is_instance) for child in element),
    )


def _without_texts(tree: Tree, texts: list[str]) -> Canonical:
    """Return a tree without its texts, which go to the list in their order."""
    name, attributes, inside, children = tree
    if isinstance(inside, str):
        texts.append(inside)
    held = () if isinstance(inside, str) else _without_texts(inside, texts)
    return name, attributes, held, tuple(_without_texts(child, texts) for child in children)


def _folded(tree: object) -> object:
    if isinstance(tree, str):
        return tree.lower()
    return tuple(_folded(each) for each in tree) if isinstance(tree, tuple) else tree
