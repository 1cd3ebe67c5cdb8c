"""Have a host make a checkpoint of one VM, read a little of it, let it go, and say what each step shows.

The only checks that change something on the host. What they change is in a
journal first (:mod:`vmkeep.capture.probe`); what a probe that dies leaves, the next one removes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final, Literal

from vmkeep import stopping
from vmkeep.backup.leftovers import stoppable
from vmkeep.capture.checkpoint import CheckpointHold, hold_vm
from vmkeep.capture.errors import ProbeUnnoted
from vmkeep.capture.limits import HoldLimits
from vmkeep.capture.outcome import Released, left_behind_by, note_left_behind
from vmkeep.capture.probe import DeadProbe, FileJournal, ProbeNotes
from vmkeep.capture.states import HOLDING, MADE, RELEASING, HoldState
from vmkeep.capture.sweep import Swept, sweep
from vmkeep.cli.host_verdicts import Check, confirmed, failed, judged, refuted, skipped, unknown
from vmkeep.errors import VmkeepError, notes_of
from vmkeep.formats.disk import Disk
from vmkeep.host.files.host_files import HostFiles
from vmkeep.host.hyperv import (
    HyperV,
    HyperVError,
    MergeUnfinished,
    NotSupported,
    Owner,
    RequestRefused,
    read_power_state,
    take_inventory,
)
from vmkeep.host.hyperv.owners import PROBES
from vmkeep.host.wsman import HostError
from vmkeep.model.facts import HostFacts, VmFacts

_READ: Final = 1 << 20
# What waits for a probe is a person; a layer that is a few seconds old is merged in less.
_LIMITS: Final = HoldLimits(max_hold_s=600.0, merge_s=900.0, abandon_merge_s=900.0)
_EARLIER: Final = "nothing of an earlier probe is left on the host"
_MEANS: Final[Mapping[str, str]] = {
    "probe-vm": "the VM is there, and nothing speaks against a checkpoint of it now",
    "probe-checkpoint": "the host makes a recovery checkpoint of the VM",
    "probe-read": "a frozen disk of the VM can be read",
    "probe-still": "nothing moved while the VM was held",
    "probe-release": "the checkpoint goes, and its layers are merged",
    "probe-power": "the VM's power state is as it was",
}
_OF_WHAT_IS_LEFT: Final = frozenset({"probe-earlier", "probe-release"})
_NOTHING_LEFT: Final = frozenset({"confirmed", "skipped"})
# Without these a probe would only fail, or say nothing new.
_NEEDED_BEFORE: Final = frozenset({"login", "read-wmi", "invoke", "version", "edition"})
_AGAIN: Final = "The next `vmkeep hosts check NAME --probe VM` on this machine removes it first"
_CLEAN_UP: Final = (
    f"{_AGAIN}. By hand, in PowerShell on the host: Get-VMCheckpoint -VMName VM -SnapshotType Recovery lists "
    f"it; what is called 'vmkeep {PROBES} ...' is a probe's, and Remove-VMCheckpoint removes it. Close "
    "whatever has the disk files open; never merge or delete an AVHDX file by hand."
)


@dataclass(frozen=True)
class ProbeWish:
    """Which VM is to be probed, at which address, and how whoever asks for it is asked to agree."""

    address: str
    vm: str
    consent: Callable[[], bool]


def earlier_probes(notes: ProbeNotes) -> Iterator[Check]:
    """Yield a check if probes of this machine died on the host; nothing is asked or changed."""
    try:
        count = notes.left_over()
    except ProbeUnnoted as error:
        yield failed("probe-earlier", _EARLIER, error, needed=False)
        return
    if count:
        fact = f"{count} probes of this machine did not come to their end"
        yield unknown("probe-earlier", _EARLIER, fact, hint=f"{_AGAIN}.")


def probe(
    host: HyperV, files: HostFiles, wish: ProbeWish, notes: ProbeNotes, before: Sequence[Check]
) -> list[Check]:
    """Probe a VM if the checks ``before`` allow it and it is agreed to; ``notes`` is alone meanwhile.

    What goes wrong is a check's outcome. A signal ends it, and nothing stays, either;
    what does stay is added to the signal as a note, and the journal is left. One that waits for the end
    of this is the caller's, who has then learned what is left (:func:`left_told`).
    """
    states = {check.name: check.state for check in before}
    refusal = next((name for name in _NEEDED_BEFORE if states.get(name) in {"refuted", "skipped"}), None)
    if refusal is not None or "read-wmi" not in states:
        return _in_order([], "what comes before it was not confirmed")
    with stopping.at_once():
        is_agreed = wish.consent()
    if not is_agreed:
        return _in_order([], "nobody agreed to it")
    with stopping.held_back():
        return _agreed(host, files, wish, notes)


def _agreed(host: HyperV, files: HostFiles, wish: ProbeWish, notes: ProbeNotes) -> list[Check]:
    """Do what was agreed to, with signals held back but where a stop leaves nothing untold."""
    earlier = _sweep_earlier(host, wish, notes)
    if any(check.state != "confirmed" for check in earlier):
        return [*earlier, *_in_order([], "what an earlier probe left comes first")]
    try:
        with stopping.at_once():
            inventory = take_inventory(host)
            vm = inventory.find(wish.vm)
    except (HostError, HyperVError) as error:
        return [*earlier, *_in_order([_failed("probe-vm", error)], "there is no VM to probe")]
    about_vm = _about(vm)
    if about_vm.state != "confirmed":
        return [*earlier, *_in_order([about_vm], "the VM is left alone")]
    try:
        journal = notes.begin(address=wish.address, computer=inventory.host.name, vm=vm.vm.id)
    except ProbeUnnoted as error:
        return [*earlier, *_in_order([about_vm, _failed("probe-checkpoint", error)], "nothing was changed")]
    done = [about_vm, *_noted(host, files, vm, journal)]
    return [*earlier, *_in_order(done, "an earlier step failed")]


@contextmanager
def left_told(checks: Sequence[Check]) -> Iterator[None]:
    """Have a signal that ends the block say what is left of a probe, by what ``checks`` hold by then."""
    try:
        yield
    except stopping.Stopped as stopped:
        if any(check.name in _OF_WHAT_IS_LEFT and check.state not in _NOTHING_LEFT for check in checks):
            note_left_behind(stopped, f"what is left of a probe. {_AGAIN}")
        raise


def _in_order(done: Sequence[Check], why: str) -> list[Check]:
    """Return the checks of a probe in their order; of what is not among them, ``why`` it was not tried."""
    found = {check.name: check for check in done}
    return [found.get(name) or skipped(name, means, why) for name, means in _MEANS.items()]


def _failed(name: str, error: VmkeepError) -> Check:
    return failed(name, _MEANS[name], error)


def _about(vm: VmFacts) -> Check:
    """Say whether a VM should be left alone: what is wrong with it is no fault of the host's rights."""
    name, means = "probe-vm", _MEANS["probe-vm"]
    free = vm.free_bytes_for_growth
    obstacles = {
        "no disk of it lies in a file": not any(d.path and d.kind != "passthrough" for d in vm.disks),
        "it is in a critical state": vm.state == "critical",
        f"another operation ({vm.operation_in_progress}) is under way": vm.operation_in_progress is not None,
        "a recovery checkpoint is there already": vm.foreign_recovery_checkpoint is True,
        f"{free} bytes are free where its layers grow": free is not None and free < _LIMITS.free_floor,
    }
    found = [words for words, is_so in obstacles.items() if is_so]
    if found:
        hint = "Probe another VM; or wait, if another program is at work on this one."
        return unknown(name, means, "; ".join(found), hint=hint)
    return confirmed(name, means, f"it is {vm.state or 'in a state without a name'}")


# --- what earlier probes left ---------------------------------------------------------------


def _sweep_earlier(host: HyperV, wish: ProbeWish, notes: ProbeNotes) -> list[Check]:
    """Take away what dead probes of this machine left, and forget those of which nothing is left."""
    swept: list[Swept] = []
    try:
        dead = list(notes.dead_probes())
        if not dead:
            return []
        with stoppable(host) as host:
            facts = take_inventory(host).host
            for each in dead:
                found = _sweep(host, each, wish.address, facts)
                if all(item.is_clean for item in found):
                    each.forget()
                swept += found
    except VmkeepError as error:
        return [failed("probe-earlier", _EARLIER, error)]
    except stopping.Stopped as stopped:
        note_left_behind(stopped, f"what earlier probes made is not all removed yet. {_AGAIN}")
        raise
    removed = [item.what for item in swept if item.outcome == "removed"]
    gone = ", ".join(removed) or "nothing"
    left = [item for item in swept if not item.is_clean]
    shown = left or swept
    detail = "; ".join(
        f"{item.what} {item.id}: {item.outcome}{item.why and f', {item.why}'}" for item in shown
    )
    if left:
        fact = f"removed: {gone}; left: {', '.join(item.what for item in left)}"
        return [refuted("probe-earlier", _EARLIER, fact, detail=detail, hint=_CLEAN_UP)]
    check = confirmed("probe-earlier", _EARLIER, f"{len(dead)} probes had died; removed: {gone}")
    return [replace(check, detail=detail)]


def _sweep(host: HyperV, dead: DeadProbe, address: str, facts: HostFacts) -> Sequence[Swept]:
    """Sweep what a dead probe left, unless on another host: here it would not be found, and forgotten."""
    computer = dead.origin.get("computer")
    if facts.name and computer:
        is_here = computer == facts.name
    else:
        is_here = dead.origin.get("address", address) == address
    if not is_here:
        place = f"it was probed at {dead.origin.get('address')}, on {computer or 'a host without a name'}"
        return [Swept("VM", str(dead.origin.get("vm")), "left", f"{place}; this is another host")]
    with dead.continued() as journal:
        owner = Owner.of_probe(dead.run)
        return sweep(host, dead.records, owner, merge_limit_s=_LIMITS.merge_s, note=journal.step)


# --- the probe itself -----------------------------------------------------------------------


def _noted(host: HyperV, files: HostFiles, vm: VmFacts, journal: FileJournal) -> list[Check]:
    """Do it, and remove the journal if nothing is left on the host."""
    try:
        done, is_clean = _try_all(host, files, vm, journal)
        done.append(_power(host, vm))
    except BaseException as error:
        if _is_over(journal) and not any("left behind" in note for note in notes_of(error)):
            with suppress(ProbeUnnoted):  # the next probe finds nothing to remove
                journal.finish()
        else:
            note_left_behind(error, f"what is left of the probe, if anything. {_AGAIN}")
            journal.close()
        raise
    if not is_clean:
        journal.close()
        return done
    try:
        journal.finish()
    except ProbeUnnoted as error:
        journal.close()
        done.append(failed("probe-notes", "the journal of the probe is removed", error, needed=False))
    return done


def _is_over(journal: FileJournal) -> bool:
    """Tell whether the journal says of no checkpoint that it may be there."""
    return journal.steps[-1] not in HOLDING


def _try_all(host: HyperV, files: HostFiles, vm: VmFacts, journal: FileJournal) -> tuple[list[Check], bool]:
    """Hold the VM, read, look again, let go; each is a check, up to the first that fails.

    Also returns whether nothing is left on the host.
    """
    done: list[Check] = []
    name = "probe-checkpoint"
    try:
        with _hold(host, files, vm, journal) as hold:
            done.append(_made(hold))
            name = "probe-read"
            with stopping.at_once():
                done.append(_read(hold, host))
                name = "probe-still"
                done.append(confirmed(name, _MEANS[name], f"{hold.check()} files were compared"))
            name = "probe-release"
            released = hold.release(track=False)
            done.append(_let_go(released))
            is_clean = released.merge.is_done
    except VmkeepError as error:
        if name == "probe-checkpoint" and HoldState.HELD.value in journal.steps:
            done.append(confirmed(name, _MEANS[name], "it was made and marked"))
            name = "probe-read"
        is_clean = _is_over(journal) and not left_behind_by(error)
        done += _trouble(name, error, journal, is_clean=is_clean)
    return done, is_clean


@contextmanager
def _hold(host: HyperV, files: HostFiles, vm: VmFacts, journal: FileJournal) -> Iterator[CheckpointHold]:
    """Hold the VM as it stands; where the host makes no such checkpoint, let the guest come to rest first."""

    def hold(consistency: Literal[1, 2]) -> AbstractContextManager[CheckpointHold]:
        return hold_vm(
            host,
            files,
            vm,
            consistency,
            "copy",
            Owner.of_probe(journal.run),
            journal,
            host.clock,
            limits=_LIMITS,
            skip_other_disks=True,
        )

    with ExitStack() as held:
        try:
            found = held.enter_context(hold(2))
        except (NotSupported, RequestRefused) as error:
            if MADE in journal.steps or left_behind_by(error):
                raise
            found = held.enter_context(hold(1))
        yield found


def _made(hold: CheckpointHold) -> Check:
    evidence = hold.evidence
    level, seconds = evidence["consistency_asked"], evidence["seconds"]["create"]
    words = {1: "the guest came to rest", 2: "the guest was not asked"}[level]
    others = f"; {len(hold.left_out)} disks cannot be part of it" if hold.left_out else ""
    return confirmed("probe-checkpoint", _MEANS["probe-checkpoint"], f"in {seconds:.1f} s, {words}{others}")


def _read(hold: CheckpointHold, host: HyperV) -> Check:
    """Read the first MiB that the disks hold."""
    hold.watch()
    started = host.clock.monotonic()
    count = sum(_read_from(disk.disk, _READ) for disk in hold.disks[:1])
    seconds = host.clock.monotonic() - started
    name, means = "probe-read", _MEANS["probe-read"]
    if not count:
        return unknown(name, means, "the first disk holds nothing", needed=False)
    return confirmed(name, means, f"{count} bytes in {seconds:.2f} s; {len(hold.disks)} disks are open")


def _read_from(disk: Disk, limit: int) -> int:
    """Read what a disk holds, up to ``limit`` bytes; return how many there were."""
    count = 0
    for extent in disk.extents():
        count += len(disk.read_at(extent.offset, min(extent.length, limit - count)))
        if count >= limit:
            break
    return count


def _let_go(released: Released) -> Check:
    name, merge = "probe-release", released.merge
    if merge.is_done:
        return confirmed(name, _MEANS[name])
    fact = f"the checkpoint is gone, and {len(merge.unmerged)} layers are not merged"
    check = refuted(
        name, _MEANS[name], fact, detail=merge.why, hint=f"{MergeUnfinished.default_hint} {_AGAIN}."
    )
    return replace(check, error=MergeUnfinished.code)


def _trouble(name: str, error: VmkeepError, journal: FileJournal, *, is_clean: bool) -> Iterator[Check]:
    """Say which step failed, and what became of the checkpoint."""
    release = "probe-release"
    if name != release:
        yield _failed(name, error)
    if not is_clean:
        check = refuted(release, _MEANS[release], "something may be left on the host", hint=_CLEAN_UP)
        detail = "; ".join([*left_behind_by(error), f"the probe is {journal.run}"])
        yield replace(check, detail=detail, error=error.code)
    elif name == release:
        yield _failed(name, error)
    elif {MADE, RELEASING} & set(journal.steps):
        yield confirmed(release, _MEANS[release], "in spite of the failure")
    else:
        yield skipped(release, _MEANS[release], "no checkpoint was made")


def _power(host: HyperV, vm: VmFacts) -> Check:
    name, means = "probe-power", _MEANS["probe-power"]
    try:
        code = read_power_state(host, vm.vm.id).code
    except (HostError, HyperVError) as error:
        return _failed(name, error)
    return judged(
        name,
        means,
        is_so=code == vm.state_code,
        fact=f"EnabledState {vm.state_code} before, {code} after",
        hint="Look at the VM: vmkeep starts and stops none, so somebody else did, or it failed.",
    )
