"""What an attacker or a rotten disk does to the storage is noticed, and the object is named."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.command import Vmkeep

MIB = 1 << 20


def only(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


class Kept:
    """A repository with two points of one VM, one of another, and what their disks held."""

    def __init__(self, folder: Path, empty_repository: Path, seed: int) -> None:
        self.vmkeep = Vmkeep(folder, folder / "repo")
        shutil.copytree(empty_repository, self.vmkeep.repo)
        rng = random.Random(seed)
        self.contents = [rng.randbytes(MIB), rng.randbytes(MIB), rng.randbytes(MIB)]
        self.ids = []
        for name, content in zip(("web", "web", "db"), self.contents, strict=True):
            (folder / f"{name}.raw").write_bytes(content)
            self.ids.append(self.vmkeep.backup(f"disk:{folder / name}.raw")["id"])


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, empty_repository: Path, seed: int) -> Kept:
    return Kept(tmp_path_factory.mktemp("kept"), empty_repository, seed)


@pytest.fixture
def copy(kept: Kept, tmp_path: Path) -> Vmkeep:
    """The repository of ``kept``, for this test to spoil; the machine remembers its newest points."""
    shutil.copytree(kept.vmkeep.repo, tmp_path / "repo")
    shutil.copytree(kept.vmkeep.state, tmp_path / "state")
    return Vmkeep(tmp_path, tmp_path / "repo")


def problems(vmkeep: Vmkeep, *options: str) -> Any:
    result = vmkeep("repo", "check", vmkeep.repo, "--json", *options)
    assert result.code == 14, result
    assert not result.json["ok"]
    return result.json["problems"]


def name_of(vmkeep: Vmkeep, path: Path) -> str:
    return path.relative_to(vmkeep.repo).as_posix()


def newest_of_web(vmkeep: Vmkeep, kept: Kept, kind: str) -> Path:
    return next(p for p in only(vmkeep.repo / kind) if p.name.endswith(kept.ids[1]))


@pytest.mark.parametrize("damage", [flip, empty, Path.unlink])
@pytest.mark.parametrize("kind", ["points", "seals"])
def test_a_damaged_manifest_or_seal_is_named_and_never_passed_over(
    copy: Vmkeep, kept: Kept, kind: str, damage: Callable[[Path], object]
) -> None:
    victim = newest_of_web(copy, kept, kind)
    damage(victim)
    gone = damage is Path.unlink and kind == "seals"  # unsealed: as if it had never been finished
    manifest = (
        name_of(copy, newest_of_web(copy, kept, "points")) if kind == "seals" else name_of(copy, victim)
    )
    listing = copy("points", "--json")
    assert listing.code == 14
    if gone:
        assert kept.ids[0] not in listing.text and "rolled back" in listing.err
    else:
        assert [p["id"] for p in listing.json] == [kept.ids[0], kept.ids[2]]
        assert name_of(copy, victim) in listing.err or manifest in listing.err
    # The damaged point is asked for by its id, by its VM, as the newest of its VM: never the older one.
    for point in (kept.ids[1], "web"):
        refused = copy("restore", point, "--to", "-")
        assert (refused.code, refused.out) == (14, b""), (point, refused)
        if not gone:
            assert name_of(copy, victim) in refused.err or manifest in refused.err
    if not gone:
        # What is intact can be restored when it is meant clearly.
        assert copy("restore", kept.ids[0], "--to", "-").out == kept.contents[0]
        assert copy("restore", "db", "--to", "-").out == kept.contents[2]
        found = [p["object"] for p in problems(copy)]
        assert name_of(copy, victim) in found or manifest in found


@pytest.mark.parametrize("which", [0, 1])
def test_a_point_taken_away_without_a_trace_is_missed_by_a_check(
    copy: Vmkeep, kept: Kept, which: int
) -> None:
    # The older one is named by its successor, the newest by the journal of its run.
    for kind in ("seals", "points"):
        next(p for p in only(copy.repo / kind) if p.name.endswith(kept.ids[which])).unlink()
    assert any(kept.ids[which] in p["message"] for p in problems(copy))


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
@pytest.mark.parametrize("kind", ["packs", "maps"])
def test_a_damaged_pack_is_named_by_check_and_restore(
    copy: Vmkeep, kept: Kept, tmp_path: Path, kind: str, damage: Callable[[Path], object]
) -> None:
    victims = only(copy.repo / kind)
    for victim in victims:
        damage(victim)
    names = {name_of(copy, victim) for victim in victims}
    assert names <= {p["object"] for p in problems(copy, "--read-data", "all")}
    assert names <= {p["object"] for p in problems(copy, "--keyless")}
    for number, point in enumerate(kept.ids[:1]):
        refused = copy("restore", point, "--to", tmp_path / f"back{number}")
        assert refused.code == 14, refused
        assert any(name in refused.err for name in names) or damage is Path.unlink, refused.err
        assert len(refused.err.splitlines()) == 2
        assert not only(tmp_path / f"back{number}")
    streamed = copy("restore", kept.ids[0], "--to", "-")
    assert streamed.code == 14
    assert kept.contents[0].startswith(streamed.out)  # no wrong byte went out


@pytest.mark.parametrize("kind", ["packs", "maps", "points", "seals", "evidence", "runs", "index"])
def test_objects_that_change_places_are_noticed(copy: Vmkeep, kept: Kept, kind: str) -> None:
    first, second = only(copy.repo / kind)[:2]
    one, other = first.read_bytes(), second.read_bytes()
    assert one != other
    first.write_bytes(other)
    second.write_bytes(one)
    report = copy("repo", "check", copy.repo, "--json", "--read-data", "all")
    named = {p["object"] for p in report.json["problems"]}
    assert named & {name_of(copy, first), name_of(copy, second)} or any(
        name_of(copy, first) in p["message"] for p in report.json["problems"]
    )
    # The index is derived: losing it costs time, never data.
    assert report.code == (0 if kind == "index" else 14)


def test_a_damaged_or_lost_index_changes_nothing_that_is_restored(copy: Vmkeep, kept: Kept) -> None:
    for number, path in enumerate(only(copy.repo / "index")):
        (flip, Path.unlink, cut)[number % 3](path)
    for point, content in zip(kept.ids, kept.contents, strict=True):
        assert copy.restore_raw(point) == content
    again = copy.backup("disk:" + str(kept.vmkeep.folder / "web.raw"))
    assert again["bytes_read"] == MIB


@pytest.mark.parametrize("damage", [flip, cut])
def test_a_damaged_inventory_is_named(copy: Vmkeep, kept: Kept, damage: Callable[[Path], object]) -> None:
    victim = only(copy.repo / "inventory")[0]
    damage(victim)
    assert name_of(copy, victim) in {p["object"] for p in problems(copy)}
    assert name_of(copy, victim) in {p["object"] for p in problems(copy, "--keyless")}
    assert copy.restore_raw(kept.ids[0]) == kept.contents[0]


@pytest.mark.parametrize("damage", [flip, empty])
def test_a_damaged_key_is_named(copy: Vmkeep, kept: Kept, damage: Callable[[Path], object]) -> None:
    victim = only(copy.repo / "keys")[0]
    damage(victim)
    for arguments in (("points",), ("restore", kept.ids[0], "--to", "-"), ("repo", "check", copy.repo)):
        copy.fails(14, *arguments, says=name_of(copy, victim))
    assert name_of(copy, victim) in {p["object"] for p in problems(copy, "--keyless")}


def test_a_changed_parameter_is_noticed_before_anything_is_read(copy: Vmkeep, kept: Kept) -> None:
    file = copy.repo / "format"
    original = json.loads(file.read_bytes())
    changes: dict[str, Any] = {"chunk_size": 32768, "repository": "00" * 16, "put_if_absent": False}
    for key, value in changes.items():
        file.write_text(json.dumps({**original, key: value}))
        copy.fails(14, "points", says="format")
    copy.fails(14, "restore", kept.ids[0], "--to", "-", says="format")
    for garbage in (b"", b"[1]", b"\xff\xfe"):
        file.write_bytes(garbage)
        refused = copy("points")
        assert refused.code in (10, 14) and "format" in refused.err


def test_a_pack_replaced_by_an_older_one_of_the_same_repository_is_noticed(copy: Vmkeep, kept: Kept) -> None:
    old, new = only(copy.repo / "packs")[:2]
    new.write_bytes(old.read_bytes())
    assert name_of(copy, new) in {p["object"] for p in problems(copy, "--keyless")}
    assert name_of(copy, new) in {p["object"] for p in problems(copy)}
    codes = {copy("restore", point, "--to", "-").code for point in kept.ids}
    assert codes == {0, 14}


def test_an_older_state_of_the_repository_is_refused_until_accepted(
    copy: Vmkeep, kept: Kept, tmp_path: Path
) -> None:
    shutil.copytree(copy.repo, tmp_path / "old")
    newer = copy.backup("disk:" + str(kept.vmkeep.folder / "db.raw"))
    shutil.rmtree(copy.repo)
    (tmp_path / "old").rename(copy.repo)
    source = "disk:" + str(kept.vmkeep.folder / "db.raw")
    for arguments in (("points",), ("show", "db"), ("restore", "db", "--to", "-"), ("backup", source)):
        refused = copy.fails(14, *arguments, says="rolled back")
        assert "--accept-rollback" in refused.err
    assert copy.restore_raw("db", "--accept-rollback") == kept.contents[2]
    assert [p["id"] for p in copy.points()] == kept.ids  # accepted once is accepted
    assert newer["id"] not in {p["id"] for p in copy.points()}
    copy.backup(source)
    copy.check_all()


def test_an_older_point_that_was_taken_away_is_missed_by_points_and_restore(copy: Vmkeep, kept: Kept) -> None:
    copy.points()
    for kind in ("seals", "points"):
        victim = next(p for p in only(copy.repo / kind) if p.name.endswith(kept.ids[0]))
        victim.unlink()
        listing = copy("points", "--json")
        assert (listing.code, [p["id"] for p in listing.json]) == (14, kept.ids[1:]), kind
        (warning,) = listing.err.splitlines()
        assert kept.ids[0] in warning and "vanished" in warning
        restored = copy("restore", "web", "--to", "-")
        assert (restored.code, restored.out) == (0, kept.contents[1])
        assert kept.ids[0] in restored.err
        assert copy.restore_raw("db") == kept.contents[2]  # another VM's history has no gap


def test_another_repository_in_the_place_of_the_known_one_is_refused_until_accepted(
    copy: Vmkeep, kept: Kept, tmp_path: Path
) -> None:
    copy.points()
    copy.repo.rename(tmp_path / "known")
    # Made by somebody who knows the password, on a machine that this one knows nothing of.
    stranger = Vmkeep(tmp_path, copy.repo, state=tmp_path / "strange-state")
    stranger.ok("repo", "init", copy.repo, "--no-recovery-key")
    source = "disk:" + str(kept.vmkeep.folder / "db.raw")
    strange = stranger.backup(source)["id"]
    add = ("repo", "key", "add", copy.repo, "--recovery-key-file", tmp_path / "recovery")
    (key,) = (copy.repo / "keys").iterdir()
    for arguments in (
        ("points",), ("show", "db"), ("restore", "db", "--to", "-"), ("backup", source), ("repo", "info"),
        add, ("repo", "key", "remove", copy.repo, key.name),
    ):  # fmt: skip
        refused = copy.fails(14, *arguments, says="another repository")
        assert "--accept-rollback" in refused.err
    assert "another repository" in json.dumps(problems(copy))
    assert list((copy.repo / "keys").iterdir()) == [key] and not (tmp_path / "recovery").exists()
    copy.ok(*add, "--accept-rollback")
    assert [p["id"] for p in copy.points()] == [strange]
    copy.repo.rename(tmp_path / "strange")
    (tmp_path / "known").rename(copy.repo)
    assert [p["id"] for p in copy.points()] == kept.ids  # both are known here now


def test_a_repository_made_anew_on_this_machine_raises_no_alarm(copy: Vmkeep) -> None:
    copy.points()
    shutil.rmtree(copy.repo)
    copy.ok("repo", "init", copy.repo, "--no-recovery-key")
    assert copy.points() == []


def test_a_memory_that_cannot_be_understood_is_said_to_start_anew(copy: Vmkeep, kept: Kept) -> None:
    copy.points()
    next(copy.state.glob("head-*")).write_bytes(b"{")
    told = copy("points", "--json")
    assert (told.code, [p["id"] for p in told.json]) == (0, kept.ids)
    (warning,) = [json.loads(line) for line in told.err.splitlines()]
    assert warning["message_type"] == "warning" and "starts anew" in warning["message"]
    copy.ok("points")


def test_a_memory_that_cannot_be_read_keeps_nobody_from_anything(copy: Vmkeep, kept: Kept) -> None:
    copy.points()
    for memory in copy.state.glob("head-*"):
        memory.unlink()
        memory.mkdir()
    source = "disk:" + str(kept.vmkeep.folder / "db.raw")
    for arguments in (
        ("points",), ("show", "db"), ("restore", "web", "--to", "-"), ("repo", "info"), ("repo", "check"),
        ("backup", source),
    ):  # fmt: skip
        told = copy(*arguments)
        assert told.code == 0, told.err
        assert "cannot be read" in told.err and "nobody notices" in told.err
    assert len(json.loads(copy("points", "--json").text)) == len(kept.ids) + 1


def test_a_machine_that_has_seen_nothing_cannot_know_of_a_rollback(
    copy: Vmkeep, kept: Kept, tmp_path: Path
) -> None:
    newest_of_web(copy, kept, "seals").unlink()
    copy.fails(14, "points", says="has seen")
    elsewhere = Vmkeep(tmp_path, copy.repo, state=tmp_path / "other-state")
    assert [p["id"] for p in elsewhere.points()] == [kept.ids[0], kept.ids[2]]


def test_an_object_nobody_knows_is_noted_and_harms_nothing(copy: Vmkeep) -> None:
    (copy.repo / "README.txt").write_text("note of an administrator")
    (copy.repo / "packs" / "zz").mkdir()
    (copy.repo / "packs" / "zz" / "junk").write_bytes(b"junk")
    report = copy("repo", "check", copy.repo, "--json")
    assert report.code == 0
    assert {(p["object"], p["harmless"]) for p in report.json["problems"]} == {
        ("README.txt", True),
        ("packs/zz/junk", True),
    }


def test_the_latest_point_is_not_quietly_the_one_before(copy: Vmkeep, kept: Kept) -> None:
    victim = next(p for p in only(copy.repo / "points") if p.name.endswith(kept.ids[2]))
    flip(victim)
    # Its VM's name stands in the manifest only: "db" is as good a guess as any.
    for point in ("latest", "db"):
        copy.fails(14, "restore", point, "--to", "-", says=name_of(copy, victim))
    assert copy.restore_raw("web") == kept.contents[1]


@pytest.mark.parametrize(
    "kind", ["points", "seals", "keys", "index", "runs", "inventory", "condemned", "spec.md"]
)
def test_an_enormous_object_fills_no_memory_and_hides_nothing(copy: Vmkeep, kept: Kept, kind: str) -> None:
    # A sparse file costs whoever plants it nothing.
    if kind == "spec.md":
        place = copy.repo / kind
    else:
        beside = next((p for p in sorted((copy.repo / kind).rglob("*")) if p.is_file()), None)
        place = (beside.parent if beside is not None else copy.repo / kind) / ("f" * 32)
        place.parent.mkdir(exist_ok=True)
        if kind == "seals":
            (copy.repo / "points" / place.relative_to(copy.repo / kind)).write_bytes(b"junk")
    with place.open("wb") as file:
        file.truncate(1 << 40)
    listed = copy("points", "--json")
    assert listed.code in (0, 14), listed.err
    assert [p["id"] for p in listed.json] == kept.ids
    assert copy("repo", "check", copy.repo).code in (0, 14)
    assert copy("backup", "disk:" + str(kept.vmkeep.folder / "db.raw"), "--json").code in (0, 3, 14)
