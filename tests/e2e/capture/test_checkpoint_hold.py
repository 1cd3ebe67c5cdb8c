"""VMs of a lab in another process are held, read and let go; the lab's own truth is the judge."""

import hashlib
from collections.abc import Iterator

import pytest

from tests.lab_captures import Doors, NotedJournal, doors, image_of, sha256_of
from tests.lab_process import Lab, running_lab

DEMO = ["web-server", "ledger"]
STANDARD = ["files", "database", "legacy", "appliance", "twin", "passthrough"]


@pytest.fixture(scope="module", params=["demo", "standard"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running_lab(request.param, tmp_path_factory.mktemp(request.param) / "state") as lab:
        yield lab


@pytest.fixture
def host(lab: Lab) -> Iterator[Doors]:
    with doors(lab.facts) as host:
        yield host


def names_of(host: Doors) -> list[str]:
    return DEMO if host.facts["name"] == "LAB01" else STANDARD


def test_each_vm_is_read_as_it_was_while_its_guest_writes_on(lab: Lab, host: Doors) -> None:
    before = host.strangers()
    for name in names_of(host):
        host.journal = NotedJournal()
        with host.hold(name, skip_other_disks=name == "passthrough") as held:
            assert len(held.left_out) == (name == "passthrough")
            assert held.checkpoint is not None
            truth = host.truth(held.checkpoint.id)
            assert {str(d.disk.profile.disk_id).upper() for d in held.disks} == {
                each.strip("{}").upper() for each in truth
            }
            lab.control.ask("step", vm=host.vm(name).vm.id, writes=5)
            assert sorted(sha256_of(disk.disk) for disk in held.disks) == sorted(truth.values())
            assert {file.role for file in held.files} >= {"configuration", "runtime-state"}
            assert held.check() >= len(held.disks) + len(held.files)
            released = held.release(track=False)
        assert released.merge.is_done, released.merge
        assert released.is_power_equal
        assert host.journal.steps == [
            "hold-prepared",
            "hold-asked",
            "hold-made",
            "hold-held",
            "hold-releasing",
            "hold-released",
        ]
    assert host.strangers() == before
    assert host.ours() == []


def test_an_increment_by_changed_ranges_gives_the_second_truth(lab: Lab, host: Doors) -> None:
    name = names_of(host)[0]
    with host.hold(name) as held:
        images = {disk.name: image_of(disk.disk) for disk in held.disks}
        assert {disk.why_all.code for disk in held.disks if disk.why_all} == {"rct-no-baseline"}
        first = held.release(track=True)
    assert first.tracking is not None
    before = host.strangers()
    lab.control.ask("step", vm=host.vm(name).vm.id, writes=20)
    with host.hold(name, previous=first.tracking) as held:
        assert held.checkpoint is not None
        truth = host.truth(held.checkpoint.id)
        for disk in held.disks:
            assert disk.why_all is None
            assert disk.changed is not None
            assert sum(r.length for r in disk.changed) < disk.disk.profile.size / 2
            images[disk.name] = image_of(disk.disk, list(disk.changed), images[disk.name])
        assert sorted(hashlib.sha256(image).hexdigest() for image in images.values()) == sorted(
            truth.values()
        )
        second = held.release(track=True)
        assert held.drop_previous(first.tracking.reference_point)
    assert second.tracking is not None
    assert second.is_power_equal
    name_of_first = {each for each in before if first.tracking.reference_point in each}
    name_of_second = {each for each in host.strangers() if second.tracking.reference_point in each}
    assert host.strangers() - name_of_second == before - name_of_first
    assert host.ours() == []
