"""What the directory store promises beyond the contract: crashes, limits, links, modes, strangers."""

import errno
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.faults.stores import Cut, tamper
from vmkeep.errors import ExitCode
from vmkeep.objectstore.directory import DirectoryStore
from vmkeep.objectstore.errors import (
    ObjectExists,
    ObjectMissing,
    StoreMissing,
    StoreUnavailable,
    StoreUnsupported,
)
from vmkeep.objectstore.files import read_some, read_some_into
from vmkeep.objectstore.probe import probe

pytestmark = pytest.mark.quick


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> DirectoryStore:
    return DirectoryStore(root, create=True)


def start(program: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


def unfinished(root: Path) -> list[Path]:
    return sorted((root / "tmp").iterdir())


# -- crashes -------------------------------------------------------------------------------------

STREAM = """
import sys, time
from pathlib import Path
from vmkeep.objectstore.directory import DirectoryStore
writer = DirectoryStore(Path(sys.argv[1])).create("packs/00/p")
for _ in range(3):
    writer.write(bytes(100_000))
print("written", flush=True)
time.sleep(600)
"""


def test_kill_9_in_the_middle_of_a_stream_leaves_no_object(root: Path, store: DirectoryStore) -> None:
    child = start(STREAM, str(root))
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "written\n"
        long_ago = datetime.now(UTC) + timedelta(days=30)
        assert [path.stat().st_size for path in unfinished(root)] == [300_000]
        assert store.sweep_temporary(long_ago) == 0, "the writer still lives"
    finally:
        child.kill()
        child.communicate(timeout=60)
    assert list(store.list("")) == []
    assert store.head("packs/00/p") is None
    now = datetime.now(UTC)
    assert store.sweep_temporary(now + timedelta(hours=23)) == 0
    assert len(unfinished(root)) == 1
    assert store.sweep_temporary(now + timedelta(hours=25)) == 1
    assert unfinished(root) == []
    store.put("packs/00/p", b"next try")


def test_a_sweep_touches_nothing_but_unfinished_files(root: Path, store: DirectoryStore) -> None:
    assert store.sweep_temporary(datetime.now(UTC)) == 0
    store.put("a/b", b"kept")
    (root / "tmp" / "folder").mkdir()
    (root / "tmp" / "link").symlink_to(root / "a" / "b")
    assert store.sweep_temporary(datetime.now(UTC) + timedelta(days=30)) == 0
    assert store.get("a/b") == b"kept"


RACE = """
import sys
from pathlib import Path
from vmkeep.objectstore.directory import DirectoryStore
store = DirectoryStore(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
print(*(number for number in range(40) if store.put_if_absent(f"seals/{number}", sys.argv[2].encode())))
"""


def test_each_name_has_one_winner_among_processes(root: Path, store: DirectoryStore) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(root), str(racer)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": ":".join(sys.path)},
        )
        for racer in range(3)
    ]
    for child in racers:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in racers:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    won = [child.communicate(timeout=60)[0].split() for child in racers]
    assert sorted(number for numbers in won for number in numbers) == sorted(map(str, range(40)))
    for racer, numbers in enumerate(won):
        assert all(store.get(f"seals/{number}") == b"%d" % racer for number in numbers)


def test_every_step_is_flushed_before_the_next_one_relies_on_it(
    root: Path, store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Watched at the border to the operating system; a power cut itself cannot be had here."""
    steps: list[str] = []
    really_sync, really_link = os.fsync, os.link

    def sync(fd: int) -> None:
        steps.append("sync " + os.path.relpath(Path(f"/proc/self/fd/{fd}").readlink(), root))
        really_sync(fd)

    def link(source: str, target: str) -> None:
        steps.append("link " + os.path.relpath(target, root))
        really_link(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "link", link)
    store.put("packs/ab/x", b"content")
    assert [step for step in steps if not step.startswith("sync tmp/")] == [
        "sync .", "sync packs", "link packs/ab/x", "sync packs/ab",
    ]  # fmt: skip
    assert steps[0].startswith("sync tmp/"), "the bytes are durable before they have a name"
    steps.clear()
    assert store.put_if_absent("packs/ab/x", b"other") is False
    assert steps[-2:] == ["sync packs/ab/x", "sync packs/ab"], "whoever is told 'exists' may rely on it"
    steps.clear()
    store.delete("packs/ab/x")
    assert steps == ["sync packs/ab"]
    steps.clear()
    DirectoryStore(root).put("packs/ab/y", b"")
    assert steps[1:3] == ["sync .", "sync packs"], "folders found may stem from a process that crashed"


@pytest.mark.parametrize("broken", ["seals/p", "seals"])
def test_an_object_whose_flush_fails_is_never_said_to_exist(
    root: Path, store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """The system's answer is forged where it is given: a disk that refuses to flush cannot be had here."""
    store.put("seals/other", b"")  # the folder is there and flushed
    really_sync = os.fsync
    refused = {"seals", broken}

    def sync(fd: int) -> None:
        if os.path.relpath(Path(f"/proc/self/fd/{fd}").readlink(), root) in refused:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        really_sync(fd)

    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(StoreUnavailable):
        store.put_if_absent("seals/p", b"sealed")
    assert store.get("seals/p") == b"sealed", "visible, and nobody knows for how long"
    refused = {broken}
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            store.put_if_absent("seals/p", b"sealed")
    refused = set()
    assert store.put_if_absent("seals/p", b"sealed") is False


def test_a_link_reported_as_foreign_by_nfs_counts_as_ours(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_link = os.link

    def link_and_lose_the_reply(source: str, target: str) -> None:
        really_link(source, target)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    monkeypatch.setattr(os, "link", link_and_lose_the_reply)
    assert store.put_if_absent("seals/p", b"sealed") is True


def test_a_folder_tidied_up_by_somebody_is_made_again(root: Path, store: DirectoryStore) -> None:
    store.put("packs/ab/x", b"1")
    store.delete("packs/ab/x")
    (root / "packs" / "ab").rmdir()
    (root / "packs").rmdir()
    (root / "tmp").rmdir()
    store.put("packs/ab/y", b"2")
    assert store.get("packs/ab/y") == b"2"


# -- limits --------------------------------------------------------------------------------------

LIMITED = """
import resource, sys
from pathlib import Path
from vmkeep.errors import VmkeepError
from vmkeep.objectstore.directory import DirectoryStore
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
store = DirectoryStore(Path(sys.argv[1]))
try:
    store.put("packs/00/big", bytes(100_001))
except VmkeepError as error:
    print(type(error).__name__)
writer = store.create("packs/00/streamed")
writer.write(bytes(60_000))
try:
    writer.write(bytes(60_000))
except VmkeepError as error:
    print(type(error).__name__)
try:
    writer.commit()
except ValueError as error:
    print(error)
store.put("packs/00/small", bytes(100_000))
"""


def test_an_object_without_room_is_refused_and_leaves_nothing(root: Path, store: DirectoryStore) -> None:
    """A limit on the size of files stands for a full disk: write(2) fails alike, half way through."""
    child = start(LIMITED, str(root))
    output, _ = child.communicate(timeout=60)
    assert (child.returncode, output.splitlines()) == (0, ["StoreFull", "StoreFull", "the writer is closed"])
    assert [(info.name, info.size) for info in store.list("")] == [("packs/00/small", 100_000)]
    assert unfinished(root) == []


UNPRIVILEGED = """
import os, sys
from pathlib import Path
from vmkeep.errors import VmkeepError
from vmkeep.objectstore.directory import DirectoryStore
from vmkeep.objectstore.probe import probe
if os.geteuid() == 0:
    try:
        os.setgid(65534)
        os.setuid(65534)
    except PermissionError:
        pass  # a root without capabilities obeys the modes like everybody else
store = DirectoryStore(Path(sys.argv[1]))
print(store.get("a/open"), [info.name for info in store.list("")])
for request in (
    lambda: store.put("a/new", b""),
    lambda: store.put("b/new", b""),
    lambda: store.put_if_absent("a/open", b""),
    lambda: store.delete("a/open"),
    lambda: probe(store),
    lambda: DirectoryStore(Path(sys.argv[1]) / "below", create=True),
    lambda: store.get("a/closed"),
):
    try:
        request()
    except VmkeepError as error:
        print(type(error).__name__)
"""


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder below which an unprivileged user can go, as pytest's own is not."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder / "store"
        for path in (folder / "store").rglob("*"):
            if path.is_dir():
                path.chmod(0o700)
        (folder / "store").chmod(0o700)


def test_a_place_that_may_not_be_written_can_be_read(reachable: Path) -> None:
    """Root may write anywhere, so the child gives that up; modes do the rest for both."""
    store = DirectoryStore(reachable, create=True)
    store.put("a/open", b"1")
    store.put("a/closed", b"2")
    (reachable / "a" / "open").chmod(0o444)
    (reachable / "a" / "closed").chmod(0)
    for folder in (reachable / "a", reachable / "tmp", reachable):
        folder.chmod(0o555)
    child = start(UNPRIVILEGED, str(reachable))
    output, _ = child.communicate(timeout=60)
    assert output.splitlines() == [
        "b'1' ['a/closed', 'a/open']",
        *["StoreReadOnly"] * 6,
        "ObjectUnreadable",
    ]
    assert child.returncode == 0
    assert store.get("a/open") == b"1"


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.EXDEV])
def test_a_place_without_hard_links_is_refused_in_clear_words(
    root: Path, store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(source: str, target: str) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StoreUnsupported) as caught:
        probe(store)
    assert str(root) in caught.value.message
    assert caught.value.exit_code == ExitCode.BUSY
    assert caught.value.hint
    assert unfinished(root) == []


# -- the root ------------------------------------------------------------------------------------


def test_a_place_that_is_not_there_is_not_made_unasked(root: Path) -> None:
    with pytest.raises(StoreMissing) as caught:
        DirectoryStore(root)
    assert caught.value.exit_code == ExitCode.REPOSITORY_MISSING
    assert not root.exists()


@pytest.mark.parametrize("below", ["", "/below", "/far/below"])
@pytest.mark.parametrize("create", [False, True])
def test_a_file_is_not_a_place(tmp_path: Path, below: str, create: bool) -> None:
    (tmp_path / "file").write_bytes(b"precious")
    with pytest.raises(StoreMissing):
        DirectoryStore(Path(f"{tmp_path}/file{below}"), create=create)
    assert (tmp_path / "file").read_bytes() == b"precious"


def test_creating_where_a_store_is_keeps_it(root: Path, store: DirectoryStore) -> None:
    store.put("format", b"1")
    assert DirectoryStore(root, create=True).get("format") == b"1"


@pytest.mark.parametrize("left_behind", [True, False])
def test_a_disk_that_went_away_does_not_look_like_an_empty_store(
    root: Path, store: DirectoryStore, left_behind: bool
) -> None:
    store.put("packs/ab/x", b"1")
    root.rename(root.with_name("unmounted"))
    if left_behind:
        root.mkdir()  # the mount point
    expected = StoreUnavailable if left_behind else StoreMissing
    for request in (
        lambda: store.get("packs/ab/x"),
        lambda: store.head("packs/ab/x"),
        lambda: list(store.list("packs/")),
        lambda: list(store.list("")),
        lambda: store.delete("packs/ab/x"),
        lambda: store.put("packs/ab/y", b""),
    ):
        with pytest.raises(expected):
            request()
    assert not left_behind or list(root.iterdir()) == []


def test_a_relative_root_does_not_move_with_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = DirectoryStore(Path("here"), create=True)
    monkeypatch.chdir("/")
    store.put("a", b"1")
    assert (tmp_path / "here" / "a").read_bytes() == b"1"
    assert store.address == str(tmp_path / "here")


def test_only_the_owner_can_read_what_is_stored(root: Path, store: DirectoryStore) -> None:
    store.put("packs/ab/x", b"1")
    writer = store.create("packs/ab/y")
    modes = {path.relative_to(root).parts[0]: stat.S_IMODE(path.stat().st_mode) for path in unfinished(root)}
    writer.abort()
    assert modes == {"tmp": 0o600}
    assert stat.S_IMODE((root / "packs/ab/x").stat().st_mode) == 0o600
    for folder in (root, root / "tmp", root / "packs", root / "packs/ab"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


# -- strangers -----------------------------------------------------------------------------------


def test_foreign_entries_are_counted_and_left_alone(root: Path, store: DirectoryStore) -> None:
    store.put("packs/ab/x", b"1")
    (root / "lost+found").mkdir()
    (root / "lost+found" / "x").write_bytes(b"")
    (root / "Thumbs db").write_bytes(b"")
    (root / "packs" / ".x.swp").write_bytes(b"")
    (root / "packs" / "link").symlink_to("ab/x")
    (root / "packs" / "folder-link").symlink_to("ab")
    os.mkfifo(root / "packs" / "fifo")
    (root / "packs" / os.fsdecode(b"\xff")).write_bytes(b"")
    (root / "tmp" / "anything goes").write_bytes(b"")
    assert [info.name for info in store.list("")] == ["packs/ab/x"]
    assert store.foreign == 7
    in_packs = {f"packs/{name}" for name in (".x.swp", "link", "folder-link", "fifo", "\udcff")}
    assert set(store.foreign_names) == {"lost+found", "Thumbs db"} | in_packs
    assert [info.name for info in store.list("packs/ab/")] == ["packs/ab/x"]
    assert (store.foreign, store.foreign_names) == (0, ())


def test_of_many_foreign_entries_only_some_are_named(root: Path, store: DirectoryStore) -> None:
    for number in range(100):
        (root / f".{number}").write_bytes(b"")
    assert list(store.list("")) == []
    assert (store.foreign, len(set(store.foreign_names))) == (100, 20)


def test_what_is_not_a_file_is_not_an_object(root: Path, tmp_path: Path, store: DirectoryStore) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"not ours")
    (root / "link").symlink_to(outside)
    (root / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(root / "fifo")
    for name in ("link", "dangling", "fifo"):
        with pytest.raises(ObjectMissing):
            store.get(name)
        assert store.head(name) is None
        with pytest.raises(ObjectExists):
            store.put(name, b"ours")
    assert outside.read_bytes() == b"not ours"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("planted", ["packs", "packs/ab", "tmp"])
def test_a_planted_link_does_not_lead_writes_elsewhere(root: Path, tmp_path: Path, planted: str) -> None:
    store = DirectoryStore(root, create=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (root / planted).parent.mkdir(exist_ok=True)
    (root / planted).symlink_to(elsewhere)
    with pytest.raises(StoreUnsupported):
        store.put("packs/ab/x", b"secret")
    assert list(elsewhere.iterdir()) == []


def test_a_file_cut_behind_our_back_is_returned_as_it_is_or_short(store: DirectoryStore) -> None:
    store.put("a", bytes(100))
    tamper(store, "a", Cut(40))
    assert store.get("a") == bytes(40)
    info = store.head("a")
    assert info is not None
    assert info.size == 40


def test_reading_works_where_the_system_has_no_positioned_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows has neither pread nor preadv."""
    monkeypatch.delattr(os, "pread", raising=False)
    monkeypatch.delattr(os, "preadv", raising=False)
    (tmp_path / "file").write_bytes(b"0123456789")
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        buffer = bytearray(4)
        assert read_some(fd, 7, 2) == b"78"
        assert read_some(fd, 8, 9) == b"89"
        assert read_some_into(fd, 3, memoryview(buffer)) == 4
        assert buffer == b"3456"
        assert read_some_into(fd, 10, memoryview(buffer)) == 0
    finally:
        os.close(fd)
