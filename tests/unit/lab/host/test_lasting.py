"""What a host is outlives its process and its restarts."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab_hosts import SMALL, LabHost, id_of
from vmkeep_lab.host.records import plain
from vmkeep_lab.scenario import OtherScenario
from vmkeep_lab.scenario.load import parse

pytestmark = pytest.mark.quick


def remembered(lab: LabHost) -> dict[str, object]:
    """All that a host remembers, but for the things that a start changes."""
    state = plain(lab.host.world.state)
    assert isinstance(state, dict)
    changing = ("events", "issued_ids", "booted")
    return {key: each for key, each in state.items() if key not in changing}


def test_a_host_that_was_shut_down_comes_back_the_same(tmp_path: Path) -> None:
    first = LabHost.small(tmp_path)
    made = first.checkpoint("one")
    before = remembered(first)
    first.host.stop()
    again = LabHost.small(tmp_path)
    assert remembered(again) == before
    assert again.paths(made) == first.paths(made)
    again.host.stop()


def test_a_host_that_was_killed_comes_back_the_same(tmp_path: Path) -> None:
    script = (
        "import sys, os, signal; from pathlib import Path; from tests.lab_hosts import LabHost\n"
        "lab = LabHost.small(Path(sys.argv[1]))\n"
        "made = lab.checkpoint('one'); lab.write('one', 7); print(made.key('InstanceID'), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "state")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    instance_id = ended.stdout.strip()
    lab = LabHost.small(tmp_path / "state")
    settings = lab.one("Msvm_VirtualSystemSettingData", InstanceID=instance_id)
    checkpoint = str(settings.values["InstanceID"]).removeprefix("Microsoft:")
    vm = lab.host.world.state.vms[0]
    held = vm.checkpoint(checkpoint)
    assert held is not None
    digests = {each["slot"]: each["sha256"] for each in lab.truth(checkpoint)}
    for disk in vm.disks:
        assert lab.host.world.media.sha256(disk, held.disks[disk.slot].path) == digests[disk.slot]
    lab.host.stop()


def test_a_merge_that_was_owed_is_done_after_the_next_start(tmp_path: Path) -> None:
    first = LabHost.small(tmp_path)
    first.holders.names = {"system.vhdx", "data.vhdx"}
    first.destroy(first.checkpoint("one"))
    assert all(each.endswith(".avhdx") for each in first.leaves("one"))
    first.host.stop()
    again = LabHost.small(tmp_path)
    again.settle()
    assert all(each.endswith(".vhdx") for each in again.leaves("one"))
    again.host.stop()


@pytest.mark.parametrize("clean", [True, False])
def test_a_restart_keeps_checkpoints_and_forgets_jobs(lab: LabHost, clean: bool) -> None:
    made = lab.checkpoint("one")
    lab.begin_checkpoint("chained")
    booted = lab.one("Win32_OperatingSystem").values["LastBootUpTime"]
    lab.host.restart(clean=clean)
    assert lab.one("Win32_OperatingSystem").values["LastBootUpTime"] != booted
    assert lab.one("Msvm_VirtualSystemSettingData", InstanceID=made.key("InstanceID"))
    lab.pass_time(30)
    assert len(lab.host.world.state.vms[1].checkpoints) == 2  # the job that was forgotten made nothing
    digests = {each["slot"]: each["sha256"] for each in lab.truth(id_of(made))}
    vm = lab.host.world.state.vms[0]
    for disk in vm.disks:
        path = vm.checkpoints[0].disks[disk.slot].path
        assert lab.host.world.media.sha256(disk, path) == digests[disk.slot]
    lab.destroy(made)


def test_a_folder_of_another_scenario_is_refused(tmp_path: Path) -> None:
    LabHost.small(tmp_path).host.stop()
    with pytest.raises(OtherScenario, match="holds a host of scenario 'small', not 'other'"):
        LabHost(parse(SMALL, "other"), tmp_path)


def test_a_host_that_was_never_finished_is_refused(tmp_path: Path) -> None:
    LabHost.small(tmp_path).host.stop()
    file = tmp_path / "host.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "is_complete": False}))
    with pytest.raises(OtherScenario, match="never finished"):
        LabHost.small(tmp_path)


def test_the_same_seed_gives_the_same_host(tmp_path: Path) -> None:
    hosts = [LabHost.small(tmp_path / name) for name in ("a", "b")]
    ids = [[each.id for each in lab.host.world.state.vms] for lab in hosts]
    digests = [[line["sha256"] for line in lab.truth()] for lab in hosts]
    assert ids[0] == ids[1]
    assert digests[0] == digests[1]
    for lab in hosts:
        lab.host.stop()
