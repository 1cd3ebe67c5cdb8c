"""Show progress: on a terminal what is done, the rate and what is left; in words each step that has ended."""

import re
import shutil
import threading
from collections.abc import Callable
from typing import Final, TextIO

from vmkeep.cli.text import rounded, shortened, visible
from vmkeep.clock import Clock
from vmkeep.progress import Progress

_REDRAW_S: Final = 0.2
_WIDTH: Final = 24
_PERCENT: Final = re.compile(r" \([0-9]+ %\)$")


class TerminalProgress:
    """One line, redrawn a few times a second; calls may come from several threads."""

    def __init__(self, out: TextIO, clock: Clock, *, color: bool) -> None:
        self._out = out
        self._clock = clock
        self._color = color
        self._label = ""
        self._total: int | None = None
        self._done = 0
        self._started = self._drawn = 0.0
        self._lock = threading.Lock()

    def begin(self, label: str, total_bytes: int | None) -> None:
        self._label, self._total, self._done = label, total_bytes, 0
        self._started = self._clock.monotonic()
        self._drawn = 0.0
        if total_bytes is None:  # what is waited for may take long before anything is done of it
            # A line that wraps could not be taken away again.
            room = shutil.get_terminal_size().columns - len(" ...") - 1
            self._out.write(f"\r\x1b[K{shortened(visible(label), max(room, 1))} ...")
            self._out.flush()

    def advance(self, done_bytes: int) -> None:
        with self._lock:
            self._done += done_bytes
            now = self._clock.monotonic()
            if now - self._drawn >= _REDRAW_S:
                self._drawn = now
                self._out.write("\r\x1b[K" + self._line(now))
                self._out.flush()

    def end(self) -> None:
        self._out.write("\r\x1b[K")
        self._out.flush()

    def _line(self, now: float) -> str:
        rate = self._done / max(now - self._started, 1e-6)
        text = f"{rounded(self._done)}  {rounded(int(rate))}/s"
        if not self._total:
            return f"{visible(self._label)}  {text}"
        share = min(1.0, self._done / self._total)
        bar = "#" * int(share * _WIDTH)
        bar = f"\x1b[32m{bar}\x1b[0m" + " " * (_WIDTH - len(bar)) if self._color else bar.ljust(_WIDTH)
        left = int((self._total - self._done) / rate) if rate else 0
        return f"{visible(self._label)} [{bar}] {share:4.0%}  {text}  {left // 60}:{left % 60:02} left"


class StepsTold:
    """Tells each step when it has ended, and how long it took; hands everything on to another progress.

    A step lasts from one label to the next; what follows it in brackets, how far it is, changes nothing.
    """

    def __init__(self, shown: Progress, tell: Callable[[str], None], clock: Clock) -> None:
        self._shown = shown
        self._tell = tell
        self._clock = clock
        self._step: str | None = None
        self._started = 0.0

    def begin(self, label: str, total_bytes: int | None) -> None:
        step = _PERCENT.sub("", label)
        if step != self._step:
            self._close()
            self._step, self._started = step, self._clock.monotonic()
        self._shown.begin(label, total_bytes)

    def advance(self, done_bytes: int) -> None:
        self._shown.advance(done_bytes)

    def end(self) -> None:
        self._close()
        self._shown.end()

    def _close(self) -> None:
        if self._step is not None:
            self._shown.end()  # its line goes before ours comes
            self._tell(f"{self._clock.monotonic() - self._started:8.1f} s  {self._step}")
            self._step = None
