"""A reader that knows only the format's page restores what the product stored, bit for bit."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.command import CANARY, Vmkeep
from tests.e2e.disks import MIB, SourceDisks, write_at
from tests.forked import SOURCE_ROOT
from tests.generators.repository_bytes import Content, RepositoryBytes

pytestmark = pytest.mark.qemu

READER: Final = SOURCE_ROOT.parent / "tools" / "read_repository.py"


def read(repo: Path, *arguments: object, password: str | None = CANARY) -> bytes:
    env = {"PATH": os.environ["PATH"]} | ({"VMKEEP_PASSWORD": password} if password else {})
    done = subprocess.run(
        [sys.executable, str(READER), str(repo), *(str(a) for a in arguments)],
        env=env,
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, b""), (arguments, done.stderr.decode())
    return done.stdout


class Story:
    """A repository of the product's own making: an exported VM with all disks, then two increments."""

    def __init__(self, folder: Path, disks: SourceDisks) -> None:
        self.vmkeep = Vmkeep(folder, folder / "repo")
        self.vmkeep.ok("repo", "init", self.vmkeep.repo, "--no-recovery-key", "--chunk-size", "32768")
        self.vm = folder / "vm"
        self.config = self.vm / "Virtual Machines" / "5A1F0C3E-AB12-4C00-8000-0123456789AB.vmcx"
        self.config.parent.mkdir(parents=True)
        self.config.write_bytes(b"configuration" * 7777)
        for name in disks.drivers:
            shutil.copy(disks.folder / name, self.vm / name)
        self.names = {Path(name).stem: name for name in disks.drivers}
        self.points = [self.vmkeep.backup(f"folder:{self.vm}")["id"]]
        self.truths = [{stem: disks.truth[name].read_bytes() for stem, name in self.names.items()}]
        piece = b"increment" * 5000
        write_at(self.vm / "system.vhdx", "vhdx", {5 * MIB: piece})
        self.points.append(self.vmkeep.backup(f"folder:{self.vm}")["id"])
        old = self.truths[0]["system"]
        changed = old[: 5 * MIB] + piece + old[5 * MIB + len(piece) :]
        self.truths.append({**self.truths[0], "system": changed})


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, source_disks: SourceDisks) -> Story:
    return Story(tmp_path_factory.mktemp("witness"), source_disks)


def test_every_disk_of_every_point_is_restored_bit_for_bit(story: Story) -> None:
    for point, truth in zip(story.points, story.truths, strict=True):
        for disk, content in truth.items():
            assert read(story.vmkeep.repo, "restore", point, "--disk", disk, "--to", "-") == content


def test_state_files_are_restored_bit_for_bit(story: Story, tmp_path: Path) -> None:
    read(story.vmkeep.repo, "restore-files", story.points[1], "--to", tmp_path / "back")
    back = tmp_path / "back" / story.config.relative_to(story.vm)
    assert back.read_bytes() == story.config.read_bytes()


def test_the_witness_lists_the_same_points(story: Story) -> None:
    told = [json.loads(line) for line in read(story.vmkeep.repo, "list").splitlines()]
    assert {line["id"] for line in told} == set(story.points)


def test_the_witness_finds_nothing_to_complain_of(story: Story) -> None:
    read(story.vmkeep.repo, "check")
    read(story.vmkeep.repo, "scrub", password=None)


def test_the_product_and_the_witness_read_the_same_from_another_s_hand(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    pieces = {offset << 16: rng.randbytes(70_000) for offset in (0, 5, 60, 64, 130)}
    disk = Content("disk", 9 * MIB, pieces)
    repository = RepositoryBytes(seed=seed, passwords=[CANARY])
    point = repository.add_point(disks=[disk], files=[Content("vm.vmcx", 99, {0: b"config"})])
    vmkeep = Vmkeep(tmp_path, repository.write(tmp_path / "repo"))
    assert vmkeep.restore_raw(point.id) == disk.restored()
    assert read(vmkeep.repo, "restore", point.id, "--disk", "0", "--to", "-") == disk.restored()
    vmkeep.check_all()
    vmkeep.ok("restore", point.id, "--to", tmp_path / "back")
    assert (tmp_path / "back" / "vm.vmcx").read_bytes() == b"config".ljust(99, b"\0")
