"""Work that is done stays done and is told, also when its result cannot be printed."""

import os
from pathlib import Path

import pytest

from tests.e2e.command import Vmkeep
from vmkeep.errors import ExitCode

FULL = Path("/dev/full")
pytestmark = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


def _unprinted(vmkeep: Vmkeep, *arguments: object) -> str:
    """Run a command whose standard output takes nothing; return what it says."""
    full = os.open(FULL, os.O_WRONLY)
    try:
        process = vmkeep.start(*arguments, stdout=full)
        _, err = process.communicate(timeout=120)
    finally:
        os.close(full)
    assert process.returncode == ExitCode.PARTIAL, err
    said = err.decode()
    assert "but the result cannot be printed: no space left on device" in said
    assert "Traceback" not in said and said.count("\n") == 1
    return said


def test_a_repository_keys_disks_and_restored_files_are_there(vmkeep: Vmkeep, tmp_path: Path) -> None:
    assert "made the repository" in _unprinted(vmkeep, "repo", "init", "made", "--no-recovery-key")
    assert vmkeep.ok("repo", "info", "made").code == 0

    new = tmp_path / "new"
    new.write_text("Zebra-42")
    assert "added the password key" in _unprinted(
        vmkeep, "repo", "key", "add", "made", "--new-password-file", new
    )
    keys = vmkeep.ok("repo", "key", "list", "made", "--json").json
    assert len(keys) == 2
    newest = max(keys, key=lambda key: str(key["created"]))["id"]
    assert f"removed the key {newest}" in _unprinted(vmkeep, "repo", "key", "remove", "made", newest)
    assert len(vmkeep.ok("repo", "key", "list", "made", "--json").json) == 1

    disk = tmp_path / "disk.raw"
    disk.write_bytes(os.urandom(1 << 20))
    assert "'copy.raw' is complete" in _unprinted(vmkeep, "disk", "convert", disk, "copy.raw")
    assert (tmp_path / "copy.raw").read_bytes() == disk.read_bytes()

    vmkeep.ok("backup", f"disk:{disk}")
    assert "everything is restored" in _unprinted(vmkeep, "restore", "disk", "--to", "back.raw")
    assert (tmp_path / "back.raw").read_bytes() == disk.read_bytes()
