"""Write down every step of a run before it is taken, so that nothing is left behind.

`docs/format.md` section 11. The journal also keeps two runs of one VM apart. A run of this very
machine, since its last start, is alive as long as its process; any other one while its lease lasts,
which is told by the store's clock and by no machine's. Whoever takes a living run for dead all the
same cuts it off: records have consecutive numbers and each is decided once, so the number after the
last belongs either to the run's next step or to the one who buries it.
"""

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from vmkeep.clock import Clock
from vmkeep.errors import VmkeepError
from vmkeep.model.plan import VmRef
from vmkeep.objectstore.errors import ObjectExists, ObjectMissing
from vmkeep.objectstore.store import ObjectInfo, Store
from vmkeep.repository.box import close_box, open_box
from vmkeep.repository.errors import RunAlive, RunBuried, Tampered, Unreadable
from vmkeep.repository.fetching import fetch
from vmkeep.repository.keys import KeyRing
from vmkeep.repository.manifest import format_time, parse_time
from vmkeep.repository.owners import owner_is_gone, owner_is_living, this_process
from vmkeep.repository.points import Points

PREFIX: Final = "runs/"
SESSIONS: Final = "sessions/"
LEASE: Final = timedelta(minutes=30)
_LOOKS: Final = 40
_LOOK_AGAIN_S: Final = 0.25
_READ_AGAIN: Final = 4
_READ_AGAIN_S: Final = 1.0
_MOST_DIGITS: Final = 9
_VERSION: Final = 1
PUBLISHING: Final = "publishing"
FINISHED: Final = "finished"
# The runs of this very process that somebody works on; of these its process number says nothing.
_kept: Final[set[str]] = set()


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
        self._tried: list[bytes] = []
        self._last = ""
        self._renewed = (clock.monotonic(), clock.now())
        self._lock = threading.Lock()
        self._ended: set[str] = set()
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
        self.step("claimed", detail)  # once more: either record may be lost
        for _ in range(_LOOKS):
            dead = self._give_way_to_claims(patient=True)
            if dead is not None:
                return dead
            self._clock.sleep(_LOOK_AGAIN_S)
        return self._give_way_to_claims(patient=False) or []

    @property
    def last_step(self) -> str:
        """The step written last; empty before the first."""
        return self._last

    def look(self) -> tuple[list[list[Record]], list[Record]]:
        """Return the VM's unfinished runs, dead ones whole and living ones by their last record.

        Nothing is written: which are dead is told by leases and processes alone, and may change.
        """
        dead, alive = [], []
        for run, infos in _by_run(self._store.list(self._folder)).items():
            found = self._last_record(infos) if run != self.run else None
            if found is None or found[0].step == FINISHED:
                continue
            if self._alive(*found, None):
                alive.append(found[0])
            else:
                dead.append(self._records_of(infos, found[0]))
        return dead, alive

    def _give_way_to_claims(self, *, patient: bool) -> list[list[Record]] | None:
        """Return the unfinished runs that are dead; RunAlive when a live one has claimed the VM.

        ``patient``: None instead, while the other has got no further than its
        claim and has the greater id: seeing ours, it will give way.
        """
        dead = []
        wait = False
        listed = _by_run(self._store.list(self._folder))
        # The newest of our own records, just written, tells what time it is by the store's clock.
        now = max((info.modified for info in listed.pop(self.run, []) if info.modified), default=None)
        for run, infos in listed.items():
            found = self._last_record(infos) if run not in self._ended else None
            if found is None:
                continue
            last, info = found
            if last.step == FINISHED:
                self._ended.add(run)  # for good: nobody writes behind that
            elif not self._alive(last, info, now):
                dead.append(self._records_of(infos, last))
            elif patient and last.number == 1 and run > self.run:
                wait = True
            elif last.number > 0:
                self.step(FINISHED, {"outcome": "gave way", "to": run})
                first = self._records_of(infos, last)[0]
                raise RunAlive(
                    f"another run of {self._vm.name!r} is under way since {format_time(first.time)} "
                    f"on {first.owner.get('host', 'an unknown machine')}.",
                    hint=f"Wait for it to end, then repeat; if its machine failed, its claim ends "
                    f"{format_time(last.lease)}.",
                    run=run,
                )
        return None if wait else dead

    def _last_record(self, infos: Sequence[ObjectInfo]) -> tuple[Record, ObjectInfo] | None:
        """Return the last record that verifies; mostly one object is read for it."""
        for info in reversed(infos):
            try:
                return read_record(self._store, self._ring, info), info
            except (Tampered, ObjectMissing):
                continue
        return None

    def _records_of(self, infos: Sequence[ObjectInfo], last: Record) -> list[Record]:
        """Return the records of a run that can be read; at least the last one, which could be just now."""
        return self._read_patiently(infos) or [last]

    def _alive(self, record: Record, info: ObjectInfo, now: datetime | None) -> bool:
        if owner_is_gone(record.owner):
            return False
        if record.run in _kept or owner_is_living(record.owner):
            return True
        if info.modified is not None and now is not None:
            # Far ahead of now: the store's clock was wrong then, and whoever lives has renewed since.
            return abs(now - info.modified) < record.lease - record.time
        return record.lease > self._clock.now()

    def step(self, step: str, detail: Mapping[str, Any] | None = None) -> None:
        """Write down what is done next; durable on return. Raises RunBuried, and may then do nothing more."""
        with self._lock:
            self._write_next(step, detail or {})

    def _write_next(self, step: str, detail: Mapping[str, Any]) -> None:
        """Write the next record; no number is ever left out, for it would be free for a burial."""
        while True:
            name, content = self._encode(self.run, self._number, step, detail)
            self._tried.append(content)
            if self._store.put_if_absent(name, content):
                break
            found = fetch(self._store, name)
            if found == content:
                break  # the store did it twice, after a lost reply of its own
            if found not in self._tried:
                raise self._displaced(name)
            # An earlier try arrived after all, although nobody was told.
            self._number += 1
            self._tried.clear()
        self._number += 1
        self._tried.clear()
        self._last = step
        self._renewed = (self._clock.monotonic(), self._clock.now())

    def _encode(
        self, run: str, number: int, step: str, detail: Mapping[str, Any], lease: timedelta = LEASE
    ) -> tuple[str, bytes]:
        now = self._clock.now()
        fields = {
            "version": _VERSION,
            "run": run,
            "vm": {"id": self._vm.id, "name": self._vm.name},
            "number": number,
            "time": format_time(now),
            "step": step,
            "lease": format_time(now + lease),
            "owner": this_process(),
            "detail": dict(detail),
        }
        name = f"{self._folder}{run}/{number:06}"
        return name, close_box(self._ring, name, json.dumps(fields).encode())

    def _displaced(self, name: str) -> VmkeepError:
        """Say who wrote where this run's next record belongs."""
        try:
            record = read_record(self._store, self._ring, name)
        except Tampered:
            record = None
        if record is None or "found by" not in record.detail:
            return ObjectExists(f"{name!r} exists already, and this run did not write it.", name=name)
        return RunBuried(
            f"this run of {self._vm.name!r} was taken for dead at {format_time(record.time)} by another one "
            f"on {record.owner.get('host', 'an unknown machine')}.",
            run=self.run,
            by=record.detail["found by"],
        )

    @contextmanager
    def kept(self, every_s: float = LEASE.total_seconds() / 6) -> Iterator[None]:
        """Keep this run alive until the block ends, however long a single read or request takes.

        A thread of its own renews the lease: progress would be simpler, but a
        read from a host, or a request to a slow store, may stall for longer than
        the lease without being dead. When the run was buried nevertheless, its
        next :meth:`step` or :meth:`renew` says so.
        """
        stop = threading.Event()

        def keep() -> None:
            while not stop.wait(every_s):
                try:
                    self.renew()
                except RunBuried:
                    return
                except VmkeepError:
                    continue  # most of the lease is left to try again, and the work meets the same store

        thread = threading.Thread(target=keep, name="vmkeep-lease", daemon=True)
        _kept.add(self.run)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            _kept.discard(self.run)

    def renew(self) -> None:
        """Lengthen the lease when a third of it is used up; call as often as you like.

        Raises RunBuried when another run took this one for dead.
        """
        with self._lock:
            # Either clock may stand still: one while the machine sleeps, the other while it is set back.
            monotonic, now = self._renewed
            passed = max(timedelta(seconds=self._clock.monotonic() - monotonic), self._clock.now() - now)
            if self._last != FINISHED and passed > LEASE / 3:
                self._write_next(self._last, {"renewed": True})

    def finish(self, detail: Mapping[str, Any]) -> None:
        """End the run; nothing of it is left to clean up."""
        self.step(FINISHED, detail)

    def bury(self, dead: Sequence[Record]) -> None:
        """Close the journal of a run that died, after whatever it left has been cleaned up.

        From here on it seals no restore point and writes no record, whoever was
        wrong about its death. Raises RunAlive when it has gone on meanwhile.
        """
        records, number = self._behind(dead)
        self._void(records)
        self._write_for(dead, number, FINISHED, {"outcome": "died"})

    def add_to(self, dead: Sequence[Record], step: str, detail: Mapping[str, Any]) -> Record:
        """Write a step behind the last of a run that died: what its records lack for whoever cleans up.

        From here on it writes no record of its own, as after :meth:`bury`; it stays
        open, and nobody's. Raises RunAlive when it has gone on meanwhile.
        """
        _, number = self._behind(dead)
        return read_record(self._store, self._ring, self._write_for(dead, number, step, detail))

    def is_whole(self, dead: Sequence[Record]) -> bool:
        """Tell whether these are all the records a run ever wrote, by the numbers of all that are stored."""
        infos = self._store.list(f"{self._folder}{dead[0].run}/")
        stored = sorted(_number_of(info.name) for info in infos)
        return stored == list(range(len(stored))) == [record.number for record in dead]

    def _behind(self, dead: Sequence[Record]) -> tuple[list[Record], int]:
        """Return a dead run's records, and the number behind every one, also one that cannot be read."""
        run = dead[0].run
        infos = list(self._store.list(f"{self._folder}{run}/"))
        records = self._read_patiently(infos)
        if not records or records[-1].number != dead[-1].number:
            raise self._came_back(run)
        return records, max(_number_of(info.name) for info in infos) + 1

    def _write_for(self, dead: Sequence[Record], number: int, step: str, detail: Mapping[str, Any]) -> str:
        """Write a record of another run, which lends it no life; return its name."""
        run = dead[0].run
        name, content = self._encode(run, number, step, {**detail, "found by": self.run}, timedelta(0))
        if not self._store.put_if_absent(name, content) and fetch(self._store, name) != content:
            raise self._came_back(run)
        return name

    def _read_patiently(self, infos: Sequence[ObjectInfo]) -> list[Record]:
        """Return the records that verify; what a store cannot read for a moment may name a point to be."""
        for _ in range(_READ_AGAIN):
            records, failed = _read_all(self._store, self._ring, infos)
            if not failed:
                break
            self._clock.sleep(_READ_AGAIN_S)
        return records

    def _void(self, dead: Sequence[Record]) -> None:
        # It may wake up between its last record and the seal this speaks of.
        points = Points(self._store, self._ring)
        for record in dead:
            if record.step == PUBLISHING and "point" in record.detail:
                points.void(str(record.detail["point"]), self._clock.now())

    def _came_back(self, run: str) -> RunAlive:
        return RunAlive(f"another run of {self._vm.name!r}, which seemed to be dead, goes on.", run=run)


def vms_with_open_runs(store: Store, ring: KeyRing) -> list[VmRef]:
    """Return the VMs that have a run nobody has ended, by name; of each run the last record is read."""
    found: dict[str, VmRef] = {}
    for infos in _by_run(store.list(PREFIX)).values():
        for info in reversed(infos):
            try:
                record = read_record(store, ring, info)
            except (Tampered, ObjectMissing):
                continue
            if record.step != FINISHED:
                found[record.vm.id] = record.vm
            break
    return sorted(found.values(), key=lambda vm: (vm.name, vm.id))


def read_runs(store: Store, ring: KeyRing, vm_id: str) -> list[list[Record]]:
    """Return the records of each run of a VM, in order; one that does not verify counts as absent.

    ``check`` reports such records. Here they must not keep a VM from being
    protected: a run without readable records is nobody's claim.
    """
    listed = _by_run(store.list(f"{PREFIX}{ring.vm_key(vm_id)}/"))
    runs = (_readable(store, ring, infos) for infos in listed.values())
    return [records for records in runs if records]


def _by_run(infos: Iterator[ObjectInfo]) -> dict[str, list[ObjectInfo]]:
    """Group the records of a VM; those of each run ascend, as the listing does."""
    runs: dict[str, list[ObjectInfo]] = {}
    for info in infos:
        runs.setdefault(info.name.split("/")[2], []).append(info)
    return runs


def _readable(store: Store, ring: KeyRing, infos: Sequence[ObjectInfo]) -> list[Record]:
    return _read_all(store, ring, infos)[0]


def _read_all(store: Store, ring: KeyRing, infos: Sequence[ObjectInfo]) -> tuple[list[Record], bool]:
    """Return the records that verify, and whether the store failed to read one of the others."""
    records = []
    failed = False
    for info in infos:
        try:
            records.append(read_record(store, ring, info))
        except (Tampered, ObjectMissing) as error:
            failed = failed or isinstance(error, Unreadable)
    return records, failed


def _number_of(name: str) -> int:
    digits = name.rpartition("/")[2]
    # Behind a planted number of any length there is no room for another one.
    return int(digits) if digits.isdecimal() and len(digits) <= _MOST_DIGITS else 0


def read_record(store: Store, ring: KeyRing, what: ObjectInfo | str) -> Record:
    """Return one record of any run. Raises ObjectMissing, or Tampered naming the record."""
    name = what if isinstance(what, str) else what.name
    return _decode(name, open_box(ring, name, fetch(store, what)))


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
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise Tampered(f"the journal record {name} cannot be understood.", object=name) from error
