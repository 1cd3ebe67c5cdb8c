"""The tracker's answers: rounded, windowed, forgotten, coarse, lost, and lying when it is told to."""

from pathlib import Path

import pytest

from vmkeep_lab.disks import (
    BadRequest,
    ChangeTracker,
    TrackingIdInvalid,
    TrackingLost,
    TrackingOff,
    VirtualDisk,
)

KIB, MIB = 1 << 10, 1 << 20
SIZE = 100 * MIB + 512

pytestmark = pytest.mark.quick


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "disk.vhdx.rct"


def test_ranges_are_whole_granules_cut_at_the_end_of_the_disk(table: Path) -> None:
    tracker = ChangeTracker.open(table, SIZE)
    mark = tracker.mark()
    tracker.note(70 * KIB, 1)
    tracker.note(127 * KIB, 2 * KIB)
    tracker.note(SIZE - 512, 512)
    assert tracker.changes(mark, 0, SIZE) == ([(64 * KIB, 128 * KIB), (100 * MIB, 512)], SIZE)
    assert tracker.changes(mark, 0, SIZE - 512) == ([(64 * KIB, 128 * KIB)], SIZE - 512)


def test_a_window_cuts_ranges_and_an_answer_may_end_early(table: Path) -> None:
    tracker = ChangeTracker.open(table, SIZE, granularity=4 * KIB)
    mark = tracker.mark()
    for block in (1, 3, 5):
        tracker.note(block * 4 * KIB, 4 * KIB)
    assert tracker.changes(mark, 6 * KIB, 8 * KIB) == (
        [(6 * KIB, 2 * KIB), (12 * KIB, 2 * KIB)],
        8 * KIB,
    )
    assert tracker.changes(mark, 0, MIB, most_ranges=2) == (
        [(4 * KIB, 4 * KIB), (12 * KIB, 4 * KIB)],
        16 * KIB,
    )
    assert tracker.changes(mark, 16 * KIB, MIB, most_ranges=2) == ([(20 * KIB, 4 * KIB)], MIB)
    assert tracker.changes(mark, 0, 0) == ([], 0)
    with pytest.raises(BadRequest):
        tracker.changes(mark, SIZE - 512, 513)


def test_each_mark_sees_what_came_after_it(table: Path) -> None:
    tracker = ChangeTracker.open(table, SIZE)
    first = tracker.mark()
    tracker.note(0, 512)
    second = tracker.mark()
    tracker.note(MIB, 512)
    third = tracker.mark()
    granule = 64 * KIB
    assert tracker.changes(first, 0, SIZE)[0] == [(0, granule), (MIB, granule)]
    assert tracker.changes(second, 0, SIZE)[0] == [(MIB, granule)]
    assert tracker.changes(third, 0, SIZE)[0] == []
    tracker.forget(second)
    assert tracker.changes(first, 0, SIZE)[0] == [(0, granule), (MIB, granule)]
    tracker.forget(first)
    assert tracker.changes(third, 0, SIZE)[0] == []
    assert tracker.marks == [third]


def test_refusals_carry_the_codes_of_windows(table: Path) -> None:
    tracker = ChangeTracker.open(table, SIZE)
    tracker.note(0, 512)
    elsewhere = ChangeTracker.open(table.with_name("other.vhdx.rct"), SIZE).mark()
    with pytest.raises(TrackingOff) as off:
        tracker.changes(elsewhere, 0, SIZE)
    mark = tracker.mark()
    with pytest.raises(TrackingLost) as lost:
        tracker.changes(elsewhere, 0, SIZE)
    with pytest.raises(TrackingIdInvalid) as invalid:
        tracker.changes("no id", 0, SIZE)
    tracker.lose()
    with pytest.raises(TrackingLost):
        tracker.changes(mark, 0, SIZE)
    assert [hex(refusal.value.code) for refusal in (off, lost, invalid)] == [
        "0xc03a002a",
        "0xc03a0030",
        "0xc03a0029",
    ]


def test_ids_survive_a_restart_and_are_never_given_twice(table: Path) -> None:
    tracker = ChangeTracker.open(table, SIZE)
    first = tracker.mark()
    tracker.note(5 * MIB, 512)
    tracker.close()
    tracker = ChangeTracker.open(table, SIZE)
    assert tracker.changes(first, 0, SIZE)[0] == [(5 * MIB, 64 * KIB)]
    tracker.forget(first)
    assert tracker.mark() != first


def test_after_an_unclean_stop_whole_regions_count_as_changed(table: Path) -> None:
    tracker = ChangeTracker.open(table, SIZE, region=4 * MIB)
    mark = tracker.mark()
    tracker.note(5 * MIB, 512)
    tracker.note(SIZE - 512, 512)
    tracker.note(0, 512)
    tracker.crash()
    tracker = ChangeTracker.open(table, SIZE, region=4 * MIB)
    assert tracker.changes(mark, 0, SIZE)[0] == [(0, 8 * MIB), (100 * MIB, 512)]
    tracker.close()
    assert table.with_suffix(".mrt").read_bytes() == b""


def test_coarse_answers_on_request(table: Path) -> None:
    tracker = ChangeTracker.open(table, SIZE, region=4 * MIB)
    mark = tracker.mark()
    tracker.note(8 * MIB - 512, 1024)
    tracker.mrt_mode()
    assert tracker.changes(mark, 0, SIZE)[0] == [(4 * MIB, 8 * MIB)]
    tracker.note(0, 512)
    assert tracker.changes(mark, 0, SIZE)[0] == [(0, 64 * KIB), (4 * MIB, 8 * MIB)]


def test_a_resized_disk_has_lost_its_ids(table: Path) -> None:
    tracker = ChangeTracker.open(table, SIZE)
    mark = tracker.mark()
    tracker.close()
    tracker = ChangeTracker.open(table, SIZE + MIB)
    with pytest.raises(TrackingLost):
        tracker.changes(mark, 0, SIZE)


def test_after_a_revert_it_lies(tmp_path: Path, table: Path) -> None:
    """The trap: the disk differs from what it was at the mark, and the answer says that nothing does."""
    disk = VirtualDisk.create(tmp_path / "disk.vhdx", 3 * MIB, block_size=MIB)
    disk.tracker = ChangeTracker.open(table, disk.size)
    disk.checkpoint(tmp_path / "a.avhdx", host_path="C:\\disk.vhdx", block_size=MIB)
    disk.write(0, b"gone with the revert" * 128)
    mark = disk.tracker.mark()
    at_the_mark = disk.read(0, disk.size)
    disk.write(MIB, b"gone as well" * 128)
    disk.revert(tmp_path / "disk.vhdx", tmp_path / "b.avhdx", host_path="C:\\disk.vhdx", block_size=MIB)
    disk.tracker.lie_after_revert()
    assert disk.read(0, disk.size) != at_the_mark
    assert disk.tracker.changes(mark, 0, disk.size) == ([], disk.size)
    disk.write(2 * MIB, bytes(512))
    assert disk.tracker.changes(mark, 0, disk.size)[0] == [(2 * MIB, 64 * KIB)]
    disk.close()


def test_all_that_a_guest_does_is_noted(tmp_path: Path, table: Path) -> None:
    disk = VirtualDisk.create(tmp_path / "disk.vhdx", 3 * MIB, block_size=MIB)
    disk.tracker = ChangeTracker.open(table, disk.size)
    disk.write(0, bytes(512))
    mark = disk.tracker.mark()
    disk.write(0, bytes(512))
    disk.zero(MIB, 512)
    disk.unmap(2 * MIB, 512)
    assert [start for start, _ in disk.tracker.changes(mark, 0, disk.size)[0]] == [0, MIB, 2 * MIB]
    disk.close()
