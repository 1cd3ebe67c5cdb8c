"""Say how a hold ended: what was learned when it was released, or what could not be cleaned up."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from vmkeep.capture.errors import LeftBehind
from vmkeep.capture.removing import Merge
from vmkeep.errors import VmkeepError
from vmkeep.host.hyperv import PowerState
from vmkeep.model.consistency import Reason
from vmkeep.planner.tracking import TrackingRecord

_NOTE: Final = "left behind on the host: "


@dataclass(frozen=True)
class Released:
    """What is only known after the checkpoint has gone.

    ``tracking`` goes into the repository; only then may the previous reference
    point be dropped. Without it, ``why_untracked`` says why the next run reads all.
    """

    tracking: TrackingRecord | None
    why_untracked: Reason | None
    merge: Merge
    power_before: PowerState
    power_after: PowerState | None
    consistency: int | None
    """The level that the host says was reached: 1 application, 2 crash; None where it does not say."""

    @property
    def is_power_equal(self) -> bool:
        """Tell whether the VM is in the state it was found in."""
        return self.power_after is not None and self.power_after.code == self.power_before.code


class Problems:
    """Collects what goes wrong while cleaning up, so that each step is tried and the first error stays."""

    def __init__(self) -> None:
        self.told: list[str] = []

    @contextmanager
    def kept(self, what: str) -> Iterator[None]:
        """Try a step; a failure is kept as ``what`` and its message."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever it is: the other steps of the clean-up must be tried
            self.told.append(f"{what}: {error}")

    def tell(self, error: BaseException | None) -> None:
        """Add what was kept to the error that is under way; raise LeftBehind where there is none."""
        if not self.told:
            return
        if error is None:
            raise LeftBehind(
                f"something was left on the host: {'; '.join(self.told)}", left_behind=tuple(self.told)
            )
        for problem in self.told:
            note_left_behind(error, problem)
        if isinstance(error, VmkeepError):
            error.context["left_behind"] = tuple(self.told)


def note_left_behind(error: BaseException, what: str) -> None:
    """Add to an error, of any kind, what could not be cleaned up on its way."""
    error.add_note(f"{_NOTE}{what}")


def left_behind_by(error: BaseException) -> tuple[str, ...]:
    """Return what :meth:`Problems.tell` has added to an error, of any kind; empty if all was cleaned up."""
    notes: list[str] = getattr(error, "__notes__", [])
    return tuple(note.removeprefix(_NOTE) for note in notes if note.startswith(_NOTE))
