"""Restore points as a list: which there are, which one a user means. Pure: nothing is read here."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from vmkeep.model.names import did_you_mean, nearest
from vmkeep.model.point import RestorePoint
from vmkeep.repository.errors import PointAmbiguous, PointNotFound, RepositoryError, Tampered
from vmkeep.repository.manifest import format_time, parse_time

POINTS: Final = "points/"
SEALS: Final = "seals/"
_SHORTEST_SURE_PREFIX: Final = 4
_STAMP: Final = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class SealedPoint:
    """A restore point that exists: its manifest, the object it lies in, and that object's digest."""

    point: RestorePoint
    name: str
    digest: bytes


@dataclass(frozen=True)
class Tombstone:
    """What remains of a restore point that was forgotten on purpose."""

    name: str
    vm_id: str
    number: int
    digest: bytes


@dataclass(frozen=True)
class _Damaged:
    """What the name of an unreadable restore point tells about it."""

    folder: str
    stamp: str
    id: str
    problem: RepositoryError

    @property
    def name(self) -> str:
        return f"{self.folder}/{self.stamp}-{self.id}"

    @property
    def time(self) -> str:
        try:
            return format_time(parse_time(self.stamp)).partition(".")[0]
        except ValueError:
            return ""


@dataclass(frozen=True)
class Listing:
    """All restore points, oldest first, what was forgotten, and what could not be read."""

    points: tuple[SealedPoint, ...]
    forgotten: tuple[Tombstone, ...]
    problems: tuple[RepositoryError, ...]

    @property
    def digests(self) -> set[bytes]:
        """Return what is known: the digests of all points, forgotten ones too."""
        return {sealed.digest for sealed in self.points} | {stone.digest for stone in self.forgotten}

    @property
    def gaps(self) -> tuple[Tampered, ...]:
        """Return what the points' chains miss: predecessors that are neither there nor forgotten.

        A predecessor among ``problems`` is no gap, it has been named there.
        """
        known = self.digests
        told = {damaged.name for damaged in self._damaged()}
        found = []
        for sealed in self.points:
            previous = sealed.point.previous
            if previous is not None and previous[1] not in known and previous[0] not in told:
                text = f"the restore point {previous[0]} vanished: its successor {sealed.point.id[:12]}"
                found.append(Tampered(f"{text} names it, and it was not forgotten.", object=previous[0]))
        return tuple(found)

    def gaps_beside(self, sealed: SealedPoint) -> list[Tampered]:
        """Return the gaps among the points of the same VM."""
        folder = _folder_of(sealed.name)
        return [gap for gap in self.gaps if _folder_of(str(gap.context["object"])) == folder]

    def head(self, vm_id: str) -> tuple[int, str, bytes] | None:
        """Return number, object name and digest of the VM's last point, even if it was forgotten since."""
        points = [(s.point.number, s.name, s.digest) for s in self.of_vm(vm_id)]
        stones = [(t.number, t.name, t.digest) for t in self.forgotten if t.vm_id == vm_id]
        return max(points + stones, default=None)

    def of_vm(self, vm_id: str) -> list[SealedPoint]:
        return [sealed for sealed in self.points if sealed.point.vm.id == vm_id]

    def newest(self, vm_id: str) -> SealedPoint | None:
        """Return the VM's last point by number (clocks may have gone back)."""
        return max(self.of_vm(vm_id), key=_order, default=None)

    def find(self, text: str) -> SealedPoint:
        """Return the one point ``text`` means: an id, a prefix of one, ``latest``, VM, VM@latest, VM@TIME.

        Whoever names a VM like such a form does not take it from the others:
        what it means in one way and in another is ambiguous.
        A VM's latest point is the one of the highest number: its time may come
        from a clock that was wrong. Of several VMs' latest, the last by time.
        A damaged point is never passed over in favour of another one: where it
        is meant, or might be, Tampered names it. Raises PointNotFound or
        PointAmbiguous otherwise.
        """
        damaged = self._damaged()
        if not self.points and not damaged:
            raise PointNotFound(
                "the repository holds no restore point.", hint="Make one with `vmkeep backup`."
            )
        by_id = [s for s in self.points if s.point.id.startswith(text.lower())] if text else []
        exact = [s for s in by_id if s.point.id == text.lower()]
        if exact:
            return exact[0]
        if len(text) >= _SHORTEST_SURE_PREFIX:
            _refuse_damaged(text, [d for d in damaged if d.id.startswith(text.lower())])
        named = self._of_vm_named(text)
        if named and len(text) < _SHORTEST_SURE_PREFIX:
            by_id = []  # a VM called "db" or "c1" shall not become ambiguous by chance
        vm, _, when = text.rpartition("@")
        meant = by_id + self._of_time(named, "latest", text, damaged)
        meant += self._of_time(self._of_vm_named(vm), when, text, damaged)
        if text == "latest" and self.points:
            meant.append(self._latest(damaged))
        found = {sealed.name: sealed for sealed in meant}
        if not found:
            _refuse_damaged(text, damaged)  # its name stands in the manifest that cannot be read
            raise PointNotFound(f"no restore point is called {text!r}{self._meant(text) or '.'}")
        if len(found) > 1:
            raise PointAmbiguous(f"{text!r} means {len(found)} restore points.")
        return meant[0]

    def _meant(self, text: str) -> str:
        """Ask for the VM that was meant, if its name is near; the rest of what was typed stays."""
        names = {sealed.point.vm.name for sealed in self.points}
        vm, at, when = text.rpartition("@")
        if at and vm not in names:
            return did_you_mean(text, (f"{name}@{when}" for name in nearest(vm, names)))
        return did_you_mean(text, names)

    def _latest(self, damaged: "list[_Damaged]") -> SealedPoint:
        newest = {s.point.vm.id: s for s in sorted(self.points, key=_order)}
        last = max(newest.values(), key=lambda s: (s.point.time, s.point.number, s.point.id))
        folder, stamp = _folder_of(last.name), stamp_of(last.point.time)
        suspects = [d for d in damaged if d.folder == folder or d.stamp >= stamp]
        _refuse_damaged("latest", [d for d in suspects if self._may_be_newest(d, damaged)])
        return last

    def _may_be_newest(self, one: _Damaged, damaged: "list[_Damaged]") -> bool:
        """Tell whether a damaged point may be its VM's last: its number is unknown, its time may be wrong."""
        intact = [s for s in self.points if _folder_of(s.name) == one.folder]
        if any(s.point.previous is not None and s.point.previous[0] == one.name for s in intact):
            return False
        newest = max(intact, key=_order, default=None)
        if newest is None or one.stamp >= stamp_of(newest.point.time):
            return True
        # Numbers have no gaps: a damaged point that finds no free one below has a higher one.
        stones = {stone.number for stone in self.forgotten if _folder_of(stone.name) == one.folder}
        taken = {n for n in stones | {s.point.number for s in intact} if n <= newest.point.number}
        rivals = {d.name for d in damaged if d.folder == one.folder}
        return len(rivals) > newest.point.number - len(taken)

    def _of_time(
        self, named: list[SealedPoint], when: str, text: str, damaged: "list[_Damaged]"
    ) -> list[SealedPoint]:
        """Return those of one VM's points that ``when`` means. Raises Tampered."""
        if not named or not when:
            return []
        folder = _folder_of(named[0].name)
        suspects = [d for d in damaged if d.folder == folder]
        if when == "latest":
            _refuse_damaged(text, [d for d in suspects if self._may_be_newest(d, damaged)])
            return [max(named, key=_order)]
        wanted = _comparable(when)
        # A name tells the time to the second only.
        _refuse_damaged(text, [d for d in suspects if d.time.startswith(wanted[: len(d.time)])])
        return [s for s in named if format_time(s.point.time).startswith(wanted)]

    def _damaged(self) -> "list[_Damaged]":
        """Return the points that were not listed because their manifest or seal does not verify."""
        found = []
        for problem in self.problems:
            name = str(problem.context.get("object", ""))
            stem = name.removeprefix(SEALS).removeprefix(POINTS)
            stamp, separator, point_id = stem.rpartition("/")[2].partition("-")
            if name.startswith((POINTS, SEALS)) and separator:
                found.append(_Damaged(POINTS + stem.rpartition("/")[0], stamp, point_id, problem))
        return found

    def _of_vm_named(self, vm: str) -> list[SealedPoint]:
        named = [s for s in self.points if s.point.vm.is_called(vm)]
        if len({s.point.vm.id for s in named}) > 1:
            raise PointAmbiguous(
                f"more than one VM is called {vm!r}.",
                hint="Give the VM's id instead of its name: "
                + ", ".join(sorted({s.point.vm.id for s in named}))
                + ".",
            )
        return named


def _order(sealed: SealedPoint) -> tuple[int, datetime]:
    return sealed.point.number, sealed.point.time


def _folder_of(name: str) -> str:
    return name.rpartition("/")[0]


def _refuse_damaged(text: str, damaged: Sequence[_Damaged]) -> None:
    """Raise the damage of a point that ``text`` means or may mean."""
    for one in damaged:
        raise Tampered(
            f"{one.problem.message.rstrip('.')}, and {text!r} may mean it.",
            hint="Name an intact restore point by its id (`vmkeep points`), and run `vmkeep repo check`.",
            **one.problem.context,
        )


def _comparable(when: str) -> str:
    """Turn a time as people type it into a prefix of the stored form."""
    when = when.replace(" ", "T")
    try:
        moment = parse_time(when)
    except ValueError:
        return when.removesuffix("Z")  # a part of a time, such as a day
    text = format_time(moment).removesuffix("Z")
    return text if moment.microsecond else text.removesuffix(".000000")


def stamp_of(time: datetime) -> str:
    """Return a time as it stands in the names of points."""
    return time.astimezone(UTC).strftime(_STAMP)
