"""What the rooms note while they work is told by the options of the command; nobody else's notes show."""

import errno
import io
import json
import logging
from collections.abc import Iterator

import pytest

from vmkeep.cli import frame
from vmkeep.cli.logs import heard

pytestmark = pytest.mark.quick

OURS = logging.getLogger("vmkeep.host.hyperv.jobs")


@pytest.fixture(autouse=True)
def afterwards() -> Iterator[None]:
    yield
    frame._take_settings([])


def told(capsys: pytest.CaptureFixture[str], *options: str) -> list[str]:
    """What shows of a note at each level, and of others' notes."""
    frame._take_settings(options)
    with heard():
        OURS.debug("a detail")
        OURS.info("a step")
        OURS.warning("job %s stumbles\x1b[2J", "{1}")
        OURS.error("a VM is left out")
        for name in ("spnego._ntlm", "smbprotocol.connection", "urllib3", "somebody"):
            for level in (logging.DEBUG, logging.WARNING, logging.CRITICAL):
                logging.getLogger(name).log(level, "a token")
    shown = capsys.readouterr()
    assert shown.out == ""
    return shown.err.splitlines()


WARNED = r"vmkeep: warning: job {1} stumbles\x1b[2J"
LEFT_OUT = "vmkeep: warning: a VM is left out"


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ((), [WARNED, LEFT_OUT]),
        (("-v",), [WARNED, LEFT_OUT]),
        (("-q",), [LEFT_OUT]),
        (("-q", "--debug"), [LEFT_OUT]),
        (
            ("--debug",),
            [
                "vmkeep: host.hyperv.jobs: a detail",
                "vmkeep: host.hyperv.jobs: a step",
                WARNED,
                LEFT_OUT,
            ],
        ),
    ],
)
def test_options_say_what_is_told(
    capsys: pytest.CaptureFixture[str], options: tuple[str, ...], lines: list[str]
) -> None:
    assert told(capsys, *options) == lines


def test_a_program_gets_json(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.loads(line) for line in told(capsys, "--json", "--debug")]
    assert [line["message_type"] for line in lines] == ["log", "log", "warning", "warning"]
    assert lines[1] == {"message_type": "log", "about": "host.hyperv.jobs", "message": "a step"}
    assert lines[2] == {"message_type": "warning", "message": "job {1} stumbles\x1b[2J"}


def test_a_warning_is_told_once_and_not_without_an_end(capsys: pytest.CaptureFixture[str]) -> None:
    frame._take_settings([])
    with heard():
        for _ in range(3):
            OURS.warning("the host is silent")
            OURS.warning("the host says %s", "x" * 100_000)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "vmkeep: warning: the host is silent"
    assert len(second) < 1100


def test_a_standard_error_that_takes_nothing_ends_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        tries = 0

        def write(self, text: str) -> int:
            self.tries += 1
            raise OSError(errno.ENOSPC, "No space left on device")

    full = Full()
    monkeypatch.setattr("sys.stderr", full)
    frame._take_settings([])
    with heard():
        OURS.warning("nobody hears this")
    assert full.tries == 1


def test_what_was_listened_to_is_let_go() -> None:
    before = [(logger.level, list(logger.handlers)) for logger in (logging.getLogger("vmkeep"), logging.root)]
    with heard():
        pass
    after = [(logger.level, list(logger.handlers)) for logger in (logging.getLogger("vmkeep"), logging.root)]
    assert before == after
