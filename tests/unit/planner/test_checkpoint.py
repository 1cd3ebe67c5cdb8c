"""What a checkpoint can promise of a VM, rule by rule: mission R2, hyperv-backup-api.md 1 and 2.3."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from vmkeep.model.consistency import Consistency, Policy
from vmkeep.model.facts import DiskFacts, GuestFacts, HostFacts, ReplicationFacts, VmFacts
from vmkeep.model.plan import Plan, VmRef
from vmkeep.planner.checkpoint import decide_checkpoint, excluded, lowered

pytestmark = pytest.mark.quick

HOST = HostFacts("HV", 17763, "server", False)
DISK = DiskFacts("0:0", "scsi 0:0", "d0", "vhdx", "C:\\VMs\\a.vhdx")
WINDOWS = VmFacts(
    VmRef("A", "a"),
    state="running",
    configuration_version="9.0",
    checkpoint_setting="production",
    backup_component="ok",
    guest=GuestFacts("windows", vss_writers=True),
    replication=ReplicationFacts("none", False),
    disks=(DISK,),
    foreign_recovery_checkpoint=False,
)
LINUX = replace(WINDOWS, guest=GuestFacts("linux", vss_writers=True))
OFF = replace(WINDOWS, state="off", guest=GuestFacts())


def decide(
    vm: VmFacts,
    policy: str = "preferred",
    host: HostFacts = HOST,
    *,
    has_earlier_point: bool = False,
    has_tracking: bool = False,
) -> Plan:
    return decide_checkpoint(
        host, vm, Policy.parse(policy), has_earlier_point=has_earlier_point, has_tracking=has_tracking
    )


def codes(plan: Plan) -> list[str]:
    return [reason.code for reason in plan.reasons]


@pytest.mark.parametrize(
    ("vm", "method", "consistency"),
    [
        (WINDOWS, "production-checkpoint", Consistency.APPLICATION),
        (LINUX, "production-checkpoint", Consistency.FILESYSTEM),
        (
            replace(WINDOWS, checkpoint_setting="production_only"),
            "production-checkpoint",
            Consistency.APPLICATION,
        ),
        (replace(WINDOWS, configuration_version="6.2"), "production-checkpoint", Consistency.APPLICATION),
        # The primary of a replication can be application-consistent (R2.5).
        (
            replace(WINDOWS, replication=ReplicationFacts("primary", False)),
            "production-checkpoint",
            Consistency.APPLICATION,
        ),
    ],
)  # fmt: skip
def test_the_best_for_each_guest_needs_no_reason(vm: VmFacts, method: str, consistency: Consistency) -> None:
    plan = decide(vm)
    assert (plan.verdict, plan.method, plan.consistency, plan.reasons) == ("go", method, consistency, ())


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"state": "saved"}, "vm-saved"),
        ({"state": "paused"}, "vm-not-running"),
        ({"checkpoint_setting": "standard"}, "production-switched-off"),
        ({"checkpoint_setting": None}, "production-switched-off"),
        ({"configuration_version": "5.0"}, "version-too-old"),
        ({"configuration_version": None}, "version-too-old"),
        ({"configuration_version": "6.\u0662"}, "version-too-old"),
        ({"guest": GuestFacts("windows", vss_writers=False)}, "guest-silent"),
        ({"guest": GuestFacts("windows", vss_writers=None)}, "guest-silent"),
        ({"guest": GuestFacts("linux", vss_writers=False)}, "guest-silent"),
        *(({"replication": ReplicationFacts(mode, False)}, "vm-is-replica")
          for mode in ("replica", "test_replica", "extended_replica")),
        ({"replication": ReplicationFacts(None, False)}, "replication-unknown"),
    ],
)  # fmt: skip
def test_what_keeps_a_guest_from_taking_part_lowers_the_promise_and_is_told(
    changes: Mapping[str, Any], code: str
) -> None:
    vm = replace(WINDOWS, **changes)
    plan = decide(vm)
    assert (plan.verdict, plan.method, plan.consistency) == ("go", "standard-checkpoint", Consistency.CRASH)
    assert codes(plan)[0] == code
    assert all(reason.fact and reason.effect and reason.fix for reason in plan.reasons)
    refused = decide(vm, "required:application")
    assert (refused.verdict, refused.method, refused.consistency) == ("refuse", None, None)
    assert codes(refused)[0] == code
    assert codes(refused)[-1] == "policy-not-met"


def test_of_a_vm_that_is_off_nobody_knows_how_its_guest_ended() -> None:
    for policy in ("required:off", "required:crash", "preferred", "any"):
        plan = decide(OFF, policy)
        assert (plan.verdict, plan.consistency) == ("go", Consistency.OFF)
        (reason,) = plan.reasons
        assert reason.code == "shutdown-unknown"
        assert "power cut" in reason.effect
        assert reason.fix


@pytest.mark.parametrize("level", ["application", "filesystem", "saved"])
def test_a_vm_that_is_off_does_not_prove_what_is_required(level: str) -> None:
    """Nothing better can be had of it, so it is taken; that it is enough is not said (mission B2)."""
    plan = decide(OFF, f"required:{level}", has_earlier_point=True, has_tracking=True)
    assert (plan.verdict, plan.consistency, plan.increment) == ("go", Consistency.OFF, "rct")
    assert codes(plan) == ["shutdown-unknown", "shutdown-unproven"]
    assert f"requires {level}" in plan.reasons[-1].fact
    assert "required:off" in plan.reasons[-1].fix


@pytest.mark.parametrize("mode", ["replica", "test_replica", "extended_replica", None])
def test_a_replica_that_is_off_was_not_shut_down(mode: Any) -> None:
    """A replica is off all the time, and what it holds is as after a power cut of its primary (R2.5)."""
    vm = replace(OFF, replication=ReplicationFacts(mode, False))
    assert decide(vm).consistency is Consistency.CRASH
    assert decide(vm, "required:application").verdict == "refuse"


def test_a_guest_that_does_not_tell_what_it_runs_promises_no_application() -> None:
    plan = decide(replace(WINDOWS, guest=GuestFacts(None, vss_writers=True)))
    assert (plan.method, plan.consistency) == ("production-checkpoint", Consistency.FILESYSTEM)
    assert codes(plan) == ["guest-unknown"]


@pytest.mark.parametrize(
    ("host", "vm", "verdict", "code"),
    [
        (replace(HOST, edition="client"), WINDOWS, "refuse", "edition-unsupported"),
        (replace(HOST, edition=None), WINDOWS, "refuse", "host-unknown"),
        (replace(HOST, build=9600), WINDOWS, "refuse", "host-too-old"),
        (replace(HOST, build=None), WINDOWS, "refuse", "host-unknown"),
        (HOST, replace(WINDOWS, checkpoint_setting="disabled"), "refuse", "checkpoints-disabled"),
        (HOST, replace(WINDOWS, disks=()), "refuse", "no-disk-freezable"),
        (HOST, replace(WINDOWS, disks=(replace(DISK, kind="passthrough"),)), "refuse", "no-disk-freezable"),
        (HOST, replace(WINDOWS, disks=(replace(DISK, kind=None),)), "refuse", "no-disk-freezable"),
        (HOST, replace(WINDOWS, state="critical"), "refuse", "state-critical"),
        *((HOST, replace(WINDOWS, operation_in_progress=each), "wait", "operation-in-progress")
          for each in ("merge", "export", "migrate", "backup")),
        # A VM that is replicating cannot be backed up at that moment; it is tried again (R2.5).
        (HOST, replace(WINDOWS, replication=ReplicationFacts("primary", True)), "wait", "replication-busy"),
        (HOST, replace(WINDOWS, state=None, state_code=10), "wait", "state-passing"),
    ],
)  # fmt: skip
def test_obstacles(host: HostFacts, vm: VmFacts, verdict: str, code: str) -> None:
    for policy in ("preferred", "any", "required:crash"):
        plan = decide(vm, policy, host)
        assert (plan.verdict, plan.method, plan.consistency) == (verdict, None, None)
        assert codes(plan) == [code]
        (reason,) = plan.reasons
        assert reason.fact and reason.effect and reason.fix


def test_what_only_a_person_can_mend_is_told_before_what_passes() -> None:
    vm = replace(WINDOWS, checkpoint_setting="disabled", operation_in_progress="merge")
    assert codes(decide(vm)) == ["checkpoints-disabled"]


@pytest.mark.parametrize("kind", ["passthrough", "shared_vhdx", "vhd_set", None])
def test_disks_that_cannot_be_frozen_are_left_out_and_named(kind: Any) -> None:
    other = DiskFacts("0:1", "scsi 0:1", "d1", kind, "C:\\VMs\\b")
    vm = replace(WINDOWS, disks=(DISK, other))
    assert excluded(vm) == (other,)
    plan = decide(vm)
    assert (plan.verdict, plan.consistency) == ("go", Consistency.APPLICATION)
    (reason,) = plan.reasons
    assert reason.code == "disks-excluded"
    assert "1 of the VM's 2 disks: scsi 0:1" in reason.fact


def test_a_disk_without_a_path_is_left_out() -> None:
    pathless = replace(DISK, slot="0:1", path=None)
    assert excluded(replace(WINDOWS, disks=(DISK, pathless))) == (pathless,)


@pytest.mark.parametrize("there", [True, None])
def test_a_strangers_checkpoint_is_told_and_lowers_nothing(there: Any) -> None:
    plan = decide(replace(WINDOWS, foreign_recovery_checkpoint=there))
    assert (plan.consistency, codes(plan)) == (Consistency.APPLICATION, ["foreign-checkpoint"])


@pytest.mark.parametrize(
    ("earlier", "tracking", "version", "increment"),
    [
        (False, False, "9.0", "full"),
        (False, True, "9.0", "full"),
        (True, False, "9.0", "compare"),
        (True, True, "9.0", "rct"),
        (True, True, "5.0", "compare"),
        (True, True, None, "compare"),
    ],
)
def test_what_is_read(earlier: bool, tracking: bool, version: Any, increment: str) -> None:
    vm = replace(WINDOWS, configuration_version=version)
    plan = decide(vm, has_earlier_point=earlier, has_tracking=tracking)
    assert plan.increment == increment
    assert ("rct-unsupported" in codes(plan)) == (version != "9.0")


@pytest.mark.parametrize("level", list(Consistency))
@pytest.mark.parametrize(
    ("vm", "promise"),
    [
        (WINDOWS, Consistency.APPLICATION),
        (LINUX, Consistency.FILESYSTEM),
        (OFF, Consistency.OFF),
        (replace(WINDOWS, checkpoint_setting="standard"), Consistency.CRASH),
    ],
)
def test_a_required_level_is_promised_or_nothing_is_taken(
    vm: VmFacts, promise: Consistency, level: Consistency
) -> None:
    plan = decide(vm, f"required:{level.value}")
    # Best first; of a VM that is off nothing better can be had, so it is never refused (decision 0019).
    ranks = {"application": 5, "filesystem": 4, "saved": 3, "off": 2, "crash": 1}
    is_enough = promise is Consistency.OFF or ranks[promise.value] >= ranks[level.value]
    assert plan.verdict == ("go" if is_enough else "refuse")
    if not is_enough:
        assert level.value in plan.reasons[-1].fact
        assert promise.value in plan.reasons[-1].fact
        assert f"required:{promise.value}" in plan.reasons[-1].fix


def test_a_refusal_says_what_kind_of_guest_can_do_no_better() -> None:
    (reason,) = decide(LINUX, "required:application").reasons
    assert "for a Linux guest" in reason.fact
    assert "named above" not in reason.fix


@pytest.mark.parametrize(
    ("policy", "verdict", "last"),
    [
        ("preferred", "go", "guest-not-quiesced"),
        ("any", "go", "guest-not-quiesced"),
        ("required:crash", "go", "guest-not-quiesced"),
        ("required:filesystem", "refuse", "policy-not-met"),
        ("required:application", "refuse", "policy-not-met"),
    ],
)
def test_a_guest_that_refuses_lowers_the_plan_or_ends_it(policy: str, verdict: str, last: str) -> None:
    first = decide(WINDOWS, has_earlier_point=True, has_tracking=True)
    plan = lowered(first, Policy.parse(policy), "The guest refused.")
    assert (plan.verdict, codes(plan)[-1]) == (verdict, last)
    assert any(reason.fact == "The guest refused." for reason in plan.reasons)
    if verdict == "go":
        assert (plan.method, plan.consistency) == ("standard-checkpoint", Consistency.CRASH)
        assert plan.increment == "rct"
    else:
        assert (plan.method, plan.consistency) == (None, None)
