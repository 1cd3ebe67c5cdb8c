"""Show progress on a terminal: done, rate, and how long it will still take."""

import threading
from typing import Final, TextIO

from vmkeep.cli.text import rounded, visible
from vmkeep.clock import Clock

_REDRAW_S: Final = 0.2
_WIDTH: Final = 24


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
            self._out.write(f"\r\x1b[K{visible(label)} ...")
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
