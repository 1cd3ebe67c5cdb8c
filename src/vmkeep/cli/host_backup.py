"""`vmkeep backup hyperv://NAME`: protect VMs of a host, and tell of each."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmkeep.cli.frame import (
    announce,
    open_repository,
    progress,
    remark,
    say,
    settings,
    summed_up,
    tell_failure,
    try_answer,
    warn,
)
from vmkeep.cli.host_clock import clock_warning
from vmkeep.cli.host_doors import configuration, open_host
from vmkeep.cli.outcomes import document_of, lines_of
from vmkeep.errors import ExitCode, UsageError, notes_of

if TYPE_CHECKING:
    from vmkeep.backup.host_run import VmResult
    from vmkeep.capture.source import HostAddress
    from vmkeep.model.consistency import Policy
    from vmkeep.model.plan import VmRef
    from vmkeep.repository.listing import SealedPoint


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
        from vmkeep.backup.host_run import choose, run_host, unmatched, worst
        from vmkeep.backup.vm_run import Doors, HostWish, Told
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
            misled = clock_warning(inventory.host, clock)
            if misled is not None:
                warn(misled)
            for medium in inventory.unassigned:
                warn(f"the host lists a medium that belongs to no VM it lists: {medium}.")
            chosen = choose(inventory, wanted, every=options.every)
            doors = Doors(host.name, hyperv, files, inventory.host.name, inventory)
            unknown = unmatched(inventory, wanted)
            names = _names([*chosen, *(result.vm for result in unknown)])
            story = _Story(names, chosen, options.every)

            def ended(result: "VmResult") -> None:
                story.results.append(result)
                if result.error is not None and _left_behind(result):
                    # Told after the error and what was left, whoever tells them.
                    result.error.add_note(_how_to_sweep(host.name))
                # The failure of a single VM is the command's: it is raised below.
                if len(names) > 1 or result.error is None:
                    _tell(result, names[result.vm])

            for result in unknown:
                ended(result)
            with summed_up(story.tell_stop), _left_told(host.name, story.results):
                run_host(
                    doors,
                    chosen,
                    wish,
                    repository,
                    clock,
                    progress(),
                    ended,
                    told=Told(story.begin, story.wait, story.seal),
                    accept_rollback=options.accept_rollback,
                )
            results = story.results
    if len(results) == 1 and results[0].error is not None:
        raise results[0].error
    code = worst(results)
    taken = ", ".join(r.outcome.sealed.point.id for r in results if r.outcome is not None)
    with _left_told(host.name, results):
        announce(_document(results, code), _table(results, names), f"restore points taken: {taken or 'none'}")
    return code


@dataclass
class _Story:
    """What has become of the VMs so far."""

    names: "dict[VmRef, str]"
    chosen: "Sequence[VmRef]"
    is_of_all: bool
    results: "list[VmResult]" = field(default_factory=list)
    _begun: "set[VmRef]" = field(default_factory=set)
    _waited_for: "set[VmRef]" = field(default_factory=set)
    _sealed: "dict[VmRef, SealedPoint]" = field(default_factory=dict)

    def begin(self, vm: "VmRef") -> None:
        self._begun.add(vm)

    def seal(self, vm: "VmRef", point: "SealedPoint") -> None:
        self._sealed[vm] = point

    def wait(self, vm: "VmRef", why: str) -> None:
        """Say once that a VM is waited for, and for what."""
        if vm not in self._waited_for:
            self._waited_for.add(vm)
            others = ", behind the others" if len(self.chosen) > 1 else ""
            remark("waiting", self.names[vm], f"waited for{others}, 10 minutes at most: {why}")

    def tell_stop(self, code: ExitCode) -> None:
        """Say what is protected and what is not, when a signal ends a run of several VMs, or of all."""
        if len(self.names) < 2 and not self.is_of_all:
            return
        ended = {result.vm for result in self.results}
        cut = [vm for vm in self.chosen if vm not in ended]
        protected = [result.vm for result in self.results if result.outcome is not None]
        protected += [vm for vm in cut if vm in self._sealed]
        document = {
            "message_type": "summary",
            "exit_code": int(code),
            "protected": len(protected),
            "failed": len(self.names) - len(protected),
            "vms": [*map(_fields, self.results), *(self._cut_short(vm, code) for vm in cut)],
        }
        lines = [f"Interrupted: {len(protected)} of {len(self.names)} VMs are protected."]
        lines += [f"  not protected: {name}" for vm, name in self.names.items() if vm not in protected]
        # What ends the command is told by its code; that this cannot be printed changes nothing.
        try_answer(document, lines)

    def _cut_short(self, vm: "VmRef", code: ExitCode) -> dict[str, Any]:
        fields = {"vm": vm.name, "vm_id": vm.id.lower(), "exit_code": int(code), "tried": vm in self._begun}
        if (sealed := self._sealed.get(vm)) is not None:
            return {**fields, "point": sealed.point.id, "id": sealed.point.id}
        why = "the command was interrupted; no restore point was taken."
        return {**fields, "error": "VK130", "message": why}


@contextmanager
def _left_told(host: str, results: "Sequence[VmResult]") -> Iterator[None]:
    """Have whatever stops the command say what it and the VMs before have left, and how that goes away."""
    from vmkeep.capture.outcome import note_left_behind

    try:
        yield
    except BaseException as error:
        for result in results:
            for what in _left_behind(result):
                note_left_behind(error, f"{result.vm.name}: {what}")
        if any("left behind" in note for note in notes_of(error)):
            error.add_note(_how_to_sweep(host))
        raise


def _how_to_sweep(host: str) -> str:
    return f"`vmkeep sweep hyperv://{host}` removes what is left; the VM's next run tries, too."


def _names(chosen: "Sequence[VmRef]") -> "dict[VmRef, str]":
    """Return what each VM is called: its name, and where several have it, its id, too."""
    count = Counter(vm.name for vm in chosen)
    is_plain = {vm: count[vm.name] == 1 or not vm.id for vm in chosen}
    return {vm: vm.name if is_plain[vm] else f"{vm.name} ({vm.id.lower()})" for vm in chosen}


def _tell(result: "VmResult", name: str) -> None:
    """Say at once how the run of one VM ended."""
    if result.outcome is not None:
        for text in (*result.outcome.warnings, *result.outcome.notes):
            warn(f"{name}: {text}")
    if result.error is not None:
        what = "NOT PROTECTED" if result.was_tried else "NOT PROTECTED, not even tried"
        tell_failure(f"{name}: {what}", result.error, with_notes=result.was_tried)
    if settings.json:
        try_answer({"message_type": "vm", **_fields(result)}, [])
        return
    if result.outcome is not None:
        for line in lines_of(result.outcome, name):
            say(line)


def _left_behind(result: "VmResult") -> tuple[str, ...]:
    """Return what a run could not take away, and what it owes of dead runs."""
    from vmkeep.capture.outcome import left_behind_by

    if result.outcome is not None:
        return result.outcome.left
    if result.error is None or not result.was_tried:
        return ()
    told = result.error.context.get("left_behind")  # of the run itself; its notes know of dead runs, too
    own = told if isinstance(told, tuple) else ()
    return tuple(dict.fromkeys((*own, *left_behind_by(result.error))))


def _fields(result: "VmResult") -> dict[str, Any]:
    if result.outcome is not None:
        return document_of(result.outcome)
    error = result.error
    fields = {
        "vm": result.vm.name,
        "vm_id": result.vm.id.lower() or None,
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
    if len(results) < 2 or (settings.quiet and not any(result.exit_code for result in results)):
        return []
    failed = [names[result.vm] for result in results if result.error is not None]
    warned = [names[r.vm] for r in results if r.outcome is not None and r.outcome.warnings]
    lines = [f"{len(results) - len(failed)} of {len(results)} VMs are protected."]
    lines += [f"  with warnings: {name}" for name in warned]
    return lines + [f"  not protected: {name}" for name in failed]
