"""Change tracking of a host that answers too little, forgets, or is not to be trusted: no byte is lost."""

from collections.abc import Iterator

import pytest

from tests.faults.stores import FaultyStore, Flip, Remove, tamper
from tests.host_runs import SCENARIO, Host, evidence_of, host_of
from tests.lab_captures import MANY
from tests.lab_process import ForeignClient, Lab, reference, running_lab
from tests.repositories import names
from vmkeep.backup import run as folder_run
from vmkeep.backup.outcome import Outcome
from vmkeep.capture.source import SourceAddress
from vmkeep.errors import ExitCode
from vmkeep.model.consistency import Consistency
from vmkeep.progress import Silent


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    with running_lab(SCENARIO, folder / "state") as lab:
        yield lab


@pytest.fixture
def host(lab: Lab) -> Iterator[Host]:
    with host_of(lab) as host:
        yield host
        lab.control.ask("heal")
        host.tidy()


def reads_all(outcome: Outcome, disk: str, why: str) -> None:
    """See that a disk was read whole, compared, and that the point says why."""
    assert outcome.plan.increment == "compare"
    assert outcome.sealed.point.evidence["hold"]["read_all"] == {disk: why}
    assert outcome.sealed.point.evidence["changed_ranges"] == "read"


def test_tracking_that_hides_changes_is_contradicted_and_all_is_read_in_the_same_hold(
    lab: Lab, host: Host
) -> None:
    host.take("web")
    host.step("web", 30)
    lab.control.ask("fail", at="changes-empty", vm="web")
    outcome = host.take("web")
    assert outcome.exit_code is ExitCode.PARTIAL
    assert (outcome.plan.increment, outcome.consistency) == ("compare", Consistency.APPLICATION)
    assert any("change tracking missed changes" in warning for warning in outcome.warnings)
    reasons = {reason.code: reason for reason in outcome.sealed.point.consistency.reasons}
    assert "--reread-all" in reasons["rct-contradicted"].fix
    assert [r.step for r in host.runs("web")[-1]].count("hold-prepared") == 1
    host.is_clean("web")
    after = host.take("web")
    assert (after.exit_code, after.plan.increment) == (ExitCode.OK, "rct")
    host.all_hold(3)


def test_a_write_behind_the_hosts_back_between_two_runs_is_met_by_the_sample(lab: Lab, host: Host) -> None:
    host.take("off")
    base = lab.real(host.state("off")["disks"][0]["leaf"])
    with base.open("r+b") as file:  # no guest writes there, and no tracking tells
        file.seek(-(1 << 20), 2)
        file.write(b"behind the host's back")
    outcome = host.take("off")
    assert (outcome.exit_code, outcome.plan.increment) == (ExitCode.PARTIAL, "compare")
    host.all_hold(2)
    host.is_clean("off")


def test_a_disk_that_went_back_in_time_is_read_whole(lab: Lab, host: Host) -> None:
    first = host.take("chained")
    host.step("chained", 30)
    lab.control.ask("power", vm="chained", to="off")
    client = ForeignClient(lab)
    (older,) = [c for c in host.state("chained")["checkpoints"] if c["name"] == "first"]
    settings = reference("Snapshot", "Msvm_VirtualSystemSettingData", InstanceID=f"Microsoft:{older['id']}")
    client.finish(client.call("Msvm_VirtualSystemSnapshotService", "ApplySnapshot", settings))
    client.close()
    host.accept()
    outcome = host.take("chained")
    reads_all(outcome, "chained", "rct-disk-path")
    assert (first.exit_code, outcome.exit_code) == (ExitCode.OK, ExitCode.OK)
    # From here on the host's tracking is good again.
    host.step("chained", 10)
    assert host.take("chained").plan.increment == "rct"
    host.all_hold(3)
    host.is_clean("chained")


def test_lost_tracking_is_told_and_begins_anew(lab: Lab, host: Host) -> None:
    host.take("web")
    host.step("web")
    lab.control.ask("lose-tracking", vm="web")
    outcome = host.take("web")
    reads_all(outcome, "system", "rct-lost")
    assert outcome.exit_code is ExitCode.OK
    assert host.take("web").plan.increment == "rct"
    host.all_hold(3)
    host.is_clean("web")


def test_answers_that_cannot_be_used_cost_time_and_no_byte(lab: Lab, host: Host) -> None:
    host.take("off")
    for at, increment in (
        ("changes-unknown", "compare"),
        ("changes-stuck", "compare"),
        ("changes-job", "compare"),  # the disk is no larger than the smallest window
        ("changes-inflated", "rct"),
    ):
        host.step("off", 10)
        lab.control.ask("fail", at=at, vm="off")
        outcome = host.take("off")
        assert (outcome.exit_code, outcome.plan.increment) == (ExitCode.OK, increment), at
        lab.control.ask("heal")
    host.all_hold(5)
    host.is_clean("off")


def test_a_point_made_from_files_in_between_leaves_no_baseline(lab: Lab, host: Host) -> None:
    first = host.take("off")
    folder = lab.real(host.state("off")["folder"])
    host.step("off")
    request = folder_run.Request(SourceAddress.parse(f"folder:{folder}"))
    host.clock.later(minutes=1)
    with host.opened() as repository:
        between = folder_run.run(request, repository, host.clock, Silent()).sealed.point
    assert (between.vm.id, between.parent) == (first.sealed.point.vm.id, first.sealed.point.id)
    host.step("off")
    outcome = host.take("off")
    reads_all(outcome, "off", "rct-no-baseline")
    assert outcome.sealed.point.parent == between.id
    host.holds(first.sealed)
    host.holds(outcome.sealed)
    # The reference point of the first run was no baseline any more, and is gone.
    host.is_clean("off")


@pytest.mark.parametrize("damage", [Flip(999), Remove()], ids=["damaged", "removed"])
def test_without_its_record_tracking_is_not_used_and_its_reference_point_goes(
    host: Host, damage: Flip | Remove
) -> None:
    host.take("web")
    (old,) = host.points_left()["web"]
    (record,) = names(host.repository.store, "tracking/")
    tamper(host.repository.store, record, damage)
    host.step("web")
    outcome = host.take("web")
    reads_all(outcome, "system", "rct-no-baseline")
    assert outcome.exit_code is ExitCode.OK
    assert old not in host.points_left()["web"]
    assert len(host.points_left()["web"]) == 1
    for sealed in host.opened().listing().points:
        host.holds(sealed)


def test_tracking_that_cannot_be_stored_is_told_and_leaves_no_reference_point_behind(host: Host) -> None:
    host.take("web")
    (old,) = host.points_left()["web"]
    store = FaultyStore(host.repository.store).fail("put", prefix="tracking/")
    outcome = host.take("web", store=store)
    assert (outcome.exit_code, outcome.consistency) == (ExitCode.PARTIAL, Consistency.APPLICATION)
    assert any("not all is cleaned up" in warning for warning in outcome.warnings)
    assert old in host.points_left()["web"]  # the only baseline that the repository knows
    assert not host.all_closed("web")
    host.clock.later(hours=1)
    after = host.take("web")
    reads_all(after, "system", "rct-no-baseline")
    assert after.exit_code is ExitCode.OK
    assert host.all_closed("web")
    host.is_clean("web")
    host.all_hold(3)


def test_everything_is_read_on_request_and_tracking_goes_on(host: Host) -> None:
    first = host.take("web")
    host.step("web")
    outcome = host.take("web", reread_all=True)
    assert outcome.plan.increment == "compare"
    assert outcome.sealed.point.bytes_read >= first.sealed.point.bytes_read
    assert outcome.sealed.point.bytes_stored < first.sealed.point.bytes_stored
    assert host.take("web").plan.increment == "rct"
    host.all_hold(3)
    host.is_clean("web")


@pytest.mark.parametrize("at", ["convert-call", "convert-job"])
def test_a_refused_conversion_costs_the_proof_and_the_next_increment_only(
    lab: Lab, host: Host, at: str
) -> None:
    host.take("web")
    (old,) = host.points_left()["web"]
    lab.control.ask("fail", at=at, vm="web")
    outcome = host.take("web")
    assert (outcome.exit_code, outcome.consistency) == (ExitCode.PARTIAL, Consistency.CRASH)
    assert any("promised as application and is proven as crash" in text for text in outcome.warnings)
    assert any("made no reference point" in text for text in (*outcome.warnings, *outcome.notes))
    evidence = evidence_of(host, outcome)
    assert evidence["untracked"]["code"] == "rct-not-converted"
    assert (evidence["hold"]["merged"], evidence["hold"]["reference_point"]) == (True, None)
    assert host.all_closed("web")
    assert host.points_left() == {"web": [old]}
    host.step("web")
    after = host.take("web")
    reads_all(after, "system", "rct-no-baseline")
    assert (after.exit_code, after.consistency) == (ExitCode.OK, Consistency.APPLICATION)
    host.all_hold(3)
    host.is_clean("web")


def test_a_refused_conversion_of_a_vm_at_rest_is_told_and_costs_nothing_else(lab: Lab, host: Host) -> None:
    lab.control.ask("fail", at="convert-call", vm="off")
    outcome = host.take("off")
    assert (outcome.exit_code, outcome.consistency) == (ExitCode.OK, Consistency.OFF)
    assert any("made no reference point" in note for note in outcome.notes)
    host.is_clean()
    host.all_hold(1)


def test_an_old_reference_point_that_stays_is_told_and_taken_away_later(lab: Lab, host: Host) -> None:
    host.take("web")
    (old,) = host.points_left()["web"]
    lab.control.ask("fail", at="reference-job", vm="web", times=MANY)  # it is tried again for a while
    outcome = host.take("web")
    lab.control.ask("heal")
    assert (outcome.exit_code, outcome.consistency) == (ExitCode.PARTIAL, Consistency.APPLICATION)
    assert any("reference point" in warning for warning in outcome.warnings), outcome.warnings
    assert not any("could not be released" in warning for warning in outcome.warnings)
    assert old in host.points_left()["web"]
    assert not host.all_closed("web")
    host.clock.later(hours=1)  # the claim of the run that left it
    after = host.take("web")
    assert (after.exit_code, after.plan.increment) == (ExitCode.OK, "rct")
    assert any("this one removed" in note for note in after.notes)
    host.is_clean("web")
    host.all_hold(3)
    assert host.all_closed("web")
