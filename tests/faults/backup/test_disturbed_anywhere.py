"""Whichever message between a run and its host goes wrong, and however: no harm, and nothing left untold.

``VMKEEP_ALL_KILLS=1`` disturbs every message in every way; else a sample is taken by the seed.
"""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.faults.backup.test_lost_records import VM, asked_in, swept, there
from tests.host_runs import SCENARIO, Host, RunClock, host_of
from tests.lab_captures import MANY
from tests.lab_process import running_lab
from vmkeep.backup.outcome import Outcome
from vmkeep.capture.outcome import left_behind_by
from vmkeep.capture.sweep import Said
from vmkeep.errors import VmkeepError

_ALL: Final = bool(os.environ.get("VMKEEP_ALL_KILLS"))
_SAMPLE: Final = 5
_SPEED: Final = 200.0
NOT_FOUND: Final = 0x80041002
BROKEN: Final = 0x800706BE
# Twice in a row, too: what is tried again fails again.
EFFECTS: Final[dict[str, dict[str, Any]]] = {
    "fault": {"effect": "fault", "code": BROKEN},
    "not found": {"effect": "fault", "code": NOT_FOUND},
    "faults": {"effect": "fault", "code": BROKEN, "times": 2},
    "done, and a fault": {"effect": "fault after", "code": BROKEN},
    "never arrived": {"effect": "close before"},
    "unanswered": {"effect": "close after"},
    "unanswered twice": {"effect": "close after", "times": 2},
    "busy": {"effect": "status", "code": 503, "times": 2},
}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with running_lab(SCENARIO, tmp_path / "state") as lab, host_of(lab, RunClock(_SPEED)) as host:
        yield host


def take(host: Host, is_first: bool, **disturbance: Any) -> tuple[Outcome | VmkeepError, int]:
    """Take a restore point while something goes wrong; return what came of it, and how many messages it took.

    The first of a VM has no point to build on: the host knows none any more.
    """
    if is_first:
        host.tidy()
    host.step(VM)
    host.lab.control.ask("disturb", **disturbance)
    try:
        found: Outcome | VmkeepError = host.take(VM)
    except VmkeepError as error:
        found = error
    return found, host.lab.control.ask("calm")["matched"]


def see(host: Host, found: Outcome | VmkeepError, left: set[str]) -> None:
    """See that what is told of a run is true, and that one sweep takes away whatever was told as left."""
    if isinstance(found, Outcome):
        host.holds(found.sealed)
    if isinstance(found, VmkeepError):
        told = bool(left_behind_by(found))
    else:
        told = found.exit_code != 0
    if not told:
        assert host.all_closed(VM)
        host.is_clean(*host.points_left())
    host.clock.later(hours=1)
    swept_now = swept(host)
    asked = asked_in(swept_now)
    assert asked <= left
    if asked:
        assert told
        swept_now = swept(host, Said.of(asked, []))
    assert all(each.is_clean for each in swept_now), swept_now
    assert host.all_closed(VM)
    host.is_clean(*host.points_left())


@pytest.mark.parametrize("is_first", [True, False], ids=["first", "next"])
@pytest.mark.parametrize("how", EFFECTS)
def test_a_run_that_is_disturbed_anywhere_does_no_harm(
    host: Host, seed: int, how: str, is_first: bool
) -> None:
    rng = random.Random(seed)
    host.take(VM)
    _, total = take(host, is_first, effect="fault", after=MANY)
    assert 20 < total < MANY
    step = 1 if _ALL else total / _SAMPLE
    at = 0.0
    while at < total:
        after = int(at if _ALL else rng.uniform(at, at + step))
        before = there(host)
        found, _ = take(host, is_first, after=after, **EFFECTS[how])
        try:
            see(host, found, there(host) - before)
        except AssertionError as error:
            error.add_note(f"message {after} of {total}: {found!r}")
            raise
        at += step
    outcome, _ = take(host, False, effect="fault", after=MANY)
    assert isinstance(outcome, Outcome)
    assert outcome.exit_code == 0
