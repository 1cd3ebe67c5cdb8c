"""What goes wrong while a host is probed: it is told, and nothing is left, or the next probe removes it."""

import json
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.faults.capture.test_strangers import Stranger
from tests.lab_captures import MANY, Doors, doors, is_under_way
from tests.lab_process import Lab, running_lab
from vmkeep import stopping
from vmkeep.capture.checkpoint import CheckpointHold
from vmkeep.capture.limits import HoldLimits
from vmkeep.capture.outcome import left_behind_by
from vmkeep.capture.probe import FileJournal, ProbeNotes
from vmkeep.capture.states import ASKED
from vmkeep.cli import host_probe
from vmkeep.cli.host_probe import ProbeWish, earlier_probes, left_told, probe
from vmkeep.cli.host_verdicts import Check, confirmed, exit_code_of, refuted
from vmkeep.host.files.host_files import HostFiles
from vmkeep.host.files.paths import PathMap
from vmkeep.host.hyperv import Owner, Waiting

VM = "web-server"
BEFORE = [confirmed(name, "m") for name in ("login", "read-wmi", "invoke", "version", "edition")]
STEPS = ["probe-vm", "probe-checkpoint", "probe-read", "probe-still", "probe-release", "probe-power"]
NOT_SUPPORTED = 32770


class Interrupted(BaseException):
    """Stands for a signal."""


def hosts_own(lab: Lab) -> list[tuple[Any, ...]]:
    """Everything of every VM that a probe touches, as the lab itself tells it."""
    vms: list[Mapping[str, Any]] = lab.control.ask("state")["state"]["vms"]
    return [
        (
            vm["id"],
            vm["power"],
            [(each["id"], each["name"]) for each in vm["checkpoints"]],
            [each["id"] for each in vm["reference_points"]],
            vm["merges"],
            [(disk["leaf"], [layer["path"] for layer in disk["layers"]]) for disk in vm["disks"]],
        )
        for vm in vms
    ]


@pytest.fixture
def notes(tmp_path: Path, host: Doors) -> ProbeNotes:
    return ProbeNotes(tmp_path / "state", "lab", host.clock)


def probed(
    host: Doors,
    notes: ProbeNotes,
    vm: str = VM,
    *,
    before: list[Check] | None = None,
    files: HostFiles | None = None,
    consent: Callable[[], bool] = lambda: True,
    address: str = "127.0.0.1",
) -> dict[str, Check]:
    wish = ProbeWish(address, vm, consent)
    with notes.alone():
        checks = probe(host.host, files or host.files, wish, notes, BEFORE if before is None else before)
    assert [check.name for check in checks if check.name != "probe-earlier"] == STEPS
    return {check.name: check for check in checks}


def die_after_the_call(host: Doors, notes: ProbeNotes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a probe end, as by kill -9, when the host has taken its call for a checkpoint."""
    real = FileJournal.step

    def step(journal: FileJournal, name: str, detail: Mapping[str, Any], /) -> None:
        real(journal, name, detail)
        if name == ASKED:
            raise Interrupted

    def nothing(*_: object) -> None:
        return

    with monkeypatch.context() as patched:
        patched.setattr(FileJournal, "step", step)
        patched.setattr(CheckpointHold, "_clean_failed_creation", nothing)
        with pytest.raises(Interrupted):
            probed(host, notes)


def await_true(condition: Callable[[], bool]) -> None:
    """Wait until a host has come so far."""
    deadline = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def states(checks: dict[str, Check]) -> dict[str, str]:
    return {name: check.state for name, check in checks.items()}


def journals(notes: ProbeNotes) -> list[Path]:
    return [file for file in notes.folder.iterdir() if file.name != "lock"]


def test_a_probe_confirms_each_step_and_leaves_the_host_as_it_was(
    lab: Lab, host: Doors, notes: ProbeNotes
) -> None:
    before = hosts_own(lab)
    checks = probed(host, notes)
    assert states(checks) == dict.fromkeys(STEPS, "confirmed")
    assert checks["probe-read"].fact.startswith(f"{1 << 20} bytes in ")
    assert checks["probe-checkpoint"].fact.endswith("the guest was not asked")
    assert hosts_own(lab) == before
    assert journals(notes) == []


def test_a_disk_that_holds_less_is_read_as_far_as_it_goes(host: Doors, notes: ProbeNotes) -> None:
    checks = probed(host, notes, "ledger")
    assert set(states(checks).values()) == {"confirmed"}


@pytest.mark.parametrize(
    ("at", "code", "error"),
    [("create-call", 32769, "HV013"), ("create-job", 32768, "HV010"), ("create-late", 32768, "HV010"),
     ("rename-ignored", 0, "HV006")],
)  # fmt: skip
def test_a_checkpoint_that_fails_is_told_and_nothing_is_left(
    lab: Lab, host: Doors, notes: ProbeNotes, at: str, code: int, error: str
) -> None:
    before = hosts_own(lab)
    lab.control.ask("fail", at=at, vm=VM, **({"code": code} if code else {}))
    checks = probed(host, notes)
    refused = [(name, check.error) for name, check in checks.items() if check.state == "refuted"]
    assert refused == [("probe-checkpoint", error)]
    assert checks["probe-checkpoint"].hint
    assert checks["probe-release"].state == (
        "skipped" if at.startswith("create-") and at != "create-late" else "confirmed"
    )
    assert checks["probe-power"].state == "confirmed"
    assert exit_code_of([*BEFORE, *checks.values()]) == (13 if error == "HV013" else 1)
    assert hosts_own(lab) == before
    assert journals(notes) == []


def test_a_host_that_refuses_to_leave_the_guest_alone_may_ask_it(
    lab: Lab, host: Doors, notes: ProbeNotes
) -> None:
    lab.control.ask("fail", at="create-call", vm=VM, code=NOT_SUPPORTED)
    checks = probed(host, notes)
    assert states(checks) == dict.fromkeys(STEPS, "confirmed")
    assert checks["probe-checkpoint"].fact.endswith("the guest came to rest")


def test_files_that_cannot_be_reached_are_told_and_the_checkpoint_goes(
    lab: Lab, host: Doors, notes: ProbeNotes, tmp_path: Path
) -> None:
    before = hosts_own(lab)
    (tmp_path / "empty").mkdir()
    rules = {prefix: (tmp_path / "empty").as_uri() for prefix in lab.facts["paths"]}
    with HostFiles("127.0.0.1", 445, None, PathMap(rules)) as files:
        checks = probed(host, notes, files=files)
    told = states(checks)
    assert told == dict.fromkeys(STEPS, "confirmed") | {"probe-read": "refuted", "probe-still": "skipped"}
    assert checks["probe-read"].error.startswith("HF")
    assert hosts_own(lab) == before
    assert journals(notes) == []


def test_a_checkpoint_that_cannot_be_removed_is_told_and_the_next_probe_removes_it(
    lab: Lab, host: Doors, notes: ProbeNotes
) -> None:
    before = hosts_own(lab)
    lab.control.ask("fail", at="destroy-call", vm=VM, times=MANY, code=32775)
    checks = probed(host, notes)
    lab.control.ask("heal")
    told = checks["probe-release"]
    assert (told.state, told.error) == ("refuted", "HV011")
    assert "Remove-VMCheckpoint" in told.hint
    (journal,) = journals(notes)
    assert journal.stem in told.detail
    assert exit_code_of(list(checks.values())) == 1
    (earlier,) = earlier_probes(notes)
    assert (earlier.state, exit_code_of([earlier])) == ("unknown", 3)
    assert "--probe" in earlier.hint
    assert Owner.of_probe(journal.stem).name in str(hosts_own(lab))
    again = probed(host, notes)
    assert states(again) == {"probe-earlier": "confirmed"} | dict.fromkeys(STEPS, "confirmed")
    assert "removed" in again["probe-earlier"].detail
    assert hosts_own(lab) == before
    assert journals(notes) == []
    assert list(earlier_probes(notes)) == []


def test_what_cannot_be_removed_the_second_time_keeps_the_next_probe_away(
    lab: Lab, host: Doors, notes: ProbeNotes
) -> None:
    before = hosts_own(lab)
    lab.control.ask("fail", at="destroy-call", vm=VM, times=MANY, code=32775)
    probed(host, notes)
    (journal,) = journals(notes)
    held = hosts_own(lab)
    again = probed(host, notes)
    lab.control.ask("heal")
    assert states(again) == {"probe-earlier": "refuted"} | dict.fromkeys(STEPS, "skipped")
    assert hosts_own(lab) == held
    assert journals(notes) == [journal]
    assert states(probed(host, notes))["probe-earlier"] == "confirmed"
    assert hosts_own(lab) == before


def test_what_is_concluded_of_a_dead_probe_is_written_down(
    lab: Lab, host: Doors, notes: ProbeNotes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is concluded once: the next probe takes no other program's checkpoint for the dead one's."""
    before = hosts_own(lab)
    stranger = Stranger(lab, host.vm(VM).vm.id)
    known = stranger.checkpoints
    die_after_the_call(host, notes, monkeypatch)
    await_true(lambda: len(stranger.checkpoints) > len(known))
    (ours,) = set(stranger.checkpoints) - set(known)
    (journal,) = journals(notes)
    with journal.open("ab") as torn:
        torn.write(b'["hold-ma')  # half a record at the end of it
    lab.control.ask("push", seconds=300.0)
    theirs = stranger.hold()
    lab.control.ask("push", seconds=400.0)  # jobs are forgotten
    lab.control.ask("fail", at="merge", times=MANY)
    monkeypatch.setattr(host_probe, "_LIMITS", HoldLimits(merge_s=5.0))
    for _ in range(2):
        checks = probed(host, notes)
        assert checks["probe-earlier"].state == "refuted"
        assert "merge" in checks["probe-earlier"].fact
        assert theirs in stranger.checkpoints
        assert ours not in stranger.checkpoints
    lab.control.ask("heal")
    stranger.remove(checkpoint=theirs)
    await_true(lambda: hosts_own(lab) == before)
    assert states(probed(host, notes))["probe-earlier"] == "confirmed"
    assert journals(notes) == []


def test_layers_that_are_not_merged_are_told_and_waited_for_by_the_next_probe(
    lab: Lab, host: Doors, notes: ProbeNotes
) -> None:
    before = hosts_own(lab)
    (leaf,) = [disk.path for disk in host.vm(VM).disks if disk.path]
    with lab.real(leaf).open("rb"):
        checks = probed(host, notes)
    told = checks["probe-release"]
    assert (told.state, told.error) == ("refuted", "HV022")
    assert leaf.rpartition("\\")[2].partition(".")[0] in told.detail
    assert len(journals(notes)) == 1
    again = probed(host, notes)
    assert set(states(again).values()) == {"confirmed"}, again
    assert hosts_own(lab) == before
    assert journals(notes) == []


def test_an_interruption_ends_it_and_nothing_is_left(lab: Lab, host: Doors, notes: ProbeNotes) -> None:
    before = hosts_own(lab)

    def stop(waiting: Waiting) -> None:
        if is_under_way(waiting, "remove"):
            raise Interrupted

    host.host = replace(host.host, watch=stop)
    with pytest.raises(Interrupted) as told:
        probed(host, notes)
    assert getattr(told.value, "__notes__", []) == []
    assert hosts_own(lab) == before
    assert journals(notes) == []


def test_an_interruption_says_what_could_not_be_removed(lab: Lab, host: Doors, notes: ProbeNotes) -> None:
    def stop(waiting: Waiting) -> None:
        if is_under_way(waiting, "create"):
            raise Interrupted

    lab.control.ask("fail", at="destroy-call", vm=VM, times=MANY, code=32775)
    host.host = replace(host.host, watch=stop)
    with pytest.raises(Interrupted) as told:
        probed(host, notes)
    lab.control.ask("heal")
    assert any("--probe" in note for note in told.value.__notes__)
    assert any("the checkpoint " in what for what in left_behind_by(told.value))
    assert len(journals(notes)) == 1
    host.host = replace(host.host, watch=lambda _: None)
    assert states(probed(host, notes))["probe-earlier"] == "confirmed"


def test_a_signal_while_an_earlier_probe_is_removed_says_so(
    lab: Lab, host: Doors, notes: ProbeNotes, handled_signals: None
) -> None:
    lab.control.ask("fail", at="destroy-call", vm=VM, times=MANY, code=32775)
    probed(host, notes)
    lab.control.ask("heal")
    (journal,) = journals(notes)

    def stop(waiting: Waiting) -> None:
        if is_under_way(waiting, "remove"):
            signal.raise_signal(signal.SIGTERM)

    host.host = replace(host.host, watch=stop)
    with pytest.raises(stopping.Stopped) as told:
        probed(host, notes)
    assert any("what earlier probes made" in what for what in left_behind_by(told.value))
    assert journals(notes) == [journal]
    host.host = replace(host.host, watch=lambda _: None)
    assert states(probed(host, notes))["probe-earlier"] == "confirmed"
    assert journals(notes) == []


@pytest.mark.parametrize("is_left", [True, False])
def test_a_signal_after_a_probe_does_not_hide_what_that_has_left(
    is_left: bool, handled_signals: None
) -> None:
    checks = [*BEFORE]
    with pytest.raises(stopping.Stopped) as told, left_told(checks):
        checks.append(
            refuted("probe-release", "m", "f", hint="h") if is_left else confirmed("probe-release", "m")
        )
        signal.raise_signal(signal.SIGINT)
    assert bool(left_behind_by(told.value)) == is_left


def test_what_was_left_on_another_host_is_not_forgotten_here(
    lab: Lab, host: Doors, notes: ProbeNotes
) -> None:
    lab.control.ask("fail", at="destroy-call", vm=VM, times=MANY, code=32775)
    probed(host, notes)
    lab.control.ask("heal")
    (journal,) = journals(notes)
    mine = journal.read_text()
    first, *more = mine.splitlines(keepends=True)
    name, origin = json.loads(first)
    journal.write_text(json.dumps([name, origin | {"computer": "OTHER"}]) + "\n" + "".join(more))
    checks = probed(host, notes)
    assert checks["probe-earlier"].state == "refuted"
    assert "OTHER" in checks["probe-earlier"].detail
    assert journals(notes) == [journal]
    journal.write_text(mine)
    assert states(probed(host, notes, address="elsewhere"))["probe-earlier"] == "confirmed"


@pytest.mark.parametrize(
    ("before", "agreed"),
    [([*BEFORE[1:], refuted("login", "m", "f")], True), ([BEFORE[0]], True), (BEFORE, False)],
    ids=["not let in", "not listed", "not agreed to"],
)
def test_nothing_is_done_without_the_host_and_consent(
    lab: Lab, host: Doors, notes: ProbeNotes, before: list[Check], agreed: bool
) -> None:
    asked: list[bool] = []

    def consent() -> bool:
        asked.append(agreed)
        return agreed

    requests = host.host.client.requests
    checks = probed(host, notes, before=before, consent=consent)
    assert states(checks) == dict.fromkeys(STEPS, "skipped")
    assert asked == ([] if agreed else [False])
    assert host.host.client.requests == requests


def test_a_vm_that_is_not_there_is_told(host: Doors, notes: ProbeNotes) -> None:
    checks = probed(host, notes, "nobody")
    assert (checks["probe-vm"].state, checks["probe-vm"].error) == ("refuted", "HV001")
    assert journals(notes) == []


def test_a_vm_that_another_program_is_at_work_on_is_left_alone(
    lab: Lab, host: Doors, notes: ProbeNotes
) -> None:
    before = hosts_own(lab)
    (evil,) = [vm["id"] for vm in lab.control.ask("state")["state"]["vms"] if vm["name"].startswith("evil")]
    checks = probed(host, notes, evil)
    assert states(checks) == dict.fromkeys(STEPS, "skipped") | {"probe-vm": "unknown"}
    assert "a recovery checkpoint is there already" in checks["probe-vm"].fact
    assert hosts_own(lab) == before
    assert journals(notes) == []


def test_a_host_without_room_is_left_alone(lab: Lab, host: Doors, notes: ProbeNotes) -> None:
    lab.control.ask("free", bytes=1000)
    checks = probed(host, notes)
    assert checks["probe-vm"].state == "unknown"
    assert "1000 bytes are free" in checks["probe-vm"].fact


def test_facts_and_hints_name_nobody(lab: Lab, host: Doors, notes: ProbeNotes) -> None:
    """They go into the report; names stay in what is for the screen."""
    vm_id = host.vm(VM).vm.id
    found: list[Check] = []
    for at in ("create-call", "destroy-call"):
        lab.control.ask("fail", at=at, vm=VM, times=MANY, code=32775)
        found += probed(host, notes).values()
        lab.control.ask("heal")
    found += probed(host, notes).values()
    found += probed(host, notes, "nobody").values()
    for check in found:
        for name in (VM, vm_id, "nobody", "127.0.0.1", "C:\\", lab.facts["name"]):
            assert name not in check.fact + check.hint + check.means, check


def test_a_vm_whose_disk_is_empty_is_held_and_said_to_hold_nothing(tmp_path: Path) -> None:
    scenario = (
        'title = "an empty disk"\n[host]\nname = "HV"\n[behaviour]\nmerge_s = 0.1\n'
        '[[vm]]\nname = "one"\nstate = "off"\n[[vm.disk]]\nsize_mib = 8\nused_mib = 0\n'
    )
    with running_lab(scenario, tmp_path / "lab") as lab, doors(lab.facts) as host:
        notes = ProbeNotes(tmp_path / "state", "lab", host.clock)
        before = hosts_own(lab)
        checks = probed(host, notes, "one")
        assert states(checks) == dict.fromkeys(STEPS, "confirmed") | {"probe-read": "unknown"}
        assert exit_code_of(list(checks.values())) == 0
        assert hosts_own(lab) == before
