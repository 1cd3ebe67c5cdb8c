"""The door for tests, and the faults that come through it."""

import json
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab_hosts import JOB_STARTED, LabHost
from vmkeep_lab.cim import WmiError
from vmkeep_lab.host.control import ControlServer

pytestmark = pytest.mark.quick


class Door:
    """A connection to the control socket."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(address)
        self._lines = self._socket.makefile("rb")

    def ask(self, do: str, **fields: object) -> dict[str, Any]:
        self._socket.sendall(json.dumps({"do": do, **fields}).encode() + b"\n")
        answer: dict[str, Any] = json.loads(self._lines.readline())
        return answer

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


@pytest.fixture
def door(lab: LabHost) -> Iterator[Door]:
    server = ControlServer(lab.host, lab.folder)
    server.start()
    door = Door(server.address)
    yield door
    door.close()
    server.shutdown()
    server.server_close()


def test_requests_that_make_no_sense_are_answered(door: Door) -> None:
    assert "no 'dance'; there are state, step" in door.ask("dance")["error"]
    assert door.ask("step") == {"ok": False, "error": "KeyError: 'vm'"}
    assert "no VM 'nobody'" in door.ask("step", vm="nobody")["error"]
    assert "fault has no 'color'" in door.ask("fail", at="merge", color="red")["error"]
    assert door.ask("state")["ok"]


def test_a_guest_is_stepped(lab: LabHost, door: Door) -> None:
    before = lab.host.world.state.vms[0].disks[0].writes
    assert door.ask("step", vm="one", writes=9) == {"ok": True}
    assert door.ask("state")["state"]["vms"][0]["disks"][0]["writes"] == before + 9


def test_faults_strike_as_often_as_they_were_told(lab: LabHost, door: Door) -> None:
    door.ask("fail", at="create-call", vm="one", times=2, code=32774)
    assert lab.begin_checkpoint("chained")["ReturnValue"] == JOB_STARTED
    codes = [lab.begin_checkpoint("one")["ReturnValue"] for _ in range(3)]
    assert codes == [32774, 32774, JOB_STARTED]


def test_a_checkpoint_that_failed_and_is_there_all_the_same(lab: LabHost, door: Door) -> None:
    door.ask("fail", at="create-late")
    job = lab.job(lab.begin_checkpoint("one"))
    assert job.values["ErrorCode"] == 32768
    assert len(lab.host.world.state.vms[0].checkpoints) == 1


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("changes-unknown", {"ReturnValue": 32773}),
        (
            "changes-stuck",
            {"ProcessedByteLength": 0, "ChangedByteOffsets": [], "ChangedByteLengths": [], "ReturnValue": 0},
        ),
        (
            "changes-inflated",
            {
                "ProcessedByteLength": 4096,
                "ChangedByteOffsets": [0],
                "ChangedByteLengths": [4096],
                "ReturnValue": 0,
            },
        ),
    ],
)
def test_changes_that_go_wrong(lab: LabHost, door: Door, at: str, expected: dict[str, object]) -> None:
    door.ask("fail", at=at)
    path = lab.leaves("one")[0]
    answer = lab.call(
        "Msvm_ImageManagementService",
        "GetVirtualDiskChanges",
        Path=path,
        LimitId="rctX:0",
        ByteOffset=0,
        ByteLength=4096,
    )
    assert answer == expected


def test_a_frozen_file_changed_behind_the_host_s_back(lab: LabHost, door: Door) -> None:
    made = lab.checkpoint("one")
    path = lab.real(lab.paths(made)[0])
    before = path.read_bytes()
    answer = door.ask("scribble", vm="one", slot="0:0")
    assert answer["ok"]
    after = path.read_bytes()
    assert len(after) == len(before)
    assert after != before


def test_a_guest_is_mended_and_broken(lab: LabHost, door: Door) -> None:
    door.ask("guest", vm="one", set={"writer_failed": True, "vss": 13})
    status = lab.one("Msvm_VssComponent", SystemName=lab.vm_id("one")).values["OperationalStatus"]
    assert status == [13]
    assert lab.job(lab.begin_checkpoint("one", level=1)).values["ErrorCode"] == 32768


def test_a_host_that_shuts_down_and_a_vm_that_is_deleted(lab: LabHost, door: Door) -> None:
    door.ask("fail", at="host-error", hresult=0x80041033)
    with pytest.raises(WmiError) as caught:
        lab.all("Msvm_ComputerSystem")
    assert caught.value.code == 0x80041033
    assert len(lab.all("Msvm_ComputerSystem")) == 4
    door.ask("delete", vm="one")
    assert len(lab.all("Msvm_ComputerSystem")) == 3


def test_time_is_pushed_and_vms_are_turned_off(lab: LabHost, door: Door) -> None:
    lab.begin_checkpoint("one")
    door.ask("push", seconds=301)
    assert len(lab.host.world.state.vms[0].checkpoints) == 1
    door.ask("power", vm="one", to="off")
    assert lab.vm("one").values["EnabledState"] == 3


def test_a_closed_door_leaves_nothing(lab: LabHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder too deep for a socket's address gets one made for the socket; it goes with it."""
    deep = tmp_path / ("deep" * 20)
    deep.mkdir()
    with tempfile.TemporaryDirectory(prefix="vk") as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        for folder, place in ((Path(short), Path(short)), (deep, None)):
            server = ControlServer(lab.host, folder)
            socket_file = Path(server.address)
            assert socket_file.exists()
            assert socket_file.parent == place or socket_file.parent.parent == Path(short)
            server.server_close()
            assert list(Path(short).iterdir()) == list(deep.iterdir()) == []
