"""What happens in the middle of a run: signals, files that move, a second run."""

import json
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.command import CANARY, Vmkeep
from tests.forked import MEETING
from tests.generators.repository_bytes import RepositoryBytes

MIB: Final = 1 << 20


@pytest.fixture
def disk(tmp_path: Path, seed: int) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(random.Random(seed).randbytes(6 * MIB))
    return path


@pytest.fixture
def vmkeep(tmp_path: Path) -> Vmkeep:
    return Vmkeep(tmp_path, RepositoryBytes(seed=11, passwords=[CANARY]).write(tmp_path / "repo"))


def start(
    vmkeep: Vmkeep, action: str, what: str | int, *arguments: object, verb: str, prefix: str, nth: int = 1
) -> "subprocess.Popen[bytes]":
    order = {"verb": verb, "prefix": prefix, "nth": nth, "action": action, "what": what}
    return vmkeep.start(json.dumps(order), *arguments, program=MEETING)


def leftovers(vmkeep: Vmkeep) -> list[Path]:
    return [p for p in (vmkeep.repo / "tmp").rglob("*") if p.is_file()]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("place", [("create", "packs/"), ("put", "points/"), ("put_if_absent", "runs/")])
def test_a_signal_ends_a_backup_cleanly(
    vmkeep: Vmkeep, disk: Path, number: signal.Signals, code: int, place: tuple[str, str]
) -> None:
    before = disk.read_bytes()
    kept = vmkeep.backup(f"disk:{disk}")["id"]
    disk.write_bytes(before[::-1])
    verb, prefix = place
    process = start(vmkeep, "signal", number, "backup", f"disk:{disk}", "--json", verb=verb, prefix=prefix)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (code, b""), err
    document = json.loads(err)
    assert (document["message_type"], document["code"]) == ("exit_error", code)
    assert [p["id"] for p in vmkeep.points()] == [kept]
    assert leftovers(vmkeep) == []
    again = vmkeep.backup(f"disk:{disk}")
    assert vmkeep.restore_raw(again["id"]) == before[::-1]
    assert vmkeep.restore_raw(kept) == before
    vmkeep.check_all()


def test_a_signal_ends_a_restore_without_a_trace(vmkeep: Vmkeep, disk: Path, tmp_path: Path) -> None:
    vmkeep.backup(f"disk:{disk}")
    target = tmp_path / "back"
    for format in ("raw", "vhdx", "vhd"):
        arguments = ("restore", "latest", "--to", target, "--format", format)
        process = start(vmkeep, "signal", 15, *arguments, verb="read_into", prefix="packs/", nth=2)
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out) == (143, b""), err
        assert b"interrupted" in err and b"Traceback" not in err
        assert list(target.iterdir()) == []


@pytest.mark.parametrize("action", ["replace", "grow", "touch", "remove"])
def test_a_disk_that_moves_makes_no_point(vmkeep: Vmkeep, disk: Path, action: str) -> None:
    process = start(vmkeep, action, str(disk), "backup", f"disk:{disk}", verb="create", prefix="packs/")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (1, b""), err
    lines = err.decode().splitlines()
    assert len(lines) == 2 and "disk.raw" in lines[0]
    assert vmkeep.points() == [] and leftovers(vmkeep) == []
    assert not (vmkeep.repo / "points").exists()  # thrown away before it was published


def test_a_file_that_moves_breaks_the_whole_point(vmkeep: Vmkeep, disk: Path, tmp_path: Path) -> None:
    vm = tmp_path / "vm"
    (vm / "Virtual Machines").mkdir(parents=True)
    disk.rename(vm / "disk.raw")
    config = vm / "Virtual Machines" / "5A1F0C3E-AB12-4C00-8000-0123456789AB.vmcx"
    config.write_bytes(b"config")
    process = start(vmkeep, "touch", str(config), "backup", f"folder:{vm}", verb="create", prefix="packs/")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1 and config.name in err.decode()
    assert vmkeep.points() == []


def test_a_run_that_is_under_way_keeps_a_second_one_out(vmkeep: Vmkeep, disk: Path, tmp_path: Path) -> None:
    first = start(vmkeep, "stop", 0, "backup", f"disk:{disk}", "--json", verb="create", prefix="packs/")
    deadline = time.monotonic() + 120
    while "T" not in Path(f"/proc/{first.pid}/stat").read_text().rpartition(")")[2].split()[0]:
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.01)
    try:  # alive, and as slow as can be
        refused = vmkeep.fails(11, "backup", f"disk:{disk}", says="under way")
        assert "Wait" in refused.err
        other = tmp_path / "other.raw"
        other.write_bytes(b"x" * 512)
        vmkeep.backup(f"disk:{other}")  # of another VM: no obstacle
    finally:
        first.send_signal(signal.SIGCONT)
    out, err = first.communicate(timeout=120)
    assert (first.returncode, err) == (0, b"")
    summary: Any = json.loads(out)
    assert vmkeep.restore_raw(summary["id"]) == disk.read_bytes()
    assert [p["vm"] for p in vmkeep.points()] in (["disk", "other"], ["other", "disk"])
    vmkeep.check_all()


def test_a_signal_ends_reads_that_wait_for_a_slow_rate(vmkeep: Vmkeep, tmp_path: Path, seed: int) -> None:
    # At this rate every read but the first would wait for a minute and more, four disks at a time.
    folder = tmp_path / "vm"
    folder.mkdir()
    for number in range(5):
        (folder / f"disk{number}.raw").write_bytes(random.Random(seed + number).randbytes(MIB))
    process = vmkeep.start("backup", f"folder:{folder}", "--limit-read", "1K", "--json")
    deadline = time.monotonic() + 60
    # Begun, claimed, writing: the records of the run tell how far it is.
    while len([p for p in (vmkeep.repo / "runs").rglob("*") if p.is_file()]) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=40)
    assert (process.returncode, out) == (143, b""), err
    assert vmkeep.points() == [] and leftovers(vmkeep) == []
