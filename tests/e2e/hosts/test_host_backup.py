"""VMs of a host are protected, changed, protected again and restored; the lab's own truth is the judge."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.command import Result
from tests.e2e.hosts.configured import Hosts
from tests.e2e.hosts.protecting import (
    Things,
    assert_only_baselines_came,
    by_vm,
    id_of,
    restored,
    things,
    with_repository,
)
from tests.e2e.test_names import unsteered
from tests.fakes.samba import PASSWORD, Samba
from tests.lab_process import Lab, running_lab

pytestmark = pytest.mark.slow

# What each VM of `standard` is proven as, from mission R2 and what the scenario says of its guest.
STANDARD = {
    "files": "application",
    "database": "application",
    "legacy": "crash",
    "appliance": "off",
    "twin": "off",
    "passthrough": "off",
    "evil": "off",
}
WRITTEN = ("files", "database", "legacy")
JAPANESE = {"ファイルサーバー": "application", "会計": "application", "evil": "off"}


@dataclass(frozen=True)
class Story:
    """One host, protected twice: in full with --json, then incrementally for people to read."""

    hosts: Hosts
    lab: Lab
    before: dict[str, Things]
    between: dict[str, Things]
    after: dict[str, Things]
    full: Result
    second: Result

    def points(self, *arguments: object) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = json.loads(self.hosts("points", "--json", *arguments).text)
        return listed


@contextmanager
def told(scenario: str, folder: Path, empty: Path, *words: str) -> Iterator[Story]:
    hosts = with_repository(folder, empty)
    with running_lab(scenario, folder / "state", *words) as lab:
        lab.control.ask("pause")  # so that what changes is known; that guests write on is tested elsewhere
        hosts.configure(lab)
        before = things(lab)
        full = hosts("backup", "hyperv://lab", "--all", "--json")
        between = things(lab)
        for vm in lab.control.ask("state")["state"]["vms"]:
            if vm["name"] in (*WRITTEN, *JAPANESE):
                lab.control.ask("step", vm=vm["id"], writes=3)
        second = hosts("backup", "hyperv://lab", "--all")
        yield Story(hosts, lab, before, between, things(lab), full, second)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, empty_repository: Path) -> Iterator[Story]:
    with told("standard", tmp_path_factory.mktemp("standard"), empty_repository) as story:
        yield story


def known(name: str) -> str:
    return "evil" if name.startswith("evil") else name


def test_each_vm_is_proven_as_its_guest_allows(story: Story) -> None:
    vms, summary = by_vm(story.full)
    assert story.full.code == 3  # for the disk that no checkpoint can freeze
    assert {vm_id: (known(vm["vm"]), vm["consistency"]) for vm_id, vm in vms.items()} == {
        vm_id: (known(vm["vm"]), STANDARD[known(vm["vm"])]) for vm_id, vm in vms.items()
    }
    assert set(vms) == set(story.before)
    assert (summary["protected"], summary["failed"]) == (8, 0)
    for vm in vms.values():
        assert (vm["increment"], vm["parent"], vm["promised"]) == ("full", None, vm["consistency"])
        assert vm["exit_code"] == (3 if vm["vm"] == "passthrough" else 0)
        assert (vm["consistency"] != "crash") or vm["reasons"][0]["code"] == "version-too-old"


def test_a_disk_that_no_checkpoint_freezes_is_named(story: Story) -> None:
    for run in (story.full, story.second):
        (warning,) = [line for line in run.err.splitlines() if "passthrough" in line]
        assert "scsi 0:1 (passthrough)" in warning
        assert "not in the point" in warning


def test_strangers_find_everything_as_they_left_it(story: Story) -> None:
    assert_only_baselines_came(story.before, story.between)
    assert_only_baselines_came(story.before, story.after)
    for vm_id, then in story.between.items():
        # The baseline of the first run has gone once the second had its own.
        assert len(then.reference_points & story.after[vm_id].reference_points) == len(
            story.before[vm_id].reference_points
        )


def test_people_can_read_how_each_vm_fared(story: Story) -> None:
    assert story.second.code == 3
    for name in ("files", "database", "legacy", "appliance", "passthrough"):
        level = STANDARD[name]
        assert f"\n{name}: restore point " in f"\n{story.second.text}"
        assert any(
            line.startswith(f"{name}: ") and line.endswith(f" {level}-consistent")
            for line in story.second.text.splitlines()
        )
    twins = {vm_id for vm_id in story.before if f"\ntwin ({vm_id.lower()}): " in story.second.text}
    assert len(twins) == 2  # of two VMs of one name each is told by its id
    assert story.second.text.endswith("8 of 8 VMs are protected.\n  with warnings: passthrough\n")
    unsteered(story.second)


def test_every_disk_comes_back_as_the_host_froze_it(story: Story, tmp_path: Path) -> None:
    rows = story.points()
    assert len(rows) == 16
    for row in rows[8:]:
        shown = restored(story.hosts, story.lab, row["id"], tmp_path / "back")
        name = known(shown["vm"])
        assert (row["consistency"], shown["consistency"]) == (STANDARD[name], STANDARD[name])
        assert shown["vm_id"] == row["vm_id"]
    for row in rows[:8]:
        if row["vm"] in WRITTEN:  # what was changed since is as it was then
            restored(story.hosts, story.lab, row["id"], tmp_path / "back")


def test_an_increment_reads_what_changed_and_no_more(story: Story) -> None:
    full, _ = by_vm(story.full)
    second = {row["vm_id"].upper(): row for row in story.points()[8:]}
    assert set(second) == set(full)
    for vm_id, row in second.items():
        assert row["parent"] == full[vm_id]["id"]
        size = sum(disk["size"] for disk in row["disks"])
        files = 384 << 10  # its configuration is read each time
        if row["vm"] == "legacy":  # version 5.0 knows no change tracking
            assert row["bytes_read"] > size / 4
        elif row["vm"] in WRITTEN:
            assert files < row["bytes_read"] < size / 4, row
        else:
            assert row["bytes_read"] < files
        assert row["bytes_stored"] < full[vm_id]["bytes_stored"] or row["vm"] not in WRITTEN


def test_vms_are_chosen_by_name_and_by_id(story: Story) -> None:
    """Each one once, however often it is meant; a name that several have is refused at once."""
    hosts, lab = story.hosts, story.lab
    twin = next(vm for vm in lab.control.ask("state")["state"]["vms"] if vm["name"] == "twin")["id"]
    appliance = id_of(lab, "appliance")
    before = things(lab)
    chosen = ("--vm", twin.lower(), "--vm", appliance, "--vm", "appliance")
    result = hosts("backup", "hyperv://lab/appliance", *chosen, "--json", "--consistency", "required:off")
    vms, _ = by_vm(result)
    assert (result.code, set(vms)) == (0, {twin, appliance})
    assert {vm["increment"] for vm in vms.values()} == {"rct"}
    after = things(lab)
    assert {vm_id for vm_id, now in after.items() if now != before[vm_id]} == {twin, appliance}
    refused = hosts("backup", "hyperv://lab/twin")
    assert refused.code == 2
    assert "2 VMs of the host are called 'twin'" in refused.err
    assert twin in refused.err
    assert things(lab) == after
    assert_only_baselines_came(story.before, after)


def test_the_repository_is_whole_afterwards(story: Story) -> None:
    result = story.hosts("repo", "check", story.hosts.program.repo, "--read-data", "all", "--json")
    assert json.loads(result.text)["problems"] == []


def test_a_host_that_speaks_japanese(
    tmp_path_factory: pytest.TempPathFactory, empty_repository: Path, tmp_path: Path
) -> None:
    with told("japanese", tmp_path_factory.mktemp("japanese"), empty_repository, "--https") as story:
        vms, _ = by_vm(story.full)
        assert (story.full.code, story.second.code, story.second.err) == (0, 0, "")
        assert {known(vm["vm"]): vm["consistency"] for vm in vms.values()} == JAPANESE
        assert_only_baselines_came(story.before, story.after)
        rows = story.points()
        assert len(rows) == 6
        for row in rows:
            restored(story.hosts, story.lab, row["id"], tmp_path / "back")
        unsteered(story.second)
        # One VM by its Japanese name, in the address.
        result = story.hosts("backup", "hyperv://lab/会計", "--json")
        assert (result.code, json.loads(result.text.splitlines()[-1])["increment"]) == (0, "rct")


def test_over_a_real_file_server(tmp_path: Path, empty_repository: Path) -> None:
    """Samba serves the lab's folder: each handle is closed before the host merges, or the lab would tell."""
    hosts = with_repository(tmp_path, empty_repository)
    users = tmp_path / "users"
    with Samba(tmp_path / "samba", username_map=str(users)) as samba:
        users.write_text(f"{samba.user} = Administrator\n")
        state = samba.content / "host"
        state.mkdir()
        (state / "password").write_text(PASSWORD, "utf-8")
        (state / "password").chmod(0o600)
        with running_lab("demo", state, "--https") as lab:
            hosts.configure(lab, paths={"C:\\VMs": f"smb://127.0.0.1:{samba.port}/C$/host/files/C/VMs"})
            before = things(lab)
            for increment in ("full", "rct"):
                result = hosts("backup", "hyperv://lab", "--vm", "ledger", "--vm", "web-server", "--json")
                vms, _ = by_vm(result)
                assert (result.code, result.err) == (0, ""), result
                assert {vm["vm"]: vm["consistency"] for vm in vms.values()} == {
                    "ledger": "filesystem",
                    "web-server": "application",
                }
                assert {vm["increment"] for vm in vms.values()} == {increment}
                assert samba.open_files() == []
                for vm in vms.values():
                    restored(hosts, lab, vm["id"], tmp_path / "back")
            assert_only_baselines_came(before, things(lab))
