"""The re-read audit: sources that read differently, storage that gives back something else or nothing."""

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

from tests.clocks import FakeClock
from tests.faults.stores import Flip, Remove, Request, WrappedStore, tamper
from tests.repositories import CHUNK, in_order, make_repository, names, reopen, restore
from vmkeep.backup import run as backup
from vmkeep.backup.errors import AuditFailed
from vmkeep.backup.identity import identify
from vmkeep.backup.outcome import Outcome
from vmkeep.capture.source import SourceAddress
from vmkeep.errors import ExitCode
from vmkeep.formats.errors import SourceChanged
from vmkeep.objectstore.store import Store
from vmkeep.progress import Silent
from vmkeep.ranges import ByteRange
from vmkeep.repository.examine.keyed import check
from vmkeep.repository.journal import read_record, read_runs
from vmkeep.repository.repository import Repository

MIB: Final = 1 << 20
_T = TypeVar("_T")


def content_of(seed: int) -> bytes:
    """2.5 MiB: noise, zeros that are allocated, noise; the last chunk is a short one."""
    rng = random.Random(seed)
    return rng.randbytes(MIB) + bytes(MIB // 2) + rng.randbytes(MIB - 9 * 512)


class Scene:
    """A repository in memory, and a folder with a disk and a configuration file."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.clock = FakeClock()
        self.repository = make_repository(clock=self.clock)
        self.content = content_of(seed)
        self.vm = folder / "vm"
        self.config = self.vm / "Virtual Machines" / "vm.vmcx"
        self.config.parent.mkdir(parents=True)
        self.config.write_bytes(b"configuration" * 5000)
        self.disk = self.vm / "system.raw"
        self.disk.write_bytes(self.content)

    def take(self, store: Store | None = None, **wishes: Any) -> Outcome:
        """Take a restore point as a new process would, through ``store``."""
        self.clock.advance(60)
        repository = self.opened(store)
        source = wishes.pop("source", f"folder:{self.vm}")
        request = backup.Request(SourceAddress.parse(source), name="web", **wishes)
        with repository:
            return backup.run(request, repository, self.clock, Silent())

    def opened(self, store: Store | None = None) -> Repository:
        return reopen(self.repository, store, self.clock)

    def refuses(self, store: Store | None = None, **wishes: Any) -> AuditFailed:
        """Take a point that must not come to be."""
        before = len(self.opened().listing().points)
        with pytest.raises(AuditFailed) as caught:
            self.take(store, **wishes)
        assert caught.value.exit_code is ExitCode.MISMATCH
        assert len(self.opened().listing().points) == before
        return caught.value

    def holds(self, outcome: Outcome) -> None:
        """See that a point gives back the disk, and that nothing else than damage met is wrong."""
        repository = self.opened()
        assert restore(repository, outcome.sealed) == {"system": self.content}
        found = check(repository, 1.0, Silent()).problems
        wrong = {problem.object for problem in found if problem.object != "spec.md"}  # made without one
        assert wrong <= set(audit_of(outcome)["replaced_packs"])


def audit_of(outcome: Outcome) -> dict[str, Any]:
    evidence: dict[str, Any] = outcome.sealed.point.evidence["reread_audit"]
    return evidence


class Reads(WrappedStore):
    """Stands between the program and the operating system's reads of one file while its content is stored.

    That begins with the journal's record "writing": before it, opening a file looks at its ends.
    From the second read of a place on, the bits ``flips`` names are turned over.
    """

    def __init__(
        self, scene: Scene, file: Path, patch: pytest.MonkeyPatch, flips: Sequence[int] = ()
    ) -> None:
        super().__init__(scene.repository.store)
        self._ring = scene.repository.ring
        self.log: list[ByteRange] = []
        self._storing = False
        self._inode = file.stat().st_ino
        self._flips = flips
        self._original = os.preadv
        patch.setattr(os, "preadv", self._preadv)

    def _preadv(self, fd: int, buffers: Sequence[memoryview], offset: int, flags: int = 0) -> int:
        got = self._original(fd, buffers, offset, flags)
        if self._storing and os.fstat(fd).st_ino == self._inode:
            for flip in self._flips:
                inside = offset <= flip < offset + got
                if inside and any(earlier.offset <= flip < earlier.end for earlier in self.log):
                    buffers[0][flip - offset] ^= 4
            self.log.append(ByteRange(offset, got))
        return got

    def around(self, request: Request, call: Callable[[], _T]) -> _T:
        result = call()
        if request.verb.startswith("put") and request.name.startswith("runs/"):
            self._storing |= read_record(self.inner, self._ring, request.name).step == "writing"
        return result


@pytest.fixture
def scene(tmp_path: Path, seed: int) -> Scene:
    return Scene(tmp_path, seed)


@pytest.mark.parametrize(
    "at",
    [CHUNK * 5 + 77, MIB + CHUNK * 3, MIB * 5 // 2 - 9 * 512 - 1],
    ids=["data", "zeros", "the last byte"],
)
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_byte_that_reads_differently_gives_no_point(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, at: int, share: float
) -> None:
    error = scene.refuses(Reads(scene, scene.disk, monkeypatch, [at]), reread=share)
    assert f"'system' reads differently at offset {at} " in error.message
    assert error.hint
    [records] = read_runs(scene.repository.store, scene.repository.ring, backup_vm(scene))
    assert records[-1].detail["error"] == error.code
    assert f"offset {at} " in records[-1].detail["message"]
    monkeypatch.undo()
    scene.holds(scene.take())


def backup_vm(scene: Scene) -> str:
    """Return the VM id that runs named "web" get."""
    return identify(SourceAddress.parse(f"folder:{scene.vm}"), "web", None).id


def test_other_files_of_the_vm_are_examined_too(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = Reads(scene, scene.config, monkeypatch, [64_000])
    told = scene.refuses(reads).message
    assert "the file 'Virtual Machines/vm.vmcx' reads differently at offset 64000 " in told


def test_a_source_that_was_written_is_told_as_that(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.preadv
    written = False

    def preadv(fd: int, buffers: Sequence[memoryview], offset: int, flags: int = 0) -> int:
        nonlocal written
        got = original(fd, buffers, offset, flags)
        if not written and got > CHUNK:  # a leaf was read; now somebody writes into it
            written = True
            with scene.disk.open("r+b") as file:
                file.seek(offset + 99)
                file.write(b"somebody")
        return got

    monkeypatch.setattr(os, "preadv", preadv)
    with pytest.raises(SourceChanged, match=r"system\.raw"):
        scene.take(source=f"disk:{scene.disk}")
    assert written


def test_of_much_three_hundred_chunks_are_read_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    scene.content = random.Random(seed).randbytes(9 * MIB)
    scene.disk.write_bytes(scene.content)
    reads = Reads(scene, scene.disk, monkeypatch)
    outcome = scene.take(reads, source=f"disk:{scene.disk}")
    seen: set[int] = set()
    twice: set[int] = set()
    for offset, length in reads.log:
        chunks = set(range(offset // CHUNK, (offset + length) // CHUNK))
        twice |= chunks & seen
        seen |= chunks
    assert len(twice) == 300
    audit = audit_of(outcome)
    # What the operating system was asked for is what the two numbers tell, no more and no less.
    point = outcome.sealed.point
    assert (point.bytes_read, audit["bytes_read"]) == (9 * MIB, 300 * CHUNK)
    assert sum(length for _, length in reads.log) == point.bytes_read + audit["bytes_read"]
    assert (audit["chunks"], audit["of"]) == (300, 576)
    # 300 of 576: four differing chunks are missed with (276/576)^4, about 0.053; five with 0.025.
    assert audit["at_most"] == pytest.approx(4 / 576)
    assert (audit["confidence"], audit["replaced_packs"]) == (0.95, [])
    assert len(bytes.fromhex(audit["seed"])) == 16
    scene.holds(outcome)


def test_all_means_all(scene: Scene, seed: int) -> None:
    scene.content = random.Random(seed).randbytes(9 * MIB)
    scene.disk.write_bytes(scene.content)
    audit = audit_of(scene.take(reread=1.0, source=f"disk:{scene.disk}"))
    assert (audit["chunks"], audit["of"], audit["at_most"]) == (576, 576, 0)


def test_with_declared_changes_what_was_read_is_examined(scene: Scene) -> None:
    source = f"disk:{scene.disk}"
    first = scene.take(source=source).sealed
    changes = (ByteRange(CHUNK * 3 + 5, 10), ByteRange(CHUNK * 70, 2 * CHUNK))
    second = scene.take(source=source, changes=changes, parent=first.point.id)
    assert (audit_of(second)["chunks"], audit_of(second)["of"]) == (3, 3)
    nothing = scene.take(source=source, changes=(), parent=first.point.id)
    assert (audit_of(nothing)["chunks"], audit_of(nothing)["of"]) == (0, 0)


class Rotting(WrappedStore):
    """Flips a bit in the middle of packs as soon as they are stored: the first ``times`` below ``prefix``."""

    def __init__(self, inner: Store, prefix: str, times: int, bit: Callable[[int], int]) -> None:
        super().__init__(inner)
        self.prefix, self.left, self.bit = prefix, times, bit
        self.damaged: list[str] = []

    def around(self, request: Request, call: Callable[[], _T]) -> _T:
        result = call()
        if request.verb == "commit" and request.name.startswith(self.prefix) and self.left:
            self.left -= 1
            tamper(self.inner, request.name, Flip(self.bit(8 * len(self.inner.get(request.name)))))
            self.damaged.append(request.name)
        return result


@pytest.mark.parametrize("place", [0, 3, 7, 9], ids=["first frame", "frames", "more frames", "end"])
@pytest.mark.parametrize("prefix", ["packs/", "maps/"])
def test_a_pack_that_rots_at_once_is_stored_again(scene: Scene, prefix: str, place: int) -> None:
    store = Rotting(scene.repository.store, prefix, 1, lambda bits: bits * place // 10 + 777)
    outcome = scene.take(store, reread=1.0)
    assert len(store.damaged) == 1
    assert audit_of(outcome)["replaced_packs"] == store.damaged
    assert outcome.exit_code is ExitCode.PARTIAL
    assert store.damaged[0] in outcome.warnings[0] and "--read-data all" in outcome.warnings[0]
    scene.holds(outcome)
    # Nothing of any point rests on it: it may go.
    tamper(scene.repository.store, store.damaged[0], Remove())
    assert restore(scene.opened(), outcome.sealed) == {"system": scene.content}


def test_new_maps_are_read_back_whole(scene: Scene) -> None:
    # A bit of the pack's checksum: no frame needs it, so that only reading the whole pack shows it.
    store = Rotting(scene.repository.store, "maps/", 1, lambda bits: bits - 8 * 20)
    outcome = scene.take(store)
    assert audit_of(outcome)["replaced_packs"] == store.damaged
    scene.holds(outcome)


def test_a_storage_that_keeps_damaging_carries_no_point(scene: Scene) -> None:
    store = Rotting(scene.repository.store, "packs/", 10_000, lambda bits: bits // 2)
    error = scene.refuses(store)
    assert "does not give back" in error.message
    assert "storage" in error.hint
    assert names(scene.repository.store, "points/") == []
    # The next run builds on none of what was met, on a storage that has been mended.
    after = scene.take()
    assert (after.exit_code, audit_of(after)["replaced_packs"]) == (ExitCode.OK, [])
    assert restore(scene.opened(), after.sealed) == {"system": scene.content}


class Stale(WrappedStore):
    """A cache that mixes objects up: the first ``times`` reads below ``prefix`` get bytes of ``other``."""

    def __init__(self, inner: Store, prefix: str, other: str, times: int) -> None:
        super().__init__(inner)
        self.prefix, self.other, self.left = prefix, other, times

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        if name.startswith(self.prefix) and name != self.other and self.left:
            self.left -= 1
            old = self.inner.get(self.other)
            buffer[:] = (old * (1 + (offset + len(buffer)) // len(old)))[offset : offset + len(buffer)]
        else:
            super().read_into(name, offset, buffer)


def test_bytes_of_another_object_are_not_taken_for_the_pack(scene: Scene, seed: int) -> None:
    scene.take()
    scene.content = content_of(seed + 1)
    scene.disk.write_bytes(scene.content)
    other = in_order(scene.repository.store, "packs/")[0]
    store = Stale(scene.repository.store, "packs/", other, times=1)
    outcome = scene.take(store)
    assert store.left == 0
    assert len(audit_of(outcome)["replaced_packs"]) == 1
    assert outcome.exit_code is ExitCode.PARTIAL
    scene.holds(outcome)


class Losing(WrappedStore):
    """Loses objects just before a run's first map is stored, when it has relied on them already."""

    def __init__(self, inner: Store, lost: Sequence[str]) -> None:
        super().__init__(inner)
        self.lost = list(lost)

    def around(self, request: Request, call: Callable[[], _T]) -> _T:
        if request.verb == "commit" and request.name.startswith("maps/"):
            while self.lost:
                self.inner.delete(self.lost.pop())
        return call()


def test_an_old_pack_that_is_lost_meanwhile_is_made_up_for(scene: Scene) -> None:
    scene.take()
    packs = names(scene.repository.store, "packs/")
    with scene.disk.open("r+b") as file:
        file.write(b"new")
    scene.content = scene.disk.read_bytes()
    store = Losing(scene.repository.store, packs[:2])
    outcome = scene.take(store)
    assert not store.lost
    assert set(audit_of(outcome)["replaced_packs"]) <= set(packs[:2])
    assert outcome.exit_code is ExitCode.PARTIAL
    assert restore(scene.opened(), outcome.sealed) == {"system": scene.content}


@pytest.mark.parametrize("declared", [False, True], ids=["everything read", "changes declared"])
def test_rot_in_an_old_pack_is_healed_where_it_is_met(scene: Scene, declared: bool) -> None:
    source = f"disk:{scene.disk}"
    first = scene.take(source=source).sealed
    # Packs are small here: all of them rot, in the middle.
    packs = names(scene.repository.store, "packs/")
    for name in packs:
        tamper(scene.repository.store, name, Flip(4 * len(scene.repository.store.get(name))))
    wishes: dict[str, Any] = {}
    if declared:
        wishes = {"changes": (ByteRange(0, len(scene.content)),), "parent": first.point.id}
    second = scene.take(source=source, **wishes)
    assert set(audit_of(second)["replaced_packs"]) == set(packs)
    for name in packs:
        tamper(scene.repository.store, name, Remove())
    assert restore(scene.opened(), second.sealed) == {"system": scene.content}
    third = scene.take(source=source)
    assert (third.exit_code, audit_of(third)["replaced_packs"]) == (ExitCode.OK, [])
    assert restore(scene.opened(), third.sealed) == {"system": scene.content}
