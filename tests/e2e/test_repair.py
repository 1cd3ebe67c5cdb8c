"""After `repo repair` no later restore point rests on a damaged pack, whichever way it is taken."""

import json
import os
import random
from pathlib import Path

import pytest

from tests.e2e.command import Vmkeep

MIB = 1 << 20


def _rot(repo: Path, prefix: str) -> str:
    """Flip one bit in the middle of the largest pack; return its object name."""
    pack = max((repo / prefix).rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else -1)
    content = bytearray(pack.read_bytes())
    content[len(content) // 2] ^= 4
    pack.chmod(0o600)
    pack.write_bytes(content)
    return pack.relative_to(repo).as_posix()


def _repair(vmkeep: Vmkeep, *options: str) -> list[str]:
    result = vmkeep("repo", "repair", "--json", *options)
    assert result.code == 14
    condemned: list[str] = result.json["condemned"]
    return condemned


@pytest.mark.parametrize("prefix", ["packs", "maps"])
@pytest.mark.parametrize("declared", [False, True], ids=["everything read", "changes declared"])
def test_later_points_are_whole_again(
    vmkeep: Vmkeep, tmp_path: Path, seed: int, prefix: str, declared: bool
) -> None:
    disk = tmp_path / "disk.raw"
    content = bytearray(random.Random(seed).randbytes(9 * MIB))
    disk.write_bytes(content)
    first = vmkeep.ok("backup", "disk:disk.raw", "--json").json["id"]
    damaged = _rot(vmkeep.repo, prefix)

    assert _repair(vmkeep, "--dry-run") == [damaged]
    assert _repair(vmkeep) == [damaged]
    assert _repair(vmkeep) == [], "once is enough"

    content[5 * MIB : 5 * MIB + 3] = b"new"
    disk.write_bytes(content)
    options = ["--json"]
    if declared:
        (tmp_path / "changes.json").write_text(json.dumps([[5 * MIB, 3]]))
        options += ["--changes", "changes.json", "--parent", first]
    second = vmkeep.ok("backup", "disk:disk.raw", *options).json["id"]
    vmkeep.ok("restore", second, "--to", "restored.raw")
    assert (tmp_path / "restored.raw").read_bytes() == content
    # The damaged pack can go: nothing of the new point rests on it.
    (vmkeep.repo / damaged).unlink()
    vmkeep.ok("restore", second, "--to", "again.raw")
    assert (tmp_path / "again.raw").read_bytes() == content
    # And after one more repair nobody complains of it, unless the first point lost something for good.
    again = vmkeep("repo", "repair", "--json").json
    lost = again["kept"]
    assert (again["removed"], lost) == ([damaged], {}) or list(lost) == [damaged]
    assert vmkeep("repo", "check", "--keyless").code == (14 if lost else 0)
    checked = vmkeep("repo", "check", "--read-data", "all", "--json").json
    assert checked["ok"] is (not lost)
    restorable = {point["id"] for point in checked["restore_points"] if point["state"] == "whole"}
    for point in (first, second):
        back = vmkeep("restore", point, "--to", f"{point}.raw")
        assert (back.code == 0) is (point in restorable), "what is called whole comes back, nothing else"


def test_nothing_damaged_nothing_done(vmkeep: Vmkeep, tmp_path: Path) -> None:
    (tmp_path / "disk.raw").write_bytes(b"x" * MIB)
    vmkeep.ok("backup", "disk:disk.raw")
    assert vmkeep.ok("repo", "repair", "--json").json == {
        "message_type": "summary",
        "ok": True,
        "dry_run": False,
        "condemned": [],
        "removed": [],
        "kept": {},
        "frames_copied": 0,
        "problems": [],
    }
    assert not (vmkeep.repo / "condemned").exists()


def test_what_killed_runs_left_is_swept_by_the_next(vmkeep: Vmkeep, tmp_path: Path) -> None:
    (tmp_path / "disk.raw").write_bytes(b"x" * MIB)
    vmkeep.ok("backup", "disk:disk.raw")
    left = vmkeep.repo / "tmp"
    left.mkdir(exist_ok=True)
    for name, age_s in (("a" * 32, 3 * 86400), ("b" * 32, 60)):
        (left / name).write_bytes(b"half a pack")
        then = (left / name).stat().st_mtime - age_s
        os.utime(left / name, (then, then))
    vmkeep.ok("backup", "disk:disk.raw")
    assert [path.name for path in left.iterdir()] == ["b" * 32], (
        "a day is waited: its writer may live elsewhere"
    )
