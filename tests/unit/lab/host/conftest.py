"""A small host for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab_hosts import LabHost


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[LabHost]:
    host = LabHost.small(tmp_path / "state")
    yield host
    host.host.stop()
