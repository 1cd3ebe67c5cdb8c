"""A lab on a machine of its own, whose power can go."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.host_runs import SCENARIO
from tests.lab_process import Door, Lab, running_lab, start_lab, written

_PATIENCE_S: Final = 30.0


class Machine:
    """The machine a lab runs on: its power can go, and it comes back at the same address as the same host."""

    def __init__(self, lab: Lab, scenario: str, state: Path) -> None:
        self.lab = lab
        self._words = ["--scenario", scenario, "--state", str(state), "--port", str(lab.facts["port"])]
        self._second: subprocess.Popen[str] | None = None

    def reboot(self) -> None:
        """Lose the power and come back; whoever talks to it hears nothing more on that connection."""
        self.power_off()
        self.power_on()

    def power_off(self) -> None:
        self.lab.process.kill()
        self.lab.process.wait(_PATIENCE_S)
        self.lab.control.close()

    def power_on(self) -> None:
        process = start_lab("serve", *self._words)
        self._second = process
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        assert facts["port"] == self.lab.facts["port"]
        self.lab.process, self.lab.control = process, Door(facts["control"])

    def close(self) -> None:
        """End the lab that came back."""
        if self._second is not None:
            self.lab.control.close()
            self._second.communicate(timeout=_PATIENCE_S)


@contextmanager
def running_machine(folder: Path, text: str = SCENARIO) -> Iterator[Machine]:
    """Start a lab on a machine of its own, in a folder."""
    state = folder / "lab"
    scenario = written(text, state)
    with running_lab(scenario, state) as lab:
        machine = Machine(lab, scenario, state)
        try:
            yield machine
        finally:
            machine.close()
