"""How consistent a restore point is, and how much of it the user insists on."""

from dataclasses import dataclass
from enum import Enum
from typing import Literal, Self


class Consistency(Enum):
    """The consistency of a restore point; what each level proves, best first.

    A VM that is off may have been shut down or have lost its power: as long as nothing proves the
    former, the level satisfies nothing better than itself (decision 0019).
    """

    APPLICATION = "application"  # Windows writers flushed: asked for, succeeded, and read back
    FILESYSTEM = "filesystem"  # the guest's file systems were frozen
    SAVED = "saved"  # memory and disks of one instant
    OFF = "off"  # the VM was off, however it went off
    CRASH = "crash"  # as after a power cut

    def satisfies(self, required: "Consistency") -> bool:
        """Tell whether a point of this level is good enough for ``required``."""
        order = list(Consistency)
        return order.index(self) <= order.index(required)


@dataclass(frozen=True)
class Policy:
    """What the user asks of a restore point's consistency.

    ``required``: refused when not promised, exit 3 when promised but missed; exit 3, too, of a VM that is
    off, where better than that is required.
    ``preferred``: exit 3 only when weaker than promised. ``any``: never 3.
    """

    mode: Literal["required", "preferred", "any"] = "preferred"
    level: Consistency | None = None
    allow_interruption: bool = False

    @classmethod
    def parse(cls, text: str, *, allow_interruption: bool = False) -> Self:
        """Read ``required:LEVEL``, ``preferred`` or ``any``; ValueError names what is allowed."""
        mode, _, level = text.partition(":")
        if mode == "required" and level in {c.value for c in Consistency}:
            return cls("required", Consistency(level), allow_interruption)
        if not level and mode == "preferred":
            return cls("preferred", None, allow_interruption)
        if not level and mode == "any":
            return cls("any", None, allow_interruption)
        levels = ", ".join(f"required:{c.value}" for c in Consistency)
        raise ValueError(f"{text!r} is not a consistency policy; use {levels}, preferred or any")

    def __str__(self) -> str:
        return f"required:{self.level.value}" if self.level else self.mode


@dataclass(frozen=True)
class Reason:
    """Why a plan or a point is not better: the fact, what it does, what would mend it."""

    code: str
    fact: str
    effect: str
    fix: str
