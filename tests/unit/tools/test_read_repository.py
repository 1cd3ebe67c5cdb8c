"""The independent reader gives back what the generator wrote, both made from docs/format.md alone."""

import json
import os
import random
from pathlib import Path

import pytest

from tests.generators.repository_bytes import (
    CHEAP_KDF,
    PACK_OF_CHUNKS,
    SPECIFICATION_KDF,
    STORED,
    ZSTD,
    Content,
    Frame,
    RepositoryBytes,
    node_bytes,
)
from tests.unit.tools.read_repository_run import Read, run_reader
from tools.read_repository import local_name

pytestmark = pytest.mark.quick
MIB = 1 << 20


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def test_list_names_the_points_that_exist_and_no_other(tmp_path: Path, read: Read) -> None:
    repo = RepositoryBytes()
    disk = Content("system", 200_000, {70_000: b"abc"})
    first = repo.add_point(disks=[disk])
    repo.add_point(disks=[disk], state="void")
    repo.add_point(disks=[disk], state=None)
    second = repo.add_point(disks=[disk, Content("data", 0)])
    other = repo.add_point(vm=("0" * 8, "db \u00fc \x1b[31m"), disks=[])
    result = read(repo.write(tmp_path / "r"), "list")
    assert (result.code, result.problems) == (0, ())
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert [(line["id"], line["number"]) for line in lines] == [(other.id, 1), (first.id, 1), (second.id, 2)]
    assert lines[0]["vm"] == {"id": "0" * 8, "name": "db \u00fc \x1b[31m"}
    assert lines[2]["disks"] == [{"name": "system", "size": 200_000}, {"name": "data", "size": 0}]
    assert lines[1]["time"] == "2026-01-02T00:01:00Z"
    assert b"\x1b" not in result.out


@pytest.mark.parametrize("codec", [STORED, ZSTD])
@pytest.mark.parametrize("chunk_size", [16384, 65536, 1048576])
def test_disks_of_every_awkward_size_come_back(
    tmp_path: Path, read: Read, codec: int, chunk_size: int
) -> None:
    repo = RepositoryBytes(codec=codec, chunk_size=chunk_size, frames_per_pack=5)
    sizes = [0, 1, chunk_size - 1, chunk_size, chunk_size + 1, 64 * chunk_size, 64 * chunk_size + 5]
    disks = [Content(f"d{size}", size, {0: noise(size, min(size, 3 * chunk_size))}) for size in sizes]
    disks += [Content("end", 65 * chunk_size + 7, {65 * chunk_size: b"the end"}), Content("zeros", 5 * MIB)]
    point = repo.add_point(disks=disks)
    directory = repo.write(tmp_path / "r")
    for index, disk in enumerate(disks):
        target = tmp_path / f"{index}.raw"
        by = disk.name if index % 2 else str(index)
        assert read(directory, "restore", point.id[:9], "--disk", by, "--to", str(target)).code == 0
        assert target.read_bytes() == disk.restored(chunk_size)
        assert read(directory, "restore", point.id, "--disk", by, "--to", "-").out == disk.restored(
            chunk_size
        )
    result = read(directory, "check")
    assert (result.code, result.problems, result.notes) == (0, (), ())


def test_a_sparse_disk_of_5_gib_has_a_map_of_two_levels_and_stays_sparse(tmp_path: Path, read: Read) -> None:
    repo = RepositoryBytes()
    pieces = {0: b"first", 4096 * MIB - 3: b"across!", 5 * 1024 * MIB - 4: b"last"}
    disk = Content("big", 5 * 1024 * MIB, pieces)
    nodes: list[Frame] = []
    repo.map(disk, [], nodes)
    assert [node.plain[0] for node in nodes] == [0, 0, 0, 0, 1, 1, 2], "levels of the nodes"
    repo = RepositoryBytes()
    point = repo.add_point(disks=[disk])
    target = tmp_path / "big.raw"
    result = read(repo.write(tmp_path / "r"), "restore", point.id, "--disk", "big", "--to", str(target))
    assert (result.code, result.problems) == (0, ())
    assert target.stat().st_size == disk.size
    assert target.stat().st_blocks * 512 < MIB
    with target.open("rb") as file:
        end = 0
        found: dict[int, bytes] = {}
        while end < disk.size:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:  # no data after this
                break
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            found[start] = os.pread(file.fileno(), end - start, start)
    assert found
    assert all(data == disk.read(start, len(data)) for start, data in found.items())
    for offset, piece in pieces.items():
        assert any(start <= offset < start + len(data) for start, data in found.items()), piece


def test_later_points_share_chunks_and_all_restore(tmp_path: Path, read: Read) -> None:
    repo = RepositoryBytes()
    base = {0: noise(1, 9 * MIB)}
    old = Content("c", 10 * MIB, base)
    new = Content("c", 10 * MIB + 100, {**base, 5 * MIB: b"changed", 10 * MIB + 99: b"\1"})
    points = [repo.add_point(disks=[disk]) for disk in (old, new, old)]
    assert points[2].packs == ()
    directory = repo.write(tmp_path / "r")
    for point, disk in zip(points, (old, new, old), strict=True):
        result = read(directory, "restore", point.id, "--disk", "c", "--to", "-")
        assert (result.code, result.out) == (0, disk.restored())


def test_excluded_chunks_read_as_zeros_when_the_manifest_lists_them(tmp_path: Path, read: Read) -> None:
    repo = RepositoryBytes()
    size = 9 * MIB + 10
    disk = Content("c", size, {0: b"\xaa" * size}, excluded=[(100_000, 300_000), (8 * MIB, MIB + 10)])
    point = repo.add_point(disks=[disk])
    directory = repo.write(tmp_path / "r")
    out = read(directory, "restore", point.id, "--disk", "c", "--to", "-").out
    assert out == disk.restored()
    assert out.count(0) == 4 * 65536 + MIB + 10
    assert read(directory, "check").code == 0
    root = repo.map(disk, [], [])
    assert root is not None
    entry = {
        "name": "c",
        "size": disk.size,
        "root": root.hex(),
        "excluded": [[100_000, 250_000, "page file"]],
    }
    lying = repo.add_point(disks=[disk], manifest={"disks": [entry]})
    result = read(repo.write(tmp_path / "r"), "check")
    assert result.code == 1
    assert all(line.startswith(lying.manifest + ": disks[0] 'c'") for line in result.problems)
    assert "bytes 327680 to 393216: is excluded, which the manifest does not list" in result.problems[0]
    refused = read(tmp_path / "r", "restore", lying.id, "--disk", "c", "--to", "-")
    assert refused.code == 1, "zeros that nobody promised are no good bytes"
    assert refused.out == disk.restored()[:327680]


def test_files_come_back_under_their_names_and_unsafe_names_do_not(tmp_path: Path, read: Read) -> None:
    bad = ["../up", "/abs", "a//b", ".", "x/..", "a\\b", "nul\0", "", "dir/", "n" * 256]
    good = [Content("Virtual Machines/vm.vmcx", 70_000, {3: noise(4, 66_000)}), Content("empty", 0)]
    good += [Content(name, 1, {0: b"g"}) for name in ("c:odd", "CON", "dot.", "line\nend", "...", "..b/.a")]
    repo = RepositoryBytes()
    point = repo.add_point(files=[*good, *(Content(name, 3, {0: b"bad"}) for name in bad)])
    target = tmp_path / "in" / "target"
    result = read(repo.write(tmp_path / "r"), "restore-files", point.id, "--to", str(target))
    assert result.code == 1
    assert len(result.problems) == len(bad)
    assert all(any(repr(name)[1:-1] in line for line in result.problems) for name in bad)
    paths = [path for path in (tmp_path / "in").rglob("*") if path.is_file()]
    written = {path.relative_to(tmp_path / "in").as_posix(): path.read_bytes() for path in paths}
    assert written == {f"target/{file.name}": file.restored() for file in good}
    assert read(tmp_path / "r", "restore-files", point.id, "--to", str(target)).code == 1, (
        "the folder is not empty"
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Virtual Machines/vm.vmcx", "Virtual Machines/vm.vmcx"),
        ("c:evil/a?b", "c_evil/a_b"),
        ("CON/com1.txt/Lpt9", "_CON/_com1.txt/_Lpt9"),
        ("dot./sp /x", "dot_/sp_/x"),
        ("line\nend", "line_end"),
        ("console/comma", "console/comma"),
    ],
)
def test_names_are_made_safe_for_windows_and_kept_elsewhere(name: str, expected: str) -> None:
    assert local_name(name, windows=True) == expected
    assert local_name(name, windows=False) == name


def test_every_password_opens_and_none_other(tmp_path: Path, read: Read) -> None:
    passwords = ["one", "zw\u00f6lf \U0001f511", "3" * 200]
    repo = RepositoryBytes(passwords=passwords)
    repo.add_point(disks=[])
    directory = repo.write(tmp_path / "r")
    for password in passwords:
        assert len(read(directory, "list", password=password).out.splitlines()) == 1
    result = read(directory, "list", password="One")
    assert (result.code, result.out) == (1, b"")
    assert "wrong password" in result.problems[0]
    (tmp_path / "password").write_text("one\n")
    assert read(directory, "list", "--password-file", str(tmp_path / "password"), password="wrong").code == 0


def test_the_program_runs_by_itself_with_the_key_derivation_of_the_page(tmp_path: Path) -> None:
    repo = RepositoryBytes(kdf=SPECIFICATION_KDF)
    point = repo.add_point(disks=[Content("c", 5, {0: b"hello"})])
    directory = repo.write(tmp_path / "r")
    assert run_reader(directory, "restore", point.id, "--disk", "c", "--to", "-").out == b"hello"
    assert run_reader(directory, "scrub", password=None).code == 0
    assert run_reader(directory, "list", password=None).code == 2
    assert run_reader(directory, "explode").code == 2


def test_a_forgotten_point_does_not_exist_even_when_it_is_put_back(tmp_path: Path, read: Read) -> None:
    repo = RepositoryBytes()
    points = [repo.add_point(disks=[Content("c", 9, {0: b"%d" % number})]) for number in range(3)]
    repo.tombstone(points[1])
    result = read(repo.write(tmp_path / "r"), "list")
    assert (result.code, result.problems) == (0, ())
    assert [json.loads(line)["id"] for line in result.out.splitlines()] == [points[0].id, points[2].id]
    assert read(tmp_path / "r", "restore", points[1].id, "--disk", "c", "--to", "-").code == 1
    assert read(tmp_path / "r", "check").problems == ()


def test_numbers_go_on_after_all_points_were_forgotten(tmp_path: Path, read: Read) -> None:
    repo = RepositoryBytes()
    for point in [repo.add_point(disks=[Content("c", 9, {0: b"%d" % number})]) for number in range(2)]:
        repo.forget(point)
    last = repo.add_point(disks=[])
    assert last.number == 3
    result = read(repo.write(tmp_path / "r"), "check")
    assert (result.code, result.problems) == (0, ())


def test_what_other_runs_wrote_and_what_was_deleted_is_read_from_the_inventories(
    tmp_path: Path, read: Read
) -> None:
    repo = RepositoryBytes()
    old, new = Content("c", 9, {0: b"old"}), Content("d", 9, {0: b"new"})
    first, second = repo.add_point(disks=[old, new]), repo.add_point(disks=[new])
    assert second.packs == ()
    assert repo.objects[second.inventory].count(b"\n= ") == 2, "one pack of chunks, one of nodes"
    assert read(repo.write(tmp_path / "r"), "check").problems == ()
    extra = repo.pack(PACK_OF_CHUNKS, [Frame(repo.chunk_id(b"x"), b"x")])
    run = first.inventory.removeprefix("inventory/")
    repo.inventory(f"{run}.1", [extra])
    repo.inventory(f"{run}.2", [], deleted=[extra])
    del repo.objects[extra]
    result = read(repo.write(tmp_path / "r"), "check")
    assert (result.code, result.problems, result.notes) == (0, (), ())


def test_what_starts_with_a_dot_is_no_object(tmp_path: Path, read: Read) -> None:
    repo = RepositoryBytes()
    repo.add_point(disks=[Content("c", 9, {0: b"x"})])
    repo.objects |= {"packs/.DS_Store": b"", ".stfolder/x": b"", "seals/._x": b"", "stray": b""}
    result = read(repo.write(tmp_path / "r"), "check")
    assert (result.code, result.problems) == (0, ())
    assert result.notes == ("stray: is no object of a repository",)


def test_a_forgotten_point_leaves_no_problem_and_its_history_holds(tmp_path: Path, read: Read) -> None:
    repo = RepositoryBytes()
    points = [repo.add_point(disks=[Content("c", 9, {0: b"%d" % number})]) for number in range(5)]
    for index in (0, 2, 4):
        repo.forget(points[index])
    result = read(repo.write(tmp_path / "r"), "check")
    assert (result.code, result.problems) == (0, ())
    lines = read(tmp_path / "r", "list").out.splitlines()
    assert [json.loads(line)["id"] for line in lines] == [points[1].id, points[3].id]


def test_late_objects_are_checked_and_the_index_is_never_read(tmp_path: Path, read: Read) -> None:
    repo = RepositoryBytes()
    point = repo.add_point(disks=[Content("c", 9, {0: b"x"})])
    late = {"version": 1, "kind": "rct", "time": "2026-01-02T00:00:00Z"}
    run = point.inventory.removeprefix("inventory/")
    names = [
        repo.box(f"tracking/{point.place}/{'1' * 32}", late),
        repo.box(f"evidence/{point.place}/{'2' * 32}", late),
        *repo.journal(point),
        repo.box(f"sessions/{run}", {**late, "run": run}),
        repo.box(f"condemned/{'3' * 32}", {**late, "pack": f"packs/33/{'3' * 32}", "reason": "garbage"}),
        repo.box(f"index/{'4' * 32}", b"no index, though authentic", STORED),
    ]
    assert read(repo.write(tmp_path / "r"), "check").code == 0
    for name in names:
        repo.objects[name] = repo.objects[name][:-1] + b"?"
    result = read(repo.write(tmp_path / "r"), "check")
    assert sorted(line.split(": ")[0] for line in result.problems) == sorted(names)


def test_a_second_copy_of_a_chunk_saves_a_restore(tmp_path: Path, read: Read) -> None:
    repo = RepositoryBytes()
    disk = Content("c", 9, {0: b"x" * 9})
    point = repo.add_point(disks=[disk])
    broken = point.packs[0]
    repo.pack(PACK_OF_CHUNKS, [Frame(repo.chunk_id(b"x" * 9), b"x" * 9, STORED)])
    repo.objects[broken] = repo.objects[broken][:40] + b"????" + repo.objects[broken][44:]
    directory = repo.write(tmp_path / "r")
    assert read(directory, "restore", point.id, "--disk", "c", "--to", "-").out == b"x" * 9
    assert {line.split(": ")[0] for line in read(directory, "check").problems} == {broken}


def test_a_restore_never_writes_over_a_file(tmp_path: Path, read: Read) -> None:
    repo = RepositoryBytes()
    point = repo.add_point(disks=[Content("c", 9, {0: b"x"})])
    target = tmp_path / "precious"
    target.write_bytes(b"mine")
    assert read(repo.write(tmp_path / "r"), "restore", point.id, "--disk", "c", "--to", str(target)).code == 1
    assert target.read_bytes() == b"mine"


def test_the_generator_lays_out_a_node_as_the_page_shows() -> None:
    # Section 7, by hand: child 0 zeros, 1 stored, 2 excluded, 3 stored -> 0b01_10_01_00.
    children = [(0, b""), (1, b"a" * 32), (2, b""), (1, b"b" * 32)] + [(0, b"")] * 60
    expected = bytes.fromhex("0000 4000 02000000 64") + bytes(15) + b"a" * 32 + b"b" * 32
    assert node_bytes(0, children) == expected
    assert CHEAP_KDF["name"] == SPECIFICATION_KDF["name"] == "argon2id"
