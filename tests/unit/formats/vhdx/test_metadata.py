"""The metadata: a table without a checksum, so every rule of [MS-VHDX] 2.6 is enforced."""

import struct
from uuid import UUID

import pytest

from tests.generators import vhdx_bytes as gen
from vmkeep.formats.disk import DiskProfile
from vmkeep.formats.errors import CorruptDisk, UnsupportedDisk
from vmkeep.formats.parents import no_parents
from vmkeep.formats.source import BytesSource
from vmkeep.formats.vhdx import VhdxDisk, open_vhdx

pytestmark = pytest.mark.quick

STRANGE = "11111111-2222-3333-4444-555555555555"
Item = tuple[str, int, bytes]


def opened(made: gen.Made) -> VhdxDisk:
    return open_vhdx(BytesSource(made.data, "disk.vhdx"), no_parents)


def items(**changes: int) -> list[Item]:
    values = {"disk_size": 8 * gen.MIB, "block_size": gen.MIB, "sector": 512, "physical": 512, "bits": 0}
    values.update(changes)
    return gen.standard_items(disk_id=UUID(int=7), **values)


def with_items(chosen: list[Item]) -> gen.Made:
    return gen.make_vhdx(disk_size=8 * gen.MIB, items=chosen)


def with_table(entries: list[tuple[str, int, int, int]], count: int | None = None) -> gen.Made:
    made = with_items(items())
    made.put(made.metadata, gen.metadata_table(entries, count))
    return made


def entries_of(chosen: list[Item]) -> list[tuple[str, int, int, int]]:
    """The entries as the generator lays them out, to be changed one by one."""
    out, at = [], 65536
    for guid, flags, content in chosen:
        out.append((guid, at, len(content), flags))
        at += len(content) + 24
    return out


def test_the_profile_tells_everything() -> None:
    disk = opened(with_items(items(sector=4096, physical=4096, bits=1, block_size=2 * gen.MIB)))
    assert disk.profile == DiskProfile(
        format="vhdx",
        kind="fixed",
        size=8 * gen.MIB,
        logical_sector=4096,
        physical_sector=4096,
        block_size=2 * gen.MIB,
        disk_id=UUID(int=7),
    )


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("block_size", 0),
        ("block_size", 512 * gen.KIB),
        ("block_size", 3 * gen.MIB),
        ("block_size", 512 * gen.MIB),
        ("disk_size", 0),
        ("disk_size", 8 * gen.MIB + 1),
        ("disk_size", 64 * gen.TIB + 512),
        ("disk_size", 2**64 - 512),
        ("sector", 0),
        ("sector", 1024),
        ("physical", 0),
        ("physical", 8192),
    ],
)
def test_values_out_of_range_are_refused(change: str, value: int) -> None:
    with pytest.raises(CorruptDisk, match="broken metadata"):
        opened(with_items(items(**{change: value})))


def test_a_4k_disk_of_half_a_sector_is_refused() -> None:
    with pytest.raises(CorruptDisk):
        opened(with_items(items(sector=4096, disk_size=gen.MIB + 512)))


@pytest.mark.parametrize("missing", range(5))
def test_each_item_is_required(missing: int) -> None:
    chosen = items()
    del chosen[missing]
    with pytest.raises(CorruptDisk, match="missing"):
        opened(with_items(chosen))


@pytest.mark.parametrize("n", range(5))
@pytest.mark.parametrize("delta", [-1, 1])
def test_each_item_has_its_exact_length(n: int, delta: int) -> None:
    chosen = items()
    guid, flags, content = chosen[n]
    chosen[n] = (guid, flags, content[:-1] if delta < 0 else content + b"\0")
    with pytest.raises(CorruptDisk, match="bytes instead of"):
        opened(with_items(chosen))


def test_an_unknown_required_item_is_refused_and_an_optional_one_is_not() -> None:
    with pytest.raises(UnsupportedDisk, match=STRANGE):
        opened(with_items([*items(), (STRANGE, gen.REQUIRED, b"x")]))
    assert opened(with_items([*items(), (STRANGE, gen.VIRTUAL_DISK, b"x")])).profile.size == 8 * gen.MIB


def test_a_user_item_is_not_taken_for_the_system_item_of_the_same_id() -> None:
    imposter = (gen.DISK_SIZE, gen.USER, struct.pack("<Q", gen.MIB))
    assert opened(with_items([imposter, *items()])).profile.size == 8 * gen.MIB
    with pytest.raises(UnsupportedDisk):
        opened(with_items([*items(), (gen.DISK_SIZE, gen.USER | gen.REQUIRED, bytes(8))]))


def test_an_empty_item_is_allowed() -> None:
    assert opened(with_items([*items(), (STRANGE, 0, b"")])).profile.size == 8 * gen.MIB


def test_items_may_lie_far_away_and_in_any_order() -> None:
    chosen = items()
    entries = entries_of(chosen)
    made = with_items(chosen)
    guid, _, length, flags = entries[1]
    entries[1] = (guid, 900_001, length, flags)
    made.put(made.metadata, gen.metadata_table(entries[::-1]))
    made.put(made.metadata + 900_001, struct.pack("<Q", 5 * gen.MIB))
    assert opened(made).profile.size == 5 * gen.MIB


@pytest.mark.parametrize("count", [2048, 65535])
def test_too_many_entries_are_refused(count: int) -> None:
    with pytest.raises(CorruptDisk, match="claims"):
        opened(with_table(entries_of(items()), count))


def test_too_many_user_entries_are_refused() -> None:
    crowd = [(str(UUID(int=n + 1)), 0, 0, gen.USER) for n in range(1025)]
    with pytest.raises(CorruptDisk, match="too many user items"):
        opened(with_table([*entries_of(items()), *crowd]))


@pytest.mark.parametrize(
    ("offset", "length"),
    [(65535, 8), (0, 8), (gen.MIB - 7, 8), (2**32 - 1, 2**32 - 1), (70000, gen.MIB + 1), (70000, 0)],
)
def test_an_item_outside_the_region_is_refused(offset: int, length: int) -> None:
    entries = entries_of(items())
    entries.append((STRANGE, offset, length, 0))
    with pytest.raises(CorruptDisk, match="broken metadata"):
        opened(with_table(entries))


def test_overlapping_and_doubled_items_are_refused() -> None:
    entries = entries_of(items())
    with pytest.raises(CorruptDisk, match="overlap"):
        opened(with_table([*entries, (STRANGE, entries[0][1] + 7, 4, 0)]))
    with pytest.raises(CorruptDisk, match="twice"):
        opened(with_table([*entries, (entries[0][0], 80000, 8, gen.REQUIRED)]))


def test_a_table_without_signature_is_refused() -> None:
    made = with_items(items())
    made.data[made.metadata] ^= 1
    with pytest.raises(CorruptDisk, match="signature"):
        opened(made)


def test_a_disk_that_says_it_has_a_parent_needs_a_locator() -> None:
    with pytest.raises(CorruptDisk, match="without a parent locator"):
        opened(with_items(items(bits=2)))


def test_a_disk_that_names_a_parent_and_says_it_has_none_is_refused() -> None:
    """One bit, which no checksum guards, would turn all the parent's bytes into zeros."""
    locator = gen.parent_locator([("parent_linkage", str(UUID(int=9))), ("relative_path", "p.vhdx")])
    child = [*items(bits=2), (gen.PARENT_LOCATOR, gen.REQUIRED, locator)]
    made = with_items(child)
    made.data[made.metadata + 65536 + 4] ^= 2  # HasParent, in the first item
    with pytest.raises(CorruptDisk, match="names a parent") as caught:
        opened(made)
    assert (caught.value.rule, caught.value.offset) == ("[MS-VHDX] 2.6.2.6", made.metadata)


def test_the_table_must_hold_the_whole_disk() -> None:
    made = gen.make_vhdx(disk_size=8 * gen.MIB, items=items(disk_size=64 * gen.TIB))
    with pytest.raises(CorruptDisk, match="too short"):
        opened(made)
