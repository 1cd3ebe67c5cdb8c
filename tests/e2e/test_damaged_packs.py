"""A damaged pack never carries a new restore point knowingly, and never costs data that lies elsewhere."""

import json
import random
from pathlib import Path

import pytest

from tests.e2e.command import Vmkeep

MIB = 1 << 20


def _pack(repo: Path, prefix: str = "packs") -> Path:
    return max((p for p in (repo / prefix).rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


@pytest.mark.parametrize("how", ["cut", "emptied", "gone"])
@pytest.mark.parametrize("declared", [False, True], ids=["everything read", "changes declared"])
@pytest.mark.parametrize("prefix", ["packs", "maps"])
def test_an_incomplete_pack_is_not_built_upon(
    vmkeep: Vmkeep, tmp_path: Path, seed: int, how: str, declared: bool, prefix: str
) -> None:
    disk = tmp_path / "disk.raw"
    content = bytearray(random.Random(seed).randbytes(6 * MIB))
    disk.write_bytes(content)
    first = vmkeep.ok("backup", "disk:disk.raw", "--json").json["id"]
    pack = _pack(vmkeep.repo, prefix)
    stored = pack.read_bytes()
    pack.unlink()
    if how != "gone":
        pack.write_bytes(stored[: len(stored) // 2] if how == "cut" else b"")
    content[MIB : MIB + 3] = b"new"
    disk.write_bytes(content)
    options = ["--json"]
    if declared:
        (tmp_path / "changes.json").write_text(json.dumps([[MIB, 3]]))
        options += ["--changes", "changes.json", "--parent", first]
    second = vmkeep.ok("backup", "disk:disk.raw", *options).json["id"]
    vmkeep.ok("restore", second, "--to", "restored.raw")
    assert (tmp_path / "restored.raw").read_bytes() == content


def test_a_good_copy_elsewhere_is_found(vmkeep: Vmkeep, tmp_path: Path, seed: int) -> None:
    content = random.Random(seed).randbytes(3 * MIB)
    (tmp_path / "a.raw").write_bytes(content)
    first = vmkeep.ok("backup", "disk:a.raw", "--json").json["id"]
    pack = _pack(vmkeep.repo)
    stored = pack.read_bytes()
    # A second copy comes to be when the first is not offered for reuse.
    pack.write_bytes(stored[:-1])
    (tmp_path / "b.raw").write_bytes(content)
    second = vmkeep.ok("backup", "disk:b.raw", "--json").json["id"]
    rotten = bytearray(stored)
    rotten[len(rotten) // 2] ^= 8
    pack.write_bytes(rotten)
    for name, point in (("one.raw", first), ("two.raw", second)):
        vmkeep.ok("restore", point, "--to", name)
        assert (tmp_path / name).read_bytes() == content


def test_a_damaged_newest_point_keeps_its_number_and_is_told(vmkeep: Vmkeep, tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(b"1" * MIB)
    vmkeep.ok("backup", "disk:a.raw")
    vmkeep.ok("backup", "disk:a.raw")
    newest = max((vmkeep.repo / "points").rglob("*"), key=lambda p: (p.is_file(), p.stat().st_mtime_ns))
    newest.write_bytes(newest.read_bytes()[:-1])
    result = vmkeep("backup", "disk:a.raw", "--json")
    assert result.code == 3
    assert newest.name in json.dumps(result.json["warnings"])
    assert vmkeep.ok("show", result.json["id"], "--json").json["number"] == 3
