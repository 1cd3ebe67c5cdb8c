"""A signal while something is waited for: the wait ends soon, and what is not done is told."""

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.command import Result
from tests.host_commands import HostCommands, ended
from tests.host_runs import Host, Meeting, host_of
from tests.lab_process import Lab, running_lab
from vmkeep import stopping
from vmkeep.errors import notes_of

# No test waits for a merge of this host: who wants one done lets the time pass.
MERGE_S: Final = 600.0
SCENARIO: Final = f"""
title = "two VMs whose layers are merged slowly"

[host]
name = "HV"
seed = 3

[behaviour]
checkpoint_s = 0.01
convert_s = 0.01
destroy_s = 0.01
reference_s = 0.01
merge_s = {MERGE_S}

[[vm]]
name = "one"
[[vm.disk]]
size_mib = 4
used_mib = 1

[[vm]]
name = "two"
[[vm.disk]]
size_mib = 4
used_mib = 1
"""
# A look each second, and what a busy machine adds; the waits themselves last minutes.
SOON_S: Final = 20.0
PATIENCE_S: Final = 60.0
DIED: Final = {
    "verb": "create",
    "prefix": "packs/",
    "nth": 1,
    "action": "signal",
    "what": int(signal.SIGKILL),
}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with running_lab(SCENARIO, tmp_path / "state") as lab:
        yield lab


@pytest.fixture
def commands(lab: Lab, tmp_path: Path) -> HostCommands:
    return HostCommands(lab, tmp_path / "commands")


@contextmanager
def begun(commands: HostCommands, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    process = commands.program.start(*arguments, env=commands.environment())
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def await_merge(commands: HostCommands, name: str) -> None:
    """Wait until our checkpoint has gone and only the merge is waited for."""
    until = time.monotonic() + PATIENCE_S
    while not commands.state(name)["merges"] or commands.state(name)["checkpoints"]:
        assert time.monotonic() < until
        time.sleep(0.05)


def stopped(process: "subprocess.Popen[bytes]") -> Result:
    """Send the signal and return how the process ended, which must be soon."""
    at = time.monotonic()
    process.send_signal(signal.SIGTERM)
    result = ended(process)
    assert time.monotonic() - at < SOON_S
    assert result.code == 143, result
    return result


@pytest.mark.parametrize("command", ["backup", "sweep"])
def test_a_clean_up_that_waits_for_a_merge_ends_soon_and_tells(
    lab: Lab, commands: HostCommands, command: str
) -> None:
    for name in ("one", "two"):
        assert commands.met(DIED, "backup", f"hyperv://lab/{name}").code == -signal.SIGKILL
    with begun(commands, command, "hyperv://lab/one" if command == "backup" else "hyperv://lab") as process:
        await_merge(commands, "one")
        result = stopped(process)
    assert "nothing of it stays" not in result.err
    assert "left behind on the host: what an unfinished run of one made is not all removed yet" in result.err
    unswept = "the sweep is not finished; it has not got through: one, two"
    assert (unswept in result.err) == (command == "sweep")
    lab.control.ask("push", seconds=2 * MERGE_S)
    with begun(commands, "sweep", "hyperv://lab") as process:
        await_merge(commands, "two")
        lab.control.ask("push", seconds=2 * MERGE_S)
        assert ended(process).code == 0
    commands.is_clean()


def test_a_run_that_waits_for_a_busy_vm_ends_at_once(lab: Lab, commands: HostCommands) -> None:
    lab.control.ask("fail", at="create-call", vm="one", code=32775, times=100)
    with begun(commands, "backup", "hyperv://lab", "--vm", "one") as process:
        assert process.stderr is not None
        assert any(b"waited for" in line for line in process.stderr)
        result = stopped(process)
    assert "nothing of it stays open or held" in result.err
    commands.is_clean()
    assert commands.all_closed("one")


@pytest.mark.parametrize("is_merged", [True, False])
def test_a_release_that_waits_for_its_merge_tells_what_became_of_it(
    lab: Lab, handled_signals: None, is_merged: bool
) -> None:
    with host_of(lab) as host:

        def stop() -> None:
            if is_merged:
                lab.control.ask("push", seconds=2 * MERGE_S)
            signal.raise_signal(signal.SIGTERM)

        releasing = Meeting("releasing one", 0, lambda: host.clock.after(10.0, stop))
        with pytest.raises(stopping.Stopped) as told:
            host.take("one", progress=releasing)
        assert (
            any("left behind on the host: not merged" in note for note in notes_of(told.value)) != is_merged
        )
        lab.control.ask("push", seconds=2 * MERGE_S)
        settled(host, "one")
        host.is_clean()
        assert len(host.opened().listing().points) == 1


def settled(host: Host, name: str) -> None:
    """Wait until the host has merged what it could."""
    until = time.monotonic() + PATIENCE_S
    while host.state(name)["merges"]:
        assert time.monotonic() < until
        time.sleep(0.05)
