"""SIGTERM in the middle of a run, two runs of one VM: the command says what it did, the host is as it was."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host_commands import HostCommands, ended
from tests.host_runs import SCENARIO
from tests.lab_process import Lab, running_lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    with running_lab(SCENARIO, folder / "state", "--https") as lab:
        yield lab


@pytest.fixture
def commands(lab: Lab, tmp_path: Path) -> Iterator[HostCommands]:
    commands = HostCommands(lab, tmp_path)
    yield commands
    lab.control.ask("heal")
    commands.tidy()


# A record of the journal after the seal; how many come before it is not what is meant.
SEALED = {"verb": "put_if_absent", "prefix": "runs/", "after": "seals/"}
# Where it comes: at a request to the store, and how many points and reference points there are then.
PLACES: dict[str, tuple[dict[str, object], int, int]] = {
    "the host makes the checkpoint": ({"verb": "put_if_absent", "prefix": "runs/", "nth": 4}, 0, 0),
    "the checkpoint has no name yet": ({"verb": "put_if_absent", "prefix": "runs/", "nth": 5}, 0, 0),
    "while it is read": ({"verb": "create", "prefix": "packs/", "nth": 1}, 0, 0),
    # From here on the point comes to be, and is told.
    "right before the seal": ({"verb": "put_if_absent", "prefix": "seals/", "nth": 1}, 1, 0),
    "before the VM is released": ({**SEALED, "nth": 1}, 1, 0),
    "the host converts the checkpoint": ({**SEALED, "nth": 2}, 1, 0),
    "when it is converted": ({**SEALED, "nth": 3}, 1, 0),
    "when the tracking is stored": ({**SEALED, "nth": 4}, 1, 1),
}


@pytest.mark.parametrize("place", PLACES)
def test_sigterm_lets_go_of_the_vm_and_the_next_run_goes_on(commands: HostCommands, place: str) -> None:
    order, points, tracked = PLACES[place]
    order = {**order, "action": "signal", "what": int(signal.SIGTERM)}
    result = commands.met(order, "backup", "hyperv://lab/web")
    assert result.code == 143, result
    sentence, hint = result.err.splitlines()
    assert sentence.startswith("vmkeep: interrupted; nothing of it stays open or held")
    assert "again" in hint and "vmkeep points" in hint
    commands.is_clean(*["web"] * tracked)
    commands.all_hold(points)
    commands.step("web", 3)
    summary = commands.succeeds("web")
    assert summary["increment"] == ("full", "compare", "rct")[points + tracked]
    assert summary["consistency"] == "application"
    commands.is_clean("web")
    commands.all_hold(points + 1)
    assert commands.all_closed("web")


@pytest.mark.parametrize("command", ["backup", "sweep"])
def test_a_clean_up_that_is_stopped_is_not_called_done(commands: HostCommands, command: str) -> None:
    died = {"verb": "create", "prefix": "packs/", "nth": 1, "action": "signal", "what": int(signal.SIGKILL)}
    assert commands.met(died, "backup", "hyperv://lab/web").code == -signal.SIGKILL
    # Its own two records: it has found the dead run, and is about to remove what that left.
    stopped = {"verb": "put_if_absent", "prefix": "runs/", "nth": 2, "action": "signal"}
    result = commands.met({**stopped, "what": int(signal.SIGTERM)}, command, "hyperv://lab/web")
    assert result.code == 143, result
    assert "nothing of it stays" not in result.err
    assert "left behind on the host: what an unfinished run of web made is not all removed yet" in result.err
    assert ("the sweep is not finished; it has not got through: web" in result.err) == (command == "sweep")
    assert commands("sweep", "hyperv://lab").code == 0
    commands.is_clean()
    assert commands.all_closed("web")


@pytest.mark.parametrize(
    ("order", "protected"),
    [
        ({"verb": "put_if_absent", "prefix": "seals/", "nth": 2}, ["chained", "large"]),
        ({**SEALED, "nth": 1}, ["chained"]),  # and not yet released
        ({"verb": "create", "prefix": "packs/", "nth": 1}, []),
    ],
)
def test_a_run_of_all_that_is_stopped_says_what_is_protected(
    commands: HostCommands, order: dict[str, object], protected: list[str]
) -> None:
    order = {**order, "action": "signal", "what": int(signal.SIGTERM)}
    result = commands.met(order, "backup", "hyperv://lab", "--all", "--json")
    assert result.code == 143, result
    *_, summary = map(json.loads, result.text.splitlines())
    assert [vm["vm"] for vm in summary["vms"]] == ["chained", "large", "off", "web"]
    assert (summary["message_type"], summary["exit_code"]) == ("summary", 143)
    assert (summary["protected"], summary["failed"]) == (len(protected), 4 - len(protected))
    assert [vm["vm"] for vm in summary["vms"] if "point" in vm] == protected
    tried = [vm["vm"] for vm in summary["vms"] if vm.get("tried")]
    assert set(tried) <= {"chained", "large"}
    assert '"code": 143' in result.err
    commands.all_hold(len(protected))
    listed = json.loads(commands("points", "--json").text)
    assert [point["vm"] for point in listed] == protected


@pytest.mark.parametrize("quiet", [(), ("-q",)], ids=["as it is", "with -q"])
def test_people_hear_of_what_is_not_protected_when_they_stop_a_run(
    commands: HostCommands, quiet: tuple[str, ...]
) -> None:
    order = {"verb": "put_if_absent", "prefix": "seals/", "nth": 2}
    order |= {"action": "signal", "what": int(signal.SIGINT)}
    result = commands.met(order, "backup", "hyperv://lab", "--all", *quiet)
    assert result.code == 130, result
    # The seal that was being written is written: nobody has to guess.
    assert "Interrupted: 2 of 4 VMs are protected.\n  not protected: " in result.text
    assert result.text.count("  not protected: ") == 2
    assert "nothing of it stays open or held" in result.err


def test_what_cannot_be_removed_is_told_with_the_next_step(lab: Lab, commands: HostCommands) -> None:
    lab.control.ask("free", bytes=1000)
    lab.control.ask("fail", at="destroy-call", vm="web", code=32773)
    try:
        result = commands.backup("web")
    finally:
        lab.control.ask("free", bytes=None)
    assert result.code == 3, result
    assert "not even 1 MiB is free" in result.err
    assert "32773" in result.err
    assert "`vmkeep sweep hyperv://lab` removes what is left" in result.err.splitlines()[-1]
    (left,) = [c["name"] for c in commands.state("web")["checkpoints"] if c["name"].startswith("vmkeep ")]
    assert left in result.err
    summary = commands.succeeds("web")
    assert summary["consistency"] == "application"
    commands.is_clean("web")
    commands.all_hold(1)


def test_of_two_runs_of_one_vm_the_earlier_goes_on_and_the_other_is_told(commands: HostCommands) -> None:
    order = {"verb": "create", "prefix": "packs/", "nth": 1, "action": "stop", "what": ""}
    first = commands.start(order, "backup", "hyperv://lab/web")
    try:
        commands.await_stop(first)
        held = commands.state("web")["checkpoints"]
        second = commands.backup("web")
        assert second.code == 11, second
        sentence, hint = second.err.splitlines()
        assert "another run of 'web' is under way" in sentence
        assert "Wait for it to end" in hint
        assert commands.state("web")["checkpoints"] == held
        # A sweep leaves the living alone, and another VM is nobody's business.
        swept = commands("sweep", "hyperv://lab/web")
        assert "is alive, and left alone" in swept.err
        assert commands.succeeds("off")["consistency"] == "off"
    finally:
        first.send_signal(signal.SIGCONT)
        result = ended(first)
    assert result.code == 0, result
    commands.is_clean("off", "web")
    commands.succeeds("web")
    commands.is_clean("off", "web")
    commands.all_hold(3)


def test_a_deadline_on_the_command_line_ends_with_3(commands: HostCommands) -> None:
    result = commands.backup("web", "--max-hold", "0.001s")
    assert result.code == 3, result
    sentence, hint = result.err.splitlines()
    assert "the VM 'web' has been held for" in sentence and "nothing was taken" in sentence
    assert "--max-hold" in hint
    commands.is_clean()
    commands.all_hold(0)
