"""Name the states of a held VM, and what is written down before each change on the host.

The records are made for a stranger: another machine that has nothing but the
journal takes away what a dead run left (:mod:`vmkeep.capture.sweep`). Details
are JSON's own types; the keys are listed with each step.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, Protocol


class Journal(Protocol):
    """Where a run writes down what it is about to do."""

    def step(self, name: str, detail: Mapping[str, Any], /) -> None:
        """Store a step durably; nothing it announces is done before this returns."""

    def renew(self) -> None:
        """Say that the run lives; raises when somebody else has ended it."""


class HoldState(Enum):
    """Where a hold is; the value is the step in the journal that leads there."""

    # vm, owner, known_checkpoints, since (the host's time), power, level: about to make a checkpoint
    PREPARED = "hold-prepared"
    # checkpoint, layers {slot: path}, previous (the reference point this hold is to replace): disks are read
    HELD = "hold-held"
    RELEASED = "hold-released"  # checkpoint, reference_point, previous, layers: the merge has begun
    TRACKED = "hold-tracked"  # reference_point, previous: the new tracking is durable, previous may go


# Steps that lead to no other state.
ASKING: Final = "hold-asking"  # since: the call for a checkpoint is sent again, or later than announced
# job: the host has taken the call that was announced last; since: the host's time right before it;
# failed: and was heard to say that it failed
ASKED: Final = "hold-asked"
MADE: Final = "hold-made"  # checkpoint: it exists, and is not named yet
# checkpoint, how (convert, destroy); to convert: known_points, since, disks (how many); of a sweep: layers;
# to destroy, point: UNKNOWN where a conversion came before, and nobody knows what it made
RELEASING: Final = "hold-releasing"
UNKNOWN: Final = "unknown"
DECIDED: Final = "hold-decided"  # not_ours: what a person has said is another program's; of a sweep only

# After one of these something of the run may be on the host.
HOLDING: Final = frozenset({HoldState.PREPARED.value, ASKING, ASKED, MADE, HoldState.HELD.value, RELEASING})

FOLLOWS: Final[Mapping[HoldState | None, frozenset[HoldState]]] = {
    None: frozenset({HoldState.PREPARED}),
    HoldState.PREPARED: frozenset({HoldState.HELD, HoldState.RELEASED}),
    HoldState.HELD: frozenset({HoldState.RELEASED}),
    HoldState.RELEASED: frozenset({HoldState.TRACKED}),
    HoldState.TRACKED: frozenset(),
}


class HoldLog:
    """The state of one hold; every change of it is in the journal first."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.state: HoldState | None = None

    def enter(self, state: HoldState, **detail: Any) -> None:
        """Write a change of state down, and make it. A change that may not be is a defect of the caller."""
        if state not in FOLLOWS[self.state]:
            raise ValueError(f"a hold cannot go from {self.state} to {state}")
        self._journal.step(state.value, detail)
        self.state = state

    def note(self, step: str, **detail: Any) -> None:
        """Write down a step inside a state."""
        self._journal.step(step, detail)

    def renew(self) -> None:
        """Say that the run lives."""
        self._journal.renew()
