"""The test suite's own guards: skips fail a CI run, seeds repeat, the fake clock keeps time."""

import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.clocks import FakeClock
from vmkeep.clock import Clock

pytestmark = pytest.mark.quick
ROOT = Path(__file__).resolve().parents[2]


def run_pytest(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run our conftest over the test files of a throw-away folder."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "VMKEEP_")) and k != "CI"}
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "--rootdir", str(folder)]
    command += ["-c", str(ROOT / "pyproject.toml"), *arguments, str(folder)]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=kept | environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )


EVERY_KIND_OF_SKIP = """\
import os
import pytest

@pytest.fixture
def unavailable(): pytest.skip("skipped in a fixture")

@pytest.mark.skip(reason="skipped by mark")
def test_mark(): pass

def test_body(): pytest.skip("skipped in the test")

def test_fixture(unavailable): pass

@pytest.mark.xfail
def test_known_failure(): assert False

def test_environment(): assert "VMKEEP_REPO" not in os.environ
"""


@pytest.fixture
def skipping(tmp_path: Path) -> Path:
    (tmp_path / "test_skips.py").write_text(EVERY_KIND_OF_SKIP)
    (tmp_path / "test_module.py").write_text("import pytest\npytest.importorskip('no_such_module')\n")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "2"])
def test_unexpected_skips_fail_a_run_on_ci(skipping: Path, workers: str) -> None:
    run = run_pytest(skipping, "-n", workers, CI="true")
    assert run.returncode == 1, run.stdout + run.stderr
    assert "skips: 4, of them not allowed: 4" in run.stdout
    for reason in ("by mark", "in the test", "in a fixture", "no_such_module"):
        assert reason in run.stdout
    assert re.search(r"1 passed, 4 skipped, 1 xfailed in", run.stdout.splitlines()[-1])


@pytest.mark.slow
def test_skips_elsewhere_are_counted_and_a_developers_settings_do_not_reach_the_tests(skipping: Path) -> None:
    run = run_pytest(skipping, VMKEEP_REPO="/somewhere")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "skips: 4" in run.stdout


@pytest.mark.slow
def test_known_failures_are_not_skips(tmp_path: Path) -> None:
    (tmp_path / "test_xfail.py").write_text("import pytest\n@pytest.mark.xfail\ndef test_a(): assert False\n")
    run = run_pytest(tmp_path, CI="true")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "skips: 0" in run.stdout


MIXED = """\
import pytest

def test_a(): pass

@pytest.mark.slow
def test_b(): pass

def test_c(): pass

@pytest.mark.slow
@pytest.mark.quick
def test_d(): pass
"""


@pytest.mark.slow
def test_what_is_slow_is_begun_first(tmp_path: Path) -> None:
    (tmp_path / "test_mixed.py").write_text(MIXED)
    run = run_pytest(tmp_path, "--collect-only", "-q")
    assert re.findall(r"::(test_\w+)", run.stdout) == ["test_b", "test_d", "test_a", "test_c"]


RANDOM_CHOICES = """\
import random
from hypothesis import given, strategies as st

drawn = []

def test_choice(seed):
    print("choice", random.Random(seed).getrandbits(64))

@given(st.integers(0, 2**64))
def test_drawn(n):
    drawn.append(n)

def test_show():
    print("drawn", drawn)
"""


@pytest.mark.slow
def test_the_printed_seed_repeats_a_run(tmp_path: Path) -> None:
    (tmp_path / "test_random.py").write_text(RANDOM_CHOICES)
    first = run_pytest(tmp_path, "-s", CI="true")
    printed = re.search(r"VMKEEP_TEST_SEED=(\d+)", first.stdout)
    assert printed, first.stdout
    again = run_pytest(tmp_path, "-s", CI="true", VMKEEP_TEST_SEED=printed[1])
    other = run_pytest(tmp_path, "-s", CI="true", VMKEEP_TEST_SEED=str(int(printed[1]) + 1))

    def choices(run: subprocess.CompletedProcess[str]) -> list[str]:
        found = re.findall(r"(?:choice \d+|drawn \[.*\])", run.stdout)
        assert len(found) == 2, run.stdout
        return found

    assert choices(again) == choices(first)
    assert not set(choices(other)) & set(choices(first))


def test_fake_time_passes_only_when_moved(fake_clock: FakeClock) -> None:
    clock: Clock = fake_clock
    wall, mono = clock.now(), clock.monotonic()
    assert wall.tzinfo is UTC
    assert (clock.now(), clock.monotonic()) == (wall, mono)
    clock.sleep(90)
    fake_clock.advance(0.5)
    assert clock.now() - wall == timedelta(seconds=90.5)
    assert clock.monotonic() - mono == 90.5
    assert fake_clock.slept == [90]
    fake_clock.set_now(datetime(2020, 1, 1, tzinfo=UTC))
    assert clock.now() == datetime(2020, 1, 1, tzinfo=UTC)
    assert clock.monotonic() - mono == 90.5
    with pytest.raises(ValueError, match="backwards"):
        fake_clock.advance(-1)
