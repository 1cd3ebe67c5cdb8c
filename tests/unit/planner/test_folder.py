"""What files alone can promise, and what the plan says about it."""

import pytest

from vmkeep.model.consistency import Consistency, Policy
from vmkeep.model.plan import FolderFacts
from vmkeep.planner.folder import decide_folder

pytestmark = pytest.mark.quick

PLAIN = FolderFacts(("system",))


@pytest.mark.parametrize("policy", ["preferred", "any", "required:crash"])
def test_files_promise_a_crash_consistent_point(policy: str) -> None:
    plan = decide_folder(PLAIN, Policy.parse(policy), has_earlier_point=False, changes_given=False)
    assert (plan.verdict, plan.method, plan.consistency) == ("go", "folder", Consistency.CRASH)
    assert [reason.code for reason in plan.reasons] == ["files-only"]


@pytest.mark.parametrize("level", ["application", "filesystem", "saved", "off"])
def test_what_files_cannot_prove_is_refused(level: str) -> None:
    plan = decide_folder(
        PLAIN, Policy.parse(f"required:{level}"), has_earlier_point=True, changes_given=False
    )
    assert (plan.verdict, plan.method, plan.consistency) == ("refuse", None, None)
    last = plan.reasons[-1]
    assert last.code == "policy-not-met" and level in last.fact and last.fix


@pytest.mark.parametrize(
    ("earlier", "changes", "increment"),
    [(False, False, "full"), (True, False, "compare"), (True, True, "declared"), (False, True, "declared")],
)
def test_what_is_read(earlier: bool, changes: bool, increment: str) -> None:
    plan = decide_folder(PLAIN, Policy(), has_earlier_point=earlier, changes_given=changes)
    assert plan.increment == increment


def test_everything_left_out_is_told() -> None:
    facts = FolderFacts(
        ("system",), left_out=tuple(f"file{n}.txt" for n in range(7)), layers=("base.vhdx",), has_memory=True
    )
    plan = decide_folder(facts, Policy(), has_earlier_point=False, changes_given=False)
    reasons = {reason.code: reason for reason in plan.reasons}
    assert set(reasons) == {"files-only", "layers-merged", "files-left-out"}
    assert "base.vhdx" in reasons["layers-merged"].fact
    assert (
        "7 files" in reasons["files-left-out"].fact and "file4.txt and more" in reasons["files-left-out"].fact
    )
    assert all(reason.fact and reason.effect and reason.fix for reason in plan.reasons)


def test_disks_that_were_left_out_are_told_by_name() -> None:
    facts = FolderFacts(("system",), disguised=tuple((f"d{n}", "a VHDX disk") for n in range(7)))
    (reason,) = decide_folder(facts, Policy(), has_earlier_point=False, changes_given=False).reasons[1:]
    assert reason.code == "disks-left-out"
    assert "7 files" in reason.fact and "'d4' is a VHDX disk and more" in reason.fact
    assert "disk:FILE" in reason.fix


def test_the_same_facts_give_the_same_plan() -> None:
    plans = {decide_folder(PLAIN, Policy(), has_earlier_point=True, changes_given=False) for _ in range(3)}
    assert len(plans) == 1


@pytest.mark.parametrize(("count", "text"), [(999, "hold 999 errors"), (1000, "hold at least 1000 errors")])
def test_errors_that_were_not_all_counted_are_a_lower_bound(count: int, text: str) -> None:
    facts = FolderFacts(("system",), damage=("a.vhdx: broken",) * count)
    plan = decide_folder(facts, Policy(), has_earlier_point=False, changes_given=False)
    assert any(text in reason.fact for reason in plan.reasons)
