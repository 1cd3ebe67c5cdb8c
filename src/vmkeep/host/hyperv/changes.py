"""Ask which ranges of a disk have changed, in windows that the host can answer.

One answer must fit into one envelope, and the host may process less of a window
than it was asked for (hyperv-backup-api.md section 0, fact 8). So a window
begins large, is halved when its answer does not fit, grows again over quiet
parts, and the next one begins where the host stopped.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from vmkeep.host.hyperv.classes import READ_DISK_CHANGES
from vmkeep.host.hyperv.errors import (
    ChangesUnknown,
    NotSupported,
    OperationFailed,
    RequestRefused,
    TrackingLost,
)
from vmkeep.host.hyperv.jobs import HyperV, Kind, Outcome, Waiting, perform
from vmkeep.host.wsman import (
    ActionHappened,
    Argument,
    EnvelopeTooLarge,
    HostFault,
    HostNonsense,
    Result,
    ValueRefused,
)
from vmkeep.ranges import ByteRange, clip, normalise

LARGEST_WINDOW: Final = 64 << 30
SMALLEST_WINDOW: Final = 16 << 20
# Fewer ranges than this leave room for a window of twice the size: an envelope holds about 4000.
_QUIET: Final = 1500
# Of more ranges than this the list alone takes as long as reading, and memory.
_MOST_RANGES: Final = 2_000_000
# So many answers in a row have to tell of so many bytes each, in the mean: a question takes about as
# long as reading them. Windows begin at four times that, so only a host that inches along tells less.
_IN_A_ROW: Final = 32
_LEAST_PROGRESS: Final = SMALLEST_WINDOW // 4
# The VM is held meanwhile: so long may all questions about a disk take, and as long again as its size
# takes at this rate, many times that of a network. Of one question so much counts, whatever silence
# of the host it outlived.
_PATIENCE_S: Final = 60.0
_BYTES_A_SECOND: Final = 4 << 30
_LONGEST_QUESTION_S: Final = 10.0


class Answer(NamedTuple):
    """What a host says of one window: how many bytes of it were looked at, and what changed in them."""

    processed: int
    ranges: Sequence[ByteRange]


Ask = Callable[[ByteRange], Answer | None]


def changed_ranges(host: HyperV, path: str, rct_id: str, size: int) -> list[ByteRange]:
    """Return what has changed on a disk since the RCT identifier was given, as a range list within ``size``.

    ``path`` is the frozen file of the checkpoint (its HostResource), ``size`` the
    virtual size in bytes. Safe to repeat. Raises TrackingLost and ChangesUnknown,
    after which all of the disk must be read; an incomplete answer is never returned.
    """
    left_s = _PATIENCE_S + size / _BYTES_A_SECOND

    def ask(window: ByteRange) -> Answer | None:
        nonlocal left_s
        if left_s <= 0:
            raise ChangesUnknown(
                f"the host is slow to tell the changes of {path}: it is at {window.offset} of {size} bytes."
            )
        host.watch(Waiting(f"list the changes of {path}", 0.0, 100 * window.offset // size))
        started = host.clock.monotonic()
        answer = _ask(host, path, rct_id, window)
        left_s -= min(host.clock.monotonic() - started, _LONGEST_QUESTION_S)
        return answer

    return normalise(walk(size, ask))


def walk(size: int, ask: Ask) -> Iterator[ByteRange]:
    """Yield the changed ranges of ``[0, size)``, window by window, in the order they were told.

    ``ask`` returns None for an answer that does not fit. Raises ChangesUnknown
    when the smallest window does not fit either, when the host processed nothing or
    more than it was asked for, or when it inches along.
    """
    offset, window = 0, LARGEST_WINDOW
    told = answers = looked_at = 0
    while offset < size:
        length = min(window, size - offset)
        answer = ask(ByteRange(offset, length))
        if answer is None:
            if length <= SMALLEST_WINDOW:
                raise ChangesUnknown(
                    f"the changes of the {length} bytes from {offset} on do not fit into an answer."
                )
            window = max(SMALLEST_WINDOW, _half(length))
            continue
        if not 0 < answer.processed <= length:
            raise ChangesUnknown(
                f"the host looked at {answer.processed} bytes of the {length} from {offset} on."
            )
        told += len(answer.ranges)
        if told > _MOST_RANGES:
            raise ChangesUnknown(f"the host lists more than {_MOST_RANGES} changed ranges.")
        yield from clip(answer.ranges, 0, size)
        offset += answer.processed
        answers += 1
        if answers % _IN_A_ROW == 0:
            if offset < min(size, looked_at + _IN_A_ROW * _LEAST_PROGRESS):
                raise ChangesUnknown(
                    f"the host inches along: {_IN_A_ROW} answers told of {offset - looked_at} bytes."
                )
            looked_at = offset
        if len(answer.ranges) < _QUIET:
            window = min(LARGEST_WINDOW, 2 * window)


def _half(length: int) -> int:
    """Return the largest power of two that is at most half of a length, so that windows stay aligned."""
    return 1 << (length.bit_length() - 2)


def _ask(host: HyperV, path: str, rct_id: str, window: ByteRange) -> Answer | None:
    """Ask for one window; None if the answer cannot be delivered in this size."""
    # TargetSnapshotId is for VHD Sets only and left out (hyperv-backup-api.md 2.1).
    arguments: dict[str, Argument] = {
        "Path": path,
        "LimitId": rct_id,
        "ByteOffset": window.offset,
        "ByteLength": window.length,
    }
    try:
        done = perform(host, READ_DISK_CHANGES, arguments, Kind.READ_CHANGES, path)
    except (EnvelopeTooLarge, ActionHappened):
        return None
    except RequestRefused as error:
        # Believed (docs/believed.md): of what we send, the identifier alone can be wrong.
        lost = TrackingLost(f"the host does not know the RCT identifier of {path}.")
        raise lost.with_facts_of(error) from error
    except (OperationFailed, NotSupported, HostFault, HostNonsense) as error:
        unknown = ChangesUnknown(f"the host cannot tell the changes of {path}: {error.message}")
        raise unknown.with_facts_of(error) from error
    if done.job is not None or done.outcome is not Outcome.COMPLETED:
        # The output of a job is lost on this protocol. Believed (docs/believed.md), for it was never
        # seen: a smaller window is answered at once.
        return None
    return _answer(done.result, path)


def _answer(result: Result, path: str) -> Answer:
    try:
        processed = result.integer("ProcessedByteLength")
        offsets, lengths = result.integers("ChangedByteOffsets"), result.integers("ChangedByteLengths")
    except ValueRefused as error:
        raise ChangesUnknown(f"the host's changes of {path} cannot be read: {error.message}") from error
    if len(offsets) != len(lengths) or any(number < 0 for number in (*offsets, *lengths)):
        raise ChangesUnknown(f"the host lists {len(offsets)} offsets and {len(lengths)} lengths for {path}.")
    return Answer(processed, [ByteRange(*pair) for pair in zip(offsets, lengths, strict=True)])
