"""The program with a configuration, and labs that are shared by the tests of one file."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.hosts.configured import Hosts, Labs
from tests.e2e.hosts.protecting import OFFICE, left_clean, with_repository
from tests.lab_process import Lab, running_lab


@pytest.fixture
def hosts(tmp_path: Path, empty_repository: Path) -> Hosts:
    """The program with a repository and a configuration of its own; no host is configured yet."""
    return with_repository(tmp_path, empty_repository)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Labs]:
    """Start a lab of a scenario when it is first asked for; what is done to one is undone by the test."""
    running: dict[tuple[str, ...], Lab] = {}
    with ExitStack() as stack:

        def start(*words: str) -> Lab:
            if words not in running:
                state = tmp_path_factory.mktemp("lab") / "state"
                running[words] = stack.enter_context(running_lab(words[0], state, *words[1:]))
            return running[words]

        yield start


@pytest.fixture
def office(hosts: Hosts, lab: Labs) -> Iterator[Lab]:
    """The configured host: three VMs of three kinds; what a test does to them is undone."""
    with left_clean(lab(OFFICE)) as here:
        hosts.configure(here)
        yield here


@pytest.fixture
def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
