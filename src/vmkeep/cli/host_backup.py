"""`vmkeep backup hyperv://NAME`: protect VMs of a host, and tell of each."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmkeep.cli.frame import (
    announce,
    open_repository,
    progress,
    say,
    settings,
    tell_failure,
    try_answer,
    warn,
)
from vmkeep.cli.host_doors import configuration, open_host
from vmkeep.cli.outcomes import document_of, lines_of
from vmkeep.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from vmkeep.backup.host_run import VmResult
    from vmkeep.capture.source import HostAddress
    from vmkeep.model.consistency import Policy
    from vmkeep.model.plan import VmRef


@dataclass(frozen=True)
class HostOptions:
    """What was asked for of a host's VMs."""

    policy: "Policy"
    vms: tuple[str, ...]
    every: bool
    guest_backup: str
    reread: float
    reread_all: bool
    max_hold_s: float
    limit_read: int | None
    record: Path | None
    accept_rollback: bool


def backup_host(
    address: "HostAddress",
    options: HostOptions,
    repo: str,
    password_file: Path | None,
    password_command: str | None,
) -> ExitCode:
    """Take a restore point of each VM meant; return how the process ends."""
    wanted = (*((address.vm,) if address.vm is not None else ()), *options.vms)
    if options.every and wanted:
        raise UsageError("--all and a VM contradict: name VMs, or take all of them.")
    if options.guest_backup not in ("copy", "full"):
        raise UsageError(f"--guest-backup is copy or full; not {options.guest_backup!r}.")
    host = configuration().find(address.host)
    with open_repository(
        repo, password_file, password_command, meanwhile="vmkeep.backup.host_run"
    ) as repository:
        from vmkeep.backup.host_run import choose, run_host, worst
        from vmkeep.backup.vm_run import Doors, HostWish
        from vmkeep.capture.errors import LeftBehind
        from vmkeep.capture.limits import HoldLimits
        from vmkeep.clock import SystemClock
        from vmkeep.host.hyperv import HyperV, take_inventory

        clock = SystemClock()
        wish = HostWish(
            policy=options.policy,
            guest_backup="full" if options.guest_backup == "full" else "copy",
            reread=options.reread,
            reread_all=options.reread_all,
            limits=HoldLimits(max_hold_s=options.max_hold_s),
            limit_read=options.limit_read,
        )
        with open_host(host, clock, options.record) as (client, files):
            hyperv = HyperV(client, clock)
            inventory = take_inventory(replace(hyperv, silence_s=0.0))
            for medium in inventory.unassigned:
                warn(f"the host lists a medium that belongs to no VM it lists: {medium}.")
            chosen = choose(inventory, wanted, every=options.every)
            doors = Doors(host.name, hyperv, files, inventory.host.name, inventory)
            names = _names(chosen)

            def ended(result: "VmResult") -> None:
                # The failure of a single VM is the command's: it is raised below.
                if len(chosen) > 1 or result.error is None:
                    _tell(result, names[result.vm])
                if _left_behind(result):
                    warn(LeftBehind.default_hint)

            results = run_host(
                doors,
                chosen,
                wish,
                repository,
                clock,
                progress(),
                ended,
                accept_rollback=options.accept_rollback,
            )
    if len(results) == 1 and results[0].error is not None:
        raise results[0].error
    code = worst(results)
    taken = ", ".join(r.outcome.sealed.point.id for r in results if r.outcome is not None)
    announce(_document(results, code), _table(results, names), f"restore points taken: {taken or 'none'}")
    return code


def _names(chosen: "Sequence[VmRef]") -> "dict[VmRef, str]":
    """Return what each VM is called: its name, and where several have it, its id, too."""
    count = Counter(vm.name for vm in chosen)
    return {vm: vm.name if count[vm.name] == 1 else f"{vm.name} ({vm.id.lower()})" for vm in chosen}


def _tell(result: "VmResult", name: str) -> None:
    """Say at once how the run of one VM ended."""
    if result.outcome is not None:
        for text in (*result.outcome.warnings, *result.outcome.notes):
            warn(f"{name}: {text}")
    if result.error is not None:
        what = "NOT PROTECTED" if result.was_tried else "NOT PROTECTED, not even tried"
        tell_failure(f"{name}: {what}", result.error)
    if settings.json:
        try_answer({"message_type": "vm", **_fields(result)}, [])
        return
    if result.outcome is not None:
        for line in lines_of(result.outcome, name):
            say(line)


def _left_behind(result: "VmResult") -> tuple[str, ...]:
    """Return what a run that failed could not take away."""
    left = result.error.context.get("left_behind") if result.error is not None else None
    return left if isinstance(left, tuple) else ()


def _fields(result: "VmResult") -> dict[str, Any]:
    if result.outcome is not None:
        return document_of(result.outcome)
    error = result.error
    fields = {
        "vm": result.vm.name,
        "vm_id": result.vm.id.lower(),
        "exit_code": int(result.exit_code),
        "tried": result.was_tried,
    }
    if error is None:
        return fields
    told = {"error": error.code, "message": error.message, "hint": error.hint}
    return {**fields, **told, "left_behind": list(_left_behind(result))}


def _document(results: "Sequence[VmResult]", code: ExitCode) -> dict[str, Any]:
    """Return the last line: how all of it went; with one VM its fields stand here, too."""
    single = _fields(results[0]) if len(results) == 1 else {}
    return {
        "message_type": "summary",
        **single,
        "exit_code": int(code),
        "protected": sum(result.outcome is not None for result in results),
        "failed": sum(result.error is not None for result in results),
        "vms": [_fields(result) for result in results],
    }


def _table(results: "Sequence[VmResult]", names: "dict[VmRef, str]") -> list[str]:
    if len(results) < 2 or settings.quiet:
        return []
    failed = [names[result.vm] for result in results if result.error is not None]
    warned = [names[r.vm] for r in results if r.outcome is not None and r.outcome.warnings]
    lines = [f"{len(results) - len(failed)} of {len(results)} VMs are protected."]
    lines += [f"  with warnings: {name}" for name in warned]
    return lines + [f"  not protected: {name}" for name in failed]
