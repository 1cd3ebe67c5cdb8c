"""Whatever a host tells: unknown facts promise nothing, and what is promised has grounds."""

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmkeep.model.consistency import Consistency, Policy
from vmkeep.model.facts import (
    CheckpointSetting,
    ComponentState,
    DiskFacts,
    DiskKind,
    Edition,
    GuestFacts,
    GuestFamily,
    HostFacts,
    Operation,
    ReplicationFacts,
    ReplicationMode,
    VmFacts,
    VmState,
)
from vmkeep.model.plan import Plan, VmRef
from vmkeep.planner.checkpoint import decide_checkpoint, excluded


def maybe(literal: Any) -> st.SearchStrategy[Any]:
    """One of the words, or unknown."""
    return st.sampled_from([*get_args(literal), None])


truths = st.sampled_from([True, False, None])
versions = st.sampled_from(["5.0", "6.1", "6.2", "9.0", "10.0", "nonsense", "", None])
paths = st.sampled_from(["C:\\VMs\\a", None])
disks = st.builds(DiskFacts, st.just("0:0"), st.just("scsi 0:0"), st.just("d"), maybe(DiskKind), paths)

# Of facts that are all drawn freely hardly any allow a checkpoint: so a few are drawn, over good ones.
HOST = {"build": st.sampled_from([9600, 14393, 20348, None]), "edition": maybe(Edition)}
VM = {
    "state": maybe(VmState),
    "configuration_version": versions,
    "checkpoint_setting": maybe(CheckpointSetting),
    "backup_component": maybe(ComponentState),
    "guest": st.builds(GuestFacts, maybe(GuestFamily), vss_writers=truths),
    "replication": st.builds(ReplicationFacts, maybe(ReplicationMode), truths),
    "disks": st.lists(disks, max_size=3).map(tuple),
    "foreign_recovery_checkpoint": truths,
    "operation_in_progress": maybe(Operation),
}
GOOD_HOST = HostFacts(build=20348, edition="server")
GOOD_VM = VmFacts(
    VmRef("A", "a"),
    state="running",
    configuration_version="10.0",
    checkpoint_setting="production",
    backup_component="ok",
    guest=GuestFacts("windows", vss_writers=True),
    replication=ReplicationFacts("none", False),
    disks=(DiskFacts("0:0", "scsi 0:0", "d", "vhdx", "C:\\VMs\\a"),),
    foreign_recovery_checkpoint=False,
)


@st.composite
def changed(draw: st.DrawFn, good: Any, drawn: dict[str, st.SearchStrategy[Any]]) -> Any:
    """Good facts of which some are whatever a host may tell."""
    names = draw(st.sets(st.sampled_from(sorted(drawn)), max_size=3))
    return replace(good, **{name: draw(drawn[name]) for name in sorted(names)})


hosts = st.just(GOOD_HOST) | changed(GOOD_HOST, HOST)
vms = changed(GOOD_VM, VM)
policies = st.sampled_from(
    ["preferred", "any", *(f"required:{level.value}" for level in Consistency)]
).map(Policy.parse)  # fmt: skip

# What a consistency is worth, from design section 3; nothing at all is worth least.
WORTH = {None: 0, "crash": 1, "off": 2, "saved": 3, "filesystem": 4, "application": 5}


def decide(host: HostFacts, vm: VmFacts, policy: Policy, *known: bool) -> Plan:
    earlier, tracking = known or (False, False)
    return decide_checkpoint(host, vm, policy, has_earlier_point=earlier, has_tracking=tracking)


def worth(plan: Plan) -> int:
    return WORTH[plan.consistency.value if plan.consistency else None]


@given(hosts, vms, policies, st.booleans(), st.booleans())
def test_a_plan_is_whole(host: HostFacts, vm: VmFacts, policy: Policy, earlier: bool, tracking: bool) -> None:
    plan = decide(host, vm, policy, earlier, tracking)
    assert plan == decide(host, vm, policy, earlier, tracking)
    assert (plan.verdict == "go") == (plan.method is not None) == (plan.consistency is not None)
    assert all(each.code and each.fact and each.effect and each.fix for each in plan.reasons)
    if plan.verdict != "go" or plan.consistency is Consistency.CRASH:
        assert plan.reasons
    if plan.verdict == "go":
        assert plan.consistency is not None
        is_short = policy.level is not None and not plan.consistency.satisfies(policy.level)
        assert not is_short or plan.consistency is Consistency.OFF
        assert is_short == any(each.code == "shutdown-unproven" for each in plan.reasons)
        assert len(excluded(vm)) < len(vm.disks)
        assert any(each.code == "disks-excluded" for each in plan.reasons) == bool(excluded(vm))
        assert plan.increment != "rct" or (earlier and tracking)


# All that a promise rests on, in every combination: drawn at random, those that matter hardly ever meet.
RESTS_ON = {
    "state": [*get_args(VmState), None],
    "configuration_version": ["5.0", "6.1", "6.2", "10.0", "nonsense", None],
    "checkpoint_setting": [*get_args(CheckpointSetting), None],
    "family": [*get_args(GuestFamily), None],
    "vss_writers": [True, False, None],
    "mode": [*get_args(ReplicationMode), None],
}


def vm_with(values: Mapping[str, Any]) -> VmFacts:
    own = {name: values[name] for name in ("state", "configuration_version", "checkpoint_setting")}
    guest = GuestFacts(values["family"], vss_writers=values["vss_writers"])
    return replace(GOOD_VM, guest=guest, replication=ReplicationFacts(values["mode"], False), **own)


@pytest.fixture(scope="module")
def promises() -> dict[tuple[Any, ...], Plan]:
    """The plan for each combination of facts."""
    every = itertools.product(*RESTS_ON.values())
    return {
        values: decide(GOOD_HOST, vm_with(dict(zip(RESTS_ON, values, strict=True))), Policy())
        for values in every
    }


def test_what_is_promised_has_grounds(promises: dict[tuple[Any, ...], Plan]) -> None:
    seen = set()
    for values, plan in promises.items():
        told = dict(zip(RESTS_ON, values, strict=True))
        seen.add(plan.consistency)
        if plan.verdict != "go" or plan.consistency is Consistency.CRASH:
            assert plan.reasons, told
            continue
        assert told["mode"] in ("none", "primary"), told
        if plan.consistency is Consistency.OFF:
            assert (plan.method, told["state"]) == ("standard-checkpoint", "off"), told
            continue
        assert (plan.method, told["state"], told["vss_writers"]) == ("production-checkpoint", "running", True)
        assert told["checkpoint_setting"] in ("production", "production_only"), told
        assert told["configuration_version"] in ("6.2", "10.0"), told
        if plan.consistency is Consistency.APPLICATION:
            assert told["family"] == "windows", told
    assert {each.value if each else None for each in seen} == set(WORTH) - {"saved"}


def test_more_knowledge_never_lowers_what_was_promised(promises: dict[tuple[Any, ...], Plan]) -> None:
    """An unknown fact counts as the worst one with which a point is taken (contract of the plan)."""
    for values, plan in promises.items():
        if plan.verdict != "go":
            continue
        for place, value in enumerate(values):
            if value is not None:
                forgotten = promises[(*values[:place], None, *values[place + 1 :])]
                assert worth(forgotten) <= worth(plan), (values, list(RESTS_ON)[place])


@pytest.mark.parametrize("forgotten", ["build", "edition"])
def test_nothing_is_promised_on_a_host_nobody_knows(forgotten: str) -> None:
    host: HostFacts = replace(GOOD_HOST, **{forgotten: None})
    assert decide(host, GOOD_VM, Policy()).verdict == "refuse"
