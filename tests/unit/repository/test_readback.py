"""Reading back for the audit: from the pack that is relied on, and from no other."""

import pytest

from tests.clocks import FakeClock
from tests.faults.stores import Flip, Remove, tamper
from tests.repositories import (
    CHUNK,
    OTHER_VM,
    VM,
    condemn,
    make_repository,
    packs_of,
    random_bytes,
    reopen,
    take,
)
from vmkeep.repository.packs import Kind
from vmkeep.repository.readback import ReadBack
from vmkeep.repository.reader import DiskMap
from vmkeep.repository.repository import Repository

pytestmark = pytest.mark.quick
CONTENT = random_bytes(11, 2 * CHUNK)


def read_back(repository: Repository) -> ReadBack:
    return ReadBack(repository.store, repository.parameters, repository.ring, repository.index)


def two_copies() -> tuple[Repository, DiskMap, str]:
    """Return a repository with one disk in two packs, its map, and the pack a run would build on."""
    clock = FakeClock()
    repository = make_repository(clock=clock)
    first = take(repository, VM, {"disk": CONTENT}, clock)
    for ref in packs_of(repository, first):
        condemn(repository, ref)
    old = packs_of(repository, first)
    fresh = reopen(repository, clock=clock)
    second = take(fresh, OTHER_VM, {"disk": CONTENT}, clock)
    [new] = [ref for ref in packs_of(fresh, second) - old if ref.kind is Kind.CHUNKS]
    fresh.index.avoid(ref.id for ref in old)
    disk = second.point.disks[0]
    return fresh, DiskMap(read_back(fresh), disk.root, disk.size), new.name


def test_what_is_whole_is_read() -> None:
    _, disk, _ = two_copies()
    assert disk.read_at(0, len(CONTENT)) == CONTENT


@pytest.mark.parametrize("how", [Flip(8 * 100), Flip(-8 * 70), Remove()], ids=["frame", "slot table", "gone"])
def test_a_damaged_pack_is_named_although_another_has_the_chunk(how: Flip | Remove) -> None:
    repository, disk, name = two_copies()
    tamper(repository.store, name, how)
    ids = [entry for entry in disk.leaf(0) if isinstance(entry, bytes)]
    found, errors = read_back(repository).fetch(ids, Kind.CHUNKS)
    assert found == {}
    assert {error.context["object"] for error in errors} == {name}
    # A restore, which needs the bytes and not the pack, gets them.
    assert b"".join(repository.reader.chunks(ids)) == CONTENT


def test_a_wrong_index_is_corrected_and_no_pack_blamed() -> None:
    repository, disk, name = two_copies()
    ids = [entry for entry in disk.leaf(0) if isinstance(entry, bytes)]
    location = repository.index.find_reusable(ids[0])
    assert location is not None and location.pack.name == name
    repository.index.add(location.pack, location.slot + 7, ids[0])
    look = read_back(repository)
    found, errors = look.fetch(ids, Kind.CHUNKS)
    assert [error.context.get("object") for error in errors] == [None]
    found, errors = look.fetch(ids, Kind.CHUNKS)
    assert (b"".join(found[content_id] for content_id in ids), errors) == (CONTENT, [])
