"""What this machine has seen must not silently get less."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clocks import FakeClock
from tests.faults.stores import Cut, Remove, tamper
from tests.repositories import CHUNK, OTHER_VM, VM, forget, make_repository, random_bytes, reopen, take
from vmkeep.model.plan import VmRef
from vmkeep.objectstore.address import open_store
from vmkeep.objectstore.directory import DirectoryStore
from vmkeep.objectstore.memory import MemoryStore
from vmkeep.repository.errors import RolledBack
from vmkeep.repository.heads import Heads
from vmkeep.repository.listing import SealedPoint
from vmkeep.repository.points import seal_name
from vmkeep.repository.repository import Repository

pytestmark = pytest.mark.quick


class World:
    """A repository with two points of one VM and one of another, and a machine that remembers."""

    def __init__(self, folder: Path, clock: FakeClock) -> None:
        self.clock = clock
        self.store = MemoryStore(clock)
        self.repository = make_repository(self.store, clock)
        self.heads = Heads(folder, self.repository.ring.repository, "here")
        self.first = self.take(1)
        self.empty_of_second = self.store.copy()
        self.second = self.take(2)
        self.other = take(self.repository, OTHER_VM, {"disk": random_bytes(3, CHUNK)}, clock)

    def take(self, seed: int) -> SealedPoint:
        return take(self.repository, VM, {"disk": random_bytes(seed, CHUNK)}, self.clock)

    def look(self, store: MemoryStore | None = None, *, accept: bool = False) -> Repository:
        """Look at the repository as `listing` does on this machine."""
        fresh = reopen(self.repository, store or self.store)
        fresh._heads = self.heads
        fresh.listing(accept_rollback=accept)
        return fresh

    def remove(self, sealed: SealedPoint) -> None:
        self.store.delete(seal_name(sealed.name))
        self.store.delete(sealed.name)


@pytest.fixture
def world(tmp_path: Path, fake_clock: FakeClock) -> World:
    return World(tmp_path / "state", fake_clock)


def test_growth_is_fine(world: World) -> None:
    world.look()
    world.take(4)
    world.look()
    world.look()


def test_rollback_of_one_vm_is_noticed(world: World) -> None:
    world.look()
    world.remove(world.second)
    with pytest.raises(RolledBack, match="restore point 2"):
        world.look()
    with pytest.raises(RolledBack):
        world.look()  # looking does not make it right


def test_rollback_of_everything_is_noticed(world: World) -> None:
    world.look()
    with pytest.raises(RolledBack):
        world.look(world.empty_of_second)
    emptied = MemoryStore()
    emptied.put("format", world.store.get("format"))
    with pytest.raises(RolledBack):
        world.look(emptied)


def test_rolled_back_store_that_went_on_is_noticed(world: World) -> None:
    world.look()
    continued = reopen(world.repository, world.empty_of_second)
    world.clock.advance(3600)
    for seed in (8, 9):
        take(continued, VM, {"disk": random_bytes(seed, CHUNK)}, world.clock)
    with pytest.raises(RolledBack):
        world.look(world.empty_of_second)


def test_accepted_rollback_becomes_the_new_state(world: World) -> None:
    world.look()
    world.remove(world.second)
    world.look(accept=True)
    world.look()
    world.remove(world.first)
    with pytest.raises(RolledBack, match="restore point 1"):
        world.look()


def test_forgotten_on_purpose_is_fine(world: World) -> None:
    world.look()
    forget(world.repository, world.second)
    world.look()
    world.remove(world.first)
    with pytest.raises(RolledBack, match="restore point 1"):
        world.look()


def test_forged_tombstone_excuses_nothing(world: World) -> None:
    world.look()
    world.store.put(world.second.name.replace("points/", "forgotten/", 1), b"VMKBOX01 nonsense")
    world.remove(world.second)
    with pytest.raises(RolledBack):
        world.look()


@pytest.mark.parametrize("how", [Cut(40), Remove()], ids=["cut", "removed"])
def test_damage_is_reported_as_damage_and_not_forgotten(world: World, how: Cut | Remove) -> None:
    world.look()
    tamper(world.store, world.second.name, how)
    damaged = world.look()  # the listing itself says what is damaged
    assert world.second.name in {p.context["object"] for p in damaged.points.listing().problems}
    # Gone for good now, but it was there: looking at the damage must not have lowered the memory.
    world.store.delete(world.second.name)
    world.store.delete(seal_name(world.second.name))
    with pytest.raises(RolledBack, match="restore point 2"):
        world.look()


def test_an_older_point_does_not_lower_the_memory(world: World) -> None:
    # Two runs of this machine may end in either order.
    for sealed in (world.first, world.second, world.first):
        world.heads.add(sealed)
    assert world.heads.newest(VM.id) == (2, world.second.name, world.second.digest)
    world.remove(world.second)
    with pytest.raises(RolledBack, match="restore point 2"):
        world.look()


def test_memory_of_another_repository_does_not_count(world: World, tmp_path: Path) -> None:
    world.look()
    other = make_repository(clock=world.clock)
    other._heads = Heads(tmp_path / "state", other.ring.repository, "elsewhere")
    assert other.listing().points == ()


def test_memory_survives_the_process(world: World, tmp_path: Path) -> None:
    world.look()
    world.remove(world.second)
    world.heads = Heads(tmp_path / "state", world.repository.ring.repository, "here")
    with pytest.raises(RolledBack):
        world.look()


def _note(folder: Path, vm: VmRef) -> Path:
    """Return the one file that remembers a VM's newest point."""
    (file,) = [file for file in folder.glob("head-*.json") if json.loads(file.read_text())["vm"] == vm.id]
    return file


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"a": 1}', '{"a": [1]}', '{"a": ["x", "zz", "n"]}', "[" * 100_000, "\udcff", "other"],
)
def test_torn_memory_starts_anew_and_says_so(world: World, tmp_path: Path, text: str) -> None:
    world.look()
    file = _note(tmp_path / "state", VM)
    if text == "other":  # sound in itself, and not what was written there
        text = _note(tmp_path / "state", OTHER_VM).read_text()
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    (warning,) = world.look().warnings
    assert str(file) in warning and "starts anew" in warning
    (aside,) = (tmp_path / "state").glob("*.damaged")
    assert aside.read_bytes() == text.encode("utf-8", "surrogateescape")
    world.remove(world.second)
    with pytest.raises(RolledBack):
        world.look()


def _put_a_folder_in_its_place(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _let_nobody_open_it(file: Path) -> None:
    file.unlink()
    file.symlink_to(file)  # as good as a file of somebody else's, also for root


@pytest.mark.parametrize("spoil", [_put_a_folder_in_its_place, _let_nobody_open_it])
def test_memory_that_cannot_be_read_is_told_and_keeps_nobody_from_the_rest(
    world: World, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    world.look()
    file = _note(tmp_path / "state", VM)
    spoil(file)
    told = world.look().warnings
    assert str(file) in told[0] and "cannot be read" in told[0] and "nobody notices" in told[0]
    assert world.heads.newest(OTHER_VM.id) is not None
    world.remove(world.other)
    with pytest.raises(RolledBack, match="restore point 1"):  # what can be read still counts
        world.look()


def test_memory_of_somebody_else_is_taken_over(world: World, tmp_path: Path) -> None:
    world.look()
    _let_nobody_open_it(_note(tmp_path / "state", VM))
    world.look()
    world.heads.warnings.clear()
    world.look()
    assert world.heads.warnings == []
    world.remove(world.second)
    with pytest.raises(RolledBack, match="restore point 2"):
        world.look()


def test_two_processes_that_note_a_point_at_once_both_note_it(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Heads(tmp_path / "state", world.repository.ring.repository, "here")
    replace = os.replace

    def meanwhile(source: str, target: str) -> None:
        monkeypatch.setattr(os, "replace", replace)
        other.add(world.other)
        replace(source, target)

    monkeypatch.setattr(os, "replace", meanwhile)
    world.heads.add(world.second)
    for vm, sealed in ((VM, world.second), (OTHER_VM, world.other)):
        assert world.heads.newest(vm.id) == (sealed.point.number, sealed.name, sealed.digest)


@pytest.mark.parametrize("accept", [False, True])
def test_what_was_noted_beside_a_listing_stays_noted(world: World, tmp_path: Path, *, accept: bool) -> None:
    world.look()
    seen, listing = world.heads.recall(), world.repository.points.listing()
    third = world.take(7)
    Heads(tmp_path / "state", world.repository.ring.repository, "here").add(third)
    world.heads.remember(seen, listing, accept_rollback=accept)
    assert world.heads.newest(VM.id) == (3, third.name, third.digest)


def test_memory_does_not_grow_with_every_point(world: World, tmp_path: Path) -> None:
    for seed in range(10, 15):
        world.heads.add(world.take(seed))
        world.look()
    assert len(list((tmp_path / "state").glob("head-*"))) == 2


def test_memory_is_for_its_owner_only(world: World, tmp_path: Path) -> None:
    world.look()
    files = list((tmp_path / "state").iterdir())
    assert files
    assert [file for file in files if file.stat().st_mode & 0o077] == []


def _look_at(folder: Path, repository: Repository, *, accept: bool = False) -> None:
    """Open and list as a new process on this machine does."""
    fresh = reopen(repository)
    fresh._heads = Heads(folder, repository.ring.repository, repository.store.canonical_address)
    fresh.listing(accept_rollback=accept)


def _at(place: Path, clock: FakeClock) -> Repository:
    """Make a repository with one point in a folder."""
    repository = make_repository(DirectoryStore(place, create=True), clock)
    take(repository, VM, {"disk": random_bytes(1, CHUNK)}, clock)
    return repository


def _move(repository: Repository, place: Path) -> Repository:
    """Let the folder of a repository lie at another place."""
    Path(repository.store.address).rename(place)
    return reopen(repository, DirectoryStore(place))


def test_repository_replaced_by_another_one_is_noticed_until_accepted(
    tmp_path: Path, fake_clock: FakeClock
) -> None:
    state, here = tmp_path / "state", tmp_path / "here"
    first = _at(here, fake_clock)
    _look_at(state, first)
    aside = _move(first, tmp_path / "aside")
    second = _at(here, fake_clock)
    for _ in range(2):
        with pytest.raises(RolledBack, match="another repository") as caught:
            _look_at(state, second)
        assert "--accept-rollback" in caught.value.hint
    _look_at(state, second, accept=True)
    _look_at(state, second)
    # Disks that take turns at one mount point: both are known now.
    away = _move(second, tmp_path / "away")
    back = _move(aside, here)
    _look_at(state, back)
    _move(back, tmp_path / "aside")
    _look_at(state, _move(away, here))


def test_one_place_has_one_address_however_it_is_written(
    tmp_path: Path, fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, here = tmp_path / "state", tmp_path / "here"
    repository = _at(here, fake_clock)
    _look_at(state, repository)
    _move(repository, tmp_path / "aside")
    (tmp_path / "link").symlink_to("here")
    monkeypatch.chdir(tmp_path)
    other = _at(here, fake_clock)
    for address in (
        "here",
        "./here/",
        f"{tmp_path}//here/../here",
        "link",
        f"file://{tmp_path}/link",
    ):
        with pytest.raises(RolledBack):
            _look_at(state, reopen(other, open_store(address)))
    elsewhere = _move(other, tmp_path / "elsewhere")
    _look_at(state, elsewhere)  # nothing was ever seen there


def test_a_repository_made_on_this_machine_is_known(tmp_path: Path, fake_clock: FakeClock) -> None:
    state, here = tmp_path / "state", tmp_path / "here"
    _look_at(state, _at(here, fake_clock))
    shutil.rmtree(here)
    second = _at(here, fake_clock)
    Heads(state, second.ring.repository, second.store.canonical_address).know_place()
    _look_at(state, second)
