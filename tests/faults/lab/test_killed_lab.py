"""A lab killed at any instant comes back as the same host, no byte of a frozen disk changed."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

from tests.lab_hosts import LabHost

# Rounds of a backup, with guests that write, until somebody ends it.
WORK = """
import sys
from pathlib import Path
from tests.lab_hosts import LabHost
lab = LabHost.small(Path(sys.argv[1]))
print("up", flush=True)
while True:
    for name in ("one", "chained"):
        lab.write(name, 3)
        made = lab.checkpoint(name)
        lab.write(name, 3)
        if lab.host.world.state.issued_ids % 2:
            lab.convert(made)
        else:
            lab.destroy(made)
        lab.pass_time(6)
"""
KILLS = 6


def kill_at_work(folder: Path, seconds: float) -> None:
    """Let a lab work in a process of its own, and kill it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", WORK, str(folder)], stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
        assert process.wait() == -signal.SIGKILL


def examine(lab: LabHost) -> int:
    """Compare every checkpoint with the truth and read every disk; return how many were compared."""
    compared = 0
    media = lab.host.world.media
    for vm in lab.host.world.state.vms:
        for checkpoint in vm.checkpoints:
            digests = {each["slot"]: each["sha256"] for each in lab.truth(checkpoint.id)}
            for slot, frozen in checkpoint.disks.items():
                assert media.sha256(vm.disk(slot), frozen.path) == digests[slot], (vm.name, checkpoint.name)
                compared += 1
        for disk in vm.file_disks:
            assert len(media.sha256(disk, disk.leaf)) == 64
            assert {lab.real(each.path).exists() for each in disk.layers} == {True}
    return compared


def test_a_lab_killed_anywhere_is_the_same_host(tmp_path: Path, seed: int) -> None:
    chooser = random.Random(seed)
    state = tmp_path / "state"
    LabHost.small(state).host.stop()
    for _ in range(KILLS):
        kill_at_work(state, chooser.uniform(0.0, 1.5))
        lab = LabHost.small(state)
        assert examine(lab) >= 3
        lab.settle()
        assert examine(lab) >= 3
        lab.host.stop()
