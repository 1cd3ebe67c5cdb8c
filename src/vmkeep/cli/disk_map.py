"""The command `vmkeep disk map`: where each byte of a disk lies."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Final

import typer

from vmkeep.cli.disk import Files, siblings_of
from vmkeep.cli.frame import AsJson, answer, warn
from vmkeep.cli.text import rounded
from vmkeep.errors import ExitCode
from vmkeep.formats.disk import Disk, Holding
from vmkeep.formats.errors import FormatError, SourceChanged
from vmkeep.formats.mapping import Piece, map_disk
from vmkeep.formats.opening import open_path

_IN_THE_LOG: Final = "log"
_NOWHERE: Final = "-"


@dataclass
class Mapped:
    """What was told of one disk: its files, child first, the pieces, and the bytes of each kind.

    ``complete`` only when all of the disk was told, and no file was written meanwhile.
    """

    file: str
    size: int
    files: list[str]
    pieces: int = 0
    bytes: dict[Holding, int] = field(default_factory=lambda: {"data": 0, "zero": 0, "parent": 0})
    complete: bool = False


def map_command(
    files: Files,
    layer: Annotated[
        bool,
        typer.Option("--layer", help="Ask each file alone; what it leaves to its parent is told as that."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Tell where each byte of a disk lies: in which file of the chain, and at which offset there.

    Each piece has one of three kinds. data: a file holds the bytes, one after the other from the
    place told, whatever they are; a hole of the file counts as data, and the place "log" means that
    they stand in a log that was never replayed. zero: no file holds them. parent, with --layer only:
    the file leaves them to its parent, which is neither needed nor looked at.

    The pieces cover the disk without gaps and are printed as they are found; memory stays small
    however many they are. --json prints a line for each piece, with `place` null where there is no
    such place; the last line is the summary, and a disk counts only if it is `complete` there. A file
    that cannot be mapped does not keep the others from being mapped.

    Exit codes: 0 all told; 1 a file cannot be read, is no disk, misses its parent or was written
    meanwhile; 14 damaged or its parent does not fit.
    """
    results: list[Mapped] = []
    failures: list[FormatError] = []
    for path in files:
        try:
            _map(path, results, layer_only=layer)
        except FormatError as error:
            failures.append(error)
    failures.sort(key=lambda error: error.exit_code is not ExitCode.MISMATCH)  # the worst ends the command
    code = failures[0].exit_code if failures else ExitCode.OK
    disks = [asdict(result) for result in results]
    summary = {"message_type": "summary", "exit_code": int(code), "disks": disks}
    answer(summary, [_total(result) for result in results])
    for failure in failures[1:]:
        warn(failure.message)
    if failures:
        raise failures[0]


def _map(path: Path, results: list[Mapped], *, layer_only: bool) -> None:
    """Print the pieces of one disk, and add what was told to the results, also when it ends early."""
    siblings = [] if layer_only else siblings_of(path)
    with open_path(path, siblings=siblings, complete=not layer_only) as disk:
        before = disk.identity()
        result = Mapped(str(path), disk.profile.size, [layer.name for layer in disk.chain()])
        results.append(result)
        row = _Row(disk)
        for piece in map_disk(disk, layer_only=layer_only):
            heading = row.heading(result) if not result.pieces else ()
            answer(_document(result.file, piece), [*heading, row.of(piece)])
            result.pieces += 1
            result.bytes[piece.kind] += piece.end - piece.start
        if disk.identity() != before:
            raise SourceChanged(f"{disk.name!r} was written while it was being mapped.", file=disk.name)
        result.complete = True


def _document(disk: str, piece: Piece) -> dict[str, object]:
    return {
        "message_type": "piece",
        "disk": disk,
        "offset": piece.start,
        "length": piece.end - piece.start,
        "kind": piece.kind,
        "depth": piece.depth,
        "file": piece.file,
        "place": piece.place,
    }


class _Row:
    """Lines whose columns are wide enough for every number of one disk, known before the first piece."""

    def __init__(self, disk: Disk) -> None:
        longest = max(Path(layer.name).stat().st_size for layer in disk.chain())
        self._number = max(len(str(disk.profile.size)), len("offset"))
        self._place = max(len(str(longest)), len("place"))

    def heading(self, result: Mapped) -> Iterator[str]:
        yield result.file
        yield f"  size    {result.size} bytes ({rounded(result.size)})"
        for number, name in enumerate(result.files):
            yield f"  file {number:<2} {name}"
        yield self._line("offset", "length", "kind", "file", "place")

    def of(self, piece: Piece) -> str:
        place = _IN_THE_LOG if piece.kind == "data" else _NOWHERE
        return self._line(
            str(piece.start),
            str(piece.end - piece.start),
            piece.kind,
            str(piece.depth),
            place if piece.place is None else str(piece.place),
        )

    def _line(self, offset: str, length: str, kind: str, file: str, place: str) -> str:
        number = self._number
        return f"  {offset:>{number}}  {length:>{number}}  {kind:6}  {file:>4}  {place:>{self._place}}"


def _total(result: Mapped) -> str:
    told = ", ".join(f"{count} bytes {kind}" for kind, count in result.bytes.items() if count)
    verdict = "" if result.complete else "not complete, "
    return f"{result.file}: {verdict}{result.pieces} pieces, {told or 'nothing told'}"
