"""A guest that works: writes to a disk that look like a server's, the same for the same seed."""

import random
from dataclasses import dataclass
from typing import Final, Literal

from vmkeep_lab.disks.area import Area
from vmkeep_lab.disks.disk import VirtualDisk
from vmkeep_lab.disks.vhdx import KIB, MIB

Kind = Literal["write", "zero", "unmap"]

_LOG_EVERY: Final = 7  # one step in seven appends to the guest's log file
_LOG_RECORD: Final = 64 * KIB
_DATABASE_PAGE: Final = 8 * KIB


@dataclass(frozen=True)
class GuestAction:
    """One thing the guest did."""

    kind: Kind
    offset: int
    length: int


class GuestWriter:
    """A deterministic stream of actions on a disk, or on the part of it that the guest writes.

    Scattered writes of 8 to 64 KiB that begin and end at any sector, a log
    file written in order, a database file with a few hot pages, zeroed and
    trimmed ranges, and the first and last sectors of the disk. ``position``
    is all there is to save: a writer made with it goes on where the other was.
    """

    def __init__(self, disk: VirtualDisk | Area, seed: object, position: int = 0) -> None:
        self.position = position
        self._disk = disk
        self._seed = seed
        self._sector = disk.metadata().logical_sector

    def step(self, count: int = 1) -> list[GuestAction]:
        """Do some actions, and tell what they were."""
        actions = []
        for _ in range(count):
            chooser = random.Random(f"{self._seed}/{self.position}")
            action = self._choose(chooser)
            if action.kind == "write":
                self._disk.write(action.offset, guest_bytes(chooser, action.length, self.position))
            elif action.kind == "zero":
                self._disk.zero(action.offset, action.length)
            else:
                self._disk.unmap(action.offset, action.length)
            self.position += 1
            actions.append(action)
        return actions

    def _choose(self, chooser: random.Random) -> GuestAction:
        size = self._disk.size
        if self.position % _LOG_EVERY == 3:
            return self._in_order(size * 5 // 8, size // 8)
        kind = chooser.choices(("scattered", "database", "zero", "unmap", "edge"), (60, 22, 6, 5, 7))[0]
        if kind == "database":
            return self._hot_page(chooser, size * 3 // 8, min(size // 8, 16 * MIB))
        if kind == "zero":
            return self._anywhere(chooser, "zero", chooser.choice((64 * KIB, MIB, 3 * MIB)))
        if kind == "unmap":
            return self._anywhere(chooser, "unmap", chooser.choice((256 * KIB, 2 * MIB, 5 * MIB)))
        if kind == "edge":
            length = self._clipped(chooser.randint(1, 8) * self._sector)
            return GuestAction("write", chooser.choice((0, size - length)), length)
        return self._anywhere(chooser, "write", chooser.randint(8 * KIB, 64 * KIB))

    def _in_order(self, start: int, room: int) -> GuestAction:
        records = max(1, room // _LOG_RECORD)
        record = self.position // _LOG_EVERY % records
        offset = self._aligned(start) + record * _LOG_RECORD
        return GuestAction("write", offset, min(_LOG_RECORD, self._disk.size - offset))

    def _hot_page(self, chooser: random.Random, start: int, room: int) -> GuestAction:
        page = int(max(1, room // _DATABASE_PAGE) * chooser.random() ** 4)
        offset = self._aligned(start) + page * _DATABASE_PAGE
        return GuestAction("write", offset, min(_DATABASE_PAGE, self._disk.size - offset))

    def _anywhere(self, chooser: random.Random, kind: Kind, length: int) -> GuestAction:
        length = self._clipped(max(self._sector, self._aligned(length)))
        return GuestAction(kind, self._aligned(chooser.randint(0, self._disk.size - length)), length)

    def _aligned(self, value: int) -> int:
        return value // self._sector * self._sector

    def _clipped(self, length: int) -> int:
        return min(length, self._disk.size)


def guest_bytes(chooser: random.Random, length: int, number: int) -> bytes:
    """Return bytes as guests write them: half of the time text that compresses, else noise."""
    if chooser.random() < 0.5:
        return chooser.randbytes(length)
    line = f"{number:012d} {chooser.getrandbits(64):016x} the quick brown fox\r\n".encode()
    return (line * (length // len(line) + 1))[:length]
