"""Compare replies with recordings of real hosts: the same trees, names, namespaces and nil forms."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.etree.ElementTree import Element

from vmkeep_lab.wire.markup import parse

# Attributes whose value is part of the shape; of others only the name is.
_TELLING: Final = ("}nil", "}type", "Name", "End")


@dataclass(frozen=True)
class Shape:
    """What an element looks like when one forgets what it says."""

    name: str
    attributes: tuple[tuple[str, str], ...]
    has_text: bool
    children: tuple["Shape", ...]


def shape_of(data: bytes) -> Shape:
    """Return the shape of a document."""
    return _shape(parse(data))


def recordings(folder: Path) -> dict[str, bytes]:
    """Return the recorded replies of a folder by the names of their files."""
    return {path.stem: path.read_bytes() for path in sorted(folder.glob("*.xml"))}


def _shape(element: Element) -> Shape:
    attributes = tuple(
        (name, value if name.endswith(_TELLING) else "") for name, value in sorted(element.attrib.items())
    )
    has_text = bool((element.text or "").strip())
    return Shape(element.tag, attributes, has_text, tuple(_shape(each) for each in element))


def differences(recorded: Shape, ours: Shape, where: str = "") -> Iterator[str]:
    """Yield what is different, by its path in the tree; children compare in their order."""
    where = f"{where}/{recorded.name.rpartition('}')[2]}"
    if recorded.name != ours.name:
        yield f"{where}: named {ours.name}"
        return
    if recorded.attributes != ours.attributes:
        yield f"{where}: attributes {ours.attributes}, recorded {recorded.attributes}"
    if recorded.has_text != ours.has_text:
        yield f"{where}: {'text' if ours.has_text else 'no text'}"
    left = [each.name for each in recorded.children]
    right = [each.name for each in ours.children]
    if left != right:
        yield from (f"{where}: lacks {name}" for name in left if name not in right)
        yield from (f"{where}: has {name}" for name in right if name not in left)
        if sorted(left) == sorted(right):
            yield f"{where}: children in another order: {right}"
    by_name: dict[str, list[Shape]] = {}
    for each in ours.children:
        by_name.setdefault(each.name, []).append(each)
    for each in recorded.children:
        if by_name.get(each.name):
            yield from differences(each, by_name[each.name].pop(0), where)
