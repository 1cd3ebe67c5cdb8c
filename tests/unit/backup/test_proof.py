"""What is proven about a point's consistency: never more than a guest gave and the host confirmed."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from vmkeep.backup.proof import proven_by, what_was_asked
from vmkeep.capture.outcome import Released
from vmkeep.capture.removing import Merge
from vmkeep.host.hyperv import PowerState
from vmkeep.model.consistency import Consistency
from vmkeep.model.facts import GuestFacts, VmFacts
from vmkeep.model.plan import Plan, VmRef
from vmkeep.model.point import Claim, RestorePoint

pytestmark = pytest.mark.quick

RUNNING = PowerState(2, "running", None)
VM = VmFacts(VmRef("1", "web"), state="running", guest=GuestFacts("windows"), backup_component="ok")
PRODUCTION = Plan("go", "production-checkpoint", Consistency.APPLICATION, "full")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def point(
    *, was_running: bool, plan: Plan = PRODUCTION, got: Consistency = Consistency.CRASH
) -> RestorePoint:
    promised = plan.consistency or Consistency.CRASH
    asked = what_was_asked(plan, VM, was_running=was_running)
    claim = Claim("preferred", promised, got)
    return RestorePoint(
        "1", "2", VM.vm, 1, None, None, NOW, NOW, "hyperv://lab/web", plan.method or "", claim, (), (),
        0, 0, "", "test", {"read_back": asked},
    )  # fmt: skip


def released(level: int | None) -> Released:
    return Released(None, None, Merge(True), RUNNING, RUNNING, level)


def test_what_the_host_confirms_of_a_running_vm_is_proven() -> None:
    assert proven_by(point(was_running=True), released(1)) is Consistency.APPLICATION


@pytest.mark.parametrize("level", [2, None])
def test_what_the_host_does_not_confirm_is_not(level: int | None) -> None:
    assert proven_by(point(was_running=True), released(level)) is Consistency.CRASH
    assert proven_by(point(was_running=True), None) is Consistency.CRASH


def test_a_vm_that_did_not_run_had_no_guest_to_take_part() -> None:
    """A host confirms level 1 for a VM that was turned off after the plan was made."""
    assert proven_by(point(was_running=False), released(1)) is Consistency.CRASH
    off = point(was_running=False, got=Consistency.OFF)
    assert proven_by(off, released(1)) is Consistency.OFF


def test_a_standard_checkpoint_proves_no_more_than_it_promised() -> None:
    standard = replace(PRODUCTION, method="standard-checkpoint", consistency=Consistency.CRASH)
    assert proven_by(point(was_running=True, plan=standard), released(1)) is Consistency.CRASH
