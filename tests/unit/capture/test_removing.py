"""After which errors a checkpoint may have been made that nobody heard of."""

import pytest

from vmkeep.capture.removing import has_begun
from vmkeep.host.hyperv import CheckpointUnidentified, HyperVError
from vmkeep.host.wsman import (
    ConnectionLost,
    HostBusy,
    HostFault,
    HostNonsense,
    HostTimedOut,
    HostUnreachable,
    InstanceMissing,
    OutcomeUnknown,
    RightMissing,
    UnknownToHost,
)

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    "error",
    [
        HostFault("refused"), RightMissing("denied"), UnknownToHost("what?"), InstanceMissing("gone"),
        HostBusy("later"), HostUnreachable("nobody"), HyperVError("refused by its code", return_code=32775),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_what_was_refused_or_never_arrived_has_begun_nothing(error: Exception) -> None:
    assert not has_begun(error)


@pytest.mark.parametrize(
    "error",
    [
        OutcomeUnknown("lost"), ConnectionLost("cut"), HostTimedOut("silence"), HostNonsense("garbled"),
        CheckpointUnidentified("several"), HyperVError("its job failed", error_code=32768),
        HyperVError("its job is overdue", job="1"), KeyboardInterrupt(),
        HostFault("its job could not be asked", job="1"), RightMissing("its job was kept secret", job="1"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_whatever_else_happened_it_may_be_there(error: BaseException) -> None:
    assert has_begun(error)
