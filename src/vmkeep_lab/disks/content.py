"""Put content on an empty disk: made up from a seed, or copied from an image of a real one."""

import random
from collections.abc import Iterator
from typing import IO, Final

from vmkeep_lab.disks.area import Area
from vmkeep_lab.disks.disk import VirtualDisk
from vmkeep_lab.disks.errors import BadRequest
from vmkeep_lab.disks.guest import guest_bytes
from vmkeep_lab.disks.vhdx import KIB, MIB

_UNIT: Final = 64 * KIB
_LARGEST_EXTENT: Final = 8 * MIB
_NO_BYTES: Final = bytes(_UNIT)


def fill(disk: VirtualDisk | Area, seed: object, used_bytes: int) -> list[tuple[int, int]]:
    """Write extents of mixed content, scattered over the disk, and return them as (offset, length).

    Half of it compresses, a tenth repeats content that is on the disk already,
    the rest is noise. ``used_bytes`` is rounded down to 64 KiB.
    """
    chooser = random.Random(f"fill/{seed}")
    left = min(used_bytes, disk.size) // _UNIT * _UNIT
    offset, extents, repeated = 0, [], chooser.randbytes(_UNIT)
    while left:
        length = min(left, chooser.randint(1, _LARGEST_EXTENT // _UNIT) * _UNIT)
        free = disk.size - offset - left
        offset += min(free, int(2 * chooser.random() * free * length / left)) // _UNIT * _UNIT
        pieces = [
            repeated if chooser.random() < 0.1 else guest_bytes(chooser, _UNIT, number)
            for number in range(length // _UNIT)
        ]
        disk.write(offset, b"".join(pieces))
        extents.append((offset, length))
        offset += length
        left -= length
    return extents


def load_image(disk: VirtualDisk, image: IO[bytes]) -> None:
    """Copy what is not zero of a raw image to the start of an empty disk."""
    sector = disk.metadata().logical_sector
    offset = 0
    while data := image.read(MIB):
        if offset + len(data) > disk.size:
            raise BadRequest(f"an image that is larger than a disk of {disk.size} bytes")
        for place, piece in _not_zero(data):
            disk.write(offset + place, piece + bytes(-len(piece) % sector))
        offset += len(data)


def _not_zero(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the units that hold anything, neighbours joined, with their offsets."""
    start = 0
    for place in range(0, len(data) + _UNIT, _UNIT):
        unit = data[place : place + _UNIT]
        if unit == _NO_BYTES[: len(unit)]:
            if place > start:
                yield start, data[start:place]
            start = place + _UNIT
