"""What is known about a VM before a run, and what the run is going to do."""

from dataclasses import dataclass, field
from typing import Final, Literal

from vmkeep.model.consistency import Consistency, Reason

Method = Literal[
    "production-checkpoint",
    "standard-checkpoint",
    "child-vm-snapshot",
    "auto-checkpoint",
    "saved-state",
    "cold",
    "guest-level",
    "folder",
]
Increment = Literal["rct", "declared", "compare", "full"]

MOST_DAMAGE: Final = 1000


@dataclass(frozen=True)
class VmRef:
    """A VM as vmkeep tells it from others: ``id`` never changes, ``name`` may."""

    id: str
    name: str

    def is_called(self, text: str) -> bool:
        """Tell whether ``text`` is the VM's name, letter for letter, or its id, in capitals or not."""
        return text == self.name or text.lower() == self.id.lower()


@dataclass(frozen=True)
class FolderFacts:
    """What a ``folder:`` or ``disk:`` source shows about the VM whose files it holds.

    ``left_out`` names files that are neither disks nor part of the VM;
    ``disguised`` those of them that look like disks, and what they look like;
    ``layers`` names differencing layers below the disks that are taken;
    ``has_memory``: a memory file lies beside them, so the VM was saved or running;
    ``damage`` tells what is wrong in the disk files' own structures, the first ``MOST_DAMAGE`` of it;
    ``unproven`` names disks that no identifier shows to be those of the parent.
    """

    disks: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    disguised: tuple[tuple[str, str], ...] = ()
    layers: tuple[str, ...] = ()
    has_memory: bool = False
    damage: tuple[str, ...] = ()
    unproven: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The decision about one VM, made before anything is touched."""

    verdict: Literal["go", "wait", "refuse"]
    method: Method | None
    consistency: Consistency | None
    increment: Increment
    reasons: tuple[Reason, ...] = field(default=())
