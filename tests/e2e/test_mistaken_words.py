"""What a newcomer types by mistake, or finds in a folder, ends in a sentence that helps."""

import os
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.command import Vmkeep

DATA: Final = b"data" * 4096


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "vm"
    folder.mkdir()
    (folder / "d.raw").write_bytes(DATA)
    return folder


def test_what_cannot_be_meant_is_a_mistake_of_use(vmkeep: Vmkeep, source: Path, tmp_path: Path) -> None:
    vmkeep.backup(f"folder:{source}", "--as", "n" * 200)
    (tmp_path / "password").write_text("x")
    before = sorted(tmp_path.rglob("*"))
    for arguments, says in (
        (("restore", "latest", "--to", ""), "--to"),
        (("disk", "info", ""), "names no file"),
        (("disk", "check", source / "d.raw", ""), "names no file"),
        (("disk", "compare", source / "d.raw", ""), "names no file"),
        (("points", "--password-file", ""), "names no file"),
        (("points", "--password-file", "password", "--password-command", "cat password"), "contradict"),
        (("repo", "info", vmkeep.repo, "--password-file", "a", "--password-command", "b"), "contradict"),
        (("backup", f"folder:{source}", "--as", "n" * 201), "200"),
        (("backup", f"folder:{source}", "--as", "two\nlines"), "control"),
        (("backup", f"folder:{source}", "--as", "\x9b31m"), "control"),
        (("backup", f"folder:{source}", "--as", ""), "--as"),
    ):
        vmkeep.fails(2, *arguments, says=says)
    assert sorted(tmp_path.rglob("*")) == before
    refused = vmkeep.fails(1, "backup", f"folder:{source / 'd.raw'}", says="is a file")
    assert "disk:" in refused.err


def test_the_id_of_a_vm_may_be_written_in_capitals(vmkeep: Vmkeep, source: Path) -> None:
    taken = vmkeep.backup(f"folder:{source}")
    vm = taken["vm_id"].upper()
    assert vm != taken["vm_id"]
    assert [point["id"] for point in vmkeep.points(vm)] == [taken["id"]]
    assert vmkeep.ok("show", f"{vm}@latest", "--json").json["id"] == taken["id"]


def test_a_point_of_a_vm_named_like_another_ones_is_not_taken_for_it(vmkeep: Vmkeep, source: Path) -> None:
    web = vmkeep.backup(f"folder:{source}", "--as", "web")
    other = vmkeep.backup(f"folder:{source}", "--as", "web@latest")
    vmkeep.fails(1, "show", "web@latest", says="means 2 restore points")
    assert vmkeep.ok("show", "web", "--json").json["id"] == web["id"]
    assert vmkeep.ok("show", "web@latest@latest", "--json").json["id"] == other["id"]


def test_a_percentage_needs_no_sign(vmkeep: Vmkeep, source: Path) -> None:
    (source / "d.raw").write_bytes(os.urandom(1000 * 65536))
    taken = vmkeep.backup(f"folder:{source}", "--reread", "40")
    assert taken["reread_audit"]["chunks"] == 400
    all_of_it, whole, nothing = (
        vmkeep.ok("repo", "check", vmkeep.repo, "--read-data", share, "--json").json["bytes_read"]
        for share in ("all", "100", "0")
    )
    assert all_of_it == whole > nothing
    for share in ("nan", "inf", "5_0", "-1", "100.5", "5%%", "", "%", "\u0665"):
        vmkeep.fails(2, "backup", f"folder:{source}", "--reread", share, says="percentage")


def test_a_file_that_looks_like_a_disk_is_not_left_out_in_silence(vmkeep: Vmkeep, source: Path) -> None:
    os.mkfifo(source / "pipe")
    said = vmkeep.ok("backup", f"folder:{source}")
    assert "pipe (a pipe)" in said.text
    (source / "copy of d").write_bytes(b"vhdxfile" + bytes(4096))
    done = vmkeep("backup", f"folder:{source}", "--json")
    assert (done.code, done.json["exit_code"]) == (3, 3)
    assert "'copy of d' is a VHDX disk" in done.err and "disk:FILE" in done.err
    assert [disk["name"] for disk in vmkeep.points()[-1]["disks"]] == ["d"]
    assert "copy of d" in vmkeep.ok("show", "latest").text


def test_a_repository_without_its_format_is_not_called_none(vmkeep: Vmkeep, source: Path) -> None:
    vmkeep.backup(f"folder:{source}")
    (vmkeep.repo / "format").rename(vmkeep.folder / "format")
    for arguments in (("points",), ("repo", "info", vmkeep.repo), ("backup", f"folder:{source}")):
        refused = vmkeep.fails(10, *arguments, says="lost its object `format`")
        assert "repo init" not in refused.err
    vmkeep.fails(10, "points", "--repo", source, says="no repository")
    (vmkeep.folder / "format").rename(vmkeep.repo / "format")
    assert len(vmkeep.points()) == 1


def test_a_rollback_names_the_vm_and_lists_nothing(vmkeep: Vmkeep, source: Path) -> None:
    vmkeep.backup(f"folder:{source}", "--as", "web")
    second = vmkeep.backup(f"folder:{source}", "--as", "web")
    for kind in ("points", "seals"):
        for path in (vmkeep.repo / kind).rglob(f"*{second['id']}"):
            path.unlink()
    refused = vmkeep.fails(14, "points", says="'web'")
    assert second["vm_id"] in refused.err and refused.out == b""


def test_a_backup_notes_a_vanished_point_and_goes_on(vmkeep: Vmkeep, source: Path) -> None:
    vmkeep.backup(f"folder:{source}")
    second = vmkeep.backup(f"folder:{source}")
    vmkeep.backup(f"folder:{source}")
    for kind in ("points", "seals"):
        for path in (vmkeep.repo / kind).rglob(f"*{second['id']}"):
            path.unlink()
    for _ in range(2):
        done = vmkeep("backup", f"folder:{source}", "--json")
        assert done.code == 0 and second["id"] in done.err, done
        assert done.json["warnings"] == [] and second["id"] in done.json["notes"][0]
