"""Protect chosen VMs of a host, one after the other; the failure of one never stops the others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from vmkeep.backup.outcome import Outcome
from vmkeep.backup.vm_run import Doors, HostWish, run_vm
from vmkeep.clock import Clock
from vmkeep.errors import ExitCode, UsageError, VmkeepError
from vmkeep.host.hyperv import Inventory, VmNotFound
from vmkeep.host.wsman import (
    ClocksDisagree,
    HostError,
    HostNotTrusted,
    HostUnreachable,
    LoginImpossible,
    LoginRefused,
)
from vmkeep.model.plan import VmRef
from vmkeep.progress import Progress
from vmkeep.repository.repository import Repository

# From the mildest to the gravest: with several VMs the process ends with the gravest.
_GRAVITY: Final = (
    ExitCode.OK,
    ExitCode.PARTIAL,
    ExitCode.FAILED,
    ExitCode.BUSY,
    ExitCode.HOST_UNREACHABLE,
    ExitCode.REPOSITORY_MISSING,
    ExitCode.WRONG_KEY,
    ExitCode.MISMATCH,
)

# After these the host is out of reach for every VM, and another login may lock the account.
_OUT_OF_REACH: Final = (ClocksDisagree, HostNotTrusted, HostUnreachable, LoginImpossible, LoginRefused)
# So many VMs one after the other for which the host failed: it fails for the others, too.
_ENOUGH_FAILURES: Final = 2


@dataclass(frozen=True)
class VmResult:
    """How the run of one VM ended: with an outcome, or with an error and no restore point.

    ``was_tried`` is false where the error is that of a VM before it.
    """

    vm: VmRef
    outcome: Outcome | None = None
    error: VmkeepError | None = None
    was_tried: bool = True

    @property
    def exit_code(self) -> ExitCode:
        if self.error is not None:
            return self.error.exit_code
        return self.outcome.exit_code if self.outcome is not None else ExitCode.FAILED


def choose(inventory: Inventory, wanted: Sequence[str], *, every: bool) -> tuple[VmRef, ...]:
    """Return the VMs meant: those named, by name or id, each once, or all of the host's.

    Raises VmNotFound, VmAmbiguous and UsageError.
    """
    if every:
        if not inventory.vms:
            raise VmNotFound("the host has no VM.")
        return tuple(vm.vm for vm in inventory.vms)
    if not wanted:
        raise UsageError(
            "no VM was chosen.",
            hint=f"Use hyperv://NAME/VM, --vm or --all; the host has {inventory.some_names()}.",
        )
    found = [inventory.find(text).vm for text in wanted]
    return tuple(dict.fromkeys(found))


def run_host(
    doors: Doors,
    chosen: Sequence[VmRef],
    wish: HostWish,
    repository: Repository,
    clock: Clock,
    progress: Progress,
    ended: Callable[[VmResult], None],
    *,
    accept_rollback: bool = False,
) -> list[VmResult]:
    """Take a restore point of each VM; ``ended`` hears of each as soon as it is done.

    When the host or the repository is out of reach, the rest is not tried.
    Raises RolledBack before anything is done.
    """
    repository.listing(accept_rollback=accept_rollback)
    results: list[VmResult] = []
    lost: VmkeepError | None = None
    for vm in chosen:
        if lost is not None:
            result = VmResult(vm, error=lost, was_tried=False)
        else:
            result = _run_one(doors, vm, wish, repository, clock, progress)
            lost = _lost([*results, result])
        ended(result)
        results.append(result)
    return results


def worst(results: Sequence[VmResult]) -> ExitCode:
    """Return the gravest exit code of several VMs."""
    codes = [result.exit_code for result in results]
    return max(codes, key=lambda code: _GRAVITY.index(code) if code in _GRAVITY else len(_GRAVITY))


def _run_one(
    doors: Doors, vm: VmRef, wish: HostWish, repository: Repository, clock: Clock, progress: Progress
) -> VmResult:
    try:
        return VmResult(vm, run_vm(doors, vm, wish, repository, clock, progress))
    except VmkeepError as error:
        return VmResult(vm, error=error)


def _lost(results: Sequence[VmResult]) -> VmkeepError | None:
    """Return the last error if no further VM is worth a try."""
    error = results[-1].error
    if isinstance(error, _OUT_OF_REACH):
        return error
    if error is not None and error.exit_code in (ExitCode.REPOSITORY_MISSING, ExitCode.WRONG_KEY):
        return error
    last = [result.error for result in results[-_ENOUGH_FAILURES:]]
    return error if len(last) == _ENOUGH_FAILURES and all(map(_is_the_hosts, last)) else None


def _is_the_hosts(error: VmkeepError | None) -> bool:
    # A share that cannot be reached may be one VM's alone; the host's WS-Management is everybody's.
    return isinstance(error, HostError) and error.exit_code is ExitCode.HOST_UNREACHABLE
