"""Reference points of ours that nothing rests on are those that our own records name, and no others."""

import pytest

from tests.clocks import FakeClock
from tests.faults.stores import CountingStore, Flip, tamper
from tests.repositories import OTHER_VM, VM, make_repository, manifest_of
from vmkeep.backup.orphans import ORPHANS, find_orphans
from vmkeep.model.plan import VmRef
from vmkeep.objectstore.memory import MemoryStore

pytestmark = pytest.mark.quick


class World:
    """A repository in which runs leave tracking and evidence."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = CountingStore(MemoryStore(self.clock))
        self.points = make_repository(self.store, self.clock).points
        self.number = 0

    def track(self, point: str, *orphans: str, vm: VmRef = VM) -> str:
        """Let a run store its tracking; what lies beside it does not matter."""
        fields = {"reference_point": point, ORPHANS: list(orphans)}
        return self.points.attach("tracking", self._name(vm), fields)

    def prove(self, point: object) -> str:
        return self.points.attach("evidence", self._name(VM), {"hold": {"reference_point": point}})

    def _name(self, vm: VmRef) -> str:
        self.clock.advance(60)
        self.number += 1
        return self.points.name_of(manifest_of(vm, [], self.clock)(f"{self.number:032x}"))

    def find(self, *listed: str, needed: tuple[str, ...] = ()) -> tuple[str, ...]:
        self.store.requests.clear()
        return find_orphans(self.points, VM.id, listed, needed)


@pytest.fixture
def world() -> World:
    return World()


def test_only_what_our_records_of_this_vm_name_is_an_orphan(world: World) -> None:
    world.track("Microsoft:A")
    world.prove("Microsoft:B")
    world.track("Microsoft:C", vm=OTHER_VM)
    world.prove(None)
    world.prove(["Microsoft:D"])
    listed = [f"Microsoft:{each}" for each in "ABCD"]
    assert set(world.find(*listed)) == {"Microsoft:A", "Microsoft:B"}
    assert world.find(*listed, needed=("Microsoft:A",)) == ("Microsoft:B",)


def test_letter_case_means_nothing(world: World) -> None:
    world.track("Microsoft:AB")
    assert world.find("microsoft:ab") == ("microsoft:ab",)
    assert world.find("microsoft:ab", needed=("MICROSOFT:AB",)) == ()


def test_nothing_is_asked_where_the_host_lists_only_what_is_needed(world: World) -> None:
    world.track("A")
    assert world.find("a", needed=("A", "B")) == ()
    assert not world.store.requests


def test_a_record_that_cannot_be_read_hides_no_other(world: World) -> None:
    world.track("A")
    tamper(world.store, world.track("B"), Flip(99))
    assert world.find("A", "B") == ("A",)


def test_a_strangers_point_costs_the_same_however_many_points_there_are(world: World) -> None:
    for number in range(40):
        world.track(f"T{number}")
        world.prove(f"E{number}")
    assert world.find("stranger's") == ()
    assert (world.store.requests["list"], world.store.requests["get"]) == (2, 32)
    assert world.find("T39") == ("T39",)
    assert (world.store.requests["list"], world.store.requests["get"]) == (1, 1)


def test_what_each_run_failed_to_drop_is_never_lost_sight_of(world: World) -> None:
    world.track("old")
    for number in range(40):
        world.track(f"T{number}", *world.find("old"))
    assert world.find("old") == ("old",)
