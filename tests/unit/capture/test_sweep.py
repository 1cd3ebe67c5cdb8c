"""What a sweep makes of a journal before it asks any host."""

from typing import cast

import pytest

from tests.clocks import FakeClock
from tests.lab_captures import OWNER
from vmkeep.capture.states import HoldState
from vmkeep.capture.sweep import short_id, sweep
from vmkeep.capture.traces import read_trace
from vmkeep.host.hyperv import HyperV
from vmkeep.host.wsman import Client

pytestmark = pytest.mark.quick


@pytest.fixture
def nobody(fake_clock: FakeClock) -> HyperV:
    """A host that cannot be asked anything."""
    return HyperV(cast(Client, None), fake_clock)


def test_a_run_that_held_nothing_left_nothing(nobody: HyperV) -> None:
    assert sweep(nobody, [], OWNER) == ()
    assert sweep(nobody, [("begun", {}), ("claimed", {}), ("writing", {"bytes": 3})], OWNER) == ()


def test_a_journal_that_lost_its_beginning_is_not_called_clean(nobody: HyperV) -> None:
    (left,) = sweep(nobody, [("hold-made", {"checkpoint": "Microsoft:1"})], OWNER)
    assert not left.is_clean


@pytest.mark.parametrize(
    "pasted",
    [
        "Microsoft:0A1B2C3D-0000-4000-8000-00000000000E",
        "microsoft:AAAAAAAA-0000-4000-8000-00000000000A\\0a1b2c3d-0000-4000-8000-00000000000e",
        "Microsoft:AAAAAAAA-0000-4000-8000-00000000000A\\\\0A1B2C3D-0000-4000-8000-00000000000E",
        "'Microsoft:0A1B2C3D-0000-4000-8000-00000000000E'",
        " 0a1b2c3d-0000-4000-8000-00000000000E\n",
    ],
)
def test_an_id_is_taken_as_it_is_pasted(pasted: str) -> None:
    assert short_id(pasted) == "0a1b2c3d-0000-4000-8000-00000000000e"


def test_a_record_that_lacks_what_it_has_to_say_counts_as_lost() -> None:
    held = ("hold-prepared", {"vm": "AA", "known_checkpoints": []})
    whole = read_trace([held, ("hold-asked", {"job": "J"}), ("hold-decided", {"not_ours": ["B"]})])
    assert whole is not None
    assert (whole.vm_id, whole.job, whole.is_whole) == ("AA", "j", True)
    assert set(whole.disowned) == {"B"}
    for step in ("hold-asked", "hold-releasing", "hold-decided"):
        partial = read_trace([held, (step, {"checkpoint": "C"})])
        assert partial is not None
        assert (partial.vm_id, partial.checkpoint, partial.is_whole) == ("AA", "C", False)
    moment = read_trace([("hold-prepared", {"vm": "AA", "known_checkpoints": [], "since": "soon"})])
    assert moment is not None
    assert (moment.vm_id, moment.is_whole) == ("", False)


def test_what_came_before_the_last_hold_is_over() -> None:
    last = read_trace(
        [
            ("hold-prepared", {"vm": "AA", "known_checkpoints": ["A"]}),
            ("hold-held", {"checkpoint": "C"}),
            ("hold-prepared", {"vm": "AA", "known_checkpoints": ["B"]}),
        ]
    )
    assert last is not None
    assert (last.known_checkpoints, last.checkpoint, last.state) == (("B",), None, HoldState.PREPARED)
