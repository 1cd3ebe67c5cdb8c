"""Protect chosen VMs of a host, one after the other; the trouble of one never stops the others."""

import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from vmkeep import stopping
from vmkeep.backup.outcome import Outcome
from vmkeep.backup.vm_run import PATIENCE_S, Doors, HostWish, Told, is_busy, run_vm
from vmkeep.clock import Clock
from vmkeep.errors import ExitCode, UsageError, VmkeepError
from vmkeep.host.hyperv import Inventory, VmAmbiguous, VmNotFound
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
from vmkeep.repository.errors import RunAlive
from vmkeep.repository.repository import Repository

# From the mildest to the gravest: with several VMs the process ends with the gravest.
_GRAVITY: Final = (
    ExitCode.OK,
    ExitCode.PARTIAL,
    ExitCode.USAGE,
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
# Of several busy VMs each is waited for so long at a time.
_TURN_S: Final = 30.0
_LOOK_AGAIN_S: Final = 5.0
_NOBODY: Final = Told()


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

    Names that mean no VM, or several, are left out (:func:`unmatched`). Raises the first
    one's VmNotFound or VmAmbiguous where no name means one, and UsageError.
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
    found = [each for each in (_match(inventory, text) for text in wanted) if isinstance(each, VmRef)]
    if not found:
        inventory.find(wanted[0])
    return tuple(dict.fromkeys(found))


def unmatched(inventory: Inventory, wanted: Iterable[str]) -> list["VmResult"]:
    """Return a failure for each name that means no VM of the host, or several; it has no id."""
    found = ((text, _match(inventory, text)) for text in dict.fromkeys(wanted))
    return [
        VmResult(VmRef("", text), error=each, was_tried=False)
        for text, each in found
        if not isinstance(each, VmRef)
    ]


def _match(inventory: Inventory, text: str) -> VmRef | VmkeepError:
    try:
        return inventory.find(text).vm
    except (VmNotFound, VmAmbiguous) as error:
        return error


@dataclass
class _Turn:
    """A VM in the queue; ``error`` says what it was busy with, ``until`` how long that is waited for."""

    vm: VmRef
    error: VmkeepError | None = None
    until: float = 0.0


def run_host(
    doors: Doors,
    chosen: Sequence[VmRef],
    wish: HostWish,
    repository: Repository,
    clock: Clock,
    progress: Progress,
    ended: Callable[[VmResult], None],
    *,
    told: Told = _NOBODY,
    accept_rollback: bool = False,
) -> list[VmResult]:
    """Take a restore point of each VM; ``ended`` hears of each as soon as it is done.

    A VM that something else has waits behind the others, and is tried again for ten minutes.
    When the host or the repository is out of reach, the rest is not tried.
    Raises RolledBack before anything is done. A signal ends it when ``ended`` has heard of the
    VMs that are done, and what their outcomes say is left.
    """
    repository.listing(accept_rollback=accept_rollback)
    results: list[VmResult] = []
    lost: VmkeepError | None = None
    queue = deque(_Turn(vm) for vm in chosen)
    with stopping.held_back():
        while queue:
            stopping.look()
            turn = queue.popleft()
            if lost is not None:
                result = VmResult(turn.vm, error=lost, was_tried=turn.error is not None)
            else:
                patience_s = _patience_s(turn, queue, clock)
                result = _run_turn(doors, turn, wish, repository, clock, progress, patience_s, told)
                if is_busy(result.error) and len(chosen) > 1 and _waits(turn, result.error, clock, told):
                    queue.append(turn)
                    continue
                lost = _lost([*results, result])
            ended(result)
            results.append(result)
    return results


def _patience_s(turn: _Turn, others: Collection[_Turn], clock: Clock) -> float:
    """Return how long a VM that is busy may keep the queue waiting."""
    if any(other.error is None for other in others):
        return 0.0
    left_s = PATIENCE_S if turn.error is None else max(0.0, turn.until - clock.monotonic())
    return min(left_s, _TURN_S) if others else left_s


def _waits(turn: _Turn, error: VmkeepError | None, clock: Clock, told: Told) -> bool:
    """Put off a VM that is busy; False if that was done for long enough."""
    now = clock.monotonic()
    if turn.error is None and error is not None:
        turn.until = now + PATIENCE_S
        told.waiting(turn.vm, error.message)
    turn.error = error
    return now < turn.until


def _run_turn(
    doors: Doors,
    turn: _Turn,
    wish: HostWish,
    repository: Repository,
    clock: Clock,
    progress: Progress,
    patience_s: float,
    told: Told,
) -> VmResult:
    if isinstance(turn.error, RunAlive) and not _is_free(repository, turn.vm, clock, patience_s):
        return VmResult(turn.vm, error=turn.error)
    told.began(turn.vm)
    try:
        outcome = run_vm(doors, turn.vm, wish, repository, clock, progress, patience_s=patience_s, told=told)
        return VmResult(turn.vm, outcome)
    except VmkeepError as error:
        return VmResult(turn.vm, error=error)


def _is_free(repository: Repository, vm: VmRef, clock: Clock, patience_s: float) -> bool:
    """Wait until no other run of a VM is alive, by reading alone; False if one still is."""
    journal = repository.journal(VmRef(vm.id.lower(), vm.name), os.urandom(16).hex())
    until = clock.monotonic() + patience_s
    with stopping.at_once():
        while journal.look()[1]:
            if clock.monotonic() >= until:
                return False
            clock.sleep(_LOOK_AGAIN_S)
    return True


def worst(results: Sequence[VmResult]) -> ExitCode:
    """Return the gravest exit code of several VMs."""
    codes = [result.exit_code for result in results]
    return max(codes, key=lambda code: _GRAVITY.index(code) if code in _GRAVITY else len(_GRAVITY))


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
