"""All that a run asks of a host's WMI, recorded on a lab, and asked of the trace by a run of another name."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.lab_captures import QuickClock
from tests.lab_hosts import QUICK
from tests.lab_process import Served, running_lab, running_replay
from vmkeep.host.hyperv import (
    CheckpointWish,
    HyperV,
    Owner,
    convert_checkpoint,
    create_checkpoint,
    destroy_reference_point,
    layers_of,
    list_recovery_checkpoints,
    list_reference_points,
    mark_checkpoint,
    read_checkpoint,
    take_inventory,
    tracking_of,
    wait_for_merge,
    with_details,
    with_guests,
)
from vmkeep.host.wsman import Client, Endpoint, HostFault, Recorder
from vmkeep.secrets import Secret

FIRST = Owner("0123456789abcdef", "fedcba9876543210")
SECOND = Owner("aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb")


@contextmanager
def speaking(served: Served, trace: Path | None = None) -> Iterator[HyperV]:
    facts, clock = served.facts, QuickClock()
    endpoint = Endpoint(
        address=facts["address"],
        user=facts["user"],
        password=Secret(served.password),
        transport=facts["transport"],
        port=facts["port"],
        auth=facts["auth"],
    )
    stream = trace.open("w", encoding="utf-8") if trace else io.StringIO()
    with stream, Client(endpoint, clock, Recorder(stream, clock)) as client:
        yield HyperV(client, clock)


def run(host: HyperV, vm_id: str, owner: Owner) -> list[Any]:
    """Go through a run's calls; return what they told, without names."""
    inventory = take_inventory(host, repository=owner.repository)
    (vm,) = with_guests(host, [inventory.find(vm_id)])
    told: list[Any] = [len(inventory.vms), vm.state, vm.generation, vm.guest.family, vm.backup_component]
    told += [(disk.slot, disk.kind) for disk in vm.disks]
    known = [each.id for each in list_recovery_checkpoints(host, vm_id)]
    made = create_checkpoint(host, vm_id, CheckpointWish(consistency=1), known_before=known)
    marked = mark_checkpoint(host, made, owner)
    assert (marked.name, marked.notes) == (owner.name, owner.notes)
    assert [each.name for each in list_recovery_checkpoints(host, vm_id)].count(owner.name) == 1
    frozen = read_checkpoint(host, vm_id, made.id)
    disks = with_details(host, frozen.disks)
    told += [made.id, frozen.kind, frozen.created, frozen.unread_disks]
    told += [(disk.slot, disk.disk_id, disk.virtual_size) for disk in disks]
    layers = layers_of(host, frozen)
    told += sorted(layers)
    points = [each.id for each in list_reference_points(host, vm_id)]
    point = convert_checkpoint(host, marked, known_before=points)
    told += [points, point.id, point.consistency, tracking_of(point, disks)]
    wait_for_merge(host, vm_id, layers)
    told.append(destroy_reference_point(host, vm_id, point.id))
    told.append([each.id for each in list_reference_points(host, vm_id)] == points)
    return told


@pytest.mark.parametrize("name", ["one", "root"])
def test_a_run_of_another_name_is_told_the_same(tmp_path: Path, name: str) -> None:
    """Also where the VM is called like a word of the protocol."""
    trace = tmp_path / "trace.jsonl"
    with running_lab(QUICK, tmp_path / "state") as lab:
        vms = lab.control.ask("state")["state"]["vms"]
        vm_id = next(each["id"] for each in vms if each["name"] == "one")
        lab.control.ask("rename", vm=vm_id, to=name)
        with speaking(lab, trace) as host:
            expected = run(host, vm_id, FIRST)
    text = trace.read_text("utf-8")
    for private in (FIRST.name, "stranger", "chained", "system.vhdx", "example.test", lab.password):
        assert private not in text, private
    with running_replay(trace) as again, speaking(again) as host:
        assert run(host, vm_id, SECOND) == expected
        # What it has told is told: no second checkpoint comes of it.
        with pytest.raises(HostFault, match="The trace holds this request"):
            create_checkpoint(host, vm_id, CheckpointWish(consistency=1), known_before=[])


def test_a_run_that_wants_something_else_is_refused(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    with running_lab(QUICK, tmp_path / "state") as lab, speaking(lab, trace) as host:
        vms = lab.control.ask("state")["state"]["vms"]
        vm_id = next(each["id"] for each in vms if each["name"] == "one")
        run(host, vm_id, FIRST)
    wish = CheckpointWish(consistency=2)
    with (
        running_replay(trace) as again,
        speaking(again) as host,
        pytest.raises(HostFault, match="nowhere: CreateSnapshot of"),
    ):
        create_checkpoint(host, vm_id, wish, known_before=[])
