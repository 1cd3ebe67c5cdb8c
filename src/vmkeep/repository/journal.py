"""Write down every step of a run before it is taken, so that nothing is left behind.

`docs/format.md` section 11. The journal also keeps two runs of one VM apart: a run is alive while its lease
lasts and its owner is not known to be dead. A run of this very machine whose
process is gone is dead at once, so that a crash does not lock a VM out.
"""

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from vmkeep.clock import Clock
from vmkeep.model.plan import VmRef
from vmkeep.objectstore.errors import ObjectMissing
from vmkeep.objectstore.store import Store
from vmkeep.repository.box import close_box, open_box
from vmkeep.repository.errors import RunAlive, Tampered
from vmkeep.repository.fetching import fetch
from vmkeep.repository.keys import KeyRing
from vmkeep.repository.manifest import format_time, parse_time
from vmkeep.repository.owners import owner_is_gone, this_process

PREFIX: Final = "runs/"
SESSIONS: Final = "sessions/"
LEASE: Final = timedelta(minutes=30)
_LOOKS: Final = 40
_LOOK_AGAIN_S: Final = 0.25
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

        Raises RunAlive when another run of the VM is alive. No clock decides
        who goes on: a run writes, looks, writes again, and looks again; each time
        it gives way to whoever had written twice by then. Of two that start at
        once, the one with the greater id gives way, and the other waits to see it do so.
        """
        self.step("begun", detail)
        session = SESSIONS + self.run
        fields = {"version": _VERSION, "run": self.run, "time": format_time(self._clock.now())}
        self._store.put(session, close_box(self._ring, session, json.dumps(fields).encode()))
        self._give_way_to_claims(patient=False)
        self.step("claimed")
        for _ in range(_LOOKS):
            dead = self._give_way_to_claims(patient=True)
            if dead is not None:
                return dead
            self._clock.sleep(_LOOK_AGAIN_S)
        return self._give_way_to_claims(patient=False) or []

    def _give_way_to_claims(self, *, patient: bool) -> list[list[Record]] | None:
        """Return the unfinished runs that are dead; RunAlive when a live one has claimed the VM.

        ``patient``: None instead, while the other has got no further than its
        claim and has the greater id: seeing ours, it will give way.
        """
        dead = []
        wait = False
        for records in read_runs(self._store, self._ring, self._vm.id):
            first, last = records[0], records[-1]
            if first.run == self.run or last.step == FINISHED:
                continue
            if not self._alive(last):
                dead.append(records)
            elif patient and last.number == 1 and first.run > self.run:
                wait = True
            elif last.number > 0:
                self.step(FINISHED, {"outcome": "gave way", "to": first.run})
                raise RunAlive(
                    f"another run of {self._vm.name!r} is under way since {format_time(first.time)} "
                    f"on {first.owner.get('host', 'an unknown machine')}.",
                    run=first.run,
                )
        return None if wait else dead

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
        folder = f"{self._folder}{dead[0].run}/"
        # Behind every record there is, also one that cannot be read.
        number = max(_number_of(info.name) for info in self._store.list(folder)) + 1
        self._write(dead[0].run, number, FINISHED, {"outcome": "died", "found by": self.run})

    def _alive(self, record: Record) -> bool:
        return record.lease > self._clock.now() and not owner_is_gone(record.owner)


def read_runs(store: Store, ring: KeyRing, vm_id: str) -> list[list[Record]]:
    """Return the records of each run of a VM, in order; one that does not verify counts as absent.

    ``check`` reports such records. Here they must not keep a VM from being
    protected: a run without readable records is nobody's claim.
    """
    runs: dict[str, list[Record]] = {}
    for info in store.list(f"{PREFIX}{ring.vm_key(vm_id)}/"):
        try:
            record = read_record(store, ring, info.name)
        except (Tampered, ObjectMissing):
            continue
        runs.setdefault(record.run, []).append(record)
    return [sorted(records, key=lambda r: r.number) for records in runs.values()]


def _number_of(name: str) -> int:
    digits = name.rpartition("/")[2]
    return int(digits) if digits.isdecimal() else 0


def read_record(store: Store, ring: KeyRing, name: str) -> Record:
    """Return one record of any run. Raises ObjectMissing, or Tampered naming the record."""
    return _decode(name, open_box(ring, name, fetch(store, name)))


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
