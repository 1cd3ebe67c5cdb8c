"""Change tracking is trusted only if nothing at all differs, and nothing is unknown."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmkeep.model.facts import CheckpointFacts, ReplicationFacts, VmFacts
from vmkeep.model.plan import VmRef
from vmkeep.planner.tracking import TrackedDisk, TrackedVm, TrackingRecord, why_not_tracked

words = st.text(min_size=1, max_size=12)
trees = st.lists(st.tuples(words, st.text(max_size=12)), max_size=4).map(tuple)
vms = st.builds(TrackedVm, trees, st.text(max_size=12), words, words)
disks = st.builds(TrackedDisk, words, st.integers(1, 1 << 46), words, words)
records = st.builds(
    TrackingRecord,
    words,
    vms,
    st.lists(disks, min_size=1, max_size=4, unique_by=lambda disk: disk.disk_id).map(tuple),
)

# Design of the trust rule: what has to be equal, by its field, and the reason where it is not.
OF_VM = {
    "tree": "rct-checkpoint-tree",
    "last_applied": "rct-last-applied",
    "configuration_version": "rct-version",
    "replication": "rct-replication",
}
OF_DISK = {"disk_id": "rct-disk-unknown", "size": "rct-disk-size", "path": "rct-disk-path"}


def changed(value: Any) -> Any:
    """Another value of the same kind."""
    return value + (("more", ""),) if isinstance(value, tuple) else value + type(value)("1")


@given(records)
def test_what_is_equal_is_trusted(record: TrackingRecord) -> None:
    for disk in record.disks:
        assert why_not_tracked(record, record.vm, replace(disk, rct_id=None)) is None


@given(records, st.sampled_from(sorted(OF_VM | OF_DISK)), st.booleans(), st.booleans())
def test_any_single_difference_or_unknown_is_refused(
    record: TrackingRecord, field: str, is_unknown: bool, is_recorded: bool
) -> None:
    vm, disk = record.vm, record.disks[0]
    if field in OF_VM:
        vm = replace(vm, **{field: None if is_unknown else changed(getattr(vm, field))})
    else:
        disk = replace(disk, **{field: None if is_unknown else changed(getattr(disk, field))})
    others = record.disks[1:]
    if any(other.disk_id == disk.disk_id for other in others):
        return  # the changed identifier happens to be another disk's
    if is_recorded:
        why = why_not_tracked(replace(record, vm=vm, disks=(disk, *others)), record.vm, record.disks[0])
    else:
        why = why_not_tracked(record, vm, disk)
    assert why is not None
    assert why.code == (OF_VM | OF_DISK)[field]


@given(records)
def test_a_disk_without_identifier_or_record_is_refused(record: TrackingRecord) -> None:
    disk = record.disks[0]
    untracked = replace(record, disks=(replace(disk, rct_id=None), *record.disks[1:]))
    assert (why := why_not_tracked(untracked, record.vm, disk)) and why.code == "rct-not-tracked"
    assert (why := why_not_tracked(None, record.vm, disk)) and why.code == "rct-no-baseline"
    twice = replace(record, disks=(disk, *record.disks))
    assert (why := why_not_tracked(twice, record.vm, disk)) and why.code == "rct-disk-unknown"


@given(records)
def test_a_record_survives_json(record: TrackingRecord) -> None:
    assert TrackingRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"reference_point": 1, "vm": {}, "disks": []},
        {"reference_point": "a", "vm": None, "disks": []},
        {"reference_point": "a", "vm": {"tree": 3}, "disks": []},
    ],
)
def test_anything_else_is_no_record(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not a record"):
        TrackingRecord.from_json(fields)


def test_facts_of_a_vm_without_checkpoints_know_that_none_was_applied() -> None:
    bare = VmFacts(VmRef("A", "a"), configuration_version="9.0", replication=ReplicationFacts("none"))
    assert TrackedVm.of(bare) == TrackedVm((), "", "9.0", "none")


def test_an_unknown_last_applied_beside_checkpoints_stays_unknown() -> None:
    checkpoint = CheckpointFacts("Microsoft:1", "A", "user's", "user")
    vm = VmFacts(VmRef("A", "a"), checkpoints=(checkpoint,))
    assert TrackedVm.of(vm) == TrackedVm((("Microsoft:1", ""),), None, None, None)
