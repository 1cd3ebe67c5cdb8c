"""Objects of names that nobody gives: every command goes on, and a check names each."""

import shutil
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.command import Result, Vmkeep

PREFIXES: Final = (
    "condemned", "evidence", "forgotten", "index", "inventory", "keys", "maps", "packs", "points", "runs",
    "seals", "sessions", "tracking",
)  # fmt: skip
# What nobody relies on may lie wrongly: noted, and no alarm.
NOTED: Final = ("index", "maps", "packs")
_ID: Final = "0123456789abcdef" * 2
STEM: Final = f"{_ID}/20260329T003000Z-{_ID}"
ODD: Final = {
    "no folder": "junk",
    "digits": _ID + "0",
    "too deep": f"{STEM}/{_ID}/{_ID}/x",
    "no time": f"{_ID}/x-{_ID}",
    "longest": "a" * 110 + "/" + "b" * 110,
    "number": f"{_ID}/{_ID}/{'9' * 128}",
    "upper case": f"{_ID}/20260329T003000Z-{_ID}".upper(),
}


def _plant(repo: Path, odd: str) -> set[str]:
    for prefix in PREFIXES:
        path = repo / prefix / odd
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"junk")
    return {f"{prefix}/{odd}" for prefix in PREFIXES}


def _goes_on(result: Result, *codes: int) -> Result:
    assert result.code in codes, result
    assert "cannot be the name" not in result.err and "unexpected" not in result.err, result.err
    return result


@pytest.fixture
def kept(vmkeep: Vmkeep) -> Vmkeep:
    (vmkeep.folder / "d.raw").write_bytes(b"data" * 4096)
    vmkeep.backup("disk:d.raw")
    return vmkeep


@pytest.mark.parametrize("what", ODD)
def test_odd_names_are_findings(kept: Vmkeep, what: str) -> None:
    planted = _plant(kept.repo, ODD[what])
    for options in ([], ["--keyless"]):
        report = _goes_on(kept("repo", "check", kept.repo, "--json", *options), 14).json
        problems = {problem["object"]: problem["harmless"] for problem in report["problems"]}
        assert planted <= problems.keys()
        harmless = {name for name in planted if problems[name]}
        assert harmless == {name for name in planted if name.startswith(NOTED)}
        assert [point["state"] for point in report["restore_points"]] == ["not examined"]
    lines = _goes_on(kept("repo", "check", kept.repo), 14).text
    assert "a VM  ()" not in lines
    assert "restore points: 1 not examined" in lines
    assert len(_goes_on(kept("points", "--json"), 0, 14).json) == 1
    assert _goes_on(kept("repo", "key", "list", kept.repo, "--json"), 14).json[0]["kind"] == "password"
    info = _goes_on(kept("repo", "info", kept.repo, "--json"), 14)
    assert info.json["points"] == 1 and len(info.json["keys"]) == 1 and f"keys/{ODD[what]}" in info.err
    _goes_on(kept("repo", "repair", kept.repo), 14)
    assert _goes_on(kept("backup", "disk:d.raw", "--json"), 0).json["vm"]
    target = kept.folder / "back"
    _goes_on(kept("restore", "latest", "--to", f"{target}/"), 0, 14)
    if target.exists():
        assert [p.read_bytes() for p in target.iterdir()] == [b"data" * 4096]


@pytest.mark.parametrize("what", ["short", "huge"])
def test_a_spoilt_key_hides_no_other(kept: Vmkeep, what: str) -> None:
    [good] = (kept.repo / "keys").iterdir()
    with (kept.repo / "keys" / ("0" * 32)).open("wb") as out:
        out.write(b"junk")
        out.truncate(4 if what == "short" else 1 << 40)
    listed = _goes_on(kept("repo", "key", "list", kept.repo), 14)
    assert good.name in listed.text and f"keys/{'0' * 32}" in listed.err
    info = _goes_on(kept("repo", "info", kept.repo), 14)
    assert good.name[:12] in info.text and f"keys/{'0' * 32}" in info.err
    assert len(kept.ok("points", "--json").json) == 1
    (kept.repo / "keys" / ("0" * 32)).unlink()


def test_late_knowledge_of_nobody_is_no_lost_point(kept: Vmkeep) -> None:
    shutil.rmtree(kept.repo / "evidence", ignore_errors=True)
    planted = {"evidence/junk", "tracking/junk", f"points/{_ID}"}
    for name in planted:
        (kept.repo / name).parent.mkdir(exist_ok=True)
        (kept.repo / name).write_bytes(b"junk")
    for options in ([], ["--keyless"]):
        report = kept("repo", "check", kept.repo, "--json", *options)
        assert report.code == 14
        problems = {p["object"] for p in report.json["problems"]}
        # The evidence that was there is gone, which only the keys can tell.
        assert planted <= problems and not any(name.startswith("seals/") for name in problems)
        assert len(report.json["restore_points"]) == 1
