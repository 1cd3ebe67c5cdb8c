"""A VM is deleted while a run of it is dead: on the run's own host that is the end, on another it is not."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.host_runs import SCENARIO, Host, Meeting, host_of
from tests.lab_captures import MANY
from tests.lab_process import Lab, running_lab
from vmkeep.backup.host_sweep import VmSwept, sweep_host
from vmkeep.backup.vm_run import Doors
from vmkeep.errors import VmkeepError
from vmkeep.repository.journal import Journal


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with running_lab(SCENARIO, tmp_path / "state") as lab, host_of(lab) as host:
        yield host


def leave(host: Host, lab: Lab) -> None:
    """Let a run end while its checkpoint cannot be removed; then the VM is deleted."""

    def go() -> None:
        lab.control.ask("fail", at="destroy-job", times=MANY, vm="large")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        host.take("large", progress=Meeting("reading", 1, go))
    assert not host.all_closed("large")
    lab.control.ask("heal")
    lab.control.ask("power", vm="large", to="off")
    lab.control.ask("delete", vm="large")
    host.clock.later(hours=1)


def ignored(_: VmSwept) -> None:
    return


def swept_at(host: Host, doors: Doors) -> list[VmSwept]:
    return sweep_host(doors, host.opened(), None, dry_run=False, ended=ignored)


def test_a_host_that_is_not_the_runs_own_says_where_to_look(host: Host) -> None:
    leave(host, host.lab)
    elsewhere = replace(host.doors, computer="HV9")
    for _ in range(2):
        (vm,) = swept_at(host, elsewhere)
        (cleared,) = vm.cleared
        assert not cleared.buried
        assert "'HV'" in cleared.why and "sweep that host" in cleared.why
    (vm,) = swept_at(host, host.doors)
    (cleared,) = vm.cleared
    assert cleared.buried
    assert [(each.what, each.outcome) for each in cleared.swept] == [("VM", "finished")]
    assert swept_at(host, host.doors) == []


def test_a_host_that_does_not_answer_has_not_said_that_the_vm_is_gone(host: Host) -> None:
    leave(host, host.lab)
    host.lab.control.ask("disturb", effect="fault", action="Get", code=2147749889, times=0)
    (vm,) = swept_at(host, host.doors)
    host.lab.control.ask("calm")
    assert not any(each.buried for each in vm.cleared)


@pytest.mark.parametrize("times", range(1, 9))
def test_a_host_that_does_not_find_our_checkpoint_for_a_moment_has_not_removed_it(
    host: Host, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """As a service that starts answers: whatever comes of the run, nothing stays that nobody knows."""
    real = Journal.step

    def step(journal: Journal, name: str, detail: Mapping[str, Any] | None = None) -> None:
        real(journal, name, detail)
        if name == "hold-made":
            host.lab.control.ask(
                "disturb",
                effect="fault",
                action="Get",
                resource="Msvm_VirtualSystemSettingData",
                code=0x80041002,
                times=times,
            )

    before = host.state("web")["checkpoints"]
    with monkeypatch.context() as patched, suppress(VmkeepError):
        patched.setattr(Journal, "step", step)
        host.take("web")
    host.lab.control.ask("calm")
    assert host.state("web")["checkpoints"] == before or not host.all_closed("web")
    host.clock.later(hours=1)
    swept_at(host, host.doors)
    assert host.state("web")["checkpoints"] == before
    assert host.all_closed("web")
