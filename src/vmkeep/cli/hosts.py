"""`vmkeep hosts`: which hosts are configured, and whether vmkeep can work with one."""

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from vmkeep import stopping
from vmkeep.cli.frame import AsJson, settings, state_folder_named, try_answer, warn
from vmkeep.cli.host_doors import Record, configuration, open_host
from vmkeep.cli.text import visible
from vmkeep.errors import UsageError

if TYPE_CHECKING:
    from vmkeep.cli.configuration import HostBlock
    from vmkeep.cli.host_checks import Examined
    from vmkeep.cli.host_verdicts import Check

app = typer.Typer(
    help="Show the configured Hyper-V hosts, and check whether vmkeep can work with one.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_MARKS: Final = {"confirmed": "yes", "refuted": "NO", "unknown": "?", "skipped": "-"}
_CONFIGURATION: Final = (
    "The configuration is the file that VMKEEP_CONFIG names, else vmkeep/config.toml in XDG_CONFIG_HOME "
    "(~/.config), on Windows in %APPDATA%; docs/rights.md shows a host's block."
)


@app.command("list", epilog=_CONFIGURATION)
def list_hosts(as_json: AsJson = False) -> None:
    """List the configured hosts; none of them is contacted.

    Exit codes: 0 listed; 2 the configuration cannot be used.
    """
    known = configuration()
    documents = [_described(host) for host in known.hosts.values()]
    lines = [
        f"{each['name']}  {each['transport']}://{each['address']}"
        f"{':' + str(each['port']) if each['port'] else ''}  {each['auth']}  {each['user'] or '-'}"
        for each in documents
    ]
    where = str(known.file) if known.file is not None else "a folder this user does not have"
    try_answer(documents, lines or [f"No host is configured in {where}."])


@app.command("check", epilog=_CONFIGURATION)
def check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The host's name in the configuration.")],
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE",
            help="Also write it as Markdown, without any name, path or secret: into a new file, or over an "
            "earlier report, and nothing else.",
        ),
    ] = None,
    record: Record = None,
    probe: Annotated[
        str | None,
        typer.Option(
            "--probe",
            metavar="VM",
            help="Also have the host make a checkpoint of this VM (name or id), read 1 MiB and remove it; "
            "asks before.",
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Agree to --probe beforehand; needed where nobody can be asked.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Try every kind of call that a run makes on a host, and say what each attempt shows.

    Nothing on the host is changed, except by --probe. Each check is confirmed, refuted, unknown or skipped;
    what is refuted comes with the missing right or the next step. The least rights, and how to grant them:
    docs/rights.md.

    --probe makes one recovery checkpoint, which the guest does not notice unless the host makes only others,
    and waits until it is gone and its layers are merged, however the command ends. Should the command be
    killed, the next probe from this machine removes what it left; until then `hosts check` says so.

    Exit codes: 0 all is well; 1 something that a run needs is refuted, no VM is called as --probe says, or
    a probe left something behind; 2 the configuration cannot be used, several VMs are called as --probe
    says, or nobody could be asked about it; 3 something is unknown or weaker than it should be; 11 another
    probe of this host is under way on this machine; 13 the host is out of reach or refuses.
    """
    from vmkeep.cli.host_checks import Examined
    from vmkeep.cli.host_probe import left_told
    from vmkeep.cli.report_file import require_place

    host = configuration().find(name)
    if probe is None and yes:
        raise UsageError("--yes agrees to --probe, and there is none.")
    if probe is not None and not yes and not sys.stdin.isatty():
        raise UsageError(
            "--probe changes something on the host, and nobody can be asked here.",
            hint="Repeat with --yes, or at a terminal.",
        )
    if report is not None:
        require_place(report)
    checks: list[Check] = []
    with left_told(checks):
        requests = _examine(host, probe, lambda: yes or _agreed(host, str(probe)), record, checks)
        _tell(host, Examined(tuple(checks), requests), report)


def _tell(host: "HostBlock", found: "Examined", report: Path | None) -> None:
    """Print what was found, and end as it says."""
    from vmkeep.cli.host_report import report_of
    from vmkeep.cli.host_verdicts import exit_code_of, summary_of
    from vmkeep.cli.report_file import put_report
    from vmkeep.clock import SystemClock

    checks = found.checks
    code, summary = exit_code_of(checks), summary_of(checks)
    document = {
        "message_type": "host_check",
        "host": host.name,
        "ok": code == 0,
        "exit_code": int(code),
        "summary": summary,
        "requests": found.requests,
        "checks": [check.as_document() for check in checks],
    }
    unheard = try_answer(document, [*_lines(found), summary])
    if report is not None:
        put_report(report, report_of(checks, summary, SystemClock().now()))
    if unheard is not None:
        warn(f"the result could not be printed: {unheard}.")
    if code:
        raise typer.Exit(int(code))


def _examine(
    host: "HostBlock",
    probe: str | None,
    consent: Callable[[], bool],
    record: Path | None,
    checks: "list[Check]",
) -> int:
    """Get in and try everything; with ``probe`` also what changes something, if there is consent.

    What is found is added to ``checks``; returns the number of requests.
    """
    from vmkeep.capture.errors import ProbeUnnoted
    from vmkeep.capture.probe import ProbeNotes
    from vmkeep.cli import host_probe
    from vmkeep.cli.host_checks import examine
    from vmkeep.clock import SystemClock
    from vmkeep.host.hyperv import HyperV

    clock = SystemClock()
    folder = state_folder_named()
    notes = None if folder is None else ProbeNotes(folder, host.name, clock)
    with ExitStack() as open_until_end:
        if probe is not None:
            if notes is None:
                raise ProbeUnnoted("this user has no folder in which a probe could be written down.")
            open_until_end.enter_context(notes.alone())
        client, files = open_until_end.enter_context(open_host(host, clock, record))
        checks += examine(client, files, host.path_map(), clock, _announce).checks
        _announce("")
        if notes is not None and probe is None:
            checks += host_probe.earlier_probes(notes)
        if notes is not None and probe is not None:
            watched = HyperV(client, clock, lambda waiting: _announce(waiting.what))
            wish = host_probe.ProbeWish(host.address, probe, consent)
            with stopping.held_back():
                checks += host_probe.probe(watched, files, wish, notes, checks)
            _announce("")
        return client.requests


def _agreed(host: "HostBlock", vm: str) -> bool:
    """Ask at the terminal whether a VM may be probed."""
    return typer.confirm(
        f"Probe the VM {visible(vm)} of {visible(host.name)}? The host makes a recovery checkpoint of it, "
        "1 MiB of its frozen disk is read, and the checkpoint is removed and merged; what an earlier probe "
        "of this machine left goes first. The VM runs on.",
        err=True,
    )


def _described(host: "HostBlock") -> dict[str, Any]:
    """Return a host as the configuration describes it: where a password is, never the password."""
    return {
        "name": host.name,
        "address": host.address,
        "port": host.port,
        "transport": host.transport,
        "auth": host.auth,
        "user": host.user,
        "password_file": None if host.password_file is None else str(host.password_file),
        "password_command": host.password_command is not None,
        "ca_file": None if host.ca_file is None else str(host.ca_file),
        "smb_port": host.smb_port,
        "smb_encryption": host.smb_encryption,
        "paths": dict(host.paths),
    }


def _lines(found: "Examined") -> Sequence[str]:
    """Return what was found for people: a line for each check, and what to do about those that need it."""
    lines: list[str] = []
    told: set[str] = set()  # a hundred folders that are refused for one reason need one hint
    for check in found.checks:
        fact = f": {check.fact}" if check.fact else ""
        what = check.subject or check.means
        lines.append(f"{_MARKS[check.state]:>3}  {check.name:<16} {what}{fact}")
        if check.state in {"refuted", "unknown"}:
            texts = [check.detail, *([] if check.hint in told else [check.hint])]
            lines += [f"{'':>22}{text}" for text in texts if text]
            told.add(check.hint)
        elif check.detail and settings.verbose:
            lines.append(f"{'':>22}{check.detail}")
    return lines


def _announce(what: str) -> None:
    """Show on a terminal what is being tried; empty: nothing any more."""
    if not settings.quiet and not settings.json and sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{visible(what)}{' ...' if what else ''}")
        sys.stderr.flush()
