"""What is different on Windows: who may open what, how a name is taken, which signals there are."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer

from tests.clocks import FakeClock
from vmkeep.capture.folder import hold
from vmkeep.capture.source import SourceAddress
from vmkeep.cli.frame import run_app, state_folder
from vmkeep.errors import ExitCode
from vmkeep.formats.errors import SourceUnreadable
from vmkeep.formats.source import FileSource
from vmkeep.formats.target import TargetFile
from vmkeep.objectstore.address import open_store
from vmkeep.objectstore.directory import DirectoryStore
from vmkeep.objectstore.errors import StoreUnavailable
from vmkeep.objectstore.files import add_name
from vmkeep.repository.owners import owner_is_gone, this_process
from vmkeep.secrets import read_password

assert sys.platform == "win32"

# Every byte that text mode would change or stop at: CR LF, a lone LF, Ctrl+Z.
AWKWARD = b"\r\n\n\r\x1a" + bytes(range(256)) + b"\x1a\r\n"


class Closing(FakeClock):
    """Lets go of a file once somebody has waited ``times`` times."""

    def __init__(self, descriptor: int, times: int) -> None:
        super().__init__()
        self.descriptor = descriptor
        self.times = times

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if len(self.slept) == self.times:
            os.close(self.descriptor)


# -- disks: read alone -----------------------------------------------------------------------------


def test_nobody_writes_to_a_disk_that_is_being_read(tmp_path: Path) -> None:
    path = tmp_path / "d.raw"
    path.write_bytes(AWKWARD)
    first, second = FileSource(path), FileSource(path)  # other readers are welcome
    try:
        for forbidden in (
            lambda: path.open("r+b"),
            path.unlink,
            lambda: path.rename(tmp_path / "e.raw"),
            lambda: os.truncate(path, 1),
        ):
            with pytest.raises(PermissionError):
                forbidden()
        buffer = bytearray(len(AWKWARD))
        assert second.read_into(0, memoryview(buffer)) == len(AWKWARD)
        assert buffer == AWKWARD
    finally:
        first.close()
        second.close()
    path.unlink()


def test_a_disk_that_somebody_writes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.raw"
    path.write_bytes(AWKWARD)
    with path.open("r+b"), pytest.raises(SourceUnreadable) as caught:
        FileSource(path)
    assert str(path)[-5:] in caught.value.message
    FileSource(path).close()


def test_a_disk_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreadable, match="no-such-disk"):
        FileSource(tmp_path / "no-such-disk.raw")


# -- disks: written --------------------------------------------------------------------------------


def test_a_file_in_the_making_has_every_byte_and_its_size(tmp_path: Path) -> None:
    target = TargetFile(tmp_path / "d.raw")
    target.truncate(3 << 30)  # beyond 31 bits
    target.write_at((2 << 30) + 1, AWKWARD)
    target.truncate((2 << 30) + 1000)
    target.publish()
    with (tmp_path / "d.raw").open("rb") as file:
        assert file.seek(0, os.SEEK_END) == (2 << 30) + 1000
        file.seek((2 << 30) - 7)
        assert file.read() == bytes(8) + AWKWARD + bytes(999 - len(AWKWARD))


# -- objects ---------------------------------------------------------------------------------------


def test_objects_have_the_bytes_that_were_put(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store", create=True)
    store.put("packs/ab/x", AWKWARD)
    assert store.get("packs/ab/x") == AWKWARD
    assert (tmp_path / "store" / "packs" / "ab" / "x").read_bytes() == AWKWARD
    assert store.put_if_absent("packs/ab/x", b"other") is False
    assert list((tmp_path / "store" / "tmp").iterdir()) == []


@pytest.mark.parametrize("times", [1, 4])
def test_a_scanner_that_lets_go_soon_does_not_end_the_run(tmp_path: Path, times: int) -> None:
    (tmp_path / "unfinished").write_bytes(AWKWARD)
    clock = Closing(os.open(tmp_path / "unfinished", os.O_RDONLY), times)
    add_name(str(tmp_path / "unfinished"), str(tmp_path / "name"), clock)
    assert (tmp_path / "name").read_bytes() == AWKWARD
    assert len(clock.slept) == times


def test_a_program_that_never_lets_go_is_reported(tmp_path: Path) -> None:
    (tmp_path / "unfinished").write_bytes(AWKWARD)
    clock = FakeClock()
    with (tmp_path / "unfinished").open("rb"), pytest.raises(PermissionError):
        add_name(str(tmp_path / "unfinished"), str(tmp_path / "name"), clock)
    assert 1 < sum(clock.slept) < 10
    assert not (tmp_path / "name").exists()


def test_a_taken_name_is_not_replaced_nor_waited_for(tmp_path: Path) -> None:
    (tmp_path / "unfinished").write_bytes(b"new")
    (tmp_path / "name").write_bytes(b"old")
    clock = FakeClock()
    with pytest.raises(FileExistsError):
        add_name(str(tmp_path / "unfinished"), str(tmp_path / "name"), clock)
    assert (tmp_path / "name").read_bytes() == b"old"
    assert clock.slept == []


def test_an_object_that_somebody_reads_is_in_use_not_forbidden(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store", create=True)
    store.put("a/b", b"1")
    with (tmp_path / "store" / "a" / "b").open("rb"), pytest.raises(StoreUnavailable):
        store.delete("a/b")
    store.delete("a/b")
    assert store.head("a/b") is None


def test_a_drive_is_named_in_three_ways(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "the store"), create=True)
    store.put("a", b"1")
    spelled = (tmp_path / "the store").as_posix()
    assert open_store(spelled).get("a") == b"1"
    assert open_store("file:///" + spelled.replace(" ", "%20")).get("a") == b"1"


def test_names_in_a_restore_point_are_the_same_on_every_system(tmp_path: Path) -> None:
    (tmp_path / "vm" / "Virtual Hard Disks").mkdir(parents=True)
    (tmp_path / "vm" / "Virtual Hard Disks" / "a.raw").write_bytes(bytes(512))
    with hold(SourceAddress("folder", tmp_path / "vm")) as held:
        assert [disk.file for disk in held.disks] == ["Virtual Hard Disks/a.raw"]


def test_an_unfinished_file_of_a_live_writer_is_not_swept(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store", create=True)
    writer = store.create("a/b")
    writer.write(AWKWARD)
    [path] = (tmp_path / "store" / "tmp").iterdir()
    assert store.sweep_temporary(datetime.now(UTC) + timedelta(days=30)) == 0
    assert path.exists()
    writer.commit()
    assert store.get("a/b") == AWKWARD


# -- processes and the command line ----------------------------------------------------------------


def test_no_process_counts_as_dead_before_its_lease_ends() -> None:
    me = this_process()
    assert me["boot"] == ""
    assert not owner_is_gone(me | {"pid": 4_000_000, "start": "1", "boot": "1"})


def test_a_password_command_gets_the_line_that_was_written(tmp_path: Path) -> None:
    line = f"\"{sys.executable}\" -c \"print('a' + chr(34) + 'b c')\""
    secret = read_password(file=None, command=line, environment=os.environ, variable="P")
    assert secret is not None and secret.reveal() == b'a"b c'


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, ExitCode.INTERRUPTED),
        (signal.SIGTERM, ExitCode.TERMINATED),
        (signal.SIGBREAK, ExitCode.TERMINATED),
    ],
)
def test_each_way_to_stop_releases_what_is_held(number: signal.Signals, code: ExitCode) -> None:
    released = []
    app = typer.Typer()

    @app.command()
    def hold() -> None:
        try:
            signal.raise_signal(number)
        finally:
            released.append(number)

    assert run_app(app, []) == code
    assert released == [number]


def test_this_machine_s_memory_is_with_the_user_s_local_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    assert state_folder() == tmp_path / "vmkeep"
    assert (tmp_path / "vmkeep").is_dir()


def test_a_disk_comes_back_on_standard_output_unchanged(tmp_path: Path) -> None:
    (tmp_path / "d.raw").write_bytes(AWKWARD * 2 + bytes(512 * 3 - 2 * len(AWKWARD)))
    repository = str(tmp_path / "keep")

    def vmkeep(*arguments: str) -> bytes:
        code = "import sys; from vmkeep.cli import main; sys.exit(main())"
        environment = os.environ | {"VMKEEP_PASSWORD": "x", "VMKEEP_REPO": repository}
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            stdin=subprocess.DEVNULL, capture_output=True, env=environment, check=False,
        )  # fmt: skip
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
        return done.stdout

    vmkeep("repo", "init", "--no-recovery-key")
    vmkeep("backup", f"disk:{tmp_path / 'd.raw'}")
    assert vmkeep("restore", "latest", "--to", "-") == (tmp_path / "d.raw").read_bytes()
    assert b"\r\n" in vmkeep("points"), "text, however, has the line ends of the system"
