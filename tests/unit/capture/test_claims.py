"""Whose a new checkpoint or reference point is: what is proof, what is conclusion, what stays doubtful."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest

from tests.fakes import hyperv_rows as rows
from tests.fakes.hyperv_host import TableHost
from vmkeep.capture.claims import (
    Asked,
    Became,
    Conversion,
    Verdict,
    claim_point,
    judge_checkpoint,
    judge_point,
)
from vmkeep.host.hyperv import ReferencePoint, SeenJob
from vmkeep.model.facts import CheckpointFacts

pytestmark = pytest.mark.quick

VM = "AAAAAAAA-0000-4000-8000-00000000000A"
MADE = "Microsoft:BBBBBBBB-0000-4000-8000-00000000000B"
OTHER = "Microsoft:CCCCCCCC-0000-4000-8000-00000000000C"
OURS, THEIRS, WITNESS = "0f-ours", "1e-theirs", "3c-creation"
SINCE = datetime(2026, 3, 1, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return SINCE + timedelta(seconds=seconds)


def job(
    number: str, began: float, ended: float | None, made: Iterable[str] = (), vm: str | None = VM
) -> SeenJob:
    end = None if ended is None else at(ended)
    vms = frozenset() if vm is None else frozenset({vm.lower()})
    return SeenJob(number, ended is not None, at(began), end, vms, frozenset(each.lower() for each in made))


def of_checkpoint(created: float | None, *jobs: SeenJob, our_job: str | None = None) -> Verdict:
    made = CheckpointFacts(
        MADE, VM, "web - (12:00)", "recovery", created=None if created is None else at(created)
    )
    return judge_checkpoint(made, Asked(VM, (), SINCE, our_job), jobs)


# --- checkpoints ----------------------------------------------------------------------------


def test_what_the_host_says_our_job_has_made_is_ours_whenever_it_was() -> None:
    assert of_checkpoint(7000, job(OURS, 0, 7000, [MADE]), our_job=OURS) is Verdict.PROVEN


def test_what_another_job_has_made_is_not_ours() -> None:
    jobs = job(OURS, 0, 10), job(THEIRS, 11, 12, [MADE])
    assert of_checkpoint(12, *jobs, our_job=OURS) is Verdict.STRANGER


@pytest.mark.parametrize(
    ("created", "verdict"),
    [(9.9, Verdict.STRANGER), (10.1, Verdict.PROVEN), (20.1, Verdict.PROVEN), (20.2, Verdict.STRANGER)],
)
def test_a_job_that_failed_may_have_made_what_is_as_old_as_it(created: float, verdict: Verdict) -> None:
    assert of_checkpoint(created, job(OURS, 10.1, 20.1), our_job=OURS) is verdict


@pytest.mark.parametrize(
    ("created", "verdict"),
    [
        (9, Verdict.STRANGER),
        (10, Verdict.DOUBTFUL),  # the job may have begun at 10.9, and this been made at 10.1
        (11, Verdict.PROVEN),
        (19, Verdict.PROVEN),
        (20, Verdict.DOUBTFUL),
        (21, Verdict.STRANGER),
    ],
)
def test_a_host_that_tells_whole_seconds_leaves_the_first_and_the_last_one_open(
    created: float, verdict: Verdict
) -> None:
    assert of_checkpoint(created, job(OURS, 10, 20), our_job=OURS) is verdict


def test_what_began_in_the_very_second_of_the_call_is_not_before_it() -> None:
    began = job("made", 0, 1, [MADE])
    conversion = Conversion(Asked(VM, (), at(0.4)), "Microsoft:CC", 1)
    made = ReferencePoint(MADE, VM, "", 2, (), ("rct",))
    assert judge_point(made, conversion, [began], at(20)) is Verdict.CONCLUDED
    checkpoint = CheckpointFacts(MADE, VM, "web", "recovery", created=at(0))
    assert judge_checkpoint(checkpoint, Asked(VM, (), at(0.4)), [began]) is Verdict.CONCLUDED


def test_a_job_that_is_at_work_has_made_nothing_yet() -> None:
    assert of_checkpoint(5, job(OURS, 0, None), our_job=OURS) is Verdict.DOUBTFUL


@pytest.mark.parametrize(
    ("created", "verdict"),
    [
        (-1, Verdict.STRANGER),
        (0, Verdict.CONCLUDED),
        (2, Verdict.CONCLUDED),
        (600, Verdict.DOUBTFUL),  # a call that nobody knows to have arrived, and ten minutes
        (3600, Verdict.STRANGER),
        (None, Verdict.DOUBTFUL),
    ],
)
def test_a_call_that_nobody_heard_of_is_concluded_from_the_moment_only(
    created: float | None, verdict: Verdict
) -> None:
    assert of_checkpoint(created) is verdict


@pytest.mark.parametrize(
    ("created", "verdict"),
    [(600, Verdict.CONCLUDED), (2000, Verdict.DOUBTFUL), (100_000, Verdict.STRANGER)],
)
def test_a_call_that_the_host_took_may_have_lasted(created: float, verdict: Verdict) -> None:
    assert of_checkpoint(created, our_job=OURS) is verdict


@pytest.mark.parametrize(
    ("began", "verdict"), [(-1, Verdict.STRANGER), (1, Verdict.CONCLUDED), (300, Verdict.DOUBTFUL)]
)
def test_of_a_job_that_may_be_ours_the_beginning_counts(began: float, verdict: Verdict) -> None:
    assert of_checkpoint(900, job(THEIRS, began, 900, [MADE])) is verdict


def test_without_the_hosts_time_nothing_is_concluded() -> None:
    made = CheckpointFacts(MADE, VM, "web", "recovery", created=at(0))
    assert judge_checkpoint(made, Asked(VM, (), None), ()) is Verdict.DOUBTFUL


# --- reference points -----------------------------------------------------------------------

MEDIUM = rf"Microsoft:{VM}\83F8638B-8DCA-4152-9EDA-2CA8B33039B4\0\0\L"


def of_point(
    *jobs: SeenJob,
    our_job: str | None = None,
    settings: tuple[str, ...] = (MEDIUM,),
    level: int | None = 2,
    later: float = 60,
    is_crash_asked: bool = True,
) -> Verdict:
    made = ReferencePoint(MADE, VM, "", level, settings, ("rct",) * len(settings))
    conversion = Conversion(Asked(VM, (), SINCE, our_job), OTHER, 1, is_crash_asked, WITNESS)
    return judge_point(made, conversion, jobs, at(later))


def test_the_point_of_our_job_is_ours_and_that_of_another_is_not() -> None:
    assert of_point(job(OURS, 0, 1, [MADE]), our_job=OURS, later=10**6) is Verdict.PROVEN
    assert of_point(job(OURS, 0, 1), job(THEIRS, 2, 3, [MADE]), our_job=OURS) is Verdict.STRANGER


def test_a_point_that_names_our_checkpoint_is_ours_and_one_that_names_another_is_not() -> None:
    assert of_point(settings=(rf"{OTHER}\x\0\0\L",)) is Verdict.PROVEN
    another = "Microsoft:DDDDDDDD-0000-4000-8000-00000000000D"
    assert of_point(settings=(rf"{another}\x\0\0\L",), our_job=OURS) is Verdict.UNLIKE
    assert of_point(settings=(rf"{MADE}\x\0\0\L",), our_job=OURS) is Verdict.CONCLUDED, (
        "its own id says nothing"
    )


def test_a_point_with_other_disks_or_a_guest_that_nobody_asked_is_unlike_ours() -> None:
    assert of_point(settings=(MEDIUM, MEDIUM), our_job=OURS) is Verdict.UNLIKE
    assert of_point(level=1, our_job=OURS) is Verdict.UNLIKE
    # A host may reach less than it was asked for, and may say nothing.
    assert of_point(level=1, our_job=OURS, is_crash_asked=False) is Verdict.CONCLUDED
    assert of_point(level=None, settings=(), our_job=OURS) is Verdict.CONCLUDED


def test_a_conversion_that_the_host_took_is_concluded_for_a_day() -> None:
    assert of_point(our_job=OURS, later=86_000) is Verdict.CONCLUDED
    assert of_point(our_job=OURS, later=86_500) is Verdict.DOUBTFUL


def test_a_conversion_that_made_nothing_explains_no_point() -> None:
    assert of_point(job(OURS, 0, 1), our_job=OURS) is Verdict.DOUBTFUL


@pytest.mark.parametrize(("state", "doubted"), [(7, []), (10, ["Made-1"])])
def test_beside_our_checkpoint_a_point_may_be_what_a_call_made_that_failed_unheard(
    state: int, doubted: list[str]
) -> None:
    host = TableHost()
    host.rows["Msvm_ComputerSystem"] = [rows.vm()]
    host.rows["Msvm_VirtualSystemSettingData"] = [rows.settings(), rows.checkpoint()]
    host.rows["Msvm_VirtualSystemReferencePoint"] = [rows.reference_point("Made-1")]
    host.rows["Msvm_ConcreteJob"] = [rows.job(state=state)]
    conversion = Conversion(Asked(rows.WEB, (), None), f"Microsoft:{rows.CHECKPOINT}", 1)
    found = claim_point(host.hyperv(), conversion, Became.THERE)
    assert (found.ours, [point.id for point in found.doubtful]) == (None, doubted)


@pytest.mark.parametrize("state", [7, 10])
def test_what_a_failed_job_made_is_ours_and_nothing_to_build_on(state: int) -> None:
    host = TableHost()
    host.rows["Msvm_ComputerSystem"] = [rows.vm()]
    host.rows["Msvm_VirtualSystemSettingData"] = [rows.settings()]
    host.rows["Msvm_VirtualSystemReferencePoint"] = [rows.reference_point("Made-1")]
    host.rows["Msvm_ConcreteJob"] = [rows.job(state=state)]
    host.rows["Msvm_AffectedJobElement"] = [rows.affected("J1", rows.point_ref("Made-1"), 5)]
    conversion = Conversion(Asked(rows.WEB, (), None, "j1"), f"Microsoft:{rows.CHECKPOINT}", 1)
    for became in (Became.GONE, Became.THERE, Became.UNKNOWN):
        found = claim_point(host.hyperv(), conversion, became)
        assert found.ours is not None
        assert (found.ours.id, found.is_proven) == ("Made-1", state == 7)


def test_a_conversion_nobody_heard_of_needs_a_job_of_that_moment() -> None:
    assert of_point() is Verdict.DOUBTFUL
    assert of_point(job(THEIRS, 1, 2, [MADE])) is Verdict.CONCLUDED
    assert of_point(job(THEIRS, 1, 2, [MADE]), job("2d-later", 3, 4)) is Verdict.CONCLUDED
    assert of_point(job(THEIRS, -1, 2, [MADE])) is Verdict.STRANGER
    assert of_point(job(THEIRS, 300, 301, [MADE])) is Verdict.DOUBTFUL


def test_the_only_job_since_our_call_is_ours_as_long_as_one_of_before_is_listed() -> None:
    witness = job(WITNESS, -100, -90)
    assert of_point(witness, job(THEIRS, 1, 2, [MADE])) is Verdict.PROVEN
    assert of_point(job("3c-another", -100, -90), job(THEIRS, 1, 2, [MADE])) is Verdict.CONCLUDED
    assert of_point(witness, job("2d-later", 4, 5), job(THEIRS, 1, 2, [MADE])) is Verdict.CONCLUDED


@pytest.mark.parametrize(
    ("began", "vm", "verdict"),
    [
        (1, VM, Verdict.DOUBTFUL),
        (1, None, Verdict.DOUBTFUL),
        (3, VM, Verdict.DOUBTFUL),  # in one second: nobody knows which was first
        (1, OTHER, Verdict.CONCLUDED),
        (4, VM, Verdict.CONCLUDED),
    ],
)
def test_a_job_between_may_be_what_took_our_checkpoint_away(
    began: float, vm: str | None, verdict: Verdict
) -> None:
    between = job("2d-removed", began, 5, vm=vm)
    assert of_point(between, job(THEIRS, 3, 6, [MADE])) is verdict


def test_a_job_that_was_over_before_our_call_took_nothing_of_ours() -> None:
    assert of_point(job("2d-removed", -3, -1), job(THEIRS, 3, 4, [MADE])) is Verdict.CONCLUDED
