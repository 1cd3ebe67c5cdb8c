"""`vmkeep sweep`: remove what crashed runs of this repository left on a host."""

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from vmkeep.cli.frame import (
    AsJson,
    PasswordCommand,
    PasswordFile,
    RepositoryOption,
    announce,
    open_repository,
    say,
    settings,
    warn,
)
from vmkeep.cli.host_doors import Record, configuration, open_host
from vmkeep.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from vmkeep.backup.host_sweep import VmSwept
    from vmkeep.backup.leftovers import Cleared, Question

_CLEAN: Final = "Nothing of an unfinished run is left."


def sweep(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="hyperv://NAME, or hyperv://NAME/VM for one VM.")
    ],
    repo: RepositoryOption = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be removed; change nothing.")
    ] = False,
    ours: Annotated[
        list[str] | None,
        typer.Option("--ours", metavar="ID", help="This, which nobody could tell, is ours: remove it."),
    ] = None,
    not_ours: Annotated[
        list[str] | None,
        typer.Option("--not-ours", metavar="ID", help="This is another program's: leave it for good."),
    ] = None,
    host_gone: Annotated[
        list[str] | None,
        typer.Option(
            "--host-gone", metavar="RUN", help="The host or the VM of this run exists no more: close it."
        ),
    ] = None,
    record: Record = None,
    password_file: PasswordFile = None,
    password_command: PasswordCommand = None,
    as_json: AsJson = False,
) -> None:
    """Remove what crashed runs of this repository left on a host: checkpoints, reference points, merges.

    Only what such a run wrote down before it died is touched; a run that still lives, and everybody
    else's checkpoints, are left alone. Each `vmkeep backup` of a VM does the same first. Any machine with
    the repository and its password can do it, once the dead run's claim has ended (30 minutes at most).

    What may be the dead run's or another program's is left, and told with the two commands that decide
    it: --ours ID and --not-ours ID, each as often as needed. A run that worked on another host, or may
    have, is left to a sweep of that one; --host-gone RUN closes it where that host exists no more, or its VM.

    Exit codes: 0 nothing is left (with --dry-run: nothing is to be removed); 1 failed; 2 an ID that
    nobody has to decide about; 3 something is left, and why is said; 10 no repository; 12 wrong password;
    13 the host is out of reach or refuses.
    """
    from vmkeep.capture.source import HostAddress, parse_source

    address = parse_source(source)
    if not isinstance(address, HostAddress):
        raise UsageError("only a host can be swept: hyperv://NAME or hyperv://NAME/VM.")
    host = configuration().find(address.host)
    with open_repository(
        repo, password_file, password_command, meanwhile="vmkeep.backup.host_sweep"
    ) as repository:
        from vmkeep.backup.host_sweep import sweep_host
        from vmkeep.backup.leftovers import questions
        from vmkeep.backup.vm_run import Doors
        from vmkeep.capture.sweep import Said
        from vmkeep.clock import SystemClock
        from vmkeep.host.hyperv import HyperV

        clock = SystemClock()
        with open_host(host, clock, record) as (client, files):
            doors = Doors(host.name, HyperV(client, clock), files)
            said = Said.of(ours or (), not_ours or (), host_gone or ())
            results = sweep_host(doors, repository, address.vm, dry_run=dry_run, ended=_tell, said=said)
            asked = questions([each for result in results for each in result.cleared], source, repository)
    for question in asked:
        warn(f"only you can decide whose it is: {question}.")
    is_clean = all(result.is_clean for result in results)
    code = ExitCode.OK if is_clean and not (dry_run and _would(results)) else ExitCode.PARTIAL
    document = {
        "message_type": "summary",
        "dry_run": dry_run,
        "exit_code": int(code),
        "vms": [_fields(result) for result in results],
        "decide": [_decision(question) for question in asked],
    }
    announce(document, [_CLEAN] if code is ExitCode.OK and not settings.quiet else [], "the sweep is done")
    raise typer.Exit(code)


def _would(results: "list[VmSwept]") -> bool:
    swept = [s for result in results for cleared in result.cleared for s in cleared.swept]
    return any(each.outcome == "would be removed" for each in swept)


def _tell(result: "VmSwept") -> None:
    """Say at once what became of one VM."""
    name = result.vm.name
    if result.error is not None:
        warn(f"{name}: not swept: {result.error.message} {result.error.hint}".rstrip())
    for run in result.living:
        warn(f"{name}: the run {run} is alive, and left alone.")
    for checkpoint in result.unwritten:
        warn(
            f"{name}: no open run wrote down the checkpoint {checkpoint!r}; it is left. Its notes say how to "
            "remove it."
        )
    for cleared in result.cleared:
        for line in _lines(cleared):
            say(f"{name}: {line}")
        if cleared.why:
            warn(f"{name}: the run {cleared.run} is not cleaned up: {cleared.why}")


def _lines(cleared: "Cleared") -> list[str]:
    found = [f"{s.what} {s.id}: {s.outcome}" + (f", {s.why}" if s.why else "") for s in cleared.swept]
    return found or ([] if cleared.why else [f"the run {cleared.run} left nothing"])


def _decision(question: "Question") -> dict[str, str]:
    """Return what is to be decided, and the two commands."""
    swept = question.swept
    return {"what": swept.what, "id": swept.id, "ours": question.ours, "not_ours": question.not_ours}


def _fields(result: "VmSwept") -> dict[str, Any]:
    fields: dict[str, Any] = {
        "vm": result.vm.name,
        "vm_id": result.vm.id,
        "living": list(result.living),
        "unwritten": list(result.unwritten),
        "runs": [
            {
                "run": cleared.run,
                "buried": cleared.buried,
                "why": cleared.why,
                "elsewhere": cleared.elsewhere or None,
                "swept": [vars(each) for each in cleared.swept],
            }
            for cleared in result.cleared
        ],
    }
    if result.error is not None:
        fields |= {"error": result.error.code, "message": result.error.message}
    return fields
