"""`vmkeep demo`: the main job on a simulated host, judged by what the host recorded."""

import os
import shlex
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from vmkeep.cli.evidence import audit_lines, reread_of
from vmkeep.cli.frame import AsJson, answer, progress, settings
from vmkeep.cli.text import rounded, shortened, visible
from vmkeep.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vmkeep.backup.host_sweep import VmSwept
    from vmkeep.cli.demo_story import OnHost, Places, Run, Seen, Story, Verdict
    from vmkeep.model.facts import VmFacts

_INDENT: Final = 16
_NARROWEST, _WIDEST = 60, 100
_LONGEST_NAME: Final = 24
_BOLD, _GREEN, _RED = "1", "32", "1;31"
_POINTS: Final = 4


def demo(
    keep: Annotated[
        Path | None,
        typer.Option(
            "--keep",
            metavar="DIR",
            help="Leave host, repository, password and restored disks in this new or empty folder, to look "
            "around and to go on.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Save two machines of a simulated host, twice; kill a run, clean up after it, bring all back, compare.

    The host is a process of its own (docs/lab.md), reached as a real one is; it also is the judge of what
    comes back. Needs no network, no rights and no program but Python; works in a temporary folder, and
    touches nothing of this user's vmkeep. --json prints a line for each act; the last one is the summary, and
    the `repository`, `password_file` and `truth` it names stay in a new temporary `folder`, some 30 MB,
    for whoever reads it to look at and to remove. Without --json and --keep nothing stays.
    Exit codes: 0 everything came back identical and nothing was left on the host; 1 something was not so.
    """
    if keep is None:
        with _temporary_folder() as folder:
            good = _play(folder, keep=False)
            if settings.json:
                _remove(folder, but=_named_in_summary(folder))
    else:
        good = _play(_empty_folder(keep), keep=True)
    if not good:
        raise typer.Exit(ExitCode.FAILED)


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Yield a folder that goes away, unless --json has named in it what the reader shall find."""
    folder = Path(tempfile.mkdtemp(prefix="vmkeep-demo-"))
    is_named = False
    try:
        yield folder
        is_named = settings.json
    finally:
        if not is_named:
            _remove(folder)


def _named_in_summary(folder: Path) -> tuple[Path, ...]:
    from vmkeep.cli.demo_story import Places

    places = Places(folder)
    return places.repository, places.password, places.truth


def _remove(folder: Path, but: tuple[Path, ...] = ()) -> None:
    """Remove what lies in a folder, and the folder itself unless something in it stays.

    On a busy machine what was just ended may write for a moment longer.
    """
    from vmkeep.clock import SystemClock

    if folder in but:
        return
    if any(folder in kept.parents for kept in but):
        for each in folder.iterdir():
            _remove(each, but)
        return
    if not folder.is_dir():
        folder.unlink()
        return
    for pause_s in (0.1, 0.5, 2.0):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        SystemClock().sleep(pause_s)
    shutil.rmtree(folder)


def _empty_folder(folder: Path) -> Path:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--keep: {str(folder)!r} is not an empty folder.", hint="Name a new one.")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder.absolute()


def _play(folder: Path, *, keep: bool) -> bool:
    """Play all acts and print what each one measured; return whether everything went as it must."""
    from vmkeep.cli.demo_story import Places, Story
    from vmkeep.clock import SystemClock

    clock, places = SystemClock(), Places(folder)
    started = clock.monotonic()
    _show("Two virtual machines are saved, changed, saved again in a blink, and brought back.", _BOLD)
    _show(f"All of it happens in {folder if keep else 'a temporary folder'}.")
    _show()
    with Story(places, clock, progress()) as story:
        port = _tell_host(story)
        full, incremental = _save(story)
        _break_and_heal(story)
        verdict = story.restore()
        at_last = story.ask_lab()
        document = _document(story, verdict, at_last, keep=keep)
    _tell_restored(verdict, (full, incremental))
    document |= {"kept": keep, "seconds": round(clock.monotonic() - started, 3)}
    good = bool(document["ok"])
    if settings.json:
        answer(document, [])
    else:
        print("\n".join(_painted(line, _GREEN if good else _RED) for line in _summary(document)))
    _tell_next(places if keep else None, port, good=good)
    return good


# --- the acts -----------------------------------------------------------------------------------


def _tell_host(story: "Story") -> int:
    facts = story.raise_host()
    where = f"{facts['transport']}://{facts['address']}:{facts['port']}"
    _act("1 a host", f"a simulated Hyper-V host, in a process that shares no code with vmkeep: {where}")
    seen = story.look()
    _act("2 seen", *_inventory(seen))
    return int(facts["port"])


def _inventory(seen: "Seen") -> list[str]:
    lines = [f"{seen.host} has {len(seen.vms)} VMs; to know them took {seen.requests} requests"]
    return lines + [f"- {shortened(visible(vm.vm.name), _LONGEST_NAME)}: {_described(vm)}" for vm in seen.vms]


def _described(vm: "VmFacts") -> str:
    size = rounded(sum(disk.virtual_size or 0 for disk in vm.disks))
    users = [checkpoint.name for checkpoint in vm.checkpoints if checkpoint.kind == "user"]
    others = [checkpoint.name for checkpoint in vm.checkpoints if checkpoint.kind == "recovery"]
    held = [f"checkpoints of its administrator: {', '.join(map(repr, users))}"] if users else []
    held += [f"another product's checkpoint {', '.join(map(repr, others))}, left alone"] if others else []
    return "; ".join([f"generation {vm.generation}, {vm.state}, {size}", *held])


def _save(story: "Story") -> tuple["Run", "Run"]:
    story.make_repository()
    full = story.take("full")
    title = "first run, into a new encrypted repository; the machines go on, what is empty is not read"
    _act("3 saved", title, *_costs(full))
    writes = story.write_on()
    _act("4 changed", f"the guests go on with their work: {writes} writes since they were first seen")
    incremental = story.take("incremental")
    _act("5 in a blink", "second run: reads what the host says has changed", *_costs(incremental))
    return full, incremental


def _costs(run: "Run") -> list[str]:
    lines = []
    for outcome in run.outcomes:
        point = outcome.sealed.point
        size = sum(disk.size for disk in point.disks)
        read = f"{rounded(point.bytes_read)} of {rounded(size)}{reread_of(point.evidence)}"
        lines.append(
            f"- {point.vm.name}: read {read}, stored "
            f"{rounded(point.bytes_stored)}, {outcome.consistency.value}-consistent, {outcome.seconds:.1f} s"
        )
        lines += [f"- {line}" for line in audit_lines(point.evidence)[:1]]
        lines += [f"- {reason.effect} ({reason.fact})" for reason in point.consistency.reasons]
    return lines


def _break_and_heal(story: "Story") -> None:
    from vmkeep.cli.demo_story import KILLED

    left = story.kill_a_run()
    lines = [f"a third run, of {KILLED}, is killed (SIGKILL) while it holds the machine"]
    for checkpoint in left:
        lines.append(f"- on the host stays the checkpoint {shortened(checkpoint['name'], 48)!r}")
        lines += [f"- it says of itself: {note.partition('. ')[0]}." for note in checkpoint["notes"]]
    lines.append(f"- {_count(story.count_points(), 'restore point')} as before: half a run is none")
    _act("6 broken", *lines)
    swept = story.heal()
    now = story.ask_lab()
    _act(
        "7 healed",
        "`vmkeep sweep` takes away what the dead run wrote down, and nothing else",
        *_swept(swept),
        f"- the host says: {_count(story.leftovers(now), 'checkpoint')} of vmkeep left, "
        f"{_count(now.merges, 'merge')} owed, all that others have is there"
        + ("" if story.has_all_of_others(now) else ": NO, SOMETHING IS GONE"),
    )


def _swept(swept: "Sequence[VmSwept]") -> list[str]:
    found = [(vm.vm.name, each) for vm in swept for run in vm.cleared for each in run.swept]
    lines = [f"- {name}: {each.what} {_short(each.id)}: {each.outcome}" for name, each in found]
    return lines + [f"- {vm.vm.name}: NOT CLEAN" for vm in swept if not vm.is_clean]


def _tell_restored(verdict: "Verdict", runs: "Sequence[Run]") -> None:
    _act(
        "8 restored",
        "every restore point, each disk judged by the host's own record of what its guest saw at that moment",
    )
    _show()
    _show(f"  {'POINT':14}{'VM':13}{'RUN':13}{'READ':>11}{'STORED':>12}   RESTORED DISK", _BOLD)
    for disk in verdict.disks:
        point = disk.point
        _show(
            f"  {point.id[:12]:14}{point.vm.name:13}{disk.run:13}{rounded(point.bytes_read):>11}"
            f"{rounded(point.bytes_stored):>12}   {'identical' if disk.identical else 'DIFFERENT'}"
        )
    _show()


# --- the end ------------------------------------------------------------------------------------


def _document(story: "Story", verdict: "Verdict", at_last: "OnHost", *, keep: bool) -> dict[str, Any]:
    """Return the summary; of its paths those exist afterwards that are not null."""
    full, incremental = story.runs
    facts = {
        "restored_identical": verdict.is_good,
        "leftover_checkpoints": story.leftovers(at_last),
        "others_untouched": story.has_all_of_others(at_last),
    }
    ok = (
        verdict.is_good
        and verdict.points == len(verdict.disks) == _POINTS
        and not story.leftovers(at_last)
        and story.has_all_of_others(at_last)
    )
    return {
        "message_type": "summary",
        "ok": ok,
        "points": verdict.points,
        **facts,
        "merges_owed": at_last.merges,
        "bytes_total": full.bytes_total,
        **{f"bytes_read_{run.name}": run.bytes_read for run in (full, incremental)},
        **{f"bytes_reread_{run.name}": run.bytes_reread for run in (full, incremental)},
        **{f"bytes_stored_{run.name}": run.bytes_stored for run in (full, incremental)},
        **{f"seconds_{run.name}": round(run.seconds, 3) for run in (full, incremental)},
        "disks": [
            {
                "point": disk.point.id,
                "vm": disk.point.vm.name,
                "disk": disk.disk,
                "run": disk.run,
                "file": str(disk.file) if keep else None,
                "sha256": disk.sha256,
                "identical": disk.identical,
            }
            for disk in verdict.disks
        ],
        "truth": str(story.truth),
        "repository": str(story.places.repository),
        "password_file": str(story.places.password),
        "folder": str(story.places.folder),
    }


def _summary(document: "Mapping[str, Any]") -> list[str]:
    """Say in one line how it ended, and in one more for each thing that went wrong."""
    same, count = sum(disk["identical"] for disk in document["disks"]), len(document["disks"])
    left = document["leftover_checkpoints"]
    wrong = {
        "a restored disk is not what its machine held": not document["restored_identical"],
        f"there are {document['points']} restore points, not {_POINTS}": document["points"] != _POINTS,
        f"{_count(left, 'checkpoint')} stayed on the host": bool(left),
        "what others have on the host is not all there": not document["others_untouched"],
    }
    found = [f"  - {text}" for text, holds in wrong.items() if holds]
    runs = ("full", "incremental")
    first, second = (rounded(document[f"bytes_read_{run}"]) for run in runs)
    again, later = (rounded(document[f"bytes_reread_{run}"]) for run in runs)
    end = (
        f"{same} of {count} restored disks are identical, bit for bit; "
        f"read {first} (and {again} for the audit), then {second} (and {later} for the audit), of "
        f"{rounded(document['bytes_total'])}; {_count(left, 'checkpoint')} left. {document['seconds']:.1f} s."
    )
    return [f"{'Good' if document['ok'] else 'NOT GOOD'}: {end}", *found]


def _tell_next(kept: "Places | None", port: int, *, good: bool) -> None:
    if not good:
        _show("This is a defect of vmkeep: please report it with everything above.")
    if kept is None:
        _show("Next: `vmkeep demo --keep DIR` to look around, `vmkeep hosts --help` for a host of your own.")
        return
    where = f"--repo {_quoted(kept.repository)} --password-file {_quoted(kept.password)}"
    _show("Next: look around (in a clone, vmkeep is `./dev run`):")
    _show(f"  vmkeep points {where}")
    _show("Start the host again, and in another terminal save once more:")
    _show(f"  vmkeep lab serve --state {_quoted(kept.lab)} --https --port {port}")
    configuration = f"VMKEEP_CONFIG={_quoted(kept.configuration)}"
    _show(f"  {configuration} vmkeep backup hyperv://lab --vm web-server --vm ledger {where}")


def _short(text: str) -> str:
    """Return the last part of a host's id or path."""
    return text.rpartition("\\")[2].removeprefix("Microsoft:")


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def _act(title: str, *lines: str) -> None:
    """Print one act: its title, and beside it what happened."""
    if settings.json:
        answer({"message_type": "act", "act": title, "lines": lines}, [])
        sys.stdout.flush()
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
