"""`vmkeep demo` as a stranger starts it: it tells the truth and leaves nothing behind."""

import hashlib
import json
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest

import vmkeep

pytestmark = [pytest.mark.qemu, pytest.mark.slow]

SOURCE: Final = Path(vmkeep.__file__).parents[1]
START: Final = "import sys; from vmkeep.cli import main; sys.exit(main())"
TOOLS: Final = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
PROTECTED: Final = {"web-server": "system.vhdx", "ledger": "ledger.vhdx"}
RUNS: Final = ("full", "incremental")
_PATIENCE_S: Final = 240
_MIB: Final = 1 << 20


class Stranger:
    """Somebody with a home, an own vmkeep and short temporary folders, who types commands."""

    def __init__(self, folder: Path, source: Path = SOURCE) -> None:
        self.temporary, self.home = folder / "tmp", folder / "home"
        self.temporary.mkdir()
        self.home.mkdir()
        (self.home / "config.toml").write_text("[hosts.lab]\nnothing = 'of this can be used'\n")
        self._environment = {
            "PYTHONPATH": str(source),
            "PYTHONWARNINGS": "error",
            "TMPDIR": str(self.temporary),
            "HOME": str(self.home),
            "VMKEEP_CONFIG": str(self.home / "config.toml"),
            "VMKEEP_REPO": str(self.home / "repository"),
            "VMKEEP_PASSWORD": "a password of mine",
            "VMKEEP_STATE_DIR": str(self.home / "state"),
            "VMKEEP_CACHE_DIR": str(self.home / "cache"),
        }

    def start(self, *arguments: str, **changes: str) -> "subprocess.Popen[str]":
        # A current folder where nobody can create a file, not even root.
        return subprocess.Popen(
            [sys.executable, "-c", START, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment | changes,
            cwd="/proc",
        )

    def run(self, *arguments: str, **changes: str) -> "subprocess.CompletedProcess[str]":
        with self.start(*arguments, **changes) as process:
            out, err = process.communicate(timeout=_PATIENCE_S)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def type(self, line: str) -> "subprocess.CompletedProcess[str]":
        """Run a command as the demo prints it: variables first, then vmkeep."""
        changes, arguments = typed(line)
        return self.run(*arguments, **changes)

    def processes(self) -> list[str]:
        """The command lines of all processes that were started for what lies in the temporary folder."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                line = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            except OSError:
                continue  # it has ended
            if str(self.temporary).encode() in line:
                found.append(line.replace(b"\0", b" ").decode())
        return found

    def is_untouched(self) -> bool:
        return [path.name for path in self.home.iterdir()] == ["config.toml"]


def typed(line: str) -> tuple[dict[str, str], list[str]]:
    words = shlex.split(line)
    place = words.index("vmkeep")
    return dict(word.split("=", 1) for word in words[:place]), words[place + 1 :]


@contextmanager
def stranger(source: Path = SOURCE) -> Iterator[Stranger]:
    # The address of a socket has at most 107 bytes.
    with TemporaryDirectory(prefix="vk") as folder:
        yield Stranger(Path(folder), source)


class Told:
    """A demo that was kept."""

    def __init__(self, somebody: Stranger, folder: Path) -> None:
        self.somebody, self.folder = somebody, folder
        self.done = somebody.run("demo", "--json", "--keep", str(folder))
        self.is_user_untouched = somebody.is_untouched()  # as long as nothing else was run
        documents = [json.loads(line) for line in self.done.stdout.splitlines()]
        self.acts, self.summary = documents[:-1], documents[-1]

    def truth(self) -> list[dict[str, Any]]:
        lines = Path(self.summary["truth"]).read_text("utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def points(self, run: str) -> set[str]:
        return {disk["point"] for disk in self.summary["disks"] if disk["run"] == run}

    @property
    def where(self) -> tuple[str, ...]:
        return ("--repo", self.summary["repository"], "--password-file", self.summary["password_file"])

    def restored(self, run: str, vm: str) -> Path:
        return self.folder / "restored" / run / vm / PROTECTED[vm]


@pytest.fixture(scope="module")
def told() -> Iterator[Told]:
    with stranger() as somebody:
        yield Told(somebody, somebody.temporary / "a place")


def run_tool(*command: str | Path) -> bytes:
    environment = {**os.environ, "PATH": TOOLS, "LC_ALL": "C"}
    return subprocess.run([str(c) for c in command], capture_output=True, env=environment, check=True).stdout


def raw_of(vhdx: Path, target: Path) -> Path:
    run_tool("qemu-img", "convert", "-f", "vhdx", "-O", "raw", vhdx, target)
    return target


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_ends_with_what_was_measured(told: Told) -> None:
    assert (told.done.returncode, told.done.stderr) == (0, "")
    summary = told.summary
    assert (summary["points"], summary["restored_identical"], summary["leftover_checkpoints"]) == (4, True, 0)
    assert summary["ok"] and summary["others_untouched"]
    assert 0 < summary["bytes_read_incremental"] < summary["bytes_read_full"] / 2
    assert 0 < summary["bytes_stored_incremental"] < summary["bytes_stored_full"] / 2
    for run in RUNS:
        shown = [told.somebody.run("show", each, "--json", *told.where) for each in told.points(run)]
        audits = [json.loads(each.stdout)["evidence"]["reread_audit"]["bytes_read"] for each in shown]
        assert summary[f"bytes_reread_{run}"] == sum(audits) > 0
    assert summary["bytes_read_full"] < summary["bytes_total"] == 192 * _MIB
    assert summary["repository"] == str(told.folder / "repository")
    assert [act["message_type"] for act in told.acts] == ["act"] * 8
    assert {(disk["vm"], disk["run"]) for disk in summary["disks"]} == {
        (vm, run) for vm in PROTECTED for run in RUNS
    }


def test_what_came_back_is_what_the_guests_saw(told: Told, tmp_path: Path) -> None:
    """The truth read here, the disks by qemu-img: neither vmkeep nor the lab's judge has a say."""
    truth = told.truth()
    for vm in PROTECTED:
        lines = []
        for run in RUNS:
            raw = raw_of(told.restored(run, vm), tmp_path / "disk.raw")
            digest, size = sha256(raw), raw.stat().st_size
            lines.append([line for line in truth if (line["sha256"], line["size"]) == (digest, size)])
            (reported,) = [d for d in told.summary["disks"] if (d["vm"], d["run"]) == (vm, run)]
            assert reported["sha256"] == digest
        for found in lines:
            assert {line["vm"] for line in found} == {vm}
            assert "recovery" in {line["kind"] for line in found}
        full, later = (found[0]["time"] for found in lines)
        assert full < later


def test_a_real_file_system_came_back(told: Told, tmp_path: Path) -> None:
    sums = set()
    for run in RUNS:
        raw = raw_of(told.restored(run, "web-server"), tmp_path / f"{run}.raw")
        data = raw.read_bytes()
        assert data[512:520] == data[-512:-504] == b"EFI PART"
        partition = tmp_path / "partition"
        partition.write_bytes(data[_MIB:-_MIB])
        assert b"Open now" in run_tool("ntfscat", "-f", partition, "index.html")
        assert b"request=0002999" in run_tool("ntfscat", "-f", partition, "access-01.log")
        run_tool("ntfsfix", "-n", partition)
        orders = run_tool("ntfscat", "-f", partition, "orders.db")
        assert len(orders) == 48 * _MIB
        sums.add(hashlib.sha256(orders).hexdigest())
    assert len(sums) == 2, "the guest wrote nothing between the runs"


def test_the_judge_refuses_a_disk_with_another_byte(told: Told, tmp_path: Path) -> None:
    files = [told.restored(run, vm) for run in RUNS for vm in PROTECTED]
    copy = tmp_path / "copy.vhdx"
    shutil.copy(files[0], copy)
    judge = [sys.executable, "-m", "vmkeep_lab", "judge", "--truth", told.summary["truth"]]

    def judged(*these: Path) -> int:
        environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
        done = subprocess.run([*judge, *these], env=environment, capture_output=True, check=False)
        return done.returncode

    assert judged(*files, copy) == 0
    # Somewhere in orders.db, which lies around 80 MiB.
    run_tool("qemu-io", "-f", "vhdx", "-c", "write -P 0xEE 80M 512", copy)
    assert judged(copy) == judged(*files, copy) == 1


def test_nothing_of_the_user_is_touched_and_nobody_runs_on(told: Told) -> None:
    assert told.is_user_untouched
    assert told.somebody.processes() == []
    assert stat.S_IMODE((told.folder / "password").stat().st_mode) == 0o600
    assert [path.name for path in told.somebody.temporary.iterdir()] == ["a place"]


def test_a_killed_run_counts_for_nothing_and_left_something_before(told: Told) -> None:
    broken, healed = (told.acts[number]["lines"] for number in (5, 6))
    assert any("checkpoint 'vmkeep " in line for line in broken)
    assert any("checkpoint" in line and line.endswith(": removed") for line in healed)
    # The truth has a line for the checkpoint that the killed run made, and no point has its bytes.
    frozen = {line["checkpoint"] for line in told.truth() if line["kind"] == "recovery"}
    web = {line["checkpoint"] for line in told.truth() if line["vm"] == "web-server"} & frozen
    assert len(web) == 3


def test_plain_words_and_commands_to_go_on_with() -> None:
    with stranger() as somebody:
        kept = somebody.temporary / "kept here"
        done = somebody.run("demo", "--keep", str(kept))
        assert (done.returncode, done.stderr) == (0, "")
        assert "\x1b" not in done.stdout
        lines = done.stdout.splitlines()
        assert all(line.replace("…", "").isascii() for line in lines)
        assert sum(line.endswith("   identical") for line in lines) == 4
        (good,) = [line for line in lines if line.startswith("Good: 4 of 4 restored disks are identical")]
        assert "no checkpoints left" in good
        assert good.count(" for the audit)") == 2
        assert " ".join(done.stdout.split()).count(" for the audit), stored ") == 4
        proposed = [line.strip() for line in lines if line.startswith(("  vmkeep ", "  VMKEEP_"))]
        points, serve, save = proposed
        assert somebody.type(points).stdout.count("web-server") == 2
        with somebody.start(*typed(serve)[1], "--json") as host:
            assert host.stdout is not None
            assert json.loads(host.stdout.readline())["transport"] == "https"
            saved = somebody.type(f"{save} --json")
            host.terminate()
            host.communicate(timeout=_PATIENCE_S)
        assert saved.returncode == 0, saved.stderr
        summary = json.loads(saved.stdout.splitlines()[-1])
        assert [vm["increment"] for vm in summary["vms"]] == ["rct", "rct"]


def test_leaves_nothing_and_is_short_when_asked() -> None:
    with stranger() as somebody:
        done = somebody.run("demo", "--quiet")
        assert (done.returncode, done.stderr) == (0, "")
        assert len(done.stdout.splitlines()) == 1
        assert done.stdout.startswith("Good: 4 of 4")
        assert list(somebody.temporary.iterdir()) == []
        assert somebody.processes() == []


def test_keep_takes_no_folder_with_something_in_it(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with stranger() as somebody:
        done = somebody.run("demo", "--keep", str(tmp_path))
    assert done.returncode == 2
    assert "not an empty folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("number", "code", "after"),
    [
        (signal.SIGTERM, 143, "2 seen"),  # while machines are held
        (signal.SIGINT, 130, "5 in a blink"),  # while the run that will be killed is under way
        (signal.SIGTERM, 143, "7 healed"),  # while disks are restored
    ],
)
def test_an_interrupted_demo_cleans_up(number: signal.Signals, code: int, after: str) -> None:
    with stranger() as somebody, somebody.start("demo") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if after in line:
                break
        assert list(somebody.temporary.iterdir()) != []
        process.send_signal(number)
        _, err = process.communicate(timeout=_PATIENCE_S)
        assert process.returncode == code, err
        assert "interrupted" in err
        assert list(somebody.temporary.iterdir()) == []
        assert somebody.processes() == []
        assert somebody.is_untouched()


def falsified(folder: Path, module: str, honest: str, false: str) -> Path:
    """A copy of the program with one line changed."""
    source = folder / "src"
    shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(SOURCE.parent / "docs", folder / "docs")
    text = (source / module).read_text("utf-8")
    assert text.count(honest) == 1
    (source / module).write_text(text.replace(honest, false), "utf-8")
    return source


def test_says_no_when_a_disk_is_not_what_it_was(tmp_path: Path) -> None:
    """A host that recorded other bytes for one machine: the judge, not vmkeep, decides."""
    lie = '"0" * 64 if witness.vm == "ledger" else witness.sha256'
    source = falsified(
        tmp_path,
        "vmkeep_lab/host/truth.py",
        "json.dumps(plain(witness)",
        f"json.dumps(plain(witness) | {{'sha256': {lie}}}",
    )
    with stranger(source) as somebody:
        done = somebody.run("demo", "--json")
        assert done.returncode == 1
        summary = json.loads(done.stdout.splitlines()[-1])
        assert summary["restored_identical"] is False and summary["ok"] is False
        wrong = {(disk["vm"], disk["run"]) for disk in summary["disks"] if not disk["identical"]}
        assert wrong == {("ledger", run) for run in RUNS}
        # What a program is told of is there for it; nothing else stays.
        (folder,) = somebody.temporary.iterdir()
        assert summary["folder"] == str(folder) and stat.S_IMODE(folder.stat().st_mode) == 0o700
        named = {str(folder / name) for name in ("repository", "password", "lab/truth.jsonl")}
        assert {summary[key] for key in ("repository", "password_file", "truth")} == named
        assert sorted(path.name for path in folder.iterdir()) == ["lab", "password", "repository"]
        assert [path.name for path in (folder / "lab").iterdir()] == ["truth.jsonl"]
        assert {disk["file"] for disk in summary["disks"]} == {None}
        where = ("--repo", summary["repository"], "--password-file", summary["password_file"])
        listed = somebody.run("points", "--json", *where)
        assert len(json.loads(listed.stdout)) == summary["points"] == 4, listed


def test_says_no_in_words_when_something_stays_on_the_host(tmp_path: Path) -> None:
    source = falsified(
        tmp_path,
        "vmkeep/cli/demo_story.py",
        "return sweep_host(self._doors, self._repository, None, dry_run=False,",
        "return sweep_host(self._doors, self._repository, None, dry_run=True,",
    )
    with stranger(source) as somebody:
        done = somebody.run("demo")
        assert done.returncode == 1
        assert "NOT GOOD: 4 of 4 restored disks are identical" in done.stdout
        assert "1 checkpoint stayed on the host" in done.stdout
        assert list(somebody.temporary.iterdir()) == []
