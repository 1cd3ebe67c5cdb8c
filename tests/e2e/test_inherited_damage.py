"""An increment takes over what it does not read: damage there is met, told, and mended from the source."""

import json
import random
import re
import shutil
from pathlib import Path
from uuid import UUID

import pytest

from tests.e2e.command import Vmkeep
from tests.e2e.test_witness import read
from tests.generators import vhd_bytes

MIB = 1 << 20
CHUNK = 65536


def _pack(repo: Path, prefix: str) -> Path:
    return max((p for p in (repo / prefix).rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def _flip(pack: Path, at: int) -> None:
    content = bytearray(pack.read_bytes())
    content[at] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(content)


def _damage(repo: Path, prefix: str, how: str) -> str:
    """Damage the largest pack; return its object name."""
    pack = _pack(repo, prefix)
    if how == "cut, nothing lists it":
        shutil.rmtree(repo / "inventory")
        pack.chmod(0o600)
        pack.write_bytes(pack.read_bytes()[:-300])
    else:
        # A pack begins with a header of 32 bytes; before its last 64 lies the slot table.
        _flip(pack, {"frame": 100_000 if prefix == "packs" else 40}.get(how, -100))
    if how in ("slot table, no index", "cut, nothing lists it"):
        shutil.rmtree(repo / "index")
    return pack.relative_to(repo).as_posix()


@pytest.mark.parametrize("at", [0, 5 * MIB], ids=["start changed", "end changed"])
@pytest.mark.parametrize("how", ["frame", "slot table", "slot table, no index", "cut, nothing lists it"])
@pytest.mark.parametrize("prefix", ["packs", "maps"])
def test_a_damaged_parent_carries_no_increment(
    vmkeep: Vmkeep, tmp_path: Path, seed: int, prefix: str, how: str, at: int
) -> None:
    disk = tmp_path / "disk.raw"
    content = bytearray(random.Random(seed).randbytes(6 * MIB))
    content[2 * MIB : 3 * MIB] = bytes(MIB)
    disk.write_bytes(content)
    first = vmkeep.backup("disk:disk.raw")["id"]
    damaged = _damage(vmkeep.repo, prefix, how)
    content[at : at + 8] = b"changed!"
    disk.write_bytes(content)
    (tmp_path / "changes.json").write_text(json.dumps([[at, 8]]))
    options = ("--changes", "changes.json", "--parent", first, "--json")
    met = vmkeep("backup", "disk:disk.raw", *options)
    assert met.code == 3, met.err
    assert met.json["reread_audit"]["replaced_packs"] == [damaged]
    assert any(damaged in warning for warning in met.json["warnings"])
    assert damaged in met.err and "repo check --read-data all" in met.err
    # It is told once, and nothing needs the pack any more.
    later = vmkeep.backup("disk:disk.raw", *options[:-1])
    assert later["reread_audit"]["replaced_packs"] == []
    (vmkeep.repo / damaged).unlink()
    for point in (met.json["id"], later["id"]):
        assert vmkeep.restore_raw(point) == content
        assert read(vmkeep.repo, "restore", point, "--disk", "0", "--to", "-") == content


def test_it_says_what_was_looked_at_of_what_was_taken_over(vmkeep: Vmkeep, tmp_path: Path, seed: int) -> None:
    # A disk with an identifier: where that is the parent's, the source is not asked.
    content = vhd_bytes.fixed(random.Random(seed).randbytes(1000 * CHUNK), UUID(int=7))
    (tmp_path / "disk.vhd").write_bytes(content)
    (tmp_path / "changes.json").write_text(json.dumps([[0, 1]]))
    vmkeep.ok("backup", "disk:disk.vhd")
    options = ("--changes", "changes.json", "--parent", "latest")
    told = vmkeep.ok("backup", "disk:disk.vhd", *options).text
    # Of very many, 300 show 1 % that is damaged with a probability of 1 - 0.99^300 = 0.951.
    words = "of what was taken over from the parent, 300 of at most 999 chunks were read back, all whole: "
    words += "at most 1.00 % of it can be damaged (95% confidence); the source was not read for it"
    assert words in told
    assert words in vmkeep.ok("show", "latest").text
    inherited = vmkeep.ok("show", "latest", "--json").json["evidence"]["reread_audit"]["inherited"]
    assert (inherited["chunks"], inherited["of"]) == (300, 999)
    assert inherited["at_most"] == pytest.approx(1 - 0.05 ** (1 / 300))

    assert (
        vmkeep.backup("disk:disk.vhd", *options, "--reread", "40%")["reread_audit"]["inherited"]["chunks"]
        == 400
    )
    told = vmkeep.ok("backup", "disk:disk.vhd", *options, "--reread", "all").text
    assert "all 999 chunks taken over from the parent were read back from the repository" in told
    told = vmkeep.ok("backup", "disk:disk.vhd").text
    assert not re.search("taken over", told)
