"""The commands of the README do what it says, typed as they stand."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.markdown import Block, runnable_blocks

pytestmark = pytest.mark.qemu

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = runnable_blocks(ROOT / "README.md")


def test_readme_has_commands_to_run() -> None:
    assert BLOCKS


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"line{block.line}")
def test_readme_block_runs(block: Block, tmp_path: Path) -> None:
    export = tmp_path / "exports" / "web-server"
    export.mkdir(parents=True)
    disk = export / "disk.vhdx"
    subprocess.run(["qemu-img", "create", "-q", "-f", "vhdx", disk, "64M"], check=True)
    subprocess.run(
        ["qemu-io", "-f", "vhdx", "-c", "write -P 0x5a 3M 5M", disk], check=True, capture_output=True
    )
    dev = tmp_path / "dev"
    # ./dev of the checkout would install first; the interpreter that runs the tests has everything.
    launch = "import sys; from vmkeep.cli import main; sys.exit(main())"
    dev.write_text(f"#!/bin/sh\n[ \"$1\" = run ] && shift && exec '{sys.executable}' -c '{launch}' \"$@\"\n")
    dev.chmod(0o755)
    places = {f"VMKEEP_{name}_DIR": str(tmp_path / name.lower()) for name in ("STATE", "CACHE")}
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")} | places
    done = subprocess.run(
        ["sh", "-eu", "-c", block.text],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "no errors: 1 restore points" in done.stdout
    compared = subprocess.run(
        ["qemu-img", "compare", disk, tmp_path / "restored" / "disk.vhdx"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert compared.returncode == 0, compared.stdout


def test_an_installed_wheel_carries_the_specification(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "docs", source / "docs")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=source,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    shutil.unpack_archive(wheel, tmp_path / "installed", "zip")
    code = (
        "import sys; from vmkeep.repository.parameters import specification_text; "
        "sys.stdout.buffer.write(specification_text())"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        check=True,
    )
    assert found.stdout == (ROOT / "docs" / "format.md").read_bytes()
