"""Tell of every byte of a disk which file of its chain holds it, and where."""

from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple

from vmkeep.formats.disk import Disk, Holding, OwnSpan
from vmkeep.formats.parents import parent_missing
from vmkeep.ranges import ByteRange

# So many pieces are in memory for each file of the chain, whatever its blocks and sectors are like.
_BATCH: Final = 1024


class Piece(NamedTuple):
    """Neighbouring bytes ``[start, end)`` of the disk that one file of the chain decides.

    ``depth`` and ``file`` tell which: 0 is the disk's own file, 1 its parent.
    ``data``: the file holds the bytes from ``place`` on; they may be zeros, or
    a hole of the file. A ``place`` of None means that they stand in a log that
    was never replayed, in pieces. ``zero``: no file holds them. ``parent``:
    the file leaves them to its parent, at which nobody looked.
    """

    start: int
    end: int
    kind: Holding
    depth: int
    file: str
    place: int | None

    def joined(self, right: "Piece") -> "Piece | None":
        """Return both as one piece, or None when they must stay apart."""
        place = None if self.place is None else self.place + self.end - self.start
        follows = right == (self.end, right.end, self.kind, self.depth, self.file, place)
        return self._replace(end=right.end) if follows else None


def map_disk(
    disk: Disk, start: int = 0, end: int | None = None, *, layer_only: bool = False
) -> Iterator[Piece]:
    """Yield the pieces of ``[start, end)``: ascending, without gaps, neighbours joined.

    With ``layer_only`` the disk's own file alone is asked, and what it leaves
    to its parent comes as that. Computed lazily, from tables and bitmaps only.
    Raises ``FormatError`` where they cannot be right, and
    :class:`~vmkeep.formats.errors.ParentMissing` where a parent that is needed is missing.
    """
    stop = disk.profile.size if end is None else min(end, disk.profile.size)
    if start >= stop:
        return iter(())
    layers = [disk] if layer_only else disk.chain()
    pieces = iter([Piece(start, stop, "parent", 0, disk.name, None)])
    for depth, layer in enumerate(layers):
        pieces = _joined(_answered(pieces, layer, depth))
    return pieces if layer_only else _complete(pieces, layers[-1])


def _answered(pieces: Iterator[Piece], layer: Disk, depth: int) -> Iterator[Piece]:
    """Replace what is left to this layer by what it says of it.

    Each layer is asked for many pieces at a time and walks through its table
    with them, so that a chain costs what its pieces cost, times its length at most.
    """
    while batch := list(islice(pieces, _BATCH)):
        size = layer.profile.size
        wanted = [
            ByteRange(piece.start, min(piece.end, size) - piece.start)
            for piece in batch
            if piece.kind == "parent" and piece.start < size
        ]
        yield from _woven(batch, layer.own_spans(wanted) if wanted else iter(()), layer, depth)


def _woven(batch: list[Piece], spans: Iterator[OwnSpan], layer: Disk, depth: int) -> Iterator[Piece]:
    name, size = layer.name, layer.profile.size
    for piece in batch:
        if piece.kind != "parent":
            yield piece
            continue
        at, end = piece.start, min(piece.end, size)
        while at < end:
            low, at, kind, place = next(spans)
            yield Piece(low, at, kind, depth, name, place)
        if at < piece.end:
            # Nothing demands a parent as long as its child: beyond its end are zeros, by the child's word.
            yield piece._replace(start=at, kind="zero")


def _joined(pieces: Iterator[Piece]) -> Iterator[Piece]:
    pending = next(pieces)
    for piece in pieces:
        joined = pending.joined(piece)
        if joined is None:
            yield pending
        pending = joined or piece
    yield pending


def _complete(pieces: Iterator[Piece], last: Disk) -> Iterator[Piece]:
    """Pass the pieces on, or raise where one is left to a parent that is missing."""
    for piece in pieces:
        if piece.kind == "parent":
            assert last.parent_reference is not None
            raise parent_missing(last.parent_reference)
        yield piece
