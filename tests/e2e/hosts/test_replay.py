"""A trace that `--record` wrote, served by the lab's replay: the program finds there what it found before."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pypsrp.exceptions import WSManFaultError

from tests.e2e.hosts.configured import Hosts, Labs
from tests.lab_process import ForeignClient, Lab, running_replay

# What a trace cannot tell: files are read over another protocol, and clocks go on.
OTHERWISE = ("folder-", "files", "clock")


def verdicts(checks: dict[str, dict[str, Any]]) -> dict[str, tuple[object, ...]]:
    return {
        name: (check["state"], check["fact"], check["error"])
        for name, check in checks.items()
        if not name.startswith(OTHERWISE)
    }


def recorded(hosts: Hosts, lab: Lab, trace: Path) -> dict[str, tuple[object, ...]]:
    hosts.configure(lab)
    _, checks, _ = hosts.check("--record", trace)
    return verdicts(checks)


@pytest.mark.parametrize("scenario", ["standard", "big-inventory"])
def test_a_replay_gets_the_same_verdicts(hosts: Hosts, lab: Labs, tmp_path: Path, scenario: str) -> None:
    """The last of them has lists of many pages."""
    here, trace = lab(scenario), tmp_path / "trace.jsonl"
    expected = recorded(hosts, here, trace)
    assert {"read-wmi", "invoke", "image-service", "rct", "reference-points", "disk-ids"} <= set(expected)
    with running_replay(trace, "--state", str(tmp_path / "state")) as again:
        hosts.configure(again, paths={"C:": (tmp_path / "nothing").as_uri()})
        _, checks, _ = hosts.check()
        assert verdicts(checks) == expected
        _, checks, _ = hosts.check()
        assert checks["invoke"]["state"] == "refuted", "a method is not answered more often than was recorded"
        assert "The trace holds this request" in checks["invoke"]["detail"]


def test_what_was_not_recorded_is_refused_to_anybody(hosts: Hosts, lab: Labs, tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    recorded(hosts, lab("standard"), trace)
    with running_replay(trace) as again:
        client = ForeignClient(again)
        try:
            with pytest.raises(WSManFaultError, match="The trace holds this request nowhere: Enumerate of"):
                client.query("SELECT * FROM Msvm_ComputerSystem")
        finally:
            client.close()
        state = Path(again.facts["password_file"]).parent
        assert (state / "password").stat().st_mode & 0o777 == 0o600
    assert not state.exists()


def test_the_wrong_password_is_refused(hosts: Hosts, lab: Labs, tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    recorded(hosts, lab("standard"), trace)
    (tmp_path / "wrong").write_text("nobody's\n")
    (tmp_path / "wrong").chmod(0o600)
    with running_replay(trace) as again:
        hosts.configure(again, password_file="wrong")
        code, checks, _ = hosts.check()
    assert (code, checks["login"]["error"]) == (13, "HW005")


def test_a_file_that_is_no_trace_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text('{"vmkeep_trace": 1}\n{"n": 2}\n')
    command = [sys.executable, "-m", "vmkeep_lab", "replay", str(file)]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "vmkeep_lab: line 2 is not exchange 1: a part of the trace is missing\n"
