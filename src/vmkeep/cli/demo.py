"""`vmkeep demo`: the main job on two small machines, judged by checksums taken without vmkeep."""

import os
import shutil
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from vmkeep.cli.frame import AsJson, answer, progress, settings
from vmkeep.cli.text import rounded, visible
from vmkeep.errors import ExitCode, UsageError, VmkeepError

if TYPE_CHECKING:
    from vmkeep.cli.demo_story import Judged, Run, Story, Tampering

_INDENT: Final = 16
_NARROWEST, _WIDEST = 60, 100
_BOLD, _GREEN, _RED = "1", "32", "1;31"


def demo(
    keep: Annotated[
        Path | None,
        typer.Option(
            "--keep",
            metavar="DIR",
            help="Leave disks, repository and password in this new or empty folder, to look around.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Protect two small virtual machines, destroy them, bring them back, and compare every byte.

    Needs no host, no network and no rights; works in a temporary folder.
    Exit codes: 0 everything came back identical; 1 something did not.
    """
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="vmkeep-demo-") as folder:
            good = _play(Path(folder), keep=False)
    else:
        good = _play(_empty_folder(keep), keep=True)
    if not good:
        raise typer.Exit(ExitCode.FAILED)


def _empty_folder(folder: Path) -> Path:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--keep: {str(folder)!r} is not an empty folder.", hint="Name a new one.")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder.absolute()


def _play(folder: Path, *, keep: bool) -> bool:
    """Play all acts and print what each one measured; return whether everything went as it must."""
    from vmkeep.cli.demo_story import REPOSITORY, Story
    from vmkeep.clock import SystemClock

    clock = SystemClock()
    started = clock.monotonic()
    _show("Two virtual machines are protected, destroyed and brought back.", _BOLD)
    _show(f"All of it happens in {folder if keep else 'a temporary folder'}.")
    _show()
    with Story(folder, clock, progress(), keep=keep) as story:
        runs = _protect(story)
        refusals = story.break_machines()
        _tell_broken(story, refusals)
        tampering = story.tamper()
        _tell_tampered(tampering)
        judged = story.restore()
        _tell_restored(judged)
    document = _document(story, runs, refusals, tampering, judged)
    document["repository"] = str(folder / REPOSITORY) if keep else None
    document["seconds"] = round(clock.monotonic() - started, 3)
    good = bool(document["ok"])
    if settings.json:
        answer(document, [])
    else:
        print("\n".join(_painted(line, _GREEN if good else _RED) for line in _verdict(document)))
    _tell_next(folder if keep else None, good=good)
    return good


def _protect(story: "Story") -> dict[str, "Run"]:
    story.unpack()
    kinds = [f"{m.name}: {rounded(m.size)} with {m.inside} inside, {m.format}" for m in story.machines]
    _act("1 unpacked", *kinds)
    story.make_repository()
    full = story.take("full")
    _act(
        "2 protected",
        "first run, into a new encrypted repository; what is empty is not read",
        _cost(story, full),
    )
    changed = story.write_on()
    _act("3 written on", f"the guests work on and change {rounded(changed)} of their disks")
    incremental = story.take("incremental")
    _act("4 in a blink", "second run, told what changed: reads only that", _cost(story, incremental))
    compare = story.take("compare")
    stored = "run two had missed nothing" if not compare.bytes_stored else "only what differs is stored"
    _act("5 in doubt", f"third run, told nothing: reads everything; {stored}", _cost(story, compare))
    return {"full": full, "incremental": incremental, "compare": compare}


def _cost(story: "Story", run: "Run") -> str:
    whole = rounded(sum(machine.size for machine in story.machines))
    return (
        f"read {rounded(run.bytes_read)} of {whole}, stored {rounded(run.bytes_stored)}, {run.seconds:.1f} s"
    )


def _tell_broken(story: "Story", refusals: list[VmkeepError]) -> None:
    overwritten, deleted = story.machines
    lines = [f"{overwritten.name}'s disks are overwritten with noise, {deleted.name} is deleted; runs say:"]
    lines += [f"- {_explained(refusal)}".replace(str(story.folder) + os.sep, "") for refusal in refusals]
    _act("6 broken", *lines)


def _explained(refusal: VmkeepError) -> str:
    return f"{refusal.message} {refusal.hint}".strip()


def _tell_tampered(tampering: "Tampering") -> None:
    refusal = tampering.refusal
    _act(
        "7 tampered",
        "one bit is flipped in a copy of the repository",
        f"- check finds: {tampering.message or 'nothing, and that must not be.'}",
        f"- restore says: {_explained(refusal) if refusal else 'nothing, and that must not be.'}",
        f"- check of the repository itself: {'no errors' if tampering.sound.ok else 'ERRORS'}, "
        f"all {tampering.sound.packs} packs read",
    )


def _tell_restored(judged: list["Judged"]) -> None:
    _act("8 restored", "every restore point, judged by checksums that vmkeep did not compute")
    _show()
    _show(f"  {'POINT':14}{'VM':13}{'RUN':12}{'READ':>11}{'STORED':>12}   RESTORED DISK", _BOLD)
    for one in judged:
        taken = one.taken
        _show(
            f"  {taken.point[:12]:14}{taken.machine.name:13}{taken.run:12}{rounded(taken.bytes_read):>11}"
            f"{rounded(taken.bytes_stored):>12}   {'identical' if one.identical else 'DIFFERENT'}"
        )
    _show()


def _verdict(document: dict[str, Any]) -> list[str]:
    """Say in one line how it ended, and in one more for each thing that went wrong."""
    same, count = sum(disk["identical"] for disk in document["disks"]), len(document["disks"])
    wrong = {
        "restored_identical": "a restored disk differs from the truth",
        "broken_sources_refused": "a destroyed disk was accepted by a run",
        "tampering_found": "check did not find the flipped bit",
        "tampered_restore_refused": "a restore accepted the flipped bit",
        "repository_sound": "check found errors where nobody made any",
    }
    found = [f"  - {text}" for name, text in wrong.items() if not document[name]]
    end = f"{same} of {count} restored disks are identical, bit for bit. {document['seconds']:.1f} s."
    return [f"{'NOT GOOD' if found else 'Good'}: {end}", *found]


def _tell_next(kept: Path | None, *, good: bool) -> None:
    from vmkeep.cli.demo_story import PASSWORD, REPOSITORY

    if not good:
        _show("This is a defect of vmkeep: please report it with everything above.")
    elif kept is None:
        _show("Next: `vmkeep demo --keep DIR` to look around, `vmkeep backup --help` for disks of your own.")
    else:
        _show("Next: look around, for example with")
        _show(
            f"  vmkeep points --repo {_quoted(kept / REPOSITORY)} --password-file {_quoted(kept / PASSWORD)}"
        )


def _quoted(path: Path) -> str:
    return f'"{path}"' if " " in str(path) else str(path)


def _document(
    story: "Story",
    runs: dict[str, "Run"],
    refusals: list[VmkeepError],
    tampering: "Tampering",
    judged: list["Judged"],
) -> dict[str, Any]:
    facts = {
        "restored_identical": bool(judged) and all(one.identical for one in judged),
        "broken_sources_refused": len(refusals) == len(story.machines),
        "tampering_found": tampering.message is not None,
        "tampered_restore_refused": tampering.refusal is not None,
        "repository_sound": tampering.sound.ok,
    }
    document: dict[str, Any] = {"message_type": "summary", "ok": all(facts.values())}
    document |= {"points": len(judged), **facts, "tampered_object": tampering.object}
    document["bytes_total"] = sum(machine.size for machine in story.machines)
    for name, run in runs.items():
        document[f"bytes_read_{name}"] = run.bytes_read
        document[f"bytes_stored_{name}"] = run.bytes_stored
        document[f"seconds_{name}"] = round(run.seconds, 3)
    document["disks"] = [
        {
            "point": one.taken.point,
            "vm": one.taken.machine.name,
            "disk": one.taken.machine.disk,
            "run": one.taken.run,
            "bytes_read": one.taken.bytes_read,
            "bytes_stored": one.taken.bytes_stored,
            "sha256": one.sha256,
            "expected": one.taken.expected,
            "identical": one.identical,
        }
        for one in judged
    ]
    return document


def _act(title: str, *lines: str) -> None:
    """Print one act: its title, and beside it what happened."""
    columns = shutil.get_terminal_size((_WIDEST, 24)).columns
    width = min(max(columns, _NARROWEST), _WIDEST) - _INDENT
    head = _painted(f" {title:{_INDENT - 1}}", _BOLD)
    for line in lines:
        hanging = "  " if line.startswith("- ") else ""
        for piece in textwrap.wrap(visible(line), width, subsequent_indent=hanging, break_long_words=False):
            _print(head + piece)
            head = " " * _INDENT


def _show(line: str = "", style: str = "") -> None:
    _print(_painted(visible(line), style) if style else visible(line))


def _print(line: str) -> None:
    if not settings.json and not settings.quiet:
        print(line.rstrip(), flush=True)


def _painted(text: str, style: str) -> str:
    """Colour a text where a person may see it and has not asked for none."""
    plain = settings.no_color or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return text if plain or not sys.stdout.isatty() else f"\x1b[{style}m{text}\x1b[0m"
