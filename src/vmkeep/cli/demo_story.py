"""The demo's story, act by act: protect two machines, lose them, bring them back, judge the bytes.

Every act calls the same rooms as the commands do. What is right is decided by
the fixture's checksums and by plain files, never by asking vmkeep.
"""

import hashlib
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

from vmkeep.backup.run import Request, run
from vmkeep.capture.source import SourceAddress
from vmkeep.cli.demo_fixture import Machine, machines
from vmkeep.clock import Clock
from vmkeep.errors import VmkeepError
from vmkeep.objectstore.address import open_store
from vmkeep.progress import Progress
from vmkeep.repository.examine.keyed import check
from vmkeep.repository.examine.report import Report
from vmkeep.repository.listing import SealedPoint
from vmkeep.repository.repository import Repository
from vmkeep.restore.files import restore_point
from vmkeep.secrets import Secret

RunName = Literal["full", "incremental", "compare"]
MACHINES: Final = "machines"
REPOSITORY: Final = "repository"
TAMPERED: Final = "repository-tampered"
RESTORED: Final = "restored"
PASSWORD: Final = "password"


@dataclass(frozen=True)
class Taken:
    """One restore point of the story, and the checksum that its disk must have."""

    run: RunName
    machine: Machine
    point: str
    expected: str
    bytes_read: int
    bytes_stored: int


@dataclass(frozen=True)
class Run:
    """Both machines taken once."""

    points: tuple[Taken, ...]
    seconds: float

    @property
    def bytes_read(self) -> int:
        return sum(taken.bytes_read for taken in self.points)

    @property
    def bytes_stored(self) -> int:
        return sum(taken.bytes_stored for taken in self.points)


@dataclass(frozen=True)
class Tampering:
    """What happens once a bit is flipped in ``object`` of a copy of the repository.

    ``sound`` and ``altered`` are what `check` reports of the repository and of
    the copy; ``refusal`` is how a restore from the copy ended, None if it left files.
    """

    object: str
    sound: Report
    altered: Report
    refusal: VmkeepError | None

    @property
    def message(self) -> str | None:
        """What the check says about the altered object; None when it did not notice."""
        said = [p.message for p in self.altered.problems if p.object == self.object and not p.harmless]
        return said[0] if said else None


@dataclass(frozen=True)
class Judged:
    """One restored disk beside the truth; ``sha256`` is None when no disk came back."""

    taken: Taken
    sha256: str | None

    @property
    def identical(self) -> bool:
        return self.sha256 == self.taken.expected


class Story:
    """Everything happens below ``folder``; the acts are called once each, in the order they stand here.

    Leave the ``with`` block and nothing is open any more.
    """

    def __init__(self, folder: Path, clock: Clock, progress: Progress, *, keep: bool) -> None:
        self.folder = folder
        self.machines = machines()
        self._clock = clock
        self._progress = progress
        self._keep = keep
        self._password = Secret(secrets.token_urlsafe(24))
        self._later = False
        self._taken: list[Taken] = []
        self._repository: Repository | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._close()

    def unpack(self) -> None:
        """Write the disk files as somebody would find them."""
        for machine in self.machines:
            machine.unpack(self.folder / MACHINES)

    def make_repository(self) -> None:
        """Make an empty repository; the password stays in memory unless everything is kept."""
        if self._keep:
            handle = os.open(self.folder / PASSWORD, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as out:
                out.write(self._password.reveal() + b"\n")
        store = open_store(str(self.folder / REPOSITORY), create=True)
        passwords = {"password": self._password}
        Repository.create(store, passwords, self._clock, repository_id=os.urandom(16))

    def write_on(self) -> int:
        """Let the guests change their disks; return how many bytes of them changed."""
        for machine in self.machines:
            machine.write_on(self.folder / MACHINES)
        self._later = True
        return sum(part.length for machine in self.machines for part in machine.changed_ranges)

    def take(self, name: RunName) -> Run:
        """Take a restore point of each machine; the incremental run is told what changed."""
        started = self._clock.monotonic()
        points = tuple(self._take_one(name, machine) for machine in self.machines)
        self._taken += points
        return Run(points, self._clock.monotonic() - started)

    def _take_one(self, name: RunName, machine: Machine) -> Taken:
        declared = name == "incremental"
        request = Request(
            source=self._source(machine),
            changes=machine.changed_ranges if declared else None,
            parent=self._newest(machine) if declared else None,
        )
        point = self._run(request).point
        expected = machine.sha256[1 if self._later else 0]
        return Taken(name, machine, point.id, expected, point.bytes_read, point.bytes_stored)

    def _run(self, request: Request) -> SealedPoint:
        return run(request, self._opened(), self._clock, self._progress).sealed

    def _source(self, machine: Machine) -> SourceAddress:
        return SourceAddress("folder", self.folder / MACHINES / machine.name)

    def _newest(self, machine: Machine) -> str:
        return [taken.point for taken in self._taken if taken.machine is machine][-1]

    def break_machines(self) -> list[VmkeepError]:
        """Overwrite one machine's disks and delete the other's; return why runs are refused now."""
        overwritten, deleted = self.machines
        for file in overwritten.files:
            path = self.folder / MACHINES / file.path
            path.write_bytes(os.urandom(path.stat().st_size))
        shutil.rmtree(self.folder / MACHINES / deleted.name)
        refusals = []
        for machine in (overwritten, deleted):
            try:
                self._run(Request(self._source(machine)))
            except VmkeepError as refusal:
                self._progress.end()
                refusals.append(refusal)
        return refusals

    def tamper(self) -> Tampering:
        """Flip one bit of stored data in a copy of the repository; check both, restore from the copy."""
        copy = self.folder / TAMPERED
        shutil.copytree(self.folder / REPOSITORY, copy)
        # The largest pack is one of the first run, which every later one builds on.
        packs = [path for path in (copy / "packs").rglob("*") if path.is_file()]
        victim = max(packs, key=lambda path: path.stat().st_size)
        data = bytearray(victim.read_bytes())
        data[len(data) // 2] ^= 1
        victim.chmod(0o600)
        victim.write_bytes(data)
        sound = check(self._opened(), 1.0, self._progress)
        with self._open(TAMPERED) as repository:
            altered = check(repository, 1.0, self._progress)
            refusal = self._restore_tampered(repository)
        return Tampering(victim.relative_to(copy).as_posix(), sound, altered, refusal)

    def _restore_tampered(self, repository: Repository) -> VmkeepError | None:
        target = self.folder / RESTORED / "tampered"
        point = repository.listing().find(self._taken[0].point).point
        try:
            restore_point(repository, point, target, "raw", None, self._progress)
        except VmkeepError as refusal:
            self._progress.end()
            # Refused too late would be no refusal: nothing that looks like a disk may lie there.
            return None if any(target.iterdir()) else refusal
        return None

    def restore(self) -> list[Judged]:
        """Bring every disk of every restore point back and hash what came.

        From a repository opened anew: what only memory knows is lost by now.
        """
        self._close()
        judged = []
        with self._open(REPOSITORY) as repository:
            listing = repository.listing()
            for taken in self._taken:
                target = self.folder / RESTORED / taken.run / taken.machine.name
                point = listing.find(taken.point).point
                restore_point(repository, point, target, "raw", None, self._progress)
                judged.append(judge(target, taken))
                if not self._keep:
                    shutil.rmtree(target)
        return judged

    def _opened(self) -> Repository:
        # Opening costs a quarter of a second on purpose (Argon2id): once is enough for the runs.
        if self._repository is None:
            self._repository = self._open(REPOSITORY)
        return self._repository

    def _close(self) -> None:
        if self._repository is not None:
            self._repository.close()
            self._repository = None

    def _open(self, name: str) -> Repository:
        # No folder for heads: a demo leaves nothing in the user's home.
        return Repository.open(open_store(str(self.folder / name)), self._password, self._clock)


def judge(folder: Path, taken: Taken) -> Judged:
    """Hash the one disk that must lie in the folder and set it beside the truth."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    if [path.name for path in files] != [f"{taken.machine.disk}.raw"]:
        return Judged(taken, None)
    with files[0].open("rb") as disk:
        return Judged(taken, hashlib.file_digest(disk, "sha256").hexdigest())
