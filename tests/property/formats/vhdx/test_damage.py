"""Damaged and hostile files: right bytes or a FormatError, never another exception, never much time."""

import random
import struct
from dataclasses import replace
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.generators import vhdx_bytes as gen
from vmkeep.formats.disk import Disk
from vmkeep.formats.errors import FormatError
from vmkeep.formats.parents import ParentReference, no_parents
from vmkeep.formats.source import BytesSource
from vmkeep.formats.vhdx import open_vhdx

pytestmark = pytest.mark.quick

SIZE = 3 * gen.MIB
NUMBERS = (
    0,
    1,
    2,
    7,
    63,
    64,
    65,
    511,
    4095,
    4096,
    2**16 - 1,
    gen.MIB - 1,
    gen.MIB,
    2**31,
    2**32 - 1,
    2**63,
    2**64 - 1,
)


def sound() -> tuple[gen.Made, dict[str, tuple[int, int]]]:
    """A child with everything in it, and where its structures are."""
    rng = random.Random(1)
    made = gen.make_vhdx(
        disk_size=SIZE,
        blocks={
            0: gen.Block(gen.FULL, rng.randbytes(gen.MIB)),
            1: gen.Block(gen.PARTIAL, rng.randbytes(gen.MIB), frozenset(range(0, 2048, 3))),
        },
        has_parent=True,
        locator=[("parent_linkage", str(gen.DATA_GUID)), ("relative_path", "p.vhdx")],
        log_guid=gen.LOG_GUID,
    )
    size = len(made.data)
    writes: list[gen.Write] = [gen.data_write(made.bat, made.page(made.bat)), gen.zero_write(size, 4096)]
    first = gen.log_entry(5, 0, writes, flushed=size, last=size + gen.MIB)
    second = gen.log_entry(6, 0, writes, flushed=size, last=size + gen.MIB)
    made.put(made.log, bytes(gen.ring_of({0: first, len(first): second})))
    return made, {
        "header 1": (64 * gen.KIB, 96),
        "header 2": (128 * gen.KIB, 96),
        "regions 1": (192 * gen.KIB, 96),
        "regions 2": (256 * gen.KIB, 96),
        "log 1": (made.log, 192),
        "log 2": (made.log + len(first), 192),
        "metadata": (made.metadata, 256),
        "items": (made.metadata + 64 * gen.KIB, 400),
        "table": (made.bat, 32),
        "bitmap entry": (made.bitmap_entry_at(0), 8),
    }


def refresh_checksum(made: gen.Made, area: str) -> None:
    """Make the damage look meant, as a hostile writer would."""
    start, _ = AREAS[area]
    if area.startswith("log"):
        (length,) = struct.unpack_from("<I", made.data, start + 8)
    else:
        length = 4096 if area.startswith("header") else 65536
    made.put(start, gen.crc_at_4(bytes(made.data[start : start + min(length, gen.MIB)])))


SOUND, AREAS = sound()
PARENT = gen.make_vhdx(disk_size=SIZE, blocks={2: gen.Block(gen.FULL, b"\x77" * gen.MIB)})


def find(reference: ParentReference) -> Disk:
    return open_vhdx(BytesSource(PARENT.data, "p.vhdx"), no_parents)


@pytest.mark.slow
@settings(max_examples=150, deadline=2000)
@given(st.integers(0, 2**32), st.integers(1, 4), st.booleans())
def test_damage_ends_in_right_bytes_or_a_format_error(seed: int, hits: int, refreshed: bool) -> None:
    rng = random.Random(seed)
    made = replace(SOUND, data=bytearray(SOUND.data))
    for _ in range(hits):
        area = rng.choice(sorted(AREAS))
        start, length = AREAS[area]
        width = rng.choice([1, 2, 4, 8])
        at = start + rng.randrange(length // width) * width
        value = rng.choice([*NUMBERS, rng.getrandbits(64)]) % 256**width
        made.put(at, value.to_bytes(width, "little"))
        if refreshed and area.startswith(("header", "regions", "log")):
            refresh_checksum(made, area)
    if rng.random() < 0.2:
        del made.data[rng.randrange(len(made.data)) :]
    try:
        disk = open_vhdx(BytesSource(made.data, "disk.avhdx"), find)
    except FormatError as error:
        assert error.file
        return
    list(islice(disk.check(), 1000))
    end = min(disk.profile.size, 8 * gen.MIB)
    try:
        found = list(disk.extents(0, end))
        content = bytearray(disk.read_at(0, end))
    except FormatError as error:
        assert error.file
        return
    for r in found:
        content[r.offset : r.end] = bytes(r.length)
    assert not any(content)
