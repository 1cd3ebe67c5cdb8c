"""The demo's story, act by act: a host, two machines saved twice, a run killed, all brought back and judged.

Every act calls the same rooms as the commands do. What is right is decided by the lab's record of what
the machines held, and what lies on the host by the lab's own word; never by asking vmkeep.
"""

import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, Self

from vmkeep.backup.host_run import choose, run_host
from vmkeep.backup.host_sweep import VmSwept, sweep_host
from vmkeep.backup.outcome import Outcome
from vmkeep.backup.vm_run import Doors, HostWish
from vmkeep.cli.configuration import CONFIGURATION_VARIABLE, load_configuration
from vmkeep.cli.host_doors import open_host
from vmkeep.cli.programs import LabDoor, LabFailed, another_vmkeep, judge, kill, running_lab
from vmkeep.clock import Clock
from vmkeep.host.hyperv import HyperV, take_inventory, with_details
from vmkeep.host.wsman import Client
from vmkeep.model.facts import VmFacts
from vmkeep.model.point import RestorePoint
from vmkeep.objectstore.address import open_store
from vmkeep.progress import Progress
from vmkeep.repository.repository import Repository
from vmkeep.restore.files import restore_point
from vmkeep.secrets import Secret

RunName = Literal["full", "incremental"]
SCENARIO: Final = "demo"
HOST: Final = "lab"
PROTECTED: Final = ("web-server", "ledger")
KILLED: Final = "web-server"
WRITES: Final = 10
_PATIENCE_S: Final = 60.0
_LOOK_S: Final = 0.05
# What the host answers last before a run reads: there the run to be killed has to wait.
_LAST_QUESTION: Final = "GetVirtualDiskChanges"


@dataclass(frozen=True)
class Places:
    """What lies where, all below one folder."""

    folder: Path

    @property
    def lab(self) -> Path:
        return self.folder / "lab"

    @property
    def configuration(self) -> Path:
        return self.folder / "config.toml"

    @property
    def repository(self) -> Path:
        return self.folder / "repository"

    @property
    def password(self) -> Path:
        return self.folder / "password"

    @property
    def truth(self) -> Path:
        return self.lab / "truth.jsonl"

    @property
    def restored(self) -> Path:
        return self.folder / "restored"

    def environment(self) -> dict[str, str]:
        """Return the variables for a vmkeep of the demo's own, so that it uses nothing of the user's."""
        return {
            CONFIGURATION_VARIABLE: str(self.configuration),
            "VMKEEP_STATE_DIR": str(self.folder / "state"),
            "VMKEEP_CACHE_DIR": str(self.folder / "cache"),
        }


@dataclass(frozen=True)
class OnHost:
    """What the lab says lies on its host: checkpoints and reference points by id, and merges that are owed.

    ``writes`` counts what the guests of the two machines have written since their disks were made.
    """

    checkpoints: Mapping[str, Mapping[str, Any]]
    reference_points: frozenset[str]
    merges: int
    writes: int


@dataclass(frozen=True)
class Seen:
    """The inventory, and how many requests it cost."""

    host: str
    vms: tuple[VmFacts, ...]
    requests: int


@dataclass(frozen=True)
class Run:
    """Both machines taken once."""

    name: RunName
    outcomes: tuple[Outcome, ...]
    seconds: float

    @property
    def points(self) -> tuple[RestorePoint, ...]:
        return tuple(outcome.sealed.point for outcome in self.outcomes)

    @property
    def bytes_read(self) -> int:
        return sum(point.bytes_read for point in self.points)

    @property
    def bytes_reread(self) -> int:
        return sum(point.evidence["reread_audit"]["bytes_read"] for point in self.points)

    @property
    def bytes_stored(self) -> int:
        return sum(point.bytes_stored for point in self.points)

    @property
    def bytes_total(self) -> int:
        return sum(disk.size for point in self.points for disk in point.disks)


@dataclass(frozen=True)
class Judged:
    """One restored disk, and whether the judge found in it what this disk held when the point was taken."""

    run: RunName
    point: RestorePoint
    disk: str
    file: Path
    sha256: str
    identical: bool


@dataclass(frozen=True)
class Verdict:
    """What the judge says: ``points`` are all the repository has, ``disks`` what came back of the runs'."""

    points: int
    is_identical: bool
    disks: tuple[Judged, ...]

    @property
    def is_good(self) -> bool:
        """Whether the judge is content, and every disk is its own machine's of its own instant."""
        return self.is_identical and bool(self.disks) and all(disk.identical for disk in self.disks)


@dataclass
class Story:
    """The acts are called once each, in the order they stand here; everything happens below ``places``.

    Leave the ``with`` block and no program runs and nothing is open any more.
    """

    places: Places
    clock: Clock
    progress: Progress
    runs: list[Run] = field(default_factory=list)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._stack.__exit__(kind, error, trace)

    # --- 1 and 2: the host ---------------------------------------------------------------------

    def raise_host(self) -> Mapping[str, Any]:
        """Start the simulated host, write its block into a configuration, and return what it says."""
        lab = running_lab(SCENARIO, 0, self.places.lab, https=True)
        facts, _ = self._stack.enter_context(lab)
        self.truth = Path(facts["truth"])
        self._lab = self._stack.enter_context(LabDoor(facts["control"]))
        self.at_first = self.ask_lab()
        self.places.configuration.write_text(facts["config"], "utf-8")
        block = load_configuration(self.places.environment()).find(HOST)
        client, files = self._stack.enter_context(open_host(block, self.clock, None))
        self._client: Client = client
        self._doors = Doors(HOST, HyperV(client, self.clock), files)
        return facts

    def look(self) -> Seen:
        """Take the inventory as a run does, and the sizes of the disks."""
        before = self._client.requests
        inventory = take_inventory(self._doors.host)
        requests = self._client.requests - before
        return Seen(inventory.host.name or "", tuple(map(self._with_sizes, inventory.vms)), requests)

    def _with_sizes(self, vm: VmFacts) -> VmFacts:
        return replace(vm, disks=with_details(self._doors.host, vm.disks))

    # --- 3 to 5: saved, written on, saved again ------------------------------------------------

    def make_repository(self) -> None:
        """Make an empty repository under a random password, which lies in a file of its owner only."""
        password = secrets.token_urlsafe(24)
        handle = os.open(self.places.password, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as out:
            out.write(f"{password}\n")
        self._password = Secret(password)
        store = open_store(str(self.places.repository), create=True)
        Repository.create(store, {"password": self._password}, self.clock, repository_id=os.urandom(16))
        self._repository = self._stack.enter_context(self._open())

    def take(self, name: RunName) -> Run:
        """Take a restore point of each machine. Raises what the run of the first that failed raised."""
        started = self.clock.monotonic()
        seen = take_inventory(self._doors.host)
        results = run_host(
            replace(self._doors, seen=seen),
            choose(seen, PROTECTED, every=False),
            HostWish(),
            self._repository,
            self.clock,
            self.progress,
            lambda _: None,
        )
        outcomes = []
        for result in results:
            if result.error is not None:
                raise result.error
            if result.outcome is not None:
                outcomes.append(result.outcome)
        run = Run(name, tuple(outcomes), self.clock.monotonic() - started)
        self.runs.append(run)
        return run

    def write_on(self) -> int:
        """Let the guests write at once what else takes them minutes; return their writes of this story."""
        for name in PROTECTED:
            self._lab.ask("step", vm=name, writes=WRITES)
        return self.ask_lab().writes - self.at_first.writes

    # --- 6 and 7: killed, and healed -----------------------------------------------------------

    def kill_a_run(self) -> tuple[Mapping[str, Any], ...]:
        """Kill a vmkeep while it holds a machine; return the checkpoints it left, as the lab knows them."""
        before = self.ask_lab().checkpoints
        # The host is slow to say what changed, so that the kill always meets the run at the same place.
        self._lab.ask("disturb", effect="delay", action=_LAST_QUESTION, seconds=_PATIENCE_S)
        command = ["backup", f"hyperv://{HOST}", "--vm", KILLED, "--repo", str(self.places.repository)]
        command += ["--password-file", str(self.places.password)]
        with another_vmkeep(command, self.places.environment()) as process:
            started = self.clock.monotonic()
            while not self._is_held(before):
                if process.poll() is not None or self.clock.monotonic() - started > _PATIENCE_S:
                    raise LabFailed("the run that was to be killed never held its machine.")
                self.clock.sleep(_LOOK_S)
            if not kill(process):
                raise LabFailed("the run that was to be killed had ended by itself.")
        self._lab.ask("calm")
        return self._new_checkpoints(before)

    def _is_held(self, before: Mapping[str, Any]) -> bool:
        return any(each["name"].startswith("vmkeep ") for each in self._new_checkpoints(before))

    def _new_checkpoints(self, before: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
        return tuple(each for key, each in self.ask_lab().checkpoints.items() if key not in before)

    def count_points(self) -> int:
        """Return how many restore points there are now."""
        return len(self._repository.listing().points)

    def heal(self) -> list[VmSwept]:
        """Sweep the host of what the dead run left."""
        return sweep_host(self._doors, self._repository, None, dry_run=False, ended=lambda _: None)

    # --- 8: restored, and judged ---------------------------------------------------------------

    def restore(self) -> Verdict:
        """Bring every disk of every restore point back, and let the lab judge.

        From a repository opened anew: what only memory knows is lost by now.
        """
        restored = []
        with self._open() as repository:
            listing = repository.listing()
            points = len(listing.points)
            for run in self.runs:
                for taken in run.points:
                    point = listing.find(taken.id).point
                    target = self.places.restored / run.name / point.vm.name
                    files = restore_point(repository, point, target, None, None, self.progress)
                    restored += [(run.name, point, f.disk, Path(f.path)) for f in files if f.disk is not None]
        answer = judge(self.truth, [path for *_, path in restored])
        told = {Path(each["file"]): each for each in answer["restored"]}
        disks = tuple(
            Judged(run, point, disk, path, told[path]["sha256"], is_its_own(told[path], point))
            for run, point, disk, path in restored
        )
        return Verdict(points, answer["identical"] is True, disks)

    # --- the lab's word ------------------------------------------------------------------------

    def ask_lab(self) -> OnHost:
        """Ask the lab, not vmkeep, what lies on its host now."""
        vms: Sequence[Mapping[str, Any]] = self._lab.ask("state")["state"]["vms"]
        return OnHost(
            {each["id"]: {**each, "vm": vm["name"]} for vm in vms for each in vm["checkpoints"]},
            frozenset(each["id"] for vm in vms for each in vm["reference_points"]),
            sum(len(vm["merges"]) for vm in vms),
            sum(disk["writes"] for vm in vms for disk in vm["disks"] if vm["name"] in PROTECTED),
        )

    def leftovers(self, now: OnHost) -> int:
        """Return how many checkpoints are there that were not before the first run: nobody else made any."""
        return len(now.checkpoints.keys() - self.at_first.checkpoints.keys())

    def has_all_of_others(self, now: OnHost) -> bool:
        """Tell whether all checkpoints and reference points that were there at first still are."""
        first = self.at_first
        return first.checkpoints.keys() <= now.checkpoints.keys() and (
            first.reference_points <= now.reference_points
        )

    def _open(self) -> Repository:
        # No folder for heads: a demo leaves nothing in the user's home.
        return Repository.open(open_store(str(self.places.repository)), self._password, self.clock)


def is_its_own(told: Mapping[str, Any], point: RestorePoint) -> bool:
    """Tell whether the judge found what the point's machine held at the point's checkpoint.

    The judge alone is content with any disk at any instant.
    """
    # WMI writes "Microsoft:" before an id, the lab's record does not.
    checkpoint = str(point.evidence["hold"]["checkpoint"]).rpartition(":")[2]
    own = (point.vm.id.lower(), checkpoint.lower())
    found = {(line["vm_id"].lower(), line["checkpoint"].lower()) for line in told["equals"]}
    return own in found and not told["fault"]
