"""`vmkeep backup`: take a restore point."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from unicodedata import category

import typer

from vmkeep.cli.evidence import audit_lines, inherited_lines
from vmkeep.cli.frame import (
    AcceptRollback,
    AsJson,
    PasswordCommand,
    PasswordFile,
    RepositoryOption,
    announce,
    open_repository,
    progress,
    settings,
    share_of,
    warn,
)
from vmkeep.cli.text import rounded
from vmkeep.errors import UsageError

if TYPE_CHECKING:
    from vmkeep.backup.run import Outcome

_LONGEST_NAME: Final = 200


def backup(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="folder:PATH (exported VM or loose disks) or disk:FILE.")
    ],
    repo: RepositoryOption = "",
    name: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="NAME",
            help="The VM's name (200 characters at most); runs with the same name are restore points of "
            "one VM.",
        ),
    ] = None,
    changes: Annotated[
        Path | None,
        typer.Option(
            "--changes",
            metavar="FILE",
            help="Read only these byte ranges, in a JSON file: [[offset, length], ...]; needs --parent.",
        ),
    ] = None,
    parent: Annotated[
        str | None,
        typer.Option(
            "--parent",
            metavar="POINT",
            help="The restore point that --changes counts from; the rest is taken over from it. Without --as "
            "the new point is one of the same VM, unless an export tells its own.",
        ),
    ] = None,
    consistency: Annotated[
        str,
        typer.Option(
            "--consistency",
            metavar="POLICY",
            help="required:LEVEL takes nothing weaker; preferred takes the best there is; any does not mind. "
            "Levels, best first: application, filesystem, saved, off, crash.",
        ),
    ] = "preferred",
    allow_interruption: Annotated[
        bool, typer.Option("--allow-interruption", help="Allow methods that pause the VM (files need none).")
    ] = False,
    reread: Annotated[
        str | None,
        typer.Option(
            "--reread",
            metavar="N%|all",
            help="Read this share of what was read a second time and compare it with what the repository "
            "gives back (default: 300 chunks, never fewer), and read back this share of what was taken over "
            "from --parent. 5 means 5%, 0.5 means 0.5%.",
        ),
    ] = None,
    reread_all: Annotated[
        bool,
        typer.Option(
            "--reread-all",
            help="Read every allocated byte, whatever is known to be unchanged; contradicts --changes.",
        ),
    ] = False,
    limit_read: Annotated[
        str | None,
        typer.Option(
            "--limit-read",
            metavar="RATE",
            help="Read at most so much of the source in a second: 50M, 1.5G, 800K (of 1024), 50MB (of 1000), "
            "or a number of bytes.",
        ),
    ] = None,
    accept_rollback: AcceptRollback = False,
    password_file: PasswordFile = None,
    password_command: PasswordCommand = None,
    as_json: AsJson = False,
) -> None:
    """Take a restore point: read the VM's disks, store what is new, prove that nothing moved meanwhile.

    Before the restore point exists, a random part of what was read is read again, from the source and
    back from the repository, and compared byte by byte; `vmkeep show` tells how much can still differ.
    Of what --changes takes over from the parent, as large a part is read back from the repository only.

    0 does not mean that all data was looked at: what the repository knows already is taken for stored,
    and a random part of it is examined. `--reread all` examines all that was read and all that was taken
    over; `vmkeep repo check --read-data all` reads the whole repository.

    Exit codes: 0 taken; 1 failed or refused, nothing taken; 3 taken, but with warnings (such as files
    left out that look like disks, or damage in the repository that was met and replaced);
    10 no repository; 11 another run of this VM is under way; 12 wrong password; 14 what is stored
    differs from the source, or the repository is damaged or was rolled back.
    """
    from vmkeep.backup.changes import read_changes
    from vmkeep.capture.source import SourceAddress
    from vmkeep.clock import SystemClock
    from vmkeep.model.consistency import Policy
    from vmkeep.pace import parse_rate

    try:
        policy = Policy.parse(consistency, allow_interruption=allow_interruption)
    except ValueError as error:
        raise UsageError(f"{error}.") from error
    if (changes is None) != (parent is None):
        raise UsageError("--changes and --parent belong together: what changed, and since when.")
    if changes is not None and reread_all:
        raise UsageError("--changes and --reread-all contradict: read what is listed, or read everything.")
    share = share_of(reread, "--reread")
    if name is not None and not _is_a_name(name):
        raise UsageError(
            f"--as needs a name of at most {_LONGEST_NAME} characters, not blank, none a control character."
        )
    rate = parse_rate(limit_read) if limit_read is not None else None
    address = SourceAddress.parse(source)
    ranges = tuple(read_changes(changes)) if changes is not None else None
    with open_repository(repo, password_file, password_command, meanwhile="vmkeep.backup.run") as repository:
        from vmkeep.backup.run import Request, run

        request = Request(
            source=address,
            policy=policy,
            name=name,
            changes=ranges,
            parent=parent,
            reread=share,
            accept_rollback=accept_rollback,
            limit_read=rate,
        )
        outcome = run(request, repository, SystemClock(), progress())
    for warning in (*outcome.warnings, *outcome.notes):
        warn(warning)
    announce(*_summary(outcome), f"restore point {outcome.sealed.point.id} is taken")
    raise typer.Exit(outcome.exit_code)


def _is_a_name(text: str) -> bool:
    return 0 < len(text) <= _LONGEST_NAME and not text.isspace() and all(category(c) != "Cc" for c in text)


def _summary(outcome: "Outcome") -> tuple[dict[str, Any], list[str]]:
    from vmkeep.planner.folder import DISKS_LEFT_OUT
    from vmkeep.repository.manifest import format_time

    point = outcome.sealed.point
    document = {
        "message_type": "summary",
        "point": point.id,
        "id": point.id,
        "vm": point.vm.name,
        "vm_id": point.vm.id,
        "time": format_time(point.time),
        "consistency": point.consistency.got.value,
        "method": point.method,
        "parent": point.parent,
        "bytes_read": point.bytes_read,
        "bytes_stored": point.bytes_stored,
        "reread_audit": point.evidence["reread_audit"],
        "seconds": round(outcome.seconds, 3),
        "reasons": [vars(reason) for reason in point.consistency.reasons],
        "warnings": list(outcome.warnings),
        "notes": list(outcome.notes),
        "exit_code": int(outcome.exit_code),
    }
    lines = [
        f"{point.vm.name}: restore point {point.id[:12]}, {point.consistency.got.value}-consistent",
        f"  read {rounded(point.bytes_read)}, stored {rounded(point.bytes_stored)}, {outcome.seconds:.1f} s",
        f"  {audit_lines(point.evidence)[0]}",
        *(f"  {line}" for line in inherited_lines(point.evidence)),
    ]
    # That files do not tell how their VM was brought to rest is so each time, and of disks that were
    # left out a warning tells; everything else is news.
    lines += [
        f"  {reason.effect} ({reason.fact})"
        for reason in point.consistency.reasons
        if settings.verbose or reason.code not in ("files-only", DISKS_LEFT_OUT)
    ]
    return document, [] if settings.quiet else lines
