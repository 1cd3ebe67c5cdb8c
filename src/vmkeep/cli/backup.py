"""`vmkeep backup`: take a restore point."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from unicodedata import category

import typer

from vmkeep.cli.frame import (
    AcceptRollback,
    AsJson,
    PasswordCommand,
    PasswordFile,
    RepositoryOption,
    announce,
    open_repository,
    progress,
    seconds_of,
    share_of,
    warn,
)
from vmkeep.cli.host_doors import Record
from vmkeep.cli.outcomes import document_of, lines_of
from vmkeep.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from vmkeep.capture.source import SourceAddress
    from vmkeep.model.consistency import Policy

_LONGEST_NAME: Final = 200


def backup(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="hyperv://NAME (a configured host) or hyperv://NAME/VM, folder:PATH (exported VM or loose "
            "disks) or disk:FILE.",
        ),
    ],
    repo: RepositoryOption = "",
    vms: Annotated[
        list[str] | None,
        typer.Option(
            "--vm", metavar="NAME|GUID", help="A VM of the host, by name or id; may be given several times."
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All VMs of the host, new ones too.")] = False,
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
            "Levels, best first: application, filesystem, saved, off, crash. Of a VM that is off nobody "
            "knows that it was shut down cleanly: its point is taken, and ends with 3 where better than off "
            "is required.",
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
    guest_backup: Annotated[
        str,
        typer.Option(
            "--guest-backup",
            metavar="copy|full",
            help="What a host tells the guest's applications: copy, or full, after which they may truncate "
            "their logs.",
        ),
    ] = "copy",
    max_hold: Annotated[
        str,
        typer.Option(
            "--max-hold",
            metavar="TIME",
            help="How long a VM may be held at most, such as 90m or 12h; then it is released and nothing "
            "taken.",
        ),
    ] = "12h",
    record: Record = None,
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

    A VM on a host is brought to rest by a checkpoint that lasts until the point is sealed, and is merged
    again then; it goes on running. From the second time on only what changed is read, where the host's
    change tracking (RCT) can be trusted. One VM's failure never stops the others, nor does a name that
    the host does not know.

    A VM that is busy (with an operation of its host, or another run) goes behind the others and is waited
    for, 10 minutes at most; a line says so. Alone, a VM that another run has is not waited for: 11.
    A host that is too busy to make a checkpoint is asked again for 2 minutes.

    Before the restore point exists, a random part of what was read is read again, from the source and
    back from the repository, and compared byte by byte; `vmkeep show` tells how much can still differ.
    Of what --changes takes over from the parent, as large a part is read back from the repository only.

    0 does not mean that all data was looked at: what the repository knows already is taken for stored,
    and a random part of it is examined. `--reread all` examines all that was read and all that was taken
    over; `vmkeep repo check --read-data all` reads the whole repository.

    With -q nothing is printed when all is well, else what went wrong, what is weak in the host's block of
    the configuration and, of several VMs, how many are protected. With -v each step is told on standard
    error when it has ended, and how long it took.

    Exit codes: 0 taken; 1 failed or refused, nothing taken; 3 taken, but with warnings (such as files
    or disks left out, a point weaker than promised, or damage in the repository that was met and
    replaced), or the hold reached its limit; 10 no repository; 11 the VM is busy;
    12 wrong password; 13 the host is out of reach or refuses; 14 what is stored differs from the source,
    or the repository is damaged or was rolled back. With several VMs the gravest of their codes.
    """
    from vmkeep.capture.source import HostAddress, parse_source
    from vmkeep.model.consistency import Policy
    from vmkeep.pace import parse_rate

    try:
        policy = Policy.parse(consistency, allow_interruption=allow_interruption)
    except ValueError as error:
        raise UsageError(f"{error}.") from error
    share = share_of(reread, "--reread")
    rate = parse_rate(limit_read) if limit_read is not None else None
    address = parse_source(source)
    if isinstance(address, HostAddress):
        _refuse_what_is_for_files(name, changes, parent)
        from vmkeep.cli.host_backup import HostOptions, backup_host

        options = HostOptions(
            policy=policy,
            vms=tuple(vms or ()),
            every=every,
            guest_backup=guest_backup,
            reread=share,
            reread_all=reread_all,
            max_hold_s=seconds_of(max_hold, "--max-hold"),
            limit_read=rate,
            record=record,
            accept_rollback=accept_rollback,
        )
        raise typer.Exit(backup_host(address, options, repo, password_file, password_command))
    if vms or every or record is not None:
        raise UsageError("--vm, --all and --record are for a host (hyperv://NAME).")
    if (changes is None) != (parent is None):
        raise UsageError("--changes and --parent belong together: what changed, and since when.")
    if changes is not None and reread_all:
        raise UsageError("--changes and --reread-all contradict: read what is listed, or read everything.")
    if name is not None and not _is_a_name(name):
        raise UsageError(
            f"--as needs a name of at most {_LONGEST_NAME} characters, not blank, none a control character."
        )
    wish = Files(address, policy, name, changes, parent, share, accept_rollback, rate)
    raise typer.Exit(_take_of_files(wish, repo, password_file, password_command))


@dataclass(frozen=True)
class Files:
    """What was asked for of files that lie still."""

    address: "SourceAddress"
    policy: "Policy"
    name: str | None
    changes: Path | None
    parent: str | None
    reread: float
    accept_rollback: bool
    limit_read: int | None


def _take_of_files(
    wish: Files, repo: str, password_file: Path | None, password_command: str | None
) -> ExitCode:
    """Take a restore point of files; return how the process ends."""
    from vmkeep.backup.changes import read_changes
    from vmkeep.clock import SystemClock

    ranges = tuple(read_changes(wish.changes)) if wish.changes is not None else None
    with open_repository(repo, password_file, password_command, meanwhile="vmkeep.backup.run") as repository:
        from vmkeep.backup.run import Request, run

        request = Request(
            source=wish.address,
            policy=wish.policy,
            name=wish.name,
            changes=ranges,
            parent=wish.parent,
            reread=wish.reread,
            accept_rollback=wish.accept_rollback,
            limit_read=wish.limit_read,
        )
        shown = progress()
        try:
            outcome = run(request, repository, SystemClock(), shown)
        finally:
            shown.end()
    for warning in (*outcome.warnings, *outcome.notes):
        warn(warning)
    document = {"message_type": "summary", **document_of(outcome)}
    announce(document, lines_of(outcome), f"restore point {outcome.sealed.point.id} is taken")
    return outcome.exit_code


def _refuse_what_is_for_files(name: str | None, changes: Path | None, parent: str | None) -> None:
    if name is not None or changes is not None or parent is not None:
        raise UsageError(
            "--as, --changes and --parent are for folder: and disk: sources.",
            hint="A host tells names and changes itself.",
        )


def _is_a_name(text: str) -> bool:
    return 0 < len(text) <= _LONGEST_NAME and not text.isspace() and all(category(c) != "Cc" for c in text)
