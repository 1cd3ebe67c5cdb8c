"""Later restore points: everything is read again, or only what is declared; only what differs is stored."""

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest

from tests.e2e.command import Vmkeep
from tests.e2e.disks import MIB, SourceDisks, convert, run, write_at
from tests.generators import vhd_bytes

pytestmark = pytest.mark.qemu

CHUNK: Final = 64 << 10


def disk_root(vmkeep: Vmkeep, point: str) -> str:
    """The root of the one disk's map: equal roots mean equal bytes (docs/format.md, section 7)."""
    root = vmkeep.ok("show", point, "--json").json["disks"][0]["root"]
    assert len(root) == 64
    return str(root)


def changes_file(folder: Path, ranges: Sequence[Sequence[int]]) -> Path:
    file = folder / "changes.json"
    file.write_text(json.dumps(list(ranges)))
    return file


@pytest.fixture
def raw(tmp_path: Path, seed: int) -> Path:
    """A raw disk of 12 MiB full of noise, without any zero chunk."""
    path = tmp_path / "disk.raw"
    path.write_bytes(random.Random(seed).randbytes(12 * MIB))
    return path


def overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


@pytest.mark.parametrize("name", ["system.vhdx", "old.vhd", "plain.img", "data fixed.vhdx"])
def test_a_second_run_reads_everything_and_stores_what_differs(
    vmkeep: Vmkeep, source_disks: SourceDisks, tmp_path: Path, seed: int, name: str
) -> None:
    disk = tmp_path / name
    shutil.copy(source_disks.folder / name, disk)
    driver = source_disks.drivers[name]
    first = vmkeep.backup(f"disk:{disk}")
    assert 0 < first["bytes_stored"] < first["bytes_read"]  # half of the files compress

    unchanged = vmkeep.backup(f"disk:{disk}")
    assert (unchanged["bytes_read"], unchanged["bytes_stored"]) == (first["bytes_read"], 0)
    assert unchanged["parent"] == first["id"]

    noise = random.Random(seed).randbytes(2 * CHUNK)
    write_at(disk, driver, {3 * MIB + 1024: noise})
    changed = vmkeep.backup(f"disk:{disk}")
    assert changed["bytes_read"] >= first["bytes_read"]
    # The noise and what lies around it in its three chunks, one leaf of the map and its ancestors.
    assert len(noise) < changed["bytes_stored"] < 4 * CHUNK
    run("qemu-img", "convert", "-f", driver, "-O", "raw", disk, tmp_path / "now.raw")
    assert vmkeep.restore_raw("latest") == (tmp_path / "now.raw").read_bytes()
    assert vmkeep.restore_raw(first["id"]) == source_disks.truth[name].read_bytes()


def test_what_is_not_allocated_is_not_read(vmkeep: Vmkeep, tmp_path: Path, seed: int) -> None:
    disk = tmp_path / "thin.vhdx"
    run("qemu-img", "create", "-q", "-f", "vhdx", "-o", "block_size=1M", disk, "200M")
    rng = random.Random(seed)
    pieces = {0: rng.randbytes(MIB), 70 * MIB: rng.randbytes(2 * MIB), 199 * MIB: rng.randbytes(MIB)}
    write_at(disk, "vhdx", pieces)
    info = vmkeep.ok("disk", "info", disk, "--json").json
    assert info["allocated"] == 4 * MIB
    assert vmkeep.backup(f"disk:{disk}")["bytes_read"] == 4 * MIB
    assert vmkeep.backup(f"disk:{disk}")["bytes_read"] == 4 * MIB


def test_the_same_data_in_another_vm_or_format_is_stored_once(
    vmkeep: Vmkeep, raw: Path, tmp_path: Path
) -> None:
    first = vmkeep.backup(f"disk:{raw}")
    assert first["bytes_stored"] > 12 * MIB
    again = vmkeep.backup(f"disk:{convert(raw, tmp_path / 'other.vhdx', 'vhdx')}")
    assert again["vm_id"] != first["vm_id"]
    assert (again["parent"], again["bytes_stored"]) == (None, 0)


def test_declared_changes_give_the_same_point_as_reading_everything(
    vmkeep: Vmkeep, raw: Path, tmp_path: Path, seed: int
) -> None:
    first = vmkeep.backup(f"disk:{raw}")
    rng = random.Random(seed + 1)  # the disk's own noise would be found in the repository
    ranges = [[4 * CHUNK, CHUNK], [5 * MIB, 2 * CHUNK], [12 * MIB - CHUNK, CHUNK]]
    for offset, length in ranges:
        overwrite(raw, offset, rng.randbytes(length))
    changes = changes_file(tmp_path, ranges)
    declared = vmkeep.backup(f"disk:{raw}", "--changes", changes, "--parent", first["id"])
    assert declared["bytes_read"] == 4 * CHUNK
    assert declared["parent"] == first["id"]
    assert 4 * CHUNK < declared["bytes_stored"] < 4 * CHUNK + 32 * 1024
    full = vmkeep.backup(f"disk:{raw}")
    assert (full["bytes_read"], full["bytes_stored"]) == (12 * MIB, 0)
    assert disk_root(vmkeep, declared["id"]) == disk_root(vmkeep, full["id"])
    assert vmkeep.restore_raw(declared["id"]) == raw.read_bytes()
    assert vmkeep.restore_raw(first["id"]) != raw.read_bytes()
    vmkeep.check_all()


@pytest.fixture
def fixed(raw: Path, tmp_path: Path) -> Path:
    """The same disk with an identifier: a fixed VHD, whose bytes lie where the guest's are."""
    disk = tmp_path / "disk.vhd"
    disk.write_bytes(vhd_bytes.fixed(raw.read_bytes(), UUID(int=0x5EED)))
    return disk


def test_nothing_outside_the_declared_ranges_is_read(
    vmkeep: Vmkeep, raw: Path, fixed: Path, tmp_path: Path
) -> None:
    before = raw.read_bytes()
    vmkeep.backup(f"disk:{fixed}")
    overwrite(fixed, 2 * MIB, b"A" * CHUNK)
    overwrite(fixed, 9 * MIB, b"B" * CHUNK)  # kept secret
    changes = tmp_path / "changes.json"
    changes.write_text(json.dumps({"ranges": [[2 * MIB, CHUNK]], "note": "as other tools write it"}))
    point = vmkeep.backup(f"disk:{fixed}", "--changes", changes, "--parent", "latest")
    expected = before[: 2 * MIB] + b"A" * CHUNK + before[2 * MIB + CHUNK :]
    assert vmkeep.restore_raw(point["id"]) == expected
    shown = vmkeep.ok("show", point["id"], "--json").json
    assert "not verified" in shown["evidence"]["changed_ranges"]


def test_ranges_of_odd_bytes_are_read_in_whole_chunks(vmkeep: Vmkeep, raw: Path, tmp_path: Path) -> None:
    vmkeep.backup(f"disk:{raw}")
    overwrite(raw, CHUNK - 1, b"xyz")
    overwrite(raw, 12 * MIB - 1, b"!")
    changes = changes_file(tmp_path, [[12 * MIB - 1, 1], [CHUNK - 1, 3], [CHUNK, 2], [7, 0]])
    point = vmkeep.backup(f"disk:{raw}", "--changes", changes, "--parent", "disk@latest")
    assert point["bytes_read"] == 3 * CHUNK
    assert vmkeep.restore_raw("latest") == raw.read_bytes()


def test_no_changes_at_all_make_a_point_equal_to_its_parent(
    vmkeep: Vmkeep, raw: Path, tmp_path: Path
) -> None:
    first = vmkeep.backup(f"disk:{raw}")
    changes = changes_file(tmp_path, [])
    second = vmkeep.backup(f"disk:{raw}", "--changes", changes, "--parent", first["id"])
    assert (second["bytes_read"], second["bytes_stored"]) == (0, 0)
    assert disk_root(vmkeep, second["id"]) == disk_root(vmkeep, first["id"])


def test_changes_may_build_on_an_older_point(vmkeep: Vmkeep, raw: Path, fixed: Path, tmp_path: Path) -> None:
    oldest = raw.read_bytes()
    first = vmkeep.backup(f"disk:{fixed}")
    overwrite(fixed, 0, b"1" * CHUNK)
    vmkeep.backup(f"disk:{fixed}")
    overwrite(fixed, MIB, b"2" * CHUNK)
    changes = changes_file(tmp_path, [[MIB, CHUNK]])
    third = vmkeep.backup(f"disk:{fixed}", "--changes", changes, "--parent", first["id"])
    assert third["parent"] == first["id"]
    assert vmkeep.restore_raw(third["id"]) == oldest[:MIB] + b"2" * CHUNK + oldest[MIB + CHUNK :]
    vmkeep.check_all()


def test_changes_of_a_dynamic_disk_are_of_its_guest_s_bytes(
    vmkeep: Vmkeep, source_disks: SourceDisks, tmp_path: Path, seed: int
) -> None:
    disk = tmp_path / "system.vhdx"
    shutil.copy(source_disks.folder / "system.vhdx", disk)
    first = vmkeep.backup(f"disk:{disk}")
    noise = random.Random(seed).randbytes(CHUNK)
    write_at(disk, "vhdx", {20 * MIB: noise, 64 * 1024 * 70: bytes(CHUNK)})
    changes = changes_file(tmp_path, [[20 * MIB, CHUNK], [70 * CHUNK, CHUNK]])
    declared = vmkeep.backup(f"disk:{disk}", "--changes", changes, "--parent", first["id"])
    assert declared["bytes_read"] == 2 * CHUNK
    full = vmkeep.backup(f"disk:{disk}")
    assert disk_root(vmkeep, declared["id"]) == disk_root(vmkeep, full["id"])


def test_a_disk_that_grew_is_read_whole(vmkeep: Vmkeep, raw: Path) -> None:
    vmkeep.backup(f"disk:{raw}")
    with raw.open("ab") as file:
        file.write(b"more" * 256 * 1024)
    grown = vmkeep.backup(f"disk:{raw}")
    assert grown["bytes_read"] == 13 * MIB
    assert grown["bytes_stored"] < CHUNK + 8192  # the new MiB repeats itself: one chunk, and the map
    assert vmkeep.restore_raw("latest") == raw.read_bytes()


def test_state_files_of_the_vm_are_read_even_when_changes_are_declared(
    vmkeep: Vmkeep, raw: Path, tmp_path: Path
) -> None:
    vm = tmp_path / "vm"
    (vm / "Virtual Machines").mkdir(parents=True)
    raw.rename(vm / "disk.raw")
    config = vm / "Virtual Machines" / "5A1F0C3E-AB12-4C00-8000-0123456789AB.vmcx"
    config.write_bytes(b"one")
    first = vmkeep.backup(f"folder:{vm}")
    config.write_bytes(b"two!")
    changes = changes_file(tmp_path, [])
    second = vmkeep.backup(f"folder:{vm}", "--changes", changes, "--parent", first["id"])
    assert second["bytes_read"] == 4
    vmkeep.ok("restore", second["id"], "--to", tmp_path / "back")
    assert (tmp_path / "back" / config.relative_to(vm)).read_bytes() == b"two!"
    summary: Any = vmkeep.ok("show", second["id"], "--json").json
    assert [f["role"] for f in summary["files"]] == ["configuration"]


def test_a_disk_without_identifier_is_compared_with_the_point_it_is_said_to_continue(
    vmkeep: Vmkeep, raw: Path, tmp_path: Path, seed: int
) -> None:
    other = tmp_path / "other.raw"
    other.write_bytes(random.Random(seed + 1).randbytes(raw.stat().st_size))
    named = convert(other, tmp_path / "named.vhdx", "vhdx")
    changes = changes_file(tmp_path, [])
    vmkeep.backup(f"disk:{raw}")
    vmkeep.backup(f"disk:{named}")
    for parent, source in (("disk", other), ("named", raw), ("disk", named)):
        declared = ("--changes", changes, "--parent", parent)
        vmkeep.fails(1, "backup", f"disk:{source}", *declared, says="another disk")
    assert len(vmkeep.points()) == 2
    same = vmkeep.backup(f"disk:{other}", "--changes", changes, "--parent", "named")
    assert vmkeep.restore_raw(same["id"]) == other.read_bytes()


def test_changes_since_another_disk_are_refused_and_a_copy_of_the_same_one_is_taken(
    vmkeep: Vmkeep, raw: Path, tmp_path: Path, seed: int
) -> None:
    first = convert(raw, tmp_path / "first.vhdx", "vhdx")
    vmkeep.backup(f"disk:{first}", "--as", "web")
    changes = ("--changes", changes_file(tmp_path, [[MIB, 512]]), "--parent", "web")
    foreign = tmp_path / "foreign.raw"
    foreign.write_bytes(random.Random(seed + 1).randbytes(12 * MIB))
    # Another identifier (each conversion makes one), or another VM: a sample shows what it is.
    other = convert(foreign, tmp_path / "other.vhdx", "vhdx")
    vmkeep.fails(1, "backup", f"disk:{other}", "--as", "web", *changes, says="another disk")
    vmkeep.fails(1, "backup", f"disk:{foreign}", "--as", "database", *changes, says="another disk")
    assert len(vmkeep.points()) == 1

    overwrite(raw, MIB, b"\x5a" * 512)
    again = convert(raw, tmp_path / "again.vhdx", "vhdx")
    taken = vmkeep.ok("backup", f"disk:{again}", "--as", "web", *changes, "--json").json
    assert "disk-unproven" in [reason["code"] for reason in taken["reasons"]]
    assert taken["reread_audit"]["inherited"]["compared_with_source"] is True
    vmkeep.ok("restore", taken["id"], "--to", "back.raw")
    assert (tmp_path / "back.raw").read_bytes() == raw.read_bytes()
