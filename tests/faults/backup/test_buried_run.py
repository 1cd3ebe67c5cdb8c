"""A run that another one took for dead ends with its own error and without a restore point."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.clocks import FakeClock
from tests.faults.stores import Request, WrappedStore
from tests.repositories import make_repository, names, reopen
from vmkeep.backup import run as backup
from vmkeep.backup.outcome import Outcome
from vmkeep.capture.source import SourceAddress
from vmkeep.errors import ExitCode
from vmkeep.model.plan import VmRef
from vmkeep.progress import Silent
from vmkeep.repository.errors import RunAlive, RunBuried
from vmkeep.repository.examine.keyed import check
from vmkeep.repository.journal import FINISHED, LEASE, read_record, read_runs
from vmkeep.repository.repository import Repository


class _Burying(WrappedStore):
    """Lets another machine bury the run at one of its requests, and the VM's next run go on."""

    def __init__(self, repository: Repository, verb: str, prefix: str) -> None:
        super().__init__(repository.store)
        self._repository = repository
        self._where: tuple[str, str] | None = (verb, prefix)

    def around(self, request: Request, call: Callable[[], Any]) -> Any:
        if self._where and request.verb == self._where[0] and request.name.startswith(self._where[1]):
            self._where = None
            store, ring = self._repository.store, self._repository.ring
            vm = read_record(store, ring, names(store, "runs/")[0]).vm
            (records,) = read_runs(store, ring, vm.id)
            self._repository.journal(vm, "dd" * 16).bury(records)
        return super().around(request, call)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(range(256)) * 2048)
    return path


def _take(repository: Repository, disk: Path, clock: FakeClock) -> Outcome:
    request = backup.Request(SourceAddress.parse(f"disk:{disk}"), name="web")
    with repository:
        return backup.run(request, repository, clock, Silent())


PLACES = [("create", "packs/"), ("put", "inventory/"), ("put", "points/"), ("put_if_absent", "seals/")]


@pytest.mark.parametrize(("verb", "prefix"), PLACES, ids=[prefix for _, prefix in PLACES])
def test_a_buried_run_seals_nothing(disk: Path, fake_clock: FakeClock, verb: str, prefix: str) -> None:
    repository = make_repository(clock=fake_clock)
    burying = reopen(repository, _Burying(repository, verb, prefix), fake_clock)
    with pytest.raises(RunBuried) as caught:
        _take(burying, disk, fake_clock)
    assert caught.value.exit_code is ExitCode.BUSY
    assert reopen(repository, clock=fake_clock).listing().points == ()
    fake_clock.advance(60)
    sealed = _take(reopen(repository, clock=fake_clock), disk, fake_clock).sealed
    assert sealed.point.number == 1 and sealed.point.previous is None
    looked = reopen(repository, clock=fake_clock)
    assert [point.name for point in looked.listing().points] == [sealed.name]
    assert {p.object for p in check(looked, 1.0, Silent()).problems if not p.harmless} == set()
    runs = read_runs(repository.store, repository.ring, sealed.point.vm.id)
    assert {records[-1].step for records in runs} == {FINISHED}


class _Slow(WrappedStore):
    """Takes far longer than a lease for the first pack; meanwhile the VM's next run begins."""

    def __init__(self, repository: Repository, clock: FakeClock) -> None:
        super().__init__(repository.store)
        self._repository = repository
        self._clock = clock
        self.refused = 0

    def around(self, request: Request, call: Callable[[], Any]) -> Any:
        if request.verb == "commit" and request.name.startswith("packs/") and not self.refused:
            self._clock.advance(4 * LEASE.total_seconds())
            vm: VmRef = read_record(self.inner, self._repository.ring, names(self.inner, "runs/")[0]).vm
            with pytest.raises(RunAlive):
                self._repository.journal(vm, "cc" * 16).begin({})
            self.refused += 1
        return super().around(request, call)


def test_a_single_slow_request_lets_nobody_take_the_run_for_dead(disk: Path, fake_clock: FakeClock) -> None:
    repository = make_repository(clock=fake_clock)
    slow = _Slow(repository, fake_clock)
    sealed = _take(reopen(repository, slow, fake_clock), disk, fake_clock).sealed
    assert slow.refused == 1
    assert sealed.point.number == 1
