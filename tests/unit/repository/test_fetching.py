"""An object larger than vmkeep writes is refused by its size alone: it must not fill the memory."""

from pathlib import Path

import pytest

from tests.clocks import FakeClock
from tests.faults.stores import CountingStore
from tests.repositories import CHUNK, VM, make_repository, random_bytes, reopen, take
from vmkeep.objectstore.directory import DirectoryStore
from vmkeep.progress import Silent
from vmkeep.repository.errors import Tampered
from vmkeep.repository.examine.keyed import check
from vmkeep.repository.examine.keyless import check_keyless
from vmkeep.repository.journal import read_record

# A box holds at most 256 MiB (`docs/format.md` section 8) and is stored no larger than that and some.
TOO_LARGE = 257 << 20
STEM = f"{'ab' * 16}/20260329T003000Z-{'cd' * 16}"
PLANTED = (
    f"keys/{'ab' * 16}",
    f"points/{STEM}",
    f"seals/{STEM}",
    f"forgotten/{STEM}",
    f"evidence/{STEM}/{'ef' * 16}",
    f"inventory/{'ab' * 16}",
    f"runs/{'ab' * 16}/{'cd' * 16}/000000",
    f"sessions/{'ab' * 16}",
    f"condemned/{'ab' * 16}",
    f"index/{'ab' * 16}",
)


@pytest.mark.parametrize("name", PLANTED)
def test_what_somebody_planted_is_named_and_not_read(
    tmp_path: Path, fake_clock: FakeClock, name: str
) -> None:
    folder = tmp_path / "store"
    repository = make_repository(DirectoryStore(folder, create=True), fake_clock)
    take(repository, VM, {"disk": random_bytes(1, CHUNK)}, fake_clock)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(TOO_LARGE)  # sparse: it takes no room
    if name.startswith("points/"):  # without a seal nobody would look at it
        repository.points.seal(name, bytes(32), fake_clock.now())
    store = CountingStore(repository.store)
    for report in (
        check_keyless(store, repository.parameters, Silent()),
        check(reopen(repository, store), 1.0, Silent()),
    ):
        assert name in {problem.object for problem in report.problems}
    assert {request.verb for request in store.log if request.name == name} <= {"head"}
    assert store.bytes_read < 1 << 20


def test_a_record_asked_for_by_name_is_refused_by_its_size(tmp_path: Path, fake_clock: FakeClock) -> None:
    repository = make_repository(DirectoryStore(tmp_path, create=True), fake_clock)
    name = f"runs/{'ab' * 16}/{'cd' * 16}/000000"
    (tmp_path / name).parent.mkdir(parents=True)
    with (tmp_path / name).open("wb") as file:
        file.truncate(TOO_LARGE)
    store = CountingStore(repository.store)
    with pytest.raises(Tampered, match=name):
        read_record(store, repository.ring, name)
    assert store.bytes_read == 0
