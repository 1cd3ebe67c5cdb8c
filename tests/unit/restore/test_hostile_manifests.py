"""Whatever a manifest says, a restore writes below its target or not at all."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.clocks import FakeClock
from tests.generators.repository_bytes import RepositoryBytes
from vmkeep.errors import VmkeepError
from vmkeep.objectstore.memory import MemoryStore
from vmkeep.progress import Silent
from vmkeep.repository.repository import Repository
from vmkeep.restore.files import restore_point
from vmkeep.secrets import Secret

pytestmark = pytest.mark.quick


def entry(name: str, **changes: object) -> Mapping[str, object]:
    return {
        "name": name, "size": 512, "root": None, "role": "configuration", "format": "raw", "kind": "fixed",
        "logical_sector": 512, "physical_sector": 512, "block_size": None, "disk_id": None, "source": "x",
        "excluded": [],
    } | changes  # fmt: skip


def restored(target: Path, **manifest: Any) -> list[Path]:
    """Restore a point with this manifest; return all files that came to be, wherever they are."""
    written = RepositoryBytes(seed=3, passwords=["x"])
    written.add_point(manifest=manifest)
    store = MemoryStore(FakeClock())
    for name, content in written.objects.items():
        store.put(name, content)
    with Repository.open(store, Secret("x"), FakeClock()) as repository:
        listing = repository.listing()
        if listing.points:  # else the manifest was refused as a whole
            try:
                restore_point(repository, listing.points[0].point, target, None, None, Silent())
            except VmkeepError as error:
                assert error.message and error.hint is not None
        else:
            assert listing.problems
    root = target.parents[2]
    return [p for p in root.rglob("*") if not p.is_dir() or p.is_symlink()]


@pytest.mark.parametrize("kind", ["disks", "files"])
@pytest.mark.parametrize(
    "name",
    [
        "../x", "../../../x", "/x", "//x", "..", ".", "", "a/..", "a/../../x", "a//b", "./x", "a/", "C:\\x",
        "C:x", "\\\\host\\share", "..\\x", "x\0y", "~/x", "CON", "con.txt", "a/AUX/b", "LPT1.vmcx",
        "x:stream", "x\n", "-x", "\u202ex", "x" * 4000, "/".join("d" * 300), " ", "a/ /b", "...", "x.",
    ],
)  # fmt: skip
def test_every_name_stays_below_the_target(tmp_path: Path, kind: str, name: str) -> None:
    target = tmp_path / "a" / "b" / "target"
    for path in restored(target, **{kind: [entry(name)]}):
        assert target in path.parents
        assert not path.is_symlink()
        assert path.stat().st_size == 512
        assert not path.name.endswith(".vmkeep-partial")


def test_names_that_only_differ_in_case_are_both_kept(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "target"
    names = ["Disk", "disk", "DISK", "disk-1", "disk:", "disk%3A"]
    paths = restored(target, disks=[entry(n, size=512 * (i + 1)) for i, n in enumerate(names)])
    assert sorted(p.stat().st_size for p in paths) == [512 * (i + 1) for i in range(len(names))]
    assert len({p.name.lower() for p in paths}) == len(names)


def test_a_file_named_like_a_disk_does_not_replace_it(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "target"
    paths = restored(target, disks=[entry("d", size=1024)], files=[entry("d.raw"), entry("D.RAW")])
    disk = next(p for p in paths if p.name == "d.raw")
    assert disk.stat().st_size == 1024


@pytest.mark.parametrize(
    "fields",
    [
        {"size": 0}, {"size": 1}, {"size": 513}, {"size": -1}, {"size": 1 << 62}, {"size": 1.5},
        {"size": True},
        {"logical_sector": 0}, {"logical_sector": 3}, {"logical_sector": 1 << 40}, {"physical_sector": 0},
        {"block_size": 0}, {"block_size": 1}, {"block_size": 3 << 20}, {"block_size": 1 << 40},
        {"disk_id": "x"}, {"disk_id": ""}, {"kind": "x"}, {"format": "x"}, {"format": ""},
        {"root": "00" * 32}, {"root": "zz"}, {"root": ""},
        {"excluded": [[0, 512, "why"]]}, {"excluded": [[0, -1, "why"]]},
    ],
)  # fmt: skip
@pytest.mark.parametrize("format", ["vhdx", "vhd", "raw"])
def test_numbers_and_words_no_vmkeep_writes_are_refused_or_harmless(
    tmp_path: Path, format: str, fields: Mapping[str, object]
) -> None:
    target = tmp_path / "a" / "b" / "target"
    base = entry("d", format=format, kind="fixed" if format == "raw" else "dynamic", size=1 << 20)
    for path in restored(target, disks=[{**base, **fields}]):
        assert path.parent == target
        assert not path.name.endswith(".vmkeep-partial")
