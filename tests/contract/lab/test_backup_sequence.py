"""A backup's whole sequence on a lab in another process, by a client that shares no code with it.

The steps are those of hyperv-backup-api.md 2.3; the bytes are judged by ``vmkeep_lab judge``.
"""

import json
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab_hosts import MIB, QUICK
from tests.lab_process import ForeignClient, Lab, embedded, judged, reference, running_lab, text
from vmkeep_lab.disks import VirtualDisk

SIZE = 8 * MIB
WINDOW = 3 * MIB
SERVICE = "Msvm_VirtualSystemSnapshotService"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with running_lab(QUICK, tmp_path / "state") as lab:
        yield lab
    assert lab.process.returncode == 0


@pytest.fixture
def client(lab: Lab) -> Iterator[ForeignClient]:
    client = ForeignClient(lab)
    yield client
    client.close()


def equal(lab: Lab, *files: Path) -> list[set[str]]:
    """For each file the checkpoints whose truth it equals."""
    _, verdict = judged(lab.facts["truth"], *files)
    return [{line["checkpoint"] for line in each["equals"]} for each in verdict["restored"]]


def inventory(client: ForeignClient) -> list[tuple[Any, ...]]:
    """Everything of strangers: VMs and their states, checkpoints, reference points."""
    vms = client.query("SELECT * FROM Msvm_ComputerSystem")
    settings = client.query("SELECT * FROM Msvm_VirtualSystemSettingData")
    points = client.query("SELECT * FROM Msvm_VirtualSystemReferencePoint")
    return [
        *((each["Name"], each["EnabledState"]) for each in vms),
        *((each["InstanceID"], each["ElementName"]) for each in settings),
        *((each["InstanceID"], each["ResilientChangeTrackingIdentifiers"]) for each in points),
    ]


def take(client: ForeignClient, vm_id: str, level: int = 1) -> str:
    """Make a recovery checkpoint and return its id."""
    made = client.finish(
        client.call(
            SERVICE,
            "CreateSnapshot",
            reference(
                "AffectedSystem",
                "Msvm_ComputerSystem",
                CreationClassName="Msvm_ComputerSystem",
                Name=vm_id,
            ),
            embedded(
                "SnapshotSettings",
                "Msvm_VirtualSystemSnapshotSettingData",
                ConsistencyLevel=("uint8", level),
                GuestBackupType=("uint8", 2),
                IgnoreNonSnapshottableDisks=("boolean", "true"),
            ),
            text("SnapshotType", 32768),
        )
    )
    return made["InstanceID"].removeprefix("Microsoft:")


def frozen_path(client: ForeignClient, owner: str, slot: int = 0) -> str:
    """The file of a disk among the settings of a VM or a checkpoint."""
    wql = f"SELECT * FROM Msvm_StorageAllocationSettingData WHERE InstanceID LIKE 'Microsoft:{owner}%'"
    media = {each["InstanceID"]: each["HostResource"] for each in client.query(wql)}
    (path,) = [path for name, path in media.items() if name.endswith(rf"\{slot}\L")]
    return str(path)


def convert(client: ForeignClient, checkpoint: str) -> dict[str, str]:
    settings = reference(
        "AffectedSnapshot", "Msvm_VirtualSystemSettingData", InstanceID=f"Microsoft:{checkpoint}"
    )
    return client.finish(client.call(SERVICE, "ConvertToReferencePoint", settings))


def rct_id(client: ForeignClient, point: dict[str, str], slot: int = 0) -> str:
    points = client.query("SELECT * FROM Msvm_VirtualSystemReferencePoint")
    (found,) = [each for each in points if each["InstanceID"] == point["InstanceID"]]
    disks, ids = found["VirtualDiskIdentifiers"], found["ResilientChangeTrackingIdentifiers"]
    (place,) = [n for n, name in enumerate(disks) if name.endswith(rf"\{slot}\L")]
    return str(ids[place])


def wait_for_merge(client: ForeignClient, vm_id: str) -> None:
    deadline = time.monotonic() + 30
    while not frozen_path(client, vm_id).endswith(".vhdx"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def changes(client: ForeignClient, path: str, since: str) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    offset = 0
    while offset < SIZE:
        answer = client.call(
            "Msvm_ImageManagementService",
            "GetVirtualDiskChanges",
            text("Path", path),
            text("LimitId", since),
            text("ByteOffset", offset),
            text("ByteLength", min(WINDOW, SIZE - offset)),
        )
        assert answer["ReturnValue"] == "0"
        columns = [answer.get(name) or [] for name in ("ChangedByteOffsets", "ChangedByteLengths")]
        starts, lengths = (column if isinstance(column, list) else [column] for column in columns)
        ranges += [(int(start), int(length)) for start, length in zip(starts, lengths, strict=True)]
        offset += int(answer["ProcessedByteLength"])
    return ranges


def raw(path: Path, folder: Path) -> bytes:
    """The bytes of a frozen base file, read from a copy as a backup program would have it."""
    copy = folder / "copy.vhdx"
    shutil.copyfile(path, copy)
    disk = VirtualDisk.open(copy)
    data = disk.read(0, disk.size)
    disk.close()
    return data


def test_the_whole_sequence(lab: Lab, client: ForeignClient, tmp_path: Path) -> None:
    before = inventory(client)
    vms = client.query("SELECT * FROM Msvm_ComputerSystem")
    (vm_id,) = [each["Name"] for each in vms if each["ElementName"] == "one"]

    # A full: frozen, readable, and equal to the truth while the guest writes on.
    first = take(client, vm_id)
    path = frozen_path(client, first)
    assert path.endswith("system.vhdx")
    assert frozen_path(client, vm_id).endswith(".avhdx")
    lab.control.ask("step", vm="one", writes=20)
    old = tmp_path / "old.raw"
    old.write_bytes(raw(lab.real(path), tmp_path))
    assert first in equal(lab, old)[0]

    # A baseline of it; the merge gives the disk its file back.
    point = convert(client, first)
    since = rct_id(client, point)
    wait_for_merge(client, vm_id)

    # An increment: what changed, put over what was, is what the next checkpoint holds.
    lab.control.ask("step", vm="one", writes=10)
    second = take(client, vm_id, level=2)
    path = frozen_path(client, second)
    new = raw(lab.real(path), tmp_path)
    patched = bytearray(old.read_bytes())
    ranges = changes(client, path, since)
    for start, length in ranges:
        patched[start : start + length] = new[start : start + length]
    assert sum(length for _, length in ranges) > 0
    increment = tmp_path / "new.raw"
    increment.write_bytes(patched)
    assert second in equal(lab, increment)[0]
    assert first not in equal(lab, increment)[0]

    # The end: the newer baseline replaces the older, and nothing of ours or others is out of place.
    newer = convert(client, second)
    wait_for_merge(client, vm_id)
    for each in (point, newer):
        gone = reference("AffectedReferencePoint", "Msvm_VirtualSystemReferencePoint", **each)
        client.finish(client.call("Msvm_VirtualSystemReferencePointService", "DestroyReferencePoint", gone))
    assert inventory(client) == before


def test_a_merge_waits_for_the_reader_of_another_process(
    lab: Lab, client: ForeignClient, tmp_path: Path
) -> None:
    vms = client.query("SELECT * FROM Msvm_ComputerSystem")
    (vm_id,) = [each["Name"] for each in vms if each["ElementName"] == "one"]
    checkpoint = take(client, vm_id)
    with lab.real(frozen_path(client, checkpoint)).open("rb"):
        convert(client, checkpoint)
        deadline = time.monotonic() + 30
        while not any(event["code"] == 19100 for event in lab.control.ask("state")["state"]["events"]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert len(lab.control.ask("handles")["handles"]) == 1
        assert frozen_path(client, vm_id).endswith(".avhdx")
    wait_for_merge(client, vm_id)


def test_the_line_it_prints_holds_no_secret_and_a_block_for_the_configuration(
    lab: Lab, tmp_path: Path
) -> None:
    assert lab.password not in json.dumps(lab.facts)
    assert Path(lab.facts["password_file"]).stat().st_mode & 0o777 == 0o600
    block = tomllib.loads(lab.facts["config"])["hosts"]["lab"]
    assert block["port"] == lab.facts["port"]
    assert block["paths"] == {"C:\\VMs": (tmp_path / "state/files/C/VMs").as_uri()}


def test_https_and_a_second_start_of_the_same_host(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running_lab(QUICK, state, "--https") as first:
        client = ForeignClient(first)
        names = [each["Name"] for each in client.query("SELECT * FROM Msvm_ComputerSystem")]
        checkpoint = take(client, names[1])
        client.close()
        first.process.kill()
    with running_lab(QUICK, state, "--https") as second:
        client = ForeignClient(second)
        assert frozen_path(client, checkpoint).endswith(".vhdx")
        client.close()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["serve", "--scenario", "nothing", "--state", "s"], "there is no scenario 'nothing'"),
        (["judge", "--truth", "no-such-file", "x"], "No such file"),
    ],
)
def test_refusals_are_one_line(tmp_path: Path, arguments: list[str], complaint: str) -> None:
    command = [sys.executable, "-m", "vmkeep_lab", *arguments]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert complaint in ended.stderr
    assert ended.stderr.count("\n") == 1
