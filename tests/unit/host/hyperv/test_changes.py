"""Changed ranges: windows that shrink and grow, and every answer that is not to be believed."""

from collections.abc import Callable
from typing import Final

import pytest

from tests.fakes.hyperv_host import ENVELOPE_TOO_LARGE, Called, TableHost, returns
from tests.fakes.hyperv_rows import job, job_ref
from tests.fakes.wsman_host import Reply, fault
from vmkeep.host.hyperv import ChangesUnknown, FileInUse, HostDenied, TrackingLost, VmBusy, changed_ranges
from vmkeep.host.hyperv.changes import LARGEST_WINDOW, SMALLEST_WINDOW
from vmkeep.host.wsman import UnknownToHost
from vmkeep.ranges import ByteRange

pytestmark = pytest.mark.quick

CHANGES: Final = "Msvm_ImageManagementService.GetVirtualDiskChanges"
SIZE: Final = 1 << 30
TOO_LARGE: Final = fault(ENVELOPE_TOO_LARGE, "w:EncodingLimit")


def changes(*pairs: tuple[int, int], processed: int) -> Callable[[Called], Reply]:
    return returns(
        0,
        ProcessedByteLength=processed,
        ChangedByteOffsets=[offset for offset, _ in pairs],
        ChangedByteLengths=[length for _, length in pairs],
    )


def asked(host: TableHost, size: int = SIZE) -> list[ByteRange]:
    return changed_ranges(host.hyperv(), "D:\\leaf.vhdx", "rctX:1", size)


def windows(host: TableHost) -> list[tuple[int, int]]:
    return [
        (int(call.inputs["ByteOffset"]), int(call.inputs["ByteLength"])) for call in host.called("Changes")
    ]


def test_a_small_disk_is_one_question() -> None:
    host = TableHost()
    host.on(CHANGES, changes((4096, 8192), (65536, 4096), processed=SIZE))
    assert asked(host) == [(4096, 8192), (65536, 4096)]
    assert host.calls[0].inputs == {
        "Path": "D:\\leaf.vhdx",
        "LimitId": "rctX:1",
        "ByteOffset": "0",
        "ByteLength": str(SIZE),
    }


def test_nothing_changed_is_an_answer() -> None:
    host = TableHost()
    host.on(CHANGES, returns(0, ProcessedByteLength=SIZE))
    assert asked(host) == []


def test_a_large_disk_is_asked_in_windows() -> None:
    host = TableHost()
    whole = 150 << 30

    def step(called: Called) -> Reply:
        offset, length = int(called.inputs["ByteOffset"]), int(called.inputs["ByteLength"])
        return changes((offset, 4096), processed=length)(called)

    host.on(CHANGES, step)
    assert asked(host, whole) == [(n * LARGEST_WINDOW, 4096) for n in range(3)]
    assert windows(host)[-1] == (2 * LARGEST_WINDOW, whole - 2 * LARGEST_WINDOW)


def test_the_next_window_begins_where_the_host_stopped() -> None:
    host = TableHost()
    host.on(
        CHANGES,
        changes((0, 4096), processed=12345),
        changes((12345, 55), processed=SIZE - 12345),
    )
    assert asked(host) == [(0, 4096), (12345, 55)]
    assert windows(host) == [(0, SIZE), (12345, SIZE - 12345)]


def test_what_does_not_fit_is_asked_for_in_halves_and_grows_again() -> None:
    host = TableHost()
    quarter = SIZE // 4

    def step(called: Called) -> Reply:
        return changes(processed=int(called.inputs["ByteLength"]))(called)

    host.on(CHANGES, TOO_LARGE, TOO_LARGE, step)
    assert asked(host) == []
    assert windows(host) == [
        (0, SIZE),
        (0, SIZE // 2),
        (0, quarter),
        (quarter, 2 * quarter),
        (3 * quarter, quarter),
    ]


def test_what_never_fits_is_unknown() -> None:
    host = TableHost()
    host.on(CHANGES, TOO_LARGE)
    with pytest.raises(ChangesUnknown, match="do not fit"):
        asked(host)
    assert windows(host)[-1] == (0, SMALLEST_WINDOW)
    assert len(windows(host)) == 7


def test_ranges_beyond_the_disk_are_cut() -> None:
    host = TableHost()
    host.on(CHANGES, changes((SIZE - 10, 4096), (SIZE + 5, 10), processed=SIZE))
    assert asked(host) == [(SIZE - 10, 10)]


@pytest.mark.parametrize(
    "answer",
    [
        changes(processed=0),
        changes(processed=SIZE + 1),
        returns(0, ProcessedByteLength=None),
        returns(0, ChangedByteOffsets=[1], ChangedByteLengths=[1]),
        returns(0, ProcessedByteLength=SIZE, ChangedByteOffsets=[1, 2], ChangedByteLengths=[1]),
        returns(0, ProcessedByteLength=SIZE, ChangedByteOffsets=["x"], ChangedByteLengths=[1]),
        returns(0, ProcessedByteLength=SIZE, ChangedByteOffsets=[-1], ChangedByteLengths=[1]),
    ],
)
def test_an_answer_that_cannot_be_is_unknown(answer: Reply) -> None:
    host = TableHost()
    host.on(CHANGES, answer)
    with pytest.raises(ChangesUnknown):
        asked(host)


@pytest.mark.slow
def test_a_host_that_inches_along_is_given_up() -> None:
    host = TableHost()
    host.on(CHANGES, changes(processed=1))
    with pytest.raises(ChangesUnknown, match="inches"):
        asked(host)


# hyperv-backup-api.md 2.3 step 6: missing, invalid, disabled; and the code believed for an unknown id.
@pytest.mark.parametrize(
    "answer",
    [
        fault(0xC03A0030),
        fault(0xC03A0029),
        returns(0xC03A002A),
        returns(32773),
        returns(4),
    ],
)
def test_a_lost_tracking_is_told(answer: Reply) -> None:
    host = TableHost()
    host.on(CHANGES, answer)
    with pytest.raises(TrackingLost):
        asked(host)


def test_a_lost_tracking_that_a_job_tells() -> None:
    host = TableHost()
    host.on(CHANGES, returns(4096, Job=job_ref("J1", "Msvm_StorageJob")))
    host.on("Msvm_StorageJob.GetErrorEx", returns(0, Errors=[]))
    host.rows["Msvm_StorageJob"] = [job(state=10, ErrorCode=32768, ErrorDescription="... (0xC03A0030)")]
    with pytest.raises(TrackingLost) as caught:
        asked(host)
    assert caught.value.context["hresults"] == (0xC03A0030,)


@pytest.mark.parametrize(
    "answer", [returns(32768), returns(2), returns(32779), returns(1), fault(0x80041001)]
)
def test_any_other_failure_means_reading_all(answer: Reply) -> None:
    host = TableHost()
    host.on(CHANGES, answer)
    with pytest.raises(ChangesUnknown) as caught:
        asked(host)
    assert not isinstance(caught.value, TrackingLost)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (returns(32775), VmBusy),
        (returns(32769), HostDenied),
        (fault(0x80070020), FileInUse),
        (fault(0x8004102E), UnknownToHost),
    ],
)
def test_what_says_nothing_about_tracking_is_not_called_so(answer: Reply, error: type[Exception]) -> None:
    host = TableHost()
    host.on(CHANGES, answer)
    with pytest.raises(error) as caught:
        asked(host)
    assert not isinstance(caught.value, ChangesUnknown)


def test_an_answer_given_to_a_job_is_asked_for_again_in_half() -> None:
    host = TableHost()
    host.rows["Msvm_StorageJob"] = [job(state=7)]
    half = SIZE // 2
    host.on(
        CHANGES,
        returns(4096, Job=job_ref("J1", "Msvm_StorageJob")),
        changes((5, 5), processed=half),
    )
    assert asked(host) == [(5, 5)]
    assert windows(host) == [(0, SIZE), (0, half), (half, half)]


def test_a_lost_answer_is_asked_for_again() -> None:
    host = TableHost()
    host.on(CHANGES, Reply("<s:lost/>"), changes((5, 5), processed=SIZE))
    assert asked(host) == [(5, 5)]


def test_whoever_listens_hears_how_far_it_is() -> None:
    host = TableHost()
    host.on(CHANGES, changes(processed=SIZE // 2))
    asked(host)
    assert [wait.percent for wait in host.waits] == [0, 50]
