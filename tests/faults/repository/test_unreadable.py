"""An object that is there and cannot be read is a finding; a store that does not answer ends the command."""

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.clocks import FakeClock
from tests.repositories import (
    CHUNK,
    OTHER_VM,
    VM,
    condemn,
    make_repository,
    names,
    pack_refs,
    random_bytes,
    reopen,
    restore,
    take,
)
from vmkeep.backup import run as backup
from vmkeep.capture.source import SourceAddress
from vmkeep.objectstore.directory import DirectoryStore
from vmkeep.objectstore.errors import ObjectUnreadable, StoreError, StoreMissing, StoreUnavailable
from vmkeep.progress import Silent
from vmkeep.repository.errors import Tampered, Unreadable
from vmkeep.repository.examine.keyed import check
from vmkeep.repository.examine.keyless import check_keyless
from vmkeep.repository.examine.report import State
from vmkeep.repository.points import seal_name
from vmkeep.repository.repair import repair
from vmkeep.repository.repository import Repository

DISK = random_bytes(71, 9 * CHUNK + 512)
OTHER = random_bytes(72, 9 * CHUNK + 512)


class Sectors:
    """The system's answer to reads of some files: an error, as a bad sector or a wrong mode gives it.

    Forged where it is given; root may read whatever has a wrong mode.
    """

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.code = errno.EIO
        self._bad: set[int] = set()
        self._pread, self._preadv = os.pread, os.preadv
        patch.setattr(os, "pread", self.pread)
        patch.setattr(os, "preadv", self.preadv)

    def break_(self, *objects: str) -> None:
        self._bad = {(self.root / name).stat().st_ino for name in objects}

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        self._judge(fd)
        return self._pread(fd, length, offset)

    def preadv(self, fd: int, buffers: Sequence[memoryview], offset: int, flags: int = 0) -> int:
        self._judge(fd)
        return self._preadv(fd, buffers, offset, flags)

    def _judge(self, fd: int) -> None:
        if os.fstat(fd).st_ino in self._bad:
            raise OSError(self.code, os.strerror(self.code))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "repository"


@pytest.fixture
def sectors(root: Path, monkeypatch: pytest.MonkeyPatch) -> Sectors:
    return Sectors(root, monkeypatch)


@pytest.fixture
def repository(root: Path, fake_clock: FakeClock) -> Repository:
    return make_repository(DirectoryStore(root, create=True), fake_clock)


def packs(repository: Repository, prefix: str = "packs/") -> list[str]:
    return sorted(ref.name for ref in pack_refs(repository.store) if ref.name.startswith(prefix))


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES])
def test_every_object_that_cannot_be_read_is_named_by_both_checks(
    repository: Repository, sectors: Sectors, fake_clock: FakeClock, tmp_path: Path, code: int
) -> None:
    disk = tmp_path / "d.raw"
    disk.write_bytes(DISK[: 9 * CHUNK])
    request = backup.Request(SourceAddress.parse(f"disk:{disk}"), name="web")
    backup.run(request, reopen(repository, clock=fake_clock), fake_clock, Silent())
    sectors.code = code
    victims = set(names(repository.store, "")) - {"format"}
    met = {name.partition("/")[0] for name in victims}
    assert met >= {"packs", "maps", "points", "seals", "runs", "inventory", "evidence", "sessions"}
    for victim in sorted(victims):
        sectors.break_(victim)
        full = check(reopen(repository), 1.0, Silent())
        keyless = check_keyless(repository.store, repository.parameters, Silent())
        for report in (full, keyless):
            told = [problem.message for problem in report.problems if problem.object == victim]
            assert any("cannot read" in message for message in told), (victim, report.problems)
        if victim.startswith(("packs/", "maps/")):
            (point,) = full.points
            assert point.state is State.DAMAGED
            assert [p.points for p in full.problems if p.object == victim] == [(point.id,)]


@pytest.mark.parametrize("which", ["manifest", "seal"])
def test_a_point_that_cannot_be_read_hides_no_other(
    repository: Repository, sectors: Sectors, fake_clock: FakeClock, which: str
) -> None:
    lost = take(repository, VM, {"disk": DISK}, fake_clock)
    fine = take(repository, OTHER_VM, {"disk": OTHER}, fake_clock)
    name = lost.name if which == "manifest" else seal_name(lost.name)
    sectors.break_(name)
    fresh = reopen(repository)
    listing = fresh.listing()
    assert [sealed.name for sealed in listing.points] == [fine.name]
    (problem,) = listing.problems
    assert isinstance(problem, Unreadable) and problem.context["object"] == name
    assert restore(fresh, listing.find(OTHER_VM.name)) == {"disk": OTHER}
    with pytest.raises(Tampered):
        listing.find(lost.point.id)


def test_an_unreadable_seal_is_never_taken_for_a_decision(
    repository: Repository, sectors: Sectors, fake_clock: FakeClock
) -> None:
    sealed = take(repository, VM, {"disk": DISK}, fake_clock)
    sectors.break_(seal_name(sealed.name))
    with pytest.raises((Unreadable, StoreError)):
        repository.points.seal(sealed.name, sealed.digest, fake_clock.now())


@pytest.mark.parametrize("which", ["older", "newer"])
def test_the_good_copy_is_used(
    repository: Repository, sectors: Sectors, fake_clock: FakeClock, which: str
) -> None:
    first = take(repository, VM, {"disk": DISK}, fake_clock)
    old = packs(repository)
    for ref in pack_refs(repository.store):
        condemn(repository, ref)
    take(reopen(repository), OTHER_VM, {"disk": DISK}, fake_clock)
    new = sorted(set(packs(repository)) - set(old))
    assert len(new) == len(old)
    sectors.break_(*(old if which == "older" else new))
    assert restore(reopen(repository), first) == {"disk": DISK}


class Healing(FakeClock):
    """A clock that lets something happen while somebody waits."""

    def __init__(self, heal: Callable[[], None]) -> None:
        super().__init__()
        self._heal = heal

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self._heal()


def test_repair_condemns_what_cannot_be_read_twice(
    repository: Repository, sectors: Sectors, fake_clock: FakeClock
) -> None:
    take(repository, VM, {"disk": DISK}, fake_clock)
    victim = packs(repository)[0]
    sectors.break_(victim)
    done = repair(reopen(repository), fake_clock, Silent(), dry_run=False)
    assert done.condemned == [victim]
    assert sum(fake_clock.slept) > 0
    # The next run stores the content again.
    second = take(reopen(repository), VM, {"disk": DISK}, fake_clock)
    assert restore(reopen(repository), second) == {"disk": DISK}


def test_repair_condemns_nothing_that_can_be_read_a_little_later(
    repository: Repository, sectors: Sectors, fake_clock: FakeClock
) -> None:
    take(repository, VM, {"disk": DISK}, fake_clock)
    victim = packs(repository)[0]
    sectors.break_(victim)
    done = repair(reopen(repository), Healing(sectors.break_), Silent(), dry_run=False)
    assert (done.condemned, done.removed, list(done.kept)) == ([], [], [victim])
    assert names(repository.store, "condemned/") == []


@pytest.mark.parametrize(("code", "how_many"), [(errno.EACCES, 1), (errno.EIO, None)])
def test_repair_condemns_nothing_for_a_wrong_mode_or_where_no_pack_can_be_read(
    repository: Repository, sectors: Sectors, fake_clock: FakeClock, code: int, how_many: int | None
) -> None:
    take(repository, VM, {"disk": DISK}, fake_clock)
    victims = sorted(packs(repository) + packs(repository, "maps/"))[:how_many]
    sectors.code = code
    sectors.break_(*victims)
    done = repair(reopen(repository), fake_clock, Silent(), dry_run=False)
    assert (done.condemned, done.removed, sorted(done.kept)) == ([], [], victims)
    assert names(repository.store, "condemned/") == []


def test_a_store_that_is_gone_ends_the_check(
    repository: Repository, sectors: Sectors, root: Path, fake_clock: FakeClock
) -> None:
    take(repository, VM, {"disk": DISK}, fake_clock)
    victim = packs(repository)[0]
    sectors.break_(victim)
    with pytest.raises(ObjectUnreadable):
        repository.store.get(victim)
    again = reopen(repository)
    root.rename(root.with_name("elsewhere"))
    with pytest.raises(StoreMissing):
        check(again, 1.0, Silent())


def test_a_root_that_cannot_be_listed_is_no_matter_of_one_object(
    repository: Repository, sectors: Sectors, fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(repository, VM, {"disk": DISK}, fake_clock)
    victim = packs(repository)[0]
    sectors.break_(victim)

    def scandir(path: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(StoreUnavailable):
        repository.store.get(victim)
