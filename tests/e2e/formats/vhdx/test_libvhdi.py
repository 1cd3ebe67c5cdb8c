"""libvhdi as an independent witness where qemu refuses: 4 KiB sectors.

It is known to be wrong for ZERO blocks and absent bitmaps in a child and for
pending logs, so it is asked about none of these.
"""

import random
from pathlib import Path

import pytest
import pyvhdi

from tests.generators import vhdx_bytes as gen
from vmkeep.formats.disk import DiskProfile, Kind
from vmkeep.formats.parents import ParentReference, no_parents
from vmkeep.formats.source import FileSource
from vmkeep.formats.vhdx import VhdxDisk, create_vhdx, open_vhdx

SIZE = 9 * gen.MIB + 5 * 4096


def by_libvhdi(path: Path, parent: Path | None = None) -> bytes:
    files = []
    for name in (path, parent):
        if name is not None:
            file = pyvhdi.file()
            file.open(str(name))
            files.append(file)
    if parent is not None:
        files[0].set_parent(files[1])
    content: bytes = files[0].read_buffer_at_offset(files[0].get_media_size(), 0)
    for file in files:
        file.close()
    return content


@pytest.mark.parametrize("kind", ["dynamic", "fixed"])
@pytest.mark.parametrize("sector", [512, 4096])
def test_libvhdi_reads_what_we_wrote(tmp_path: Path, kind: Kind, sector: int) -> None:
    rng = random.Random(sector)
    path = tmp_path / "disk.vhdx"
    model = bytearray(SIZE)
    profile = DiskProfile(
        "vhdx", kind, SIZE, logical_sector=sector, physical_sector=4096, block_size=2 * gen.MIB
    )
    writer = create_vhdx(path, profile)
    for _ in range(6):
        at = rng.randrange(SIZE)
        piece = rng.randbytes(min(gen.MIB, SIZE - at))
        model[at : at + len(piece)] = piece
        writer.write_at(at, piece)
    writer.finish()
    assert by_libvhdi(path) == model


@pytest.mark.parametrize("sector", [512, 4096])
def test_we_read_a_chain_like_libvhdi(tmp_path: Path, sector: int) -> None:
    rng = random.Random(sector + 1)
    size = 6 * gen.MIB
    base, child = tmp_path / "base.vhdx", tmp_path / "child.avhdx"
    data = {n: gen.Block(gen.FULL, rng.randbytes(gen.MIB)) for n in range(6)}
    base.write_bytes(gen.make_vhdx(disk_size=size, sector=sector, blocks=data).data)
    per_block = gen.MIB // sector
    # libvhdi takes bits of one byte for each other unless runs are byte aligned.
    runs = frozenset(s for a in range(0, per_block, 64) for s in range(a, a + 8 * rng.randrange(1, 8)))
    blocks = {
        1: gen.Block(gen.PARTIAL, rng.randbytes(gen.MIB), runs),
        2: gen.Block(gen.FULL, rng.randbytes(gen.MIB)),
        4: gen.Block(gen.PARTIAL, rng.randbytes(gen.MIB), frozenset(range(per_block // 2))),
    }
    locator = [("parent_linkage", "{" + str(gen.DATA_GUID) + "}"), ("relative_path", ".\\base.vhdx")]
    made = gen.make_vhdx(disk_size=size, sector=sector, blocks=blocks, has_parent=True, locator=locator)
    child.write_bytes(made.data)

    def find(reference: ParentReference) -> VhdxDisk:
        assert reference.base_names() == ("base.vhdx",)
        return open_vhdx(FileSource(base), no_parents)

    with open_vhdx(FileSource(child), find) as disk:
        assert disk.read_at(0, size) == by_libvhdi(child, base)
