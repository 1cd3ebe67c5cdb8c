"""Every byte that differs between two instants lies in the ranges answered for the first."""

import random
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from vmkeep_lab.disks import ChangeTracker, GuestWriter, VirtualDisk
from vmkeep_lab.disks import bits as rows

MIB = 1 << 20
SIZE = 6 * MIB + 7 * 512

pytestmark = pytest.mark.quick


def all_changes(tracker: ChangeTracker, since: str, window: int, most: int) -> list[tuple[int, int]]:
    """Ask for the whole disk in windows, as a caller with small envelopes must."""
    ranges, offset = [], 0
    while offset < SIZE:
        found, covered = tracker.changes(since, offset, min(window, SIZE - offset), most)
        assert 0 < covered <= window
        assert len(found) <= most
        assert all(offset <= start and start + length <= offset + covered for start, length in found)
        ranges += found
        offset += covered
    return ranges


def assert_covered(before: bytes, after: bytes, ranges: list[tuple[int, int]]) -> None:
    rest_before, rest_after = bytearray(before), bytearray(after)
    for offset, length in ranges:
        rest_before[offset : offset + length] = rest_after[offset : offset + length] = bytes(length)
    assert rest_before == rest_after


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 1 << 32),
    granularity=st.sampled_from([4096, 65536, 2 * MIB]),
    window=st.sampled_from([100_000, MIB, SIZE]),
    most=st.sampled_from([1, 3, 1000]),
    events=st.lists(
        st.sampled_from(["write", "mark", "forget", "checkpoint", "merge", "restart", "kill", "coarse"]),
        min_size=3,
        max_size=12,
    ),
)
def test_no_change_is_missed(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    granularity: int,
    window: int,
    most: int,
    events: list[str],
) -> None:
    folder = tmp_path_factory.mktemp("tracked")
    table = folder / "disk.vhdx.rct"
    disk = VirtualDisk.create(folder / "disk.vhdx", SIZE, block_size=MIB, seed=seed)

    def track() -> ChangeTracker:
        return ChangeTracker.open(table, SIZE, granularity=granularity, region=2 * MIB, seed=seed)

    disk.tracker = tracker = track()
    chooser = random.Random(seed)
    instants = {tracker.mark(): disk.read(0, SIZE)}
    position = 0
    for number, event in enumerate(events):
        guest = GuestWriter(disk, seed, position)
        guest.step(3)
        position = guest.position
        if event == "mark":
            instants[tracker.mark()] = disk.read(0, SIZE)
        elif event == "forget" and len(instants) > 1:
            mark = chooser.choice(sorted(instants))
            tracker.forget(mark)
            del instants[mark]
        elif event == "checkpoint":
            disk.checkpoint(folder / f"{number}.avhdx", host_path="C:\\disk.vhdx", block_size=MIB)
        elif event == "merge" and len(disk.files) > 1:
            disk.merge(disk.leaf)
        elif event in {"restart", "kill"}:
            if event == "kill":
                disk.crash()
            else:
                disk.close()
            disk = VirtualDisk.open(disk.leaf, seed=seed)
            disk.tracker = tracker = track()
        elif event == "coarse":
            tracker.mrt_mode()
    now = disk.read(0, SIZE)
    assert tracker.marks == list(instants)
    for mark, before in instants.items():
        assert_covered(before, now, all_changes(tracker, mark, window, most))
    disk.close()


@given(
    st.lists(st.tuples(st.integers(0, 499), st.integers(0, 200), st.booleans()), max_size=20),
    st.integers(0, 499),
    st.integers(0, 200),
)
def test_rows_of_bits_against_a_list(changes: list[tuple[int, int, bool]], start: int, count: int) -> None:
    row, model = rows.new_row(700), [False] * 700
    for first, length, value in changes:
        rows.set_range(row, first, length, value)
        model[first : first + length] = [value] * length
    assert [bool(row[i // 8] >> i % 8 & 1) for i in range(700)] == model
    seen: list[bool] = []
    previous = None
    for first, length, value in rows.runs(row, start, count):
        assert first == start + len(seen)
        assert length > 0
        assert value is not previous
        previous = value
        seen += [value] * length
    assert seen == model[start : start + count]
    assert rows.is_full(row, start, count) == all(model[start : start + count])


def test_ids_depend_on_the_seed_alone(tmp_path: Path) -> None:
    made = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        tracker = ChangeTracker.open(tmp_path / name / "disk.vhdx.rct", SIZE, seed=seed)
        made.append(tracker.mark())
        tracker.close()
    assert made[0] == made[1] != made[2]
