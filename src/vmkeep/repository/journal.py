"""Write down every step of a run before it is taken, so that nothing is left behind.

`docs/format.md` section 11. The journal also keeps two runs of one VM apart: a run is alive while its lease
lasts and its owner is not known to be dead. A run of this very machine whose
process is gone is dead at once, so that a crash does not lock a VM out.
"""

import json
import os
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from vmkeep.clock import Clock
from vmkeep.model.plan import VmRef
from vmkeep.objectstore.store import Store
from vmkeep.repository.box import close_box, open_box
from vmkeep.repository.errors import RunAlive, Tampered
from vmkeep.repository.keys import KeyRing
from vmkeep.repository.manifest import format_time, parse_time

PREFIX: Final = "runs/"
SESSIONS: Final = "sessions/"
LEASE: Final = timedelta(minutes=30)
_VERSION: Final = 1
FINISHED: Final = "finished"


@dataclass(frozen=True)
class Record:
    """One step of one run, as it was written down."""

    run: str
    vm: VmRef
    number: int
    time: datetime
    step: str
    lease: datetime
    owner: Mapping[str, Any]
    detail: Mapping[str, Any]


class Journal:
    """The journal of one run; :meth:`begin` it before anything is changed anywhere."""

    def __init__(self, store: Store, ring: KeyRing, clock: Clock, vm: VmRef, run: str) -> None:
        self._store = store
        self._ring = ring
        self._clock = clock
        self._vm = vm
        self._folder = f"{PREFIX}{ring.vm_key(vm.id)}/"
        self._number = 0
        self._last = ""
        self._renewed = clock.now()
        self._lock = threading.Lock()
        self.run = run

    def begin(self, detail: Mapping[str, Any]) -> list[list[Record]]:
        """Claim the VM for this run; return the records of runs that died unfinished.

        Raises RunAlive when another run of the VM is alive.
        """
        self.step("begun", detail)
        session = SESSIONS + self.run
        fields = {"version": _VERSION, "run": self.run, "time": format_time(self._clock.now())}
        self._store.put(session, close_box(self._ring, session, json.dumps(fields).encode()))
        dead = []
        mine = None
        others = []
        for records in read_runs(self._store, self._ring, self._vm.id):
            if records[0].run == self.run:
                mine = records[0]
            elif records[-1].step != FINISHED:
                others.append(records)
        for records in others:
            first = records[0]
            if not self._alive(records[-1]):
                dead.append(records)
            # Both wrote before they looked, so both see both; the earlier one goes on.
            elif mine is None or (first.time, first.run) < (mine.time, mine.run):
                self.step(FINISHED, {"outcome": "gave way", "to": first.run})
                raise RunAlive(
                    f"another run of {self._vm.name!r} is under way since {format_time(first.time)} "
                    f"on {first.owner.get('host', 'an unknown machine')}.",
                    run=first.run,
                )
        return dead

    def step(self, step: str, detail: Mapping[str, Any] | None = None) -> None:
        """Write down what is done next; durable on return."""
        with self._lock:
            # Counted first: a record whose reply got lost may be there, and is not written twice.
            number = self._number
            self._number += 1
            self._renewed = self._write(self.run, number, step, detail or {})
            self._last = step

    def _write(self, run: str, number: int, step: str, detail: Mapping[str, Any]) -> datetime:
        now = self._clock.now()
        fields = {
            "version": _VERSION,
            "run": run,
            "vm": {"id": self._vm.id, "name": self._vm.name},
            "number": number,
            "time": format_time(now),
            "step": step,
            "lease": format_time(now + LEASE),
            "owner": this_process(),
            "detail": dict(detail),
        }
        name = f"{self._folder}{run}/{number:06}"
        self._store.put(name, close_box(self._ring, name, json.dumps(fields).encode()))
        return now

    def renew(self) -> None:
        """Lengthen the lease when a third of it is used up; call as often as you like."""
        if self._clock.now() - self._renewed > LEASE / 3:
            self.step(self._last, {"renewed": True})

    def finish(self, detail: Mapping[str, Any]) -> None:
        """End the run; nothing of it is left to clean up."""
        self.step(FINISHED, detail)

    def bury(self, dead: list[Record]) -> None:
        """Close the journal of a run that died, after whatever it left has been cleaned up."""
        self._write(dead[0].run, dead[-1].number + 1, FINISHED, {"outcome": "died", "found by": self.run})

    def _alive(self, record: Record) -> bool:
        return record.lease > self._clock.now() and not owner_is_gone(record.owner)


def read_runs(store: Store, ring: KeyRing, vm_id: str) -> list[list[Record]]:
    """Return the records of each run of a VM, in order. Raises Tampered naming the record."""
    runs: dict[str, list[Record]] = {}
    for info in store.list(f"{PREFIX}{ring.vm_key(vm_id)}/"):
        record = read_record(store, ring, info.name)
        runs.setdefault(record.run, []).append(record)
    return [sorted(records, key=lambda r: r.number) for records in runs.values()]


def read_record(store: Store, ring: KeyRing, name: str) -> Record:
    """Return one record of any run. Raises ObjectMissing, or Tampered naming the record."""
    return _decode(name, open_box(ring, name, store.get(name)))


def _decode(name: str, content: bytes) -> Record:
    try:
        fields = json.loads(content)
        return Record(
            run=str(fields["run"]),
            vm=VmRef(str(fields["vm"]["id"]), str(fields["vm"]["name"])),
            number=int(fields["number"]),
            time=parse_time(fields["time"]),
            step=str(fields["step"]),
            lease=parse_time(fields["lease"]),
            owner=dict(fields["owner"]),
            detail=dict(fields["detail"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise Tampered(f"the journal record {name} cannot be understood.", object=name) from error


def this_process() -> dict[str, Any]:
    """Return what tells this process from every other one, here and elsewhere."""
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "boot": _boot_id(),
        "namespace": _namespace(),
        "pid": pid,
        "start": _process_start(pid),
    }


def owner_is_gone(owner: Mapping[str, Any]) -> bool:
    """Tell whether a process is certainly dead; False when that cannot be known from here."""
    boot = _boot_id()
    if not boot or owner.get("host") != socket.gethostname():
        return False
    if owner.get("boot") != boot:
        return bool(owner.get("boot"))  # this machine has been restarted since
    if owner.get("namespace") != _namespace():
        return False  # another container: its process numbers mean nothing here
    return _is_gone(int(owner.get("pid", 0)), str(owner.get("start")))


def _is_gone(pid: int, start: str) -> bool:
    found = _process_start(pid)
    if found:
        return found != start  # another process has its number now
    # /proc may hide the processes of other users (mount option hidepid): ask the kernel.
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""  # not Linux: leases decide alone


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _process_start(pid: int) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    except OSError:
        return ""
    # The name in parentheses may hold spaces; field 22 of the whole is the start time.
    return stat.rpartition(")")[2].split()[19]
