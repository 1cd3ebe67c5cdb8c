"""The machine of a run dies and never comes back: another one, with repository and password, cleans up."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host_commands import HostCommands, ended
from tests.host_runs import SCENARIO
from tests.lab_process import Lab, running_lab

_HOUR_S = 3600


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    with running_lab(SCENARIO, folder / "state", "--https") as lab:
        yield lab


@pytest.fixture
def lost(lab: Lab, tmp_path: Path) -> Iterator[HostCommands]:
    commands = HostCommands(lab, tmp_path)
    yield commands
    commands.tidy()


def die(commands: HostCommands, verb: str, prefix: str, nth: int) -> None:
    """Let a run on another machine come to a request to its store, and no further."""
    order = {"verb": verb, "prefix": prefix, "nth": nth, "action": "stop", "what": "", "elsewhere": True}
    process = commands.start(order, "backup", "hyperv://lab/web")
    commands.await_stop(process)
    process.send_signal(signal.SIGKILL)
    assert ended(process).code == -signal.SIGKILL


def let_the_claim_end(commands: HostCommands) -> None:
    """Set the store's time of the dead run's records back, as if nothing had been written for an hour."""
    earlier = time.time() - _HOUR_S
    for record in (commands.program.repo / "runs").rglob("*"):
        if record.is_file():
            os.utime(record, (earlier, earlier))


def swept_by(commands: HostCommands, *options: str) -> tuple[int, dict[str, Any]]:
    """Sweep as a machine that has never seen this repository; return the exit code and what was said."""
    result = commands("sweep", "hyperv://lab", "--json", *options)
    document: dict[str, Any] = json.loads(result.text.splitlines()[-1])
    return result.code, document


# Where the machine dies, and what is on the host then.
PLACES = {
    "the checkpoint has no name yet": ("put_if_absent", "runs/", 5, "checkpoint"),
    "while it is read": ("create", "packs/", 1, "checkpoint"),
    "right before the seal": ("put_if_absent", "seals/", 1, "checkpoint"),
    "when it was converted": ("put_if_absent", "runs/", 12, "reference point"),
}


@pytest.mark.parametrize("place", PLACES)
def test_another_machine_sweeps_and_takes_the_next_point(
    lab: Lab, lost: HostCommands, tmp_path: Path, place: str
) -> None:
    verb, prefix, nth, left = PLACES[place]
    die(lost, verb, prefix, nth)
    elsewhere = HostCommands(lab, tmp_path / "third", repo=lost.program.repo)
    elsewhere.before = lost.before
    # Its claim is honoured as long as the store's time says that it may live.
    refused = elsewhere.backup("web")
    assert refused.code == 11, refused
    assert "another run of 'web' is under way" in refused.err
    assert "if its machine failed, its claim ends" in refused.err
    let_the_claim_end(lost)
    code, would = swept_by(elsewhere, "--dry-run")
    assert (code, _whats(would, "would be removed")) == (3, [left])
    code, done = swept_by(elsewhere)
    assert (code, _whats(done, "removed")) == (0, [left])
    elsewhere.is_clean()
    # The same point came to be, or none: what was sealed is whole.
    points = 1 if left == "reference point" else 0
    elsewhere.all_hold(points)
    assert elsewhere.succeeds("web")["consistency"] == "application"
    elsewhere.all_hold(points + 1)
    elsewhere.is_clean("web")


def test_the_next_run_on_another_machine_cleans_up_and_says_so(
    lab: Lab, lost: HostCommands, tmp_path: Path
) -> None:
    lost.succeeds("web")
    lost.step("web", 5)
    die(lost, "create", "packs/", 1)
    let_the_claim_end(lost)
    elsewhere = HostCommands(lab, tmp_path / "third", repo=lost.program.repo)
    elsewhere.before = lost.before
    result = elsewhere.backup("web", "--json")
    assert result.code == 0, result
    assert "an unfinished run had left, and this one removed: checkpoint" in result.err
    assert json.loads(result.text.splitlines()[-1])["increment"] == "rct"
    elsewhere.all_hold(2)
    elsewhere.is_clean("web")


def _whats(document: dict[str, Any], outcome: str) -> list[str]:
    swept = [each for vm in document["vms"] for run in vm["runs"] for each in run["swept"]]
    return [each["what"] for each in swept if each["outcome"] == outcome]
