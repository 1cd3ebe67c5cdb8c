"""A reference point whose removal fails for a moment, or is cut short, is never forgotten."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from tests.faults.backup.test_lost_records import VM, asked_in, die_converted, swept, there
from tests.faults.backup.test_two_hosts import Dead, die_before_the_tracking
from tests.faults.capture.test_strangers import Stranger
from tests.host_runs import SCENARIO, Host, host_of
from tests.lab_captures import MANY
from tests.lab_process import running_lab
from vmkeep.capture.states import HoldState
from vmkeep.capture.sweep import Said
from vmkeep.errors import UsageError
from vmkeep.repository.journal import Journal

NOT_FOUND: Final = 0x80041002
BROKEN: Final = 0x800706BE


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with running_lab(SCENARIO, tmp_path / "state") as lab, host_of(lab) as host:
        yield host


def disturb(host: Host, code: int, times: int) -> None:
    host.lab.control.ask("disturb", effect="fault", action="DestroyReferencePoint", code=code, times=times)


@pytest.mark.parametrize("code", [NOT_FOUND, BROKEN])
def test_a_removal_that_fails_for_a_moment_is_tried_again(host: Host, code: int) -> None:
    for _ in range(3):
        disturb(host, code, times=2)
        host.step(VM)
        outcome = host.take(VM)
        host.lab.control.ask("calm")
        assert (outcome.exit_code, outcome.left) == (0, ())
        host.is_clean(VM)


@pytest.mark.parametrize("code", [NOT_FOUND, BROKEN])
def test_a_removal_that_goes_on_failing_is_told_until_it_is_done(host: Host, code: int) -> None:
    host.take(VM)
    disturb(host, code, times=MANY)
    for _ in range(2):
        host.step(VM)
        outcome = host.take(VM)
        assert outcome.exit_code == 3
        assert outcome.left
        host.clock.later(hours=1)  # else it counts as living, in this process
    host.lab.control.ask("calm")
    host.take(VM)
    host.is_clean(VM)
    assert host.all_closed(VM)


@pytest.mark.parametrize("code", [NOT_FOUND, BROKEN])
def test_a_sweep_whose_removal_fails_leaves_the_run_open(
    host: Host, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    die_before_the_tracking(host, monkeypatch)
    host.clock.later(hours=1)
    disturb(host, code, times=MANY)
    assert not all(each.is_clean for each in swept(host))
    assert not host.all_closed(VM)
    host.lab.control.ask("calm")
    swept(host)
    host.is_clean()
    assert host.all_closed(VM)


def test_the_point_before_is_dropped_also_when_the_run_after_has_dropped_the_new_one(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.take(VM)
    real = Journal.step

    def step(journal: Journal, name: str, detail: Mapping[str, Any] | None = None) -> None:
        if name == HoldState.TRACKED.value:
            raise Dead
        real(journal, name, detail)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "step", step)
        with pytest.raises(Dead):
            host.take(VM)
    host.clock.later(hours=1)
    disturb(host, BROKEN, times=MANY)
    assert not all(each.is_clean for each in swept(host))
    host.take(VM)
    host.lab.control.ask("calm")
    host.clock.later(hours=1)
    swept(host)
    host.is_clean(VM)
    assert host.all_closed(VM)


def test_only_one_thing_of_a_kind_can_be_a_runs(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    before = there(host)
    die_converted(host, monkeypatch)
    Stranger(host.lab, host.state(VM)["id"]).mark()
    host.lab.control.ask("push", seconds=400.0)
    host.clock.later(days=2)
    asked = asked_in(swept(host))
    assert asked == there(host) - before
    with pytest.raises(UsageError, match="cannot both be ours"):
        swept(host, Said.of(asked, []))
    assert there(host) - before == asked
