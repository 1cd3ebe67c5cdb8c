"""The program, and repositories to use it on."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.command import CANARY, Vmkeep
from tests.e2e.disks import SourceDisks, make_source_disks
from tests.generators.repository_bytes import RepositoryBytes


@pytest.fixture(scope="session")
def empty_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty repository, written from the specification with a cheap key: opening it costs no time."""
    return RepositoryBytes(seed=20260329, passwords=[CANARY]).write(tmp_path_factory.mktemp("empty") / "repo")


@pytest.fixture
def vmkeep(tmp_path: Path, empty_repository: Path) -> Iterator[Vmkeep]:
    """The program with a repository of its own; afterwards the password stands in no file of it."""
    repo = tmp_path / "repo"
    shutil.copytree(empty_repository, repo)
    program = Vmkeep(tmp_path, repo)
    yield program
    for place in (program.repo, program.state):
        for file in place.rglob("*"):
            assert not file.is_file() or CANARY.encode() not in file.read_bytes(), file


@pytest.fixture(scope="session")
def source_disks(tmp_path_factory: pytest.TempPathFactory, seed: int) -> SourceDisks:
    """Disks with NTFS and ext4 inside, in every format that can be read; never written after."""
    return make_source_disks(tmp_path_factory.mktemp("disks"), seed)
