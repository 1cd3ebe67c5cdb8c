"""Hold a VM of a lab, let go, and be killed at one record of the journal: ``FACTS JOURNAL VM STEP WHEN``.

WHEN is ``before`` (what came before that record has happened, and is not known) or
``after`` (it is announced, and has not happened).
"""

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.lab_captures import NotedJournal, QuickClock, doors


class DyingJournal(NotedJournal):
    """Ends the process at one step."""

    def __init__(self, path: Path, fatal: int, when: str) -> None:
        super().__init__(path)
        self._fatal = fatal
        self._when = when

    def step(self, name: str, detail: Mapping[str, Any]) -> None:
        is_fatal = len(self.records) == self._fatal
        if is_fatal and self._when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        super().step(name, detail)
        if is_fatal:
            os.kill(os.getpid(), signal.SIGKILL)


def main(facts: str, journal: str, vm: str, fatal: str, when: str) -> None:
    """Go through a whole run, as far as it goes."""
    with doors(json.loads(facts), QuickClock()) as host:
        host.journal = DyingJournal(Path(journal), int(fatal), when)
        with host.hold(vm) as held:
            held.disks[0].disk.read_at(0, 4096)
            held.release(track=True)
            held.drop_previous(None)
    raise SystemExit("the run went through")


if __name__ == "__main__":
    main(*sys.argv[1:])
