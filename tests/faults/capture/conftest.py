"""One lab for all tests of a file: each leaves it as it was, or says why not."""

from collections.abc import Iterator

import pytest

from tests.lab_captures import Doors, doors
from tests.lab_process import Lab, running_lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running_lab("demo", tmp_path_factory.mktemp("demo") / "state") as lab:
        yield lab


@pytest.fixture
def host(lab: Lab) -> Iterator[Doors]:
    with doors(lab.facts) as host:
        before = host.strangers()
        yield host
        lab.control.ask("heal")
        lab.control.ask("free", bytes=None)
        assert host.strangers() == before
        assert host.ours() == []
