"""kill -9 at every message between a run and its host or its store; afterwards nothing of it is left.

Every test uses one lab from beginning to end: what one death leaves behind fails all that come after it.
``VMKEEP_ALL_KILLS=1`` dies at every message; else a sample is taken, spread over the whole run by the seed.
"""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, TypeAlias

import pytest

from tests.faults.cli.gate import Death, When
from tests.faults.cli.host_stage import KILLED, LEASE_S, SOURCE, HostStage, host_stage

# How a host is cleaned up: by a sweep, by the VM's next run, or by another machine, as ours never comes back.
Way: TypeAlias = Literal["sweep", "next", "elsewhere"]
WAYS: Final[tuple[Way, ...]] = ("sweep", "next", "elsewhere")
WHENS: Final[tuple[When, ...]] = ("before", "after", "late")
_ALL: Final = bool(os.environ.get("VMKEEP_ALL_KILLS"))
_SAMPLE: Final = 9
_ROUNDS: Final = 30 if _ALL else 3
_LONGEST_DELAY: Final = 40
_MOST_POINTS: Final = 10
_MOST_MESSAGES: Final = 1000


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[HostStage]:
    with host_stage(tmp_path) as stage:
        yield stage


def deaths(total: int, rng: random.Random) -> Iterator[Death]:
    """Choose where to die in a run of ``total`` messages."""
    if _ALL:
        for at in range(1, _MOST_MESSAGES):
            for when in WHENS:
                yield Death(at, when, rng.randrange(_LONGEST_DELAY))
        return
    step = total / _SAMPLE
    for number in range(_SAMPLE):
        at = int(rng.uniform(number, number + 1) * step) + 1
        yield Death(at, WHENS[number % 3], rng.randrange(_LONGEST_DELAY))


def clean_up(stage: HostStage, way: Way) -> None:
    """Do what comes after a death; it must succeed."""
    if way == "sweep":
        ended = stage.run("sweep", SOURCE, "--json")
    elif way == "next":
        ended = stage.backup()
        assert ended.code == 0, ended
    else:
        stage.gate.deliver()  # half an hour is longer than anything is on its way
        stage.let_jobs_end()
        before = stage.host()
        early = stage.run("sweep", SOURCE, "--json", machine="another")
        assert (early.code, stage.host()) == (0, before), early
        stage.let_the_lease_end()
        ended = stage.run("sweep", SOURCE, "--json", machine="another", ahead_s=LEASE_S)
    assert ended.code == 0, ended
    # Whoever cleans up has waited until nothing is owed; only what comes later still has to end.
    if stage.gate.deliver():
        stage.let_jobs_end()


def judge(stage: HostStage, new: int, *also: str) -> None:
    """See that the host is as it was, that so many points are ``new``, and that all there are are true.

    Older ones are read again if they are among ``also``; of the others no object has changed.
    """
    stage.judge_host()
    assert len(stage.judge_points(*also)) == new
    stage.check()


def test_killed_at_each_message_of_a_first_run(stage: HostStage, seed: int) -> None:
    rng = random.Random(seed)
    stage.renew()
    assert stage.backup().code == 0
    died = 0
    for death in deaths(len(stage.messages), rng):
        way = WAYS[(died + died // 3) % 3]  # each with each time of death
        stage.renew()
        ended = stage.backup(death)
        if ended.code != KILLED:
            assert ended.code == 0, ended
            assert death.at > len(stage.messages)
            judge(stage, 1)
            break
        died += 1
        clean_up(stage, way)
        judge(stage, ended.has_sealed + (way == "next"))
    assert died >= (200 if _ALL else _SAMPLE - 1)


def test_killed_at_each_message_of_an_increment(stage: HostStage, seed: int) -> None:
    rng = random.Random(seed)
    stage.renew()
    for _ in range(2):
        assert stage.backup().code == 0
        judge(stage, 1)
    died = 0
    for death in deaths(len(stage.messages), rng):
        way = WAYS[(died + died // 3) % 3]
        if stage.known > _MOST_POINTS:
            stage.renew()
            assert stage.backup().code == 0
            judge(stage, 1)
        stage.write()
        ended = stage.backup(death)
        if ended.code != KILLED:
            assert ended.code == 0, ended
            assert death.at > len(stage.messages)
            judge(stage, 1)
            break
        died += 1
        clean_up(stage, way)
        judge(stage, ended.has_sealed + (way == "next"), *rng.sample(stage.all_points(), 1))
    judge(stage, 0, *stage.all_points())
    assert died >= (200 if _ALL else _SAMPLE - 1)


def test_killed_again_and_again(stage: HostStage, seed: int) -> None:
    """Runs and sweeps die in a row, each on what the one before has left."""
    rng = random.Random(seed)
    stage.renew()
    assert stage.backup().code == 0
    total = len(stage.messages)
    judge(stage, 1)
    for _ in range(_ROUNDS):
        stage.write()
        for _ in range(rng.randint(2, 4)):
            death = Death(rng.randrange(total) + 1, rng.choice(WHENS), rng.randrange(_LONGEST_DELAY))
            if rng.random() < 0.5:
                stage.backup(death)
            else:
                stage.die(death, "sweep", SOURCE)
            stage.gate.deliver()
        clean_up(stage, "sweep")
        stage.judge_host()
        stage.judge_points()
    stage.check()
