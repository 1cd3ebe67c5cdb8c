"""Every later vmkeep reads what format version 1 stored; so does the independent reader."""

import importlib.util
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

from vmkeep.clock import SystemClock
from vmkeep.objectstore.directory import DirectoryStore
from vmkeep.progress import Silent
from vmkeep.repository.examine.keyed import check
from vmkeep.repository.reader import DiskMap
from vmkeep.repository.repository import Repository
from vmkeep.secrets import Secret

pytestmark = pytest.mark.quick

HERE = Path(__file__).parent / "repository_v1"
ROOT = Path(__file__).resolve().parents[2]


def _maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_maker", HERE / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKER = _maker()


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    with tarfile.open(HERE / "repository.tar.xz") as tar:
        tar.extractall(tmp_path, filter="data")
    return tmp_path / "repo"


def test_the_product_reads_it(stored: Path) -> None:
    truth = MAKER.truth()
    with Repository.open(DirectoryStore(stored), Secret(MAKER.PASSWORD), SystemClock()) as repository:
        points = repository.listing().points
        assert [sealed.point.number for sealed in points] == [1, 2, 3]
        for number, sealed in enumerate(points):
            found = {
                d.name: DiskMap(repository.reader, d.root, d.size).read_at(0, d.size)
                for d in sealed.point.disks
            }
            assert found == {name: states[number] for name, states in truth.items()}
        report = check(repository, 1.0, Silent())
        assert report.problems == []


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_independent_reader_reads_it(stored: Path, tmp_path: Path, number: int) -> None:
    with Repository.open(DirectoryStore(stored), Secret(MAKER.PASSWORD), SystemClock()) as repository:
        point = repository.listing().points[number].point
    out = tmp_path / "small.raw"
    tool = [sys.executable, str(ROOT / "tools" / "read_repository.py"), str(stored)]
    subprocess.run(
        [*tool, "restore", point.id, "--disk", "small", "--to", str(out)],
        env=os.environ | {"VMKEEP_PASSWORD": MAKER.PASSWORD},
        check=True,
    )
    assert out.read_bytes() == MAKER.truth()["small"][number]
