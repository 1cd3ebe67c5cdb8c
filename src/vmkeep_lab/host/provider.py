"""The host as a client sees it: instances, methods, and time that passes."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from threading import Event, RLock, Thread
from typing import Final

from vmkeep_lab.cim import (
    WBEM_E_PROVIDER_NOT_CAPABLE,
    Arguments,
    CimValue,
    CommandResult,
    Instance,
    Ref,
    WmiError,
)
from vmkeep_lab.host import commands, layers, merges, services
from vmkeep_lab.host import state as memory
from vmkeep_lab.host.codes import JobType
from vmkeep_lab.host.faults import At
from vmkeep_lab.host.guests import Guests
from vmkeep_lab.host.handles import Handles, ProcessHandles
from vmkeep_lab.host.hostclock import HostClock
from vmkeep_lab.host.instances import BUILDERS, names
from vmkeep_lab.host.jobs import Job, Jobs
from vmkeep_lab.host.media import Media
from vmkeep_lab.host.places import Places
from vmkeep_lab.host.state import HostState
from vmkeep_lab.host.texts import Texts
from vmkeep_lab.host.world import Behaviour, World
from vmkeep_lab.schema import Schema

_TICK_S: Final = 0.05


class Host:
    """A Hyper-V host in a folder, safe to be called by several threads.

    Time passes whenever it is called, and by itself between ``start`` and ``stop``. What it is lies in the
    folder after every change: a process that is killed comes back with the same host, its jobs forgotten.
    """

    def __init__(
        self, folder: Path, state: HostState, behaviour: Behaviour, handles: Handles | None = None
    ) -> None:
        clock = HostClock()
        places = Places(folder)
        self.lock: Final = RLock()
        self.world: Final = World(
            folder=folder,
            state=state,
            behaviour=behaviour,
            clock=clock,
            jobs=Jobs(clock, behaviour.job_kept_s),
            texts=Texts(state.locale),
            places=places,
            media=Media(places),
            handles=handles or ProcessHandles(),
        )
        self.guests: Final = Guests(self.world)
        self._schema: Final = Schema.load(state.schema)
        self._stopping = Event()
        self._ticking: Thread | None = None
        with self.lock:
            places.drive("C")
            self._finish_what_was_killed()
            for vm in state.vms:
                merges.resume(self.world, vm)
            self._save()

    # --- what the wire asks ---------------------------------------------------------------

    @property
    def schema(self) -> Schema:
        """The classes that the host has."""
        return self._schema

    @property
    def locale(self) -> str:
        """The host's language."""
        return self.world.state.locale

    def instances(self, namespace: str, class_name: str) -> Iterable[Instance]:
        """Return the instances of a class and of all that descend from it."""
        found: list[Instance] = []
        with self.lock:
            self._advance()
            self._strike()
            for each in self._schema.find(namespace, class_name).descendants:
                build = BUILDERS.get((each.namespace, each.name))
                if build:
                    found += build(self.world)
        return found

    def invoke(self, target: Ref, method: str, arguments: Arguments) -> Mapping[str, CimValue]:
        """Call a method; what the schema has and this host does not do is answered as not supported."""
        found = self._schema.find(target.namespace, target.class_name)
        spelled = found.method(method).name
        with self.lock:
            self._advance()
            self._strike()
            run = services.METHODS.get((found.name, spelled))
            result = run(self.world, target, arguments) if run else services.unsupported(found.name)
            self._advance()
            return result

    def put(self, instance: Instance) -> None:
        """Refuse: Hyper-V's settings are changed by methods."""
        raise WmiError(WBEM_E_PROVIDER_NOT_CAPABLE, f"{instance.class_name} cannot be written")

    def create(self, instance: Instance) -> Ref:
        """Refuse, as ``put`` does."""
        raise WmiError(WBEM_E_PROVIDER_NOT_CAPABLE, f"{instance.class_name} cannot be created")

    def delete(self, ref: Ref) -> None:
        """Refuse, as ``put`` does."""
        raise WmiError(WBEM_E_PROVIDER_NOT_CAPABLE, f"{ref.class_name} cannot be deleted")

    def run_command(self, command: str, arguments: Sequence[str]) -> CommandResult:
        """Run a command of a remote shell."""
        with self.lock:
            self._advance()
            return commands.run(self.world, command, arguments)

    def _strike(self) -> None:
        """Fail as a whole where a fault says so: a host that shuts down, a right that is missing."""
        if fault := self.world.faults.take(At.HOST_ERROR):
            raise WmiError(fault.hresult, "the provider failed")

    # --- time -----------------------------------------------------------------------------

    def start(self) -> None:
        """Let time pass by itself."""
        self._stopping.clear()
        self._ticking = Thread(target=self._tick, name="host", daemon=True)
        self._ticking.start()

    def stop(self) -> None:
        """Shut the host down in order: files clean, state written."""
        self._stopping.set()
        if self._ticking:
            self._ticking.join()
            self._ticking = None
        with self.lock:
            self.world.media.close()
            self._save()

    def restart(self, clean: bool = True) -> None:
        """Restart the machine: jobs are forgotten, merges begin again, VMs run on as before.

        Unclean is a power cut: what was open stays as it is, and change tracking becomes coarse (section
        2.3). Recovery checkpoints stay, they are ordinary configuration (section 2.4).
        """
        with self.lock:
            world = self.world
            world.jobs.forget()
            for vm in world.state.vms:
                merges.stop(world, vm)
            if clean:
                world.media.close()
            else:
                touched = [
                    disk for vm in world.state.vms for disk in vm.file_disks if world.media.is_open(disk)
                ]
                world.media.crash()
                for disk in touched:
                    world.media.make_coarse(disk)
            world.state.booted = world.clock.now()
            for vm in world.state.vms:
                merges.resume(world, vm)
            self._save()

    def advance(self) -> None:
        """Do what is due now."""
        with self.lock:
            self._advance()

    def _tick(self) -> None:
        while not self._stopping.wait(_TICK_S):
            with self.lock:
                self.guests.advance()
                self._advance()

    def _advance(self) -> None:
        world = self.world
        if world.jobs.advance():
            world.changed = True
        merges.advance(world)
        self._keep_other_jobs()
        if world.changed:
            self._save()

    def _save(self) -> None:
        memory.save(self.world.folder, self.world.state)
        self.world.changed = False

    # --- what is there besides us -----------------------------------------------------------

    def _keep_other_jobs(self) -> None:
        """Keep finished jobs of others in the list, as on every busy host (recorded: pull_other_job).

        They made what has gone since: jobs are kept for five minutes (section 2.2), and of what is
        older none is listed that made it.
        """
        world = self.world
        if world.jobs.all():
            return
        for vm in world.state.vms:
            for _ in vm.checkpoints[:1]:
                made = names.settings(world.state.new_id())
                now = world.clock.monotonic()
                job = Job(
                    id=world.state.new_id(),
                    type=JobType.CHECKPOINT,
                    vm_id=vm.id,
                    began=now - 1,
                    lasts=0.5,
                    submitted=world.clock.now() - timedelta(seconds=1),
                    work=list,
                    ended=now,
                    made=[made],
                )
                world.jobs.start(job)

    def _finish_what_was_killed(self) -> None:
        """Note the merges whose files were merged before the process could say so."""
        world = self.world
        for vm in world.state.vms:
            for merge in list(vm.merges):
                if not world.places.real(merge.child).exists():
                    vm.merges.remove(merge)
                    layers.merged(vm, vm.disk(merge.slot), merge)
                    merges.settle(world, vm)
