"""Differencing chains, written byte by byte from [MS-VHDX]: the guest's view is what is kept."""

import random
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest

from tests.e2e.command import Vmkeep
from tests.e2e.disks import MIB, vhdx_properties
from tests.generators import vhdx_bytes as gen

SIZE: Final = 5 * MIB
BASE_GUID, CHILD_GUID, LEAF_GUID = UUID(int=0xBA5E), UUID(int=0xC41D), UUID(int=0x1EAF)
DISK_ID: Final = UUID("6d0b5c9e-1111-4222-8333-0123456789ab")


def locator(parent: str, guid: UUID) -> list[tuple[str, str]]:
    return [
        ("parent_linkage", "{" + str(guid) + "}"),
        ("relative_path", ".\\" + parent),
        ("absolute_win32_path", "C:\\VMs\\web\\" + parent),
    ]


class Chain:
    """Three files and what a guest sees of the uppermost."""

    def __init__(self, folder: Path, seed: int) -> None:
        rng = random.Random(seed)
        self.base = folder / "web.vhdx"
        self.child = folder / "web_6D0B.avhdx"
        self.leaf = folder / "web_9F31.avhdx"
        base = {n: rng.randbytes(MIB) for n in (0, 1, 3)}
        over, sectors = rng.randbytes(MIB), frozenset(rng.sample(range(2048), 700))
        top, top_sectors = rng.randbytes(MIB), frozenset(rng.sample(range(2048), 9))
        whole = rng.randbytes(MIB)
        self._write(self.base, {n: gen.Block(gen.FULL, data) for n, data in base.items()}, BASE_GUID, None)
        self._write(
            self.child,
            {1: gen.Block(gen.PARTIAL, over, sectors), 2: gen.Block(gen.FULL, whole), 3: gen.Block(gen.ZERO)},
            CHILD_GUID,
            locator(self.base.name, BASE_GUID),
        )
        self._write(
            self.leaf,
            {1: gen.Block(gen.PARTIAL, top, top_sectors)},
            LEAF_GUID,
            locator(self.child.name, CHILD_GUID),
        )
        mixed = bytearray(base[1])
        for data, here in ((over, sectors), (top, top_sectors)):
            for s in here:
                mixed[s * 512 : s * 512 + 512] = data[s * 512 : s * 512 + 512]
        self.guest_view = base[0] + bytes(mixed) + whole + bytes(MIB) + bytes(MIB)
        self.base_view = base[0] + base[1] + bytes(MIB) + base[3] + bytes(MIB)

    @staticmethod
    def _write(
        path: Path, blocks: dict[int, gen.Block], guid: UUID, parent: list[tuple[str, str]] | None
    ) -> None:
        made = gen.make_vhdx(
            disk_size=SIZE,
            blocks=blocks,
            write_guid=guid,
            has_parent=parent is not None,
            locator=parent,
            disk_id=DISK_ID,
            physical=512,
        )
        path.write_bytes(made.data)


@pytest.fixture
def chain(tmp_path: Path, seed: int) -> Chain:
    folder = tmp_path / "web"
    folder.mkdir()
    return Chain(folder, seed)


@pytest.mark.parametrize("kind", ["folder", "disk"])
def test_the_leaf_s_view_is_kept_under_the_name_of_its_disk(
    vmkeep: Vmkeep, chain: Chain, tmp_path: Path, kind: str
) -> None:
    source = chain.leaf.parent if kind == "folder" else chain.leaf
    summary = vmkeep.backup(f"{kind}:{source}")
    reasons = {reason["code"]: reason["fact"] for reason in summary["reasons"]}
    assert "web.vhdx" in reasons["layers-merged"]
    point: Any = vmkeep.points()[0]
    assert point["disks"] == [{"name": "web", "size": SIZE}]
    assert vmkeep.restore_raw("latest") == chain.guest_view
    vmkeep.ok("restore", "latest", "--to", tmp_path / "back")
    restored = tmp_path / "back" / "web.vhdx"
    kept = vhdx_properties(restored)
    assert (kept.kind, kept.size, kept.disk_id, kept.block_size) == ("dynamic", SIZE, DISK_ID, MIB)
    assert vmkeep.ok("disk", "compare", restored, chain.leaf).code == 0


def test_a_base_taken_alone_is_the_base(vmkeep: Vmkeep, chain: Chain) -> None:
    vmkeep.backup(f"disk:{chain.base}")
    assert vmkeep.restore_raw("latest") == chain.base_view


def test_a_new_layer_is_an_increment(vmkeep: Vmkeep, chain: Chain, tmp_path: Path) -> None:
    chain.leaf.rename(tmp_path / "later")
    chain.child.rename(tmp_path / "later-still")
    first = vmkeep.backup(f"folder:{chain.base.parent}")
    (tmp_path / "later").rename(chain.leaf)
    (tmp_path / "later-still").rename(chain.child)
    second = vmkeep.backup(f"folder:{chain.base.parent}")
    assert (second["parent"], second["vm_id"]) == (first["id"], first["vm_id"])
    assert second["bytes_stored"] < 2 * MIB + 64 * 1024  # one block written whole, one mixed
    assert vmkeep.restore_raw(first["id"]) == chain.base_view
    assert vmkeep.restore_raw(second["id"]) == chain.guest_view


def test_two_leaves_of_one_base_are_two_disks(vmkeep: Vmkeep, chain: Chain) -> None:
    other = chain.leaf.with_name("web_AAAA.avhdx")
    Chain._write(other, {}, UUID(int=0xAAAA), locator(chain.base.name, BASE_GUID))
    vmkeep.backup(f"folder:{chain.leaf.parent}")
    disks = vmkeep.points()[0]["disks"]
    assert len(disks) == len({disk["name"] for disk in disks}) == 2
    views = {vmkeep.restore_raw("latest", "--disk", str(n)) for n in range(2)}
    assert views == {chain.guest_view, chain.base_view}


def test_a_chain_without_its_parent_is_refused(vmkeep: Vmkeep, chain: Chain, tmp_path: Path) -> None:
    chain.base.rename(tmp_path / "web.vhdx")  # one folder up: outside what may be read
    for source in (f"folder:{chain.leaf.parent}", f"disk:{chain.leaf}"):
        refused = vmkeep.fails(1, "backup", source, says="web.vhdx")
        assert "same folder" in refused.err
    assert vmkeep.points() == []


def test_a_parent_of_another_identity_is_refused(vmkeep: Vmkeep, chain: Chain) -> None:
    stranger = UUID(int=0xBAD)
    Chain._write(chain.base, {}, stranger, None)
    vmkeep.fails(14, "backup", f"folder:{chain.leaf.parent}", says="web")
    vmkeep.fails(14, "backup", f"disk:{chain.leaf}", says="web")
    assert vmkeep.points() == []


def test_a_chain_that_bites_its_tail_is_refused(vmkeep: Vmkeep, chain: Chain) -> None:
    Chain._write(chain.base, {}, BASE_GUID, locator(chain.leaf.name, LEAF_GUID))
    vmkeep.fails(14, "backup", f"disk:{chain.leaf}", says="child already")
    vmkeep.fails(14, "backup", f"folder:{chain.leaf.parent}", says="child already")
    assert vmkeep.points() == []


def test_a_locator_leads_to_no_file_outside_the_folder(vmkeep: Vmkeep, chain: Chain, tmp_path: Path) -> None:
    outside = tmp_path / "web.vhdx"
    chain.base.rename(outside)
    for path in ("..\\web.vhdx", str(outside), "..\\..\\..\\..\\etc\\passwd", "\\\\host\\share\\web.vhdx"):
        pairs = [("parent_linkage", "{" + str(BASE_GUID) + "}"), ("relative_path", path)]
        Chain._write(chain.child, {}, CHILD_GUID, pairs)
        vmkeep.fails(1, "backup", f"disk:{chain.child}", says="parent")
