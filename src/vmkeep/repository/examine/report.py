"""What an examination found: what is wrong with which object, and what each restore point is worth."""

from dataclasses import dataclass, field, replace
from enum import StrEnum

from vmkeep.errors import VmkeepError
from vmkeep.repository.errors import Unreadable
from vmkeep.repository.manifest import format_time, parse_time
from vmkeep.repository.packs import PackRef


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: the object, and what is the matter with it.

    ``harmless`` problems cost speed or tidiness, never data. ``points`` are the
    ids of the restore points that lack something because of it.
    """

    object: str
    message: str
    harmless: bool = False
    points: tuple[str, ...] = ()


class State(StrEnum):
    """What an examination can say of a restore point.

    ``WHOLE``: all of its bytes were read and are right. ``NOT_EXAMINED``: nothing
    is known to be wrong, and not all of its bytes were read.
    """

    WHOLE = "whole"
    DAMAGED = "damaged"
    NOT_EXAMINED = "not examined"


@dataclass(frozen=True)
class Loss:
    """What cannot be read back of one disk or file: in bytes, and the first few (offset, length)."""

    name: str
    bytes: int
    ranges: tuple[tuple[int, int], ...]
    ranges_left_off: int = 0


@dataclass(frozen=True)
class PointState:
    """One restore point; what only its manifest tells is None when that cannot be read."""

    id: str
    vm: str | None
    vm_id: str | None
    time: str | None
    object: str
    state: State
    losses: tuple[Loss, ...] = ()


def state_by_name(name: str, state: State) -> PointState:
    """Return what the object's name tells about a restore point: its id, and its time to the second."""
    stamp, _, point_id = name.rpartition("/")[2].partition("-")
    try:
        time = format_time(parse_time(stamp))
    except ValueError:
        time = None  # a name nobody gave
    return PointState(point_id, None, None, time, name, state)


@dataclass
class Report:
    """What an examination covered and found.

    Of the packs, ``verified`` are those of which every byte was read and is right,
    ``damaged`` those that are there and wrong, ``gone`` those that must be there and are not.
    ``unreadable`` are names of objects that could not be read this time, ``unseen`` those of
    restore points that were there once: what they need nobody can tell while they are away.
    """

    packs: int = 0
    bytes_read: int = 0
    points: list[PointState] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    verified: frozenset[PackRef] = frozenset()
    damaged: frozenset[PackRef] = frozenset()
    gone: frozenset[PackRef] = frozenset()
    unreadable: set[str] = field(default_factory=set)
    unseen: set[str] = field(default_factory=set)

    @property
    def ok(self) -> bool:
        return all(problem.harmless for problem in self.problems)

    @property
    def readable_points(self) -> int:
        """How many restore points have a manifest that could be read."""
        return sum(point.vm_id is not None for point in self.points)

    def count(self, state: State) -> int:
        """Return how many restore points are in this state."""
        return sum(point.state is state for point in self.points)

    def add(self, name: str, error: VmkeepError | str, *, harmless: bool = False) -> None:
        message = error if isinstance(error, str) else error.message
        if isinstance(error, Unreadable):
            self.unreadable.add(name)
        problem = Problem(name, message, harmless)
        if problem not in self.problems:
            self.problems.append(problem)

    def packs_named(self) -> frozenset[PackRef]:
        """Return the packs that problems speak of."""
        found = {PackRef.from_name(problem.object) for problem in self.problems if not problem.harmless}
        return frozenset(ref for ref in found if ref is not None)

    def blame(self, affected: dict[str, list[str]]) -> None:
        """Note with each object which restore points (by id) lack something because of it."""
        self.problems = [
            replace(problem, points=tuple(affected.get(problem.object, problem.points)))
            for problem in self.problems
        ]
