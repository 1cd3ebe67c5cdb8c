"""The product and docs/format.md agree: a reader and a writer made from that page alone are the witnesses.

What the product writes, tools/read_repository.py lists, restores, checks and scrubs; what the generator of
the tests writes, the product does. Neither witness shares a line with the product.
"""

import io
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.command import CANARY, Vmkeep
from tests.generators.repository_bytes import SPECIFICATION_KDF, Content, RepositoryBytes, WrittenPoint
from tests.unit.tools.read_repository_run import Said, run_reader
from tools.read_repository import Report, Repository, Store, write_image

MIB: Final = 1 << 20
CHUNK: Final = 64 << 10
VM_ID: Final = "6f1d3f6e-0f6b-4d0e-9d63-2c1f0e6b8a11"


def read(repository: Path, *arguments: str) -> Said:
    return run_reader(repository, *arguments, password=CANARY)


@dataclass
class Taken:
    """A restore point and the bytes its source had."""

    id: str
    vm: str
    number: int
    parent: str | None
    disks: dict[str, bytes]
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Made:
    """A repository the product made."""

    vmkeep: Vmkeep
    taken: list[Taken]

    def names(self, prefix: str) -> list[str]:
        paths = (self.vmkeep.repo / prefix).rglob("*")
        return sorted(path.relative_to(self.vmkeep.repo).as_posix() for path in paths if path.is_file())


def sparse_noise(rng: random.Random, size: int, pieces: int) -> bytes:
    """Give a disk that is mostly zeros, with noise and text at unaligned places and at its end."""
    data = bytearray(size)
    for number in range(pieces):
        piece = rng.randbytes(rng.randrange(1, 3 * CHUNK)) if number % 2 else b"text " * 40_000
        at = rng.randrange(max(1, size - len(piece)))
        data[at : at + len(piece)] = piece[: size - at]
    data[-1] = 1
    return bytes(data)


def change(path: Path, at: int, piece: bytes) -> list[int]:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(piece)
    return [at, len(piece)]


def contents(folder: Path, pattern: str) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob(pattern) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def make_export(folder: Path, rng: random.Random) -> Path:
    """Make what an exported VM looks like: two disks and the files Hyper-V keeps beside them."""
    disks, machines = folder / "Virtual Hard Disks", folder / "Virtual Machines"
    disks.mkdir(parents=True)
    machines.mkdir()
    (disks / "system.raw").write_bytes(sparse_noise(rng, 13 * MIB + 3 * 512, 9))
    (disks / "empty.img").write_bytes(bytes(5 * MIB))
    (machines / f"{VM_ID}.vmcx").write_bytes(rng.randbytes(70_001))
    (machines / f"{VM_ID}.vmgs").write_bytes(bytes(4 * MIB + 1))
    (machines / f"{VM_ID}.vmrs").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Made:
    """Let the product make a repository: three VMs, increments, declared changes, configuration files."""
    rng, folder = random.Random(seed), tmp_path_factory.mktemp("made")
    vmkeep = Vmkeep(folder, folder / "repo")
    vmkeep("repo", "init", vmkeep.repo, "--recovery-key-file", folder / "recovery")
    taken: list[Taken] = []

    def take(
        vm: str, source: str, disks: Mapping[str, Path], files: Mapping[str, bytes], *more: object
    ) -> str:
        point = vmkeep.backup(source, "--as", vm, *more)
        parent = next((one.id for one in reversed(taken) if one.vm == vm), None)
        number = 1 + sum(one.vm == vm for one in taken)
        data = {name: path.read_bytes() for name, path in disks.items()}
        taken.append(Taken(point["id"], vm, number, parent, data, dict(files)))
        return str(point["id"])

    export = make_export(folder / "export", rng)
    held = {path.stem: path for path in (export / "Virtual Hard Disks").iterdir()}
    db = folder / "db.raw"
    db.write_bytes(sparse_noise(rng, 9 * MIB + 512, 7))
    take("mail", f"folder:{export}", held, contents(export, "*.vm*"))
    parent = take("db", f"disk:{db}", {"db": db}, {})
    for changed in ([(5, 1), (4 * MIB - 1, 2 * CHUNK)], [(9 * MIB + 7, 505), (0, 4 * MIB)]):
        ranges = [change(db, at, rng.randbytes(length)) for at, length in changed]
        (folder / "changes").write_text(json.dumps(ranges))
        parent = take("db", f"disk:{db}", {"db": db}, {}, "--changes", folder / "changes", "--parent", parent)
    shutil.copy(db, folder / "twin.raw")
    take("twin", f"disk:{folder / 'twin.raw'}", {"twin": folder / "twin.raw"}, {})
    change(held["system"], 8 * MIB, bytes(2 * MIB))
    change(export / "Virtual Machines" / f"{VM_ID}.vmcx", 65_536, b"changed")
    take("mail", f"folder:{export}", held, contents(export, "*.vm*"))
    return Made(vmkeep, taken)


@pytest.fixture
def copy(made: Made, tmp_path: Path) -> Path:
    """The product's repository, to be harmed."""
    return Path(shutil.copytree(made.vmkeep.repo, tmp_path / "copy"))


def opened(made: Made) -> tuple[Repository, Report]:
    report = Report()
    return Repository(Store(str(made.vmkeep.repo)), CANARY.encode(), report), report


def test_the_reader_lists_checks_and_scrubs_the_products_repository(made: Made) -> None:
    listed = read(made.vmkeep.repo, "list")
    assert (listed.code, listed.problems, listed.notes) == (0, (), ())
    lines = {line["id"]: line for line in map(json.loads, listed.out.splitlines())}
    assert len(lines) == len(made.taken)
    for point in made.taken:
        line = lines[point.id]
        assert (line["vm"]["name"], line["number"]) == (point.vm, point.number)
        sizes = {disk["name"]: disk["size"] for disk in line["disks"]}
        assert sizes == {name: len(data) for name, data in point.disks.items()}
    checked = read(made.vmkeep.repo, "check")
    assert (checked.code, checked.problems, checked.notes) == (0, (), ())
    scrubbed = run_reader(made.vmkeep.repo, "scrub", password=None)
    assert (scrubbed.code, scrubbed.problems, scrubbed.notes) == (0, (), ())


def test_the_reader_restores_what_the_product_stored_bit_for_bit(made: Made, tmp_path: Path) -> None:
    repo, report = opened(made)
    points = {point.record["point"]: point for point in repo.read_points()[0]}
    list(repo.read_trailers())
    for taken in made.taken:
        images = points[taken.id].images
        for key, truth in (("disks", taken.disks), ("files", taken.files)):
            found = {}
            for image in images[key]:
                out = io.BytesIO()
                write_image(repo, taken.id, image, out, sparse=False)
                found[image.name] = out.getvalue()
            assert found.keys() == truth.keys()
            assert all(found[name] == truth[name] for name in truth), taken.id
    assert not report.problems
    mail = made.taken[-1]
    done = read(made.vmkeep.repo, "restore", mail.id, "--disk", "system", "--to", str(tmp_path / "system"))
    assert (done.code, done.problems) == (0, ())
    assert (tmp_path / "system").read_bytes() == mail.disks["system"]
    assert read(made.vmkeep.repo, "restore-files", mail.id, "--to", str(tmp_path / "files")).code == 0
    assert contents(tmp_path / "files", "*") == mail.files


def test_the_recovery_key_of_the_product_opens_the_repository_for_the_reader(made: Made) -> None:
    recovery = str(made.vmkeep.folder / "recovery")
    listed = run_reader(made.vmkeep.repo, "list", "--password-file", recovery, password=None)
    assert (listed.code, len(listed.out.splitlines())) == (0, len(made.taken))


# Sections 3, 4, 8, 9 and 11: the keys each object has. Readers ignore others, but the page should name them.
KEYS: Final[dict[str, str]] = {
    "keys": "version id kind created kdf format nonce wrapped checksum",
    "points": "version point run vm number previous parent time finished source method consistency disks"
    " files checkpoints evidence bytes_read bytes_stored inventory program",
    "seals": "version state point digest time",
    "runs": "version run vm number time step lease owner detail",
    "sessions": "version run time",
    "tracking": "version kind time",
    "evidence": "version kind time",
}
DISK_KEYS: Final = (
    "name size root format kind logical_sector physical_sector block_size disk_id source excluded"
)


def test_every_object_of_the_product_has_the_keys_of_the_page(made: Made) -> None:
    repo, _ = opened(made)
    form = json.loads((made.vmkeep.repo / "format").read_bytes())
    page = "format version repository created chunk_size leaf_chunks fanout pack_size put_if_absent"
    assert set(form) == set(f"{page} specification generation".split())
    assert set(form["specification"]) == {"name", "blake3"}
    assert (made.vmkeep.repo / "spec.md").read_bytes() == Path("docs/format.md").resolve().read_bytes()
    for name in made.names("keys"):
        key = json.loads((made.vmkeep.repo / name).read_bytes())
        assert set(key) == set(KEYS["keys"].split())
        numbers = {key: value for key, value in key["kdf"].items() if key != "salt"}
        assert numbers == SPECIFICATION_KDF
    assert {json.loads((made.vmkeep.repo / name).read_bytes())["kind"] for name in made.names("keys")} == {
        "password",
        "recovery",
    }
    for prefix, keys in list(KEYS.items())[1:]:
        for name in made.names(prefix):
            record, _ = repo.open_box(name)
            beyond = prefix in ("tracking", "evidence")
            assert set(keys.split()) <= set(record) if beyond else set(keys.split()) == set(record), name


def test_every_manifest_of_the_product_says_what_the_page_allows(made: Made) -> None:
    repo, _ = opened(made)
    points = {point.record["point"]: point for point in repo.read_points()[0]}
    for taken in made.taken:
        record = points[taken.id].record
        assert record["method"] == "folder"
        assert (record["parent"], record["number"]) == (taken.parent, taken.number)
        assert set(record["vm"]) == {"id", "name"}
        assert set(record["consistency"]) == {"asked", "promised", "got", "reasons"}
        assert all(
            set(reason) == {"code", "fact", "effect", "fix"} for reason in record["consistency"]["reasons"]
        )
        assert record["consistency"]["got"] in ("application", "filesystem", "saved", "off", "crash")
        for disk in record["disks"]:
            assert set(disk) == set(DISK_KEYS.split())
            assert (disk["format"], disk["kind"]) == ("raw", "fixed")
        assert all(set(file) == {"name", "role", "size", "root"} for file in record["files"])
        assert (record["disks"][0]["root"] is None) == (not any(taken.disks[record["disks"][0]["name"]]))
    runs = {name.rpartition("/")[0]: name for name in made.names("runs")}
    last = [repo.open_box(name)[0] for name in runs.values()]
    assert sorted(record["detail"]["point"] for record in last) == made.names("points")
    assert all((one["step"], one["detail"]["outcome"]) == ("finished", "sealed") for one in last)
    lines = [(made.vmkeep.repo / name).read_text().splitlines() for name in made.names("inventory")]
    signs = {line[0] for text in lines for line in text[1:-2]}
    assert signs == {"+", "="}, "twin relies on what db wrote"


def test_equal_content_has_equal_roots_in_the_product_and_in_the_generator(made: Made) -> None:
    # Section 7: equal content has equal nodes; so another writer with the same keys finds the same root.
    repo, _ = opened(made)
    twin = RepositoryBytes(passwords=[])
    twin.id, twin.master = repo.form.repository, repo.master
    twin.chunk_id_key = twin.derive(twin.id, b"vmkeep chunk id v1")
    twin.node_id_key = twin.derive(twin.id, b"vmkeep node id v1")
    points = {point.record["point"]: point for point in repo.read_points()[0]}
    for taken in made.taken:
        for image in points[taken.id].images["disks"] + points[taken.id].images["files"]:
            data = (taken.disks | taken.files)[image.name]
            assert twin.map(Content(image.name, len(data), {0: data} if data else {}), [], []) == image.root


def test_rot_in_the_products_repository_is_found_without_a_password(
    made: Made, copy: Path, seed: int
) -> None:
    rng = random.Random(seed)
    prefixes = (
        "packs",
        "maps",
        "points",
        "seals",
        "runs",
        "inventory",
        "keys",
        "index",
        "evidence",
        "tracking",
    )
    named = {prefix: names for prefix in prefixes if (names := made.names(prefix))}
    assert {"packs", "maps", "points", "seals", "runs", "inventory", "keys"} <= set(named)
    harmed = [rng.choice(names) for names in named.values()] + ["spec.md"]
    for name in harmed:
        whole = (copy / name).read_bytes()
        at = rng.randrange(len(whole))
        (copy / name).write_bytes(whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :])
    result = run_reader(copy, "scrub", password=None)
    assert result.code == 1
    for name in harmed:
        assert [line for line in result.problems if line.startswith(name + ":")], (name, result.problems)


def test_loss_in_the_products_repository_is_found_without_a_password(
    made: Made, copy: Path, seed: int
) -> None:
    # Apart from rot: what only a rotten inventory lists is missed by nobody.
    rng = random.Random(seed)
    lost = [rng.choice(made.names(prefix)) for prefix in ("points", "packs", "maps")]
    for name in lost:
        (copy / name).unlink()
    result = run_reader(copy, "scrub", password=None)
    assert result.code == 1
    for name in lost:
        assert [line for line in result.problems if line.startswith(name + ":")], (name, result.problems)


def cut_newest(copy: Path, names: Callable[[str], list[str]]) -> str:
    """Remove the newest point with its seal; nothing but its run's promise tells of it."""
    name = max(names("points"), key=lambda name: (copy / name).stat().st_mtime_ns)
    (copy / name).unlink()
    (copy / name.replace("points/", "seals/")).unlink()
    return name


def replay_seal(copy: Path, names: Callable[[str], list[str]]) -> str:
    """Put one point's seal in the place of another's."""
    one, two = names("seals")[:2]
    shutil.copy(copy / one, copy / two)
    return two


def move_pack(copy: Path, names: Callable[[str], list[str]]) -> str:
    """Give a pack the name of another."""
    one, two = names("packs")[:2]
    shutil.copy(copy / one, copy / two)
    return two


def put_back_inventory(copy: Path, names: Callable[[str], list[str]]) -> str:
    one, two = names("inventory")[:2]
    shutil.copy(copy / one, copy / two)
    return two


@pytest.mark.parametrize("harm", [cut_newest, replay_seal, move_pack, put_back_inventory])
def test_tampering_with_the_products_repository_is_named_by_the_reader_and_seen_by_the_product(
    made: Made, copy: Path, harm: Callable[[Path, Callable[[str], list[str]]], str]
) -> None:
    name = harm(copy, made.names)
    result = read(copy, "check")
    assert result.code == 1
    assert [line for line in result.problems if line.startswith(name + ":")], result.problems
    product = Vmkeep(copy.parent, copy)("repo", "check", copy, "--read-data", "all", "--json")
    assert product.code == 14, product
    assert name in product.text, product


# The other way round: the generator writes, the product reads ---------------------------------------------


@dataclass
class Written:
    """A repository written from the page, and what the product must say about it."""

    vmkeep: Vmkeep
    repo: RepositoryBytes
    points: dict[str, WrittenPoint]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Iterator[Written]:
    """Write a repository that uses all the page allows."""
    rng, folder = random.Random(seed), tmp_path_factory.mktemp("written")
    repo = RepositoryBytes(seed=seed, passwords=["another", "zw\u00f6lf"], frames_per_pack=40)
    repo.add_key(CANARY, SPECIFICATION_KDF)
    size = 9 * MIB + 512
    system = Content("system", size, {0: rng.randbytes(5 * MIB), size - 3: b"end"})
    excluding = Content(
        "system", size, system.pieces, excluded=[(100_000, 300_000), (4 * MIB, size - 4 * MIB)]
    )
    big = Content("big", 5 << 30, {0: b"first", (4 << 30) - 3: b"across!", (5 << 30) - 4: b"last"})
    config = Content(f"Virtual Machines/{VM_ID}.vmcx", 70_000, {3: rng.randbytes(66_000)})
    vm = (VM_ID, "server")
    points = {
        "first": repo.add_point(vm=vm, disks=[system], files=[config]),
        "forgotten": repo.add_point(vm=vm, disks=[system]),
        "excluding": repo.add_point(vm=vm, disks=[excluding, Content("zeros", 3 * MIB)]),
        "void": repo.add_point(vm=vm, disks=[system], state="void"),
        "unsealed": repo.add_point(vm=vm, disks=[system], state=None),
        "big": repo.add_point(vm=("other", "large"), disks=[big]),
        "put back": repo.add_point(vm=("third", "third"), disks=[system]),
        "last": repo.add_point(vm=("third", "third"), disks=[Content("system", 1 * MIB, {7: b"x"})]),
    }
    repo.forget(points["forgotten"])
    repo.tombstone(points["put back"])
    for name in ("first", "excluding", "big", "last"):
        repo.journal(points[name])
    yield Written(Vmkeep(folder, repo.write(folder / "repo")), repo, points)


EXISTING: Final = ("first", "excluding", "big", "last")


def test_the_witnesses_agree_with_each_other(written: Written) -> None:
    result = read(written.vmkeep.repo, "check")
    assert (result.code, result.problems) == (0, ())


def test_the_product_lists_what_exists_in_a_repository_written_from_the_page(written: Written) -> None:
    listed = written.vmkeep.points()
    assert {line["id"] for line in listed} == {written.points[name].id for name in EXISTING}
    by_id = {line["id"]: line for line in listed}
    for name in EXISTING:
        point, line = written.points[name], by_id[written.points[name].id]
        assert line["vm_id"] == point.vm
        assert [(disk["name"], disk["size"]) for disk in line["disks"]] == [
            (d.name, d.size) for d in point.disks
        ]
    again = written.vmkeep.ok("points", "--json", env={"VMKEEP_PASSWORD": "zw\u00f6lf"}).json
    assert [line["id"] for line in again] == [line["id"] for line in listed]
    written.vmkeep.fails(12, "points", env={"VMKEEP_PASSWORD": "zwolf"})


@pytest.mark.parametrize("name", ["first", "excluding"])
def test_the_product_restores_a_repository_written_from_the_page(
    written: Written, tmp_path: Path, name: str
) -> None:
    point = written.points[name]
    written.vmkeep.ok("restore", point.id, "--to", tmp_path / "out", "--format", "raw", "--json")
    found = {Path(path).stem: data for path, data in contents(tmp_path / "out", "*.raw").items()}
    assert found == {disk.name: disk.restored() for disk in point.disks if not disk.name.endswith(".vmcx")}


def data_of(path: Path) -> dict[int, bytes]:
    """Give the pieces of a sparse file that are not holes."""
    found, at = dict[int, bytes](), 0
    with path.open("rb") as file:
        while at < path.stat().st_size:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:  # only a hole is left
                break
            at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            found[start] = os.pread(file.fileno(), at - start, start)
    return found


def test_the_product_restores_a_map_of_two_levels_and_leaves_it_sparse(
    written: Written, tmp_path: Path
) -> None:
    big = written.points["big"].disks[0]
    written.vmkeep.ok("restore", written.points["big"].id, "--to", tmp_path / "out.raw", "--format", "raw")
    assert (tmp_path / "out.raw").stat().st_size == big.size
    found = data_of(tmp_path / "out.raw")
    assert sum(map(len, found.values())) < 4 * MIB
    assert all(data == big.read(start, len(data)) for start, data in found.items())
    for offset, piece in big.pieces.items():
        for at in (offset, offset + len(piece) - 1):
            assert any(start <= at < start + len(data) for start, data in found.items())


def test_the_product_finds_no_fault_in_a_repository_written_from_the_page(written: Written) -> None:
    report = written.vmkeep.ok("repo", "check", written.vmkeep.repo, "--read-data", "all", "--json").json
    assert (report["ok"], report["problems"]) == (True, [])
    keyless: Any = written.vmkeep(
        "repo", "check", written.vmkeep.repo, "--keyless", "--json", env={"VMKEEP_PASSWORD": None}
    )
    assert keyless.code == 0, keyless


def test_the_product_goes_on_with_a_history_written_from_the_page(
    written: Written, tmp_path: Path, seed: int
) -> None:
    repo = Path(shutil.copytree(written.vmkeep.repo, tmp_path / "repo"))
    vmkeep = Vmkeep(tmp_path, repo)
    export = make_export(tmp_path / "export", random.Random(seed))
    taken = vmkeep.backup(f"folder:{export}")
    assert taken["vm_id"] == VM_ID
    listed = read(repo, "list")
    line = next(line for line in map(json.loads, listed.out.splitlines()) if line["id"] == taken["id"])
    assert line["number"] == written.points["excluding"].number + 1 == 4
    checked = read(repo, "check")
    assert (checked.code, checked.problems) == (0, ())
    data = read(repo, "restore", taken["id"], "--disk", "system", "--to", "-").out
    assert data == (export / "Virtual Hard Disks" / "system.raw").read_bytes()
