"""What every test gets: one seed for all randomness, a fake clock, and no silent skips."""

import os
import random
import signal
from collections.abc import Iterator
from typing import Final

import hypothesis
import pytest

from tests.clocks import FakeClock
from vmkeep import stopping

# Node id -> why it may be skipped where CI=true. What a test needs is installed by
# ./dev test; the right to mount is not to be had by installing.
_MOUNTS: Final = "mounts a small or read-only file system, which containers may not"
ALLOWED_SKIPS: Final[dict[str, str]] = {
    f"tests/e2e/test_bad_input.py::{name}": _MOUNTS
    for name in (
        "test_a_read_only_store_can_be_read",
        "test_a_repository_that_fills_up_keeps_what_it_has",
        "test_a_restore_into_a_full_place_leaves_nothing",
    )
} | {
    "tests/unit/capture/test_folder.py::test_a_write_through_a_mapping_breaks_the_hold": "tmpfs keeps no "
    "time of writes through mappings"
}

SEED_VARIABLE: Final = "VMKEEP_TEST_SEED"
# Tests that take a sample of what can be killed take all of it.
ALL_KILLS_VARIABLE: Final = "VMKEEP_ALL_KILLS"
_OF_THE_TESTS: Final = (SEED_VARIABLE, ALL_KILLS_VARIABLE)
_ON_CI: Final = os.environ.get("CI", "").lower() in {"1", "true", "yes"}

hypothesis.settings.register_profile("local", deadline=None, print_blob=True)
hypothesis.settings.register_profile("ci", deadline=None, print_blob=True, derandomize=False, database=None)
hypothesis.settings.load_profile("ci" if _ON_CI else "local")

# A developer's own repository, password, domain and ticket must not reach a test.
for _name in [name for name in os.environ if name.startswith("VMKEEP_") and name not in _OF_THE_TESTS]:
    del os.environ[_name]
os.environ.update(KRB5_CONFIG=os.devnull, KRB5CCNAME="MEMORY:nobody's")


class SkipGuard:
    """Counts skips and, on CI, fails the run for each one nobody allowed."""

    def __init__(self) -> None:
        self.skips: dict[str, str] = {}

    def unexpected(self) -> dict[str, str]:
        return {node: reason for node, reason in self.skips.items() if node not in ALLOWED_SKIPS}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # A known failure (xfail, always strict here) is reported as "skipped" too.
        if report.skipped and not hasattr(report, "wasxfail"):
            self._note(report.nodeid, report.longrepr)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self._note(report.nodeid, report.longrepr)

    def _note(self, node: str, longrepr: object) -> None:
        reason = longrepr[2] if isinstance(longrepr, tuple) else longrepr
        self.skips[node] = str(reason)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if _ON_CI and self.unexpected() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        unexpected = self.unexpected()
        terminalreporter.line(f"skips: {len(self.skips)}, of them not allowed: {len(unexpected)}")
        for node, reason in sorted(unexpected.items()):
            terminalreporter.line(f"  {node}: {reason}", red=_ON_CI)
        if unexpected and _ON_CI:
            terminalreporter.line(
                "  on CI this fails the run; see ALLOWED_SKIPS in tests/conftest.py", red=True
            )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    given = os.environ.get(SEED_VARIABLE)
    seed = int(given) if given else random.SystemRandom().getrandbits(32)
    os.environ[SEED_VARIABLE] = str(seed)  # xdist's workers inherit it
    # Hypothesis forgets its example database under a fixed seed, so a local
    # run keeps its own randomness unless somebody asked to repeat a seed.
    if (given or _ON_CI) and config.getoption("--hypothesis-seed") is None:
        config.option.hypothesis_seed = str(seed)
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(SkipGuard(), "skip-guard")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two more than there are processors: tests of hosts spend most of their time waiting for jobs."""
    return len(os.sched_getaffinity(0)) + 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long: begun last, it would have all workers but one wait for it."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_report_header() -> str:
    return f"{SEED_VARIABLE}={os.environ[SEED_VARIABLE]} (set it to repeat this run's random choices)"


@pytest.fixture(scope="session")
def seed() -> int:
    """The run's seed, printed in the header; make your own ``random.Random(seed)`` from it."""
    return int(os.environ[SEED_VARIABLE])


@pytest.fixture
def handled_signals() -> Iterator[None]:
    """Take signals as the command does, and put back what a stop has changed."""
    before = {number: signal.signal(number, stopping.stop) for number in stopping.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def fake_clock() -> FakeClock:
    """A clock that stands still until the test or the code under test moves it."""
    return FakeClock()
