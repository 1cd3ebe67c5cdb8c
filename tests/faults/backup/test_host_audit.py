"""The re-read audit and the hold check of a held VM: whatever reads differently gives no restore point."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.faults.backup.test_reread_audit import Rotting, Stale, audit_of
from tests.host_runs import SCENARIO, Host, Meeting, host_of, says
from tests.lab_process import Lab, running_lab
from tests.repositories import in_order, names
from vmkeep.backup.errors import AuditFailed
from vmkeep.errors import ExitCode
from vmkeep.formats.errors import SourceChanged
from vmkeep.progress import Silent
from vmkeep.ranges import ByteRange

# What is smaller belongs to a format's own tables and headers, or to the hold check.
_PAYLOAD = 4096


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    with running_lab(SCENARIO, folder / "state") as lab:
        yield lab


@pytest.fixture
def host(lab: Lab) -> Iterator[Host]:
    with host_of(lab) as host:
        yield host
        host.tidy()


Change = Callable[[memoryview, ByteRange], bool]
"""Changes what was read of a range; tells whether it did."""


class Transfer(Silent):
    """What carries the bytes of a host's files whose names end so, from the moment on that reading begins.

    Each read is the first of its place or one more; ``change`` is applied to those that are wanted,
    until it has changed something (``times``).
    """

    def __init__(
        self, patch: pytest.MonkeyPatch, suffix: str, again: bool, change: Change, times: int = 1
    ) -> None:
        self._suffix, self._again, self._change, self._left = suffix, again, change, times
        self._is_on = False
        self._seen: list[ByteRange] = []
        self._lock = threading.Lock()
        self._original = os.preadv
        self.changed = 0
        patch.setattr(os, "preadv", self._preadv)

    def begin(self, label: str, total_bytes: int | None) -> None:
        self._is_on = label.startswith("reading")

    def _preadv(self, fd: int, buffers: Sequence[memoryview], offset: int, flags: int = 0) -> int:
        got = self._original(fd, buffers, offset, flags)
        if self._is_on and got >= _PAYLOAD and os.readlink(f"/proc/self/fd/{fd}").endswith(self._suffix):
            place = ByteRange(offset, got)
            with self._lock:
                is_again = any(one.offset < place.end and place.offset < one.end for one in self._seen)
                self._seen.append(place)
                if is_again == self._again and self._left and self._change(buffers[0], place):
                    self._left -= 1
                    self.changed += 1
        return got


def flip(buffer: memoryview, place: ByteRange) -> bool:
    """Turn one bit in the middle."""
    buffer[place.length // 2] ^= 16
    return True


@pytest.mark.parametrize("again", [False, True], ids=["when stored", "when read again"])
@pytest.mark.parametrize(
    ("suffix", "share", "named"),
    [("off.vhdx", 0.0, "the disk 'off'"), ("off.vhdx", 1.0, "the disk 'off'"), (".vmcx", 0.0, "the file ")],
)
def test_a_bit_that_turns_on_the_way_gives_no_point(
    host: Host, monkeypatch: pytest.MonkeyPatch, again: bool, suffix: str, share: float, named: str
) -> None:
    transfer = Transfer(monkeypatch, suffix, again, flip)
    with pytest.raises(AuditFailed, match="reads differently at offset") as told:
        host.take("off", progress=transfer, reread=share)
    assert transfer.changed == 1
    assert told.value.exit_code is ExitCode.MISMATCH
    assert told.value.message.startswith(named)
    says(told.value)
    assert host.runs("off")[-1][-1].detail["error"] == told.value.code
    assert host.opened().listing().points == ()
    host.is_clean()


def test_old_data_from_a_cache_gives_no_point_and_the_next_run_has_the_new(
    lab: Lab, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.take("off")
    base = lab.real(host.state("off")["disks"][0]["leaf"])
    old = base.read_bytes()
    with base.open("r+b") as file:  # a guest of old, without a word to the host's tracking
        at = base.stat().st_size - (2 << 20)
        file.seek(at)
        file.write(b"new content")

    def stale(buffer: memoryview, place: ByteRange) -> bool:
        before = old[place.offset : place.end]
        if before == bytes(buffer[: place.length]):
            return False
        buffer[: place.length] = before
        return True

    transfer = Transfer(monkeypatch, "off.vhdx", again=False, change=stale)
    with pytest.raises(AuditFailed, match="the disk 'off' reads differently"):
        host.take("off", progress=transfer, reread_all=True)
    assert transfer.changed == 1
    monkeypatch.undo()
    host.is_clean("off")
    host.take("off", reread_all=True)
    host.all_hold(2)
    host.is_clean("off")


def payload_of(base: Path) -> int:
    """Return a place in a disk file behind all its tables, where a guest's data lies."""
    return base.stat().st_size - (1 << 20) + 4096


@pytest.mark.parametrize("stage", ["reading off", "reading again"])
def test_a_frozen_file_that_is_written_gives_no_point_by_its_name(lab: Lab, host: Host, stage: str) -> None:
    path = host.state("off")["disks"][0]["leaf"]
    offset = payload_of(lab.real(path))

    def write() -> None:
        assert lab.control.ask("scribble", vm="off", below=1, offset=offset)["file"] == path

    meeting = Meeting(stage, 1, write)
    with pytest.raises(SourceChanged) as told:
        host.take("off", progress=meeting)
    assert meeting.met
    assert (told.value.exit_code, told.value.file) == (ExitCode.FAILED, path)
    says(told.value)
    assert host.opened().listing().points == ()
    host.is_clean()
    # What stands there now is what the disk holds.
    assert host.take("off").exit_code is ExitCode.OK
    host.all_hold(1)


def cut(path: Path) -> None:
    os.truncate(path, payload_of(path))


def cut_to_nothing(path: Path) -> None:
    os.truncate(path, 0)


def grow(path: Path) -> None:
    os.truncate(path, path.stat().st_size + 4096)


def replace(path: Path) -> None:
    other = path.with_suffix(".other")
    other.write_bytes(path.read_bytes())
    other.rename(path)


@pytest.mark.parametrize(
    ("change", "stage"),
    [
        (cut, "reading off"),
        (cut, "reading again"),
        (cut_to_nothing, "reading off"),
        (grow, "reading off"),
        (replace, "reading off"),
    ],
)
def test_a_frozen_file_that_is_cut_is_told_as_one_that_was_written(
    tmp_path: Path, change: Callable[[Path], None], stage: str
) -> None:
    """However it is changed: it is no damage of the disk, and nothing that a copy of the file would mend."""
    with running_lab(SCENARIO, tmp_path / "state") as lab, host_of(lab) as host:
        path = host.state("off")["disks"][0]["leaf"]
        meeting = Meeting(stage, 0, lambda: change(lab.real(path)))
        with pytest.raises(SourceChanged, match="was written or replaced while it was read") as told:
            host.take("off", progress=meeting, reread=1.0)
        assert meeting.met
        assert (told.value.exit_code, told.value.file) == (ExitCode.FAILED, path)
        assert "frozen by this run's checkpoint" in str(told.value.hint)
        assert host.opened().listing().points == ()
        host.is_clean()


def test_a_frozen_file_whose_record_alone_changes_is_the_same(lab: Lab, host: Host) -> None:
    """As when a VM is started under the hold, whose account the host lets in first (believed.md 69)."""
    path = lab.real(host.state("off")["disks"][0]["leaf"])
    before = path.stat()

    def touch() -> None:
        path.chmod(before.st_mode ^ 0o004)

    meeting = Meeting("reading again", 0, touch)
    try:
        outcome = host.take("off", progress=meeting)
        assert meeting.met
        assert path.stat().st_ctime_ns > before.st_ctime_ns
    finally:
        path.chmod(before.st_mode)
    assert outcome.exit_code is ExitCode.OK
    host.holds(outcome.sealed)


def test_a_write_that_leaves_no_trace_in_the_times_is_found_by_the_audit(lab: Lab, host: Host) -> None:
    """And by nothing else: the limit of the hold check that docs/architecture.md names."""
    path = lab.real(host.state("off")["disks"][0]["leaf"])

    def write() -> None:
        found = path.stat()
        with path.open("r+b") as file:
            file.seek(payload_of(path))
            file.write(os.urandom(512))
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))

    meeting = Meeting("reading again", 0, write)
    with pytest.raises(AuditFailed) as told:
        host.take("off", progress=meeting, reread=1.0)
    assert meeting.met
    assert told.value.exit_code is ExitCode.MISMATCH
    host.is_clean()


def test_a_checkpoint_that_goes_while_it_is_read_gives_no_point(lab: Lab, host: Host) -> None:
    """The hold check asks for the checkpoint itself: without it nobody vouches for the files."""
    host.take("web")

    def remove() -> None:
        host.remove_ours("web")

    meeting = Meeting("reading again", 0, remove)
    host.step("web", 5)
    with pytest.raises(Exception, match=r"is gone while it was read|was written or replaced") as told:
        host.take("web", progress=meeting)
    assert meeting.met
    assert getattr(told.value, "exit_code", None) is ExitCode.FAILED
    host.is_clean("web")
    assert host.take("web").exit_code is ExitCode.OK
    host.all_hold(2)


def test_a_repository_that_gives_back_something_else_is_stored_to_again(host: Host) -> None:
    host.take("off")
    host.step("off", 30)
    other = in_order(host.repository.store, "packs/")[0]
    store = Stale(host.repository.store, "packs/", other, times=1)
    outcome = host.take("off", store=store, reread=1.0)
    assert store.left == 0
    assert len(audit_of(outcome)["replaced_packs"]) == 1
    assert outcome.exit_code is ExitCode.PARTIAL
    assert any("is damaged or gone" in warning for warning in outcome.warnings)
    host.holds(outcome.sealed)
    host.is_clean("off")


def test_a_storage_that_keeps_damaging_carries_no_point(host: Host) -> None:
    store = Rotting(host.repository.store, "packs/", 10_000, lambda bits: bits // 2)
    with pytest.raises(AuditFailed, match="does not give back") as told:
        host.take("off", store=store, reread=1.0)
    assert told.value.exit_code is ExitCode.MISMATCH
    assert names(host.repository.store, "points/") == []
    host.is_clean()
    outcome = host.take("off")
    assert outcome.exit_code is ExitCode.OK
    host.holds(outcome.sealed)
