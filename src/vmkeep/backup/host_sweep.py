"""Clean up on a host what dead runs of this repository left, VM by VM, without taking anything."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from vmkeep import stopping
from vmkeep.backup.leftovers import HOST, Cleared, HostNames, clear_leftovers, look_at, still_owed
from vmkeep.backup.outcome import note_failure
from vmkeep.backup.tracked import find_baseline
from vmkeep.backup.vm_run import Doors
from vmkeep.capture.outcome import note_left_behind
from vmkeep.capture.sweep import NOTHING_SAID, Said, short_id
from vmkeep.errors import UsageError, VmkeepError
from vmkeep.host.hyperv import Inventory, Owner, VmNotFound, is_foreign, take_inventory
from vmkeep.model.plan import VmRef
from vmkeep.repository.journal import Journal, Record, vms_with_open_runs
from vmkeep.repository.repository import Repository


@dataclass(frozen=True)
class VmSwept:
    """What became of the dead runs of one VM; ``living`` runs are left alone.

    ``unwritten`` are checkpoints that bear the mark of this repository and that no
    open run wrote down: they are only told. ``error``: the VM could not be swept.
    """

    vm: VmRef
    cleared: tuple[Cleared, ...] = ()
    living: tuple[str, ...] = ()
    unwritten: tuple[str, ...] = field(default=())
    error: VmkeepError | None = None

    @property
    def is_clean(self) -> bool:
        """Whether nothing of dead runs is left, as far as anybody can tell."""
        return self.error is None and not self.unwritten and not any(each.why for each in self.cleared)


def sweep_host(
    doors: Doors,
    repository: Repository,
    wanted: str | None,
    *,
    dry_run: bool,
    ended: Callable[[VmSwept], None],
    said: Said = NOTHING_SAID,
) -> list[VmSwept]:
    """Sweep each VM that a dead run of this repository held, or the one that is wanted.

    ``said`` is a person's word on what nobody else can tell. Raises VmNotFound and
    VmAmbiguous for ``wanted``, UsageError for a word on something that is not doubtful,
    and the errors of a host that is out of reach. A signal finds all of it written down,
    and says in its notes what is not swept.
    """
    vms: Sequence[VmRef] | None = None
    results: list[VmSwept] = []
    try:
        with stopping.held_back():
            with stopping.at_once():
                first = replace(doors.host, silence_s=0.0)
                inventory = take_inventory(first, repository=repository.parameters.repository.hex())
                vms = _candidates(inventory, repository, wanted)
            if said != NOTHING_SAID:
                _check_asked(
                    said, [_Sweep(doors, inventory, repository, vm, dry_run=True).run() for vm in vms]
                )
            for vm in vms:
                stopping.look()
                result = _Sweep(doors, inventory, repository, vm, dry_run, said).run()
                ended(result)
                results.append(result)
    except stopping.Stopped as stopped:
        _note_unfinished(stopped, vms, results)
        raise
    return results


def _note_unfinished(
    stopped: stopping.Stopped, vms: Sequence[VmRef] | None, results: Sequence[VmSwept]
) -> None:
    """Add what a sweep that is stopped has not done, and what it could not do."""
    if vms is None:
        stopped.add_note("the sweep is not finished: nothing was looked at yet")
    elif rest := ", ".join(vm.name for vm in vms[len(results) :]):
        stopped.add_note(f"the sweep is not finished; it has not got through: {rest}")
    if unclean := ", ".join(result.vm.name for result in results if not result.is_clean):
        note_left_behind(stopped, f"what could not be removed of {unclean}")


def _check_asked(said: Said, found: Sequence[VmSwept]) -> None:
    """See that whatever a person decides is doubtful, before anything is changed. Raises UsageError."""
    twice = sorted(said.ours & said.not_ours)
    if twice:
        raise UsageError(f"{twice[0]!r} cannot be ours and not ours.")
    cleared = [one for vm in found for one in vm.cleared]
    for one in cleared:
        for what in ("checkpoint", "reference point"):
            ids = [short_id(each.id) for each in one.swept if each.is_asked and each.what == what]
            ours = sorted(said.ours.intersection(ids))
            if len(ours) > 1:
                raise UsageError(
                    f"{ours[0]!r} and {ours[1]!r} cannot both be ours: one run makes one {what}.",
                    hint="Name one; if a sweep still asks about the other afterwards, name that, too.",
                )
    nowhere = {one.run for one in cleared if one.is_nowhere}
    for run in sorted(said.hosts_gone - nowhere):
        raise UsageError(
            f"{run!r} is no unfinished run of another host.",
            hint="Without --host-gone, and with --dry-run, the sweep says which runs are.",
        )
    swept = [each for one in cleared for each in one.swept]
    asked = {short_id(each.id) for each in swept if each.is_asked}
    unasked = sorted((said.ours | said.not_ours) - asked)
    if unasked:
        living = any(vm.living for vm in found)
        raise UsageError(
            f"nobody has to decide whose {unasked[0]!r} is.",
            hint="A run is alive, or its claim has not ended yet; repeat it then."
            if living
            else "Without --ours and --not-ours, and with --dry-run, it says what has to be decided.",
        )


def _candidates(inventory: Inventory, repository: Repository, wanted: str | None) -> Sequence[VmRef]:
    """Return the VMs with open runs or marked checkpoints, as the repository writes their ids."""
    if wanted is not None:
        try:
            vm = inventory.find(wanted).vm
        except VmNotFound:
            gone = [
                each
                for each in vms_with_open_runs(repository.store, repository.ring)
                if wanted.lower() in (each.id, each.name.lower())
            ]
            if not gone:
                raise
            return gone
        return [VmRef(vm.id.lower(), vm.name)]
    own = repository.parameters.repository.hex()
    marked = {
        vm.vm.id.lower(): VmRef(vm.vm.id.lower(), vm.vm.name)
        for vm in inventory.vms
        if any(c.kind == "recovery" and not is_foreign(c, own) for c in vm.checkpoints)
    }
    found = {vm.id: vm for vm in vms_with_open_runs(repository.store, repository.ring)} | marked
    return sorted(found.values(), key=lambda vm: (vm.name, vm.id))


@dataclass(frozen=True)
class _Sweep:
    """The sweep of one VM."""

    doors: Doors
    inventory: Inventory
    repository: Repository
    vm: VmRef
    dry_run: bool
    said: Said = NOTHING_SAID

    def run(self) -> VmSwept:
        journal = self.repository.journal(self.vm, os.urandom(16).hex())
        try:
            with stopping.at_once():
                dead, alive = journal.look()
            if not self.dry_run and dead:
                dead = journal.begin({"sweep": True, HOST: self._names.computer})
                with journal.kept():
                    try:
                        cleared = self._clear(journal, dead)
                    except BaseException as error:
                        note_left_behind(error, still_owed(self.vm.name))
                        note_failure(journal, error)
                        raise
                    journal.finish({"outcome": "swept"})
            else:
                cleared = [self._look(journal, records) for records in dead]
        except VmkeepError as error:
            return VmSwept(self.vm, error=error)
        living = tuple(record.run for record in alive)
        return VmSwept(self.vm, tuple(cleared), living, self._unwritten(dead, living))

    def _clear(self, journal: Journal, dead: Sequence[Sequence[Record]]) -> list[Cleared]:
        host, names = self.doors.host, self._names
        return clear_leftovers(host, names, self.repository, journal, dead, self._durable(), self.said)

    def _look(self, journal: Journal, records: Sequence[Record]) -> Cleared:
        durable = self._durable()
        host, names = self.doors.host, self._names
        return look_at(host, names, self.repository, journal, records, durable, said=self.said)

    @property
    def _names(self) -> HostNames:
        return replace(self.doors.names, computer=self.doors.computer or self.inventory.host.name)

    def _durable(self) -> tuple[str, ...]:
        listing = self.repository.points.listing(self.vm.id)
        return tuple(find_baseline(self.repository, listing, self.vm.id).durable)

    def _unwritten(self, dead: Sequence[Sequence[Record]], living: Sequence[str]) -> tuple[str, ...]:
        """Return the marked checkpoints of runs that are in no open journal."""
        own = self.repository.parameters.repository.hex()
        known = {records[0].run for records in dead} | set(living)
        facts = [vm for vm in self.inventory.vms if vm.vm.id.lower() == self.vm.id]
        owners = [(c, Owner.of(c.name)) for vm in facts for c in vm.checkpoints if c.kind == "recovery"]
        return tuple(
            checkpoint.name
            for checkpoint, owner in owners
            if owner is not None and owner.repository == own and owner.run not in known
        )
