"""`vmkeep points` and `vmkeep show`: what can be restored, and what is known about it."""

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from vmkeep.cli.evidence import audit_lines, read_all_lines, reread_of, why_unproven
from vmkeep.cli.frame import (
    AcceptRollback,
    AsJson,
    PasswordCommand,
    PasswordFile,
    PointArgument,
    RepositoryOption,
    answer,
    open_repository,
    warn,
)
from vmkeep.cli.text import rounded, shortened
from vmkeep.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmkeep.model.consistency import Consistency
    from vmkeep.model.point import RestorePoint

_CLOCKS_DIFFER: Final = timedelta(minutes=1)


def points(
    vm: Annotated[str | None, typer.Argument(metavar="VM", help="Only this VM, by name or id.")] = None,
    repo: RepositoryOption = "",
    accept_rollback: AcceptRollback = False,
    password_file: PasswordFile = None,
    password_command: PasswordCommand = None,
    as_json: AsJson = False,
) -> None:
    """List restore points, oldest first. Times are in UTC, here and in VM@TIME.

    What is wrong is named on standard error. All intact points are listed all the same, but none of a
    repository that was rolled back or replaced: not before --accept-rollback.
    Exit codes: 0 listed (also when there are none); 10 no repository; 12 wrong password;
    14 some objects are damaged, a restore point vanished, or the repository was rolled back
    or replaced.
    """
    from vmkeep.clock import SystemClock
    from vmkeep.model.names import did_you_mean

    with open_repository(repo, password_file, password_command) as repository:
        listing = repository.listing(accept_rollback=accept_rollback)
        chosen = [s for s in listing.points if vm is None or s.point.vm.is_called(vm)]
        rows = [_row(sealed.point, repository.points.consistency_of(sealed)) for sealed in chosen]
    lines = [f"{'POINT':14}{'TIME':22}{'VM':24}{'CONSISTENCY':13}{'DISKS':>6}{'SIZE':>12}{'STORED':>12}"]
    lines += [
        f"{row['id'][:12]:14}{row['time'][:19] + 'Z':22}{shortened(row['vm'], 23):24}{row['consistency']:13}"
        f"{len(row['disks']):>6}{rounded(sum(d['size'] for d in row['disks'])):>12}"
        f"{rounded(row['bytes_stored']):>12}"
        for row in rows
    ]
    nothing = "no restore points"
    if vm is not None:
        meant = did_you_mean(vm, (sealed.point.vm.name for sealed in listing.points))
        nothing += f" of a VM called {vm!r}{meant or '; `vmkeep points` lists all'}"
    answer(rows, lines if rows else [nothing])
    problems = [*listing.problems, *listing.gaps]
    for problem in problems:
        warn(problem.message)
    soon = SystemClock().now() + _CLOCKS_DIFFER
    for sealed in chosen:
        if sealed.point.time > soon:
            warn(
                f"the restore point {sealed.point.id[:12]} bears a time in the future: the clock was wrong "
                "then, or is now. A VM's latest point is told by its number, not by its time."
            )
    if problems:
        raise typer.Exit(ExitCode.MISMATCH)


def show(
    point: PointArgument,
    repo: RepositoryOption = "",
    accept_rollback: AcceptRollback = False,
    password_file: PasswordFile = None,
    password_command: PasswordCommand = None,
    as_json: AsJson = False,
) -> None:
    """Tell everything that is known about one restore point, like a report.

    Exit codes: 0 shown; 1 no such restore point; 10 no repository; 12 wrong password;
    14 damaged or rolled back.
    """
    from vmkeep.repository.manifest import manifest_fields

    with open_repository(repo, password_file, password_command) as repository:
        sealed = repository.listing(accept_rollback=accept_rollback).find(point)
        proven = repository.points.consistency_of(sealed)
        later = repository.points.attached("evidence", sealed.name)
        tracking = repository.points.attached("tracking", sealed.name)
    fields: dict[str, Any] = manifest_fields(sealed.point)
    document = _row(sealed.point, proven) | fields | {"object": sealed.name, "digest": sealed.digest.hex()}
    document |= {"vm": sealed.point.vm.name, "vm_id": sealed.point.vm.id, "claim": fields["consistency"]}
    document |= {"consistency": proven.value, "later_evidence": later, "tracking": tracking}
    answer(document, _report(fields, proven, later))


def _report(fields: dict[str, Any], proven: "Consistency", later: "Sequence[dict[str, Any]]") -> list[str]:
    claim, evidence = fields["consistency"], fields["evidence"]
    lines = [
        f"restore point {fields['point']}",
        f"  VM           {fields['vm']['name']}  ({fields['vm']['id']}), number {fields['number']}",
        f"  taken        {fields['time']} from {fields['source']}, method {fields['method']}",
        f"  consistency  {proven.value} (asked: {claim['asked']}, promised: {claim['promised']})",
    ]
    if proven.value != claim["promised"] and evidence.get("read_back"):
        lines.append(f"  not proven   {claim['promised']}: {why_unproven(evidence, later)}")
    for reason in claim["reasons"]:
        lines += [
            f"    {reason['fact']}",
            f"      {reason['effect']}",
            f"      To do better: {reason['fix']}",
        ]
    read = rounded(fields["bytes_read"]) + reread_of(fields["evidence"])
    lines.append(f"  read         {read}, stored {rounded(fields['bytes_stored'])}")
    lines.append(f"  parent       {fields['parent'] or 'none'}")
    if fields["parent"] is not None:
        lines += [f"  read in full {line}" for line in read_all_lines(evidence)]
    for number, disk in enumerate(fields["disks"]):
        sectors = f"{disk['logical_sector']}/{disk['physical_sector']}"
        lines.append(
            f"  disk {number}       {disk['name']}: {rounded(disk['size'])} ({disk['size']} bytes), "
            f"{disk['format']} {disk['kind']}, sectors {sectors}, id {disk['disk_id'] or 'none'}"
        )
        lines.append(f"               root {disk['root'] or 'none (all zeros)'}")
    lines += [f"  file         {f['name']} ({f['role']}, {rounded(f['size'])})" for f in fields["files"]]
    check = evidence.get("hold_check")
    if check:
        lines.append(f"  hold check   {check['files']} files stood still while they were read")
    return lines + [
        f"  {'re-read' if i == 0 else '':13}{line}" for i, line in enumerate(audit_lines(evidence))
    ]


def _row(point: "RestorePoint", proven: "Consistency") -> dict[str, Any]:
    from vmkeep.repository.manifest import format_time

    return {
        "id": point.id,
        "vm": point.vm.name,
        "vm_id": point.vm.id,
        "time": format_time(point.time),
        "consistency": proven.value,
        "source": point.source,
        "method": point.method,
        "disks": [{"name": disk.name, "size": disk.size} for disk in point.disks],
        "bytes_read": point.bytes_read,
        "bytes_stored": point.bytes_stored,
        "parent": point.parent,
    }
