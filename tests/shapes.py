"""Compare replies with recordings of real hosts: trees, names, namespaces, order, nil, forms of values."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

RECORDINGS: Final = Path(__file__).parent / "data" / "recordings"

# Attributes whose value is part of the shape; of others (a language) only the name is.
_TELLING: Final = ("}nil", "}type", "Name", "End")
# What a text looks like, the first that fits. A time has no zeros at the end of its fraction and ends with Z
# (recorded). In which letters a message's id is written tells nothing: those of the recordings were replaced.
_FORMS: Final = (
    ("nothing", r""),
    ("blanks", r"\s+"),
    ("number", r"-?(?:0|[1-9]\d*)"),
    ("boolean", r"true|false"),
    ("time", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d*[1-9])?Z"),
    ("odd time", r"\d{4}-\d\d-\d\dT.*"),
    ("message", r"uuid:[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"),
    ("id", r"(?:Microsoft:)?[0-9A-F]{8}(?:-[0-9A-F]{4}){3}-[0-9A-F]{12}"),
)


@dataclass(frozen=True)
class Shape:
    """What an element looks like when one forgets what it says.

    ``text`` is the form of its text; an address of the protocol (an action, a resource) is its own form.
    ``between`` tells whether anything, blanks included, stands between its children.
    """

    name: str
    attributes: tuple[tuple[str, str], ...]
    text: str
    between: bool
    children: tuple["Shape", ...]


def recordings() -> dict[str, bytes]:
    """Return the recorded replies by the names of their files."""
    return {path.stem: path.read_bytes() for path in sorted(RECORDINGS.glob("*.xml"))}


def shape_of(data: bytes) -> Shape:
    """Return the shape of a document."""
    return _shape(ElementTree.fromstring(data))


def _shape(element: Element) -> Shape:
    attributes = tuple(
        (name, value if name.endswith(_TELLING) else "") for name, value in sorted(element.attrib.items())
    )
    between = any(each.tail for each in element)
    return Shape(element.tag, attributes, form_of(element.text or ""), between, tuple(map(_shape, element)))


def form_of(text: str) -> str:
    """Say what a text looks like."""
    if text.startswith("http://schemas."):
        return text
    return next((form for form, pattern in _FORMS if re.fullmatch(pattern, text)), "text")


def differences(recorded: Shape, ours: Shape, where: str = "") -> Iterator[str]:
    """Yield what is different, by its path in the tree; children compare in their order."""
    where = f"{where}/{recorded.name.rpartition('}')[2]}"
    if recorded.name != ours.name:
        yield f"{where}: named {ours.name}"
        return
    if recorded.attributes != ours.attributes:
        yield f"{where}: attributes {ours.attributes}, recorded {recorded.attributes}"
    if recorded.text != ours.text:
        yield f"{where}: text is {ours.text}, recorded {recorded.text}"
    if recorded.between != ours.between:
        yield f"{where}: something stands between its children {'here' if ours.between else 'there'} only"
    left, right = (Counter(each.name for each in shape.children) for shape in (recorded, ours))
    yield from (f"{where}: lacks {name}" for name in (left - right).elements())
    yield from (f"{where}: has {name}" for name in (right - left).elements())
    both = left & right
    theirs, mine = (_first(shape.children, both) for shape in (recorded, ours))
    if [each.name for each in theirs] != [each.name for each in mine]:
        yield f"{where}: children in another order: {[each.name for each in mine]}"
    # Elements of one name correspond in their order, whatever stands between them.
    for name in both:
        pairs = zip((s for s in theirs if s.name == name), (s for s in mine if s.name == name), strict=True)
        for one, other in pairs:
            yield from differences(one, other, where)


def _first(children: tuple[Shape, ...], wanted: Counter[str]) -> list[Shape]:
    """Return the children that the other side has, too: of each name as many, the first ones."""
    left, found = Counter(wanted), []
    for each in children:
        if left[each.name]:
            left[each.name] -= 1
            found.append(each)
    return found
