"""`vmkeep demo` as a stranger starts it: it tells the truth, also when the truth is bad."""

import hashlib
import json
import os
import resource
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

import vmkeep

SOURCE: Final = Path(vmkeep.__file__).parents[1]
FIXTURE: Final = Path("vmkeep", "cli", "demo_fixture")
RUNS: Final = ("full", "incremental", "compare")
START: Final = "import sys; from vmkeep.cli import main; sys.exit(main())"
# Nothing may speak to the network or start a program.
WATCHED: Final = """
import sys

REFUSED = ("socket.__new__", "socket.getaddrinfo", "subprocess.", "os.system", "os.exec", "os.posix")

def refuse(event, arguments):
    if event.startswith(REFUSED):
        raise RuntimeError(f"the demo caused {event}")

sys.addaudithook(refuse)
"""


def run_demo(
    *arguments: str,
    source: Path = SOURCE,
    script: str = START,
    cwd: str | Path | None = None,
    environment: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    given = {"PYTHONPATH": str(source), **(environment or {})}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=given, cwd=cwd, check=False)


def last_document(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    document = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(document, dict)
    return document


def truth(source: Path = SOURCE) -> dict[str, Any]:
    found = json.loads((source / FIXTURE / "truth.json").read_text("utf-8"))
    assert isinstance(found, dict)
    return found


def expected_sums() -> dict[tuple[str, str], str]:
    """The checksum of each machine's disk after each run: the first run came before the change."""
    return {
        (machine["name"], run): machine["sha256"][0 if run == "full" else 1]
        for machine in truth()["machines"]
        for run in RUNS
    }


def test_runs_stripped_of_everything_and_leaves_nothing(tmp_path: Path) -> None:
    # No HOME, no PATH, no locale, and a current folder where nobody can create a file, not even root.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run_demo(
        "demo", "--json", script=WATCHED + START, cwd="/proc", environment={"TMPDIR": str(tmp_path)}
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (done.returncode, done.stderr) == (0, "")
    document = last_document(done)
    assert document["ok"] is True
    assert document["restored_identical"] is True
    assert document["repository"] is None
    assert document["points"] == len(document["disks"]) == len(expected_sums())
    assert {(disk["vm"], disk["run"]): disk["sha256"] for disk in document["disks"]} == expected_sums()
    assert document["tampering_found"] and document["tampered_restore_refused"]
    assert document["broken_sources_refused"] and document["repository_sound"]
    changed = sum(length for machine in truth()["machines"] for _, length in machine["changed_ranges"])
    assert changed <= document["bytes_read_incremental"] < document["bytes_read_full"] / 10
    assert 0 < document["bytes_stored_incremental"] < document["bytes_stored_full"] / 10
    assert document["bytes_read_compare"] >= document["bytes_read_full"]
    assert document["bytes_stored_compare"] == 0
    assert list(tmp_path.iterdir()) == []
    # A figure for "at once" that a busy machine does not spoil: processor time.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 15


def test_keeps_everything_where_asked(tmp_path: Path) -> None:
    kept = tmp_path / "a place"
    done = run_demo("demo", "--keep", str(kept), environment={"TMPDIR": str(tmp_path)})
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["a place"]
    assert done.stdout.isascii() and "\x1b" not in done.stdout
    assert sum(line.endswith("   identical") for line in done.stdout.splitlines()) == len(expected_sums())
    assert "\nGood: 6 of 6 restored disks are identical, bit for bit." in done.stdout
    assert stat.S_IMODE((kept / "password").stat().st_mode) == 0o600

    disks = {machine["name"]: machine["disk"] for machine in truth()["machines"]}
    for (machine, run), expected in expected_sums().items():
        with (kept / "restored" / run / machine / f"{disks[machine]}.raw").open("rb") as disk:
            assert hashlib.file_digest(disk, "sha256").hexdigest() == expected

    # What the last line proposes works, and lists what was promised.
    repository, password = str(kept / "repository"), str(kept / "password")
    assert done.stdout.splitlines()[-1].strip() == (
        f'vmkeep points --repo "{repository}" --password-file "{password}"'
    )
    points = run_demo("points", "--repo", repository, "--password-file", password, "--json")
    assert sorted(point["vm"] for point in json.loads(points.stdout)) == ["database"] * 3 + ["web-server"] * 3
    tampered = str(kept / "repository-tampered")
    check = run_demo("repo", "check", tampered, "--read-data", "all", "--password-file", password)
    assert check.returncode == 14


def test_keep_takes_no_folder_with_something_in_it(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    done = run_demo("demo", "--keep", str(tmp_path))
    assert done.returncode == 2
    assert "not an empty folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_quiet_prints_the_verdict_only(tmp_path: Path) -> None:
    done = run_demo("demo", "--quiet", "--keep", str(tmp_path / "kept"))
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1
    assert done.stdout.startswith("Good: 6 of 6")


def wrong_sum(fields: dict[str, Any]) -> None:
    old = fields["machines"][1]["sha256"][0]
    fields["machines"][1]["sha256"][0] = ("1" if old[0] == "0" else "0") + old[1:]


def undeclared_change(fields: dict[str, Any]) -> None:
    # The largest range: the others share their 64 KiB chunk with a declared neighbour.
    ranges = fields["machines"][1]["changed_ranges"]
    ranges.remove(max(ranges, key=lambda pair: pair[1]))


def falsified(folder: Path, falsify: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of the program whose truth.json says something else."""
    source = folder / "src"
    shutil.copytree(SOURCE / "vmkeep", source / "vmkeep", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(SOURCE.parent / "docs", folder / "docs")
    fields = truth(source)
    falsify(fields)
    (source / FIXTURE / "truth.json").write_text(json.dumps(fields), "utf-8")
    return source


@pytest.mark.parametrize(
    ("falsify", "different"),
    [(wrong_sum, ("database", "full")), (undeclared_change, ("database", "incremental"))],
)
def test_says_no_when_a_disk_is_not_what_it_was(
    tmp_path: Path, falsify: Callable[[dict[str, Any]], None], different: tuple[str, str]
) -> None:
    kept = tmp_path / "kept"
    done = run_demo("demo", "--json", "--keep", str(kept), source=falsified(tmp_path, falsify))
    document = last_document(done)
    assert done.returncode == 1
    assert document["repository"] == str(kept / "repository")
    assert document["restored_identical"] is False and document["ok"] is False
    wrong = [(disk["vm"], disk["run"]) for disk in document["disks"] if not disk["identical"]]
    assert wrong == [different]
    # The run that reads everything repairs what nobody declared, and says that it had to.
    assert (document["bytes_stored_compare"] > 0) == (falsify is undeclared_change)


def test_says_no_in_words_too(tmp_path: Path) -> None:
    done = run_demo("demo", source=falsified(tmp_path, wrong_sum))
    assert done.returncode == 1
    assert "NOT GOOD: 5 of 6 restored disks are identical" in done.stdout
    assert "a restored disk differs from the truth" in done.stdout
    assert sum(line.endswith("   DIFFERENT") for line in done.stdout.splitlines()) == 1


def test_an_interrupted_demo_cleans_up(tmp_path: Path) -> None:
    command = [sys.executable, "-c", START, "demo"]
    environment = {"PYTHONPATH": str(SOURCE), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if b"2 protected" in line:
                break
        assert os.listdir(tmp_path) != []
        child.terminate()
        child.communicate()
    assert child.returncode in (130, 143)
    assert list(tmp_path.iterdir()) == []
