"""Whose restore point a run takes: the same machine later, or another one."""

import dataclasses
import os
from pathlib import Path
from uuid import UUID

import pytest

from tests.clocks import FakeClock
from tests.repositories import manifest_of
from vmkeep.backup.identity import identify
from vmkeep.capture.source import SourceAddress
from vmkeep.model.plan import VmRef
from vmkeep.repository.points import SealedPoint

pytestmark = pytest.mark.quick

GUID = "5a1f0c3e-ab12-4c00-8000-0123456789ab"


def sealed(vm: VmRef) -> SealedPoint:
    point = manifest_of(vm, [], FakeClock())("aa" * 16)
    return SealedPoint(dataclasses.replace(point, vm=vm), "points/x/y", bytes(32))


def disk(path: Path) -> SourceAddress:
    return SourceAddress("disk", path)


def test_the_same_place_is_the_same_vm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vm = identify(disk(tmp_path / "web.vhdx"), None, None)
    assert vm.name == "web" and UUID(vm.id)
    monkeypatch.chdir(tmp_path)
    assert identify(disk(Path("web.vhdx")), None, None) == vm
    assert identify(disk(tmp_path / "db.vhdx"), None, None).id != vm.id
    assert identify(SourceAddress("folder", tmp_path / "web.vhdx"), None, None).id != vm.id


def test_a_name_given_decides_wherever_the_files_lie(tmp_path: Path) -> None:
    one = identify(disk(tmp_path / "a.raw"), "mail", None)
    two = identify(SourceAddress("folder", tmp_path), "mail", None)
    assert one == two and one.name == "mail"
    assert identify(disk(tmp_path / "a.raw"), "Mail", None).id != one.id


def test_an_export_keeps_the_vm_s_own_id_under_any_name(tmp_path: Path) -> None:
    machines = tmp_path / "export" / "Virtual Machines"
    machines.mkdir(parents=True)
    (machines / f"{GUID.upper()}.vmcx").touch()
    source = SourceAddress("folder", tmp_path / "export")
    assert identify(source, None, None) == VmRef(GUID, "export")
    assert identify(source, "web", None) == VmRef(GUID, "web")
    stranger = sealed(VmRef("11111111-0000-4000-8000-000000000000", "export"))
    assert identify(source, None, stranger).id == GUID


def test_a_parent_given_means_the_same_machine(tmp_path: Path) -> None:
    parent = sealed(VmRef(GUID, "web"))
    assert identify(disk(tmp_path / "copy.raw"), None, parent) == VmRef(GUID, "web")
    assert identify(disk(tmp_path / "copy.raw"), "web", parent) == VmRef(GUID, "web")
    assert identify(disk(tmp_path / "copy.raw"), "other", parent).id != GUID


def test_ids_and_names_are_text_everybody_can_read() -> None:
    odd = Path(os.fsdecode(b"/srv/d\xff.raw"))
    vm = identify(disk(odd), None, None)
    assert vm.name == "d%FF" and UUID(vm.id)
    assert identify(disk(Path(os.fsdecode(b"/srv/d\xfe.raw"))), None, None).id != vm.id
    assert identify(disk(odd), "n\udcff", None).name == "n%FF"
