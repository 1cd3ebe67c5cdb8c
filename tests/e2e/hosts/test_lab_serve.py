"""`lab serve` starts the simulated host, says how to reach it, and leaves nothing behind."""

import json
import os
import select
import signal
import socket
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.e2e.hosts.configured import ONE, Hosts


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A scenario that is up at once."""
    file = tmp_path / "small.toml"
    file.write_text(ONE)
    return file


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A short folder for temporary files: the address of a socket has at most 107 bytes."""
    with TemporaryDirectory(prefix="vk") as folder:
        yield Path(folder)


Serve = Callable[..., AbstractContextManager["subprocess.Popen[bytes]"]]


@pytest.fixture
def serving(hosts: Hosts, temporary: Path) -> Serve:
    @contextmanager
    def serve(*options: object) -> Iterator["subprocess.Popen[bytes]"]:
        process = hosts.program.start("lab", "serve", *options, env={"TMPDIR": str(temporary)})
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)

    return serve


def _read_block(process: "subprocess.Popen[bytes]") -> str:
    """Read what is printed until the host's last line."""
    assert process.stdout is not None
    lines: list[bytes] = []
    while not lines or not lines[-1].startswith(b"paths"):
        lines.append(process.stdout.readline())
        assert lines[-1], lines
    return b"".join(lines).decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_it_prints_is_a_configuration(
    hosts: Hosts, serving: Serve, temporary: Path, small: Path, number: int
) -> None:
    with serving("--scenario", small) as process:
        block = _read_block(process)
        assert tomllib.loads(block)["hosts"]["lab"]["address"] == "127.0.0.1"
        hosts.file.write_text(block)
        listed = hosts("hosts", "list", "--json")
        assert [host["name"] for host in json.loads(listed.text)] == ["lab"]
        assert listed.code == 0
        code, checks, result = hosts.check()
        assert (code, checks["login"]["state"]) == (0, "confirmed"), result
        port = json.loads(listed.text)[0]["port"]
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, b"")
    assert b"stop it with Ctrl+C" in err
    assert list(temporary.iterdir()) == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_folder_that_was_named_stays_and_json_tells_all(
    temporary: Path, serving: Serve, small: Path
) -> None:
    state = temporary / "state of lab"
    with serving("--scenario", small, "--state", state, "--https", "--json") as process:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        assert facts["transport"] == "https"
        assert Path(facts["truth"]).parent == state
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=30) == (b"", b"")
    assert process.returncode == 0
    assert (state / "host.json").is_file()


def test_a_killed_program_leaves_no_lab(serving: Serve, small: Path) -> None:
    with serving("--scenario", small) as process:
        port = tomllib.loads(_read_block(process))["hosts"]["lab"]["port"]
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        watch = os.pidfd_open(int(child))
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        assert select.select([watch], [], [], 30)[0], "the lab lives on"
        os.close(watch)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_scenario_that_is_not_there(hosts: Hosts) -> None:
    result = hosts.program.fails(1, "lab", "serve", "--scenario", "atlantis", says="did not start: ")
    assert "atlantis" in result.err
    assert "scenarios" in result.err


def test_a_port_that_is_taken(hosts: Hosts, temporary: Path, small: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        hosts.program.fails(
            1, "lab", "serve", "--scenario", small, "--state", temporary, "--port", port, says="use"
        )


def test_a_lab_that_ends_by_itself_is_an_error(serving: Serve, small: Path) -> None:
    with serving("--scenario", small) as process:
        _read_block(process)
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGKILL)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert b"ended by itself" in err


def test_a_folder_here_is_not_taken_for_the_lab(hosts: Hosts, serving: Serve, small: Path) -> None:
    (hosts.program.folder / "vmkeep_lab").mkdir()
    (hosts.program.folder / "vmkeep_lab" / "__main__.py").write_text("print('{}')")
    (hosts.program.folder / "vmkeep_lab" / "__init__.py").touch()
    with serving("--scenario", small) as process:
        assert "127.0.0.1" in _read_block(process)
