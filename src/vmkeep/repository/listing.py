"""Restore points as a list: which there are, which one a user means. Pure: nothing is read here."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

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

    def head(self, vm_id: str) -> tuple[int, str, bytes] | None:
        """Return number, object name and digest of the VM's last point, even if it was forgotten since."""
        points = [(s.point.number, s.name, s.digest) for s in self.of_vm(vm_id)]
        stones = [(t.number, t.name, t.digest) for t in self.forgotten if t.vm_id == vm_id]
        return max(points + stones, default=None)

    def of_vm(self, vm_id: str) -> list[SealedPoint]:
        return [sealed for sealed in self.points if sealed.point.vm.id == vm_id]

    def newest(self, vm_id: str) -> SealedPoint | None:
        """Return the VM's last point by number (clocks may have gone back)."""
        return max(self.of_vm(vm_id), key=lambda s: (s.point.number, s.point.time), default=None)

    def find(self, text: str) -> SealedPoint:
        """Return the one point ``text`` means: an id, a prefix of one, ``latest``, VM, VM@latest, VM@TIME.

        A damaged point is never passed over in favour of another one: where it
        is meant, or might be, Tampered names it. Raises PointNotFound or
        PointAmbiguous otherwise.
        """
        damaged = self._damaged()
        if not self.points and not damaged:
            raise PointNotFound(
                "the repository holds no restore point.", hint="Make one with `vmkeep backup`."
            )
        if text == "latest" and self.points:
            newest = self.points[-1]
            _refuse_damaged(text, [d for d in damaged if d.stamp >= stamp_of(newest.point.time)])
            return newest
        by_id = [s for s in self.points if s.point.id.startswith(text.lower())] if text else []
        exact = [s for s in by_id if s.point.id == text.lower()]
        if exact:
            return exact[0]
        if len(text) >= _SHORTEST_SURE_PREFIX:
            _refuse_damaged(text, [d for d in damaged if d.id.startswith(text.lower())])
        named, when = self._of_vm_named(text), "latest"
        if not named and "@" in text:
            vm, _, when = text.rpartition("@")
            named = self._of_vm_named(vm)
        if named and len(text) < _SHORTEST_SURE_PREFIX:
            by_id = []  # a VM called "db" or "c1" shall not become ambiguous by chance
        found = by_id + [s for s in self._of_time(named, when, text, damaged) if s not in by_id]
        if not found:
            _refuse_damaged(text, damaged)  # its name stands in the manifest that cannot be read
            raise PointNotFound(f"no restore point is called {text!r}.")
        if len(found) > 1:
            raise PointAmbiguous(f"{text!r} means {len(found)} restore points.")
        return found[0]

    def _of_time(
        self, named: list[SealedPoint], when: str, text: str, damaged: "list[_Damaged]"
    ) -> list[SealedPoint]:
        """Return those of one VM's points that ``when`` means. Raises Tampered."""
        if not named or not when:
            return []
        folder = named[0].name.rpartition("/")[0]
        suspects = [d for d in damaged if d.folder == folder]
        if when == "latest":
            # By number: the clock may have gone back.
            newest = max(named, key=lambda s: (s.point.number, s.point.time))
            _refuse_damaged(text, [d for d in suspects if d.stamp >= stamp_of(newest.point.time)])
            return [newest]
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
        named = [s for s in self.points if vm in (s.point.vm.name, s.point.vm.id)]
        if len({s.point.vm.id for s in named}) > 1:
            raise PointAmbiguous(
                f"more than one VM is called {vm!r}.",
                hint="Give the VM's id instead of its name: "
                + ", ".join(sorted({s.point.vm.id for s in named}))
                + ".",
            )
        return named


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
