"""Errors say what a program and a person need; time is UTC and waits are real."""

from datetime import timedelta

import pytest

from vmkeep.clock import SystemClock
from vmkeep.errors import ExitCode, Retry, UsageError, VmkeepError
from vmkeep.progress import Silent

pytestmark = pytest.mark.quick


def test_the_exit_codes_of_the_contract() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "OK": 0, "FAILED": 1, "USAGE": 2, "PARTIAL": 3, "REPOSITORY_MISSING": 10, "BUSY": 11, "WRONG_KEY": 12,
        "HOST_UNREACHABLE": 13, "MISMATCH": 14, "INTERRUPTED": 130, "TERMINATED": 143,
    }  # fmt: skip


def test_an_error_carries_its_sentence_hint_and_facts() -> None:
    plain = UsageError("no.")
    assert (plain.message, plain.exit_code, str(plain)) == ("no.", ExitCode.USAGE, "no.")
    assert plain.hint == UsageError.default_hint and plain.retry is Retry.NEVER
    told = VmkeepError("broken.", hint="mend", object="packs/x", offset=5)
    assert (told.hint, told.context) == ("mend", {"object": "packs/x", "offset": 5})
    assert VmkeepError("x.", hint="").hint == ""


def test_the_clock_knows_its_zone_and_never_runs_back() -> None:
    clock = SystemClock()
    assert clock.now().utcoffset() == timedelta(0)
    before = clock.monotonic()
    clock.sleep(0.01)
    assert clock.monotonic() - before >= 0.01


def test_nobody_listening_is_fine() -> None:
    silent = Silent()
    assert [silent.begin("x", None), silent.advance(5), silent.end()] == [None, None, None]  # type: ignore[func-returns-value]
