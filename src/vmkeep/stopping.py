"""Take a signal for the wish to stop: at once as a rule, at the next look where something must stay whole.

An exception that a signal raises between any two lines cannot be cleaned up after: what the one
line made, the other had yet to write down. So whoever changes something elsewhere holds signals
back, and looks for them where a stop finds everything written down. Signals reach the main
thread alone; in other threads nothing here has an effect.
"""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

if sys.platform == "win32":  # Ctrl+Break, a closed console window, the end of the session
    SIGNALS: Final[tuple[signal.Signals, ...]] = (signal.SIGINT, signal.SIGTERM, signal.SIGBREAK)
else:
    SIGNALS: Final[tuple[signal.Signals, ...]] = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal asked the command to end. No KeyboardInterrupt: typer would end silently on one."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Wish:
    """The one process's: whether signals are held back, and the one that came meanwhile."""

    is_held_back = False
    number: int | None = None
    # The block that holds back, and may be let through inside; None outside of any.
    block: object | None = None


def stop(number: int, frame: FrameType | None) -> None:
    """Stop what the process does: the handler of :data:`SIGNALS`.

    Later signals are ignored, so that nothing interrupts the letting go.
    """
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    _Wish.number = number
    if not _Wish.is_held_back:
        look()


def look() -> None:
    """Raise Stopped if a signal is held back; costs nothing."""
    if _Wish.number is not None and _is_main():
        number, _Wish.number = _Wish.number, None
        raise Stopped(number)


@contextmanager
def held_back() -> Iterator[None]:
    """Hold signals back inside, but at a :func:`look`; one that came is raised at the end.

    Where an error ends the block, Stopped takes its place, and its notes along.
    """
    if not _is_main() or _Wish.is_held_back:
        yield
        return
    outer, _Wish.block = _Wish.block, object()
    _Wish.is_held_back = True
    try:
        yield
    except BaseException as error:
        _Wish.is_held_back, _Wish.block = False, outer
        try:
            look()
        except Stopped as stopped:
            for note in getattr(error, "__notes__", ()):
                stopped.add_note(note)
            raise stopped from error
        raise
    _Wish.is_held_back, _Wish.block = False, outer
    look()


@contextmanager
def at_once() -> Iterator[None]:
    """Let signals through inside a block that holds them back: for long work that leaves nothing behind."""
    if not _is_main() or not _Wish.is_held_back:
        yield
        return
    block = _Wish.block
    _Wish.is_held_back = False
    try:
        look()
        yield
    finally:
        # Stopped between here and the with statement, this is run when the generator is thrown away.
        _Wish.is_held_back = block is not None and _Wish.block is block


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()
