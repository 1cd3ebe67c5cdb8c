"""The judge: says yes only to the very bytes."""

from pathlib import Path

import pytest

from tests.lab_hosts import MIB, LabHost, id_of
from tests.lab_process import judged

pytestmark = pytest.mark.quick


@pytest.fixture
def restored(tmp_path: Path) -> tuple[Path, Path, str]:
    """A truth, the raw bytes of one of its disks, and the checkpoint they are from."""
    lab = LabHost.small(tmp_path / "state")
    made = lab.checkpoint("one")
    vm = lab.host.world.state.vms[0]
    path = lab.real(vm.checkpoints[0].disks["0:0"].path)
    raw = tmp_path / "system.raw"
    raw.write_bytes(lab.host.world.media.disk(vm.disks[0]).read(0, 8 * MIB, at=path))
    (tmp_path / "system.vhdx").write_bytes(path.read_bytes())
    lab.host.stop()
    return tmp_path / "state" / "truth.jsonl", raw, id_of(made)


def test_identical_disks_are_found_whatever_their_format(restored: tuple[Path, Path, str]) -> None:
    truth, raw, checkpoint = restored
    code, verdict = judged(truth, raw, raw.with_suffix(".vhdx"))
    assert (code, verdict["identical"]) == (0, True)
    found = verdict["restored"]
    assert isinstance(found, list)
    assert [each["format"] for each in found] == ["raw", "vhdx"]
    for each in found:
        assert {(line["vm"], line["disk"]) for line in each["equals"]} == {("one", "system")}
        assert checkpoint in [line["checkpoint"] for line in each["equals"]]


@pytest.mark.parametrize("change", ["flip", "shorter", "longer"])
def test_anything_else_is_not(restored: tuple[Path, Path, str], change: str) -> None:
    truth, raw, _ = restored
    data = bytearray(raw.read_bytes())
    if change == "flip":
        data[len(data) // 2] ^= 1
    elif change == "shorter":
        del data[-512:]
    else:
        data += bytes(512)
    other = raw.with_name("other.raw")
    other.write_bytes(data)
    code, verdict = judged(truth, raw, other)
    assert (code, verdict["identical"]) == (1, False)


def test_a_broken_vhdx_is_a_verdict_and_no_crash(restored: tuple[Path, Path, str]) -> None:
    truth, raw, _ = restored
    broken = raw.with_name("broken.vhdx")
    broken.write_bytes(raw.with_suffix(".vhdx").read_bytes()[: 3 * MIB // 2])
    code, verdict = judged(truth, broken)
    assert code == 1
    found = verdict["restored"]
    assert isinstance(found, list)
    assert found[0]["fault"]
