"""Scenario files: the ones that come with the lab, and the ones that say nonsense."""

from pathlib import Path

import pytest

from tests.lab_hosts import SMALL, LabHost
from vmkeep_lab.host.codes import CheckpointKind
from vmkeep_lab.scenario import ScenarioError, load, scenario_names
from vmkeep_lab.scenario.load import parse

pytestmark = pytest.mark.quick

PROMISED = {"demo", "standard", "big-inventory", "hostile", "japanese"}


def test_the_promised_scenarios_are_there() -> None:
    assert set(scenario_names()) >= PROMISED
    assert all(load(name).title for name in scenario_names())


@pytest.mark.parametrize("name", sorted(PROMISED))
def test_strangers_are_in_every_scenario(tmp_path: Path, name: str) -> None:
    lab = LabHost.named(tmp_path, name)
    vms = lab.host.world.state.vms
    kinds = [[each.kind for each in vm.checkpoints] for vm in vms]
    assert any(CheckpointKind.RECOVERY in each for each in kinds)
    assert any(vm.reference_points for vm in vms)
    assert any(each.count(CheckpointKind.USER) >= 2 for each in kinds)
    evil = [vm.name for vm in vms if "<script>" in vm.name]
    assert len(evil) == 1
    assert all(mark in evil[0] for mark in ("\r\n", "[red]", "\x1b", "\u202e", "../"))
    lab.host.stop()


def test_the_big_one_has_its_size_and_few_files(tmp_path: Path) -> None:
    lab = LabHost.named(tmp_path, "big-inventory")
    assert len(lab.all("Msvm_ComputerSystem")) == 501
    realised = [each for vm in lab.host.world.state.vms for each in vm.disks]
    assert len(realised) == 2000
    assert len(list(tmp_path.rglob("*.vhdx"))) < 20
    made = lab.checkpoint("vm-0042")
    assert [lab.real(path).exists() for path in lab.paths(made)] == [True] * 4
    lab.host.stop()


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (
            "size_mib = 8",
            "sise_mib = 8",
            "has no 'sise_mib'; it knows fixed, image, kind, name, size_mib",
        ),
        ("size_mib = 8", "used_mib = 1", "Cannot overwrite"),
        ('name = "HV"', "seed = 3", "Cannot overwrite"),
        ("seed = 3", 'seed = "three"', "small.host.seed must be a whole number, not 'three'"),
        ("seed = 3", 'locale = "xx-XX"', "host.locale must be one of 'en-US'"),
        ("seed = 3", "build = 1", "host.build must be one of 14393"),
        ("generation = 1", "generation = 3", "vm[1].generation must be one of 1, 2, not 3"),
        ('state = "off"', 'state = "asleep"', "vm[1].state must be one of"),
        ('owner = "stranger"', 'owner = "me"', "vm[2].checkpoint[0].owner must be one of"),
        ("used_mib = 3", "used_mib = 9", "vm[0].disk[0] must be larger than what is used of it"),
        ("generation = 1", "generation = 1\ncount = 3", "vm[1] is 3 VMs: they have no history"),
        ('title = "two small VMs"', "", "small lacks 'title'"),
    ],
)
def test_nonsense_is_named_with_its_place(old: str, new: str, complaint: str) -> None:
    assert old in SMALL
    with pytest.raises(ScenarioError) as caught:
        parse(SMALL.replace(old, new, 1), "small")
    assert str(caught.value).startswith("small: ")
    assert complaint in str(caught.value)


def test_a_scenario_that_is_not_there() -> None:
    with pytest.raises(ScenarioError, match="there is no scenario 'demon'; there are big-inventory, demo"):
        load("demon")
    with pytest.raises(ScenarioError, match="there is no file"):
        load("/nowhere/demo.toml")
