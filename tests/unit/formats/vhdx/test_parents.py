"""Differencing disks: who holds a sector, and whether the parent is the right one."""

import random
import struct
import tracemalloc
from collections.abc import Iterator
from uuid import UUID

import pytest

from tests.generators import vhdx_bytes as gen
from vmkeep.formats.disk import Disk, DiskProfile, Finding, OwnSpan
from vmkeep.formats.errors import CorruptDisk, ParentMismatch, ParentMissing, TruncatedDisk, UnsupportedDisk
from vmkeep.formats.parents import FindParent, ParentReference, no_parents
from vmkeep.formats.source import BytesSource
from vmkeep.formats.vhdx import VhdxDisk, open_vhdx
from vmkeep.formats.vhdx.locator import parse_locator
from vmkeep.ranges import ByteRange

pytestmark = pytest.mark.quick

LINK, LINK2 = UUID(int=0xA11CE), UUID(int=0xB0B)
A, B, C = (random.Random(n).randbytes(gen.MIB) for n in range(3))
NOTHING = bytes(gen.MIB)


def linkage(guid: UUID = LINK) -> list[tuple[str, str]]:
    return [("parent_linkage", f"{{{guid}}}"), ("relative_path", r"..\base\parent.vhdx")]


def base(size: int = 4 * gen.MIB, sector: int = 512, guid: UUID = LINK) -> gen.Made:
    count = -(-size // gen.MIB)
    blocks = {n: gen.Block(gen.FULL, random.Random(100 + n).randbytes(gen.MIB)) for n in range(count)}
    return gen.make_vhdx(disk_size=size, sector=sector, blocks=blocks, write_guid=guid)


def child(blocks: dict[int, gen.Block], size: int = 4 * gen.MIB, sector: int = 512) -> gen.Made:
    return gen.make_vhdx(
        disk_size=size,
        sector=sector,
        blocks=blocks,
        has_parent=True,
        locator=linkage(),
        write_guid=LINK2,
        gaps=False,
    )


def opened(made: gen.Made, name: str = "child.avhdx", find_parent: FindParent = no_parents) -> VhdxDisk:
    return open_vhdx(BytesSource(made.data, name), find_parent)


def over(made: gen.Made, parent: gen.Made) -> VhdxDisk:
    return opened(made, find_parent=lambda reference: opened(parent, "parent.vhdx"))


def guest(made: gen.Made, size: int) -> bytes:
    return opened(made, "parent.vhdx").read_at(0, size)


def test_each_state_of_a_child() -> None:
    parent = base()
    below = guest(parent, 4 * gen.MIB)
    for state in (gen.ZERO, gen.UNDEFINED, gen.UNMAPPED):
        disk = over(
            child(
                {1: gen.Block(state, stale=True), 2: gen.Block(gen.FULL, A), 3: gen.Block(gen.NOT_PRESENT)}
            ),
            parent,
        )
        assert disk.read_at(0, 4 * gen.MIB) == below[: gen.MIB] + NOTHING + A + below[3 * gen.MIB :]
        assert list(disk.extents()) == [ByteRange(0, gen.MIB), ByteRange(2 * gen.MIB, 2 * gen.MIB)]
        assert list(disk.layer_extents()) == [ByteRange(gen.MIB, 2 * gen.MIB)]
        assert disk.profile.kind == "differencing"
        assert [layer.name for layer in disk.chain()] == ["child.avhdx", "parent.vhdx"]


@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize("density", [0.0, 0.01, 0.5, 1.0])
def test_the_bitmap_decides_sector_by_sector(sector: int, density: float) -> None:
    rng = random.Random(int(density * 100) + sector)
    count = gen.MIB // sector
    here = frozenset(s for s in range(count) if rng.random() < density)
    parent = base(sector=sector)
    expected = bytearray(guest(parent, 4 * gen.MIB))
    for s in here:
        expected[gen.MIB + s * sector : gen.MIB + (s + 1) * sector] = A[s * sector : (s + 1) * sector]
    disk = over(child({1: gen.Block(gen.PARTIAL, A, here)}, sector=sector), parent)
    assert disk.read_at(0, 4 * gen.MIB) == expected
    for _ in range(100):
        at = rng.randrange(4 * gen.MIB)
        length = rng.randrange(1, min(20_000, 4 * gen.MIB - at) + 1)
        assert disk.read_at(at, length) == expected[at : at + length]
    assert list(disk.extents()) == [ByteRange(0, 4 * gen.MIB)]
    mine = sum(r.length for r in disk.layer_extents())
    assert mine == len(here) * sector
    assert list(disk.check()) == []


def test_a_fully_present_block_never_looks_at_the_bitmap() -> None:
    made = child({0: gen.Block(gen.FULL, A), 1: gen.Block(gen.PARTIAL, B, frozenset({0}))})
    made.set_u64(made.bitmap_entry_at(0), 0)
    disk = over(made, base())
    assert disk.read_at(0, gen.MIB) == A
    with pytest.raises(CorruptDisk, match="bitmap is missing"):
        disk.read_at(gen.MIB, 512)
    with pytest.raises(CorruptDisk, match="bitmap is missing"):
        list(disk.extents())


def test_a_bitmap_beyond_the_end_is_an_error() -> None:
    made = child({1: gen.Block(gen.PARTIAL, B, frozenset({0}))})
    made.set_u64(made.bitmap_entry_at(0), len(made.data) | 6)
    with pytest.raises(TruncatedDisk):
        over(made, base()).read_at(gen.MIB, 512)


def test_only_what_is_needed_of_a_parent_must_be_sound() -> None:
    parent = base()
    below = guest(parent, 4 * gen.MIB)
    parent.set_u64(parent.entry_at(1), (1 << 50) | gen.FULL)
    here = frozenset(range(2048))
    disk = over(child({1: gen.Block(gen.PARTIAL, A, here)}), parent)
    assert disk.read_at(0, 2 * gen.MIB) == below[: gen.MIB] + A
    scattered = over(child({1: gen.Block(gen.PARTIAL, A, here - {7, 9})}), parent)
    assert scattered.read_at(gen.MIB + 8 * 512, 512) == A[8 * 512 : 9 * 512]
    with pytest.raises(TruncatedDisk):
        scattered.read_at(gen.MIB, 8192)


@pytest.mark.parametrize("sector", [512, 4096])
def test_a_shorter_parent_ends_in_zeros_and_a_longer_one_is_cut(sector: int) -> None:
    here = frozenset({0, 3})
    made = child({1: gen.Block(gen.PARTIAL, A, here)}, size=3 * gen.MIB, sector=sector)
    for parent_size in (sector, gen.MIB + 2 * sector, gen.MIB, 3 * gen.MIB, 7 * gen.MIB):
        parent = base(size=parent_size, sector=sector)
        expected = bytearray(guest(parent, parent_size)[: 3 * gen.MIB].ljust(3 * gen.MIB, b"\0"))
        for s in here:
            expected[gen.MIB + s * sector : gen.MIB + (s + 1) * sector] = A[s * sector : (s + 1) * sector]
        disk = over(made, parent)
        assert disk.read_at(0, 3 * gen.MIB) == expected
        covered = bytearray(expected)
        for r in disk.extents():
            covered[r.offset : r.end] = bytes(r.length)
        assert not any(covered)


def test_a_chain_of_four_files() -> None:
    guids = [UUID(int=n + 1) for n in range(4)]
    layers = [base(guid=guids[0])] + [
        gen.make_vhdx(
            disk_size=4 * gen.MIB,
            blocks={n: gen.Block(gen.FULL, bytes([n]) * gen.MIB)},
            has_parent=True,
            locator=linkage(guids[n - 1]),
            write_guid=guids[n],
        )
        for n in range(1, 4)
    ]

    def find(reference: ParentReference) -> Disk:
        n = guids.index(reference.identities[0])
        return opened(layers[n], f"layer{n}", find)

    disk = opened(layers[3], "layer3", find)
    below = guest(layers[0], gen.MIB)
    assert disk.read_at(0, 4 * gen.MIB) == below + b"".join(bytes([n]) * gen.MIB for n in (1, 2, 3))
    before = disk.identity()
    layers[0].put(64 * gen.KIB, gen.header(99, data_write=guids[0]))
    assert disk.identity() != before


def test_either_linkage_may_match() -> None:
    made = gen.make_vhdx(
        disk_size=gen.MIB,
        has_parent=True,
        locator=[
            ("absolute_win32_path", "\\\\?\\C:\\b\\parent.vhdx"),
            ("parent_linkage2", str(LINK2).upper()),
            ("parent_linkage", f"{{{str(LINK).upper()}}}"),
        ],
    )
    for guid in (LINK, LINK2):
        assert over(made, base(guid=guid)).parent is not None
    with pytest.raises(ParentMismatch):
        over(made, base(guid=UUID(int=5)))


def test_a_null_second_linkage_is_nobodys_identity() -> None:
    # So Hyper-V is said to write it while nothing is merged: it must not let in a file without identity.
    made = gen.make_vhdx(
        disk_size=gen.MIB,
        has_parent=True,
        locator=[
            ("relative_path", ".\\parent.vhdx"),
            ("absolute_win32_path", "C:\\b\\parent.vhdx"),
            ("parent_linkage2", "{00000000-0000-0000-0000-000000000000}"),
            ("parent_linkage", f"{{{LINK}}}"),
        ],
    )
    assert over(made, base(guid=LINK)).parent is not None
    with pytest.raises(ParentMismatch):
        over(made, base(guid=UUID(int=0)))


NULL = "{00000000-0000-0000-0000-000000000000}"


def test_a_null_linkage_names_no_parent() -> None:
    paths = [("relative_path", ".\\parent.vhdx")]
    for linkages in (
        [("parent_linkage", NULL)],
        [("parent_linkage", NULL), ("parent_linkage2", NULL)],
    ):
        made = gen.make_vhdx(disk_size=gen.MIB, has_parent=True, locator=[*paths, *linkages])
        with pytest.raises(CorruptDisk, match="does not say which parent"):
            over(made, base(guid=UUID(int=0)))
    second = [("parent_linkage", NULL), ("parent_linkage2", str(LINK2))]
    made = gen.make_vhdx(disk_size=gen.MIB, has_parent=True, locator=[*paths, *second])
    assert over(made, base(guid=LINK2)).parent is not None
    with pytest.raises(ParentMismatch):
        over(made, base(guid=UUID(int=0)))


class Watched(BytesSource):
    """A source that remembers having been closed."""

    closed = False

    def close(self) -> None:
        self.closed = True


def test_a_written_parent_is_refused_and_closed() -> None:
    watched = Watched(base(guid=UUID(int=5)).data, "parent.vhdx")
    with pytest.raises(ParentMismatch, match=r"parent\.vhdx"):
        opened(child({}), find_parent=lambda reference: open_vhdx(watched, no_parents))
    assert watched.closed


def test_closing_a_child_closes_its_parents() -> None:
    lower, upper = Watched(base().data), Watched(child({}).data)
    disk = open_vhdx(upper, lambda reference: open_vhdx(lower, no_parents))
    disk.close()
    assert lower.closed
    assert upper.closed


def test_a_parent_with_other_sectors_is_refused() -> None:
    with pytest.raises(ParentMismatch, match="sectors"):
        over(child({}), base(sector=4096))


def test_an_incomplete_chain_shows_its_own_bytes_and_nothing_of_the_parent() -> None:
    blocks = {0: gen.Block(gen.FULL, A), 1: gen.Block(gen.PARTIAL, B, frozenset({2})), 2: gen.Block(gen.ZERO)}
    made = child(blocks)
    disk = open_vhdx(BytesSource(made.data, "child.avhdx"), no_parents, complete=False)
    assert (disk.profile.kind, disk.parent) == ("differencing", None)
    assert disk.read_at(0, gen.MIB) == A
    assert disk.read_at(gen.MIB + 1024, 512) == B[1024:1536]
    assert disk.read_at(2 * gen.MIB, gen.MIB) == NOTHING
    assert list(disk.layer_extents()) == [
        ByteRange(0, gen.MIB),
        ByteRange(gen.MIB + 1024, 512),
        ByteRange(2 * gen.MIB, gen.MIB),
    ]
    for at, length in ((gen.MIB, 512), (gen.MIB, gen.MIB), (3 * gen.MIB, 1), (0, 4 * gen.MIB)):
        with pytest.raises(ParentMissing, match=r"needs its parent 'parent\.vhdx'"):
            disk.read_at(at, length)
    with pytest.raises(ParentMissing):
        list(disk.extents())
    missing = disk.missing_parent()
    assert missing is not None and missing.identities == (LINK,)
    assert list(disk.check()) == []


def test_a_missing_parent_is_named_by_its_last_part_only() -> None:
    with pytest.raises(ParentMissing, match=r"needs its parent 'parent\.vhdx'"):
        opened(child({}))


def test_the_finder_is_told_the_paths_in_the_order_to_try() -> None:
    asked: list[ParentReference] = []

    def find(reference: ParentReference) -> None:
        asked.append(reference)

    made = gen.make_vhdx(
        disk_size=gen.MIB,
        has_parent=True,
        locator=[
            ("absolute_win32_path", "\\\\?\\C:\\vm\\p.vhdx"),
            ("volume_path", "\\\\?\\Volume{0}\\vm\\p.vhdx"),
            ("relative_path", ".\\q.vhdx"),
            ("something_else", "x"),
            ("parent_linkage", str(LINK)),
        ],
    )
    with pytest.raises(ParentMissing):
        opened(made, find_parent=find)
    assert asked == [
        ParentReference(
            child="child.avhdx",
            candidates=(".\\q.vhdx", "\\\\?\\Volume{0}\\vm\\p.vhdx", "\\\\?\\C:\\vm\\p.vhdx"),
            identities=(LINK,),
            required_format="vhdx",
            locators=(
                ("relative_path", ".\\q.vhdx"),
                ("volume_path", "\\\\?\\Volume{0}\\vm\\p.vhdx"),
                ("absolute_win32_path", "\\\\?\\C:\\vm\\p.vhdx"),
                ("parent_linkage", str(LINK)),
            ),
        )
    ]
    assert asked[0].base_names() == ("q.vhdx", "p.vhdx")


@pytest.mark.parametrize("path", ["..", "a\\..", "a/..", "\\\\server\\share\\", "."])
def test_a_path_without_a_last_part_gives_no_name(path: str) -> None:
    reference = ParentReference("c", (path, "x\\good.vhdx"), (LINK,), "vhdx")
    assert reference.base_names() == ("good.vhdx",)


class Flat(Disk):
    """A disk of another format."""

    def __init__(self) -> None:
        self.profile = DiskProfile("vhd", "fixed", 4 * gen.MIB)
        self.closed = False

    @property
    def name(self) -> str:
        return "parent.vhd"

    def read_into(self, offset: int, buffer: memoryview) -> None:
        raise AssertionError("a parent of another format must not be read")

    def extents(self, start: int = 0, end: int | None = None) -> Iterator[ByteRange]:
        yield from ()

    def layer_extents(self, start: int = 0, end: int | None = None) -> Iterator[ByteRange]:
        yield from ()

    def own_spans(self, wanted: list[ByteRange]) -> Iterator[OwnSpan]:
        yield from ()

    def identity(self) -> tuple[object, ...]:
        return ()

    def check(self) -> Iterator[Finding]:
        yield from ()

    def close(self) -> None:
        self.closed = True


def test_a_parent_of_another_format_is_refused() -> None:
    flat = Flat()
    with pytest.raises(UnsupportedDisk, match="not a VHDX"):
        opened(child({}), find_parent=lambda reference: flat)
    assert flat.closed


def with_locator(raw: bytes) -> gen.Made:
    items = gen.standard_items(
        disk_size=gen.MIB, block_size=gen.MIB, sector=512, physical=512, disk_id=LINK, bits=2
    )
    items.append((gen.PARENT_LOCATOR, gen.REQUIRED, raw))
    return gen.make_vhdx(disk_size=gen.MIB, has_parent=True, items=items)


GOOD = gen.parent_locator(linkage())


@pytest.mark.parametrize(
    "raw",
    [
        GOOD[:19],
        GOOD[:18] + struct.pack("<H", 65535) + GOOD[20:],
        gen.parent_locator([*linkage(), ("relative_path", "again")]),
        gen.parent_locator([("relative_path", "x")]),
        gen.parent_locator([("parent_linkage", str(LINK))]),
        gen.parent_locator([("parent_linkage", "{nonsense}"), ("relative_path", "x")]),
        gen.parent_locator([("parent_linkage", str(LINK)), ("relative_path", "a\0b")]),
        gen.parent_locator([("Parent_Linkage", str(LINK)), ("relative_path", "x")]),
        GOOD[:20] + struct.pack("<IIHH", 0, 60, 4, 4) + GOOD[32:],
        GOOD[:20] + struct.pack("<IIHH", 44, 2**32 - 1, 4, 4) + GOOD[32:],
        GOOD[:20] + struct.pack("<IIHH", 44, 60, 3, 4) + GOOD[32:],
        GOOD[:20] + struct.pack("<IIHH", 44, 60, 4, 0) + GOOD[32:],
        GOOD[:44] + b"\x00\xd8" * 8 + GOOD[60:],
    ],
    ids=[
        "cut",
        "absurd count",
        "doubled key",
        "no linkage",
        "no path",
        "linkage is no guid",
        "nul in a path",
        "keys are case sensitive",
        "key at zero",
        "value outside",
        "odd length",
        "empty value",
        "half a surrogate",
    ],
)
def test_a_hostile_locator_is_refused(raw: bytes) -> None:
    with pytest.raises(CorruptDisk, match="reference to its parent"):
        opened(with_locator(raw))


def test_another_kind_of_locator_is_not_supported() -> None:
    raw = gen.parent_locator(linkage(), kind="11111111-2222-3333-4444-555555555555")
    with pytest.raises(UnsupportedDisk, match="not a VHDX"):
        opened(with_locator(raw))


def test_texts_of_a_locator_do_not_come_to_more_than_it_has() -> None:
    """Ten thousand entries name one stretch of text each in its own length: half a GiB of it."""
    count, text = 10_000, "abcdefgh" * 4096
    head = gen.raw_guid(gen.LOCATOR_TYPE) + struct.pack("<HH", 0, count)
    start = len(head) + 12 * count
    body = b"".join(struct.pack("<IIHH", start + 2 * n, start, 40_000, 60_000) for n in range(count))
    data = head + body + text.encode("utf-16-le")
    tracemalloc.start()
    with pytest.raises(CorruptDisk, match="texts"):
        parse_locator(data, "child.avhdx")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2 * gen.MIB
