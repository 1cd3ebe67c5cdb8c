"""What the demo counts as left behind, as gone, and as its own."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.clocks import FakeClock
from vmkeep.cli.demo_story import OnHost, Places, Story, is_its_own
from vmkeep.model.consistency import Consistency
from vmkeep.model.plan import VmRef
from vmkeep.model.point import Claim, RestorePoint
from vmkeep.progress import Silent

pytestmark = pytest.mark.quick

VM, CHECKPOINT = "1285dcfd-ffae-4259-898a-2c366b65063e", "00D7169C-7507-4AAC-80D5-D14EA376A142"


def on_host(*checkpoints: str, points: tuple[str, ...] = ("R1",)) -> OnHost:
    return OnHost({each: {"name": each} for each in checkpoints}, frozenset(points), 0, 0)


@pytest.mark.parametrize(
    ("now", "left", "has_all"),
    [
        (on_host("A", "B"), 0, True),
        (on_host("A", "B", points=("R1", "R2")), 0, True),
        (on_host("A", "B", "C"), 1, True),
        (on_host("A", "C"), 1, False),
        (on_host("A", "B", points=("R2",)), 0, False),
    ],
)
def test_what_is_left_and_what_is_gone(now: OnHost, left: int, has_all: bool, fake_clock: FakeClock) -> None:
    story = Story(Places(Path("nowhere")), fake_clock, Silent())
    story.at_first = on_host("A", "B")
    assert (story.leftovers(now), story.has_all_of_others(now)) == (left, has_all)


def point() -> RestorePoint:
    time = datetime(2026, 1, 1, tzinfo=UTC)
    claim = Claim("preferred", Consistency.CRASH, Consistency.CRASH)
    return RestorePoint(
        id="0" * 32,
        run="1" * 32,
        vm=VmRef(VM, "web-server"),
        number=1,
        previous=None,
        parent=None,
        time=time,
        finished=time,
        source="hyperv://lab/web-server",
        method="production-checkpoint",
        consistency=claim,
        disks=(),
        files=(),
        bytes_read=0,
        bytes_stored=0,
        inventory="",
        program="",
        evidence={"hold": {"checkpoint": f"Microsoft:{CHECKPOINT}"}},
    )


def told(vm_id: str, checkpoint: str, fault: str = "") -> dict[str, Any]:
    return {"equals": [{"vm_id": vm_id, "checkpoint": checkpoint}], "fault": fault}


def test_a_disk_of_another_machine_or_moment_is_not_its_own() -> None:
    assert is_its_own(told(VM.upper(), CHECKPOINT), point())
    assert not is_its_own(told(CHECKPOINT, CHECKPOINT), point())
    assert not is_its_own(told(VM.upper(), VM), point())
    assert not is_its_own(told(VM.upper(), CHECKPOINT, "NotAVirtualDisk: no"), point())
    assert not is_its_own({"equals": [], "fault": ""}, point())
