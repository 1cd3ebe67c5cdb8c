"""The vmkeep command on VMs of a lab's host: a configuration, a repository of its own, foreign judges."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.e2e.command import CANARY, Result, Vmkeep
from tests.forked import MEETING
from tests.generators.repository_bytes import RepositoryBytes
from tests.host_runs import HostState, digests_of
from tests.lab_process import Lab
from tests.repositories import restore
from vmkeep.clock import SystemClock
from vmkeep.objectstore.address import open_store
from vmkeep.repository.journal import FINISHED, read_runs
from vmkeep.repository.repository import Repository
from vmkeep.secrets import Secret

_PATIENCE_S: Final = 120


class HostCommands(HostState):
    """The program as a user starts it, each command a process of its own."""

    def __init__(self, lab: Lab, folder: Path, repo: Path | None = None) -> None:
        super().__init__(lab)
        folder.mkdir(exist_ok=True)
        if repo is None:
            repo = RepositoryBytes(seed=11, passwords=[CANARY]).write(folder / "repo")
        self.program = Vmkeep(folder, repo)
        self._configuration = folder / "config.toml"
        self._configuration.write_text(lab.facts["config"], "utf-8")

    def environment(self) -> Mapping[str, str]:
        return {"VMKEEP_CONFIG": str(self._configuration)}

    def __call__(self, *arguments: object) -> Result:
        result = self.program(*arguments, env=self.environment())
        assert self.lab.password not in result.text + result.err
        return result

    def backup(self, name: str, *options: object) -> Result:
        return self("backup", f"hyperv://lab/{name}", *options)

    def succeeds(self, name: str, *options: object) -> dict[str, Any]:
        """Take a point that must come to be and be as promised; return the summary."""
        result = self.backup(name, "--json", *options)
        assert result.code == 0, result
        summary: dict[str, Any] = json.loads(result.text.splitlines()[-1])
        return summary

    def start(self, order: Mapping[str, Any], *arguments: object) -> "subprocess.Popen[bytes]":
        """Start a command that meets something at a request to its store (tests/faults/cli/meeting.py)."""
        return self.program.start(json.dumps(order), *arguments, env=self.environment(), program=MEETING)

    def met(self, order: Mapping[str, Any], *arguments: object) -> Result:
        """Run such a command to its end."""
        return ended(self.start(order, *arguments))

    def await_stop(self, process: "subprocess.Popen[bytes]") -> None:
        """Wait until a process has been stopped by its own signal."""
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), status

    def all_hold(self, count: int) -> None:
        """See that there are so many points, and that each holds its truth."""
        with self._opened() as repository:
            points = repository.listing().points
            assert len(points) == count
            for sealed in points:
                checkpoint = sealed.point.evidence["hold"]["checkpoint"].removeprefix("Microsoft:")
                assert digests_of(restore(repository, sealed)) == self.truth(checkpoint)

    def all_closed(self, name: str) -> bool:
        """Tell whether nothing of a VM's runs waits for a sweep."""
        with self._opened() as repository:
            runs = read_runs(repository.store, repository.ring, self.state(name)["id"].lower())
        return all(records[-1].step == FINISHED for records in runs)

    def _opened(self) -> Repository:
        store = open_store(str(self.program.repo))
        return Repository.open(store, Secret(CANARY), SystemClock(), None, None)


def ended(process: "subprocess.Popen[bytes]") -> Result:
    """Wait for a process that was started and return how it ended; no password shows."""
    out, err = process.communicate(timeout=_PATIENCE_S)
    assert CANARY.encode() not in out + err
    assert b"Traceback" not in err, err.decode()
    return Result(process.returncode, out, err.decode("utf-8", "replace"))
