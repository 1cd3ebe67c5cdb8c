"""What an increment takes over: read back without its source, and mended however much of it is damaged."""

import random
from pathlib import Path
from uuid import UUID

import pytest

from tests.faults.backup.test_reread_audit import MIB, Reads, Scene, audit_of
from tests.faults.stores import Flip, Remove, tamper
from tests.generators import vhd_bytes
from tests.repositories import CHUNK, names, restore
from vmkeep.errors import ExitCode
from vmkeep.ranges import ByteRange
from vmkeep.repository.errors import ObjectLost

UNCOMPARED = {"compared_with_source": False}


@pytest.fixture
def scene(tmp_path: Path, seed: int) -> Scene:
    return Scene(tmp_path, seed)


def _fill(scene: Scene, seed: int, size: int) -> str:
    """Give the disk content without zeros and take a first point; return the source's address."""
    scene.content = random.Random(seed).randbytes(size)
    scene.disk.write_bytes(scene.content)
    scene.take(source=f"disk:{scene.disk}")
    return f"disk:{scene.disk}"


def test_the_source_is_not_read_for_it(scene: Scene, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    scene.content = random.Random(seed).randbytes(9 * MIB)
    disk = scene.vm / "system.vhd"  # it has an identifier
    disk.write_bytes(vhd_bytes.fixed(scene.content, UUID(int=5)))
    source = f"disk:{disk}"
    scene.take(source=source)
    reads = Reads(scene, disk, monkeypatch)
    changes = (ByteRange(CHUNK * 200 + 5, 10),)
    outcome = scene.take(reads, source=source, changes=changes, parent="latest", reread=1.0)
    declared = ByteRange(CHUNK * 200, CHUNK)
    middle = ByteRange(CHUNK * 8, 9 * MIB - CHUNK * 16)  # opening a disk looks at its ends
    inside = [r for r in reads.log if r.offset < middle.end and r.end > middle.offset]
    assert len(inside) == 2  # once to store it, once to compare it
    assert all(declared.offset <= r.offset and r.end <= declared.end for r in inside)
    audit = audit_of(outcome)
    assert (audit["chunks"], audit["of"]) == (1, 1)
    assert audit["inherited"] == {"chunks": 575, "of": 575, "at_most": 0} | UNCOMPARED
    scene.holds(outcome)


def test_zeros_are_not_counted_as_read_back(scene: Scene) -> None:
    # 2.5 MiB, 0.5 MiB of them zeros: 160 chunks, 32 of them not stored; one is declared as changed.
    source = f"disk:{scene.disk}"
    scene.take(source=source)
    outcome = scene.take(source=source, changes=(ByteRange(0, 1),), parent="latest")
    assert audit_of(outcome)["inherited"] == {
        "chunks": 127,
        "of": 127,
        "at_most": 0,
        "compared_with_source": True,
    }
    # Zeros are read, too: what was declared and all places that were drawn of the rest.
    assert audit_of(outcome)["bytes_read"] == len(scene.content)


def test_a_point_that_takes_nothing_over_says_so(scene: Scene) -> None:
    for _ in range(2):
        outcome = scene.take()
        assert audit_of(outcome)["inherited"] == {
            "chunks": 0,
            "of": 0,
            "at_most": 0,
            "compared_with_source": False,
        }


def test_much_damage_is_mended_in_one_run(scene: Scene, seed: int) -> None:
    source = _fill(scene, seed, 32 * MIB)
    store = scene.repository.store
    packs = names(store, "packs/")
    assert len(packs) > 400
    rng = random.Random(seed)
    damaged = rng.sample(packs, 100)
    for name in damaged:
        # Half of them in a frame, the others in the slot table.
        at = CHUNK + 99 if rng.random() < 0.5 else -70
        tamper(store, name, Flip(8 * at))
    outcome = scene.take(source=source, changes=(ByteRange(0, 1),), parent="latest", reread=1.0)
    assert outcome.exit_code is ExitCode.PARTIAL
    assert set(audit_of(outcome)["replaced_packs"]) == set(damaged)
    for name in damaged:
        assert any(name in warning for warning in outcome.warnings)
        tamper(store, name, Remove())
    assert restore(scene.opened(), outcome.sealed) == {"system": scene.content}


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_sample_that_met_damage_grows(scene: Scene, seed: int, share: float) -> None:
    # One bit in each of many packs: a sample finds few of them, and a new point must not keep the others.
    source = _fill(scene, seed, 32 * MIB)
    store = scene.repository.store
    damaged = random.Random(seed).sample(names(store, "packs/"), 100)
    for name in damaged:
        tamper(store, name, Flip(8 * (CHUNK + 99)))
    outcome = scene.take(source=source, changes=(ByteRange(0, 1),), parent="latest", reread=share)
    assert outcome.exit_code is ExitCode.PARTIAL
    audit = audit_of(outcome)
    assert set(audit["replaced_packs"]) <= set(damaged)
    # What is left is within what is said, or the sample that says so was one in twenty: here it saw all.
    assert audit["inherited"]["at_most"] == 0
    assert restore(scene.opened(), outcome.sealed) == {"system": scene.content}


@pytest.mark.parametrize("prefix", ["packs/", "maps/"])
def test_what_is_in_no_pack_is_told_and_made_up_for(scene: Scene, seed: int, prefix: str) -> None:
    source = _fill(scene, seed, 3 * MIB)
    store = scene.repository.store
    # Without inventories nobody knows that the packs were there.
    for name in [*names(store, "inventory/"), *names(store, prefix)[-1:]]:
        tamper(store, name, Remove())
    outcome = scene.take(source=source, changes=(ByteRange(0, 1),), parent="latest")
    assert outcome.exit_code is ExitCode.PARTIAL
    assert any("earlier restore point" in warning for warning in outcome.warnings)
    assert restore(scene.opened(), outcome.sealed) == {"system": scene.content}
    after = scene.take(source=source, changes=(ByteRange(0, 1),), parent="latest")
    assert (after.exit_code, after.warnings) == (ExitCode.OK, ())


def test_packs_nobody_can_open_are_told_by_every_kind_of_run(scene: Scene, seed: int) -> None:
    source = _fill(scene, seed, 3 * MIB)
    store = scene.repository.store
    broken = names(store, "packs/")[3]
    tamper(store, broken, Flip(-8 * 70))
    for name in names(store, "index/"):
        tamper(store, name, Remove())
    outcome = scene.take(source=source)
    assert (outcome.exit_code, audit_of(outcome)["replaced_packs"]) == (ExitCode.PARTIAL, [broken])
    tamper(store, broken, Remove())
    assert restore(scene.opened(), outcome.sealed) == {"system": scene.content}


def test_an_undeclared_change_where_the_parent_is_damaged_gives_no_false_point(
    scene: Scene, seed: int
) -> None:
    source = _fill(scene, seed, 3 * MIB)
    store = scene.repository.store
    for name in names(store, "packs/"):
        tamper(store, name, Flip(8 * 99))
    with scene.disk.open("r+b") as file:
        file.seek(CHUNK * 100)
        file.write(bytes(CHUNK * 8))
    with pytest.raises(ObjectLost, match="changed"):
        scene.take(source=source, changes=(ByteRange(0, 1),), parent="latest")
    # What was met is condemned: the next run reads it from the start.
    scene.content = scene.disk.read_bytes()
    outcome = scene.take(source=source, changes=(ByteRange(0, 1),), parent="latest")
    assert restore(scene.opened(), outcome.sealed) == {"system": scene.content}


def test_a_nearly_empty_disk_is_searched_for_so_long_only(scene: Scene) -> None:
    # 64 GiB, 4 Mi chunks, one of them stored. The search ends after 19 200 places.
    with scene.disk.open("wb") as file:
        file.truncate(64 << 30)
        file.seek(CHUNK * 77)
        file.write(b"something")
    source = f"disk:{scene.disk}"
    scene.take(source=source, reread=0.0)
    outcome = scene.take(source=source, changes=(), parent="latest")
    inherited = audit_of(outcome)["inherited"]
    assert inherited["of"] - inherited["chunks"] == (64 << 30) // CHUNK - 19_200
    assert inherited["at_most"] == (0.95 if inherited["chunks"] else 1)
