"""Let people hear what the rooms note while they work, as words of the command; nobody else's notes show.

Other packages are kept out at every level: at their finest they write down tokens of a login, from
which a password can be guessed.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from vmkeep.cli.frame import remark, settings, warn
from vmkeep.cli.text import shortened

_OURS: Final = "vmkeep"
_LONGEST: Final = 1000  # a note may quote what a host says


@contextmanager
def heard() -> Iterator[None]:
    """Print warnings that the rooms note, each text once, and with --debug all of their notes.

    With --quiet nothing passing is told, only errors.
    """
    ours, all_of_them = logging.getLogger(_OURS), logging.getLogger()
    told, nowhere = _Told(), logging.NullHandler()
    level = ours.level
    ours.addHandler(told)
    ours.setLevel(logging.DEBUG)  # what of it is told the options decide, which are not read yet
    # Where nobody at all listens, Python prints warnings by itself, as they come.
    all_of_them.addHandler(nowhere)
    try:
        yield
    finally:
        ours.removeHandler(told)
        ours.setLevel(level)
        all_of_them.removeHandler(nowhere)


class _Told(logging.Handler):
    """Tells what the options of the command ask for."""

    def __init__(self) -> None:
        super().__init__()
        self._warnings: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < _least():
            return
        text = shortened(record.getMessage(), _LONGEST)
        try:
            if record.levelno < logging.WARNING:
                remark("log", record.name.removeprefix(f"{_OURS}."), text)
            elif text not in self._warnings:
                self._warnings.add(text)
                warn(text)
        except OSError:
            return  # work that goes well does not end because nobody hears of its troubles


def _least() -> int:
    """Return the lowest level that is told."""
    if settings.quiet:
        return logging.ERROR
    return logging.DEBUG if settings.debug else logging.WARNING
