"""Whichever record of a dead run is damaged: nothing it made stays without a question one can answer."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.backup.test_two_hosts import Dead, damage, die_before_the_tracking
from tests.host_runs import SCENARIO, Host, host_of
from tests.lab_process import running_lab
from vmkeep.backup.host_sweep import VmSwept, sweep_host
from vmkeep.capture import calls
from vmkeep.capture.checkpoint import CheckpointHold
from vmkeep.capture.sweep import NOTHING_SAID, Said, short_id
from vmkeep.host.hyperv import convert_checkpoint

VM = "web"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with running_lab(SCENARIO, tmp_path / "state") as lab, host_of(lab) as host:
        yield host


def die_converted(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run end when the host has made its reference point, before it hears of it."""

    def convert(*arguments: object, **more: object) -> None:
        convert_checkpoint(*arguments, **more)  # type: ignore[arg-type]
        raise Dead

    def nothing(*_: object) -> None:
        return

    with monkeypatch.context() as patched:
        patched.setattr(calls, "convert_checkpoint", convert)
        patched.setattr(CheckpointHold, "_abandon", nothing)
        with pytest.raises(Dead):
            host.take(VM)


def swept(host: Host, said: Said = NOTHING_SAID) -> list[VmSwept]:
    return sweep_host(host.doors, host.opened(), None, dry_run=False, ended=lambda _: None, said=said)


def asked_in(found: list[VmSwept]) -> set[str]:
    things = [each for vm in found for cleared in vm.cleared for each in cleared.swept]
    return {short_id(each.id) for each in things if each.is_asked}


def there(host: Host) -> set[str]:
    """What is on the host of the VM: checkpoints and reference points, everybody's."""
    checkpoints = {short_id(each["id"]) for each in host.state(VM)["checkpoints"]}
    return checkpoints | {short_id(each["id"]) for each in host.state(VM)["reference_points"]}


@pytest.mark.parametrize("die", [die_before_the_tracking, die_converted])
def test_whichever_record_is_lost_a_run_is_buried_only_with_all_it_made(
    host: Host, monkeypatch: pytest.MonkeyPatch, die: Callable[[Host, pytest.MonkeyPatch], None]
) -> None:
    number, last = 0, 1
    while number < last:
        before = there(host)
        die(host, monkeypatch)
        records = host.runs(VM)[-1]
        last = len(records)
        made = there(host) - before
        assert made, "the run has left something"
        damage(host, records[number])
        host.clock.later(hours=1)
        found = swept(host)
        for _ in range(3):
            assert made.isdisjoint(there(host)) or not host.all_closed(VM), records[number]
            if not (asked := asked_in(found)):
                break
            found = swept(host, Said.of(made & asked, asked - made))
        assert host.all_closed(VM), (records[number], found)
        assert there(host) == before, records[number]
        number += 1
    assert last > 5
