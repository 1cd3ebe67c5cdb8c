"""Report how far long work has come, as events; printing is somebody else's job."""

from typing import Protocol


class Progress(Protocol):
    """Receives the events of one piece of long work; called from any thread."""

    def begin(self, label: str, total_bytes: int | None) -> None:
        """Start a stage; ``total_bytes`` is None while unknown."""

    def advance(self, done_bytes: int) -> None:
        """Add work finished since the last call."""

    def end(self) -> None:
        """Close the stage."""


class Silent:
    """Hears nothing; the default where nobody listens."""

    def begin(self, label: str, total_bytes: int | None) -> None:
        return

    def advance(self, done_bytes: int) -> None:
        return

    def end(self) -> None:
        return
