"""The re-read audit as a user meets it: what it says, and rot in the repository that a backup heals."""

import json
import random
import re
from pathlib import Path

import pytest

from tests.e2e.command import Vmkeep
from tests.e2e.test_witness import read

MIB = 1 << 20


def _rot(repo: Path, at: int, prefix: str = "packs") -> str:
    """Flip one bit of the largest pack, ``at`` bytes from its start or end; return its object name."""
    pack = max((p for p in (repo / prefix).rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(pack.read_bytes())
    content[at] ^= 16
    pack.chmod(0o600)
    pack.write_bytes(content)
    return pack.relative_to(repo).as_posix()


@pytest.mark.parametrize("prefix", ["packs", "maps"])
@pytest.mark.parametrize("how", ["same VM", "another VM", "changes declared"])
def test_rot_that_a_backup_meets_is_healed_for_all_later_points(
    vmkeep: Vmkeep, tmp_path: Path, seed: int, how: str, prefix: str
) -> None:
    disk = tmp_path / "disk.raw"
    content = bytearray(random.Random(seed).randbytes(6 * MIB))
    disk.write_bytes(content)
    first = vmkeep.backup("disk:disk.raw")["id"]
    if prefix == "packs":
        damaged = _rot(vmkeep.repo, 70_000)
        # A second place, which declared changes do not touch: it is healed with the first.
        assert _rot(vmkeep.repo, -70_000) == damaged
    else:
        damaged = _rot(vmkeep.repo, 40, prefix)
    options = ["--json"]
    if how == "another VM":
        options += ["--as", "other"]
    if how == "changes declared":
        (tmp_path / "changes.json").write_text(json.dumps([[0, 3 * 65536]]))
        options += ["--changes", "changes.json", "--parent", first]
    met = vmkeep("backup", "disk:disk.raw", *options)
    assert met.code == 3
    assert met.json["reread_audit"]["replaced_packs"] == [damaged]
    assert damaged in met.err and "repo check --read-data all" in met.err
    later = vmkeep.backup("disk:disk.raw")
    assert later["reread_audit"]["replaced_packs"] == []
    (vmkeep.repo / damaged).unlink()
    for point in (met.json["id"], later["id"]):
        assert vmkeep.restore_raw(point) == content
        assert read(vmkeep.repo, "restore", point, "--disk", "0", "--to", "-") == content


def test_it_says_how_much_can_differ(vmkeep: Vmkeep, tmp_path: Path, seed: int) -> None:
    content = random.Random(seed).randbytes(1000 * 65536)
    (tmp_path / "disk.raw").write_bytes(content)
    told = vmkeep.ok("backup", "disk:disk.raw").text
    # 300 of 1000 show 9 that differ with a probability of 1 - 0.039, 8 with 1 - 0.056.
    words = "300 of 1000 chunks were read again, all equal: at most 0.80 % of what was read can differ"
    assert f"{words} (95% confidence)" in told
    shown = vmkeep.ok("show", "latest").text
    assert words in shown
    assert re.search(r"seed [0-9a-f]{32}\n", shown)
    audit = vmkeep.ok("show", "latest", "--json").json["evidence"]["reread_audit"]
    assert (audit["chunks"], audit["of"], audit["share"], audit["at_most"]) == (300, 1000, 0.3, 0.008)

    assert vmkeep.backup("disk:disk.raw", "--reread", "40%")["reread_audit"]["chunks"] == 400
    told = vmkeep.ok("backup", "disk:disk.raw", "--reread", "all", "--reread-all").text
    assert "all 1000 chunks that were read were read again: source and repository are equal" in told


def test_two_runs_choose_different_chunks(vmkeep: Vmkeep, tmp_path: Path) -> None:
    (tmp_path / "disk.raw").write_bytes(b"x" * MIB)
    seeds = {vmkeep.backup("disk:disk.raw")["reread_audit"]["seed"] for _ in range(2)}
    assert len(seeds) == 2


@pytest.mark.parametrize("share", ["101%", "-1%", "many", "nan"])
def test_a_share_that_is_none_is_refused(vmkeep: Vmkeep, tmp_path: Path, share: str) -> None:
    (tmp_path / "disk.raw").write_bytes(b"x" * MIB)
    vmkeep.fails(2, "backup", "disk:disk.raw", f"--reread={share}", says="--reread takes a percentage")
    assert vmkeep.points() == []


def test_reading_everything_and_reading_what_is_listed_contradict(vmkeep: Vmkeep, tmp_path: Path) -> None:
    (tmp_path / "disk.raw").write_bytes(b"x" * MIB)
    first = vmkeep.backup("disk:disk.raw")["id"]
    (tmp_path / "changes.json").write_text("[[0, 1]]")
    declared = ("--changes", "changes.json", "--parent", first)
    vmkeep.fails(2, "backup", "disk:disk.raw", *declared, "--reread-all", says="contradict")
    assert len(vmkeep.points()) == 1
