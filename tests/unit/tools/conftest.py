"""The reader, called inside the test's process, which saves its start."""

from pathlib import Path

import pytest

from tests.unit.tools.read_repository_run import PASSWORD, Read, Said, said
from tools.read_repository import main


@pytest.fixture
def read(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Read:
    """Give a call that takes the repository and the command line, and says what was said."""

    def call(repository: Path, *arguments: str, password: str = PASSWORD) -> Said:
        monkeypatch.setenv("VMKEEP_PASSWORD", password)
        capfdbinary.readouterr()
        code = main([str(repository), *arguments])
        return said(code, *capfdbinary.readouterr())

    return call
