"""`repo check` answers what somebody asks who sees damage: which restore points can still be brought back?"""

import os
import random
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.command import Vmkeep

MIB = 1 << 20


def _packs(repo: Path) -> set[Path]:
    return {path for path in (repo / "packs").rglob("*") if path.is_file()}


def _check(vmkeep: Vmkeep, *options: str) -> Any:
    return vmkeep("repo", "check", "--json", *options).json


def _states(document: Any) -> dict[str, str]:
    return {point["id"]: point["state"] for point in document["restore_points"]}


@pytest.mark.parametrize("damage", ["rot", "gone"])
def test_who_sees_damage_is_told_which_points_come_back(
    vmkeep: Vmkeep, tmp_path: Path, seed: int, damage: str
) -> None:
    rng = random.Random(seed)
    ids, stored, contents = [], [], []
    for name in ("web", "web", "db"):
        content = rng.randbytes(MIB)
        (tmp_path / f"{name}.raw").write_bytes(content)
        before = _packs(vmkeep.repo)
        ids.append(vmkeep.backup(f"disk:{name}.raw")["id"])
        contents.append(content)
        stored.append(_packs(vmkeep.repo) - before)
    assert set(_states(_check(vmkeep)).values()) == {"not examined"}
    sound = _check(vmkeep, "--read-data", "all")
    assert _states(sound) == dict.fromkeys(ids, "whole")
    assert (sound["points"], sound["points_whole"], sound["points_damaged"]) == (3, 3, 0)

    [victim] = stored[1]
    if damage == "gone":
        victim.unlink()
    else:
        rotten = bytearray(victim.read_bytes())
        rotten[40] ^= 1
        victim.write_bytes(rotten)
    report = _check(vmkeep, "--read-data", "all")
    assert _states(report) == {ids[0]: "whole", ids[1]: "damaged", ids[2]: "whole"}
    assert (report["points_whole"], report["points_damaged"], report["points_not_examined"]) == (2, 1, 0)
    name = victim.relative_to(vmkeep.repo).as_posix()
    assert [p["points"] for p in report["problems"] if p["object"] == name] == [[ids[1]]]
    [point] = [point for point in report["restore_points"] if point["id"] == ids[1]]
    lost = MIB if damage == "gone" else 64 << 10
    assert (point["vm"], [loss["bytes"] for loss in point["losses"]]) == ("web", [lost])
    for number, point_id in enumerate(ids):
        back = vmkeep("restore", point_id, "--to", "-")
        assert (back.out == contents[number]) is (number != 1)

    told = vmkeep("repo", "check", "--read-data", "all")
    assert told.code == 14
    lines = told.text.splitlines()
    assert any(line.startswith("damaged") and ids[1][:12] in line and "web" in line for line in lines)
    assert {line.split()[-1] for line in lines if line.startswith("whole ")} == {
        f"({ids[0][:12]})",
        f"({ids[2][:12]})",
    }
    assert lines[-1] == "restore points: 2 whole, 1 damaged"


def test_what_is_no_object_is_named_and_harms_nothing(vmkeep: Vmkeep, tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(b"1" * MIB)
    vmkeep.backup("disk:a.raw")
    (vmkeep.repo / "elsewhere").symlink_to(tmp_path / "a.raw")
    os.mkfifo(vmkeep.repo / "packs" / "pipe")
    (vmkeep.repo / "packs" / "red\x1b[31m\u202e").write_bytes(b"")
    (vmkeep.repo / os.fsdecode(b"\xff")).write_bytes(b"")
    for options in ((), ("--keyless",)):
        report = vmkeep.ok("repo", "check", "--json", *options).json
        assert {(p["object"], p["harmless"]) for p in report["problems"]} == {
            ("elsewhere", True),
            ("packs/pipe", True),
            ("packs/red\x1b[31m\u202e", True),
            ("\udcff", True),
        }
        told = vmkeep.ok("repo", "check", *options)
        assert "elsewhere" in told.text and "\x1b" not in told.text and "\u202e" not in told.text
    for number in range(50):
        (vmkeep.repo / f".stranger{number}").write_bytes(b"")
    assert 20 <= len(vmkeep.ok("repo", "check", "--json").json["problems"]) <= 22


def test_checks_beside_real_runs_find_nothing(vmkeep: Vmkeep, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    for name in ("a", "b"):
        (tmp_path / f"{name}.raw").write_bytes(rng.randbytes(2 * MIB))
        vmkeep.backup(f"disk:{name}.raw")
    for look in (("--read-data", "all"), ("--keyless",), ()):
        for name in ("a", "b"):
            (tmp_path / f"{name}.raw").write_bytes(rng.randbytes(2 * MIB))
        runs = [vmkeep.start("backup", f"disk:{name}.raw", "--json") for name in ("a", "b")]
        checks = 0
        while checks < 40 and (checks == 0 or any(run.poll() is None for run in runs)):
            report = vmkeep("repo", "check", "--json", *look)
            assert report.code == 0, (look, report)
            checks += 1
        for run in runs:
            out, err = run.communicate(timeout=120)
            assert run.returncode == 0, (out, err)
    vmkeep.check_all()
    assert len(vmkeep.points()) == 8
