"""The `vmkeep disk` commands: look at disk files, check, convert and compare them."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from vmkeep.cli.frame import AsJson, announce, answer, warn
from vmkeep.cli.text import rounded
from vmkeep.errors import ExitCode, UsageError, VmkeepError
from vmkeep.formats.comparing import compare
from vmkeep.formats.converting import convert
from vmkeep.formats.disk import Disk, Finding, Format
from vmkeep.formats.errors import FormatError, ParentMissing
from vmkeep.formats.opening import format_of_name, open_path
from vmkeep.formats.parents import parent_missing

app = typer.Typer(
    name="disk", help="Look at virtual disk files.", no_args_is_help=True, rich_markup_mode=None
)

_MOST_LISTED: Final = 1000

Files = Annotated[
    list[Path], typer.Argument(metavar="FILE...", readable=False, help="VHD, VHDX, AVHDX or raw disk files.")
]


def siblings_of(path: Path) -> list[Path]:
    """Return the files beside ``path``: the only ones that may be its parents."""
    try:
        return sorted(path.parent.iterdir())
    except OSError:  # opening the file itself will say better what is wrong
        return []


def _open(path: Path, *, complete: bool = True) -> Disk:
    return open_path(path, siblings=siblings_of(path), complete=complete)


def _missing(disk: Disk) -> ParentMissing | None:
    reference = disk.missing_parent()
    return parent_missing(reference) if reference is not None else None


def disk_info(path: Path) -> dict[str, Any]:
    """Describe one disk file as the data of `disk info --json`.

    ``allocated`` counts the bytes this file may hold itself; everything else is
    zeros or its parent's. ``wanted`` is what a differencing disk says about its
    parent; ``missing`` is a sentence when some parent is not beside the file.
    """
    with _open(path, complete=False) as disk:
        profile = disk.profile
        wanted = disk.parent_reference
        missing = _missing(disk)
        own = disk.extents() if wanted is None else disk.layer_extents()
        return {
            "file": str(path),
            "format": profile.format,
            "kind": profile.kind,
            "size": profile.size,
            "logical_sector": profile.logical_sector,
            "physical_sector": profile.physical_sector,
            "block_size": profile.block_size,
            "disk_id": str(profile.disk_id) if profile.disk_id else None,
            "parent": disk.parent.name if disk.parent else None,
            "chain": [layer.name for layer in disk.chain()],
            "wanted": wanted
            and {"identities": [str(one) for one in wanted.identities], "locators": dict(wanted.locators)},
            "missing": missing and missing.message,
            "allocated": sum(piece.length for piece in own),
            "file_size": path.stat().st_size,
        }


def disk_check(path: Path) -> dict[str, Any]:
    """Examine one disk file and its parents; the data of `disk check --json`.

    A file that is damaged too badly to be opened gives one error finding; one
    that cannot be read or is no disk raises. Without a parent the files that
    are there are examined, and ``missing`` says which one is not. Lists at most
    the first thousand errors and the first thousand warnings, and counts all.
    """
    counts = Counter[str]()
    findings: list[dict[str, Any]] = []
    layers: list[str] = []
    missing: ParentMissing | None = None
    try:
        with _open(path, complete=False) as disk:
            missing = _missing(disk)
            for layer in disk.chain():
                layers.append(layer.name)
                for finding in layer.check():
                    counts[finding.severity] += 1
                    if counts[finding.severity] <= _MOST_LISTED:
                        findings.append(asdict(finding))
    except FormatError as error:
        if error.exit_code is not ExitCode.MISMATCH:
            raise
        counts["error"] += 1
        findings.append(asdict(Finding("error", error.file, error.offset, error.rule, error.message)))
    return {
        "file": str(path),
        "ok": not counts["error"] and missing is None,
        "errors": counts["error"],
        "warnings": counts["warning"],
        "layers": layers,
        "missing": missing and missing.message,
        "findings": findings,
    }


def disk_convert(source: Path, target: Path, format: Format | None) -> dict[str, Any]:
    """Copy a disk, with its whole chain, into a new file of another format.

    Size, sector sizes and disk id are kept where the format can hold them; what
    it cannot hold is named in ``lost``. Refuses an existing target, and leaves
    none behind when it fails.
    """
    named = format_of_name(target.name)
    if format is None and named is None:
        raise UsageError(f"the name {target.name!r} tells no format.", hint="Give --format raw, vhdx or vhd.")
    if format is not None and named is not None and format != named:
        raise UsageError(
            f"{target.name!r} is named like {named}, but --format says {format}.",
            hint="Let name and format agree: a file named wrongly would be refused later.",
        )
    with _open(source) as disk:
        done = convert(disk, target, format or named or "raw")
        return {
            "source": str(source),
            "target": str(target),
            "format": done.profile.format,
            "kind": done.profile.kind,
            "size": done.profile.size,
            "bytes_copied": done.bytes_copied,
            "lost": list(done.lost),
        }


def disk_compare(left: Path, right: Path) -> dict[str, Any]:
    """Compare two disks byte by byte as their guests see them; the data of `disk compare --json`.

    Lists at most the first thousand differing ranges, and counts all.
    """
    listed: list[dict[str, Any]] = []
    count = differing = 0
    with _open(left) as one, _open(right) as other:
        for found in compare(one, other):
            count += 1
            differing += found.range.length
            if len(listed) < _MOST_LISTED:
                listed.append(
                    {"kind": found.kind, "offset": found.range.offset, "length": found.range.length}
                )
        sizes = [one.profile.size, other.profile.size]
    return {
        "files": [str(left), str(right)],
        "sizes": sizes,
        "equal": not count,
        "ranges": count,
        "bytes_differing": differing,
        "differences": listed,
    }


@app.command("info")
def info_command(files: Files, as_json: AsJson = False) -> None:
    """Show what each disk file is: format, size, sectors, identifier, parents.

    A child whose parent is not beside it is shown as far as the file itself tells.
    Exit codes: 0 shown; 1 a file cannot be read, is no disk, or misses its parent;
    14 damaged or its parent does not fit.
    """
    _for_each(files, disk_info, _info_lines)


@app.command("check")
def check_command(files: Files, as_json: AsJson = False) -> None:
    """Examine all structures of each disk file and of its parents.

    A file that cannot be examined does not keep the others from being examined.
    Exit codes: 0 no errors; 1 a file cannot be read, is no disk, or misses its parent; 14 damaged.
    """
    _for_each(files, disk_check, _check_lines)


def _for_each(
    files: list[Path],
    look: Callable[[Path], dict[str, Any]],
    lines: Callable[[dict[str, Any]], Iterator[str]],
) -> None:
    """Show what was found in each file, then end with the worst of what was wrong.

    In JSON one file gives an object, several a list, however many could be read.
    """
    results: list[dict[str, Any]] = []
    failures: list[VmkeepError] = []
    for path in files:
        try:
            results.append(look(path))
        except FormatError as error:
            failures.append(error)
            continue
        if results[-1]["missing"]:
            failures.append(ParentMissing(results[-1]["missing"], file=str(path)))
    if results:
        document = results[0] if len(files) == 1 else results
        answer(document, [line for result in results for line in lines(result)])
    damaged = any(result.get("errors") for result in results)
    for number, failure in enumerate(failures):
        if number or damaged:
            warn(failure.message)
    if damaged:
        raise typer.Exit(ExitCode.MISMATCH)
    if failures:
        raise failures[0]


@app.command("convert")
def convert_command(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="The disk to copy; parents are found beside it.")
    ],
    target: Annotated[Path, typer.Argument(metavar="DST", help="The new file; it must not exist.")],
    format: Annotated[
        str | None, typer.Option("--format", help="raw, vhdx or vhd; default: by the name of DST.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Copy a disk with its chain into a new file of another format.

    Exit codes: 0 copied; 1 failed, no new file; 2 name and format contradict each other; 14 SRC is damaged.
    """
    result = disk_convert(source, target, _format(format))
    announce(result, [*_convert_lines(result)], f"{str(target)!r} is complete")


@app.command("compare")
def compare_command(
    left: Annotated[Path, typer.Argument(metavar="A", help="One disk.")],
    right: Annotated[Path, typer.Argument(metavar="B", help="The other disk.")],
    as_json: AsJson = False,
) -> None:
    """Compare what two disks hold, whatever their formats.

    Exit codes: 0 equal; 1 they differ; 14 one is damaged.
    """
    result = disk_compare(left, right)
    answer(result, [*_compare_lines(result)])
    if not result["equal"]:
        raise typer.Exit(ExitCode.FAILED)


def _format(name: str | None) -> Format | None:
    match name:
        case None | "raw" | "vhdx" | "vhd":
            return name
        case _:
            raise UsageError(f"there is no format {name!r}.", hint="Formats are raw, vhdx and vhd.")


def _info_lines(info: dict[str, Any]) -> Iterator[str]:
    yield str(info["file"])
    yield f"  format      {info['format']}, {info['kind']}"
    yield f"  size        {info['size']} bytes ({rounded(info['size'])})"
    yield f"  sectors     {info['logical_sector']} logical, {info['physical_sector']} physical"
    if info["block_size"]:
        yield f"  blocks      {rounded(info['block_size'])}"
    if info["disk_id"]:
        yield f"  disk id     {info['disk_id']}"
    for parent in info["chain"][1:]:
        yield f"  parent      {parent}"
    if info["missing"]:
        yield f"  missing     {info['missing']}"
    if info["wanted"] and not info["parent"]:
        for identity in info["wanted"]["identities"]:
            yield f"  wanted      {identity}"
        for key, text in info["wanted"]["locators"].items():
            yield f"    {key}: {text}"
    yield f"  allocated   {info['allocated']} bytes ({rounded(info['allocated'])})"


def _check_lines(result: dict[str, Any]) -> Iterator[str]:
    for finding in result["findings"]:
        place = "" if finding["offset"] is None else f" at {finding['offset']:#x}"
        yield f"{finding['severity']}: {finding['file']}{place}: {finding['message']} [{finding['rule']}]"
    more = result["errors"] + result["warnings"] - len(result["findings"])
    if more > 0:
        yield f"{more} more are counted, but not listed."
    verdict = "ok" if result["ok"] else "damaged" if result["errors"] else "not complete"
    yield f"{result['file']}: {verdict}, {result['errors']} errors, {result['warnings']} warnings"


def _convert_lines(result: dict[str, Any]) -> Iterator[str]:
    yield f"{result['target']}: {result['format']}, {result['kind']}, {result['size']} bytes"
    for name in result["lost"]:
        yield f"  {name.replace('_', ' ')} is not kept: {result['format']} has no place for it"


def _compare_lines(result: dict[str, Any]) -> Iterator[str]:
    if result["equal"]:
        yield "The disks are equal."
        return
    for found in result["differences"]:
        what = "differ" if found["kind"] == "content" else "exist in one disk only"
        yield f"{found['length']} bytes at {found['offset']} {what}"
    if result["ranges"] > len(result["differences"]):
        yield f"and {result['ranges'] - len(result['differences'])} more ranges"
    yield f"The disks differ in {result['bytes_differing']} bytes."
