"""Changed ranges: windows that shrink and grow, and every answer that is not to be believed."""

from collections.abc import Callable
from typing import Final

import pytest

from tests.fakes.hyperv_host import ENVELOPE_TOO_LARGE, Called, TableHost, returns
from tests.fakes.hyperv_rows import job, job_ref
from tests.fakes.wsman_host import Question, Reply, fault
from vmkeep.host.hyperv import ChangesUnknown, FileInUse, HostDenied, TrackingLost, VmBusy, changed_ranges
from vmkeep.host.hyperv.changes import LARGEST_WINDOW, SMALLEST_WINDOW
from vmkeep.host.wsman import ConnectionLost, HostError, HostTimedOut, UnknownToHost
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


@pytest.mark.parametrize("size", [64 << 20, 10 << 40])
def test_a_host_that_inches_along_is_given_up(size: int) -> None:
    host = TableHost()
    host.on(CHANGES, changes(processed=1))
    with pytest.raises(ChangesUnknown, match="inches"):
        asked(host, size)
    assert len(windows(host)) <= 50


def test_a_host_that_begins_to_inch_along_is_given_up() -> None:
    def step(called: Called) -> Reply:
        is_early = int(called.inputs["ByteOffset"]) < 5 << 40
        return changes(processed=int(called.inputs["ByteLength"]) if is_early else 4096)(called)

    host = TableHost()
    host.on(CHANGES, step)
    with pytest.raises(ChangesUnknown, match="inches"):
        asked(host, 10 << 40)
    assert len(windows(host)) <= 5 * 1024 // 64 + 2 * 50


def test_a_host_that_fills_each_answer_and_stops_is_believed() -> None:
    """4000 changed sectors of 4 KiB, every second one: as much as an envelope holds (facts of section 0)."""
    size, told = 2 << 30, 4000 * 8192

    def step(called: Called) -> Reply:
        offset = int(called.inputs["ByteOffset"])
        return changes((offset, 4096), processed=min(told, int(called.inputs["ByteLength"])))(called)

    host = TableHost()
    host.on(CHANGES, step)
    found = asked(host, size)
    assert [each.offset for each in found] == list(range(0, size, told))


def slow(host: TableHost, seconds: float, questions: int = 10**9) -> None:
    """Let the first questions take so long each."""
    asked_yet = iter(range(questions))

    def before(_: Question) -> None:
        if next(asked_yet, None) is not None:
            host.clock.advance(seconds)

    host.before = before


def test_a_host_that_is_slow_to_tell_is_given_up() -> None:
    """64 GiB at 110 MB/s, a network of 1 Gbit/s, are read in ten minutes; asking takes no fifth of it."""
    host = TableHost()
    host.on(CHANGES, changes(processed=SMALLEST_WINDOW))
    slow(host, 5.0)
    began = host.clock.monotonic()
    with pytest.raises(ChangesUnknown, match="slow to tell"):
        asked(host, 64 << 30)
    assert host.clock.monotonic() - began < 120


def test_a_silence_that_was_outlived_is_not_held_against_a_host() -> None:
    host = TableHost()
    host.on(CHANGES, changes(processed=SIZE // 4))
    slow(host, 290.0, questions=1)
    asked(host)
    assert len(windows(host)) == 4


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


# A number that is none, a document type (SOAP 1.2, part 1, section 5: none may be there), another
# element than the method's, and no envelope at all.
NONSENSE: Final = [
    Reply(
        '<p:GetVirtualDiskChanges_OUTPUT xmlns:p="http://schemas.microsoft.com/wbem/wsman/1/wmi/root/'
        'virtualization/v2/Msvm_ImageManagementService"><p:ReturnValue>zwei</p:ReturnValue>'
        "</p:GetVirtualDiskChanges_OUTPUT>"
    ),
    Reply(content=b'<!DOCTYPE s:Envelope [<!ENTITY x "y">]><s:Envelope/>'),
    Reply("<s:lost/>"),
    Reply(status=500, content=b""),
]


@pytest.mark.parametrize("answer", NONSENSE)
def test_nonsense_is_asked_for_once_more_at_once(answer: Reply) -> None:
    host = TableHost()
    host.on(CHANGES, answer, changes((5, 5), processed=SIZE))
    assert asked(host) == [(5, 5)]
    assert host.clock.slept == []


@pytest.mark.parametrize("answer", NONSENSE)
def test_nonsense_is_no_silence_and_is_given_up(answer: Reply) -> None:
    host = TableHost()
    host.on(CHANGES, answer)
    with pytest.raises(ChangesUnknown, match="answers GetVirtualDiskChanges with nonsense") as caught:
        asked(host)
    assert "nobody knows" not in caught.value.message
    assert (len(host.called("Changes")), host.clock.slept) == (2, [])


@pytest.mark.parametrize("broken", [ConnectionLost, HostTimedOut])
def test_a_lost_answer_is_waited_for(broken: type[HostError]) -> None:
    host = TableHost()
    host.on(CHANGES, changes((5, 5), processed=SIZE))
    silent = iter([True, True, False])

    def before(question: Question) -> None:
        if question.action.endswith("/GetVirtualDiskChanges") and next(silent):
            raise broken("the wire is cut.")

    host.before = before
    assert asked(host) == [(5, 5)]
    assert host.clock.slept == [5.0, 5.0]


def test_whoever_listens_hears_how_far_it_is() -> None:
    host = TableHost()
    host.on(CHANGES, changes(processed=SIZE // 2))
    asked(host)
    assert [wait.percent for wait in host.waits] == [0, 50]
