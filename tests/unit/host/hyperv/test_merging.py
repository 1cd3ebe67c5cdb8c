"""Merges: done only when the phase is over and our layer is in no chain, whatever others do meanwhile."""

from collections.abc import Callable, Mapping

import pytest

from tests.fakes.hyperv_host import Called, TableHost, embedded, returns
from tests.fakes.hyperv_rows import CHECKPOINT, SCSI, WEB, checkpoint, medium, settings, vm
from tests.fakes.wsman_host import Reply, fault
from vmkeep.host.hyperv import (
    MergeUnfinished,
    VmNotFound,
    layers_of,
    read_checkpoint,
    read_merge,
    wait_for_merge,
)

pytestmark = pytest.mark.quick

SLOT = f"{SCSI}\\0\\0"
SECOND = f"{SCSI}\\0\\1"
BASE = "D:\\VMs\\web\\base.vhdx"
LEAF = "D:\\VMs\\web\\system.vhdx"
LAYER = "D:\\VMs\\web\\system_77.avhdx"
THEIRS = "D:\\VMs\\web\\system_88.avhdx"
LAYERS = {SLOT: LAYER}


def chains(host: TableHost, parents: Mapping[str, str]) -> None:
    """Let the host tell each file's parent, by path without case."""
    folded = {path.lower(): parent for path, parent in parents.items()}

    def step(called: Called) -> Reply:
        parent = folded.get(called.inputs["Path"].lower(), "")
        text = embedded("Msvm_VirtualHardDiskSettingData", {"MaxInternalSize": 1 << 30, "ParentPath": parent})
        return returns(0, SettingData=text)(called)

    host.on("Msvm_ImageManagementService.GetVirtualHardDiskSettingData", step)


def a_host(*, top: str = LAYER, phase: int | None = 32772) -> TableHost:
    host = TableHost()
    host.rows["Msvm_ComputerSystem"] = [vm(OperationalStatus=[2] if phase is None else [11, phase])]
    host.rows["Msvm_StorageAllocationSettingData"] = [medium(path=top)]
    chains(host, {LAYER: LEAF, LEAF: BASE})
    return host


def after(host: TableHost, seconds: float, happen: Callable[[], None]) -> None:
    began = host.clock.monotonic()

    def before(_: object) -> None:
        if host.clock.monotonic() - began >= seconds:
            happen()

    host.before = before


def rest(host: TableHost) -> None:
    host.rows["Msvm_ComputerSystem"][0]["OperationalStatus"] = [2]


def merged(host: TableHost, path: str = LEAF) -> None:
    host.rows["Msvm_StorageAllocationSettingData"][0]["HostResource"] = [path]


# --- what has to vanish ------------------------------------------------------------------


def frozen(host: TableHost, path: str = LEAF) -> dict[str, str]:
    host.rows["Msvm_VirtualSystemSettingData"] = [settings(), checkpoint()]
    host.rows["Msvm_StorageAllocationSettingData"].append(medium(CHECKPOINT, path))
    return layers_of(host.hyperv(), read_checkpoint(host.hyperv(), WEB, f"Microsoft:{CHECKPOINT}"))


def test_the_layer_is_the_file_above_the_frozen_one() -> None:
    host = a_host(phase=None)
    assert frozen(host) == LAYERS
    assert len(host.calls) == 1


def test_a_later_stranger_on_top_is_not_our_layer() -> None:
    host = a_host(top=THEIRS, phase=None)
    chains(host, {THEIRS: LAYER, LAYER: LEAF.upper(), LEAF: BASE})
    assert frozen(host) == LAYERS


@pytest.mark.parametrize("top", [LEAF, BASE, "D:\\elsewhere.vhdx"])
def test_a_disk_without_a_layer_of_ours_has_none(top: str) -> None:
    assert frozen(a_host(top=top, phase=None)) == {}


def test_a_chain_without_an_end_is_left() -> None:
    host = a_host(top="D:\\a.avhdx", phase=None)
    chains(host, {"D:\\a.avhdx": "D:\\b.avhdx", "D:\\b.avhdx": "D:\\a.avhdx"})
    assert frozen(host) == {}


# --- whether it has ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("top", "phase", "is_done"),
    [
        (LEAF, None, True),
        (LEAF, 32772, False),
        (LAYER, None, False),
        (LAYER.upper(), None, False),
        (LAYER, 32772, False),
        (BASE, None, True),
    ],
)
def test_both_the_phase_and_the_chain_must_be_right(top: str, phase: int | None, is_done: bool) -> None:
    assert read_merge(a_host(top=top, phase=phase).hyperv(), WEB, LAYERS).is_done is is_done


def test_a_vm_that_merges_is_not_done_even_without_known_layers() -> None:
    assert not read_merge(a_host(top=LEAF).hyperv(), WEB, {}).is_done


@pytest.mark.parametrize(("below", "is_done"), [(LAYER, False), (LEAF, True)])
def test_a_strangers_layer_above_ours_hides_nothing(below: str, is_done: bool) -> None:
    host = a_host(top=THEIRS, phase=None)
    chains(host, {THEIRS: below, LAYER: LEAF, LEAF: BASE})
    assert read_merge(host.hyperv(), WEB, LAYERS).is_done is is_done


def test_a_chain_that_cannot_be_read_is_not_called_merged() -> None:
    host = a_host(top=THEIRS, phase=None)
    host.on("Msvm_ImageManagementService.GetVirtualHardDiskSettingData", fault(0x80070020))
    assert read_merge(host.hyperv(), WEB, LAYERS).unmerged == LAYERS


# --- waiting -----------------------------------------------------------------------------


def test_a_merge_is_waited_for() -> None:
    host = a_host()
    began = host.clock.monotonic()

    def happen() -> None:
        rest(host)
        merged(host, "d:/vms/WEB/system.vhdx")

    after(host, 3600, happen)
    wait_for_merge(host.hyperv(), WEB, LAYERS)
    assert 3600 <= host.clock.monotonic() - began < 3620
    assert max(host.clock.slept) <= 15
    assert host.waits[0].percent == 0


def test_a_phase_that_ended_with_layers_left_has_failed() -> None:
    """Event 19100: something has a layer open. The host may begin late, but not for ever."""
    host = a_host()
    after(host, 60, lambda: rest(host))
    with pytest.raises(MergeUnfinished, match="stopped merging") as caught:
        wait_for_merge(host.hyperv(), WEB, LAYERS)
    assert caught.value.context["unmerged"] == LAYERS
    assert 360 <= sum(host.clock.slept) < 400


def test_a_host_that_begins_late_is_waited_for() -> None:
    host = a_host(phase=None)
    after(host, 200, lambda: merged(host))
    wait_for_merge(host.hyperv(), WEB, LAYERS)


def test_each_disk_that_comes_back_counts_as_progress() -> None:
    host = a_host(phase=None)
    host.rows["Msvm_StorageAllocationSettingData"] += [
        medium(path="D:\\b_1.avhdx", InstanceID=f"Microsoft:{WEB}\\{SECOND}\\L")
    ]
    began = host.clock.monotonic()

    def before(_: object) -> None:
        waited = host.clock.monotonic() - began
        if waited > 250:
            merged(host)
        if waited > 500:
            host.rows["Msvm_StorageAllocationSettingData"][1]["HostResource"] = ["D:\\b.vhdx"]

    host.before = before
    wait_for_merge(host.hyperv(), WEB, {**LAYERS, SECOND: "D:\\b_1.avhdx"})
    assert {wait.percent for wait in host.waits} == {0, 50}


def test_a_merge_without_an_end_has_a_limit() -> None:
    host = a_host()
    with pytest.raises(MergeUnfinished, match="2 hours"):
        wait_for_merge(host.hyperv(), WEB, LAYERS, limit_s=7200)
    assert sum(host.clock.slept) == pytest.approx(7200)


def test_a_disk_that_was_detached_has_nothing_to_merge() -> None:
    host = a_host(phase=None)
    host.rows["Msvm_StorageAllocationSettingData"] = []
    wait_for_merge(host.hyperv(), WEB, LAYERS)


def test_a_vm_that_is_gone() -> None:
    host = a_host()
    after(host, 60, lambda: host.rows["Msvm_ComputerSystem"].clear())
    with pytest.raises(VmNotFound):
        wait_for_merge(host.hyperv(), WEB, LAYERS)
