"""The journal of a probe: durable whole lines, one probe at a time, and what a dead one leaves is found."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.clocks import FakeClock
from vmkeep.capture.errors import ProbeUnderWay, ProbeUnnoted
from vmkeep.capture.probe import ProbeNotes

pytestmark = pytest.mark.quick

DETAIL = {"vm": "1285DCFD", "known_checkpoints": ["a"], "since": None, "layers": {"0:0": "C:\\é.avhdx"}}


@pytest.fixture
def notes(tmp_path: Path, fake_clock: FakeClock) -> ProbeNotes:
    return ProbeNotes(tmp_path / "state", "hv01", fake_clock)


def left(notes: ProbeNotes) -> list[str]:
    return sorted(file.name for file in notes.folder.iterdir() if file.name != "lock")


def test_what_a_dead_probe_wrote_is_read_back_in_order(notes: ProbeNotes) -> None:
    with notes.alone():
        journal = notes.begin(address="hv01.example.org")
        journal.step("hold-prepared", DETAIL)
        journal.close()
        assert left(notes) == [f"{journal.run}.jsonl"]
        (dead,) = notes.dead_probes()
    assert dead.run == journal.run
    assert dead.origin == {"address": "hv01.example.org"}
    assert dead.records[1:] == (("hold-prepared", DETAIL),)


def test_only_the_owner_can_read_it(notes: ProbeNotes) -> None:
    with notes.alone():
        notes.begin().close()
    (journal,) = (notes.folder / name for name in left(notes))
    for place, mode in ((journal, 0o600), (notes.folder / "lock", 0o600), (notes.folder, 0o700),
                        (notes.folder.parent, 0o700), (notes.folder.parent.parent, 0o700)):  # fmt: skip
        assert stat.S_IMODE(place.stat().st_mode) == mode, place


def test_a_finished_probe_leaves_no_journal(notes: ProbeNotes) -> None:
    with notes.alone():
        notes.begin().finish()
        assert left(notes) == []
        assert list(notes.dead_probes()) == []
    assert notes.left_over() == 0


def test_a_record_that_was_being_written_counts_for_nothing(notes: ProbeNotes) -> None:
    with notes.alone():
        journal = notes.begin(address="a")
        journal.close()
        with (notes.folder / f"{journal.run}.jsonl").open("ab") as file:
            file.write(b'["hold-prepared", {"vm": "1')
        (dead,) = notes.dead_probes()
    assert [name for name, _ in dead.records] == ["probe"]


def test_a_probe_that_died_before_its_first_record_is_found_and_forgotten(notes: ProbeNotes) -> None:
    with notes.alone():
        (notes.folder / f"{'a' * 32}.jsonl").touch()
        (dead,) = notes.dead_probes()
        assert (dead.origin, dead.records) == ({}, ())
        dead.forget()
        assert left(notes) == []


@pytest.mark.parametrize(
    "line", [b"nonsense\n", b"[1, {}]\n", b'["a", []]\n', b"\xff\n", b"[" * 100_000 + b"\n"]
)
def test_a_damaged_journal_is_refused_and_stays(notes: ProbeNotes, line: bytes) -> None:
    with notes.alone():
        file = notes.folder / f"{'a' * 32}.jsonl"
        file.write_bytes(line)
        with pytest.raises(ProbeUnnoted, match="damaged") as told:
            list(notes.dead_probes())
        assert "Hyper-V" in told.value.hint
        assert file.exists()


def test_an_endless_journal_is_refused(notes: ProbeNotes) -> None:
    with notes.alone():
        (notes.folder / f"{'a' * 32}.jsonl").write_bytes(b'["a", {}]\n' * 200_000)
        with pytest.raises(ProbeUnnoted, match="larger than"):
            list(notes.dead_probes())


def test_other_files_are_nobodys_journal(notes: ProbeNotes) -> None:
    with notes.alone():
        for name in ("notes.txt", "ABC.jsonl", f"{'a' * 31}.jsonl", f"{'a' * 32}.jsonl.bak"):
            (notes.folder / name).touch()
        assert list(notes.dead_probes()) == []


def test_the_second_probe_of_a_host_is_refused_and_another_hosts_is_not(
    notes: ProbeNotes, tmp_path: Path, fake_clock: FakeClock
) -> None:
    other = ProbeNotes(tmp_path / "state", "hv02", fake_clock)
    with notes.alone():
        with pytest.raises(ProbeUnderWay), notes.alone():
            raise AssertionError("two probes have the lock")
        with other.alone():
            pass
    with notes.alone():
        pass


def test_a_living_probe_is_not_told_as_left_over(notes: ProbeNotes) -> None:
    assert notes.left_over() == 0
    with notes.alone():
        journal = notes.begin()
        assert notes.left_over() == 0
        journal.close()
    assert notes.left_over() == 1


def test_looking_makes_nothing(notes: ProbeNotes, tmp_path: Path) -> None:
    assert notes.left_over() == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_step_that_cannot_be_stored_is_an_error_and_leaves_whole_lines(
    notes: ProbeNotes, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    real = os.write

    def fail(fd: int, data: bytes = b"") -> Any:
        if call == "write":
            real(fd, data[:5])
        raise OSError(28, "No space left on device")

    with notes.alone():
        journal = notes.begin(address="a")
        with monkeypatch.context() as patched:
            patched.setattr(os, call, fail)
            with pytest.raises(ProbeUnnoted, match="no space left"):
                journal.step("hold-prepared", DETAIL)
        journal.step("hold-released", {})
        journal.close()
        (dead,) = notes.dead_probes()
    assert [name for name, _ in dead.records] == ["probe", "hold-released"]
    assert journal.steps == ["probe", "hold-released"]


def test_a_place_that_cannot_be_used_is_named(tmp_path: Path, fake_clock: FakeClock) -> None:
    (tmp_path / "state").write_text("a file")
    with (
        pytest.raises(ProbeUnnoted, match="state") as told,
        ProbeNotes(tmp_path / "state", "h", fake_clock).alone(),
    ):
        raise AssertionError("it was used")
    assert "VMKEEP_STATE_DIR" in told.value.hint


def test_hosts_have_folders_of_their_own_whatever_they_are_called(
    tmp_path: Path, fake_clock: FakeClock
) -> None:
    names = ["lab", "Lab", "LAB", "con", "..", ".", "a/b", "a\\b", "a%b", "a.b", "a b", "é", "hv:1", "x" * 63]
    folders = [ProbeNotes(tmp_path, name, fake_clock).folder for name in names]
    assert len({folder.name.lower() for folder in folders}) == len(names)
    for folder in folders:
        assert folder.parent == tmp_path / "probes"
        assert folder.name.startswith("host-")
        assert not set(folder.name) & set("./\\: ")
        with ProbeNotes(tmp_path, "lab", fake_clock).alone():
            pass


def test_a_planted_link_is_not_followed(notes: ProbeNotes, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text(json.dumps(["probe", {}]) + "\n")
    with notes.alone():
        (notes.folder / f"{'a' * 32}.jsonl").symlink_to(tmp_path / "precious")
        with pytest.raises(ProbeUnnoted):
            list(notes.dead_probes())
