"""Several disks written at once: the same maps as one after another, everything stored once."""

import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Final, TypeVar

import pytest

from tests.clocks import FakeClock
from tests.faults.stores import Flip, Request, WrappedStore, tamper
from tests.repositories import (
    CHUNK,
    LEAF,
    VM,
    Source,
    from_bytes,
    make_repository,
    names,
    pack_refs,
    reopen,
    take,
)
from vmkeep.objectstore.errors import StoreUnavailable
from vmkeep.ranges import ByteRange
from vmkeep.repository.inventory import decode_inventory
from vmkeep.repository.packs import Kind
from vmkeep.repository.reader import DiskMap
from vmkeep.repository.repository import Repository
from vmkeep.repository.writer import Writer, WrittenMap

DISKS: Final = 6
SIZE: Final = 5 * LEAF + 1024
LONG_S: Final = 60.0
_T = TypeVar("_T")


def contents(seed: int) -> list[bytes]:
    """Disks that have much in common, at the same places and at others, and some of their own."""
    rng = random.Random(seed)
    shared = [rng.randbytes(CHUNK) for _ in range(80)] + [bytes(CHUNK)] * 40
    disks = []
    for _ in range(DISKS):
        chunks = [rng.choice(shared) if rng.random() < 0.8 else rng.randbytes(CHUNK) for _ in range(320)]
        disks.append(b"".join(chunks)[: SIZE - 1024] + shared[0][:1024])
    return disks


def whole(content: bytes) -> list[ByteRange]:
    return [ByteRange(0, len(content))]


def write_at_once(writer: Writer, sources: list[Source]) -> list[WrittenMap]:
    """Write disks of SIZE, all in threads that begin together."""
    begin = threading.Barrier(len(sources))

    def write(source: Source) -> WrittenMap:
        begin.wait(LONG_S)
        return writer.write_map(source, SIZE, [ByteRange(0, SIZE)])

    with ThreadPoolExecutor(len(sources)) as pool:
        return [future.result() for future in [pool.submit(write, source) for source in sources]]


def stored_ids(repository: Repository, kind: Kind) -> list[bytes]:
    refs = [ref for ref in pack_refs(repository.store) if ref.kind is kind]
    return [slot.id for ref in refs for slot in repository.reader.pack(ref).slots]


def test_disks_written_at_once_are_what_they_are_one_after_another(seed: int) -> None:
    disks = contents(seed)
    repository = make_repository()
    with repository.writer(os.urandom(16).hex()) as writer:
        written = write_at_once(writer, [from_bytes(content) for content in disks])
        inventory = writer.flush()
        relied, own, stored = writer.relied_on, set(writer.written_packs), writer.bytes_stored
    fresh = reopen(repository)
    for content, one in zip(disks, written, strict=True):
        assert DiskMap(fresh.reader, one.root, SIZE).read_at(0, SIZE) == content
        assert one.read == (ByteRange(0, SIZE),)
    # What they have in common is stored once, whoever came first.
    for kind in Kind:
        ids = stored_ids(fresh, kind)
        assert len(ids) == len(set(ids))
    pieces = {content[at : at + CHUNK] for content in disks for at in range(0, SIZE, CHUNK)}
    assert len(stored_ids(fresh, Kind.CHUNKS)) == len({piece for piece in pieces if any(piece)})
    # The books are right: what was added is what is there, and nothing else is relied on.
    assert own == relied == pack_refs(repository.store)
    sizes = [info.size for kind in Kind for info in repository.store.list(kind.prefix)]
    assert stored == sum(sizes)
    told = decode_inventory(inventory, repository.store.get(inventory), fresh.ring.repository, fresh.ring)
    assert {name for name, _, _ in told.added} == {ref.name for ref in own}
    assert told.relied == ()
    # One after another, in another repository process: the same roots, and nothing more to store.
    with fresh.writer(os.urandom(16).hex()) as writer:
        again = [writer.write_map(from_bytes(content), SIZE, whole(content)) for content in disks]
        writer.flush()
        assert writer.written_packs == []
    assert [one.root for one in again] == [one.root for one in written]


def test_what_went_away_is_stored_again_for_disks_written_at_once(seed: int) -> None:
    disks = contents(seed)
    repository = make_repository()
    with repository.writer(os.urandom(16).hex()) as writer:
        written = write_at_once(writer, [from_bytes(content) for content in disks])
        writer.flush()
        lost = set(random.Random(seed).sample(sorted(writer.written_packs), len(writer.written_packs) // 2))
        for ref in lost:
            repository.store.delete(ref.name)
        writer.rehome(lost)
        assert not writer.relied_on & lost
    fresh = reopen(repository)
    for content, one in zip(disks, written, strict=True):
        assert DiskMap(fresh.reader, one.root, SIZE).read_at(0, SIZE) == content


def test_few_leaves_are_under_way_however_many_disks_there_are() -> None:
    lock = threading.Lock()
    reading = most = 0

    def read_into(offset: int, view: memoryview) -> None:
        nonlocal reading, most
        with lock:
            reading += 1
            most = max(most, reading)
        view[:] = random.Random(offset).randbytes(len(view))
        with lock:
            reading -= 1

    with make_repository().writer(os.urandom(16).hex()) as writer:
        write_at_once(writer, [read_into] * 20)
    assert 1 <= most <= max(6, min(8, os.cpu_count() or 2))


def test_one_disk_that_fails_leaves_the_others_to_their_end_and_no_thread(seed: int) -> None:
    disks = contents(seed)[:3]
    repository = make_repository()

    def failing(offset: int, view: memoryview) -> None:
        if offset >= 2 * LEAF:
            raise OSError("the disk went away")
        view[:] = random.Random(offset).randbytes(len(view))

    with repository.writer(os.urandom(16).hex()) as writer, ThreadPoolExecutor(4) as pool:
        sources = [failing, *(from_bytes(content) for content in disks)]
        futures = [pool.submit(writer.write_map, one, SIZE, [ByteRange(0, SIZE)]) for one in sources]
        wait(futures)
        assert isinstance(futures[0].exception(), OSError)
        for content, future in zip(disks, futures[1:], strict=True):
            written = future.result()
            writer.settle()
            assert DiskMap(repository.reader, written.root, SIZE).read_at(0, SIZE) == content
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("vmkeep-")]


class _Refusing(WrappedStore):
    """Takes so many packs and then no more."""

    def __init__(self, repository: Repository, packs: int) -> None:
        super().__init__(repository.store)
        self._left = packs

    def around(self, request: Request, call: Callable[[], _T]) -> _T:
        if request.verb == "create":
            self._left -= 1
            if self._left < 0:
                raise StoreUnavailable("the medium is full.")
        return super().around(request, call)


def test_a_store_that_refuses_ends_all_disks_and_keeps_nothing_half_written(seed: int) -> None:
    plain = make_repository()
    repository = reopen(plain, _Refusing(plain, 20))
    sources = [from_bytes(content) for content in contents(seed)]
    with pytest.raises(StoreUnavailable, match="full"), repository.writer(os.urandom(16).hex()) as writer:
        write_at_once(writer, sources)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("vmkeep-")]
    # The next run in the same process takes nothing for stored that is not.
    again = reopen(plain)
    with again.writer(os.urandom(16).hex()) as writer:
        written = write_at_once(writer, sources)
        writer.flush()
    for content, one in zip(contents(seed), written, strict=True):
        assert DiskMap(reopen(plain).reader, one.root, SIZE).read_at(0, SIZE) == content


def test_damage_that_one_disk_meets_is_kept_from_those_beside_it(seed: int) -> None:
    clock = FakeClock()
    repository = make_repository(clock=clock, pack_size=16 << 20)
    disks = {f"disk{number}": content for number, content in enumerate(contents(seed))}
    first = take(repository, VM, disks, clock)
    for name in names(repository.store, "maps/"):
        tamper(repository.store, name, Flip(8 * 100))
    fresh = reopen(repository, clock=clock)
    with fresh.writer(os.urandom(16).hex()) as writer, ThreadPoolExecutor(DISKS) as pool:
        futures = [
            pool.submit(
                writer.write_map,
                from_bytes(disks[old.name]),
                SIZE,
                [ByteRange(0, CHUNK)],
                base=DiskMap(fresh.reader, old.root, old.size),
                inherit=True,
            )
            for old in first.point.disks
        ]
        written = [future.result() for future in futures]
        writer.settle()
        met = writer.met_while_writing
        assert {ref.name for ref in met} == set(names(repository.store, "maps/")) - {
            ref.name for ref in writer.written_packs
        }
        writer.store_again(set(met), fresh.reader)
        writer.flush()
        assert not writer.relied_on & met
    for ref in met:
        repository.store.delete(ref.name)
    last = reopen(repository, clock=clock)
    for old, one in zip(first.point.disks, written, strict=True):
        assert DiskMap(last.reader, one.root, SIZE).read_at(0, SIZE) == disks[old.name]
