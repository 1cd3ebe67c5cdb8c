"""What is kept of the index between runs saves time, and never changes an answer."""

import fcntl
import os
import resource
import shutil
import signal
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tests.clocks import FakeClock
from tests.faults.stores import CountingStore, Flip, WrappedStore, tamper
from tests.indexes import IndexWorld, kept_files
from tests.repositories import CHUNK, VM, names, random_bytes, reopen, restore, take
from vmkeep.objectstore.errors import StoreUnavailable
from vmkeep.repository import index_cache
from vmkeep.repository.box import close_box
from vmkeep.repository.listing import SealedPoint
from vmkeep.repository.repository import Repository

pytestmark = pytest.mark.quick

PAGE = 4096


@pytest.fixture(autouse=True)
def _keeps_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_cache, "_WORTH_OBJECTS", 1)


@pytest.fixture
def world(seed: int) -> IndexWorld:
    return IndexWorld(seed)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "some" / "cache"


def _asked(world: IndexWorld, cache: Path) -> list[str]:
    """Open once more, require right answers, and return the index objects that were fetched."""
    store = CountingStore(world.store)
    with world.open(cache, store) as repository:
        world.require_right_answers(repository)
        assert repository.warnings == []
    return sorted(r.name for r in store.log if r.verb == "get" and r.name.startswith("index/"))


def _only_copy(cache: Path) -> Path:
    (path,) = kept_files(cache)
    return path


def test_second_run_fetches_nothing(world: IndexWorld, cache: Path) -> None:
    made = world.grow(20)
    assert _asked(world, cache) == sorted(made)
    assert len(kept_files(cache)) == 1
    assert _asked(world, cache) == []


def test_only_what_is_new_is_fetched(world: IndexWorld, cache: Path) -> None:
    world.grow(20)
    _asked(world, cache)
    more = world.grow(3)
    assert _asked(world, cache) == sorted(more)
    assert _asked(world, cache) == []


def test_little_is_not_worth_a_file(world: IndexWorld, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    made = world.grow(63, slots=3)
    assert _asked(world, cache) == sorted(made)
    assert not cache.exists()
    made += world.grow(1, slots=3)
    assert _asked(world, cache) == sorted(made)
    assert _asked(world, cache) == []


def test_one_large_object_is_worth_a_file(
    world: IndexWorld, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    made = world.grow(packs=1, slots=132_000)  # of 24 bytes each
    few = [world.tables[ref][7] for ref in world.packs]
    store = CountingStore(world.store)
    for expected in (made, []):
        store.log.clear()
        with world.open(cache, store) as repository:
            world.require_right_answers(repository, few)
        assert [r.name for r in store.log if r.verb == "get" and r.name != "format"] == expected


def test_files_are_for_their_owner_only(world: IndexWorld, cache: Path) -> None:
    world.grow(3)
    old = os.umask(0)
    try:
        _asked(world, cache)
    finally:
        os.umask(old)
    assert _only_copy(cache).parent == cache / world.folder_name
    assert _only_copy(cache).stat().st_mode & 0o777 == 0o600
    for folder in (cache, cache / world.folder_name, cache / world.folder_name / "tmp"):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_it_holds_no_names_and_no_whole_id(world: IndexWorld, cache: Path) -> None:
    world.grow(3)
    _asked(world, cache)
    content = _only_copy(cache).read_bytes()
    assert not any(content_id in content for table in world.tables.values() for content_id in table)


def test_bytes_of_a_copy(world: IndexWorld, cache: Path) -> None:
    # Taken apart by the layout in index_copy's docstring.
    (name,) = world.grow(packs=3, slots=100)
    _asked(world, cache)
    content = _only_copy(cache).read_bytes()
    magic, salt, records, objects, packs, zeros = struct.unpack("<8s16sQII24s", content[-96:-32])
    assert (magic, records, objects, packs, zeros) == (b"VMKICPY1", 300, 1, 3, bytes(24))
    key = HKDF(SHA256(), 32, salt, b"vmkeep index copy v1").derive(world.repository.ring._master)
    table = content[2 * PAGE : -32]
    assert content[-32:] == blake3(table + b"\xff" * 8, key=key).digest()
    assert table[:16].hex() == name.removeprefix("index/")
    rows = list(struct.iter_unpack("<16sBxxxII", table[16 : 16 + 3 * 28]))
    assert rows == [(ref.id, ref.kind, 100, 0) for ref in world.objects[name]]
    entries = b""
    for number in range(2):
        page = content[number * PAGE : (number + 1) * PAGE]
        assert page[-16:] == blake3(page[:-16] + struct.pack("<Q", number), key=key).digest(16)
        assert table[100 + 8 * number :][:8] == page[:8][::-1]
        entries += page[:-16]
    found = list(struct.iter_unpack("<16sII", entries[: 300 * 24]))
    assert entries[300 * 24 :].strip(b"\0") == b""
    assert found == sorted(
        (content_id[:16], pack, slot)
        for pack, ref in enumerate(world.objects[name])
        for slot, content_id in enumerate(world.tables[ref])
    )


def test_deleted_at_any_time(world: IndexWorld, cache: Path) -> None:
    made = world.grow(5)
    _asked(world, cache)
    with world.open(cache) as repository:
        assert repository.index.packs
        shutil.rmtree(cache)
        world.require_right_answers(repository)
    assert _asked(world, cache) == sorted(made)


def test_index_objects_that_are_gone_are_not_believed(world: IndexWorld, cache: Path) -> None:
    made = world.grow(6)
    _asked(world, cache)
    for name in made[:2]:
        world.remove_object(name)
    assert _asked(world, cache) == []
    # As a collector does: one new object for several old ones.
    refs = [ref for name in made[2:5] for ref in world.objects[name]]
    merged = world.add_object(refs)
    for name in made[2:5]:
        world.remove_object(name)
    assert _asked(world, cache) == [merged]
    assert _asked(world, cache) == []
    for name in list(world.objects):
        world.remove_object(name)
    assert _asked(world, cache) == []
    assert kept_files(cache) == [], "a copy that tells nothing any more goes"


def test_rewriting_leaves_out_what_is_gone(world: IndexWorld, cache: Path) -> None:
    made = world.grow(8)
    _asked(world, cache)
    before = _only_copy(cache).stat().st_size
    for name in made[:6]:
        world.remove_object(name)
    world.grow(2)
    _asked(world, cache)
    assert _only_copy(cache).stat().st_size <= before * 0.6


def test_packs_that_are_gone_are_not_believed(world: IndexWorld, cache: Path) -> None:
    world.grow(6)
    _asked(world, cache)
    gone = sorted(world.packs)[::3]
    for ref in gone:
        world.remove_pack(ref)
    assert _asked(world, cache) == []
    world.grow(6)  # rewritten meanwhile
    _asked(world, cache)
    for ref in gone:  # a disk that was not mounted, a folder restored by hand
        world.bring_back_pack(ref)
    assert _asked(world, cache) == []


def test_older_place_shows_when_the_later_pack_is_gone(world: IndexWorld, cache: Path) -> None:
    content_id = b"\x77" * 32
    others = [bytes([7, n]) * 16 for n in range(200)]
    first, second = world.add_pack([*others, content_id]), world.add_pack([content_id])
    world.add_object([first])
    _asked(world, cache)
    world.add_object([second])
    world.grow(6)
    _asked(world, cache)
    assert len(kept_files(cache)) == 1, "both are in one file now"
    world.remove_pack(second)
    assert _asked(world, cache) == []


def test_condemned_pack_hides_no_good_one(world: IndexWorld, cache: Path) -> None:
    content_id = b"\x77" * 32
    refs = [world.add_pack([content_id]) for _ in range(400)]  # places on three pages
    world.add_object(refs)
    _asked(world, cache)
    for ref in refs[:200] + refs[201:]:
        world.condemn(ref)
    assert _asked(world, cache) == []
    with world.open(cache) as repository:
        found = repository.index.find_reusable(content_id)
    assert found is not None and found.pack == refs[200]


def test_damaged_index_object_is_left_out(world: IndexWorld, cache: Path) -> None:
    made = world.grow(4)
    tamper(world.store, made[1], Flip(100))
    del world.objects[made[1]]
    store = CountingStore(world.store)
    for _ in range(2):
        with world.open(cache, store) as repository:
            world.require_right_answers(repository)
    assert len(kept_files(cache)) == 1


def test_object_with_a_strange_name_is_learned_like_any(world: IndexWorld, cache: Path) -> None:
    world.grow(3)
    ring = world.repository.ring
    ref = world.add_pack([b"\x31" * 32])
    name = "index/by-hand"
    content = struct.pack("<8sII16sBxxxI16sII", b"VMKINDX1", 1, 1, ref.id, ref.kind, 1, b"\x31" * 16, 0, 0)
    world.store.put(name, close_box(ring, name, content, compress=False))
    world.objects[name] = [ref]
    _asked(world, cache)
    assert _asked(world, cache) == [name]


# -- files that are not as we left them ------------------------------------------------------


def _require_healing(world: IndexWorld, cache: Path) -> None:
    """Whatever lies in the cache: right answers now, and a good copy soon."""
    with world.open(cache) as repository:
        world.require_right_answers(repository)
    with world.open(cache) as repository:
        world.require_right_answers(repository)
        assert repository.warnings == []
    assert _asked(world, cache) == []


def test_flipped_bit_anywhere(world: IndexWorld, cache: Path) -> None:
    world.grow(3, packs=3, slots=60)
    _asked(world, cache)
    good = _only_copy(cache).read_bytes()
    assert len(good) > 4 * PAGE
    places = {*range(0, len(good), 1301), *range(len(good) - 130, len(good), 7)}
    for place in sorted(places):
        shutil.rmtree(cache)
        _asked(world, cache)
        path = _only_copy(cache)
        content = bytearray(path.read_bytes())
        content[place] ^= 1 << place % 8
        path.write_bytes(content)
        with world.open(cache) as repository:
            world.require_right_answers(repository)
            in_pages = place < 4 * PAGE
            assert len(repository.warnings) == in_pages, "a damaged page shows when it is read, and once"
        assert _asked(world, cache) in ([], sorted(world.objects))
        assert _asked(world, cache) == []


@pytest.mark.parametrize("left", [0, 1, 31, 95, 96, 97, 4096, 8000, -1, -32, -96])
def test_torn_file(world: IndexWorld, cache: Path, left: int) -> None:
    world.grow(4, packs=2, slots=100)
    _asked(world, cache)
    path = _only_copy(cache)
    path.write_bytes(path.read_bytes()[:left])
    _require_healing(world, cache)


def test_longer_file_or_none_of_ours(world: IndexWorld, cache: Path) -> None:
    world.grow(4)
    _asked(world, cache)
    path = _only_copy(cache)
    good = path.read_bytes()
    for content in (good + b"\0", b"\0" + good, good + good, bytes(10 * PAGE), b"VMKICPY1" * 2000):
        path.write_bytes(content)
        _require_healing(world, cache)
        path = _only_copy(cache)


def test_pages_exchanged_or_from_another_copy_are_not_believed(world: IndexWorld, cache: Path) -> None:
    world.grow(4, packs=2, slots=100)
    _asked(world, cache)
    path = _only_copy(cache)
    older = path.read_bytes()
    path.write_bytes(older[PAGE : 2 * PAGE] + older[:PAGE] + older[2 * PAGE :])
    _require_healing(world, cache)
    path = _only_copy(cache)
    newer = path.read_bytes()
    assert newer[:100] == older[:100] and len(newer) == len(older), "the same records, another salt"
    path.write_bytes(newer[:PAGE] + older[PAGE : 2 * PAGE] + newer[2 * PAGE :])
    _require_healing(world, cache)


def test_forged_entry_makes_no_writer_rely_on_it(world: IndexWorld, cache: Path) -> None:
    (name,) = world.grow(1, packs=1, slots=100)
    _asked(world, cache)
    (ref,) = world.objects[name]
    planted = b"\x01" * 16
    path = _only_copy(cache)
    content = path.read_bytes()
    lowest = min(world.tables[ref])[:16]
    assert content[:16] == lowest
    forged = planted + content[16 : PAGE - 16]
    path.write_bytes(forged + blake3(forged + bytes(8)).digest(16) + content[PAGE:])
    with world.open(cache) as repository:
        assert repository.index.find_reusable(planted + bytes(16)) is None
        world.require_right_answers(repository)
        assert "was damaged" in repository.warnings[0]


def test_copy_of_another_repository_is_not_believed(world: IndexWorld, cache: Path, seed: int) -> None:
    other = IndexWorld(seed + 1)
    other.grow(4)
    world.grow(2)
    # All that can be taken over from it, as an attacker would: names, packs, index objects.
    for name in [*other.objects, *(ref.name for ref in other.packs)]:
        world.store.put(name, other.store.get(name))
    _asked(other, cache)
    (cache / other.folder_name).rename(cache / world.folder_name)
    with world.open(cache) as repository:
        world.require_right_answers(repository)
        assert not any(repository.index.find(i) for table in other.tables.values() for i in table)


def test_copy_put_back_from_earlier_tells_nothing_wrong(world: IndexWorld, cache: Path) -> None:
    made = world.grow(4)
    _asked(world, cache)
    old = _only_copy(cache)
    content = old.read_bytes()
    world.remove_pack(sorted(world.packs)[0])
    world.remove_object(made[0])
    world.grow(9)
    _asked(world, cache)
    old.write_bytes(content)
    assert _asked(world, cache) == []
    assert len(kept_files(cache)) == 1, "it tells nothing the other does not tell"


def test_files_of_another_version_are_left_alone(world: IndexWorld, cache: Path) -> None:
    world.grow(4)
    _asked(world, cache)
    later = cache / world.folder_name / "index-v2-00"
    later.write_bytes(b"from the future")
    assert _asked(world, cache) == []
    assert later.read_bytes() == b"from the future"


def test_names_that_are_no_files(world: IndexWorld, cache: Path, tmp_path: Path) -> None:
    world.grow(4)
    _asked(world, cache)
    path = _only_copy(cache)
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    (cache / world.folder_name / "index-v1-folder").mkdir()
    os.mkfifo(cache / world.folder_name / "index-v1-pipe")
    assert _asked(world, cache) == sorted(world.objects), "a link is not followed"
    assert _asked(world, cache) == []


def test_page_changed_while_it_is_in_use(world: IndexWorld, cache: Path) -> None:
    world.grow(4, packs=2, slots=100)
    _asked(world, cache)
    path = _only_copy(cache)
    with world.open(cache) as repository:
        world.require_right_answers(repository)
        with path.open("r+b") as file:
            file.write(b"\xee" * 64)
        world.require_right_answers(repository)
        assert len(repository.warnings) == 1
    _require_healing(world, cache)


def test_file_cut_while_threads_use_it(world: IndexWorld, cache: Path) -> None:
    world.grow(10, packs=2, slots=100)
    _asked(world, cache)
    with world.open(cache) as repository, ThreadPoolExecutor(4) as pool:
        assert repository.index.packs
        os.truncate(_only_copy(cache), 0)
        for answer in [pool.submit(world.require_right_answers, repository) for _ in range(4)]:
            answer.result()
        assert len(repository.warnings) == 1


def test_copy_found_damaged_while_merging_costs_no_answer(world: IndexWorld, cache: Path) -> None:
    world.grow(4, packs=2, slots=100)
    _asked(world, cache)
    path = _only_copy(cache)
    with path.open("r+b") as file:
        file.seek(PAGE + 5)
        file.write(b"\xee")
    world.grow(4)
    with world.open(cache) as repository:
        world.require_right_answers(repository)
        assert "could not keep" in repository.warnings[0]
    assert not path.exists()
    _require_healing(world, cache)


def test_object_that_vanished_with_its_copy_is_missed(world: IndexWorld, cache: Path) -> None:
    made = world.grow(4, packs=2, slots=100)
    _asked(world, cache)
    with world.open(cache) as repository:
        assert repository.index.packs
        world.remove_object(made[0])
        os.truncate(_only_copy(cache), 10)
        world.require_right_answers(repository)


# -- when nothing can be kept --------------------------------------------------------------


@contextmanager
def _files_no_larger_than(size: int) -> Iterator[None]:
    """Let the system refuse longer files, as a full disk would."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("room", [0, 100, PAGE, 5000, 9000, 19_000])
def test_full_disk_keeps_nobody_from_anything(world: IndexWorld, cache: Path, room: int) -> None:
    made = world.grow(4, packs=2, slots=100)
    with _files_no_larger_than(room), world.open(cache) as repository:
        index = repository.index
    with world.open(None):
        assert kept_files(cache) == []
    assert len(repository.warnings) == 1 and "could not keep" in repository.warnings[0]
    assert index.packs
    with _files_no_larger_than(room), world.open(cache) as repository:
        world.require_right_answers(repository)
    assert _asked(world, cache) == sorted(made)


def test_full_disk_while_adding_keeps_what_there_was(world: IndexWorld, cache: Path) -> None:
    world.grow(4, packs=2, slots=100)
    _asked(world, cache)
    before = {path: path.read_bytes() for path in kept_files(cache)}
    more = world.grow(3)
    with _files_no_larger_than(PAGE), world.open(cache) as repository:
        world.require_right_answers(repository)
        assert len(repository.warnings) == 1
    assert {path: path.read_bytes() for path in kept_files(cache)} == before
    assert _asked(world, cache) == sorted(more)


def test_place_that_is_no_folder(world: IndexWorld, tmp_path: Path) -> None:
    world.grow(4)
    (tmp_path / "file").write_bytes(b"mine")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with world.open(place) as repository:
            world.require_right_answers(repository)
            assert len(repository.warnings) == 1
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_leavings_of_a_killed_process_go_and_a_living_one_stays(world: IndexWorld, cache: Path) -> None:
    world.grow(2)
    _asked(world, cache)
    unfinished = cache / world.folder_name / "tmp"
    for name in ("dead", "alive"):
        (unfinished / name).write_bytes(b"half")
        os.utime(unfinished / name, (0, 0))
    with (unfinished / "alive").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        world.grow(1)
        _asked(world, cache)
        assert [path.name for path in unfinished.iterdir()] == ["alive"]


# -- several processes ----------------------------------------------------------------------


def test_one_merges_what_the_other_uses(world: IndexWorld, cache: Path) -> None:
    world.grow(4)
    _asked(world, cache)
    with world.open(cache) as slow:
        assert slow.index.packs
        old = _only_copy(cache)
        with world.open(cache) as other:
            # Also as large as the first: they become one.
            known = {i for table in world.tables.values() for i in table}
            refs = [world.add_pack([world.random.randbytes(32) for _ in range(40)]) for _ in range(8)]
            world.add_object(refs)
            assert other.index.packs
        assert not old.exists()
        assert all(slow.index.find(content_id) for content_id in known)


def test_two_make_the_same_at_once(world: IndexWorld, cache: Path) -> None:
    for _ in range(4):
        world.grow(3)

        def look(_: int) -> None:
            with world.open(cache) as repository:
                world.require_right_answers(repository)
                assert repository.warnings == []

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(look, range(8)))
        assert _asked(world, cache) == []
        assert not list((cache / world.folder_name / "tmp").iterdir())
    assert len(kept_files(cache)) <= 2


def test_copies_stay_few_and_are_seldom_rewritten(world: IndexWorld, cache: Path) -> None:
    written = 0
    seen: set[Path] = set()
    for _ in range(80):
        world.grow(1, packs=1, slots=30)
        with world.open(cache) as repository:
            assert len(repository.index.packs) == len(world.packs)
        files = kept_files(cache)
        assert len(files) <= 8
        written += sum(path.stat().st_size for path in files if path not in seen)
        seen.update(files)
    assert _asked(world, cache) == []
    # Every file has a page and a table at least, so the records are what can be reckoned with.
    assert written <= 80 * 30 * 24 * 12 + 80 * 2 * PAGE


# -- the index as it is used ------------------------------------------------------------------


def _take(repository: Repository, cache: Path, disk: bytes, clock: FakeClock) -> SealedPoint:
    """Take a restore point as a new process would, and see that another one can restore it."""
    with reopen(repository) as fresh:
        fresh.keep_index_in(cache)
        sealed = take(fresh, VM, {"disk": disk}, clock)
        assert fresh.warnings == []
    with reopen(repository) as fresh:
        fresh.keep_index_in(cache)
        assert restore(fresh, sealed) == {"disk": disk}
    return sealed


def test_run_with_a_copy_stores_nothing_twice(cache: Path, fake_clock: FakeClock) -> None:
    repository = IndexWorld().repository
    disk = random_bytes(5, 40 * CHUNK)
    _take(repository, cache, disk, fake_clock)
    stored = names(repository.store, "packs/")
    assert len(stored) > 5
    assert len(kept_files(cache)) == 1
    _take(repository, cache, disk, fake_clock)
    assert names(repository.store, "packs/") == stored
    # A pack is gone, but the index objects and the copy still speak of it.
    repository.store.delete(stored[0])
    _take(repository, cache, disk, fake_clock)
    assert len(names(repository.store, "packs/")) == len(stored)


def test_store_that_fails_leaves_no_file_open(world: IndexWorld, cache: Path) -> None:
    # A file left open shows as a warning, and warnings are errors here.
    world.grow(3)
    _asked(world, cache)
    more = world.grow(2)

    class Failing(WrappedStore):
        def get(self, name: str) -> bytes:
            if name == more[1]:
                raise StoreUnavailable("gone for lunch.")
            return super().get(name)

    with pytest.raises(StoreUnavailable), world.open(cache, Failing(world.store)) as repository:
        assert repository.index.packs
    assert _asked(world, cache) == sorted(more)
