"""`hosts check --probe` as a user runs it: asked, stopped, killed; the lab says what became of its VMs."""

import json
import os
import pty
import resource
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.hosts.configured import Hosts, Labs
from tests.lab_process import Lab

VM = "web-server"
STEPS = ("probe-vm", "probe-checkpoint", "probe-read", "probe-still", "probe-release", "probe-power")
RECORDS = (
    "probe",
    "hold-prepared",
    "hold-asked",
    "hold-made",
    "hold-held",
    "hold-releasing",
    "hold-released",
)
_PATIENCE_S = 60.0
# The sixth look at the settings of the checkpoint asks whether it is still there, before it is let go.
_WHILE_HELD = {"action": "Get", "resource": "Msvm_VirtualSystemSettingData", "after": 5, "times": 1}

# Kills its own process when a record of the journal was stored ("after"), or would be ("before").
_DYING = """
import os, signal, sys
from vmkeep.capture.probe import FileJournal
name, when = sys.argv.pop(1), sys.argv.pop(1)
real = FileJournal.step
def step(self, step, detail):
    if step == name and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, step, detail)
    if step == name:
        os.kill(os.getpid(), signal.SIGKILL)
FileJournal.step = step
from vmkeep.cli import main
sys.exit(main())
"""


@pytest.fixture
def here(hosts: Hosts, lab: Labs) -> Iterator[Lab]:
    """A lab that a test leaves as it was."""
    here = lab("demo")
    hosts.configure(here)
    before = own(here)
    yield here
    here.control.ask("calm")
    here.control.ask("heal")
    assert own(here) == before


def own(lab: Lab) -> list[tuple[Any, ...]]:
    """What the lab says of its VMs: power, everybody's checkpoints and reference points, layers, merges."""
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


def journals(hosts: Hosts) -> list[Path]:
    return list((hosts.program.state / "probes" / "host-lab").glob("*.jsonl"))


def start(
    hosts: Hosts, *options: object, program: tuple[str, ...] | None = None, stdin: int = subprocess.DEVNULL
) -> "subprocess.Popen[bytes]":
    arguments = ("hosts", "check", "lab", "--json", "--probe", VM, *options)
    env = {"VMKEEP_CONFIG": str(hosts.file)}
    if program is None:
        return hosts.program.start(*arguments, env=env, stdin=stdin)
    return hosts.program.start(*arguments, env=env, stdin=stdin, program=program)


def await_held(hosts: Hosts, lab: Lab) -> None:
    """Wait until the frozen files are open, and the journal says so."""
    deadline = time.monotonic() + _PATIENCE_S

    def is_held() -> bool:
        records = [json.loads(line) for file in journals(hosts) for line in file.read_text().splitlines()]
        return bool(records) and records[-1][0] == "hold-held"

    while not (is_held() and lab.control.ask("handles")["handles"]):
        assert time.monotonic() < deadline, [file.read_text() for file in journals(hosts)]
        time.sleep(0.02)


@contextmanager
def held(hosts: Hosts, lab: Lab) -> Iterator["subprocess.Popen[bytes]"]:
    """A probe that waits for an answer, until the lab is calm, while it holds the VM."""
    lab.control.ask("disturb", effect="delay", seconds=_PATIENCE_S, **_WHILE_HELD)
    process = start(hosts, "--yes")
    try:
        await_held(hosts, lab)
        assert any(name.startswith("vmkeep ") for vm in own(lab) for _, name in vm[2])
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
        lab.control.ask("calm")


def test_a_probe_is_told_in_every_form_and_leaves_nothing(hosts: Hosts, here: Lab, tmp_path: Path) -> None:
    before = own(here)
    report, trace = tmp_path / "report.md", tmp_path / "trace.jsonl"
    code, checks, result = hosts.check("--probe", VM, "--yes", "--report", report, "--record", trace)
    assert code == 0, result
    assert [checks[name]["state"] for name in STEPS] == ["confirmed"] * len(STEPS)
    assert "1048576 bytes" in checks["probe-read"]["fact"]
    assert own(here) == before
    assert journals(hosts) == []
    told = report.read_text("utf-8")
    assert all(f"| {name} | confirmed |" in told for name in STEPS)
    for name in (VM, "127.0.0.1", ":\\", here.facts["name"]):
        assert name not in told, name
    assert "CreateSnapshot" in trace.read_text("utf-8")
    assert here.password not in trace.read_text("utf-8")


def test_a_refusal_of_the_host_is_a_result(hosts: Hosts, here: Lab) -> None:
    here.control.ask("fail", at="create-job", vm=VM)
    code, checks, result = hosts.check("--probe", VM, "--yes")
    assert code == 1, result
    assert (checks["probe-checkpoint"]["state"], checks["probe-checkpoint"]["error"]) == ("refuted", "HV010")
    assert checks["probe-release"]["state"] == "skipped"
    assert journals(hosts) == []


@pytest.mark.parametrize(
    ("options", "says"), [(("--probe", VM), "--yes"), (("--yes",), "--probe")], ids=["nobody", "nothing"]
)
def test_without_consent_nothing_is_even_asked(
    hosts: Hosts, here: Lab, free_port: int, options: tuple[str, ...], says: str
) -> None:
    hosts.configure(here, port=free_port)  # had it been asked, the code would be 13
    result = hosts("hosts", "check", "lab", *options)
    assert result.code == 2
    assert says in result.err
    assert not hosts.program.state.exists()


@pytest.mark.parametrize(("answer", "state"), [(b"n\n", "skipped"), (b"y\n", "confirmed")])
def test_somebody_at_a_terminal_is_asked(hosts: Hosts, here: Lab, answer: bytes, state: str) -> None:
    terminal, stdin = pty.openpty()
    try:
        os.write(terminal, answer)
        process = start(hosts, stdin=stdin)
        out, err = process.communicate(timeout=_PATIENCE_S)
    finally:
        os.close(terminal)
        os.close(stdin)
    assert process.returncode == 0, err
    assert f"Probe the VM {VM} of lab?" in err.decode()
    assert "checkpoint" in err.decode()
    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    assert {checks[name]["state"] for name in STEPS} == {state}


def test_a_trace_whose_disk_is_full_stops_neither_the_probe_nor_its_clean_up(
    hosts: Hosts, here: Lab, tmp_path: Path
) -> None:
    trace, room = tmp_path / "trace.jsonl", 40_000
    result = hosts.program(
        *("hosts", "check", "lab", "--probe", VM, "--yes", "--record", trace),
        env={"VMKEEP_CONFIG": str(hosts.file)},
        before_exec=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
    )
    assert result.code == 0, result
    (told,) = [line for line in result.err.splitlines() if "incomplete" in line]
    assert told.endswith("the trace is incomplete from here on, and it says so at its end: file too large.")
    *_, before_last, last = map(json.loads, trace.read_text("utf-8").splitlines())
    assert before_last["status"] == 200
    assert last == {"incomplete": "file too large"}
    assert journals(hosts) == []


def test_a_machine_without_a_place_for_the_journal_probes_nothing(hosts: Hosts, here: Lab) -> None:
    hosts.program.state.write_text("a file, no folder")
    result = hosts("hosts", "check", "lab", "--probe", VM, "--yes")
    assert result.code == 1
    assert "VMKEEP_STATE_DIR" in result.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_the_vm_is_held_lets_it_go(
    hosts: Hosts, here: Lab, number: signal.Signals, code: int
) -> None:
    before = own(here)
    with held(hosts, here) as process:
        process.send_signal(number)
        here.control.ask("calm")
        out, err = process.communicate(timeout=_PATIENCE_S)
    assert process.returncode == code, err
    assert json.loads(err.splitlines()[-1])["message"].startswith("interrupted; nothing of it stays"), err
    assert out == b""
    assert own(here) == before
    assert journals(hosts) == []


def test_a_signal_tells_of_what_the_host_would_not_remove(hosts: Hosts, here: Lab) -> None:
    with held(hosts, here) as process:
        here.control.ask("fail", at="destroy-call", vm=VM, code=32773)
        process.send_signal(signal.SIGTERM)
        here.control.ask("calm")
        _, err = process.communicate(timeout=_PATIENCE_S)
    assert process.returncode == 143, err
    told = " ".join(json.loads(line)["message"] for line in err.splitlines())
    assert "left behind on the host: the checkpoint 'vmkeep " in told
    assert "--probe" in told
    assert "nothing of it stays" not in told
    code, checks, result = hosts.check("--probe", VM, "--yes")
    assert (code, checks["probe-earlier"]["state"]) == (0, "confirmed"), result
    assert "removed: checkpoint" in checks["probe-earlier"]["fact"]
    assert journals(hosts) == []


def test_the_second_probe_at_a_time_is_refused(hosts: Hosts, here: Lab) -> None:
    with held(hosts, here) as process:
        second = hosts("hosts", "check", "lab", "--probe", VM, "--yes")
        assert second.code == 11, second
        assert "probes this host" in second.err
        code, checks, result = hosts.check()  # and one that only reads does not mind
        assert (code, "probe-earlier" in checks) == (0, False), result
        assert process.poll() is None
        here.control.ask("calm")
        out, _ = process.communicate(timeout=_PATIENCE_S)
    assert process.returncode == 0
    assert json.loads(out)["ok"] is True


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", RECORDS)
def test_what_a_killed_probe_left_the_next_one_removes(hosts: Hosts, here: Lab, step: str, when: str) -> None:
    before = own(here)
    process = start(hosts, "--yes", program=("-c", _DYING, step, when))
    _, err = process.communicate(timeout=_PATIENCE_S)
    assert process.returncode == -signal.SIGKILL, err
    assert len(journals(hosts)) == 1
    code, checks, result = hosts.check()
    assert (code, checks["probe-earlier"]["state"]) == (3, "unknown"), result
    assert "--probe" in checks["probe-earlier"]["hint"]
    assert len(journals(hosts)) == 1
    code, checks, result = hosts.check("--probe", VM, "--yes")
    assert code == 0, result
    assert {checks[name]["state"] for name in ("probe-earlier", *STEPS)} == {"confirmed"}
    assert own(here) == before
    assert journals(hosts) == []
