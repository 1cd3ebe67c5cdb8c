"""`--limit-read`: taken or refused by the command; kept over all disks, and what is read again."""

import random
from pathlib import Path
from typing import Final

import pytest

from tests.clocks import FakeClock
from tests.e2e.command import Vmkeep
from tests.repositories import make_repository, restore
from vmkeep.backup import run as backup
from vmkeep.capture.source import SourceAddress
from vmkeep.progress import Silent

MIB: Final = 1 << 20
DISKS: Final = 3
SIZE: Final = 3 * MIB
RATE: Final = 64 << 10


@pytest.fixture
def vm(tmp_path: Path, seed: int) -> Path:
    rng = random.Random(seed)
    folder = tmp_path / "vm"
    folder.mkdir()
    for number in range(DISKS):
        (folder / f"disk{number}.raw").write_bytes(rng.randbytes(SIZE))
    return folder


def _take(vm: Path, clock: FakeClock, limit: int | None, reread: float) -> dict[str, bytes]:
    repository = make_repository(clock=clock)
    request = backup.Request(SourceAddress.parse(f"folder:{vm}"), limit_read=limit, reread=reread)
    with repository:
        sealed = backup.run(request, repository, clock, Silent()).sealed
        assert sealed.point.bytes_read == DISKS * SIZE
        return restore(repository, sealed)


@pytest.mark.parametrize(("reread", "times"), [(0.0, 1.3), (1.0, 2.0)], ids=["a sample", "all read again"])
def test_a_run_reads_no_faster_than_it_may(vm: Path, reread: float, times: float) -> None:
    clock = FakeClock()
    start = clock.monotonic()
    disks = _take(vm, clock, RATE, reread)
    # The last read is paid for by nobody. 300 chunks of 16 KiB are read again at least, half of all.
    least = (times * DISKS * SIZE - RATE) / RATE - 1e-6
    assert clock.monotonic() - start >= least
    assert sum(clock.slept) >= least
    assert disks == {f"disk{number}": (vm / f"disk{number}.raw").read_bytes() for number in range(DISKS)}


def test_without_a_limit_nobody_waits(vm: Path) -> None:
    clock = FakeClock()
    _take(vm, clock, None, 1.0)
    assert clock.slept == []


def test_the_command_takes_a_rate(vmkeep: Vmkeep, vm: Path) -> None:
    assert vmkeep.backup(f"folder:{vm}", "--limit-read", "2G")["bytes_read"] == DISKS * SIZE


@pytest.mark.parametrize(
    ("rate", "words"),
    [("0", "nothing would ever be read"), ("fast", "such as 50M"), ("-5M", "such as 50M")],
)
def test_the_command_refuses_what_is_no_rate(vmkeep: Vmkeep, vm: Path, rate: str, words: str) -> None:
    vmkeep.fails(2, "backup", f"folder:{vm}", f"--limit-read={rate}", says=words)
