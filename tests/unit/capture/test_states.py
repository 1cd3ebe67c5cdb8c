"""The states of a hold, and that each is in the journal before it is true."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.lab_captures import NotedJournal
from vmkeep.capture.states import HoldLog, HoldState

pytestmark = pytest.mark.quick

WAYS = {
    (None, HoldState.PREPARED),
    (HoldState.PREPARED, HoldState.HELD),
    (HoldState.PREPARED, HoldState.RELEASED),
    (HoldState.HELD, HoldState.RELEASED),
    (HoldState.RELEASED, HoldState.TRACKED),
}


@pytest.mark.parametrize("before", [None, *HoldState])
@pytest.mark.parametrize("after", list(HoldState))
def test_a_hold_goes_forward_only(before: HoldState | None, after: HoldState) -> None:
    log = HoldLog(journal := NotedJournal())
    log.state = before
    if (before, after) in WAYS:
        log.enter(after, checkpoint="Microsoft:1")
        assert log.state is after
        assert journal.records == [(after.value, {"checkpoint": "Microsoft:1"})]
    else:
        with pytest.raises(ValueError, match="cannot go"):
            log.enter(after)
        assert (log.state, journal.records) == (before, [])


def test_a_state_that_cannot_be_written_down_is_not_entered() -> None:
    class Full(NotedJournal):
        def step(self, name: str, detail: Mapping[str, Any]) -> None:
            raise OSError(28, "No space left on device")

    log = HoldLog(Full())
    with pytest.raises(OSError, match="No space"):
        log.enter(HoldState.PREPARED)
    assert log.state is None
