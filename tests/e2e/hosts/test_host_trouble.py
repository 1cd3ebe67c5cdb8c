"""One VM of several goes wrong: it is named with its cause and cure, and the others are protected."""

import json
import resource
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.hosts.configured import Hosts
from tests.e2e.hosts.protecting import (
    OFFICE,
    assert_only_baselines_came,
    by_vm,
    clear,
    id_of,
    points,
    restored,
    things,
    while_held,
)
from tests.lab_process import Lab, running_lab

TWO = ("backup", "hyperv://lab", "--vm", "attic", "--vm", "mail")
WEB = ("backup", "hyperv://lab/web")


def deny(lab: Lab, *actions: str) -> None:
    for action in actions:
        lab.control.ask("disturb", effect="fault", action=action, code=5, times=0)


@pytest.mark.parametrize(
    ("fault", "code", "says"),
    [
        ({"at": "create-call", "code": 32769}, 13, "32769, access denied"),
        ({"at": "create-job", "hresult": 0x80070070, "reason": "disk_full"}, 1, "the volume is full"),
        ({"at": "create-late"}, 1, "0x80004005"),
    ],
)
def test_a_checkpoint_that_is_refused(
    hosts: Hosts, office: Lab, fault: dict[str, Any], code: int, says: str
) -> None:
    office.control.ask("fail", vm="mail", **fault)
    result = hosts(*TWO, "-q")
    clear(result, code, says, what="mail: NOT PROTECTED: ")
    assert result.text == "1 of 2 VMs are protected.\n  not protected: mail\n"
    assert [row["vm"] for row in points(hosts)] == ["attic"]


def test_a_host_too_busy_for_a_checkpoint_is_asked_again(hosts: Hosts, office: Lab) -> None:
    office.control.ask("fail", vm="mail", at="create-call", code=32775)
    result = hosts(*TWO)
    assert result.code == 0, result
    (line,) = [line for line in result.err.splitlines() if "waited for" in line]
    assert line.startswith("vmkeep: mail: ") and "32775" in line
    assert {row["vm"] for row in points(hosts)} == {"attic", "mail"}


def test_a_name_nobody_has_is_a_failure_of_its_own(hosts: Hosts, office: Lab) -> None:
    wanted = ("backup", "hyperv://lab", "--vm", "nobody", "--vm", "attic")
    result = hosts(*wanted)
    clear(result, 1, what="nobody: NOT PROTECTED, not even tried: ")
    assert "attic: restore point" in result.text
    assert "1 of 2 VMs are protected.\n  not protected: nobody\n" in result.text
    result = hosts(*wanted, "--json")
    assert result.code == 1
    *_, summary = map(json.loads, result.text.splitlines())
    assert (summary["exit_code"], summary["protected"], summary["failed"]) == (1, 1, 1)
    nobody, attic = summary["vms"]
    assert (nobody["vm"], nobody["vm_id"], nobody["error"]) == ("nobody", None, "HV001")
    assert (nobody["exit_code"], nobody["tried"]) == (1, False)
    assert attic["vm"] == "attic"
    assert len(points(hosts)) == 2
    clear(hosts("backup", "hyperv://lab", "--vm", "nobody", "--vm", "nowhere"), 1, "nobody")


def test_a_program_hears_of_each_vm(hosts: Hosts, office: Lab) -> None:
    office.control.ask("fail", vm="mail", at="create-call", code=32769)
    vms, summary = by_vm(hosts(*TWO, "--json"))
    mail = vms[id_of(office, "mail")]
    assert (mail["exit_code"], mail["error"], mail["tried"]) == (13, "HV013", True)
    assert mail["message"] and mail["hint"]
    assert (summary["exit_code"], summary["protected"], summary["failed"]) == (13, 1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("effect", ["flip", "close after"])
def test_an_answer_that_is_garbled_or_lost(hosts: Hosts, office: Lab, effect: str) -> None:
    """Whether the checkpoint was made nobody heard: it is looked for, and taken or taken away."""
    office.control.ask("disturb", effect=effect, action="CreateSnapshot")
    result = hosts(*TWO)
    assert result.code in (0, 13), result
    if result.code:
        clear(result, 13, what="attic: NOT PROTECTED: ")
    assert "mail: restore point" in result.text


def test_a_host_that_is_gone_is_not_asked_for_each_vm(hosts: Hosts, office: Lab) -> None:
    deny(office, "CreateSnapshot")
    result = hosts("backup", "hyperv://lab", "--all")
    clear(result, 13, "CreateSnapshot", what="attic: NOT PROTECTED: ")
    clear(result, 13, "CreateSnapshot", what="web: NOT PROTECTED, not even tried: ")
    assert result.text.startswith("0 of 3 VMs are protected.\n")


# --- rights -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "action", ["CreateSnapshot", "ModifySystemSettings", "GetVirtualHardDiskSettingData"]
)
def test_a_right_without_which_nothing_is_taken(hosts: Hosts, office: Lab, action: str) -> None:
    before = things(office)
    deny(office, action)
    clear(hosts(*WEB), 13, action, "Execute (GX)", "Hyper-V Administrators")
    assert things(office) == before
    assert points(hosts) == []


@pytest.mark.slow
def test_rights_without_which_less_is_proven_or_more_is_read(hosts: Hosts, office: Lab) -> None:
    assert hosts(*WEB).code == 0
    deny(office, "GetVirtualDiskChanges")
    result = hosts(*WEB)
    assert (result.code, "GetVirtualDiskChanges" in result.text) == (0, True), result
    assert "All of the disk is read" in result.text
    office.control.ask("calm")
    deny(office, "DestroyReferencePoint")
    result = hosts(*WEB)
    assert result.code == 3
    assert "not all is cleaned up" in result.err
    assert "DestroyReferencePoint" in result.err
    office.control.ask("calm")
    result = hosts(*WEB)
    assert result.code == 0
    assert "had left, and this one removed: reference point" in result.err


def test_what_cannot_be_taken_away_is_named_and_swept_later(hosts: Hosts, office: Lab) -> None:
    before = things(office)
    deny(office, "ModifySystemSettings", "DestroySnapshot")
    result = hosts(*WEB)
    clear(result, 13, "ModifySystemSettings")
    assert "left behind on the host: the checkpoint" in result.err
    office.control.ask("calm")
    swept = hosts("sweep", "hyperv://lab")
    assert (swept.code, "removed" in swept.text) == (0, True), swept
    assert things(office) == before


# --- files and space --------------------------------------------------------------------------


def test_a_program_hears_of_what_dead_runs_have_left(hosts: Hosts, office: Lab) -> None:
    before = things(office)
    assert hosts(*WEB).code == 0
    deny(office, "DestroyReferencePoint")
    assert hosts(*WEB).code == 3
    office.control.ask("fail", vm="web", at="create-call", code=32769)
    result = hosts("backup", "hyperv://lab", "--vm", "attic", "--vm", "web", "--json")
    office.control.ask("calm")
    documents, _ = by_vm(result)
    web = documents[id_of(office, "web")]
    assert (web["exit_code"], "32769" in web["message"]) == (13, True), result
    assert web["left_behind"] == ["what an unfinished run of web made is not all removed yet"]
    assert hosts("sweep", "hyperv://lab").code == 0
    assert_only_baselines_came(before, things(office))


def test_a_share_that_nobody_serves(hosts: Hosts, office: Lab, free_port: int) -> None:
    before = things(office)
    hosts.configure(office, paths=None, smb_port=free_port)
    clear(hosts(*WEB), 13, str(free_port))
    assert things(office) == before


def test_one_folder_that_is_not_there_is_one_vms_trouble(hosts: Hosts, office: Lab, tmp_path: Path) -> None:
    ((prefix, address),) = office.facts["paths"].items()
    hosts.configure(office, paths={prefix: address, rf"{prefix}\mail": (tmp_path / "nowhere").as_uri()})
    result = hosts(*TWO)
    clear(result, 1, "mail", what="mail: NOT PROTECTED: ")
    assert "attic: restore point" in result.text


def test_a_host_without_space_is_let_go(hosts: Hosts, office: Lab) -> None:
    before = things(office)
    office.control.ask("free", bytes=5 << 20)
    clear(hosts(*WEB), 3, "only 5 MiB are free", "1024 MiB must stay", "nothing was taken")
    assert things(office) == before
    assert points(hosts) == []


def test_a_hold_that_lasts_too_long(hosts: Hosts, office: Lab) -> None:
    before = things(office)
    result = hosts(*WEB, "--max-hold", "0.001s")
    clear(result, 3, "as long as it may at most", "nothing was taken")
    assert "--max-hold" in result.err
    assert things(office) == before


def test_a_repository_without_space(hosts: Hosts, office: Lab) -> None:
    before = things(office)
    result = hosts.program(
        *WEB,
        env={"VMKEEP_CONFIG": str(hosts.file)},
        before_exec=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    clear(result, 1)
    assert things(office) == before
    assert points(hosts) == []
    assert hosts(*WEB).code == 0


# --- consistency ------------------------------------------------------------------------------


def test_a_level_that_cannot_be_promised_is_refused(hosts: Hosts, office: Lab) -> None:
    before = things(office)
    result = hosts("backup", "hyperv://lab/mail", "--consistency", "required:application")
    clear(result, 1, "refused", "requires application", "filesystem", "for a Linux guest")
    assert "required:filesystem" in result.err
    assert things(office) == before
    for vm, level in (("mail", "required:filesystem"), ("attic", "required:off")):
        assert hosts("backup", f"hyperv://lab/{vm}", "--consistency", level).code == 0


@pytest.mark.parametrize("words", [("-q",), ("--json",)])
def test_a_vm_that_lost_its_power_is_not_what_is_required(
    hosts: Hosts, office: Lab, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Nobody can tell from outside how it went off: its point is kept, and never called good enough."""
    mail = ("backup", "hyperv://lab/mail")
    try:
        office.control.ask("power", vm="mail", to="off")
        result = hosts(*mail, "--consistency", "required:application", *words)
        assert result.code == 3, result
        assert "requires application" in result.err
        assert "nothing shows that the VM, which is off, was shut down cleanly" in result.err
        assert "Take the point while the VM runs" in result.err
        assert "required:off" in result.err
        (row,) = points(hosts)
        assert row["consistency"] == "off"
        shown = restored(hosts, office, row["id"], tmp_path / "back")
        assert (shown["claim"]["asked"], shown["claim"]["got"]) == ("required:application", "off")
        codes = [each["code"] for each in shown["claim"]["reasons"]]
        assert codes == ["shutdown-unknown", "shutdown-unproven"]
        for policy in ("required:off", "required:crash", "preferred", "any"):
            result = hosts(*mail, "--consistency", policy)
            assert result.code == 0, result
            assert "shut down cleanly" not in result.err
            assert "does not tell whether its guest was shut down or lost its power" in result.text
    finally:
        office.control.ask("power", vm="mail", to="running")


def test_a_level_that_is_promised_and_missed_keeps_the_point(
    hosts: Hosts, office: Lab, tmp_path: Path
) -> None:
    deny(office, "ConvertToReferencePoint")
    result = hosts(*WEB, "--consistency", "required:application", "--json")
    vms, _ = by_vm(result)
    (vm,) = vms.values()
    assert (result.code, vm["consistency"], vm["promised"]) == (3, "crash", "application")
    assert "promised as application and is proven as crash" in result.err
    assert "ConvertToReferencePoint" in result.err
    assert [row["consistency"] for row in points(hosts)] == ["crash"]
    restored(hosts, office, vm["id"], tmp_path / "back")
    assert hosts(*WEB, "--consistency", "any").code == 0


@pytest.mark.parametrize(
    ("policy", "code", "count"), [("preferred", 3, 1), ("any", 0, 1), ("required:application", 1, 0)]
)
def test_a_guest_whose_writer_fails(hosts: Hosts, office: Lab, policy: str, code: int, count: int) -> None:
    before = things(office)
    office.control.ask("guest", vm="web", set={"writer_failed": True})
    result = hosts(*WEB, "--consistency", policy)
    office.control.ask("guest", vm="web", set={"writer_failed": False, "counter_leaked": False})
    assert result.code == code, result
    assert "0x800423F4: a writer in the guest failed" in result.err
    assert [row["consistency"] for row in points(hosts)] == ["crash"] * count
    if not count:
        clear(result, 1, "The guest refused")
        assert things(office) == before


# --- while it runs ----------------------------------------------------------------------------


def test_a_vm_that_is_renamed_meanwhile(hosts: Hosts, office: Lab, tmp_path: Path) -> None:
    rename = lambda _: office.control.ask("rename", vm="web", to="shop")  # noqa: E731
    result = while_held(hosts, office, rename, *WEB)
    assert (result.code, "web: restore point" in result.text) == (0, True), result
    result = hosts("backup", "hyperv://lab/shop", "--json")
    office.control.ask("rename", vm="shop", to="web")
    vms, _ = by_vm(result)
    (vm,) = vms.values()
    first, second = points(hosts)
    assert (vm["increment"], vm["parent"], first["vm_id"]) == ("rct", first["id"], second["vm_id"])
    assert second["vm"] == "shop"
    restored(hosts, office, second["id"], tmp_path / "back")


def test_a_vm_that_is_turned_off_meanwhile(hosts: Hosts, office: Lab) -> None:
    result = while_held(hosts, office, lambda _: office.control.ask("power", vm="web", to="off"), *WEB)
    office.control.ask("power", vm="web", to="running")
    assert result.code == 3, result
    assert "the VM's power state is off now; before the run it was running." in result.err
    (row,) = points(hosts)
    held = json.loads(hosts("show", row["id"], "--json").out)["evidence"]["hold"]["power_held"]
    # Whether it ran when the checkpoint was made is known only if it still ran right after.
    assert row["consistency"] == ("application" if held == 2 else "crash")


def test_a_vm_that_is_started_while_its_checkpoint_is_made_was_not_off(hosts: Hosts, office: Lab) -> None:
    start = lambda _: office.control.ask("power", vm="attic", to="running")  # noqa: E731
    arguments = ("backup", "hyperv://lab/attic", "--consistency", "required:application")
    result = while_held(hosts, office, start, *arguments, at="ModifySystemSettings")
    office.control.ask("power", vm="attic", to="off")
    assert result.code == 3, result
    assert "promised as off and is proven as crash" in result.err
    assert "nothing shows that the VM, which is off, was shut down cleanly" in result.err
    assert [row["consistency"] for row in points(hosts)] == ["crash"]


@pytest.mark.parametrize("with_files", [False, True], ids=["deleted", "moved"])
def test_a_vm_that_is_deleted_or_moved_meanwhile(hosts: Hosts, tmp_path: Path, with_files: bool) -> None:
    with running_lab(OFFICE, tmp_path / "host") as lab:
        hosts.configure(lab)
        before = things(lab)
        gone = id_of(lab, "mail")

        def act(_: object) -> None:
            lab.control.ask("delete", vm="mail")
            if with_files:
                lab.real("C:\\VMs\\mail").rename(tmp_path / "elsewhere")

        two = ("backup", "hyperv://lab", "--vm", "mail", "--vm", "attic")
        result = while_held(hosts, lab, act, *two)
        clear(result, 1, what="mail: NOT PROTECTED: ")
        assert "nothing, if the VM was deleted; if it was moved" in result.err
        assert "not merged" not in result.err
        assert "attic: restore point" in result.text
        assert [row["vm"] for row in points(hosts)] == ["attic"]
        after = things(lab)
        assert gone not in after
        assert after[id_of(lab, "web")] == before[id_of(lab, "web")]
        assert after[id_of(lab, "attic")].checkpoints == before[id_of(lab, "attic")].checkpoints
        clear(hosts("backup", "hyperv://lab/mail"), 1, "no VM called 'mail'; it has 'attic', 'web'")
        assert hosts("sweep", "hyperv://lab").code == 0


def test_a_vm_that_is_deleted_before_its_turn(hosts: Hosts, tmp_path: Path) -> None:
    with running_lab(OFFICE, tmp_path / "host") as lab:
        hosts.configure(lab)
        result = while_held(hosts, lab, lambda _: lab.control.ask("delete", vm="mail"), *TWO)
        clear(result, 1, what="mail: NOT PROTECTED: ")
        assert "attic: restore point" in result.text
