"""A frozen file that is written, and a disk that went back in time: both are noticed."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab_captures import Doors, doors, image_of, sha256_of
from tests.lab_process import ForeignClient, Lab, reference, running_lab
from vmkeep.formats.errors import SourceChanged
from vmkeep.host.hyperv import changed_ranges

HEADER_OFFSET = 64 << 10


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with running_lab("demo", tmp_path / "state") as lab:
        yield lab


@pytest.fixture
def host(lab: Lab) -> Iterator[Doors]:
    with doors(lab.facts) as host:
        yield host


@pytest.mark.parametrize("place", ["middle", "header"])
@pytest.mark.parametrize("below", [1, 2])
def test_a_write_to_a_frozen_file_breaks_the_hold_by_its_name(
    lab: Lab, host: Doors, place: str, below: int
) -> None:
    with host.hold("ledger") as held:
        held.check()
        where = {"offset": HEADER_OFFSET} if place == "header" else {}
        written = lab.control.ask("scribble", vm="ledger", below=below, **where)["file"]
        with pytest.raises(SourceChanged) as told:
            held.check()
        assert told.value.file == written
    assert host.ours() == []


def revert(lab: Lab, checkpoint: str) -> None:
    """Take a VM back to a checkpoint, as its administrator does."""
    client = ForeignClient(lab)
    settings = reference("Snapshot", "Msvm_VirtualSystemSettingData", InstanceID=checkpoint)
    client.finish(client.call("Msvm_VirtualSystemSnapshotService", "ApplySnapshot", settings))
    client.close()


def test_a_disk_that_went_back_is_read_whole_although_its_tracking_answers(lab: Lab, host: Doors) -> None:
    lab.control.ask("pause")
    ledger = host.vm("ledger")
    lab.control.ask("step", vm=ledger.vm.id, writes=30)
    with host.hold("ledger") as held:
        (first,) = [image_of(disk.disk) for disk in held.disks]
        tracking = held.release(track=True).tracking
    assert tracking is not None
    lab.control.ask("power", vm="ledger", to="off")
    assert ledger.parent is not None
    revert(lab, ledger.parent)
    with host.hold("ledger", previous=tracking) as held:
        assert held.checkpoint is not None
        (disk,) = held.disks
        (truth,) = host.truth(held.checkpoint.id).values()
        assert disk.changed is None
        assert disk.why_all is not None
        assert disk.why_all.code == "rct-disk-path"
        assert sha256_of(disk.disk) == truth
        # What the refusal is for: the host answers, and the answer leaves out what going back changed.
        (before,) = tracking.disks
        assert before.rct_id is not None
        told = changed_ranges(host.host, disk.file, before.rct_id, disk.disk.profile.size)
        assert hashlib.sha256(image_of(disk.disk, told, first)).hexdigest() != truth
