"""kill -9 at every place of a backup and a restore: nothing stored before is harmed, nothing half counts."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.command import CANARY, Vmkeep
from tests.e2e.disks import assert_identical
from tests.faults.cli.dying import Order
from tests.forked import MEETING, SOURCE_ROOT
from tests.generators.repository_bytes import RepositoryBytes

MIB: Final = 1 << 20
PARTIAL: Final = ".vmkeep-partial"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Scene:
    """A repository with one point of ``disk.raw``; the disk has changed since."""

    def __init__(self, folder: Path, seed: int) -> None:
        rng = random.Random(seed)
        self.folder = folder
        self.base = folder / "base"
        repo = RepositoryBytes(seed=7, passwords=[CANARY]).write(self.base / "repo")
        self.vmkeep = Vmkeep(folder, repo, state=self.base / "state")
        self.vm = folder / "vm"
        machines = self.vm / "Virtual Machines"
        machines.mkdir(parents=True)
        self.config = machines / "5A1F0C3E-AB12-4C00-8000-0123456789AB.vmcx"
        self.config.write_bytes(b"configuration" * 999)
        self.disk = self.vm / "disk.raw"
        self.before = rng.randbytes(2 * MIB) + bytes(2 * MIB) + rng.randbytes(MIB)
        self.after = rng.randbytes(70_000) + self.before[70_000:]
        self.disk.write_bytes(self.before)
        self.point: str = ""

    def take_first(self) -> None:
        self.point = self.vmkeep.backup(f"folder:{self.vm}")["id"]
        self.disk.write_bytes(self.after)

    def die(self, kind: str, **changes: Any) -> list[dict[str, Any]]:
        order = Order(kind, str(self.base), str(self.folder / "case"), f"folder:{self.vm}", CANARY, **changes)
        file = self.folder / "order.json"
        file.write_text(json.dumps(asdict(order)))
        done = subprocess.run(
            [sys.executable, "-m", "tests.faults.cli.dying", str(file)],
            cwd=SOURCE_ROOT.parent,
            env=self.vmkeep.environment({"PYTHONPATH": f"{SOURCE_ROOT}{os.pathsep}{SOURCE_ROOT.parent}"}),
            capture_output=True,
            timeout=240,
            check=False,
        )
        cases = [json.loads(line) for line in done.stdout.splitlines()]
        assert done.returncode == 0, (cases[-1:], done.stderr.decode())
        assert CANARY.encode() not in done.stdout + done.stderr
        return cases

    def judge(self, case: dict[str, Any], older: int) -> None:
        """See that all old points are there and every listed one holds what a disk held at a time."""
        states = [sha256(self.before), sha256(self.after)]
        assert case["problems"] == [], case
        points = case["points"]
        if older:
            assert points.pop(self.point) == [states[0]], case
        assert len(points) <= 1, case
        assert all(digests == [states[-1]] for digests in points.values()), case
        assert case["next"] == [states[-1]], case
        assert case["next_number"] == older + len(points) + 1, case
        assert case["listed_then"] == older + len(points) + 1, case
        assert case["check"] == [], case


@pytest.fixture
def scene(tmp_path: Path, seed: int) -> Scene:
    return Scene(tmp_path, seed)


def test_killed_before_and_after_each_request_of_a_first_run(scene: Scene) -> None:
    scene.after = scene.before
    (scene.base / "state").mkdir()
    cases = scene.die("requests")
    # Journal (3), session, data, maps, index, inventory, manifest, seal, journal, evidence.
    assert len(cases) >= 2 * 12
    assert all(case["killed"] for case in cases)
    for case in cases:
        scene.judge(case, older=0)
    # Dead before the seal: no point. Dead after it: the point exists, whatever came next.
    assert [len(case["points"]) for case in cases] == sorted(len(case["points"]) for case in cases)
    assert {len(case["points"]) for case in cases} == {0, 1}


@pytest.mark.parametrize("declared", [False, True])
def test_killed_before_and_after_each_request_of_a_later_run(scene: Scene, declared: bool) -> None:
    scene.take_first()
    cases = (
        scene.die("requests", changes=[[0, 70_000]], parent=scene.point)
        if declared
        else scene.die("requests")
    )
    assert len(cases) >= 2 * 12
    assert all(case["killed"] for case in cases)
    assert {len(case["points"]) for case in cases} == {1, 2}
    for case in cases:
        scene.judge(case, older=1)


def test_killed_between_the_system_calls_of_a_run(scene: Scene) -> None:
    scene.take_first()
    cases = scene.die("calls", step=4)
    assert len(cases) > 15
    assert sum(case["killed"] for case in cases) >= len(cases) - 1  # threads: the last place may be missed
    for case in cases:
        scene.judge(case, older=1)


def test_killed_between_the_system_calls_of_a_restore(scene: Scene) -> None:
    scene.take_first()
    disk, config = sha256(scene.before), sha256(scene.config.read_bytes())
    complete = {"disk.raw": disk, f"Virtual Machines/{scene.config.name}": config}
    cases = scene.die("restore")
    assert len(cases) > 8
    assert all(case["killed"] for case in cases)
    half = 0
    for case in cases:
        for name, digest in case["left"].items():
            if name.endswith(PARTIAL):
                half += 1
            else:
                assert complete[name] == digest, case
        assert case["again"] == complete, case  # nothing half is left either
    assert half > 2


def test_a_backup_killed_at_any_time_is_simply_repeated(scene: Scene, seed: int) -> None:
    scene.take_first()
    rng = random.Random(seed)
    vmkeep = scene.vmkeep
    killed = attempts = 0
    longest = 1.0
    while killed < 4:
        attempts += 1
        process = vmkeep.start("backup", f"folder:{scene.vm}")
        time.sleep(rng.uniform(0, longest))
        process.kill()
        process.communicate()
        if process.returncode == -signal.SIGKILL:
            killed += 1
        else:
            longest *= 0.7  # ever earlier: some are caught on any machine
    again = vmkeep.backup(f"folder:{scene.vm}")
    assert vmkeep.restore_raw(again["id"]) == scene.after
    assert vmkeep.restore_raw(scene.point) == scene.before
    assert len(vmkeep.points()) <= 2 + attempts
    vmkeep.check_all()


@pytest.mark.qemu
def test_a_restore_killed_in_the_middle_leaves_nothing_that_looks_finished(scene: Scene) -> None:
    vmkeep = scene.vmkeep
    vmkeep.backup(f"disk:{scene.disk}")
    target = scene.folder / "back"
    order = {"verb": "read_into", "prefix": "packs/", "nth": 2, "action": "stop", "what": ""}
    restore = ("restore", "latest", "--to", target, "--format", "vhdx")
    process = vmkeep.start(json.dumps(order), *restore, program=MEETING)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), status
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    left = sorted(target.iterdir())
    assert [path.name.endswith(PARTIAL) for path in left] == [True]
    # What is half is no disk to anybody.
    vmkeep.fails(1, "backup", f"folder:{target}", says="no virtual disk")
    vmkeep.fails(1, "backup", f"disk:{left[0]}", says="unfinished")
    vmkeep.ok("restore", "latest", "--to", target, "--format", "vhdx")
    assert [path.name for path in target.iterdir()] == ["disk.vhdx"]
    assert_identical(target / "disk.vhdx", "vhdx", scene.disk, "raw")


def test_a_stream_killed_after_some_bytes_gave_only_right_ones(scene: Scene) -> None:
    scene.take_first()
    process = scene.vmkeep.start("restore", "latest", "--to", "-")
    assert process.stdout is not None and process.stderr is not None
    got = process.stdout.read(300_000)
    process.kill()
    got += process.stdout.read()
    process.communicate()
    assert scene.before.startswith(got) and len(got) >= 300_000
