"""A host, a repository, and runs that die between them; judged by the lab and by checksums of its own."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from tests.e2e.command import CANARY, Vmkeep
from tests.faults.cli.forking import Order
from tests.faults.cli.gate import Death, Gate
from tests.forked import SOURCE_ROOT
from tests.generators.repository_bytes import RepositoryBytes
from tests.lab_process import ForeignClient, Lab, running_lab
from vmkeep_lab.judge import judge, read_truth

VM: Final = "web"
SOURCE: Final = "hyperv://lab"
KILLED: Final = -9
_UNDER_WAY: Final = (2, 3, 4)
_SEAL: Final = "put_if_absent seals/"
LEASE_S: Final = 31 * 60
SCENARIO: Final = """
title = "one VM to protect, among strangers"

[host]
name = "HV"
seed = 11

[behaviour]
checkpoint_s = {checkpoint_s}
convert_s = 0.03
destroy_s = 0.03
reference_s = 0.02
merge_s = 0.03
merge_retry_s = {merge_retry_s}

[[vm]]
name = "web"
writes_per_second = 30
stranger_reference_points = 1

[[vm.disk]]
name = "system"
size_mib = 8
used_mib = 3

[[vm.disk]]
name = "data"
size_mib = 4
used_mib = 1

[[vm.checkpoint]]
name = "before the upgrade"

[[vm]]
name = "mail"
state = "off"

[[vm.disk]]
size_mib = 4
used_mib = 1

[[vm.checkpoint]]
name = "OtherBackup_1_recovery"
owner = "stranger"
writes = 4
"""


@dataclass(frozen=True)
class Ended:
    """How one command ended."""

    code: int
    out: str
    err: str
    has_sealed: bool = False
    """Whether the request that seals a point was done, where requests were counted."""


class Forks:
    """The process from which every command is forked."""

    def __init__(self, folder: Path, config: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.cli.forking", str(config)],
            cwd=SOURCE_ROOT.parent,
            env=Vmkeep(folder, folder).environment(
                {"PYTHONPATH": f"{SOURCE_ROOT}{os.pathsep}{SOURCE_ROOT.parent}"}
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == "ready"

    def start(self, order: Order) -> int:
        """Fork a command and return its process id."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(order)) + "\n")
        self._process.stdin.flush()
        return int(self._answer())

    def wait(self, order: Order) -> Ended:
        """Wait until the command has ended; whatever it says, it tells no password."""
        code = int(self._answer())
        out, err = (Path(f"{order.out}.{number}").read_text("utf-8") for number in (1, 2))
        assert CANARY not in out + err
        return Ended(code, out, err)

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "the process that forks has ended"
        return line


class HostStage:
    """One lab, and a repository that is renewed when it is asked for."""

    def __init__(self, folder: Path, lab: Lab, gate: Gate, forks: Forks, config: Path) -> None:
        self.folder = folder
        self.lab = lab
        self.gate = gate
        self._forks = forks
        self._number = 0
        self._empty = RepositoryBytes(seed=7, passwords=[CANARY]).write(folder / "empty")
        self._config = config
        self._known: dict[str, str] = {}
        """Points by id, and what the lab says their disks hold."""
        self._objects: dict[str, str] = {}
        self.strangers = self.host()
        self.messages: list[str] = []
        """Those of the last run that was to die."""

    # --- the host, as its own door tells it ---------------------------------------------------

    def host(self) -> dict[str, Any]:
        """Everything the host remembers of its VMs, but what guests write and our reference points."""
        vms = self.lab.control.ask("state")["state"]["vms"]
        for vm in vms:
            for disk in vm["disks"]:
                del disk["writes"]
            for key in ("changed", "state_changed"):
                vm.pop(key, None)
        return {vm["name"]: vm for vm in vms}

    def our_points(self) -> set[str]:
        """The reference points that were not there before the first run."""
        return self._points_of(self.host()) - self._points_of(self.strangers)

    @staticmethod
    def _points_of(host: dict[str, Any]) -> set[str]:
        return {point["id"] for vm in host.values() for point in vm["reference_points"]}

    def write(self) -> None:
        """Let the guest change its disks."""
        self.lab.control.ask("step", vm=VM, writes=4)

    def let_jobs_end(self) -> None:
        """Wait until the host has done by itself what it was asked for."""
        for _ in range(1000):
            found = self.lab.control.ask("state")
            busy = [job for job in found["jobs"] if job["state"] in _UNDER_WAY]
            if not busy and not any(vm["merges"] for vm in found["state"]["vms"]):
                return
            time.sleep(0.01)
        raise AssertionError("the host does not come to rest")

    # --- the repository -----------------------------------------------------------------------

    def renew(self) -> None:
        """Begin with an empty repository and a machine that knows nothing; the host forgets the last one."""
        if self.our_points():
            client = ForeignClient(self.lab)
            for point in self.our_points():
                client.destroy_reference_point(point)
            client.close()
        assert self.host() == self.strangers
        self._number += 1
        self.place = self.folder / str(self._number)
        shutil.copytree(self._empty, self.place / "repo")
        if self._number > 1:
            shutil.rmtree(self.folder / str(self._number - 1))
        self._known, self._objects = {}, {}

    @property
    def known(self) -> int:
        return len(self._known)

    def objects(self) -> dict[str, str]:
        """Checksums of all that is stored."""
        repo = self.place / "repo"
        files = [each for each in repo.rglob("*") if each.is_file() and "tmp" not in each.parts[-2]]
        return {
            each.relative_to(repo).as_posix(): hashlib.sha256(each.read_bytes()).hexdigest() for each in files
        }

    # --- commands -----------------------------------------------------------------------------

    def order(
        self,
        *words: object,
        machine: str = "",
        ahead_s: float = 0.0,
        speed: float = 40.0,
        counted: bool = False,
    ) -> Order:
        state = "state" if not machine else f"state-of-{machine}"
        vmkeep = Vmkeep(self.place, self.place / "repo", state=self.place / state)
        changes = {"VMKEEP_CONFIG": str(self._config), "VMKEEP_CACHE_DIR": str(self.place / f"cache-{state}")}
        return Order(
            [str(word) for word in words],
            vmkeep.environment(changes),
            str(self.place / "printed"),
            self.gate.store_port if counted else 0,
            ahead_s,
            machine,
            speed,
        )

    def run(self, *words: object, machine: str = "", ahead_s: float = 0.0, speed: float = 40.0) -> Ended:
        """Run a command to its end."""
        order = self.order(*words, machine=machine, ahead_s=ahead_s, speed=speed)
        self._forks.start(order)
        return self._forks.wait(order)

    def die(self, death: Death | None, *words: object) -> Ended:
        """Run a command that dies there, if it gets so far."""
        order = self.order(*words, counted=True)
        self.gate.arm(death)
        self.gate.watch(self._forks.start(order))
        ended = self._forks.wait(order)
        self.messages = self.gate.let_go()
        is_last_lost = ended.code == KILLED and death is not None and death.when != "after"
        done = self.messages[:-1] if is_last_lost else self.messages
        return replace(ended, has_sealed=any(each.startswith(_SEAL) for each in done))

    def backup(self, death: Death | None = None) -> Ended:
        return self.die(death, "backup", SOURCE, "--vm", VM, "--json")

    # --- the judge ----------------------------------------------------------------------------

    def judge_host(self) -> None:
        """See that the host is as it was, but for the one reference point that the next run may rest on."""
        assert self.lab.control.ask("handles")["handles"] == []
        now, ours = self.host(), self.our_points()
        for vm in now.values():
            vm["reference_points"] = [p for p in vm["reference_points"] if p["id"] not in ours]
        assert now == self.strangers
        assert ours == self._tracked()

    def _tracked(self) -> set[str]:
        """The reference point that the newest stored tracking names."""
        for point in reversed(self.points()):
            tracking = self.show(point["id"])["tracking"]
            if tracking:
                return {str(tracking[-1]["reference_point"]).removeprefix("Microsoft:")}
        return set()

    def points(self) -> list[Any]:
        ended = self.run("points", "--json")
        assert (ended.code, ended.err) == (0, ""), ended
        found: list[Any] = json.loads(ended.out)
        return found

    def show(self, point: str) -> Any:
        ended = self.run("show", point, "--json")
        assert ended.code == 0, ended
        return json.loads(ended.out)

    def judge_points(self, *also: str) -> list[str]:
        """See that no object changed and that new points, and those in ``also``, are true; return the new."""
        objects = self.objects()
        assert self._objects.items() <= objects.items()
        listed = [point["id"] for point in self.points()]
        assert set(self._known) <= set(listed)
        new = [point for point in listed if point not in self._known]
        for point in new:
            self._known[point] = str(self.show(point)["evidence"]["hold"]["checkpoint"]).removeprefix(
                "Microsoft:"
            )
        for point in (*new, *also):
            self._restore(point)
        self._objects = objects
        return new

    def all_points(self) -> list[str]:
        return list(self._known)

    def _restore(self, point: str) -> None:
        """Bring a point back and compare it with what the lab wrote down when it froze the disks."""
        back = self.place / "back"
        ended = self.run("restore", point, "--to", back, "--format", "raw")
        assert ended.code == 0, ended
        files = sorted(each for each in back.rglob("*.raw"))
        verdicts = judge(read_truth(Path(self.lab.facts["truth"])), files)
        assert len(verdicts) == 2
        for verdict in verdicts:
            frozen = [line for line in verdict.equals if line["checkpoint"] == self._known[point]]
            assert [line["disk"] for line in frozen] == [Path(verdict.file).stem], (point, verdict)
        shutil.rmtree(back)

    def check(self) -> None:
        """Let the whole repository be read: what a dead run left is no problem."""
        ended = self.run("repo", "check", self.place / "repo", "--read-data", "all", "--json")
        assert (ended.code, ended.err) == (0, ""), ended

    # --- another machine ----------------------------------------------------------------------

    def let_the_lease_end(self) -> None:
        """Set every record of a journal back by more than a lease, by the store's clock."""
        then = time.time() - LEASE_S
        for each in (self.place / "repo" / "runs").rglob("*"):
            if each.is_file():
                os.utime(each, (then, then))


@contextmanager
def host_stage(folder: Path, merge_retry_s: float = 0.1, checkpoint_s: float = 0.03) -> Iterator[HostStage]:
    """Start a lab, a gate before it, and what commands are forked from."""
    scenario = SCENARIO.format(merge_retry_s=merge_retry_s, checkpoint_s=checkpoint_s)
    with running_lab(scenario, folder / "lab") as lab, Gate(lab.facts["port"]) as gate:
        config = folder / "config.toml"
        config.write_text(re.sub(r"(?m)^port = \d+$", f"port = {gate.host_port}", lab.facts["config"]))
        forks = Forks(folder, config)
        try:
            yield HostStage(folder, lab, gate, forks, config)
        finally:
            forks.close()
