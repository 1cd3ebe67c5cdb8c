"""Merges: done only when the phase is over and every disk writes to its file again."""

from collections.abc import Callable

import pytest

from tests.fakes.hyperv_host import TableHost
from tests.fakes.hyperv_rows import SCSI, WEB, medium, vm
from vmkeep.host.hyperv import MergeUnfinished, VmNotFound, read_merge, wait_for_merge

pytestmark = pytest.mark.quick

SLOT = f"{SCSI}\\0\\0"
SECOND = f"{SCSI}\\0\\1"
LEAF = "D:\\VMs\\web\\system.vhdx"
LAYER = "D:\\VMs\\web\\system_77.avhdx"


def a_host(*, path: str = LAYER, phase: int | None = 32772) -> TableHost:
    host = TableHost()
    host.rows["Msvm_ComputerSystem"] = [vm(OperationalStatus=[2] if phase is None else [11, phase])]
    host.rows["Msvm_StorageAllocationSettingData"] = [medium(path=path)]
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


def test_a_merge_is_waited_for() -> None:
    host = a_host()
    began = host.clock.monotonic()

    def happen() -> None:
        rest(host)
        merged(host, "d:/vms/WEB/system.vhdx")

    after(host, 3600, happen)
    wait_for_merge(host.hyperv(), WEB, {SLOT: LEAF})
    assert 3600 <= host.clock.monotonic() - began < 3620
    assert max(host.clock.slept) <= 15
    assert host.waits[0].percent == 0


@pytest.mark.parametrize(
    ("path", "phase", "is_done"),
    [
        (LEAF, None, True),
        (LEAF, 32772, False),
        (LAYER, None, False),
        (LAYER, 32772, False),
        ("", None, False),
    ],
)
def test_both_the_phase_and_the_file_must_be_right(path: str, phase: int | None, is_done: bool) -> None:
    assert read_merge(a_host(path=path, phase=phase).hyperv(), WEB, {SLOT: LEAF}).is_done is is_done


def test_a_phase_that_ended_with_layers_left_has_failed() -> None:
    """Event 19100: something has a layer open. The host may begin late, but not for ever."""
    host = a_host()
    after(host, 60, lambda: rest(host))
    with pytest.raises(MergeUnfinished, match="stopped merging") as caught:
        wait_for_merge(host.hyperv(), WEB, {SLOT: LEAF})
    assert caught.value.context["unmerged"] == {SLOT: LAYER}
    assert 360 <= sum(host.clock.slept) < 400


def test_a_host_that_begins_late_is_waited_for() -> None:
    host = a_host(phase=None)
    after(host, 200, lambda: merged(host))
    wait_for_merge(host.hyperv(), WEB, {SLOT: LEAF})


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
    wait_for_merge(host.hyperv(), WEB, {SLOT: LEAF, SECOND: "D:\\b.vhdx"})
    assert {wait.percent for wait in host.waits} == {0, 50}


def test_a_merge_without_an_end_has_a_limit() -> None:
    host = a_host()
    with pytest.raises(MergeUnfinished, match="2 hours"):
        wait_for_merge(host.hyperv(), WEB, {SLOT: LEAF}, limit_s=7200)
    assert sum(host.clock.slept) == pytest.approx(7200)


def test_a_disk_that_was_detached_has_nothing_to_merge() -> None:
    host = a_host(phase=None)
    host.rows["Msvm_StorageAllocationSettingData"] = []
    wait_for_merge(host.hyperv(), WEB, {SLOT: LEAF})


def test_a_vm_that_is_gone() -> None:
    host = a_host()
    after(host, 60, lambda: host.rows["Msvm_ComputerSystem"].clear())
    with pytest.raises(VmNotFound):
        wait_for_merge(host.hyperv(), WEB, {SLOT: LEAF})
