"""What the tests of runs over a host share: a repository, what lies on the host, and the lab's judge."""

import hashlib
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.e2e.command import CANARY, Result
from tests.e2e.hosts.configured import Hosts
from tests.lab_process import Lab, judged

OFFICE: Final = str(Path(__file__).with_name("office.toml"))
_OURS: Final = "vmkeep "  # how the name of a checkpoint of ours begins (design, section 4)
_PATIENCE_S: Final = 60.0


def with_repository(folder: Path, empty: Path) -> Hosts:
    """The program with a repository and a configuration of its own."""
    hosts = Hosts(folder)
    hosts.program.repo = folder / "repo"
    shutil.copytree(empty, hosts.program.repo)
    return hosts


@dataclass(frozen=True)
class Things:
    """What lies on a host for one VM."""

    power: int
    checkpoints: frozenset[tuple[str, str]]
    reference_points: frozenset[str]
    merges: int

    @property
    def ours(self) -> set[str]:
        return {name for _, name in self.checkpoints if name.startswith(_OURS)}


def things(lab: Lab) -> dict[str, Things]:
    """What lies on the host for each VM, by id, as the lab itself knows it."""
    return {
        vm["id"]: Things(
            vm["power"],
            frozenset((each["id"], each["name"]) for each in vm["checkpoints"]),
            frozenset(each["id"] for each in vm["reference_points"]),
            len(vm["merges"]),
        )
        for vm in lab.control.ask("state")["state"]["vms"]
    }


def assert_only_baselines_came(before: dict[str, Things], after: dict[str, Things], most: int = 1) -> None:
    """No checkpoint came or went, no merge is owed, nothing of a stranger's is gone."""
    for vm_id, then in before.items():
        now = after[vm_id]
        assert (now.checkpoints, now.merges, now.power) == (then.checkpoints, 0, then.power)
        assert then.reference_points <= now.reference_points
        assert len(now.reference_points - then.reference_points) <= most


@contextmanager
def left_clean(lab: Lab) -> Iterator[Lab]:
    """Whatever a test does to a host is undone, and nothing of ours but baselines is left on it."""
    try:
        yield lab
    finally:
        lab.control.ask("calm")
        lab.control.ask("heal")
        lab.control.ask("free", bytes=None)
    assert not [name for vm in things(lab).values() for name in vm.ours]
    assert not any(vm.merges for vm in things(lab).values())


def points(hosts: Hosts) -> list[dict[str, Any]]:
    """What `points --json` lists."""
    listed: list[dict[str, Any]] = json.loads(hosts("points", "--json").text)
    return listed


def id_of(lab: Lab, name: str) -> str:
    """The id of the only VM of this name."""
    (found,) = [vm["id"] for vm in lab.control.ask("state")["state"]["vms"] if vm["name"] == name]
    return str(found)


def by_vm(result: Result) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """What a run with --json said of each VM, by id, and its last line."""
    documents = [json.loads(line) for line in result.text.splitlines()]
    *each, summary = documents
    assert {document["message_type"] for document in each} == {"vm"}
    assert (summary["message_type"], summary["exit_code"]) == ("summary", result.code)
    assert summary["vms"] == [{k: v for k, v in one.items() if k != "message_type"} for one in each]
    return {document["vm_id"].upper(): document for document in each}, summary


def restored(hosts: Hosts, lab: Lab, point: str, place: Path) -> dict[str, Any]:
    """Restore a point, let the lab judge every disk of it, compare the configuration; return `show`."""
    shown: dict[str, Any] = json.loads(hosts("show", point, "--json").text)
    result = hosts("restore", point, "--to", place, "--json")
    assert (result.code, result.err) == (0, ""), result
    checkpoint = shown["evidence"]["hold"]["checkpoint"].removeprefix("Microsoft:")
    disks = [place / f"{disk['name']}.vhdx" for disk in shown["disks"]]
    code, verdicts = judged(lab.facts["truth"], *disks)
    assert code == 0, verdicts
    for disk, verdict in zip(shown["disks"], verdicts["restored"], strict=True):
        equal = {(line["checkpoint"], line["disk_id"].strip("{}").lower()) for line in verdict["equals"]}
        assert (checkpoint, disk["disk_id"]) in equal, (disk["name"], verdict)
    truth = [json.loads(line) for line in Path(lab.facts["truth"]).read_text("utf-8").splitlines()]
    frozen = [line for line in truth if line["checkpoint"] == checkpoint]
    assert len({line["disk_id"] for line in frozen}) == len(disks)  # and none is missing
    assert {file["role"] for file in shown["files"]} >= {"configuration", "runtime-state"}
    for file in shown["files"]:
        name = Path(file["name"])
        head = f"vmkeep_lab {checkpoint}{name.suffix}\n".encode()  # as the lab makes them up
        content = (place / name).read_bytes()
        assert content == head + hashlib.shake_128(head).digest(file["size"] - len(head)), name
    assert len([each for each in place.rglob("*") if each.is_file()]) == len(disks) + len(shown["files"])
    shutil.rmtree(place)
    return shown


def while_held(
    hosts: Hosts,
    lab: Lab,
    act: Callable[["subprocess.Popen[bytes]"], object],
    *arguments: object,
    at: str = "GetVirtualHardDiskSettingData",
) -> Result:
    """Run a command, and do something while a checkpoint of it lies on the host, at one of its requests.

    The request is done, and the command goes on, once that has ended.
    """
    before = {vm_id: vm.checkpoints for vm_id, vm in things(lab).items()}
    lab.control.ask("disturb", effect="delay", action=at, seconds=_PATIENCE_S)
    process = hosts.program.start(*arguments, env={"VMKEEP_CONFIG": str(hosts.file)})
    try:
        deadline = time.monotonic() + _PATIENCE_S
        while {vm_id: vm.checkpoints for vm_id, vm in things(lab).items()} == before:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGSTOP)  # however long it takes
        try:
            act(process)
        finally:
            lab.control.ask("calm")
            process.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=_PATIENCE_S)
    finally:
        lab.control.ask("calm")
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert b"Traceback" not in err, err.decode()
    assert not [secret for secret in (*hosts.secrets, CANARY.encode()) if secret in out + err]
    return Result(process.returncode, out, err.decode())


def clear(result: Result, code: int, *says: str, what: str = "") -> None:
    """Make sure that a command ended with ``code``, one sentence that holds ``says``, and a next step."""
    assert result.code == code, result
    lines = [line for line in result.err.splitlines() if "uses http" not in line]
    (at,) = [
        n for n, line in enumerate(lines) if line.startswith(f"vmkeep: {what}") and "warning" not in line
    ]
    assert lines[at].endswith((".", "?", "'")), lines
    for words in says:
        assert words in lines[at], lines
    assert lines[at + 1].startswith("        ") and lines[at + 1].strip(), lines
